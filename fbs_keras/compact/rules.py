"""The rules by which each layer of a model is exported: where compact tensors stay compact."""

import dataclasses
import math

import keras

from fbs_keras import graph
from fbs_keras.compact import reasons
from fbs_keras.compact.attributes import op_activation
from fbs_keras.compact.padding import pads_as_same
from fbs_keras.compact.steps import (
    ADD,
    CHANNELWISE,
    CONCATENATE,
    DENSE,
    DEPTHWISE,
    FBS,
    FUSED,
    NOTHING,
    ROWS,
    SCALE,
    SEPARABLE,
    Step,
)
from fbs_keras.graph.channelwise import activation_function, is_channelwise, is_elementwise, moves_zero, passes_channels
from fbs_keras.graph.kinds import kind, operation
from fbs_keras.graph.properties import types
from fbs_keras.layers.fbs_conv2d import FBSConv2D
from fbs_keras.layers.suppress import Suppress

_MERGES = tuple(layer.__name__ for layer in types("merge"))


@dataclasses.dataclass(frozen=True)
class Call:
    """A call to be decided on.

    Attributes:
        node, inputs, outputs: As of the `Step` to be; `outputs` dense.
        flat: The graph.
        tensors: The graph's `Tensor`s by `graph.Ref`.
        suppressed: `regions.suppressed` of it.
        aligned, pools: As `plan` takes them.
    """

    node: graph.Node
    inputs: list
    outputs: list
    flat: graph.Graph
    tensors: dict
    suppressed: set
    aligned: bool
    pools: bool

    @property
    def layer(self):
        return self.node.layer

    @property
    def winners(self):
        """The `Tensor.winners` of an output that holds channels of its own choice."""
        return "first" if self.aligned else self.node.output

    @property
    def plain(self):
        """Whether the call has no arguments but tensors of the graph: no constants, which a rule would not see."""
        node = self.node
        arguments = _leaves(node.args)
        settings = [value for name, value in node.kwargs.items() if name != "training"]  # false in an exported model
        return all(isinstance(leaf, graph.Ref) for leaf in arguments) and all(value is None for value in settings)

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

    def is_channelwise(self, node):
        """Whether a layer runs on a compact tensor: of the channels that are absent, nobody is to read a value."""
        if len(node.inputs) != 1 or not is_channelwise(node.layer, self.inputs[0].shape):
            return False
        return not moves_zero(node.layer) or node.output in self.suppressed

    def is_depthwise(self, node):
        """Whether `node` calls a depthwise convolution for which `is_channelwise` holds."""
        return kind(node.layer) is keras.layers.DepthwiseConv2D and self.is_channelwise(node)

    def pads(self, node, reader):
        """Whether the depthwise convolution `reader` is to do the zero padding `node` before it.

        An FBS layer does not, since its saliency is a mean over the padding too; for a plain one XNNPACK does it.
        """
        if self.aligned or not self.compact or reader is None or not self.is_depthwise(reader):
            return False
        return pads_as_same(node.layer, reader.layer, self.tensors[node.inputs[0]].shape)

    @property
    def padding(self):
        """The padding of the depthwise convolution that is called."""
        before = [node for node in self.flat.nodes if node.output == self.node.inputs[0]]
        if before and self.only_reader(before[0]) is self.node and self.pads(before[0], self.node):
            return "SAME"
        return self.layer.padding.upper()


def _fbs(call):
    layer = call.layer
    if not isinstance(layer, FBSConv2D):
        return None
    # The gate alone does: the convolution reads the compact tensor.
    reason = "its gate reads all channels" if layer.gate_input == "x" and call.compact else ""
    if layer.active_channels == layer.filters:
        return _with_pooling(call, call.step(FBS, reason=reason))
    whole = call.outputs[0]
    chosen = dataclasses.replace(whole, active=layer.active_channels, winners=call.winners)
    # After an activation that may mix channels the output is dense; the mask is not.
    outputs = [chosen if is_elementwise(layer.activation) else whole, chosen][: len(call.outputs)]
    return _with_pooling(call, call.step(FBS, *outputs, reason=reason))


def _with_pooling(call, step):
    """The step of an FBS layer, with the 2x2 max pooling that alone reads it.

    In int8, VGG-16 then takes 14.1 instead of 15.1 ms, since the layer need not write a map four times as large.
    """
    reader = call.only_reader(call.node)
    if not call.pools or op_activation(call.layer.activation) is None or reader is None:
        return step
    y, *mask = step.outputs
    if not _halves(reader.layer, y.shape):
        return step
    y = dataclasses.replace(y, shape=call.tensors[reader.output].shape)
    return dataclasses.replace(step, outputs=[y, *mask], pool=2, followers=(reader,))


def _halves(layer, shape):
    """Whether a layer takes the maximum of 2x2 pixels each, none of which lies outside of an image of this shape."""
    if kind(layer) is not keras.layers.MaxPooling2D or (layer.pool_size, layer.strides) != ((2, 2), (2, 2)):
        return False
    height, width = shape[1:3]
    inside = layer.padding == "valid" or height % 2 == width % 2 == 0
    return inside and min(height, width) > 1 and layer.data_format == "channels_last"


def _pad(call):
    if kind(call.layer) is not keras.layers.ZeroPadding2D or not call.pads(call.node, call.only_reader(call.node)):
        return None
    return call.step(FUSED, call.inputs[0])


def _suppress(call):
    if kind(call.layer) is not Suppress:
        return None
    x, mask = call.inputs
    source = [node.layer for node in call.flat.nodes if node.output == call.node.inputs[1]._replace(tensor=0)]
    all_win = mask.active is None and source and isinstance(source[0], FBSConv2D)  # at density 1
    if all_win or (x.active is not None and x.winners == mask.winners):
        return call.step(NOTHING, x)
    return None


def _all_dense(call):
    return None if call.compact else call.step(DENSE)


def _depthwise(call):
    if not call.is_depthwise(call.node):
        return None
    norm, followers, activation = None, [], op_activation(call.layer.activation) or "NONE"
    if call.layer.activation is keras.activations.linear:
        reader = call.only_reader(call.node)
        is_norm = reader is not None and kind(reader.layer) is keras.layers.BatchNormalization
        if is_norm and reader.output in call.suppressed:
            norm = reader.layer
            followers.append(reader)
            reader = call.only_reader(reader)
        if reader is not None and _relu(reader.layer) != "NONE":
            activation = _relu(reader.layer)
            followers.append(reader)
    return call.step(
        DEPTHWISE,
        call.inputs[0],
        norm=norm,
        activation=activation,
        padding=call.padding,
        followers=tuple(followers),
    )


def _separable(call):
    layer = call.layer
    if kind(layer) is keras.layers.SeparableConv2D and layer.depth_multiplier == 1:
        return call.step(SEPARABLE)
    return None


def _channelwise(call):
    return call.step(CHANNELWISE, call.inputs[0]) if call.is_channelwise(call.node) else None


def _merge(call):
    # Of equal rank: broadcast from the last axis, a batch of vectors would be one vector for each column of an image.
    same = len({(tensor.active, tensor.winners, len(tensor.shape)) for tensor in call.inputs}) == 1
    return (
        call.step(CHANNELWISE, call.inputs[0]) if same and _is(call.layer, *_MERGES) and len(call.inputs) > 1 else None
    )


def _add(call):
    """The sum of float32 tensors of one shape: of an Add layer, or `a + b`."""
    if call.aligned or not _is(call.layer, "Add") or len(call.inputs) < 2:
        return None
    (output,) = call.outputs
    if any((tensor.shape, tensor.dtype) != (output.shape, "float32") for tensor in call.inputs):
        return None
    reader = call.only_reader(call.node)
    activation = "NONE" if reader is None else _relu(reader.layer)
    return call.step(ADD, activation=activation, followers=() if activation == "NONE" else (reader,))


def _scale(call):
    """A compact image by one number for each channel, which is dense or of other winners."""
    if not _is(call.layer, "Multiply") or len(call.inputs) != 2 or not _all_float32(call.inputs):
        return None
    for x, scale in (call.inputs, call.inputs[::-1]):
        fits = len(scale.shape) == len(x.shape) and math.prod(scale.shape[1:-1]) == 1
        if x.active is not None and fits and (x.shape, scale.shape[-1]) == (call.outputs[0].shape, x.shape[-1]):
            return call.step(SCALE, x)
    return None


def _concatenate(call):
    """Compact where every reader can use that: it then reads fewer channels.

    On 28x28x256 before an FBS layer of 128 filters at density 0.5, 3x3: 210 us where expanding takes 415; with
    half of the channels dense 324 and 462, with 7/8 and more of them dense the same.
    """
    output = call.outputs[0]
    if not _joins_channels(call.layer, output) or not _all_float32(call.inputs):
        return None
    readers = call.flat.consumers(call.node.output)
    if call.flat.is_output(call.node.output) or not all(_reads_compact(node.layer, output) for node in readers):
        return None
    active = sum(tensor.active or tensor.shape[-1] for tensor in call.inputs)
    return call.step(CONCATENATE, dataclasses.replace(output, active=active, winners=call.winners))


def _all_float32(tensors):
    return all(tensor.dtype == "float32" for tensor in tensors)


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
    # So is what is flattened: 0.87 ms for 7x7x512, half of it active, to 256, against 4.99.
    several = call.aligned or math.prod(call.inputs[0].shape[1:-1]) > 1
    return call.step(ROWS) if len(call.inputs) == 1 and several and _is_matrix(call.layer) else None


def _is_matrix(layer):
    """Whether a layer is one matrix product over the channels."""
    if getattr(layer, "quantization_mode", None) is not None:
        return False
    if kind(layer) is keras.layers.Dense:
        return True
    return (
        kind(layer) is keras.layers.Conv2D
        and (layer.kernel_size, layer.strides, layer.groups) == ((1, 1), (1, 1), 1)
        and layer.data_format == "channels_last"
    )


def dense(call):
    """What always works: dense tensors."""
    reason = ""
    if call.compact:
        reason = reasons.reason(call.layer, call.inputs) if call.plain else "called with constants too"
    return call.step(FBS if isinstance(call.layer, FBSConv2D) else DENSE, reason=reason)


def fused(call):
    """A call that is part of the step before."""
    return call.step(FUSED, call.inputs[0])


def _relu(layer):
    """Which of the ops' activations an activation layer is, `"NONE"` if it is none."""
    return op_activation(activation_function(layer)) or "NONE"


def _leaves(structure):
    if isinstance(structure, list | tuple) and not isinstance(structure, graph.Ref):
        return [leaf for item in structure for leaf in _leaves(item)]
    if isinstance(structure, dict):
        return [leaf for item in structure.values() for leaf in _leaves(item)]
    return [structure]


def _is(layer, *names):
    """Whether a layer is of one of these kinds of Keras's, no subclass, or such an operation."""
    if isinstance(layer, keras.layers.Layer):
        return kind(layer) in [getattr(keras.layers, name) for name in names]
    return operation(layer) in names and operation(layer) != "Average"  # keras.ops.average is no sum of tensors


# In the order in which they are tried; each gives a `Step`, or `None` where it does not apply.
RULES = (
    _fbs,
    _suppress,
    _all_dense,
    _pad,
    _depthwise,
    _separable,
    _channelwise,
    _merge,
    _add,
    _scale,
    _concatenate,
    _rows,
    dense,
)
