import keras
from keras import layers

import fbs_keras


def test_summary_is_this_table(capsys):
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            fbs_keras.FBSConv2D(64, 3, name="first", density=0.5),
            fbs_keras.FBSConv2D(128, 3, strides=2, name="second", density=0.25),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, name="logits"),
        ],
        name="small",
    )
    fbs_keras.summary(model)
    assert capsys.readouterr().out == SNAPSHOT


SNAPSHOT = """\
Model 'small'
---------------------------------------------------------------------
layer      output  channels  dense MACs  FBS MACs  saving  parameters
---------------------------------------------------------------------
first    30x30x64     32/64      1.56 M    0.84 M   1.86x       2,048
second  14x14x128    32/128     14.45 M    1.84 M   7.87x      82,176
logits         10        10      0.00 M    0.00 M   1.00x       1,290
---------------------------------------------------------------------
total                           16.01 M    2.67 M   5.99x      85,514
---------------------------------------------------------------------
Peak activation memory, one image: dense 0.32 MiB, FBS 0.13 MiB (2.35x less)
"""
