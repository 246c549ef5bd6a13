"""Writes .tflite files that hold FBS ops and nothing else, and computes in NumPy what they should give.

The exporter is not involved: these files follow docs/design.md ("The ops"), so they test the delegate against the
design, and they can be wrong in ways that the exporter never is.
"""

import dataclasses

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

FLOAT32 = schema.TensorType.FLOAT32
INT32 = schema.TensorType.INT32
TYPES = {
    np.dtype(np.float32): FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int32): INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
}


class Windowed:
    """What the attributes of every convolution say of its windows."""

    @property
    def window_attributes(self):
        return {
            "kernel_h": self.kernel[0],
            "kernel_w": self.kernel[1],
            "stride_h": self.strides[0],
            "stride_w": self.strides[1],
            "dilation_h": self.dilation[0],
            "dilation_w": self.dilation[1],
            "padding": self.padding,
            "activation": self.activation,
        }

    def windows(self):
        """Output size and zeros before the first element, for each of the two axes."""
        sizes, zeros = [], []
        axes = zip((self.height, self.width), self.kernel, self.strides, self.dilation, strict=True)
        for size, kernel, stride, dilation in axes:
            window = (kernel - 1) * dilation + 1
            if self.padding == "SAME":
                out = -(-size // stride)
                zeros.append(max((out - 1) * stride + window - size, 0) // 2)
            else:
                out = (size - window) // stride + 1
                zeros.append(0)
            sizes.append(out)
        return sizes, zeros

    def pixel_of(self, tap, i, j):
        """The input's row and column under a tap of the window of output (i, j); `None` in the padding."""
        _, (top, left) = self.windows()
        row = i * self.strides[0] - top + tap // self.kernel[1] * self.dilation[0]
        column = j * self.strides[1] - left + tap % self.kernel[1] * self.dilation[1]
        return (row, column) if 0 <= row < self.height and 0 <= column < self.width else None

    def activate(self, y):
        return y if self.activation == "NONE" else np.clip(y, 0, 6 if self.activation == "RELU6" else None)


def quantized(image):
    """The image as fbs.conv2d_int8 reads it: each value in the nearest of 256 steps from its least to its largest."""
    image = image.astype(np.float32)
    low, high = min(image.min(), np.float32(0)), max(image.max(), np.float32(0))
    scale = np.float32((np.float64(high) - low) / 255) or np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(image * (np.float32(1) / scale)) + zero, 0, 255) - zero).astype(np.float64) * scale


@dataclasses.dataclass
class Op(Windowed):
    """One FBS convolution. `active` is how many of `in_channels` the input holds; None: it is dense.

    `quantize`: how the file stores the weights: None, "float16", or "int8", which is the op fbs.conv2d_int8. `pool`: of
    that op; the files have this attribute only where it is not 1. `gated`: the form of the op that takes g.
    """

    batch: int = 1
    height: int = 6
    width: int = 5
    in_channels: int = 8
    active: int | None = None
    filters: int = 16
    k: int = 8
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    activation: str = "RELU"
    group_size: int = 1
    seed: int = 0
    quantize: str | None = None
    pool: int = 1
    gated: bool = False

    def __post_init__(self):
        random = np.random.default_rng(self.seed)
        taps = self.kernel[0] * self.kernel[1]
        scale = 1 / np.sqrt(taps * (self.active or self.in_channels))

        def normal(*shape):
            return random.normal(size=shape).astype(np.float32)

        self.weights = normal(self.in_channels, taps, self.filters) * np.float32(scale)
        self.bias = normal(self.filters) * np.float32(0.1)
        self.gate_kernel = normal(self.in_channels, self.filters) * np.float32(0.5)
        self.gate_bias = 1 + normal(self.filters) * np.float32(0.5)
        self.constants = ["weights", "bias", "gate_kernel", "gate_bias"]
        if self.quantize is not None:
            self.gate_kernel = self.gate_kernel.astype(np.float16)
        if self.quantize == "float16":
            self.weights = self.weights.astype(np.float16)
        if self.quantize == "int8":
            self.weight_scales = np.abs(self.weights).max((0, 1)) / np.float32(127)
            self.weights = np.rint(self.weights / self.weight_scales).astype(np.int8)
            self.constants.insert(1, "weight_scales")
        if self.gated:
            self.constants = self.constants[:-2]

    @property
    def sparse_in(self):
        return self.active is not None

    @property
    def sparse_out(self):
        return self.k < self.filters

    @property
    def x_shape(self):
        return self.batch, self.height, self.width, self.active or self.in_channels

    @property
    def attributes(self):
        return {
            "version": 1,
            "sparse_in": int(self.sparse_in),
            "k": self.k,
            "group_size": self.group_size,
            **self.window_attributes,
            **({"pool": self.pool} if self.pool != 1 else {}),
        }

    @property
    def y_shape(self):
        (height, width), _ = self.windows()
        return self.batch, height // self.pool, width // self.pool, self.k

    def inputs(self, seed=1):
        """Random x, in_indices where the op takes them, and g where it does: eighths, some negative, some equal."""
        random = np.random.default_rng(seed)
        x = random.normal(size=self.x_shape).astype(np.float32)
        inputs = [x]
        if self.sparse_in:
            indices = [random.permutation(self.in_channels)[: self.active] for _ in range(self.batch)]
            inputs.append(np.array(indices, np.int32))
        if self.gated:
            inputs.append((random.integers(-4, 16, (self.batch, self.filters)) / 8).astype(np.float32))
        return inputs

    def reference(self, x, *others):
        """The equations of docs/design.md in float64: y, and out_indices in ascending order (None when y is dense)."""
        x, others = x.astype(np.float64), list(others)
        in_indices = others.pop(0) if self.sparse_in else np.tile(np.arange(self.in_channels), (len(x), 1))
        given = others.pop(0).astype(np.float64) if self.gated else [None] * len(x)
        (out_h, out_w), _ = self.windows()
        y = np.zeros((len(x), out_h, out_w, self.k))
        out_indices = np.zeros((len(x), self.k), np.int32)
        for image, rows, gate, result, winners in zip(x, in_indices, given, y, out_indices, strict=True):
            if gate is None:
                saliency = np.abs(image).mean(axis=(0, 1))
                gate = saliency @ self.gate_kernel[rows].astype(np.float64) + self.gate_bias
            gate = np.maximum(gate, 0)
            score = gate.reshape(-1, self.group_size).mean(axis=1)
            groups = np.sort(np.argsort(-score, kind="stable")[: self.k // self.group_size])
            winners[:] = (groups[:, None] * self.group_size + np.arange(self.group_size)).ravel()
            weights = self.weights[rows][:, :, winners].astype(np.float64)
            if self.quantize == "int8":
                image, weights = quantized(image), weights * self.weight_scales[winners]
            for i in range(out_h):
                for j in range(out_w):
                    total = self.bias[winners].astype(np.float64)
                    for tap in range(weights.shape[1]):
                        pixel = self.pixel_of(tap, i, j)
                        if pixel is not None:
                            total = total + image[pixel] @ weights[:, tap]
                    result[i, j] = gate[winners] * total
        _, height, width, _ = self.y_shape
        corners = np.ndindex(self.pool, self.pool)
        y = np.max([y[:, i :: self.pool, j :: self.pool][:, :height, :width] for i, j in corners], axis=0)
        return self.activate(y), out_indices if self.sparse_out else None


@dataclasses.dataclass
class Depthwise(Windowed):
    """One depthwise convolution. `active` is how many of `channels` the input holds.

    `quantize`: how the file stores the weights, None or "float16".
    """

    batch: int = 1
    height: int = 6
    width: int = 5
    channels: int = 24
    active: int = 10
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    activation: str = "RELU"
    quantize: str | None = None

    def __post_init__(self):
        random = np.random.default_rng(0)
        dtype = np.float16 if self.quantize == "float16" else np.float32
        self.weights = random.normal(size=(self.channels, self.kernel[0] * self.kernel[1])).astype(dtype)
        self.bias = random.normal(size=self.channels).astype(np.float32)

    @property
    def attributes(self):
        return {"version": 1, **self.window_attributes}

    @property
    def x_shape(self):
        return self.batch, self.height, self.width, self.active

    def inputs(self, seed=1):
        """Random x, and indices in any order."""
        random = np.random.default_rng(seed)
        indices = [random.permutation(self.channels)[: self.active] for _ in range(self.batch)]
        return [random.normal(size=self.x_shape, scale=2).astype(np.float32), np.array(indices, np.int32)]

    def reference(self, x, indices):
        """The equation of docs/design.md in float64."""
        (out_h, out_w), _ = self.windows()
        y = np.zeros((len(x), out_h, out_w, self.active))
        for image, rows, result in zip(x.astype(np.float64), indices, y, strict=True):
            for i in range(out_h):
                for j in range(out_w):
                    result[i, j] = self.bias[rows]
                    for tap in range(self.weights.shape[1]):
                        pixel = self.pixel_of(tap, i, j)
                        if pixel is not None:
                            result[i, j] += image[pixel] * self.weights[rows, tap].astype(np.float64)
        return self.activate(y)


@dataclasses.dataclass
class Add:
    """One sum. `active`: how many of its channels each addend holds; None: it is dense."""

    pixels: tuple[int, ...] = (6, 5)
    batch: int = 1
    channels: int = 24
    active: tuple[int | None, ...] = (None, 10)
    activation: str = "RELU"

    @property
    def attributes(self):
        return {
            "version": 1,
            "addends": len(self.active),
            "compact": sum(1 << i for i, active in enumerate(self.active) if active is not None),
            "channels": self.channels,
            "activation": self.activation,
        }

    def shape(self, active=None):
        return self.batch, *self.pixels, active or self.channels

    def inputs(self, seed=1):
        """Random operands, in the op's order; indices in any."""
        random = np.random.default_rng(seed)
        operands = []
        for active in self.active:
            operands.append(random.normal(size=self.shape(active), scale=4).astype(np.float32))
            if active is not None:
                indices = [random.permutation(self.channels)[:active] for _ in range(self.batch)]
                operands.append(np.array(indices, np.int32))
        return operands

    def reference(self, *operands):
        """The equation of docs/design.md."""
        y = np.zeros(self.shape(), np.float32)
        operands = list(operands)
        for active in self.active:
            x = operands.pop(0)
            indices = np.tile(np.arange(self.channels), (self.batch, 1)) if active is None else operands.pop(0)
            for image, values, channels in zip(y, x, indices, strict=True):
                image[..., channels] += values
        if self.activation != "NONE":
            y = np.clip(y, 0, 6 if self.activation == "RELU6" else None)
        return y


def name_of(op):
    """An op's name as a custom op, and as a composite."""
    if isinstance(op, Add):
        return "FbsAdd", "fbs.add"
    if isinstance(op, Depthwise):
        return "FbsDepthwiseConv2D", "fbs.depthwise_conv2d"
    gated, int8 = op.gated, op.quantize == "int8"
    return f"Fbs{'Gated' * gated}Conv2D{'Int8' * int8}", f"fbs.{'gated_' * gated}conv2d{'_int8' * int8}"


class Writer:
    """Builds a model whose main graph is a chain of FBS convolutions, of one kind, a depthwise convolution or a sum.

    Every part stays open to change until `pack`.
    """

    def __init__(self, ops, form="custom"):
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = "FBS ops"
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = [self._operator_code(form, name_of(ops[0])[0].encode())]
        self.graph = self._subgraph(b"main")
        self.model.subgraphs = [self.graph]
        self.nodes = []
        if isinstance(ops[0], Add):
            self._write_add(ops[0], form)
        elif isinstance(ops[0], Depthwise):
            self._write_depthwise(ops[0], form)
        else:
            self._write_chain(ops, form)

    def _write_add(self, op, form):
        for i, active in enumerate(op.active):
            self.graph.inputs.append(self.tensor(f"x{i}", op.shape(active)))
            if active is not None:
                self.graph.inputs.append(self.tensor(f"indices{i}", (op.batch, active), INT32))
        self.graph.outputs = [self.tensor("sum", op.shape())]
        self._append("fbs.add", "sum", list(self.graph.inputs), list(self.graph.outputs), op.attributes, form)

    def _write_depthwise(self, op, form):
        self.graph.inputs = [self.tensor("x", op.x_shape), self.tensor("indices", (op.batch, op.active), INT32)]
        constants = [self.constant("weights", op.weights), self.constant("bias", op.bias)]
        sizes, _ = op.windows()
        self.graph.outputs = [self.tensor("depthwise", (op.batch, *sizes, op.active))]
        self._append(
            "fbs.depthwise_conv2d",
            "depthwise",
            [*self.graph.inputs, *constants],
            list(self.graph.outputs),
            op.attributes,
            form,
        )

    def _write_chain(self, ops, form):
        x = self.tensor("x", ops[0].x_shape)
        indices = self.tensor("in_indices", ops[0].x_shape[::3], INT32) if ops[0].sparse_in else None
        self.graph.inputs = [x] if indices is None else [x, indices]
        if ops[0].gated:
            self.graph.inputs.append(self.tensor("g", (ops[0].batch, ops[0].filters)))
        for number, op in enumerate(ops):
            x, indices = self.node(number, op, x, indices, form)
        self.graph.outputs = [x] if indices is None else [x, indices]

    @staticmethod
    def _operator_code(form, custom_name):
        code = schema.OperatorCodeT()
        code.version = 1
        if form == "custom":
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
            code.customCode = custom_name
        else:
            code.builtinCode = schema.BuiltinOperator.STABLEHLO_COMPOSITE
            code.deprecatedBuiltinCode = 127
        return code

    @staticmethod
    def _subgraph(name):
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators, graph.inputs, graph.outputs = name, [], [], [], []
        return graph

    def node(self, number, op, x, indices, form="custom"):
        """Adds an op; returns its y and its out_indices, or None where y is dense."""
        name = f"conv{number}"
        operands = [x] if indices is None else [x, indices]
        if op.gated:
            operands.append(self.graph.inputs[-1])
        for part in op.constants:
            operands.append(self.constant(f"{name}/{part}", getattr(op, part)))
        results = [self.tensor(name, op.y_shape)]
        if op.sparse_out:
            results.append(self.tensor(f"{name}/out_indices", (op.batch, op.k), INT32))
        self._append(name_of(op)[1], name, operands, results, op.attributes, form)
        return results[0], results[1] if op.sparse_out else None

    def _append(self, composite_name, name, operands, results, attributes, form):
        node = schema.OperatorT()
        node.opcodeIndex, node.inputs, node.outputs = 0, operands, results
        self.graph.operators.append(node)
        self.nodes.append(node)
        if form == "composite":
            # The decomposition is never run: the delegate claims the op.
            decomposition = self._subgraph(f"{name}/decomposition".encode())
            for operand in operands:
                tensor = self.graph.tensors[operand]
                self.tensor(tensor.name.decode(), tensor.shape, tensor.type, decomposition)
            decomposition.inputs = list(range(len(operands)))
            decomposition.outputs = [0]
            self.model.subgraphs.append(decomposition)
            node.builtinOptions2Type = schema.BuiltinOptions2.StableHLOCompositeOptions
            node.builtinOptions2 = schema.StableHLOCompositeOptionsT()
            node.builtinOptions2.name = composite_name
            node.builtinOptions2.decompositionSubgraphIndex = len(self.model.subgraphs) - 1
            node.builtinOptions2.version = 1
        self.set_attributes(node, attributes)

    def set_attributes(self, node, attributes):
        """`attributes`: a dict, or bytes to store as they are."""
        data = attributes if isinstance(attributes, bytes) else bytes(flexbuffers.Dumps(attributes))
        if node.builtinOptions2 is None:
            node.customOptions = np.frombuffer(data, np.uint8)
        else:
            node.builtinOptions2.compositeAttributes = np.frombuffer(data, np.uint8)

    def tensor(self, name, shape, dtype=FLOAT32, graph=None):
        """Adds a tensor that is computed; returns its index."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), [int(n) for n in shape], dtype, 0
        graph = graph or self.graph
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def constant(self, name, values):
        """Adds a constant tensor; returns its index."""
        index = self.tensor(name, values.shape, TYPES[values.dtype])
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors[index].buffer = len(self.model.buffers) - 1
        return index

    def named(self, name):
        """The tensor of that name in the main graph."""
        return next(tensor for tensor in self.graph.tensors if tensor.name == name.encode())

    def pack(self):
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def op_file(*ops, form="custom"):
    """The bytes of a model that runs `ops` one after another."""
    return Writer(ops, form).pack()


# The ops of native/delegate_host.h, under the names of their attributes there.
HOST_OPS = {
    "kConv2dAttributes": Op(k=3, active=4, kernel=(3, 2), strides=(2, 1), dilation=(1, 2), activation="RELU6"),
    "k3x3Attributes": Op(k=8, active=4, filters=12, group_size=4),
    "kPooledAttributes": Op(k=8, active=4, filters=12, group_size=4, quantize="int8", pool=2),
    "kDepthwiseAttributes": Depthwise(kernel=(3, 2), strides=(2, 1), dilation=(1, 2), activation="RELU6"),
    "kDepthwise3x3Attributes": Depthwise(),
    "kAddAttributes": Add(channels=18, active=(None, 4)),
}


def write_attributes(path):
    """Writes the attributes of HOST_OPS as C arrays."""
    with open(path, "w") as file:
        for name, op in HOST_OPS.items():
            data = bytes(flexbuffers.Dumps(op.attributes))
            file.write(f"static const unsigned char {name}[] = {{{', '.join(map(str, data))}}};\n")
