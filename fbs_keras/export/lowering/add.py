"""Sums of dense and compact tensors in TFLite's built-in ops."""

import functools

import tensorflow as tf

from fbs_keras.compact.ops.add import AddOp
from fbs_keras.export.lowering import compute
from fbs_keras.export.lowering.gathering import ACTIVATIONS, expand


@compute.register
def _(op: AddOp, *operands):
    return [add(op, *operands)]


def add(op, *operands):
    """Computes `act(sum_i x_i)` of dense and compact tensors.

    Args:
        op: An `AddOp`.
        *operands: Each dense tensor, `[N, ..., C]`, and each compact one, `[N, ..., K]`, with its indices, `[N, K]`
            int32, after it.

    Returns:
        `[N, ..., C]`.
    """
    named = dict(zip(op.operands, operands, strict=True))
    addends = [
        expand(named[f"x{i}"], named[f"indices{i}"], op.channels) if op.is_compact(i) else named[f"x{i}"]
        for i in range(op.addends)
    ]
    return ACTIVATIONS[op.activation](functools.reduce(tf.add, addends))
