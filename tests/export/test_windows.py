"""Every op with a window, over kernel x stride x dilation x padding x size, as a converted file computes it."""

import itertools

import keras
import numpy as np
import pytest
import small_models
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter as Stock
from keras import layers
from test_lowering import padded

import fbs_keras
from fbs_keras.compact.ops.conv2d import Conv2DInt8Op, Conv2DOp
from fbs_keras.compact.ops.depthwise_conv2d import DepthwiseConv2DOp
from fbs_keras.export import convert, lowering
from fbs_keras.export.converter import to_tflite
from fbs_keras.export.lowering.depthwise_conv2d import depthwise_conv2d
from fbs_keras.runtime import Interpreter

KERNELS = [(3, 3), (1, 4), (5, 2)]
MOVES = [  # strides and dilations; an odd number of them, so that every second window has all of them
    *(((1, 1), (1, 1)), ((2, 2), (1, 1)), ((1, 2), (1, 1)), ((1, 1), (2, 2))),
    *(((2, 2), (2, 2)), ((2, 1), (1, 2)), ((1, 2), (1, 2)), ((3, 3), (2, 2)), ((2, 3), (3, 1))),
]
WINDOWS = [(kernel, *move, padding) for kernel, padding, move in itertools.product(KERNELS, ("SAME", "VALID"), MOVES)]
CHANNELS, FILTERS, ACTIVE = 5, 4, 3  # all channels, winners of a convolution, channels that the compact tensor holds


def windows(x, kernel, strides, dilations, padding):
    """What each output pixel reads, `[N, OH, OW, KH * KW, C]`."""
    axes = list(zip(x.shape[1:3], kernel, strides, dilations, strict=True))
    (height, top, bottom), (width, left, right) = (padded(*axis, padding) for axis in axes)
    x = np.pad(x, [(0, 0), (top, bottom), (left, right), (0, 0)])
    taps = [
        x[
            :,
            i * dilations[0] : i * dilations[0] + (height - 1) * strides[0] + 1 : strides[0],
            j * dilations[1] : j * dilations[1] + (width - 1) * strides[1] + 1 : strides[1],
        ]
        for i, j in np.ndindex(kernel)
    ]
    return np.stack(taps, 3)


def converted(function, *arrays):
    """A function's outputs as a converted file computes them, with XNNPACK, flattened to `[N, ...]`."""
    specs = [tf.TensorSpec(array.shape, array.dtype, f"input{i}") for i, array in enumerate(arrays)]

    def flat(*inputs):
        return (tf.concat([tf.reshape(y, (y.shape[0], -1)) for y in function(*inputs)], 1),)

    content = to_tflite(tf.function(flat, input_signature=specs, autograph=False).get_concrete_function())
    interpreter = Stock(model_content=content)
    interpreter.allocate_tensors()
    for details, array in zip(interpreter.get_input_details(), arrays, strict=True):
        interpreter.set_tensor(details["index"], array)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def assert_equal(flat, expected):
    """Compares what `converted` returns with arrays `[N, ...]` by window."""
    for window, want in expected.items():
        got, flat = flat[:, : want[0].size], flat[:, want[0].size :]
        np.testing.assert_allclose(got.reshape(want.shape), want, rtol=0, atol=1e-4, err_msg=str(window))
    assert flat.shape[1] == 0


def problem(size, batch):
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, *size, ACTIVE)).astype("float32")
    indices = np.stack([random.permutation(CHANNELS)[:ACTIVE] for _ in range(batch)]).astype("int32")
    kernels = {kernel: random.standard_normal((CHANNELS, np.prod(kernel), FILTERS)) for kernel in KERNELS}
    return x, indices, {kernel: weights.astype("float32") for kernel, weights in kernels.items()}


@pytest.mark.parametrize(("size", "batch", "first"), [((9, 12), 1, 0), ((10, 7), 2, 1)])
def test_depthwise(size, batch, first):
    x, indices, weights = problem(size, batch)
    cases = [window for window in WINDOWS[first::2] if _fits(window, size)]

    def function(x, indices):
        return [
            depthwise_conv2d(
                DepthwiseConv2DOp(*kernel, *strides, *dilations, padding, "NONE"),
                x,
                indices,
                tf.constant(weights[kernel][..., 0]),
                tf.zeros(CHANNELS),
            )
            for kernel, strides, dilations, padding in cases
        ]

    expected = {
        window: np.einsum("nhwkc,nck->nhwc", windows(x, *window), weights[window[0]][indices][..., 0])
        for window in cases
    }
    assert_equal(converted(function, x, indices), expected)


@pytest.mark.parametrize("op", [Conv2DOp, Conv2DInt8Op])
def test_conv2d(op):
    size = (10, 7)
    x, indices, weights = problem(size, 2)
    gate = np.zeros((CHANNELS, FILTERS), "float32"), np.ones(FILTERS, "float32")
    cases = [window for window in WINDOWS if _fits(window, size)][::4]
    stored, scales = weights, []
    if op is Conv2DInt8Op:
        stored = {kernel: np.rint(20 * each).astype("int8") for kernel, each in weights.items()}
        scales = [np.full(FILTERS, 0.05, "float32")]
    constants = [*scales, np.zeros(FILTERS, "float32"), *gate]

    def function(x, indices):
        return [
            lowering.compute(
                op(True, FILTERS, 1, *kernel, *strides, *dilations, padding, "NONE"),
                x,
                indices,
                *map(tf.constant, (stored[kernel], *constants)),
            )[0]
            for kernel, strides, dilations, padding in cases
        ]

    scale = 0.05 if scales else 1.0
    expected = {
        window: np.einsum("nhwkc,nckf->nhwf", windows(x, *window), scale * stored[window[0]][indices])
        for window in cases
    }
    assert_equal(converted(function, x, indices), expected)


def _fits(window, size):
    kernel, _, dilations, padding = window
    return padding == "SAME" or all(
        (taps - 1) * dilation < length for taps, dilation, length in zip(kernel, dilations, size, strict=True)
    )


def _layers_with(windows):
    """Keras's layers that are not ours to lower, `(name, layer)`, as far as Keras takes the settings."""
    for kernel, strides, dilations, padding in windows:
        settings = {"kernel_size": kernel, "strides": strides, "padding": padding.lower(), "dilation_rate": dilations}
        both = max(strides) > 1 and max(dilations) > 1
        if not both:
            yield "Conv2D", layers.Conv2D(2, **settings)
        if strides[0] == strides[1]:  # TensorFlow's kernel for CPUs knows no other
            yield "DepthwiseConv2D", layers.DepthwiseConv2D(**settings)
            yield "SeparableConv2D", layers.SeparableConv2D(2, **settings)
        if max(dilations) == 1:  # TensorFlow's transposed convolution on CPUs knows no other
            yield "Conv2DTranspose", layers.Conv2DTranspose(2, **settings)
            yield "MaxPooling2D", layers.MaxPooling2D(kernel, strides, padding.lower())
            yield "AveragePooling2D", layers.AveragePooling2D(kernel, strides, padding.lower())


@pytest.mark.parametrize(("size", "first"), [((9, 12), 0), ((10, 7), 1)])
def test_layers_of_keras(size, first):
    keras.utils.set_random_seed(0)
    image = keras.Input((*size, 3))
    names, outputs = [], []
    for name, layer in _layers_with(WINDOWS[first::2]):
        kernel = getattr(layer, "kernel_size", getattr(layer, "pool_size", None))
        window = (kernel, layer.strides, getattr(layer, "dilation_rate", (1, 1)), layer.padding.upper())
        if _fits(window, size):
            names.append((name, window))
            outputs.append(layer(image))
    model = keras.Model(image, outputs)
    x = small_models.noise(model, 2)
    expected = small_models.expected(model, x)
    got = Interpreter(convert(model, target="builtin"), use_delegate=False).predict(x)
    for name, a, b in zip(names, got, expected, strict=True):
        assert a.shape == b.shape, name
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max(), err_msg=str(name))


@pytest.mark.parametrize("size", [(10, 11), (10, 10)])
def test_strides_and_dilation_behind_an_fbs_layer(size):
    keras.utils.set_random_seed(0)
    image = keras.Input((*size, 3))
    x = fbs_keras.FBSConv2D(8, 3, padding="same", density=0.5)(image)
    settings = {"strides": 2, "dilation_rate": 2, "use_bias": False}
    outputs = [
        layers.DepthwiseConv2D(3, padding="same", **settings)(x),
        layers.DepthwiseConv2D((2, 3), padding="valid", **settings)(layers.ZeroPadding2D(1)(x)),
        layers.SeparableConv2D(4, 3, padding="same", **settings)(x),
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, **settings)(x),
    ]
    model = keras.Model(image, [fbs_keras.FBSConv2D(6, 1, density=0.5)(outputs[0]), *outputs])
    x = small_models.noise(model, 2)
    expected = small_models.expected(model, x)
    content = convert(model)
    for use_delegate in (True, False):
        got = Interpreter(content, use_delegate=use_delegate).predict(x)
        for a, b in zip(got, expected, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
