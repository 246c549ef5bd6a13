"""The ops and their neighbours in TensorFlow, in the form that TFLite's built-in ops run fastest.

What the shapes of this file follow from, measured with XNNPACK on one core (M-CifarNet's layers at density 0.5):

- XNNPACK multiplies by a matrix it does not know beforehand only in BATCH_MATMUL. 2-D matmuls become FULLY_CONNECTED,
  which runs outside of it, or lose the ReLU after them; all operands here are 3-D.
- GATHER copies whole rows at memory speed but takes 2 ns an element on the last axis. So the filters are transposed to
  `[C_out, KH * KW * C_in]` in every inference (XNNPACK's TRANSPOSE), and whole filters are gathered: 90 us a layer
  where gathering elements took 155 us and the product alone takes 79.
- im2col is one GATHER of pixels by a constant index: 109 us a layer with the product, against 123 with nine slices,
  and 62 against 291 at stride 2, where XNNPACK's STRIDED_SLICE is slow.
- Zero padding is one more pixel of zeros, which that index points at, instead of a PAD.
- int8 weights are gathered as they are, a quarter of the bytes, and made float32 before the transpose, which XNNPACK
  then does: 116 us for a layer of 15x15x128 where float32 weights take 112, 6.8 ms for 28x28x512 instead of 8.2.
  Transposing and gathering filters before the cast takes 142 us and 10.2 ms.
- float16 rows are gathered as integers, since GATHER does not know float16.
- A depthwise convolution is DEPTHWISE_CONV_2D with the gathered filters, although XNNPACK leaves that to the runtime's
  own kernel: 300 us where a sum over its taps takes 581 (72 of 144 channels, 56x56, 3x3), 209 against 6220 at stride 2
  (48 of 96, 112x112), 42 against 61 on 7x7x480. XNNPACK's own takes 97, 104 and 20 for all the channels, but making the
  tensor dense for it 650 and more. The images of a batch, each with filters of its own, become channels for it: 362 us
  for four of 14x14x288, against 338 as four ops and 491 by taps.
"""

import functools

import numpy as np
import tensorflow as tf

from fbs_keras.compact.attributes import AddAttributes, Conv2DInt8Attributes, DepthwiseConv2DAttributes

_ACTIVATIONS = {"NONE": tf.identity, "RELU": tf.nn.relu, "RELU6": tf.nn.relu6}


def compute(attributes, *operands):
    """Computes an exported op in TFLite's built-in ops.

    Args:
        attributes: Its `Attributes`.
        *operands: Its inputs, in order.

    Returns:
        Its outputs, a list.
    """
    if isinstance(attributes, AddAttributes):
        return [add(attributes, *operands)]
    if isinstance(attributes, DepthwiseConv2DAttributes):
        return [depthwise_conv2d(attributes, *operands)]
    named = dict(zip(attributes.operands, operands, strict=True))
    y, *out_indices = fbs_conv2d(attributes, **{"in_indices": None, **named})
    if isinstance(attributes, Conv2DInt8Attributes) and attributes.pool > 1:
        y = tf.nn.max_pool2d(y, attributes.pool, attributes.pool, "VALID")
    return [output for output in (y, *out_indices) if output is not None]


def custom_op(attributes, call, tensors, constants):
    """Computes what `compute` does, in a call that the converter writes as one custom op.

    Its constants pass the converter as integers of the same bits, which no quantiser touches; `composite.restore_ops`
    gives them their types back.

    Args:
        attributes: Its `Attributes`.
        call: An integer to find the op by; see `Attributes.implements`.
        tensors: Its first inputs, in order.
        constants: Its other inputs, NumPy arrays.

    Returns:
        Its outputs, a list.
    """
    bits = [tf.constant(value.view(f"int{8 * value.itemsize}")) for value in constants]

    def op(*inputs):
        values = [tf.bitcast(x, value.dtype) for x, value in zip(inputs[len(tensors) :], constants, strict=True)]
        return compute(attributes, *inputs[: len(tensors)], *values)

    return tf.function(op, autograph=False, experimental_implements=attributes.implements(call))(*tensors, *bits)


def fbs_conv2d(attributes, x, in_indices, weights, bias, gate_kernel=None, gate_bias=None, weight_scales=None, g=None):
    """Computes one FBS convolution for its active channels, in TFLite's built-in ops.

        s = mean_{h,w} |x|;  g = relu(s @ gate_kernel[in_indices] + gate_bias);  out_indices = the k largest of g
        y = act(g[out_indices] * (conv(x, weights[in_indices, :, out_indices]) + bias[out_indices]))

    With the operand g, relu(g) takes the place of the first line's. int8 weights stand for `weights * weight_scales`. x
    stays float32 with them: built-in ops have no product of an int8 matrix that is not known beforehand.

    Args:
        attributes: `Conv2DAttributes`.
        x: `[N, H, W, K_in]`, of static shape.
        in_indices: `[N, K_in]` int32, the channels that `x` holds; `None` when it holds all.
        weights: `[C_in, KH * KW, C_out]`, float32, float16 or int8.
        bias: `[C_out]`.
        gate_kernel: `[C_in, C_out]`, float32 or float16; not with g.
        gate_bias: `[C_out]`; not with g.
        weight_scales: `[C_out]`, with int8 weights only.
        g: `[N, C_out]`, for `Attributes` that are `gated`.

    Returns:
        `(y, out_indices)`: `[N, OH, OW, k]`, and `[N, k]` int32, best first; `None` when k equals C_out.
    """
    if g is None:
        s = tf.reduce_mean(tf.abs(x), axis=[1, 2])
        g = rows(s, in_indices, gate_kernel) + gate_bias
    pi, out_indices = _winners(tf.nn.relu(g), attributes)

    index, out_height, out_width = patch_index(x.shape[1], x.shape[2], attributes)
    cols = _patches(x, index, out_height * out_width)
    weights = _gather_float32(weights, in_indices)  # [(N, ) K_in, KH * KW, C_out]
    axes = list(range(len(weights.shape)))
    weights = tf.transpose(weights, axes[:-3] + axes[:-4:-1])  # [(N,) C_out, KH * KW, K_in]
    if out_indices is not None:
        weights = tf.gather(weights, out_indices, axis=len(axes) - 3, batch_dims=len(axes) - 3)
        bias = tf.gather(bias, out_indices)
    y = _matmul(cols, tf.reshape(weights, (-1, attributes.k, cols.shape[-1])))
    if weight_scales is not None:
        scales = weight_scales if out_indices is None else tf.gather(weight_scales, out_indices)
        y = y * tf.reshape(scales, (-1, 1, attributes.k))

    y = tf.reshape(pi, (-1, 1, attributes.k)) * (y + tf.reshape(bias, (-1, 1, attributes.k)))
    y = _ACTIVATIONS[attributes.activation](y)
    return tf.reshape(y, (-1, out_height, out_width, attributes.k)), out_indices


def depthwise_conv2d(attributes, x, indices, weights, bias):
    """Computes `act(dw(x[..., j], weights[indices[j]]) + bias[indices[j]])` for each channel j of a compact tensor.

    Args:
        attributes: `DepthwiseConv2DAttributes`.
        x: `[N, H, W, K]`, of static shape.
        indices: `[N, K]` int32, the channels that `x` holds.
        weights: `[C, KH * KW]`, float32 or float16.
        bias: `[C]`.

    Returns:
        `[N, OH, OW, K]`.
    """
    a = attributes
    batch, height, width, channels = x.shape
    filters = tf.transpose(tf.reshape(_gather_float32(weights, indices), (batch * channels, a.kernel_h * a.kernel_w)))
    filters = tf.reshape(filters, (a.kernel_h, a.kernel_w, batch * channels, 1))
    if batch > 1:
        x = tf.reshape(tf.transpose(x, (1, 2, 0, 3)), (1, height, width, batch * channels))
    y = depthwise(a, x, filters)
    y = y + tf.reshape(tf.gather(bias, indices), (-1,))
    y = _ACTIVATIONS[a.activation](y)
    if batch > 1:
        y = tf.transpose(tf.reshape(y, (*y.shape[1:3], batch, channels)), (2, 0, 1, 3))
    return y


def depthwise(attributes, x, filters):
    """Computes a depthwise convolution alone.

    Args:
        attributes: `DepthwiseConv2DAttributes`.
        x: `[N, H, W, K]`, of static shape.
        filters: `[KH, KW, K, 1]`.

    Returns:
        `[N, OH, OW, K]`.
    """
    a = attributes
    strides, dilations = (a.stride_h, a.stride_w), (a.dilation_h, a.dilation_w)
    if max(strides) == 1 or max(dilations) == 1:
        return tf.nn.depthwise_conv2d(x, filters, (1, *strides, 1), a.padding, dilations=dilations)
    # TensorFlow computes something else where both are above 1, of another shape. So: every pixel, then every other.
    axes = zip(x.shape[1:3], (a.kernel_h, a.kernel_w), strides, dilations, strict=True)
    places = [_taps(size, kernel, stride, dilation, a.padding) for size, kernel, stride, dilation in axes]
    pads = [(-taps.min(), max(taps.max() - size + 1, 0)) for taps, size in zip(places, x.shape[1:3], strict=True)]
    x = tf.pad(x, [(0, 0), *pads, (0, 0)])
    y = tf.nn.depthwise_conv2d(x, filters, (1, 1, 1, 1), "VALID", dilations=dilations)
    (rows_, cols) = ((len(taps) - 1) * stride + 1 for taps, stride in zip(places, strides, strict=True))
    return y[:, : rows_ : strides[0], : cols : strides[1]]


def add(attributes, *operands):
    """Computes `act(sum_i x_i)` of dense and compact tensors.

    Args:
        attributes: `AddAttributes`.
        *operands: Each dense tensor, `[N, ..., C]`, and each compact one, `[N, ..., K]`, with its indices, `[N, K]`
            int32, after it.

    Returns:
        `[N, ..., C]`.
    """
    named = dict(zip(attributes.operands, operands, strict=True))
    addends = [
        expand(named[f"x{i}"], named[f"indices{i}"], attributes.channels)
        if attributes.is_compact(i)
        else named[f"x{i}"]
        for i in range(attributes.addends)
    ]
    return _ACTIVATIONS[attributes.activation](functools.reduce(tf.add, addends))


def rows(x, indices, kernel):
    """Computes `x @ kernel[indices]`: a dense layer, or a 1x1 convolution, on the active channels.

    Args:
        x: `[N, ..., K]`, of static shape.
        indices: `[N, K]` int32, or `None` when x holds all channels.
        kernel: `[C, M]`, float32 or float16.

    Returns:
        `[N, ..., M]`.
    """
    cols = tf.reshape(x, (x.shape[0], -1, x.shape[-1]))
    kernel = _gather_float32(kernel, indices)
    if indices is None:
        cols, kernel = tf.reshape(cols, (1, -1, cols.shape[-1])), kernel[None]
    return tf.reshape(tf.matmul(cols, kernel), (*x.shape[:-1], kernel.shape[-1]))


def gather(parameters, indices, rank):
    """Picks the parameters of the channels that a compact tensor holds.

    Args:
        parameters: `[C]`, or `[N, 1, ..., C]`, which differ by example.
        indices: `[N, K]` int32.
        rank: How many dimensions the compact tensor has.

    Returns:
        `[N, 1, ..., K]`.
    """
    batch, k = indices.shape
    if len(parameters.shape) == 1:
        y = tf.gather(parameters, indices)
    else:
        y = tf.gather(tf.reshape(parameters, (batch, -1)), indices, axis=1, batch_dims=1)
    return tf.reshape(y, (batch, *[1] * (rank - 2), k))


def expand(x, indices, channels):
    """Writes compact channels at their places among zeros.

    A product with a matrix of zeros and ones does it, under XNNPACK; for a single pixel SCATTER_ND, which takes 1 us
    where making that matrix takes 120 (256 of 512 channels).

    Args:
        x: `[N, ..., K]`, of static shape.
        indices: `[N, K]` int32.
        channels: C.

    Returns:
        `[N, ..., C]`.
    """
    batch, shape = x.shape[0], (*x.shape[:-1], channels)
    cols = tf.reshape(x, (batch, -1, x.shape[-1]))
    if cols.shape[1] > 1:
        return tf.reshape(tf.matmul(cols, tf.one_hot(indices, channels)), shape)
    places = indices if batch == 1 else indices + np.arange(batch, dtype="int32")[:, None] * channels
    y = tf.scatter_nd(tf.reshape(places, (-1, 1)), tf.reshape(x, (-1,)), (batch * channels,))
    return tf.reshape(y, shape)


def patch_index(height, width, attributes):
    """The pixels under each window of a convolution.

    Args:
        height: The input's height.
        width: The input's width.
        attributes: `Conv2DAttributes`.

    Returns:
        `(index, out_height, out_width)`: `[OH * OW * KH * KW]` int32, pixel `y * width + x`, or `height * width` for
        one outside of the image, or `None` when it would be all pixels in order.
    """
    rows_, cols_ = (
        _taps(height, attributes.kernel_h, attributes.stride_h, attributes.dilation_h, attributes.padding),
        _taps(width, attributes.kernel_w, attributes.stride_w, attributes.dilation_w, attributes.padding),
    )
    y, x = rows_[:, None, :, None], cols_[None, :, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    index = np.where(inside, y * width + x, height * width).astype("int32").ravel()
    if np.array_equal(index, np.arange(height * width)):
        index = None
    return index, len(rows_), len(cols_)


def _gather_float32(values, indices):
    """Rows of a constant of any type, or all where indices is `None`, as float32."""
    if indices is not None:
        half = values.dtype == tf.float16
        values = tf.gather(tf.bitcast(values, tf.int16) if half else values, indices)
        values = tf.bitcast(values, tf.float16) if half else values
    return tf.cast(values, tf.float32)


def _taps(size, kernel, stride, dilation, padding):
    """The input positions that each output position reads along one axis, `[outputs, kernel]`."""
    reach = (kernel - 1) * dilation + 1
    if padding == "SAME":
        outputs = -(-size // stride)
        before = max((outputs - 1) * stride + reach - size, 0) // 2
    else:
        outputs, before = (size - reach) // stride + 1, 0
    return np.arange(outputs)[:, None] * stride + np.arange(kernel) * dilation - before


def _patches(x, index, pixels):
    """im2col: `[N, pixels, KH * KW * K]`."""
    batch, height, width, channels = x.shape
    if index is not None:
        x = tf.reshape(x, (batch, height * width, channels))
        if index.max() == height * width:
            x = tf.concat([x, tf.zeros((batch, 1, channels))], axis=1)
        x = tf.gather(x, index, axis=1)
    return tf.reshape(x, (batch, pixels, -1))


def _winners(g, attributes):
    """The k largest of each row of g and which they are; the lower index first among equals."""
    batch, channels = g.shape
    if attributes.k == channels:
        return g, None
    if attributes.group_size == 1:
        return tf.math.top_k(g, attributes.k)
    size = attributes.group_size
    means = tf.reduce_mean(tf.reshape(g, (batch, channels // size, size)), axis=2)
    _, groups = tf.math.top_k(means, attributes.k // size)
    indices = tf.reshape(groups[:, :, None] * size + tf.range(size), (batch, attributes.k))
    return tf.gather(g, indices, axis=1, batch_dims=1), indices


def _matmul(cols, filters):
    """`cols @ filters.T`, `[N, P, K]` by `[N or 1, M, K]`."""
    batch, pixels, depth = cols.shape
    if filters.shape[0] == 1:
        cols = tf.reshape(cols, (1, batch * pixels, depth))
    y = tf.matmul(cols, filters, transpose_b=True)
    return tf.reshape(y, (batch, pixels, filters.shape[1]))
