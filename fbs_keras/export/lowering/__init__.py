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
import importlib

import tensorflow as tf

from fbs_keras.compact.ops import MODULES


@functools.singledispatch
def compute(op, *operands):
    """Computes an exported op in TFLite's built-in ops.

    Args:
        op: The `compact.op.Op`.
        *operands: Its inputs, in order.

    Returns:
        Its outputs, a list.
    """
    raise TypeError(f"no module of fbs_keras.export.lowering registers how to compute {type(op).__name__}")


def custom_op(op, call, tensors, constants):
    """Computes what `compute` does, in a call that the converter writes as one custom op.

    Its constants pass the converter as integers of the same bits, which no quantiser touches; `composite.restore_ops`
    gives them their types back.

    Args:
        op: The `compact.op.Op`.
        call: An integer to find the op by; see `Op.implements`.
        tensors: Its first inputs, in order.
        constants: Its other inputs, NumPy arrays.

    Returns:
        Its outputs, a list.
    """
    bits = [tf.constant(value.view(f"int{8 * value.itemsize}")) for value in constants]

    def composite(*inputs):
        values = [tf.bitcast(x, value.dtype) for x, value in zip(inputs[len(tensors) :], constants, strict=True)]
        return compute(op, *inputs[: len(tensors)], *values)

    return tf.function(composite, autograph=False, experimental_implements=op.implements(call))(*tensors, *bits)


for module in MODULES:  # each registers its ops with `compute`
    importlib.import_module(f"{__name__}.{module.__name__.rpartition('.')[2]}")
