import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from fbs_keras.graph.channelwise import (
    is_channelwise,
    moves_zero,
    passes_apart,
    passes_channels,
    passes_scale,
    scales_channels,
    treats_elements_apart,
)


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
        (layers.MaxPooling2D(data_format="channels_first"), False, False),  # over the channels
        (layers.ZeroPadding2D(data_format="channels_first"), False, False),
        (layers.GlobalAveragePooling2D(data_format="channels_first"), False, False),
        (layers.DepthwiseConv2D(3, use_bias=False, data_format="channels_first"), False, False),
        (layers.Activation("log_softmax"), False, False),  # keeps a single zero
        (layers.Activation("glu"), False, False),
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
        (layers.ReLU(max_value=1000.0), False),
        (layers.ReLU(threshold=1.0), False),
        (layers.ReLU(negative_slope=0.1), True),
        (layers.Activation(lambda x: ops.minimum(x, 1000.0)), False),
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


_CALLS = []


def _counting(x):
    _CALLS.append(x)
    return x * float(len(_CALLS))


# Whether a function is Keras's own and of single elements; computes some channels without the zeros of others; keeps
# the scale of each image's channel.
ACTIVATIONS = {
    "relu": (keras.activations.relu, True, True, True),
    "ops.relu": (ops.relu, True, True, True),
    "relu6": (keras.activations.get("relu6"), True, True, False),
    "sigmoid": (keras.activations.sigmoid, True, False, False),
    "hard_sigmoid": (keras.activations.hard_sigmoid, True, False, False),
    "hard_shrink": (keras.activations.get("hard_shrink"), True, True, False),
    "softmax": (keras.activations.softmax, False, False, False),
    "log_softmax": (keras.activations.log_softmax, False, False, False),
    "glu": (keras.activations.glu, False, False, False),
    "softmax of rows": (functools.partial(keras.activations.softmax, axis=1), False, False, False),
    "ReLU": (layers.ReLU(), True, True, True),
    "ReLU(threshold)": (layers.ReLU(threshold=1.0), True, True, False),
    "ReLU(threshold, slope)": (layers.ReLU(threshold=1.0, negative_slope=0.5), True, False, False),
    "Softmax": (layers.Softmax(), False, False, False),
    "PReLU": (layers.PReLU(), False, False, False),
    "Activation": (layers.Activation("log_softmax"), False, False, False),
    "own ReLU": (lambda x: ops.maximum(x, 0.1 * x), False, True, True),
    "own swish": (lambda x: x * ops.relu6(x + 3) / 6, False, True, False),
    "partial": (functools.partial(keras.activations.relu, max_value=3.0), False, True, False),
    "less the mean of channels": (lambda x: x - ops.mean(x, axis=-1, keepdims=True), False, False, False),
    "less the mean of pixels": (lambda x: x - ops.mean(x, axis=(1, 2), keepdims=True), False, True, True),
    "less the mean of images": (lambda x: x - ops.mean(x, axis=0, keepdims=True), False, True, False),
    "by the number of channels": (lambda x: x / x.shape[-1], False, False, True),
    "by the channel": (lambda x: x * np.arange(6, dtype="float32"), False, False, True),
    "by the other channels": (lambda x: x[..., ::-1], False, False, False),
    "far from zero": (lambda x: ops.minimum(x, 50.0), False, True, False),
    "near zero": (lambda x: ops.where(ops.abs(x) < 1e-3, 0.0 * x, x), False, True, False),
    "random": (lambda x: x * keras.random.uniform(ops.shape(x)), False, False, False),
    "stateful": (_counting, False, False, False),
    "not a number": (lambda x: x / ops.abs(x), False, False, False),
    "one channel": (lambda x: ops.max(x, axis=-1), False, False, False),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    activation, known, apart, scale = ACTIVATIONS[name]
    shape, kept = (None, 8, 8, 6), np.array([True, True, False, True, False, True])
    if isinstance(activation, layers.PReLU):
        activation.build(shape)
    assert treats_elements_apart(activation) is known
    assert passes_apart(activation, shape, kept) is apart
    assert passes_scale(activation, shape) is scale


def test_activations_of_channels_first():
    kept = np.array([True, False, True])
    assert passes_apart(lambda x: x - ops.mean(x, axis=-1, keepdims=True), (None, 3, 8, 8), kept, 1)
    assert not passes_apart(lambda x: x - ops.mean(x, axis=1, keepdims=True), (None, 3, 8, 8), kept, 1)
    assert not passes_scale(lambda x: x - ops.mean(x, axis=1, keepdims=True), (None, 3, 8, 8), 1)


def test_channels_first():
    pooling = layers.MaxPooling2D(data_format="channels_first")
    assert passes_channels(pooling, (None, 4, 8, 8), channel_axis=1)
    assert not passes_channels(layers.MaxPooling2D(), (None, 4, 8, 8), channel_axis=1)
    assert passes_channels(layers.Flatten(), (None, 4, 1, 1), channel_axis=1)


def test_an_operation_of_another_library_is_not_known_by_its_name():
    class Relu(keras.Operation):
        def call(self, x):
            return ops.softmax(x)

        def compute_output_spec(self, x):
            return x

    assert not is_channelwise(Relu(), (None, 8, 8, 4))


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
