import keras
import pytest
from keras import layers

from fbs_keras.channelwise import passes_channels


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (layers.MaxPooling2D(), True),
        (layers.GlobalAveragePooling2D(), True),
        (layers.ZeroPadding2D(), True),
        (layers.Dropout(0.5), True),
        (layers.ReLU(), True),
        (layers.ReLU(6.0), True),
        (layers.LeakyReLU(), True),
        (layers.Activation("gelu"), True),
        (layers.Activation("sigmoid"), False),
        (layers.Activation("softmax"), False),
        (layers.Softmax(), False),
        (layers.BatchNormalization(), False),
        (layers.Dense(3), False),
        (layers.Conv2D(3, 3), False),
        (layers.Flatten(), False),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_passes_channels(layer, expected):
    assert passes_channels(layer) is expected


def test_passing_layers_keep_a_zero_channel_zero():
    x = keras.ops.concatenate([keras.random.normal((1, 6, 6, 2)), keras.ops.zeros((1, 6, 6, 1))], axis=-1)
    for layer in (layers.AveragePooling2D(2), layers.UpSampling2D(), layers.Activation("tanh"), layers.ELU()):
        assert passes_channels(layer)
        assert not keras.ops.convert_to_numpy(layer(x))[..., 2].any()
