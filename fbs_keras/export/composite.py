"""Turns custom ops into composites, such as `fbs.conv2d`, with subgraphs of built-in ops that any LiteRT can run.

The weights are inputs of the composite, so they are stored once, and equal layers share a subgraph.
"""

import copy
import re

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from fbs_keras.compact.op import CALL
from fbs_keras.compact.ops import OPS
from fbs_keras.compact.ops.conv2d import Conv2DOp
from fbs_keras.export import names as naming

TYPES = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}


class _Builder(flatbuffers.Builder):
    """Aligns vectors to 16 bytes, as the schema asks for buffers; the generated Python code does not."""

    def StartVector(self, elemSize, numElems, alignment):
        return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)


def read(content):
    """Reads a .tflite file's bytes into a `ModelT`."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def write(model):
    """Writes a `ModelT` as a .tflite file's bytes, each of whose tensors has a name that no other has.

    Quantisers and converters of other formats tell tensors apart by name, through all subgraphs.
    """
    tensors = [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors]
    main = model.subgraphs[0]
    ends = [main.tensors[index] for index in (*main.inputs, *main.outputs)]
    tensors.sort(key=lambda tensor: all(tensor is not end for end in ends))  # which keep their names
    for tensor, name in zip(tensors, naming.unique([tensor.name or b"" for tensor in tensors]), strict=True):
        tensor.name = name
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


def to_composites(content, decompose, inlined=False):
    """Rewrites every custom op of ours in a file as a composite.

    Args:
        content: The .tflite file's bytes.
        decompose: A function of the `compact.op.Op` and the shapes and types of its inputs, `((1, 8, 8, 4),
            "float32")`, that returns the .tflite bytes of its decomposition, whose inputs and outputs are the op's, in
            order.
        inlined: Whether `inline_composites` comes next. Otherwise no output of a decomposition is also read inside it:
            LiteRT's CompiledModel loses such outputs where it inlines composites itself ("Input tensor lacks data").
            Defaults to `False`.

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
        inputs = [main.tensors[index] for index in op.inputs]
        specs = tuple((tuple(int(size) for size in tensor.shape), TYPES[tensor.type]) for tensor in inputs)
        key = kind, options, specs
        if key not in subgraphs:
            decomposition = read(decompose(_attributes(kind, options), specs))
            subgraphs[key] = _append(model, decomposition, f"{kind.composite_name}_{len(subgraphs)}")
            if not inlined:
                _copy_outputs(model, model.subgraphs[subgraphs[key]])
        composite = schema.StableHLOCompositeOptionsT()
        composite.name = kind.composite_name
        composite.version = 1
        composite.decompositionSubgraphIndex = subgraphs[key]
        composite.compositeAttributes = list(options)
        op.opcodeIndex = _opcode(model, schema.BuiltinOperator.STABLEHLO_COMPOSITE)
        op.builtinOptions2Type = schema.BuiltinOptions2.StableHLOCompositeOptions
        op.builtinOptions2 = composite
        op.customOptions = None
    _drop_unused_opcodes(model)
    return write(model)


def inline_composites(content):
    """Puts the decomposition of each composite of ours in its place.

    Args:
        content: The .tflite file's bytes, as from `to_composites`.

    Returns:
        The bytes of a file without composites. Subgraphs of loops and branches stay.
    """
    model = read(content)
    main = model.subgraphs[0]
    operators = []
    inlined = set()
    for op in main.operators:
        composite = op.builtinOptions2
        if not isinstance(composite, schema.StableHLOCompositeOptionsT):
            operators.append(op)
            continue
        inlined.add(composite.decompositionSubgraphIndex)
        body = copy.deepcopy(model.subgraphs[composite.decompositionSubgraphIndex])
        layer = naming.prefix(main.tensors[op.outputs[0]].name)
        for tensor in body.tensors:
            tensor.name = layer + tensor.name.removeprefix(body.name)
        places = dict(zip(map(int, body.inputs), map(int, op.inputs), strict=True))
        places |= dict(zip(map(int, body.outputs), map(int, op.outputs), strict=True))
        for index, tensor in enumerate(body.tensors):
            if index not in places:
                places[index] = len(main.tensors)
                main.tensors.append(tensor)
        for inner in body.operators:
            inner.inputs = [places.get(int(index), -1) for index in inner.inputs]
            inner.outputs = [places[int(index)] for index in inner.outputs]
        operators += body.operators
    main.operators = operators
    # They come last, so that the indices of the others, which WHILE and IF hold, stay.
    model.subgraphs = [subgraph for index, subgraph in enumerate(model.subgraphs) if index not in inlined]
    _drop_unused_opcodes(model)
    return write(model)


def quantization(model):
    """How a file's constants were quantised, one of `QUANTIZATIONS`, by the types that it has."""
    types = {TYPES[tensor.type] for tensor in model.subgraphs[0].tensors if _data(model, tensor)}
    if "int8" in types:
        return "dynamic_int8"
    return "float16" if "float16" in types else None


def show_choices(content, weights):
    """Makes the indices that FBS ops choose outputs of a file, after its own.

    Args:
        content: The .tflite file's bytes.
        weights: For each op to look for, its weights as they are stored; equal ones are taken in the file's order.

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


def restore_ops(content, names):
    """Undoes what our custom ops are disguised by on their way through TensorFlow's converter.

    Their outputs are named after their layers, as profiles and the delegate's messages show them; the attribute `CALL`
    is taken off; and their constants, integers so far, become the floats of the same bits.

    Args:
        content: The .tflite file's bytes.
        names: The name for each value of `CALL`.

    Returns:
        The new file's bytes.
    """
    model = read(content)
    main = model.subgraphs[0]
    tensors = main.tensors
    names = naming.unique(names)
    named: set[int] = set()
    floats = []
    for op in main.operators:
        kind = _custom_kind(model, op)
        if kind is None:
            continue
        attributes = flexbuffers.Loads(bytes(bytearray(op.customOptions)))
        name = names[attributes.pop(CALL)]
        op.customOptions = list(flexbuffers.Dumps(attributes))
        for index, suffix in zip(op.outputs, ("", "/indices"), strict=False):
            tensors[index].name = naming.encode(name + suffix)
        op.inputs = list(map(int, op.inputs))
        first = len(op.inputs) - len(kind.constant_names)
        for index, constant in zip(op.inputs[first:], kind.constant_names, strict=True):
            if index not in named:  # equal constants are stored once
                tensors[index].name = naming.encode(f"{name}/{constant}")
                named.add(index)
        floats += [(op, i) for i in range(first, len(op.inputs)) if tensors[op.inputs[i]].type in _FLOATS]
    _retype(main, floats)
    return write(model)


_FLOATS = {
    schema.TensorType.INT32: schema.TensorType.FLOAT32,
    schema.TensorType.INT16: schema.TensorType.FLOAT16,
}


def _retype(graph, places):
    """Makes the integers at `places`, `(op, which of its inputs)`, floats, but not for other ops that read them."""
    ours = {(id(op), i) for op, i in places}
    integers = {int(index) for op in graph.operators for i, index in enumerate(op.inputs) if (id(op), i) not in ours}
    floats: dict[int, int] = {}
    for op, i in places:
        index = op.inputs[i]
        if index not in floats:
            tensor, floats[index] = graph.tensors[index], index
            if index in integers:
                tensor, floats[index] = copy.copy(tensor), len(graph.tensors)
                graph.tensors.append(tensor)
            tensor.type = _FLOATS[tensor.type]
        op.inputs[i] = floats[index]


def _find_ops(model, weights):
    """The FBS convolutions that have the given weights, in their order; `None` where there is none."""
    main = model.subgraphs[0]
    ops, buffers = [], []
    for op in main.operators:
        kind = _kind(model, op)
        if kind is not None and issubclass(kind, Conv2DOp):
            ops.append(op)
            buffers.append(_data(model, main.tensors[op.inputs[-len(kind.constant_names)]]))
    found = []
    for value in weights:
        index = buffers.index(value.tobytes()) if value.tobytes() in buffers else None
        found.append(None if index is None else ops[index])
        if index is not None:
            buffers[index] = None
    return found


def _data(model, tensor):
    """The bytes of a constant, `None` for another tensor."""
    data = model.buffers[tensor.buffer].data
    return None if data is None else bytes(data)


def _attributes(kind, options):
    values = flexbuffers.Loads(options)
    del values["version"]
    return kind(**values)


def _custom_kind(model, op):
    """The class of one of our custom ops, else `None`."""
    return OPS.get((model.operatorCodes[op.opcodeIndex].customCode or b"").decode())


def _kind(model, op):
    """The class of one of our ops, custom or composite, else `None`."""
    composite = op.builtinOptions2
    if isinstance(composite, schema.StableHLOCompositeOptionsT):
        return next((kind for kind in OPS.values() if kind.composite_name == composite.name.decode()), None)
    return _custom_kind(model, op)


def _append(model, other, name):
    """Appends the only subgraph of another model, with its constants and opcodes; returns its index."""
    (subgraph,) = other.subgraphs
    for index in subgraph.inputs:
        tensor = subgraph.tensors[index]
        tensor.name = re.sub(rb"^\d+_", b"", tensor.name)  # `converter.decompose` puts the operand's number there
    for index, role in zip(subgraph.outputs, (b"y", b"indices"), strict=False):
        subgraph.tensors[index].name = role
    for tensor in subgraph.tensors:
        tensor.name = name.encode() + b"/" + tensor.name
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


def _copy_outputs(model, graph):
    """Lets the outputs of a graph that its ops read leave it as copies."""
    read_inside = {int(index) for op in graph.operators for index in op.inputs}
    outputs = list(map(int, graph.outputs))
    for position, index in enumerate(outputs):
        if index not in read_inside:
            continue
        tensor = graph.tensors[index]
        shape = schema.TensorT()
        shape.name, shape.shape, shape.type = tensor.name + b"/shape", [len(tensor.shape)], schema.TensorType.INT32
        shape.buffer = _buffer(model, np.array(tensor.shape, "<i4").tobytes())
        output = copy.copy(tensor)
        tensor.name += b"/inside"
        op = schema.OperatorT()
        op.opcodeIndex = _opcode(model, schema.BuiltinOperator.RESHAPE)
        op.inputs, op.outputs = [index, len(graph.tensors)], [len(graph.tensors) + 1]
        graph.tensors += [shape, output]
        graph.operators.append(op)
        outputs[position] = op.outputs[0]
    graph.outputs = outputs


def _buffer(model, data):
    """The index of a buffer of these bytes, added where it is missing."""
    for index, buffer in enumerate(model.buffers[1:], 1):
        if buffer.data is not None and len(buffer.data) == len(data) and bytes(buffer.data) == data:
            return index
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(data, "uint8")
    model.buffers.append(buffer)
    return len(model.buffers) - 1


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
