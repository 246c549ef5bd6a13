"""`fbs.add`: the sum of dense and compact tensors, dense; of one compact tensor, what expands it."""

import dataclasses
import typing

from fbs_keras.compact.calls import Call, is_operation, relu
from fbs_keras.compact.op import Op

ACTION = "add"
MOST_ADDENDS = 8  # kFbsMaxAddends of tflite/core/add.h


@dataclasses.dataclass(frozen=True)
class AddOp(Op):
    """One exported sum of dense and compact tensors, `act(sum_i x_i)`.

    Attributes:
        addends: How many tensors are added, at most `MOST_ADDENDS`.
        compact: Bit i tells that tensor i is compact, that is, that its indices follow it.
        channels: How many channels the sum has.
        activation: `"NONE"`, `"RELU"` or `"RELU6"`.
    """

    custom_name = "FbsAdd"
    composite_name = "fbs.add"

    addends: int
    compact: int
    channels: int
    activation: str

    @property
    def reads(self):  # type: ignore[override]
        return self.addends

    def is_compact(self, addend):
        return bool(self.compact >> addend & 1)

    @property
    def operands(self):
        pairs = ([f"x{i}", f"indices{i}"] if self.is_compact(i) else [f"x{i}"] for i in range(self.addends))
        return [name for pair in pairs for name in pair]


OPS = (AddOp,)


def expansion(channels):
    """The op that makes a compact tensor dense."""
    return AddOp(addends=1, compact=1, channels=channels, activation="NONE")


def sums(compact, channels, activation):
    """The ops that add tensors, each the sum of the one before and of `MOST_ADDENDS - 1` tensors more.

    Args:
        compact: Whether each tensor is compact.
        channels: How many channels they have.
        activation: What the last op applies.

    Returns:
        A tuple of `AddOp`s.
    """
    ops, left = [], list(compact)
    while left:
        part, left = left[:MOST_ADDENDS], left[MOST_ADDENDS:]
        bits = sum(bit << i for i, bit in enumerate(part))
        ops.append(AddOp(len(part), bits, channels, "NONE" if left else activation))
        if left:
            left = [False, *left]
    return tuple(ops)


def rule(call: Call) -> typing.Any:
    """The sum of float32 tensors of one shape which do not hold the same channels: of an Add layer, or `a + b`."""
    if call.aligned or call.alike or not is_operation(call.layer, "Add") or len(call.inputs) < 2:
        return None
    (output,) = call.outputs
    if any((tensor.shape, tensor.dtype) != (output.shape, "float32") for tensor in call.inputs):
        return None
    reader = call.only_reader(call.node)
    activation = "NONE" if reader is None else relu(reader.layer)
    compact = [tensor.active is not None for tensor in call.inputs]
    return call.step(
        ACTION,
        ops=sums(compact, output.shape[-1], activation),
        followers=() if activation == "NONE" else (reader,),
    )
