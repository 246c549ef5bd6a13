"""FBS convolutions in TFLite's built-in ops: of the winning filters and the channels that are there, by im2col."""

import numpy as np
import tensorflow as tf

from fbs_keras.compact.ops.conv2d import Conv2DInt8Op, Conv2DOp
from fbs_keras.export.lowering import compute
from fbs_keras.export.lowering.gathering import ACTIVATIONS, gather_float32, rows, taps


@compute.register
def _(op: Conv2DOp, *operands):
    outputs = conv2d(op, **{"in_indices": None, **dict(zip(op.operands, operands, strict=True))})
    return [output for output in outputs if output is not None]


@compute.register
def _(op: Conv2DInt8Op, *operands):
    y, *out_indices = compute.dispatch(Conv2DOp)(op, *operands)
    return [tf.nn.max_pool2d(y, op.pool, op.pool, "VALID") if op.pool > 1 else y, *out_indices]


def conv2d(op, x, in_indices, weights, bias, gate_kernel=None, gate_bias=None, weight_scales=None, g=None):
    """Computes one FBS convolution for its active channels, in TFLite's built-in ops.

        s = mean_{h,w} |x|;  g = relu(s @ gate_kernel[in_indices] + gate_bias);  out_indices = the k largest of g
        y = act(g[out_indices] * (conv(x, weights[in_indices, :, out_indices]) + bias[out_indices]))

    With the operand g, relu(g) takes the place of the first line's. int8 weights stand for `weights * weight_scales`. x
    stays float32 with them: built-in ops have no product of an int8 matrix that is not known beforehand.

    Args:
        op: A `Conv2DOp`.
        x: `[N, H, W, K_in]`, of static shape.
        in_indices: `[N, K_in]` int32, the channels that `x` holds; `None` when it holds all.
        weights: `[C_in, KH * KW, C_out]`, float32, float16 or int8.
        bias: `[C_out]`.
        gate_kernel: `[C_in, C_out]`, float32 or float16; not with g.
        gate_bias: `[C_out]`; not with g.
        weight_scales: `[C_out]`, with int8 weights only.
        g: `[N, C_out]`, for ops that are `gated`.

    Returns:
        `(y, out_indices)`: `[N, OH, OW, k]`, and `[N, k]` int32, best first; `None` when k equals C_out.
    """
    if g is None:
        s = tf.reduce_mean(tf.abs(x), axis=[1, 2])
        g = rows(s, in_indices, gate_kernel) + gate_bias
    pi, out_indices = _winners(tf.nn.relu(g), op)

    index, out_height, out_width = patch_index(x.shape[1], x.shape[2], op)
    cols = _patches(x, index, out_height * out_width)
    weights = gather_float32(weights, in_indices)  # [(N, ) K_in, KH * KW, C_out]
    axes = list(range(len(weights.shape)))
    weights = tf.transpose(weights, axes[:-3] + axes[:-4:-1])  # [(N,) C_out, KH * KW, K_in]
    if out_indices is not None:
        weights = tf.gather(weights, out_indices, axis=len(axes) - 3, batch_dims=len(axes) - 3)
        bias = tf.gather(bias, out_indices)
    y = _matmul(cols, tf.reshape(weights, (-1, op.k, cols.shape[-1])))
    if weight_scales is not None:
        scales = weight_scales if out_indices is None else tf.gather(weight_scales, out_indices)
        y = y * tf.reshape(scales, (-1, 1, op.k))

    y = tf.reshape(pi, (-1, 1, op.k)) * (y + tf.reshape(bias, (-1, 1, op.k)))
    y = ACTIVATIONS[op.activation](y)
    return tf.reshape(y, (-1, out_height, out_width, op.k)), out_indices


def patch_index(height, width, op):
    """The pixels under each window of a convolution.

    Args:
        height: The input's height.
        width: The input's width.
        op: A `Conv2DOp`.

    Returns:
        `(index, out_height, out_width)`: `[OH * OW * KH * KW]` int32, pixel `y * width + x`, or `height * width` for
        one outside of the image, or `None` when it would be all pixels in order.
    """
    rows_, cols_ = (
        taps(height, op.kernel_h, op.stride_h, op.dilation_h, op.padding),
        taps(width, op.kernel_w, op.stride_w, op.dilation_w, op.padding),
    )
    y, x = rows_[:, None, :, None], cols_[None, :, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    index = np.where(inside, y * width + x, height * width).astype("int32").ravel()
    if np.array_equal(index, np.arange(height * width)):
        index = None
    return index, len(rows_), len(cols_)


def _patches(x, index, pixels):
    """im2col: `[N, pixels, KH * KW * K]`."""
    batch, height, width, channels = x.shape
    if index is not None:
        x = tf.reshape(x, (batch, height * width, channels))
        if index.max() == height * width:
            x = tf.concat([x, tf.zeros((batch, 1, channels))], axis=1)
        x = tf.gather(x, index, axis=1)
    return tf.reshape(x, (batch, pixels, -1))


def _winners(g, op):
    """The k largest of each row of g and which they are; the lower index first among equals."""
    batch, channels = g.shape
    if op.k == channels:
        return g, None
    if op.group_size == 1:
        return tf.math.top_k(g, op.k)
    size = op.group_size
    means = tf.reduce_mean(tf.reshape(g, (batch, channels // size, size)), axis=2)
    _, groups = tf.math.top_k(means, op.k // size)
    indices = tf.reshape(groups[:, :, None] * size + tf.range(size), (batch, op.k))
    return tf.gather(g, indices, axis=1, batch_dims=1), indices


def _matmul(cols, filters):
    """`cols @ filters.T`, `[N, P, K]` by `[N or 1, M, K]`."""
    batch, pixels, depth = cols.shape
    if filters.shape[0] == 1:
        cols = tf.reshape(cols, (1, batch * pixels, depth))
    y = tf.matmul(cols, filters, transpose_b=True)
    return tf.reshape(y, (batch, pixels, filters.shape[1]))
