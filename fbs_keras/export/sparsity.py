"""Which tensors of an exported model are compact, and where they are expanded.

An FBS layer writes its k winning channels only, `[N, H, W, k]`, with their indices. This form is kept as long as the
layers behind it can work on it:

- `fbs`: an FBS layer reads the compact tensor and gathers its weights' rows;
- `channelwise`: the layer treats channels alike and apart and maps zeros to zeros, so it runs on the compact tensor;
- `rows`: a Dense layer or a 1x1 convolution gathers the rows of its kernel, and gives a dense tensor;
- `model`: a nested model has its own plan;
- `dense`: anything else gets dense tensors, expanded with zeros.
"""

import dataclasses
import typing

import keras

from fbs_keras import graph
from fbs_keras.layers import FBSConv2D, keeps_zero

FBS, CHANNELWISE, ROWS, MODEL, DENSE = "fbs", "channelwise", "rows", "model", "dense"

# Nothing at inference. Exact types: a subclass may do something else.
_IDENTITIES = (
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.AlphaDropout,
    keras.layers.ActivityRegularization,
)
_SPATIAL = (
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.UpSampling2D,
)
_MERGES = (
    keras.layers.Add,
    keras.layers.Subtract,
    keras.layers.Multiply,
    keras.layers.Average,
    keras.layers.Maximum,
    keras.layers.Minimum,
)
_ELEMENTWISE_LAYERS = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)
# By name, since not every Keras release has all of them.
_ELEMENTWISE_ACTIVATIONS = [
    getattr(keras.activations, name)
    for name in (
        "linear relu relu6 leaky_relu elu selu celu gelu silu hard_silu mish tanh hard_tanh tanh_shrink soft_shrink "
        "hard_shrink softsign softplus squareplus sparse_plus threshold sigmoid hard_sigmoid log_sigmoid exponential"
    ).split()
    if hasattr(keras.activations, name)
]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the exported model.

    Attributes:
        shape: Its dense shape, batch size included.
        dtype: Its dtype's name.
        active: How many of its channels it holds when it is compact; `None` when it is dense.
    """

    shape: tuple
    dtype: str
    active: int | None = None

    def __str__(self):
        sizes = [str(size) for size in self.shape]
        if self.active is not None:
            sizes[-1] = f"{self.active}/{sizes[-1]}"
        return "x".join(sizes)


@dataclasses.dataclass(frozen=True)
class Step:
    """One node of the model and how it is exported.

    Attributes:
        node: The `graph.Node`.
        action: `"fbs"`, `"channelwise"`, `"rows"`, `"model"` or `"dense"`.
        inputs: The `Tensor`s that the node reads, as they come; a `"dense"` step expands the compact ones.
        outputs: The `Tensor`s that it writes.
        plan: The `Plan` of a nested model.
    """

    node: graph.Node
    action: str
    inputs: tuple
    outputs: tuple
    plan: typing.Any = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a model's graph is exported: its `graph.Graph`, a `Step` for each node, and its input and output `Tensor`s."""

    graph: graph.Graph
    steps: list
    inputs: list
    outputs: list

    def __str__(self):
        return "\n".join(_lines(self, ""))


def plan(model, inputs, aligned=False):
    """Decides which tensors of a model are compact.

    Args:
        model: A built Sequential or Functional Keras model.
        inputs: A `Tensor` for each of its inputs.
        aligned: Whether compact tensors of equal size hold the same channels, so that they may be added and the like.
            Not so for FBS layers, each of which chooses its own; so for a static net of the same width.

    Returns:
        A `Plan`.

    Raises:
        ValueError: If the model's graph cannot be read.

    Example:

    >>> print(plan(model, [Tensor((1, 32, 32, 3), "float32")]))
    conv0   fbs          1x32x32x3 -> 1x30x30x32/64
    ...
    """
    model_graph = graph.read(model)
    tensors = dict(zip(graph.refs(model_graph.inputs), inputs, strict=True))
    steps = []
    for node in model_graph.nodes:
        step = _step(node, tuple(tensors[ref] for ref in read_inputs(node)), aligned)
        steps.append(step)
        for index, tensor in enumerate(step.outputs):
            tensors[node.output._replace(tensor=index)] = tensor
    return Plan(model_graph, steps, list(inputs), [tensors[ref] for ref in graph.refs(model_graph.outputs)])


def is_elementwise(activation):
    """Whether an activation function is known to treat every element by itself and to keep zeros."""
    if activation in _ELEMENTWISE_ACTIVATIONS or type(activation) in _ELEMENTWISE_LAYERS:
        return keeps_zero(activation)
    return False


def read_inputs(node):
    """The `Ref`s that a node reads; for a nested model in the order of its inputs."""
    if is_nested(node.layer) and isinstance(node.args[0], dict):
        names = graph.read(node.layer).inputs
        names = names if isinstance(names, dict) else [tensor.name for tensor in node.layer.inputs]
        return [node.args[0][name] for name in names]
    return node.inputs


def is_nested(layer):
    """Whether a layer is a model whose graph can be read."""
    return isinstance(layer, keras.Model) and graph.is_readable(layer)


def _step(node, inputs, aligned):
    layer = node.layer
    if is_nested(layer):
        nested = plan(layer, inputs, aligned)
        return Step(node, MODEL, inputs, tuple(nested.outputs), nested)
    outputs = _dense_outputs(node, inputs)
    if isinstance(layer, FBSConv2D):
        k = layer.active_channels
        if k < layer.filters and is_elementwise(layer.activation):
            outputs = (dataclasses.replace(outputs[0], active=k),)
        return Step(node, FBS, inputs, outputs)
    if aligned and type(layer) in _MERGES and len({tensor.active for tensor in inputs}) == 1:
        return Step(node, CHANNELWISE, inputs, (dataclasses.replace(outputs[0], active=inputs[0].active),))
    if len(inputs) == 1 and len(outputs) == 1 and inputs[0].active is not None:
        if _is_channelwise(layer, inputs[0].shape):
            return Step(node, CHANNELWISE, inputs, (dataclasses.replace(outputs[0], active=inputs[0].active),))
        if _reads_rows(layer):
            return Step(node, ROWS, inputs, outputs)
    return Step(node, DENSE, inputs, outputs)


def _dense_outputs(node, inputs):
    """The outputs' shapes, by Keras's own inference."""
    specs = {
        ref: keras.KerasTensor(tensor.shape, tensor.dtype) for ref, tensor in zip(node.inputs, inputs, strict=True)
    }
    args, kwargs = graph.replace_refs((node.args, node.kwargs), specs.__getitem__)
    outputs = keras.tree.flatten(node.layer.compute_output_spec(*args, **kwargs))
    return tuple(Tensor(tuple(output.shape), keras.backend.standardize_dtype(output.dtype)) for output in outputs)


def _is_channelwise(layer, shape):
    if type(layer) in _IDENTITIES:
        return True
    if type(layer) in _SPATIAL:
        return layer.data_format == "channels_last"
    if type(layer) in _ELEMENTWISE_LAYERS:
        return keeps_zero(layer)
    if type(layer) is keras.layers.Activation:
        return is_elementwise(layer.activation)
    if type(layer) is keras.layers.Flatten:
        return all(size == 1 for size in shape[1:-1])
    return False


def _reads_rows(layer):
    """Whether a layer is one matrix product over the channels."""
    if getattr(layer, "quantization_mode", None) is not None:
        return False
    if type(layer) is keras.layers.Dense:
        return True
    return (
        type(layer) is keras.layers.Conv2D
        and layer.kernel_size == (1, 1)
        and layer.strides == (1, 1)
        and layer.groups == 1
        and layer.data_format == "channels_last"
    )


def _lines(plan_, indent):
    width = max((len(step.node.layer.name) for step in plan_.steps), default=0)
    for step in plan_.steps:
        inputs, outputs = (", ".join(map(str, tensors)) for tensors in (step.inputs, step.outputs))
        yield f"{indent}{step.node.layer.name:{width}}  {step.action:11}  {inputs} -> {outputs}"
        if step.plan is not None:
            yield from _lines(step.plan, indent + "  ")
    for tensor in plan_.outputs:
        if not indent and tensor.active is not None:
            yield f"{'(output)':{width}}  {'dense':11}  {tensor} -> {dataclasses.replace(tensor, active=None)}"
