"""Model files that are almost right: ours, with some bytes or some fields changed."""

import random

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers
from op_files import Add, Depthwise, Op, Writer

INTEGERS = [-(2**31), -(2**31) + 1, -129, -128, -2, -1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 127, 128, 255, 256, 32767]
INTEGERS += [65535, 65536, 2**24, 2**28, 2**30, 2**31 - 2, 2**31 - 1]
FLOATS = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0, -1, 1], np.float32)
NAMES = ["FbsConv2D", "FbsConv2DInt8", "FbsGatedConv2D", "FbsGatedConv2DInt8", "FbsDepthwiseConv2D", "FbsAdd"]
NAMES += ["Unknown", ""]
COMPOSITES = ["fbs.conv2d", "fbs.conv2d_int8", "fbs.gated_conv2d", "fbs.gated_conv2d_int8", "fbs.depthwise_conv2d"]
COMPOSITES += ["fbs.add", "unknown", ""]


def op_models():
    """{name: bytes}: one small file for each op and each way to store it, and chains of them."""
    ops = {
        "conv2d": [Op(k=8)],
        "sparse": [Op(active=4, k=16, kernel=(2, 3), strides=(2, 1), activation="RELU6")],
        "groups": [Op(batch=2, active=5, group_size=4, padding="VALID")],
        "float16": [Op(active=4, quantize="float16")],
        "int8": [Op(active=4, quantize="int8", dilation=(1, 2))],
        "pooled": [Op(quantize="int8", pool=2)],
        "gated": [Op(active=4, batch=2, gated=True)],
        "gated int8": [Op(active=4, quantize="int8", pool=2, gated=True)],
        "depthwise": [Depthwise()],
        "depthwise float16": [Depthwise(batch=2, quantize="float16", strides=(2, 2))],
        "add": [Add()],
        "long add": [Add(active=(3, None, 5, None), channels=9, pixels=(4,))],
        "chain": [Op(), Op(in_channels=16, active=8), Op(in_channels=16, active=8, k=16)],
        "int8 chain": [Op(quantize="int8"), Op(in_channels=16, active=8, k=16, quantize="int8")],
    }
    return {
        f"{name}, {form}": Writer(chain, form).pack() for name, chain in ops.items() for form in ("custom", "composite")
    }


def mutant(content, seed):
    """A changed copy of a model file; the same for the same seed."""
    rng = random.Random(seed)
    if rng.random() < 0.7:
        model = schema.ModelT.InitFromPackedBuf(bytearray(content), 0)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            change_field(model, rng)
        try:
            builder = flatbuffers.Builder(1 << 14)
            builder.Finish(model.Pack(builder), b"TFL3")
            content = bytes(builder.Output())
        except Exception:  # a value that the format has no place for: change bytes instead
            pass
        else:
            if rng.random() < 0.9:
                return content
    return change_bytes(content, rng)


def change_bytes(content, rng):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        at = rng.randrange(len(content))
        kind = rng.randrange(5)
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at] = rng.choice(INTEGERS) & 255
        elif kind == 2:
            at = at // 4 * 4
            content[at : at + 4] = (rng.choice(INTEGERS) & 0xFFFFFFFF).to_bytes(4, "little")
        elif kind == 3:
            source, length = rng.randrange(len(content)), rng.randrange(1, 16)
            content[at : at + length] = content[source : source + length]
        elif rng.random() < 0.1:
            del content[at:]
            if not content:
                return b"\0"
    return bytes(content)


def change_field(model, rng):
    graph = rng.choice(model.subgraphs) if rng.random() < 0.3 else model.subgraphs[0]
    changes = [change_tensor, change_operator, change_attributes, change_buffer, change_graph, change_code]
    rng.choices(changes, weights=[5, 4, 5, 2, 2, 1])[0](model, graph, rng)


def integers(values):
    """A list, whichever way the object API holds a vector."""
    return [] if values is None else [int(value) for value in values]


def change_integers(values, rng, alternatives=INTEGERS):
    values = integers(values)
    kind = rng.randrange(6)
    if kind < 4 and values:
        values[rng.randrange(len(values))] = rng.choice(alternatives)
    elif kind == 4:
        values.insert(rng.randrange(len(values) + 1), rng.choice(alternatives))
    elif values:
        values.pop(rng.randrange(len(values)))
    return values


def change_tensor(model, graph, rng):
    if not graph.tensors:
        return
    tensor = rng.choice(graph.tensors)
    kind = rng.randrange(8)
    if kind < 3:
        tensor.shape = change_integers(tensor.shape, rng)
    elif kind == 3:
        tensor.type = rng.randrange(20)
    elif kind == 4:
        tensor.buffer = rng.choice([rng.randrange(len(model.buffers)), 0, 65535, 2**32 - 1])
    elif kind == 5:
        tensor.isVariable = not tensor.isVariable
        tensor.shapeSignature = change_integers(tensor.shape, rng) if rng.random() < 0.5 else tensor.shapeSignature
    elif kind == 6:
        quantization = schema.QuantizationParametersT()
        count = rng.choice([0, 1, 2, 16, 300])
        quantization.scale = [float(rng.choice(FLOATS)) for _ in range(count)]
        quantization.zeroPoint = [rng.choice(INTEGERS) for _ in range(rng.choice([0, 1, count]))]
        quantization.quantizedDimension = rng.choice(INTEGERS)
        tensor.quantization = quantization
    else:
        tensor.name = rng.choice([None, b"", b"x" * 5000, b"%s%n\xff"])


def change_operator(model, graph, rng):
    if not graph.operators:
        return
    operator = rng.choice(graph.operators)
    tensors = [*range(len(graph.tensors)), -1, len(graph.tensors), 2**31 - 1, -(2**31)]
    kind = rng.randrange(6)
    if kind < 2:
        operator.inputs = change_integers(operator.inputs, rng, tensors)
    elif kind == 2:
        operator.outputs = change_integers(operator.outputs, rng, tensors)
    elif kind == 3:
        operator.opcodeIndex = rng.choice([*range(len(model.operatorCodes)), 255, 2**32 - 1])
    elif operator.builtinOptions2 is not None and hasattr(operator.builtinOptions2, "decompositionSubgraphIndex"):
        options = operator.builtinOptions2
        if kind == 4:
            options.name = rng.choice(COMPOSITES)
        else:
            options.decompositionSubgraphIndex = rng.choice([*range(len(model.subgraphs)), -1, len(model.subgraphs)])
    else:
        operator.intermediates = [rng.choice(tensors)]


def change_attributes(model, graph, rng):
    """Changes a value, a key or a byte of the map that an FBS op reads."""
    found = []
    for operator in graph.operators or []:
        composite = operator.builtinOptions2
        if operator.customOptions is not None and len(operator.customOptions):
            found.append((operator, "customOptions"))
        elif getattr(composite, "compositeAttributes", None) is not None:
            found.append((composite, "compositeAttributes"))
    if not found:
        return
    holder, name = rng.choice(found)
    data = bytes(bytearray(getattr(holder, name)))
    try:
        attributes = flexbuffers.Loads(data)
        key = rng.choice(sorted(attributes))
        kind = rng.randrange(8)
        if kind < 5:
            alternatives = [*INTEGERS, 2**40, -(2**63), 2**63 - 1]
            words = ["SAME", "VALID", "NONE", "RELU", "RELU6", "", "x" * 1000]
            attributes[key] = rng.choice(words if isinstance(attributes[key], str) == (kind < 4) else alternatives)
        elif kind == 5:
            del attributes[key]
        elif kind == 6:
            attributes[key] = rng.choice([1.5, True, None, [1, 2], {"k": 1}])
        else:
            attributes["pool"] = rng.choice([1, 2, 3])
        data = bytes(flexbuffers.Dumps(attributes))
    except Exception:  # damaged by an earlier change
        kind = 7
    if kind == 7 and data:
        data = change_bytes(data, rng)
    setattr(holder, name, np.frombuffer(data, np.uint8))


def change_buffer(model, graph, rng):
    """Changes what a constant holds: bytes, floats, more or less of it."""
    buffers = [buffer for buffer in model.buffers if buffer.data is not None and len(buffer.data)]
    if not buffers:
        return
    buffer = rng.choice(buffers)
    data = np.array(buffer.data, np.uint8)
    kind = rng.randrange(5)
    if kind == 0:
        data[rng.randrange(len(data))] = 128
    elif kind == 1 and len(data) >= 4:
        at = rng.randrange(len(data) // 4) * 4
        data[at : at + 4] = np.frombuffer(rng.choice(FLOATS).tobytes(), np.uint8)
    elif kind == 2:
        data = data[: rng.randrange(len(data))]
    elif kind == 3:
        data = np.append(data, np.zeros(rng.choice([1, 4, 64]), np.uint8))
    else:
        data[:] = rng.choice([0, 255, 127])
    buffer.data = data


def change_graph(model, graph, rng):
    tensors = [*range(len(graph.tensors or [])), -1, len(graph.tensors or []), 2**31 - 1]
    kind = rng.randrange(6)
    if kind == 0:
        graph.inputs = change_integers(graph.inputs, rng, tensors)
    elif kind == 1:
        graph.outputs = change_integers(graph.outputs, rng, tensors)
    elif kind == 2 and graph.operators:
        graph.operators.insert(rng.randrange(len(graph.operators) + 1), rng.choice(graph.operators))
    elif kind == 3 and graph.operators:
        graph.operators.pop(rng.randrange(len(graph.operators)))
    elif kind == 4 and graph.operators:
        rng.shuffle(graph.operators)
    else:
        rng.shuffle(model.subgraphs)


def change_code(model, graph, rng):
    code = rng.choice(model.operatorCodes)
    if rng.random() < 0.5:
        code.customCode = rng.choice(NAMES)
    else:
        code.builtinCode = rng.choice([32, 206, rng.randrange(210)])
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
