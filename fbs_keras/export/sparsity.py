"""Which tensors of an exported model are compact, and where they are expanded.

An FBS layer writes its k winning channels only, `[N, H, W, k]`, with their indices. This form is kept as long as the
layers behind it can work on it:

- `fbs`: an FBS layer reads the compact tensor and gathers its weights' rows;
- `channelwise`: the layer treats channels alike and apart, or those that the tensor holds by parameters gathered for
  them, so it runs on the compact tensor; so do additions and the like of tensors that hold the same channels;
- `depthwise`: a depthwise convolution does so as one op, with the batch normalisation and the ReLU behind it;
- `separable`: the same, and `rows` behind it;
- `scale`: a product with a dense tensor of one pixel, squeeze-and-excite, gathers that;
- `concatenate`: values and indices are concatenated; a dense tensor counts as one that holds all its channels;
- `rows`: a Dense layer or a 1x1 convolution of several pixels gathers the rows of its kernel, and gives a dense tensor;
- `add`: an addition of tensors of one shape takes each as it comes and gives a dense tensor; a ReLU that alone reads
  the sum is done with it;
- `fused`: done with the layer before;
- `nothing`: `Suppress`, where the compact tensor lacks the suppressed channels anyway;
- `dense`: anything else gets dense tensors; compact ones are expanded with zeros, for the `reason` given.

The rules are at the end of the file, in the order in which they are tried.
"""

import dataclasses
import math
import typing

import keras

from fbs_keras import graph
from fbs_keras.channelwise import is_channelwise, is_elementwise, moves_zero, passes_channels
from fbs_keras.export import reasons, regions
from fbs_keras.export.attributes import ACTIVATIONS
from fbs_keras.layers import FBSConv2D
from fbs_keras.suppress import Suppress

FBS, CHANNELWISE, DEPTHWISE, SEPARABLE, SCALE = "fbs", "channelwise", "depthwise", "separable", "scale"
CONCATENATE, ROWS, ADD, FUSED, NOTHING, DENSE = "concatenate", "rows", "add", "fused", "nothing", "dense"

_MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the exported model.

    Attributes:
        shape: Its dense shape, batch size included.
        dtype: Its dtype's name.
        active: How many of its channels it holds when it is compact; `None` when it is dense.
        winners: What chose these channels: tensors of the same `winners` hold the same.
    """

    shape: tuple
    dtype: str
    active: int | None = None
    winners: typing.Any = None

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
        action: One of those listed above.
        inputs: The `Tensor`s that the call reads, as they come.
        outputs: The `Tensor`s that it writes.
        activation: What a sum or a depthwise convolution applies, of the layer behind it: `"NONE"`, `"RELU"` or
            `"RELU6"`.
        norm: The batch normalisation layer behind it that a depthwise convolution takes in, or `None`.
        followers: The calls behind it that are done with it.
        reason: Why compact inputs are expanded; empty where none is.
    """

    node: graph.Node
    action: str
    inputs: list
    outputs: list
    activation: str = "NONE"
    norm: typing.Any = None
    followers: tuple = ()
    reason: str = ""


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
        rows = [(step.node.name, step.action, step.inputs, step.outputs, step.reason) for step in self.steps]
        for tensor in self.outputs:
            if tensor.active is not None:
                dense = dataclasses.replace(tensor, active=None)
                rows.append(("(output)", DENSE, [tensor], [dense], "the model's output"))
        width = max((len(name) for name, *_ in rows), default=0)
        return "\n".join(
            f"{name:{width}}  {action:11}  {', '.join(map(str, inputs))} -> {', '.join(map(str, outputs))}"
            + (f"  (expanded: {reason})" if reason else "")
            for name, action, inputs, outputs, reason in rows
        )


def plan(model, batch_size, aligned=False, compact=True):
    """Decides which tensors of a model are compact.

    Args:
        model: A built Sequential or Functional Keras model.
        batch_size: The batch size of the exported model.
        aligned: Whether compact tensors of equal size hold the same channels, so that they may be added and the like.
            Not so for FBS layers, each of which chooses its own; so for a static net of the same width.
        compact: `False` for a plan in which every tensor is dense. Defaults to `True`.

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
    return plan_graph(flat, graph.specs(flat, model), batch_size, aligned, compact)


def plan_graph(flat, specs, batch_size, aligned=False, compact=True):
    """As `plan`, of a model that has been read: its `graph.flatten` and `graph.specs`."""
    tensors = {
        ref: Tensor((batch_size, *spec.shape[1:]), keras.backend.standardize_dtype(spec.dtype))
        for ref, spec in specs.items()
    }
    suppressed = regions.suppressed(flat, tensors)
    steps: list[Step] = []
    fused: set[graph.Ref] = set()
    for node in flat.nodes:
        refs = [ref for ref in tensors if ref[:2] == node.output[:2]]
        inputs, outputs = [tensors[ref] for ref in node.inputs], [tensors[ref] for ref in refs]
        call = _Call(node, inputs, outputs, flat, suppressed, aligned)
        rules = [_fused] if node.output in fused else _RULES if compact else [_dense]
        step = next(step for rule in rules if (step := rule(call)) is not None)
        fused.update(follower.output for follower in step.followers)
        tensors.update(zip(refs, step.outputs, strict=True))
        steps.append(step)
    return Plan(
        flat,
        steps,
        inputs=[tensors[ref] for ref in graph.refs(flat.inputs)],
        outputs=[tensors[ref] for ref in graph.refs(flat.outputs)],
    )


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call to be decided on.

    Attributes:
        node, inputs, outputs: As of the `Step` to be; `outputs` dense.
        flat: The graph.
        suppressed: `regions.suppressed` of it.
        aligned: As `plan` takes it.
    """

    node: graph.Node
    inputs: list
    outputs: list
    flat: graph.Graph
    suppressed: set
    aligned: bool

    @property
    def layer(self):
        return self.node.layer

    @property
    def winners(self):
        """The `Tensor.winners` of an output that holds channels of its own choice."""
        return "first" if self.aligned else self.node.output

    @property
    def compact(self):
        """Those inputs that are compact."""
        return [tensor for tensor in self.inputs if tensor.active is not None]

    def step(self, action, *like, **settings):
        """A `Step` whose outputs hold the channels that the tensors `like` hold, or, without these, all."""
        outputs = self.outputs
        if like:
            outputs = [
                dataclasses.replace(output, active=tensor.active, winners=tensor.winners)
                for output, tensor in zip(outputs, like, strict=True)
            ]
        return Step(self.node, action, self.inputs, outputs, **settings)

    def only_reader(self, node):
        """The call that alone reads the output of `node`, else `None`."""
        readers = self.flat.consumers(node.output)
        return readers[0] if len(readers) == 1 and not self.flat.is_output(node.output) else None

    def is_channelwise(self):
        """Whether the layer runs on a compact tensor: of the channels that are absent, nobody is to read a value."""
        if len(self.inputs) != 1 or not is_channelwise(self.layer, self.inputs[0].shape):
            return False
        return not moves_zero(self.layer) or self.node.output in self.suppressed


def _fbs(call):
    layer = call.layer
    if not isinstance(layer, FBSConv2D):
        return None
    if layer.active_channels == layer.filters:
        return call.step(FBS)
    dense = call.outputs[0]
    chosen = dataclasses.replace(dense, active=layer.active_channels, winners=call.winners)
    # Of an activation that may mix channels the output is dense, the mask is not.
    return call.step(FBS, *[chosen if is_elementwise(layer.activation) else dense, chosen][: len(call.outputs)])


def _suppress(call):
    if type(call.layer) is not Suppress:
        return None
    x, mask = call.inputs
    if x.active is not None and x.winners == mask.winners:
        return call.step(NOTHING, x)
    source = [node.layer for node in call.flat.nodes if node.output == call.node.inputs[1]._replace(tensor=0)]
    if mask.active is None and source and isinstance(source[0], FBSConv2D):  # at density 1
        return call.step(NOTHING)
    return None


def _all_dense(call):
    return None if call.compact else call.step(DENSE)


def _depthwise(call):
    if type(call.layer) is not keras.layers.DepthwiseConv2D or not call.is_channelwise():
        return None
    norm, followers, activation = None, [], ACTIVATIONS.get(call.layer.activation, "NONE")
    if call.layer.activation is keras.activations.linear:
        reader = call.only_reader(call.node)
        is_norm = reader is not None and type(reader.layer) is keras.layers.BatchNormalization
        if is_norm and reader.output in call.suppressed:
            norm = reader.layer
            followers.append(reader)
            reader = call.only_reader(reader)
        if reader is not None and relu(reader.layer) != "NONE":
            activation = relu(reader.layer)
            followers.append(reader)
    return call.step(DEPTHWISE, call.inputs[0], norm=norm, activation=activation, followers=tuple(followers))


def _separable(call):
    layer = call.layer
    if type(layer) is keras.layers.SeparableConv2D and layer.depth_multiplier == 1:
        return call.step(SEPARABLE)
    return None


def _channelwise(call):
    return call.step(CHANNELWISE, call.inputs[0]) if call.is_channelwise() else None


def _merge(call):
    same = len({(tensor.active, tensor.winners) for tensor in call.inputs}) == 1
    return (
        call.step(CHANNELWISE, call.inputs[0]) if same and _is(call.layer, *_MERGES) and len(call.inputs) > 1 else None
    )


def _add(call):
    """The sum of float32 tensors of one shape: of an Add layer, or `a + b`."""
    (output,) = call.outputs
    same = all((tensor.shape, tensor.dtype) == (output.shape, "float32") for tensor in call.inputs)
    if call.aligned or not same or not _is(call.layer, "Add") or len(call.inputs) < 2:
        return None
    reader = call.only_reader(call.node)
    activation = "NONE" if reader is None else relu(reader.layer)
    return call.step(ADD, activation=activation, followers=() if activation == "NONE" else (reader,))


def _scale(call):
    """A compact image by one number for each channel, which is dense or of other winners."""
    if not _is(call.layer, "Multiply") or len(call.inputs) != 2:
        return None
    for x, scale in (call.inputs, call.inputs[::-1]):
        fits = len(scale.shape) == len(x.shape) and math.prod(scale.shape[1:-1]) == 1
        if x.active is not None and fits and (x.shape, scale.shape[-1]) == (call.outputs[0].shape, x.shape[-1]):
            return call.step(SCALE, x)
    return None


def _concatenate(call):
    (output,) = call.outputs
    if not _joins_channels(call.layer, output):
        return None
    readers = call.flat.consumers(call.node.output)
    if call.flat.is_output(call.node.output) or not all(_reads_compact(node.layer, output) for node in readers):
        return None
    active = sum(tensor.active or tensor.shape[-1] for tensor in call.inputs)
    return call.step(CONCATENATE, dataclasses.replace(output, active=active, winners=call.winners))


def _joins_channels(layer, output):
    return _is(layer, "Concatenate") and layer.axis % len(output.shape) == len(output.shape) - 1


def _reads_compact(layer, tensor):
    return (
        isinstance(layer, FBSConv2D)
        or passes_channels(layer, tensor.shape)
        or _is_matrix(layer)
        or _joins_channels(layer, tensor)
        or _is(layer, "Add", "Multiply")
    )


def _rows(call):
    # A single pixel is expanded instead: 31 us for 256 of 512 channels to 1000, where gathering the rows takes 61.
    several = call.aligned or math.prod(call.inputs[0].shape[1:-1]) > 1
    return call.step(ROWS) if len(call.inputs) == 1 and several and _is_matrix(call.layer) else None


def _is_matrix(layer):
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


def _dense(call):
    reason = reasons.reason(call.layer, call.inputs) if call.compact else ""
    return call.step(FBS if isinstance(call.layer, FBSConv2D) else DENSE, reason=reason)


def _fused(call):
    return call.step(FUSED, call.inputs[0])


def relu(layer):
    """Which of the ops' activations an activation layer is, `"NONE"` if it is none."""
    if type(layer) is keras.layers.Activation:
        return ACTIVATIONS.get(layer.activation, "NONE")
    if type(layer) is keras.layers.ReLU and (layer.negative_slope, layer.threshold) == (0, 0):
        return {None: "RELU", 6: "RELU6"}.get(layer.max_value, "NONE")
    return "NONE"


def _is(layer, *names):
    """Whether a layer is of one of these kinds of Keras's, no subclass, or such an operation."""
    if isinstance(layer, keras.layers.Layer):
        return type(layer) in [getattr(keras.layers, name) for name in names]
    kind = type(layer)
    # keras.ops.average is no sum of tensors.
    return kind.__module__.startswith("keras.") and kind.__name__ in names and kind.__name__ != "Average"


_RULES = (
    _fbs,
    _suppress,
    _all_dense,
    _depthwise,
    _separable,
    _channelwise,
    _merge,
    _add,
    _scale,
    _concatenate,
    _rows,
    _dense,
)
