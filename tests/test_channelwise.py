import keras
import pytest
from keras import layers

from fbs_keras.channelwise import is_channelwise, moves_zero, passes_channels, scales_channels


# Whether a layer computes a channel from that channel alone, and zero from zero.
@pytest.mark.parametrize(
    ("layer", "channelwise", "keeps"),
    [
        (layers.MaxPooling2D(), True, True),
        (layers.GlobalAveragePooling2D(), True, True),
        (layers.ZeroPadding2D(), True, True),
        (layers.Dropout(0.5), True, True),
        (layers.ReLU(), True, True),
        (layers.ReLU(6.0), True, True),
        (layers.ReLU(threshold=1.0, negative_slope=0.5), True, False),
        (layers.LeakyReLU(), True, True),
        (layers.Activation("gelu"), True, True),
        (layers.Activation("sigmoid"), True, False),
        (layers.Activation("softplus"), True, False),
        (layers.Activation("softmax"), False, False),
        (layers.Softmax(), False, False),
        (layers.Rescaling(0.5), True, True),
        (layers.Rescaling(0.5, offset=1.0), True, False),
        (layers.Rescaling([0.5, 1, 2, 3]), False, False),
        (layers.BatchNormalization(), True, False),
        (layers.BatchNormalization(axis=1), False, False),
        (layers.LayerNormalization(), False, False),
        (layers.DepthwiseConv2D(3, use_bias=False), True, True),
        (layers.DepthwiseConv2D(3), True, False),
        (layers.DepthwiseConv2D(3, use_bias=False, activation="relu"), True, True),
        (layers.DepthwiseConv2D(3, use_bias=False, activation="sigmoid"), True, False),
        (layers.DepthwiseConv2D(3, use_bias=False, depth_multiplier=2), False, False),
        (layers.Dense(3), False, False),
        (layers.Conv2D(3, 3), False, False),
        (layers.Flatten(), False, False),
        (type("MyPooling", (layers.MaxPooling2D,), {})(2), False, False),
        (layers.Activation(lambda x: x * 2), False, False),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_passes_channels(layer, channelwise, keeps):
    shape = (None, 8, 8, 4)
    assert is_channelwise(layer, shape) is channelwise
    assert passes_channels(layer, shape) is keeps
    if channelwise:  # as the layer does with zeros, once its weights are random
        assert moves_zero(layer) is not keeps
        layer.build((1, 8, 8, 4))
        for weight in layer.trainable_weights:
            weight.assign(keras.random.normal(weight.shape))
        assert (not keras.ops.convert_to_numpy(layer(keras.ops.zeros((1, 8, 8, 4)))).any()) is keeps


@pytest.mark.parametrize(
    ("layer", "scales"),
    [
        (layers.MaxPooling2D(), True),
        (layers.Dropout(0.5), True),
        (layers.ReLU(), True),
        (layers.LeakyReLU(), True),
        (layers.Activation("relu"), True),
        (layers.ReLU(6.0), False),
        (layers.Activation("gelu"), False),
        (layers.Activation("tanh"), False),
        (layers.ELU(), False),
        (layers.BatchNormalization(), False),
        (layers.Rescaling(0.5), True),
        (layers.Rescaling(0.5, offset=1.0), False),
        (layers.DepthwiseConv2D(3), False),
        (layers.Dense(4), False),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_scales_channels(layer, scales):
    x, u = keras.random.normal((2, 8, 8, 4), seed=0) * 3, keras.ops.array([0.5, 1.0, 2.0, 8.0])
    assert scales_channels(layer, x.shape) is scales
    if scales:
        difference = layer(u * x) - u * layer(x)
        assert float(keras.ops.max(keras.ops.abs(difference))) < 1e-5


def test_the_channels_of_a_batch_norm_may_come_first():
    norm = layers.BatchNormalization(axis=1)
    assert is_channelwise(norm, (None, 4, 8, 8), channel_axis=1)
    assert is_channelwise(norm, (None, 4), channel_axis=1)
    assert not is_channelwise(norm, (None, 8, 8, 4))


def test_flattening_a_1x1_map_passes_channels():
    assert passes_channels(layers.Flatten(), (None, 1, 1, 4))


def test_operations():
    x = keras.Input((8, 8, 4))
    for function, expected in ((keras.ops.relu6, True), (keras.ops.silu, True), (keras.ops.softmax, False)):
        operation = function(x)._keras_history.operation
        assert passes_channels(operation, x.shape) is expected


def test_passing_layers_keep_a_zero_channel_zero():
    x = keras.ops.concatenate([keras.random.normal((1, 6, 6, 2)), keras.ops.zeros((1, 6, 6, 1))], axis=-1)
    for layer in (layers.AveragePooling2D(2), layers.UpSampling2D(), layers.Activation("tanh"), layers.ELU()):
        assert passes_channels(layer, (1, 6, 6, 3))
        assert not keras.ops.convert_to_numpy(layer(x))[..., 2].any()
