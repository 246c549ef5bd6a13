"""A call of a layer that is to be planned: what a rule may ask of it, and what it may answer."""

import dataclasses

import keras

from fbs_keras import graph
from fbs_keras.compact.op import op_activation
from fbs_keras.compact.padding import pads_as_same
from fbs_keras.compact.steps import Step
from fbs_keras.graph.channelwise import activation_function, is_channelwise, moves_zero
from fbs_keras.graph.kinds import kind, operation


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A rule's answer for a call that is of its kind, but cannot be exported so: why the layer needs dense tensors.

    The first one stands in the plan, unless a later rule has a `Step`.
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Call:
    """A call to be decided on.

    Attributes:
        node, inputs, outputs: As of the `Step` to be; `outputs` dense.
        flat: The graph.
        tensors: The graph's `Tensor`s by `graph.Ref`.
        suppressed: `regions.suppressed` of it.
        aligned, quantize: As `plan` takes them.
    """

    node: graph.Node
    inputs: list
    outputs: list
    flat: graph.Graph
    tensors: dict
    suppressed: set
    aligned: bool
    quantize: str | None

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

    @property
    def alike(self):
        """Whether all inputs hold the same channels."""
        # Of equal rank: broadcast from the last axis, a batch of vectors would be one for each column of an image.
        return len({(tensor.active, tensor.winners, len(tensor.shape)) for tensor in self.inputs}) == 1

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


def relu(layer):
    """Which of the ops' activations an activation layer is, `"NONE"` if it is none."""
    return op_activation(activation_function(layer)) or "NONE"


def is_operation(layer, *names):
    """Whether a layer is of one of these kinds of Keras's, no subclass, or such an operation."""
    if isinstance(layer, keras.layers.Layer):
        return kind(layer) in [getattr(keras.layers, name) for name in names]
    return operation(layer) in names and operation(layer) != "Average"  # keras.ops.average is no sum of tensors


def _leaves(structure):
    if isinstance(structure, list | tuple) and not isinstance(structure, graph.Ref):
        return [leaf for item in structure for leaf in _leaves(item)]
    if isinstance(structure, dict):
        return [leaf for item in structure.values() for leaf in _leaves(item)]
    return [structure]
