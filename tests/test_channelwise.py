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
        (type("MyPooling", (layers.MaxPooling2D,), {})(2), False),
        (layers.Activation(lambda x: x * 2), False),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_passes_channels(layer, expected):
    assert passes_channels(layer, (None, 8, 8, 4)) is expected


def test_flattening_a_1x1_map_passes_channels():
    assert passes_channels(layers.Flatten(), (None, 1, 1, 4))


def test_passing_layers_keep_a_zero_channel_zero():
    x = keras.ops.concatenate([keras.random.normal((1, 6, 6, 2)), keras.ops.zeros((1, 6, 6, 1))], axis=-1)
    for layer in (layers.AveragePooling2D(2), layers.UpSampling2D(), layers.Activation("tanh"), layers.ELU()):
        assert passes_channels(layer, (1, 6, 6, 3))
        assert not keras.ops.convert_to_numpy(layer(x))[..., 2].any()
