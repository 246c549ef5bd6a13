"""Which tensors of an exported model are compact, and where they are expanded.

An FBS layer writes its k winning channels only, `[N, H, W, k]`, with their indices. This form is kept as long as the
layers behind it can work on it:

- `fbs`: an FBS layer reads the compact tensor and gathers its weights' rows;
- `channelwise`: the layer treats channels alike and apart and maps zeros to zeros, so it runs on the compact tensor;
- `rows`: a Dense layer or a 1x1 convolution of several pixels gathers the rows of its kernel, and gives a dense tensor;
- `add`: an addition of tensors of one shape takes each as it comes and gives a dense tensor; a ReLU that alone reads
  the sum is done with it (`fused`);
- `dense`: anything else gets dense tensors; compact ones are expanded with zeros.
"""

import dataclasses
import math

import keras

from fbs_keras import graph
from fbs_keras.channelwise import is_elementwise, passes_channels
from fbs_keras.export.attributes import ACTIVATIONS
from fbs_keras.layers import FBSConv2D

FBS, CHANNELWISE, ROWS, ADD, FUSED, DENSE = "fbs", "channelwise", "rows", "add", "fused", "dense"

_MERGES = (
    keras.layers.Add,
    keras.layers.Subtract,
    keras.layers.Multiply,
    keras.layers.Average,
    keras.layers.Maximum,
    keras.layers.Minimum,
)


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
    """One call of a layer and how it is exported.

    Attributes:
        node: The `graph.Node`.
        action: `"fbs"`, `"channelwise"`, `"rows"`, `"add"`, `"fused"` or `"dense"`.
        inputs: The `Tensor`s that the call reads, as they come.
        outputs: The `Tensor`s that it writes.
        activation: What an addition applies to the sum: `"NONE"`, `"RELU"` or `"RELU6"`.
    """

    node: graph.Node
    action: str
    inputs: list
    outputs: list
    activation: str = "NONE"


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a model is exported.

    Attributes:
        graph: The model's `graph.Graph`, nested models inlined.
        steps: A `Step` for each of its nodes.
        inputs: The model's inputs, `Tensor`s.
        outputs: The model's outputs, `Tensor`s, as they come; compact ones are expanded.
    """

    graph: graph.Graph
    steps: list
    inputs: list
    outputs: list

    def __str__(self):
        rows = [(step.node.name, step.action, step.inputs, step.outputs) for step in self.steps]
        for tensor in self.outputs:
            if tensor.active is not None:
                rows.append(("(output)", DENSE, [tensor], [dataclasses.replace(tensor, active=None)]))
        width = max((len(name) for name, *_ in rows), default=0)
        return "\n".join(
            f"{name:{width}}  {action:11}  {', '.join(map(str, inputs))} -> {', '.join(map(str, outputs))}"
            for name, action, inputs, outputs in rows
        )


def plan(model, batch_size, aligned=False):
    """Decides which tensors of a model are compact.

    Args:
        model: A built Sequential or Functional Keras model.
        batch_size: The batch size of the exported model.
        aligned: Whether compact tensors of equal size hold the same channels, so that they may be added and the like.
            Not so for FBS layers, each of which chooses its own; so for a static net of the same width.

    Returns:
        A `Plan`.

    Raises:
        TypeError, ValueError: If the model's graph cannot be read.

    Example:

    >>> print(plan(model, 1))
    conv0   fbs          1x32x32x3 -> 1x30x30x32/64
    ...
    """
    flat = graph.flatten(model)
    tensors = {
        ref: Tensor((batch_size, *spec.shape[1:]), keras.backend.standardize_dtype(spec.dtype))
        for ref, spec in graph.specs(flat, model).items()
    }
    steps, fused = [], set()
    for node in flat.nodes:
        inputs = [tensors[ref] for ref in node.inputs]
        outputs = {ref: tensor for ref, tensor in tensors.items() if ref[:2] == node.output[:2]}
        action, active = _decide(node, inputs, list(outputs.values()), aligned)
        activation = "NONE"
        if action == ADD:
            relu, activation = _relu_of(flat, node.output)
            fused.add(relu)
        elif node.output in fused:
            action = FUSED
        if active is not None:
            outputs = {ref: dataclasses.replace(tensor, active=active) for ref, tensor in outputs.items()}
        tensors.update(outputs)
        steps.append(Step(node, action, inputs, list(outputs.values()), activation))
    return Plan(
        flat,
        steps,
        inputs=[tensors[ref] for ref in graph.refs(flat.inputs)],
        outputs=[tensors[ref] for ref in graph.refs(flat.outputs)],
    )


def _decide(node, inputs, outputs, aligned):
    """A call's action, and how many channels its outputs hold if they are compact, else `None`."""
    layer = node.layer
    if isinstance(layer, FBSConv2D):
        k = layer.active_channels
        return FBS, k if k < layer.filters and is_elementwise(layer.activation) else None
    active = {tensor.active for tensor in inputs}
    if active in (set(), {None}) or len(outputs) != 1:
        return DENSE, None
    if aligned and type(layer) in _MERGES and len(active) == 1:
        return CHANNELWISE, active.pop()
    if not aligned and _adds(node, inputs, outputs[0]):
        return ADD, None
    if len(inputs) == 1 and passes_channels(layer, inputs[0].shape):
        return CHANNELWISE, active.pop()
    # A single pixel is expanded instead: 31 us for 256 of 512 channels to 1000, where gathering the rows takes 61.
    several = aligned or math.prod(inputs[0].shape[1:-1]) > 1
    if len(inputs) == 1 and several and _reads_rows(layer):
        return ROWS, None
    return DENSE, None


def _adds(node, inputs, output):
    """Whether a call is the sum of float32 tensors of one shape: of an Add layer, or of `a + b`."""
    layer = node.layer
    operation = not isinstance(layer, keras.layers.Layer) and type(layer).__name__ == "Add"
    if type(layer) is not keras.layers.Add and not (operation and len(inputs) == 2):
        return False
    return all((tensor.shape, tensor.dtype) == (output.shape, "float32") for tensor in inputs)


def _relu_of(flat, ref):
    """The output and the name of the ReLU that is the only reader of a tensor, else `(None, "NONE")`."""
    readers = flat.consumers(ref)
    if len(readers) == 1 and not flat.is_output(ref):
        layer = readers[0].layer
        if type(layer) is keras.layers.Activation and ACTIVATIONS.get(layer.activation, "NONE") != "NONE":
            return readers[0].output, ACTIVATIONS[layer.activation]
        if type(layer) is keras.layers.ReLU and (layer.negative_slope, layer.threshold) == (0, 0):
            name = {None: "RELU", 6: "RELU6"}.get(layer.max_value)
            if name is not None:
                return readers[0].output, name
    return None, "NONE"


def _reads_rows(layer):
    """Whether a layer is one matrix product over the channels."""
    if getattr(layer, "quantization_mode", None) is not None:
        return False
    if type(layer) is keras.layers.Dense:
        return True
    return (
        type(layer) is keras.layers.Conv2D
        and (layer.kernel_size, layer.strides, layer.groups) == ((1, 1), (1, 1), 1)
        and layer.data_format == "channels_last"
    )
