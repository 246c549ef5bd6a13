"""Model files that must be refused, and what the delegate must say about each.

Run as a program, `python hostile_files.py libfbs_delegate.so` tries every file and prints a JSON object, the message
for each name; a crash or a sanitizer's report ends it with another exit status than 0. test_delegate.py runs it with a
library under AddressSanitizer.
"""

import json
import sys

import numpy as np
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers
from op_files import FLOAT32, INT32, Add, Depthwise, Op, Writer

SPARSE = {"active": 4}
ROWS = {}


def row(name, message, op=None, form="custom"):
    """Adds a file: that of `op`, an op or arguments of `Op`, spoilt by the decorated function.

    `message` is a regular expression.
    """

    def add(spoil):
        ROWS[name] = (spoil, message, Op(**(op or {})) if op is None or isinstance(op, dict) else op, form)
        return spoil

    return add


def attribute(name, message, op=None, form="custom", label=None, **values):
    """Adds a file whose attributes are changed; a value of None removes one."""

    def spoil(writer, op):
        attributes = {**op.attributes, **values}
        writer.set_attributes(writer.nodes[0], {key: value for key, value in attributes.items() if value is not None})

    row(name, message, op, form)(spoil)


def raw_attributes(name, data, message, form="custom"):
    """Adds a file whose attributes are these bytes, or what a function makes of the valid ones."""

    def spoil(writer, op):
        valid = bytes(flexbuffers.Dumps(op.attributes))
        writer.set_attributes(writer.nodes[0], data(valid) if callable(data) else data)

    row(name, message, form=form)(spoil)


# Attributes that are no flexbuffer map.
NO_MAP = "the attributes must be a flexbuffer map; these [0-9]+ bytes are none"
raw_attributes("attributes empty", b"", NO_MAP)
raw_attributes("attributes empty, composite", b"", NO_MAP, form="composite")
raw_attributes("attributes one byte", b"\x01", NO_MAP)
raw_attributes("attributes zeros", bytes(64), NO_MAP)
raw_attributes("attributes all ones", b"\xff" * 64, NO_MAP)
raw_attributes("attributes random", np.random.default_rng(0).bytes(200), NO_MAP)
raw_attributes(
    "attributes cut at the front", lambda valid: valid[len(valid) // 2 :], "the attributes are damaged at 'version'"
)
raw_attributes("attributes cut at the end", lambda valid: valid[: len(valid) // 2], NO_MAP)
raw_attributes("attributes a vector", bytes(flexbuffers.Dumps([1, 2, 3])), NO_MAP)
raw_attributes("attributes an integer", bytes(flexbuffers.Dumps(7)), NO_MAP)
raw_attributes("attributes an empty map", bytes(flexbuffers.Dumps({})), "attribute 'version' is missing")
raw_attributes("attributes root out of reach", lambda valid: valid[:-3] + b"\xff" + valid[-2:], NO_MAP)
raw_attributes("attributes root width 3", lambda valid: valid[:-1] + b"\x03", NO_MAP)


def point_at_itself(attributes, key, kind):
    """Makes the value of `key` an offset of 0 to something of type `kind`; the attributes must fit one byte each."""
    damaged = bytearray(flexbuffers.Dumps(attributes))
    # They end in the values, a type for each of them, and the three bytes of the root.
    count, index = len(attributes), sorted(attributes).index(key)
    at = len(damaged) - 3 - 2 * count + index
    damaged[at], damaged[at + count] = 0, kind
    if index > 0:
        damaged[at - 1] = 100  # a string's length, more than is left
    return bytes(damaged)


INDIRECT_INT64, STRING = 6 << 2 | 3, 5 << 2
raw_attributes(
    "version reaches past the end",
    point_at_itself({"version": 1}, "version", INDIRECT_INT64),
    "the attributes are damaged at 'version'",
)
raw_attributes(
    "padding reaches past the end",
    point_at_itself(Op().attributes, "padding", STRING),
    "the attributes are damaged at 'padding'",
)

# Single attributes.
for key in Op().attributes:
    attribute(f"{key} missing", f"attribute '{key}' is missing", **{key: None})
for key in ("k", "group_size", "kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w"):
    for value in (0, -1, 2**31, -(2**63)):
        attribute(f"{key} {value}", rf"attribute '{key}' must be in \[1, 2147483647\], got {value}", **{key: value})
attribute("k a string", "attribute 'k' must be an integer", k="8")
attribute("k a float", "attribute 'k' must be an integer", k=8.0)
attribute("k a bool", "attribute 'k' must be an integer", k=True)
attribute("sparse_in 2", r"attribute 'sparse_in' must be in \[0, 1\], got 2", sparse_in=2)
attribute("padding an integer", "attribute 'padding' must be a string", padding=1)
attribute("padding unknown", "attribute 'padding' must be SAME or VALID, got 'same'", padding="same")
attribute("padding empty", "attribute 'padding' must be SAME or VALID, got ''", padding="")
attribute("activation unknown", "attribute 'activation' must be NONE, RELU or RELU6, got 'TANH'", activation="TANH")
attribute("activation long", "attribute 'activation' must be NONE, RELU or RELU6, got 'x{32}'", activation="x" * 10000)
attribute("version 2", "holds version 2 of this op, and this delegate knows version 1", version=2)
attribute(
    "version 2, composite", "holds version 2 of this op, and this delegate knows version 1", form="composite", version=2
)
attribute("version 0", "holds version 0 of this op, and this delegate knows version 1", version=0)
attribute("version a string", "attribute 'version' must be an integer", version="1")

# Attributes against the tensors.
attribute("k above the channels", r"k must be in \[1, 16\], the channels of the weights, got 17", k=17)
attribute("k enormous", r"k must be in \[1, 16\], the channels of the weights, got 2147483647", k=2**31 - 1)
attribute("k all channels, two outputs", r"expected 1 output \(y\) with k 16 of 16 channels, got 2", k=16)
attribute(
    "k some channels, one output",
    r"expected 2 outputs \(y, out_indices\) with k 8 of 16 channels, got 1",
    op={"k": 16},
    k=8,
)
attribute("group_size no divisor", "group_size must divide out_channels 16, got 3", group_size=3)
attribute("group_size no divisor of k", "must be a multiple of group_size 4, got 6", op={"k": 6}, group_size=4)
attribute("group_size above k", "group_size must be from 1 to 8, got 16", group_size=16)
attribute("kernel unlike the weights", "dimension 1 of weights must be 15, got", kernel_w=5)
attribute("kernel enormous", "a kernel of 2147483647 x 2147483647 is too large", kernel_h=2**31 - 1, kernel_w=2**31 - 1)
attribute(
    "dilation too large for VALID",
    "a window of height 9 does not fit an input of height 6",
    op={"padding": "VALID"},
    dilation_h=4,
)
attribute(
    "dilation enormous, VALID",
    "a window of width 4294967295 does not fit",
    op={"padding": "VALID"},
    dilation_w=2**31 - 1,
)
attribute(
    "dilation enormous, SAME", "a window of width 4294967295 is too large for an input of width 5", dilation_w=2**31 - 1
)
attribute(
    "dilation near the limit, SAME",
    "a window of height 2147483659 is too large",
    dilation_w=2**30 + 5,
    dilation_h=2**30 + 5,
)
row(
    "a small file, a large table of windows",
    "the table of windows must have at most 67108864 elements",
    op={"height": 1, "width": 2**14, "in_channels": 1, "filters": 1, "k": 1, "kernel": (2**14, 1)},
)(lambda writer, op: None)
attribute("sparse_in without indices", "expected 6 inputs .* with sparse_in 1, got 5", sparse_in=1)
attribute("dense_in with indices", "expected 5 inputs .* with sparse_in 0, got 6", op=SPARSE, sparse_in=0)


# Operands.
@row("no inputs", "expected 5 inputs .*, got 0")
def _(writer, op):
    writer.nodes[0].inputs = []


@row("one input missing", "expected 5 inputs .*, got 4")
def _(writer, op):
    writer.nodes[0].inputs.pop()


@row("one input more", "expected 5 inputs .*, got 6")
def _(writer, op):
    writer.nodes[0].inputs.append(writer.nodes[0].inputs[-1])


@row("three outputs", "expected 1 output .* or 2 .*, got 3")
def _(writer, op):
    writer.nodes[0].outputs.append(writer.tensor("more", (1, 8)))


@row("optional input", "weights must be a tensor of the graph, got index -1")
def _(writer, op):
    writer.nodes[0].inputs[1] = -1


@row("optional output", "expected 2 outputs .* with k 8 of 16 channels, got 1")
def _(writer, op):
    writer.nodes[0].outputs[1] = -1


@row("both outputs one tensor", "y must not share its tensor with another operand")
def _(writer, op):
    writer.nodes[0].outputs[1] = writer.nodes[0].outputs[0]


@row("y constant", "y must be writable memory, got TFLite's allocation type 1")
def _(writer, op):
    y = writer.constant("constant", np.zeros((1, 6, 5, 8), np.float32))
    writer.nodes[0].outputs[0] = y
    writer.graph.outputs[0] = y


# Types and ranks. (name, operand, type or shape)
for operand, dtype in [
    ("x", INT32),
    ("weights", INT32),
    ("bias", schema.TensorType.INT8),
    ("gate_kernel", INT32),
    ("gate_bias", INT32),
]:

    @row(f"{operand} of another type", f"{operand} must be float32")
    def _(writer, op, operand=operand, dtype=dtype):
        name = operand if operand == "x" else f"conv0/{operand}"
        writer.named(name).type = dtype
        if dtype == schema.TensorType.INT8:
            writer.named(name).shape = [64]  # as many bytes as before, or LiteRT refuses the file itself


@row("in_indices float32", "in_indices must be int32", op=SPARSE)
def _(writer, op):
    writer.named("in_indices").type = FLOAT32


@row("in_indices int64", "in_indices must be int32", op=SPARSE)
def _(writer, op):
    writer.named("in_indices").type = schema.TensorType.INT64


@row("y int32", "y must be float32")
def _(writer, op):
    writer.named("conv0").type = INT32


@row("out_indices float32", "out_indices must be int32")
def _(writer, op):
    writer.named("conv0/out_indices").type = FLOAT32


def shape(name, tensor, sizes, message, op=None, form="custom"):
    @row(name, message, op, form)
    def _(writer, op):
        writer.named(tensor).shape = sizes


shape("x of three dimensions", "x", [6, 5, 8], "x must have 4 dimensions, got 3")
shape("x of five dimensions", "x", [1, 1, 6, 5, 8], "x must have 4 dimensions, got 5")
shape("x a scalar", "x", [], "x must have 4 dimensions, got 0")
shape("x empty", "x", [1, 0, 5, 8], r"every dimension of x must be at least 1, got \[1, 0, 5, 8\]")
shape("x no images", "x", [0, 6, 5, 8], r"every dimension of x must be at least 1, got \[0, 6, 5, 8\]")
shape("x enormous", "x", [1, 65536, 65536, 8], "the input must have at most [0-9]+ elements")
shape("x of fewer channels", "x", [1, 6, 5, 7], "x must hold all 8 channels of the weights with sparse_in 0, got 7")
shape("x of more channels", "x", [1, 6, 5, 9], "x must hold all 8 channels of the weights with sparse_in 0, got 9")
shape("x of more channels than indices", "x", [1, 6, 5, 5], r"in_indices must be \[1, 5\], .*, got \[1, 4\]", SPARSE)
shape("x of another batch than indices", "x", [2, 6, 5, 4], r"in_indices must be \[2, 4\], .*, got \[1, 4\]", SPARSE)
shape("in_indices of one dimension", "in_indices", [4], "in_indices must have 2 dimensions, got 1", SPARSE)
shape("in_indices of another batch", "in_indices", [2, 4], r"in_indices must be \[1, 4\], .*, got \[2, 4\]", SPARSE)
shape("in_indices empty", "in_indices", [1, 0], "every dimension of in_indices must be at least 1", SPARSE)
shape("weights flat", "conv0/weights", [8 * 9 * 16], "weights must have 3 dimensions, got 1")
shape("weights in another order", "conv0/weights", [9, 8, 16], r"dimension 1 of weights must be 9, got \[9, 8, 16\]")
shape("weights of fewer channels", "conv0/weights", [4, 9, 32], "dimension 0 of bias must be 32, got")
shape("bias of two dimensions", "conv0/bias", [4, 4], "bias must have 1 dimensions, got 2")
shape("gate_kernel transposed", "conv0/gate_kernel", [16, 8], r"dimension 0 of gate_kernel must be 8, got \[16, 8\]")
shape("gate_bias of two dimensions", "conv0/gate_bias", [1, 16], "gate_bias must have 1 dimensions, got 2")


@row("more active channels than there are", "x must hold at most the 8 channels of the weights, got 9", op=SPARSE)
def _(writer, op):
    writer.named("x").shape = [1, 6, 5, 9]
    writer.named("in_indices").shape = [1, 9]


def constant(name, operand, values, message, op=None):
    """Adds a file in which an operand is another constant."""

    @row(name, message, op)
    def _(writer, op):
        inputs = writer.nodes[0].inputs
        index = writer.graph.tensors.index(writer.named(f"conv0/{operand}"))
        inputs[inputs.index(index)] = writer.constant("other", values)


# Constants: wrong sizes, and none at all.
for operand, values, message in [
    ("bias", np.zeros(15, np.float32), "dimension 0 of bias must be 16, got"),
    ("gate_bias", np.zeros(17, np.float32), "dimension 0 of gate_bias must be 16, got"),
    ("gate_kernel", np.zeros((7, 16), np.float32), "dimension 0 of gate_kernel must be 8, got"),
    ("weights", np.zeros((8, 9, 15), np.float32), "dimension 0 of bias must be 15, got"),
]:
    constant(f"{operand} of another size", operand, values, message)


for operand in ("weights", "bias", "gate_kernel", "gate_bias"):

    @row(f"{operand} not constant", f"{operand} must be a constant of the file")
    def _(writer, op, operand=operand):
        tensor = writer.named(f"conv0/{operand}")
        tensor.buffer = 0
        writer.graph.inputs.append(writer.graph.tensors.index(tensor))


@row("weights without data", "weights must be a constant of the file")
def _(writer, op):
    writer.model.buffers[writer.named("conv0/weights").buffer].data = None


@row("weights a variable", "weights must be a constant of the file")
def _(writer, op):
    tensor = writer.named("conv0/weights")
    tensor.buffer, tensor.isVariable = 0, True


@row("output a variable", "node 0 writes a variable tensor; the file is damaged")
def _(writer, op):
    writer.graph.tensors[writer.graph.operators[0].outputs[0]].isVariable = True


@row("bias shorter than its shape", "required_bytes <= bytes was not true")  # LiteRT refuses this one itself
def _(writer, op):
    buffer = writer.model.buffers[writer.named("conv0/bias").buffer]
    buffer.data = buffer.data[:-4]


@row("bias longer than its shape", r"bias \[16\] must hold 64 bytes, got 68")
def _(writer, op):
    buffer = writer.model.buffers[writer.named("conv0/bias").buffer]
    buffer.data = np.append(buffer.data, np.zeros(4, np.uint8))


@row("bias sparse and short", "bias must not be stored in TFLite's sparse form")
def _(writer, op):
    tensor = writer.named("conv0/bias")
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = [0]
    metadata = schema.DimensionMetadataT()
    metadata.format, metadata.denseSize = schema.DimensionType.DENSE, 16
    sparsity.dimMetadata = [metadata]
    tensor.sparsity = sparsity
    buffer = writer.model.buffers[tensor.buffer]
    buffer.data = buffer.data[:4]


# Indices out of range: constant ones at Prepare, computed ones when the op runs.
for value in (-1, 8, 2**31 - 1, -(2**31)):

    @row(f"constant index {value}", rf"in_indices must be in \[0, 8\), got {value}", op=SPARSE)
    def _(writer, op, value=value):
        index = writer.constant("constant_indices", np.array([[0, 1, 2, value]], np.int32))
        writer.nodes[0].inputs[1] = index
        del writer.graph.inputs[1]

    @row(f"computed index {value}", r"in_indices holds a value outside \[0, 8\)", op=SPARSE)
    def _(writer, op, value=value):
        writer.run_with = [np.zeros(op.x_shape, np.float32), np.array([[0, 1, 2, value]], np.int32)]


# Tensors that two ops write. TFLite allows it; the last op prepared decides the size, the first one runs with it.
RESIZED = "another size or place than when it was prepared"


@row("two ops write one y", RESIZED, op={"height": 200, "width": 200})
def _(writer, op):
    smaller = Op(height=200, width=200, strides=(200, 200), k=16)
    writer.node(1, smaller, writer.graph.inputs[0], None)
    writer.nodes[1].outputs = [writer.nodes[0].outputs[0]]
    writer.run_with = [np.ones(op.x_shape, np.float32)]


@row("two ops write one out_indices", RESIZED, op={"filters": 4096, "k": 2048})
def _(writer, op):
    writer.node(1, Op(k=1), writer.graph.inputs[0], None)
    writer.nodes[1].outputs[1] = writer.nodes[0].outputs[1]
    writer.run_with = [np.ones(op.x_shape, np.float32)]


@row("an op shrinks another one's x", RESIZED, op={"k": 16})
def _(writer, op):
    y = writer.nodes[0].outputs[0]
    writer.node(1, Op(in_channels=16), y, None)
    writer.node(2, Op(strides=(6, 5), k=16), writer.graph.inputs[0], None)
    writer.nodes[2].outputs = [y]
    writer.run_with = [np.ones(op.x_shape, np.float32)]


@row("an op shrinks another one's in_indices", RESIZED, op={"filters": 4096, "k": 2048})
def _(writer, op):
    y, indices = writer.nodes[0].outputs
    writer.node(1, Op(in_channels=4096, active=2048, k=16), y, indices)
    writer.node(2, Op(k=1), writer.graph.inputs[0], None)
    writer.nodes[2].outputs[1] = indices
    writer.run_with = [np.ones(op.x_shape, np.float32)]


@row("an op writes a tensor after its last reader", "must not share memory with another operand", op={"batch": 2})
def _(writer, op):
    first = y, indices = writer.nodes[0].outputs
    for number in (1, 2, 3):
        y, indices = writer.node(number, Op(batch=2, in_channels=16, active=8), y, indices)
    writer.nodes[-1].outputs[0] = first[0]
    writer.graph.outputs = [writer.nodes[-1].outputs[1]]
    writer.run_with = [np.ones(op.x_shape, np.float32)]


@row("two ops compute the bias", RESIZED)
def _(writer, op):
    """RANGE computes its result when it is prepared, if it can; here the second one moves that of the first."""
    for opcode in (schema.BuiltinOperator.RANGE, schema.BuiltinOperator.RANK):
        code = schema.OperatorCodeT()
        code.version, code.builtinCode, code.deprecatedBuiltinCode = 1, opcode, opcode
        writer.model.operatorCodes.append(code)
    floats = [writer.constant(f"float {value}", np.array(value, np.float32)) for value in (0, 16, 1)]
    integers = [writer.constant(f"integer {value}", np.array(value, np.int32)) for value in (0, 1)]
    rank = writer.tensor("rank", [], INT32)
    bias = writer.tensor("computed_bias", [op.filters])
    fbs = writer.nodes[0]
    fbs.inputs[2] = bias

    def operator(opcode, inputs, output):
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = opcode, inputs, [output]
        return operator

    writer.graph.operators = [
        operator(1, floats, bias),
        fbs,
        operator(2, [fbs.outputs[0]], rank),  # needs y, so that what follows is prepared after the FBS op
        operator(1, [integers[0], rank, integers[1]], bias),
    ]
    writer.graph.outputs.append(bias)
    writer.run_with = [np.ones(op.x_shape, np.float32)]


# g as an operand: what the op's parse and checks do by themselves; it shares the rest with the op above.
for label, settings in {"g": {}, "g, int8": {"quantize": "int8"}}.items():
    gated = {"gated": True, **settings}
    kind, count = ("FbsGatedConv2DInt8", 5) if settings else ("FbsGatedConv2D", 4)
    scales = "weight_scales, " if settings else ""
    attribute(f"{label}: version 2", f"{kind} 'conv0': the file holds version 2", gated, version=2)
    attribute(f"{label}: version 2, composite", f"{kind} 'conv0': the file holds", gated, "composite", version=2)
    attribute(f"{label}: k above the channels", r"k must be in \[1, 16\], the channels", gated, k=17)
    attribute(f"{label}: sparse_in without indices", f"expected {count + 1} inputs .* got {count}", gated, sparse_in=1)
    for sizes in ((1, 15), (2, 16), (16, 1)):
        message = rf"g must be \[1, 16\], a number for each filter and example, got \[{sizes[0]}, {sizes[1]}\]"
        shape(f"{label}: {sizes}", "g", sizes, message, gated)
    for sizes in ((16,), (1, 1, 16)):
        shape(f"{label}: {sizes}", "g", sizes, f"g must have 2 dimensions, got {len(sizes)}", gated)

    @row(f"{label}: missing", rf"expected {count} inputs \(x, g, weights, {scales}bias\).*, got {count - 1}", gated)
    def _(writer, op):
        del writer.nodes[0].inputs[1]

    @row(f"{label}: with a gate", f"expected {count} inputs .*, got {count + 2}", gated)
    def _(writer, op):
        writer.nodes[0].inputs += [writer.constant(name, getattr(op, name)) for name in ("gate_kernel", "gate_bias")]

    @row(f"{label}: int32", "g must be float32 .1., got TFLite's type 2", gated)
    def _(writer, op):
        writer.named("g").type = INT32

    @row(f"{label}: optional", "g must be a tensor of the graph, got index -1", gated)
    def _(writer, op):
        writer.nodes[0].inputs[1] = -1

    # LiteRT gives no delegate a node that reads what it writes.
    @row(f"{label}: is y too", f"unresolved custom op: {kind}", gated)
    def _(writer, op):
        writer.nodes[0].outputs[0] = writer.nodes[0].inputs[1]


# Weights of 8 bits: what the op's parse and checks do by themselves; they share the rest with the op above.
INT8 = {"quantize": "int8"}
FLOAT16 = {"quantize": "float16"}
TYPES = schema.TensorType


attribute("int8: version 2", "FbsConv2DInt8 'conv0': the file holds version 2", INT8, version=2)
attribute("int8: version 2, composite", "FbsConv2DInt8 'conv0': the file holds version 2", INT8, "composite", version=2)
attribute("int8: k missing", "attribute 'k' is missing", INT8, k=None)
attribute("int8: k above the channels", r"k must be in \[1, 16\], the channels of the weights, got 17", INT8, k=17)
attribute("int8: kernel unlike the weights", "dimension 1 of weights must be 15, got", INT8, kernel_w=5)
attribute("int8: group_size no divisor", "group_size must divide out_channels 16, got 3", INT8, group_size=3)
attribute("int8: sparse_in without indices", "expected 7 inputs .* with sparse_in 1, got 6", INT8, sparse_in=1)
for value in (0, 3, -1, 2**31, -(2**63)):
    attribute(f"int8: pool {value}", rf"attribute 'pool' must be in \[1, 2\], got {value}", INT8, pool=value)
attribute("int8: pool a string", "attribute 'pool' must be an integer", INT8, pool="2")
attribute("int8: pool a float", "attribute 'pool' must be an integer", INT8, pool=2.0)
for sizes, message in (({"height": 1}, "got 1 and 5"), ({"width": 1}, "got 6 and 1")):
    message = f"max pooling of 2x2 needs 2 rows and columns, {message}"
    attribute(f"int8: pool of {sizes}", message, {**INT8, **sizes}, pool=2)
row(
    "int8: sums that may overflow",
    "a window with int8 weights must have at most 65000",
    {"quantize": "int8", "in_channels": 1021, "kernel": (8, 8), "filters": 1, "k": 1},
)(lambda writer, op: None)


@row("int8: no scales", "expected 6 inputs .x, weights, weight_scales, bias, gate_kernel, gate_bias.*, got 5", INT8)
def _(writer, op):
    del writer.nodes[0].inputs[2]


@row("int8: weights and scales exchanged", "weights must be int8 .9., got TFLite's type 1", INT8)
def _(writer, op):
    inputs = writer.nodes[0].inputs
    inputs[1], inputs[2] = inputs[2], inputs[1]


for operand, name, message in [
    ("weights", "UINT8", "weights must be int8 .9., got TFLite's type 3"),
    ("weights", "BOOL", "weights must be int8 .9., got TFLite's type 6"),
    ("weight_scales", "INT32", "weight_scales must be float32 .1., got TFLite's type 2"),
    ("gate_kernel", "INT16", "gate_kernel must be float32 .1. or float16 .10., got TFLite's type 7"),
]:

    @row(f"int8: {operand} {name}", message, INT8)
    def _(writer, op, operand=operand, name=name):
        writer.named(f"conv0/{operand}").type = getattr(TYPES, name)


for operand, dtype, message in [
    ("weights", np.float32, "weights must be int8 .9., got TFLite's type 1"),
    ("weights", np.float16, "weights must be int8 .9., got TFLite's type 10"),
    ("weight_scales", np.float16, "weight_scales must be float32 .1., got TFLite's type 10"),
    ("bias", np.float16, "bias must be float32 .1., got TFLite's type 10"),
    ("gate_kernel", np.int8, "gate_kernel must be float32 .1. or float16 .10., got TFLite's type 9"),
    ("gate_bias", np.float16, "gate_bias must be float32 .1., got TFLite's type 10"),
]:
    values = getattr(Op(**INT8), operand).astype(dtype)
    constant(f"int8: {operand} of {np.dtype(dtype)}", operand, values, message, INT8)

for operand, values, message in [
    ("weights", np.zeros((8, 9, 15), np.int8), "dimension 0 of weight_scales must be 15, got"),
    ("weights", np.zeros((7, 9, 16), np.int8), "dimension 0 of gate_kernel must be 7, got"),
    ("weight_scales", np.zeros(15, np.float32), "dimension 0 of weight_scales must be 16, got"),
    ("weight_scales", np.zeros((16, 1), np.float32), "weight_scales must have 1 dimensions, got 2"),
    ("bias", np.zeros(15, np.float32), "dimension 0 of bias must be 16, got"),
    ("gate_kernel", np.zeros((16, 8), np.float16), r"dimension 0 of gate_kernel must be 8, got \[16, 8\]"),
]:
    constant(f"int8: {operand} {values.shape}", operand, values, message, INT8)

for value, at in ((-128, (0, 0, 0)), (-128, (7, 8, 15))):
    values = Op(**INT8).weights.copy()
    values[at] = value
    constant(f"int8: a weight of {value} at {at}", "weights", values, "from -127 to 127, got -128", INT8)

for operand in ("weights", "weight_scales", "gate_kernel"):

    @row(f"int8: {operand} not constant", f"{operand} must be a constant of the file", INT8)
    def _(writer, op, operand=operand):
        tensor = writer.named(f"conv0/{operand}")
        tensor.buffer = 0
        writer.graph.inputs.append(writer.graph.tensors.index(tensor))


for quantize, operand, held in [
    ("int8", "weights", 1152),
    ("float16", "weights", 2304),
    ("float16", "gate_kernel", 256),
]:

    @row(
        f"{quantize}: {operand} longer than its shape",
        rf"{operand} .* must hold {held} bytes, got {held + 1}",
        {"quantize": quantize},
    )
    def _(writer, op, operand=operand):
        buffer = writer.model.buffers[writer.named(f"conv0/{operand}").buffer]
        buffer.data = np.append(buffer.data, np.zeros(1, np.uint8))

    @row(
        f"{quantize}: {operand} shorter than its shape", "required_bytes <= bytes was not true", {"quantize": quantize}
    )
    def _(writer, op, operand=operand):
        buffer = writer.model.buffers[writer.named(f"conv0/{operand}").buffer]
        buffer.data = buffer.data[:-1]


for operand in ("bias", "gate_bias"):
    values = getattr(Op(), operand).astype(np.float16)
    constant(
        f"float16: {operand} too", operand, values, f"{operand} must be float32 .1., got TFLite's type 10", FLOAT16
    )

for value in (-1, 8):

    @row(f"int8: constant index {value}", rf"in_indices must be in \[0, 8\), got {value}", {**INT8, **SPARSE})
    def _(writer, op, value=value):
        index = writer.constant("constant_indices", np.array([[0, 1, 2, value]], np.int32))
        writer.nodes[0].inputs[1] = index
        del writer.graph.inputs[1]

    @row(f"int8: computed index {value}", r"in_indices holds a value outside \[0, 8\)", {**INT8, **SPARSE})
    def _(writer, op, value=value):
        writer.run_with = [np.zeros(op.x_shape, np.float32), np.array([[0, 1, 2, value]], np.int32)]


@row("int8: two ops write one y", RESIZED, {**INT8, "height": 200, "width": 200})
def _(writer, op):
    smaller = Op(height=200, width=200, strides=(200, 200), k=16, quantize="int8")
    writer.node(1, smaller, writer.graph.inputs[0], None)
    writer.nodes[1].outputs = [writer.nodes[0].outputs[0]]
    writer.run_with = [np.ones(op.x_shape, np.float32)]


# Sums: attributes.
for key in Add().attributes:
    attribute(f"sum: {key} missing", f"attribute '{key}' is missing", Add(), **{key: None})
for value in (0, -1, 9, 2**31, -(2**63)):
    attribute(f"sum: addends {value}", rf"attribute 'addends' must be in \[1, 8\], got {value}", Add(), addends=value)
for value in (-1, 4, 2**31, 2**62):
    attribute(f"sum: compact {value}", rf"attribute 'compact' must be in \[0, 3\], got {value}", Add(), compact=value)
for value in (0, -1, 2**31):
    attribute(
        f"sum: channels {value}",
        rf"attribute 'channels' must be in \[1, 2147483647\], got {value}",
        Add(),
        channels=value,
    )
attribute("sum: channels a string", "attribute 'channels' must be an integer", Add(), channels="24")
attribute(
    "sum: activation unknown", "attribute 'activation' must be NONE, RELU or RELU6, got 'x'", Add(), activation="x"
)
attribute("sum: version 2", "holds version 2 of this op, and this delegate knows version 1", Add(), version=2)
attribute("sum: version 2, composite", "FbsAdd 'sum': the file holds version 2", Add(), "composite", version=2)

# Sums: attributes against the tensors.
attribute("sum: one addend more", r"expected 4 inputs \(3 addends, 1 with indices\), got 3", Add(), addends=3)
attribute(
    "sum: one addend less", r"expected 2 inputs \(1 addends, 1 with indices\), got 3", Add(), addends=1, compact=1
)
attribute("sum: compact swapped", "indices0 must be int32", Add(), compact=1)
attribute("sum: all compact", r"expected 4 inputs \(2 addends, 2 with indices\), got 3", Add(), compact=3)
attribute("sum: none compact", r"expected 2 inputs \(2 addends, 0 with indices\), got 3", Add(), compact=0)
attribute("sum: fewer channels", "x0 must hold all 23 channels, got 24", Add(), channels=23)
attribute("sum: more channels", "x0 must hold all 25 channels, got 24", Add(), channels=25)
attribute("sum: fewer channels than held", "x0 must hold at most the 9 channels, got 10", Add(active=(10,)), channels=9)
attribute("sum: enormous", "the sum must have at most [0-9]+ elements", Add(active=(10,)), channels=2**30)


# Sums: operands.
@row("sum: no inputs", "expected 3 inputs .*, got 0", Add())
def _(writer, op):
    writer.nodes[0].inputs = []


@row("sum: two outputs", r"expected 1 output \(y\), got 2", Add())
def _(writer, op):
    writer.nodes[0].outputs.append(writer.tensor("more", (1, 8)))


@row("sum: optional addend", "x1 must be a tensor of the graph, got index -1", Add())
def _(writer, op):
    writer.nodes[0].inputs[1] = -1


@row("sum: optional indices", "indices1 must be a tensor of the graph, got index -1", Add())
def _(writer, op):
    writer.nodes[0].inputs[2] = -1


@row("sum: y constant", "y must be writable memory, got TFLite's allocation type 1", Add())
def _(writer, op):
    y = writer.constant("constant", np.zeros(op.shape(), np.float32))
    writer.nodes[0].outputs[0] = writer.graph.outputs[0] = y


# (TFLite refuses an op whose output is its own input, before the delegate sees it.)
@row("sum: x0 int32", "x0 must be float32", Add())
def _(writer, op):
    writer.named("x0").type = INT32


@row("sum: indices float32", "indices1 must be int32", Add())
def _(writer, op):
    writer.named("indices1").type = FLOAT32


@row("sum: y int32", "y must be float32", Add())
def _(writer, op):
    writer.named("sum").type = INT32


shape("sum: x0 a vector", "x0", [24], "x0 must have at least 2 dimensions, got 1", Add())
shape("sum: x0 a scalar", "x0", [], "x0 must have at least 2 dimensions, got 0", Add())
shape("sum: x0 empty", "x0", [1, 0, 5, 24], "every dimension of x0 must be at least 1", Add())
shape("sum: x0 of another rank", "x0", [1, 30, 24], "x1 must have 3 dimensions, got 4", Add())
shape("sum: x1 of another height", "x1", [1, 5, 5, 10], r"x1 must be of the shape of x0 .*, got \[1, 5, 5, 10\]", Add())
shape("sum: x1 transposed", "x1", [1, 5, 6, 10], r"x1 must be of the shape of x0 .*, got \[1, 5, 6, 10\]", Add())
shape("sum: x1 of another batch", "x1", [2, 6, 5, 10], r"x1 must be of the shape of x0 .*, got \[2, 6, 5, 10\]", Add())
shape("sum: x1 of more channels", "x1", [1, 6, 5, 25], "x1 must hold at most the 24 channels, got 25", Add())
shape(
    "sum: x1 of more channels than indices",
    "x1",
    [1, 6, 5, 11],
    r"indices1 must be \[1, 11\], one index for each",
    Add(),
)
shape("sum: indices of one dimension", "indices1", [10], "indices1 must have 2 dimensions, got 1", Add())
shape("sum: indices of another batch", "indices1", [2, 10], r"indices1 must be \[1, 10\], .*, got \[2, 10\]", Add())
shape("sum: x0 enormous", "x0", [1, 65536, 65536, 24], "x0 is too large", Add(active=(None,)))

for value in (-1, 24, 2**31 - 1, -(2**31)):

    @row(f"sum: constant index {value}", rf"indices1 must be in \[0, 24\), got {value}", Add(active=(None, 2)))
    def _(writer, op, value=value):
        writer.nodes[0].inputs[2] = writer.constant("constant_indices", np.array([[0, value]], np.int32))
        del writer.graph.inputs[2]

    @row(f"sum: computed index {value}", r"indices hold a value outside \[0, 24\)", Add(active=(None, 2), batch=2))
    def _(writer, op, value=value):
        writer.run_with = [np.zeros(operand.shape, operand.dtype) for operand in op.inputs()]
        writer.run_with[2][1, 1] = value


def add_node(writer, op, operands):
    """One more sum in a file; returns its node."""
    y = writer.tensor("sum of more", op.shape())
    writer._append("fbs.add", "more", operands, [y], op.attributes, "custom")
    return writer.nodes[-1]


@row("sum: two ops write one y", RESIZED, Add(pixels=(100, 100)))
def _(writer, op):
    small = writer.tensor("small", (1, 1, 24))
    writer.graph.inputs.append(small)
    add_node(writer, Add(pixels=(1,), active=(None,)), [small]).outputs = list(writer.nodes[0].outputs)
    writer.run_with = op.inputs()


@row("sum: an op shrinks another one's x", RESIZED, Add(pixels=(100, 100), active=(None,)))
def _(writer, op):
    (y,) = writer.graph.outputs
    small = writer.tensor("small", (1, 1, 24))
    writer.graph.inputs.append(small)
    writer.graph.outputs = list(add_node(writer, Add(pixels=(100, 100), active=(None,)), [y]).outputs)
    add_node(writer, Add(pixels=(1,), active=(None,)), [small]).outputs = [y]
    writer.run_with = op.inputs()


@row(
    "sum: an op writes a tensor after its last reader",
    "must not share memory with another operand",
    Add(active=(None,)),
)
def _(writer, op):
    first = y = writer.graph.outputs[0]
    for _ in range(2):
        (y,) = add_node(writer, op, [y]).outputs
    writer.graph.outputs = [y]
    add_node(writer, op, [y]).outputs = [first]
    writer.run_with = op.inputs()


# Depthwise convolutions: attributes.
for key in Depthwise().attributes:
    attribute(f"depthwise: {key} missing", f"attribute '{key}' is missing", Depthwise(), **{key: None})
for key in ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w"):
    for value in (0, -1, 2**31):
        attribute(
            f"depthwise: {key} {value}",
            rf"attribute '{key}' must be in \[1, 2147483647\], got {value}",
            Depthwise(),
            **{key: value},
        )
attribute("depthwise: kernel_h a string", "attribute 'kernel_h' must be an integer", Depthwise(), kernel_h="3")
attribute("depthwise: padding unknown", "'padding' must be SAME or VALID, got 'x'", Depthwise(), padding="x")
attribute(
    "depthwise: activation unknown", "'activation' must be NONE, RELU or RELU6, got 'x'", Depthwise(), activation="x"
)
attribute(
    "depthwise: version 2", "holds version 2 of this op, and this delegate knows version 1", Depthwise(), version=2
)
attribute(
    "depthwise: version 2, composite",
    "FbsDepthwiseConv2D 'depthwise': the file holds version 2",
    Depthwise(),
    "composite",
    version=2,
)

# Depthwise convolutions: attributes against the tensors.
attribute("depthwise: kernel unlike the weights", "dimension 1 of weights must be 15, got", Depthwise(), kernel_w=5)
attribute(
    "depthwise: kernel enormous",
    "a kernel of 2147483647 x 2147483647 is too large",
    Depthwise(),
    kernel_h=2**31 - 1,
    kernel_w=2**31 - 1,
)
attribute(
    "depthwise: dilation too large for VALID",
    "a window of height 9 does not fit an input of height 6",
    Depthwise(padding="VALID"),
    dilation_h=4,
)
attribute(
    "depthwise: dilation enormous", "a window of width 4294967295 is too large", Depthwise(), dilation_w=2**31 - 1
)


# Depthwise convolutions: operands.
@row("depthwise: no inputs", r"expected 4 inputs \(x, indices, weights, bias\), got 0", Depthwise())
def _(writer, op):
    writer.nodes[0].inputs = []


@row("depthwise: one input missing", "expected 4 inputs .*, got 3", Depthwise())
def _(writer, op):
    writer.nodes[0].inputs.pop()


@row("depthwise: two outputs", r"expected 1 output \(y\), got 2", Depthwise())
def _(writer, op):
    writer.nodes[0].outputs.append(writer.tensor("more", (1, 8)))


@row("depthwise: float16 weights of another size", r"weights \[24, 9\] must hold 432 bytes, got 864", Depthwise())
def _(writer, op):
    writer.named("weights").type = TYPES.FLOAT16


@row("depthwise: float16 bias", "bias must be float32 .1., got TFLite's type 10", Depthwise())
def _(writer, op):
    writer.nodes[0].inputs[3] = writer.constant("other", op.bias.astype(np.float16))


@row("depthwise: int8 weights", "weights must be float32 .1. or float16 .10., got TFLite's type 9", Depthwise())
def _(writer, op):
    writer.nodes[0].inputs[2] = writer.constant("other", op.weights.astype(np.int8))


for number, operand in enumerate(("x", "indices", "weights", "bias")):

    @row(f"depthwise: optional {operand}", f"{operand} must be a tensor of the graph, got index -1", Depthwise())
    def _(writer, op, number=number):
        writer.nodes[0].inputs[number] = -1

    @row(f"depthwise: {operand} of another type", f"{operand} must be (float32|int32)", Depthwise())
    def _(writer, op, operand=operand):
        tensor = writer.named(operand)
        tensor.type = FLOAT32 if tensor.type == INT32 else INT32


for operand in ("weights", "bias"):

    @row(f"depthwise: {operand} not constant", f"{operand} must be a constant of the file", Depthwise())
    def _(writer, op, operand=operand):
        tensor = writer.named(operand)
        tensor.buffer = 0
        writer.graph.inputs.append(writer.graph.tensors.index(tensor))


@row("depthwise: y int32", "y must be float32", Depthwise())
def _(writer, op):
    writer.named("depthwise").type = INT32


@row("depthwise: y constant", "y must be writable memory, got TFLite's allocation type 1", Depthwise())
def _(writer, op):
    y = writer.constant("constant", np.zeros((1, 6, 5, 10), np.float32))
    writer.nodes[0].outputs[0] = writer.graph.outputs[0] = y


shape("depthwise: x of three dimensions", "x", [6, 5, 10], "x must have 4 dimensions, got 3", Depthwise())
shape("depthwise: x empty", "x", [1, 0, 5, 10], "every dimension of x must be at least 1", Depthwise())
shape("depthwise: x enormous", "x", [1, 65536, 65536, 10], "the input must have at most [0-9]+ elements", Depthwise())
shape(
    "depthwise: x of more channels", "x", [1, 6, 5, 25], "x must hold at most the 24 channels .*, got 25", Depthwise()
)
shape("depthwise: x unlike indices", "x", [1, 6, 5, 11], r"indices must be \[1, 11\], one index for each", Depthwise())
shape("depthwise: x of another batch", "x", [2, 6, 5, 10], r"indices must be \[2, 10\], .*, got \[1, 10\]", Depthwise())
shape("depthwise: indices of one dimension", "indices", [10], "indices must have 2 dimensions, got 1", Depthwise())
shape("depthwise: weights flat", "weights", [24 * 9], "weights must have 2 dimensions, got 1", Depthwise())
shape("depthwise: weights transposed", "weights", [9, 24], "dimension 1 of weights must be 9, got", Depthwise())
shape("depthwise: bias of two dimensions", "bias", [4, 6], "bias must have 1 dimensions, got 2", Depthwise())


@row("depthwise: bias of another size", "dimension 0 of bias must be 24, got", Depthwise())
def _(writer, op):
    writer.nodes[0].inputs[3] = writer.constant("other", np.zeros(23, np.float32))


for value in (-1, 24, 2**31 - 1, -(2**31)):

    @row(f"depthwise: constant index {value}", rf"indices must be in \[0, 24\), got {value}", Depthwise(active=2))
    def _(writer, op, value=value):
        writer.nodes[0].inputs[1] = writer.constant("constant_indices", np.array([[0, value]], np.int32))
        del writer.graph.inputs[1]

    @row(f"depthwise: computed index {value}", r"indices holds a value outside \[0, 24\)", Depthwise(active=2, batch=2))
    def _(writer, op, value=value):
        writer.run_with = op.inputs()
        writer.run_with[1][1, 1] = value


def depthwise_node(writer, op, operands):
    """One more depthwise convolution in a file, with the first one's constants; returns its node."""
    sizes, _ = op.windows()
    y = writer.tensor("more", (op.batch, *sizes, op.active))
    operands = [*operands, *writer.nodes[0].inputs[2:]]
    writer._append("fbs.depthwise_conv2d", "more", operands, [y], op.attributes, "custom")
    return writer.nodes[-1]


@row("depthwise: two ops write one y", RESIZED, Depthwise(height=100, width=100))
def _(writer, op):
    smaller = Depthwise(height=100, width=100, strides=(100, 100))
    depthwise_node(writer, smaller, writer.graph.inputs).outputs = list(writer.nodes[0].outputs)
    writer.run_with = op.inputs()


@row(
    "depthwise: an op writes a tensor after its last reader", "must not share memory with another operand", Depthwise()
)
def _(writer, op):
    (first,) = (y,) = writer.graph.outputs
    indices = writer.graph.inputs[1]
    for _ in range(2):
        (y,) = depthwise_node(writer, op, [y, indices]).outputs
    writer.graph.outputs = [y]
    depthwise_node(writer, op, [y, indices]).outputs = [first]
    writer.run_with = op.inputs()


def hostile_file(name):
    """The bytes of one file, and what to run it with (None: it is refused before)."""
    spoil, _, op, form = ROWS[name]
    writer = Writer([op], form)
    spoil(writer, op)
    return writer.pack(), getattr(writer, "run_with", None)


def refusal(name, library):
    """The error that running the file raises; None when it raises none."""
    content, run_with = hostile_file(name)
    delegate = litert.load_delegate(library)
    try:
        interpreter = litert.Interpreter(model_content=content, experimental_delegates=[delegate], num_threads=2)
        interpreter.allocate_tensors()
        for details, value in zip(interpreter.get_input_details(), run_with or [], strict=False):
            interpreter.set_tensor(details["index"], value)
        interpreter.invoke()
    except (RuntimeError, ValueError) as error:
        return str(error)
    return None


if __name__ == "__main__":
    messages = {}
    for name in ROWS:
        print(name, file=sys.stderr, flush=True)  # so that a crash shows where
        messages[name] = refusal(name, sys.argv[1])
    print(json.dumps(messages))
