"""Compact tensors and their neighbours in TensorFlow, and what the lowered ops share."""

import numpy as np
import tensorflow as tf

ACTIVATIONS = {"NONE": tf.identity, "RELU": tf.nn.relu, "RELU6": tf.nn.relu6}


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
    kernel = gather_float32(kernel, indices)
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


def gather_float32(values, indices):
    """Rows of a constant of any type, or all where indices is `None`, as float32."""
    if indices is not None:
        half = values.dtype == tf.float16
        values = tf.gather(tf.bitcast(values, tf.int16) if half else values, indices)
        values = tf.bitcast(values, tf.float16) if half else values
    return tf.cast(values, tf.float32)


def taps(size, kernel, stride, dilation, padding):
    """The input positions that each output position reads along one axis, `[outputs, kernel]`."""
    reach = (kernel - 1) * dilation + 1
    if padding == "SAME":
        outputs = -(-size // stride)
        before = max((outputs - 1) * stride + reach - size, 0) // 2
    else:
        outputs, before = (size - reach) // stride + 1, 0
    return np.arange(outputs)[:, None] * stride + np.arange(kernel) * dilation - before
