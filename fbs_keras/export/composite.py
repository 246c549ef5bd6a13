"""Turns custom ops into composites, such as `fbs.conv2d`, with subgraphs of built-in ops that any LiteRT can run.

The weights are inputs of the composite, so they are stored once, and equal layers share a subgraph.
"""

import flatbuffers
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from fbs_keras.export.attributes import CALL, OPS, Conv2DAttributes


class _Builder(flatbuffers.Builder):
    """Aligns vectors to 16 bytes, as the schema asks for buffers; the generated Python code does not."""

    def StartVector(self, elemSize, numElems, alignment):
        return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)


def read(content):
    """Reads a .tflite file's bytes into a `ModelT`."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def write(model):
    """Writes a `ModelT` as a .tflite file's bytes."""
    builder = _Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def ops(model):
    """Lists the ops of each subgraph by name: `"CONV_2D"`, or `"CUSTOM FbsConv2D"`."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    codes = []
    for code in model.operatorCodes:
        custom = code.customCode.decode() if code.customCode else ""
        codes.append(f"{names[max(code.builtinCode, code.deprecatedBuiltinCode)]} {custom}".strip())
    return [[codes[op.opcodeIndex] for op in subgraph.operators or []] for subgraph in model.subgraphs]


def order_inputs_and_outputs(content, inputs):
    """Puts a file's inputs and outputs into the order of the function it was converted from.

    Args:
        content: The bytes of a .tflite file with one signature, whose outputs are called `output_0`, `output_1` ...
        inputs: The names of the function's inputs, in order.

    Returns:
        The new file's bytes.
    """
    model = read(content)
    (signature,) = model.signatureDefs
    tensors = {item.name.decode(): item.tensorIndex for item in signature.inputs}
    model.subgraphs[0].inputs = [tensors[name] for name in inputs]
    outputs = sorted(signature.outputs, key=lambda item: int(item.name.decode().removeprefix("output_")))
    model.subgraphs[0].outputs = [item.tensorIndex for item in outputs]
    return write(model)


def to_composites(content, decompose):
    """Rewrites every custom op of ours in a file as a composite.

    Args:
        content: The .tflite file's bytes.
        decompose: A function of the op's `Attributes` and the shapes of its inputs that returns the .tflite bytes of
            its decomposition, whose inputs and outputs are the op's, in order.

    Returns:
        The new file's bytes.
    """
    model = read(content)
    main = model.subgraphs[0]
    subgraphs: dict[tuple, int] = {}
    for op in main.operators:
        kind = _custom_kind(model, op)
        if kind is None:
            continue
        options = bytes(bytearray(op.customOptions))
        shapes = tuple(tuple(int(size) for size in main.tensors[index].shape) for index in op.inputs)
        if (options, shapes) not in subgraphs:
            values = flexbuffers.Loads(options)
            del values["version"]
            decomposition = read(decompose(kind(**values), shapes))
            subgraphs[options, shapes] = _append(model, decomposition, f"{kind.composite_name}_{len(subgraphs)}")
        composite = schema.StableHLOCompositeOptionsT()
        composite.name = kind.composite_name
        composite.version = 1
        composite.decompositionSubgraphIndex = subgraphs[options, shapes]
        composite.compositeAttributes = list(options)
        op.opcodeIndex = _opcode(model, schema.BuiltinOperator.STABLEHLO_COMPOSITE)
        op.builtinOptions2Type = schema.BuiltinOptions2.StableHLOCompositeOptions
        op.builtinOptions2 = composite
        op.customOptions = None
    _drop_unused_opcodes(model)
    return write(model)


def show_choices(content, weights):
    """Makes the indices that FBS ops choose outputs of a file, after its own.

    Args:
        content: The .tflite file's bytes.
        weights: For each op to look for, its weights; equal ones are taken in the file's order.

    Returns:
        `(content, positions)`: the new file's bytes, and for each op the position of its indices among the outputs, or
        `None` where the file has no such op: its built-in ops cannot be told apart.
    """
    model = read(content)
    outputs, positions = list(model.subgraphs[0].outputs), []
    for op in _find_ops(model, weights):
        shows = op is not None and len(op.outputs) == 2
        positions.append(len(outputs) if shows else None)
        if shows:
            outputs.append(op.outputs[1])
    model.subgraphs[0].outputs = outputs
    model.signatureDefs = None
    return write(model), positions


def name_outputs(content, names):
    """Names the outputs of our custom ops after their layers, as profiles and the delegate's messages show them.

    Args:
        content: The .tflite file's bytes, whose ops still have the attribute `CALL`. It is taken off.
        names: The name for each value of `CALL`.

    Returns:
        The new file's bytes.
    """
    model = read(content)
    tensors = model.subgraphs[0].tensors
    for op in model.subgraphs[0].operators:
        if _custom_kind(model, op) is None:
            continue
        attributes = flexbuffers.Loads(bytes(bytearray(op.customOptions)))
        name = names[attributes.pop(CALL)]
        op.customOptions = list(flexbuffers.Dumps(attributes))
        for index, suffix in zip(op.outputs, ("", "/indices"), strict=False):
            tensors[index].name = (name + suffix).encode()
    return write(model)


def _find_ops(model, weights):
    """The FBS convolutions that have the given weights, in their order; `None` where there is none."""
    main = model.subgraphs[0]
    ops = [op for op in main.operators if _is_convolution(model, op)]
    buffers: list[bytes | None] = [bytes(model.buffers[main.tensors[op.inputs[-4]].buffer].data) for op in ops]
    found = []
    for value in weights:
        index = buffers.index(value.tobytes()) if value.tobytes() in buffers else None
        found.append(None if index is None else ops[index])
        if index is not None:
            buffers[index] = None
    return found


def _custom_kind(model, op):
    """The `Attributes` class of one of our custom ops, else `None`."""
    return OPS.get((model.operatorCodes[op.opcodeIndex].customCode or b"").decode())


def _is_convolution(model, op):
    composite = op.builtinOptions2
    if isinstance(composite, schema.StableHLOCompositeOptionsT):
        return composite.name.decode() == Conv2DAttributes.composite_name
    return _custom_kind(model, op) is Conv2DAttributes


def _append(model, other, name):
    """Appends the only subgraph of another model, with its constants and opcodes; returns its index."""
    (subgraph,) = other.subgraphs
    for tensor in subgraph.tensors:
        buffer = other.buffers[tensor.buffer]
        tensor.buffer = 0
        if buffer.data is not None and len(buffer.data):
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
    for op in subgraph.operators:
        code = other.operatorCodes[op.opcodeIndex]
        op.opcodeIndex = _opcode(model, code.builtinCode, code.version)
    subgraph.name = name.encode()
    model.subgraphs.append(subgraph)
    return len(model.subgraphs) - 1


def _opcode(model, builtin, version=1):
    """The index of a built-in op's code, added where it is missing."""
    for index, code in enumerate(model.operatorCodes):
        if (code.builtinCode, code.version, code.customCode) == (builtin, version, None):
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = builtin
    code.deprecatedBuiltinCode = min(builtin, 127)
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _drop_unused_opcodes(model):
    """Removes op codes without an op: a runtime looks up the custom op's even when no op has it."""
    used = sorted({op.opcodeIndex for subgraph in model.subgraphs for op in subgraph.operators or []})
    for subgraph in model.subgraphs:
        for op in subgraph.operators or []:
            op.opcodeIndex = used.index(op.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[index] for index in used]
