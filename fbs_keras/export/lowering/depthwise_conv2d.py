"""Depthwise convolutions of compact tensors in TFLite's built-in ops."""

import tensorflow as tf

from fbs_keras.compact.ops.depthwise_conv2d import DepthwiseConv2DOp
from fbs_keras.export.lowering import compute
from fbs_keras.export.lowering.gathering import ACTIVATIONS, gather_float32, taps


@compute.register
def _(op: DepthwiseConv2DOp, *operands):
    return [depthwise_conv2d(op, *operands)]


def depthwise_conv2d(op, x, indices, weights, bias):
    """Computes `act(dw(x[..., j], weights[indices[j]]) + bias[indices[j]])` for each channel j of a compact tensor.

    Args:
        op: A `DepthwiseConv2DOp`.
        x: `[N, H, W, K]`, of static shape.
        indices: `[N, K]` int32, the channels that `x` holds.
        weights: `[C, KH * KW]`, float32 or float16.
        bias: `[C]`.

    Returns:
        `[N, OH, OW, K]`.
    """
    a = op
    batch, height, width, channels = x.shape
    filters = tf.transpose(tf.reshape(gather_float32(weights, indices), (batch * channels, a.kernel_h * a.kernel_w)))
    filters = tf.reshape(filters, (a.kernel_h, a.kernel_w, batch * channels, 1))
    if batch > 1:
        x = tf.reshape(tf.transpose(x, (1, 2, 0, 3)), (1, height, width, batch * channels))
    y = depthwise(a, x, filters)
    y = y + tf.reshape(tf.gather(bias, indices), (-1,))
    y = ACTIVATIONS[a.activation](y)
    if batch > 1:
        y = tf.transpose(tf.reshape(y, (*y.shape[1:3], batch, channels)), (2, 0, 1, 3))
    return y


def depthwise(op, x, filters):
    """Computes a depthwise convolution alone.

    Args:
        op: A `DepthwiseConv2DOp`.
        x: `[N, H, W, K]`, of static shape.
        filters: `[KH, KW, K, 1]`.

    Returns:
        `[N, OH, OW, K]`.
    """
    a = op
    strides, dilations = (a.stride_h, a.stride_w), (a.dilation_h, a.dilation_w)
    if max(strides) == 1 or max(dilations) == 1:
        return tf.nn.depthwise_conv2d(x, filters, (1, *strides, 1), a.padding, dilations=dilations)
    # TensorFlow computes something else where both are above 1, of another shape. So: every pixel, then every other.
    axes = zip(x.shape[1:3], (a.kernel_h, a.kernel_w), strides, dilations, strict=True)
    places = [taps(size, kernel, stride, dilation, a.padding) for size, kernel, stride, dilation in axes]
    pads = [(-read.min(), max(read.max() - size + 1, 0)) for read, size in zip(places, x.shape[1:3], strict=True)]
    x = tf.pad(x, [(0, 0), *pads, (0, 0)])
    y = tf.nn.depthwise_conv2d(x, filters, (1, 1, 1, 1), "VALID", dilations=dilations)
    (rows_, cols) = ((len(read) - 1) * stride + 1 for read, stride in zip(places, strides, strict=True))
    return y[:, : rows_ : strides[0], : cols : strides[1]]
