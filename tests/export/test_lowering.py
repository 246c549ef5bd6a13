"""Tests of fbs_keras/export/lowering against the equations of docs/design.md, in NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from fbs_keras.compact.ops.add import AddOp
from fbs_keras.compact.ops.conv2d import Conv2DInt8Op, Conv2DOp, GatedConv2DOp
from fbs_keras.compact.ops.depthwise_conv2d import DepthwiseConv2DOp
from fbs_keras.compact.quantization import QUANTIZATIONS
from fbs_keras.export import lowering
from fbs_keras.export.lowering.add import add
from fbs_keras.export.lowering.conv2d import conv2d, patch_index
from fbs_keras.export.lowering.depthwise_conv2d import depthwise_conv2d
from fbs_keras.export.lowering.gathering import expand, gather, rows


def reference(op, x, in_indices, weights, bias, gate_kernel, gate_bias):
    """The op of docs/design.md on one example, in float64, channels ascending."""
    a = op
    dense = np.zeros((*x.shape[:2], len(weights)))
    dense[..., in_indices] = x
    g = np.maximum(np.abs(dense).mean((0, 1)) @ gate_kernel + gate_bias, 0)
    scores = g.reshape(-1, a.group_size).mean(1)
    groups = np.sort(np.argsort(-scores, kind="stable")[: a.k // a.group_size])
    winners = (groups[:, None] * a.group_size + np.arange(a.group_size)).ravel()
    height, top, bottom = padded(x.shape[0], a.kernel_h, a.stride_h, a.dilation_h, a.padding)
    width, left, right = padded(x.shape[1], a.kernel_w, a.stride_w, a.dilation_w, a.padding)
    dense = np.pad(dense, [(top, bottom), (left, right), (0, 0)])
    y = np.zeros((height, width, len(bias)))
    for row in range(height):
        for column in range(width):
            for tap in range(a.kernel_h * a.kernel_w):
                pixel = dense[
                    row * a.stride_h + tap // a.kernel_w * a.dilation_h,
                    column * a.stride_w + tap % a.kernel_w * a.dilation_w,
                ]
                y[row, column] += pixel @ weights[:, tap]
    y = (g * (y + bias))[..., winners]
    return {"NONE": y, "RELU": np.maximum(y, 0), "RELU6": np.clip(y, 0, 6)}[a.activation], winners


def padded(size, kernel, stride, dilation, padding):
    """TensorFlow's output size and zeros before and after, as its documentation gives them."""
    reach = (kernel - 1) * dilation + 1
    if padding == "VALID":
        return -(-(size - reach + 1) // stride), 0, 0
    output = -(-size // stride)
    total = max((output - 1) * stride + reach - size, 0)
    return output, total // 2, total - total // 2


@st.composite
def problems(draw):
    size = st.integers(1, 7)
    kernel_h, kernel_w = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dilation_h, dilation_w = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    padding = draw(st.sampled_from(["SAME", "VALID"]))
    height, width = draw(size), draw(size)
    if padding == "VALID":
        height, width = height + (kernel_h - 1) * dilation_h, width + (kernel_w - 1) * dilation_w
    group_size, groups = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    channels = draw(st.integers(1, 5))
    sparse_in = draw(st.booleans())
    op = Conv2DOp(
        sparse_in=sparse_in,
        k=group_size * draw(st.integers(1, groups)),
        group_size=group_size,
        kernel_h=kernel_h,
        kernel_w=kernel_w,
        stride_h=draw(st.integers(1, 3)),
        stride_w=draw(st.integers(1, 3)),
        dilation_h=dilation_h,
        dilation_w=dilation_w,
        padding=padding,
        activation=draw(st.sampled_from(["NONE", "RELU", "RELU6"])),
    )
    batch = draw(st.integers(1, 3))
    active = draw(st.integers(1, channels)) if sparse_in else channels
    shapes = {"x": (batch, height, width, active), "weights": (channels, kernel_h * kernel_w, group_size * groups)}
    return op, shapes, draw(st.integers(0, 2**32 - 1))


def operands(shapes, seed, sparse_in):
    random = np.random.default_rng(seed)
    batch, _, _, active = shapes["x"]
    channels, _, filters = shapes["weights"]
    normal = [random.standard_normal(shape) for shape in (shapes["x"], shapes["weights"], filters)]
    # Eighths, in sums exact to the last bit, tie often; x comes in quarters for the same reason.
    x = np.round(normal[0] * 4) / 4
    gates = [np.round(random.standard_normal(shape) * 2) / 8 for shape in ((channels, filters), filters)]
    indices = np.stack([random.permutation(channels)[:active] for _ in range(batch)]).astype("int32")
    if not sparse_in:
        indices[:] = np.arange(channels)
    return x, indices, normal[1], normal[2], *gates


def check(op, y, out_indices, x, indices, *constants):
    for example in range(len(x)):
        expected, winners = reference(op, x[example], indices[example], *constants)
        chosen = np.arange(op.k) if out_indices is None else out_indices[example]
        assert chosen.dtype.kind == "i"
        assert sorted(chosen) == winners.tolist()
        np.testing.assert_allclose(y[example][..., np.argsort(chosen)], expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=90, deadline=None)
@given(problems(), st.sampled_from(QUANTIZATIONS))
def test_equals_the_equations(problem, quantize):
    op, shapes, seed = problem
    x, indices, *constants = operands(shapes, seed, op.sparse_in)
    # A mean over a power of two of pixels is exact, so that ties are ties in float32 too.
    if shapes["x"][1] * shapes["x"][2] not in (1, 2, 4, 8, 16, 32, 64) or op.group_size == 3:
        constants[3] = constants[3] + np.random.default_rng(seed).uniform(0, 1e-2, constants[3].shape)
    names = ("weights", "bias", "gate_kernel", "gate_bias")
    stored = {name: value.astype("float32") for name, value in zip(names, constants, strict=True)}
    stored = (Conv2DInt8Op if quantize == "dynamic_int8" else Conv2DOp).store(stored, quantize)
    constants = [stored[name].astype("float64") for name in names]
    constants[0] *= stored.get("weight_scales", 1)
    in_indices = tf.constant(indices) if op.sparse_in else None
    operands_ = {name: tf.constant(value) for name, value in stored.items()}
    y, out_indices = conv2d(op, tf.constant(x, tf.float32), in_indices, **operands_)
    assert (out_indices is None) == (op.k == shapes["weights"][2])
    out_indices = None if out_indices is None else out_indices.numpy()
    check(op, y.numpy(), out_indices, x, indices, *constants)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_is_given_g(problem):
    """As a gate of no kernel whose bias is g, of which some are negative and many tie."""
    op, shapes, seed = problem
    x, indices, weights, bias, _, _ = operands(shapes, seed, op.sparse_in)
    random = np.random.default_rng(seed)
    g = np.round(random.standard_normal((len(x), len(bias))) * 4) / 8
    if op.group_size == 3:  # whose means round
        g += random.uniform(0, 1e-2, g.shape)
    gated = GatedConv2DOp(**vars(op))
    tensors = [x, *([indices] if op.sparse_in else []), g, weights, bias]
    assert len(tensors) == len(gated.operands)
    tensors = [tf.constant(value, "int32" if value is indices else "float32") for value in tensors]
    y, *out_indices = (output.numpy() for output in lowering.compute(gated, *tensors))
    zeros = np.zeros(weights.shape[::2])
    for n in range(len(x)):
        example = out_indices[0][n : n + 1] if out_indices else None
        check(op, y[n : n + 1], example, x[n : n + 1], indices[n : n + 1], weights, bias, zeros, g[n])


@pytest.mark.parametrize("pool", [1, 2])
def test_pool(pool):
    op = Conv2DInt8Op(False, 1, 1, 1, 1, 1, 1, 1, 1, "VALID", "NONE", pool=pool)
    x = np.random.default_rng(0).standard_normal((1, 5, 4, 1)).astype("float32")
    one, zero = np.ones(1, "float32"), np.zeros(1, "float32")
    (y,) = lowering.compute(op, tf.constant(x), np.ones((1, 1, 1), "int8"), one, zero, np.zeros((1, 1)), one)
    expected = x if pool == 1 else x[:, :4].reshape(1, 2, 2, 2, 2, 1).max((2, 4))
    np.testing.assert_array_equal(y, expected)


def test_lower_index_wins_a_tie():
    op = Conv2DOp(False, 2, 1, 1, 1, 1, 1, 1, 1, "VALID", "NONE")
    gates = tf.constant([1.0, 3.0, 3.0, 3.0, 2.0])
    weights = tf.ones((1, 1, 5))
    _, indices = conv2d(op, tf.ones((1, 2, 2, 1)), None, weights, gates, 0 * weights[0], gates)
    assert indices.numpy().tolist() == [[1, 2]]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("shape", [(3,), (2, 2, 3)])
def test_expand_and_rows(batch, shape):
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, *shape)).astype("float32")
    kernel = random.standard_normal((5, 4)).astype("float32")
    indices = np.stack([random.permutation(5)[:3] for _ in range(batch)]).astype("int32")
    dense = np.zeros((batch, *shape[:-1], 5), "float32")
    for example in range(batch):
        dense[example][..., indices[example]] = x[example]
    np.testing.assert_array_equal(expand(x, indices, 5), dense)
    np.testing.assert_allclose(rows(tf.constant(x), indices, kernel), dense @ kernel, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("activation", "high"), [("NONE", None), ("RELU", np.inf), ("RELU6", 6)])
def test_add(activation, high):
    random = np.random.default_rng(0)
    dense, a, b = (random.standard_normal((2, 3, 4, size)).astype("float32") * 4 for size in (5, 3, 2))
    indices = [np.stack([random.permutation(5)[:size] for _ in range(2)]).astype("int32") for size in (3, 2)]
    expected = dense.copy()
    for example in range(2):
        expected[example][..., indices[0][example]] += a[example]
        expected[example][..., indices[1][example]] += b[example]
    expected = expected if high is None else np.clip(expected, 0, high)
    op = AddOp(addends=3, compact=0b101, channels=5, activation=activation)
    assert op.operands == ["x0", "indices0", "x1", "x2", "indices2"]
    y = add(op, a, indices[0], tf.constant(dense), b, indices[1])
    np.testing.assert_allclose(y, expected, rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding", "activation"),
    [
        ((3, 3), 1, 1, "SAME", "NONE"),
        ((3, 3), 2, 1, "SAME", "RELU6"),
        ((2, 5), 2, 1, "VALID", "RELU"),
        ((3, 1), 1, 2, "SAME", "NONE"),
    ],
)
def test_depthwise(batch, kernel, stride, dilation, padding, activation):
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, 7, 6, 3)).astype("float32") * 4
    weights, bias = random.standard_normal((5, math.prod(kernel))).astype("float32"), np.arange(5, dtype="float32")
    indices = np.stack([random.permutation(5)[:3] for _ in range(batch)]).astype("int32")
    op = DepthwiseConv2DOp(*kernel, stride, stride, dilation, dilation, padding, activation)
    y = depthwise_conv2d(op, x, indices, weights, bias)
    height, top, bottom = padded(7, kernel[0], stride, dilation, padding)
    width, left, right = padded(6, kernel[1], stride, dilation, padding)
    x = np.pad(x, [(0, 0), (top, bottom), (left, right), (0, 0)])
    expected = np.zeros((batch, height, width, 3))
    for n, row, column in np.ndindex(batch, height, width):
        expected[n, row, column] = bias[indices[n]]
        for tap in range(math.prod(kernel)):
            i, j = row * stride + tap // kernel[1] * dilation, column * stride + tap % kernel[1] * dilation
            expected[n, row, column] += x[n, i, j] * weights[indices[n], tap]
    high = {"NONE": None, "RELU": np.inf, "RELU6": 6}[activation]
    expected = expected if high is None else np.clip(expected, 0, high)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_gather():
    indices = np.array([[2, 0], [1, 2]], "int32")
    values = np.array([10.0, 20.0, 30.0], "float32")
    assert np.array_equal(gather(values, indices, 4), [[[[30, 10]]], [[[20, 30]]]])
    own = np.stack([values, -values])[:, None]
    assert np.array_equal(gather(own, indices, 3), [[[30, 10]], [[-20, -30]]])


def test_pointwise_convolution_gathers_no_patches():
    op = Conv2DOp(True, 2, 1, 1, 1, 1, 1, 1, 1, "SAME", "NONE")
    assert patch_index(5, 4, op) == (None, 5, 4)
