"""Which channels of a model must be removed together, if at all: followed from layer to layer through its graph."""

import typing

import keras
import numpy as np

from fbs_keras import graph
from fbs_keras.graph.channelwise import activation_name, treats_elements_apart
from fbs_keras.graph.kinds import operation
from fbs_keras.graph.properties import ELEMENTWISE_OPERATIONS, properties, types
from fbs_keras.layers.fbs_conv2d import FBSConv2D

TRANSPOSED = tuple(each for each in types("mix") if each.__name__.endswith("Transpose"))


class Channels(typing.NamedTuple):
    """The channels that a tensor holds along one of its axes: a number for each, shared where a layer passes it on."""

    ids: np.ndarray
    axis: int


class ChannelGroups:
    """The channels of a model, in groups that must be removed together or kept.

    A convolution or a dense layer makes new channels. Layers that treat every channel by itself pass them on, a
    concatenation puts them side by side, and an addition or another elementwise operation joins those at the same
    place into one group. `keras.ops.pad` puts new channels, which are constant, beside those that it reads. What reads
    channels in a way that is not known keeps them whole: a grouped or separable convolution, a layer that mixes
    channels, a model's output, the input of a nested model.

    Args:
        model: A built Sequential or Functional Keras model.

    Attributes:
        graph: The flat graph.
        shapes: `{Ref: shape}`, batch included.
        tensors: `{Ref: Channels}`, where they are known.
        kinds: `{Ref: kind}` of the call that computes it: `"mix"`, `"depthwise"`, `"norm"`, `"elementwise"`,
            `"spatial"`, `"concatenate"`, `"pad"`, `"slice"`, `"flatten"`, `"reshape"`.
        layers: `{path: layer}` of the layers that make channels.
        reads: `{layer: ids}`, the channels that a layer's weights or settings depend on.
        writes: `{layer: ids}`, the channels that a layer makes, or makes anew from those that it reads.
        norms: `{path: layer}` of the batch norms whose channels are known.

    Raises:
        TypeError, ValueError: As `fbs_keras.graph.flatten`.

    Example:

    >>> groups = ChannelGroups(model)
    >>> groups.reason(groups.writes[model.get_layer("logits")])
    "it computes the model's output"
    """

    def __init__(self, model):
        self.graph = graph.flatten(model)
        self.shapes = {ref: tuple(tensor.shape) for ref, tensor in graph.specs(self.graph, model).items()}
        self.tensors: dict[graph.Ref, Channels] = {}
        self.kinds: dict[graph.Ref, str] = {}
        self.layers: dict[str, typing.Any] = {}
        self.reads: dict[typing.Any, np.ndarray | None] = {}
        self.writes: dict[typing.Any, np.ndarray] = {}
        self.norms: dict[str, typing.Any] = {}
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}
        for node in self.graph.nodes:
            self._visit(node)
        for ref in graph.refs(self.graph.outputs):
            self._keep_tensor(ref, "it computes the model's output")

    @property
    def count(self):
        """The number of channels: they are numbered from 0."""
        return len(self._parents)

    def roots(self, ids):
        """The number of the group of each channel."""
        return np.array([self._root(channel) for channel in ids], int)

    def keep(self, ids, reason):
        """Keeps the groups of some channels whole, for a reason."""
        for root in self.roots(ids):
            self._reasons.setdefault(int(root), reason)

    def is_free(self, ids):
        """Whether each channel may be removed."""
        return np.array([int(root) not in self._reasons for root in self.roots(ids)], bool)

    def reason(self, ids):
        """Why some of these channels are kept whole; empty if none is."""
        return next((self._reasons[root] for root in map(int, self.roots(ids)) if root in self._reasons), "")

    def _new(self, count):
        ids = np.arange(len(self._parents), len(self._parents) + count)
        self._parents += map(int, ids)
        return ids

    def _root(self, channel):
        while self._parents[channel] != channel:
            self._parents[channel] = self._parents[self._parents[channel]]
            channel = self._parents[channel]
        return channel

    def _join(self, first, second):
        for one, other in zip(map(self._root, first), map(self._root, second), strict=True):
            if one != other:
                self._parents[max(one, other)] = min(one, other)
                reason = self._reasons.get(one) or self._reasons.get(other)
                if reason:
                    self._reasons[min(one, other)] = reason

    def _keep_tensor(self, ref, reason):
        if ref in self.tensors:
            self.keep(self.tensors[ref].ids, reason)

    def _read(self, layer, ids):
        """Notes what a layer reads: the same channels at each of its calls."""
        before = self.reads.setdefault(layer, ids)
        if before is None or ids is None:
            for known in (before, ids):
                if known is not None:
                    self.keep(known, f"{layer.name!r} reads it and also channels that stay")
        elif before is not ids:
            self._join(before, ids)

    def _write(self, layer, ids, path):
        """Notes the channels that a layer makes: the same ones at each of its calls."""
        self.layers.setdefault(path, layer)
        return self.writes.setdefault(layer, ids)

    def _visit(self, node):
        for ref in node.inputs:
            if not ref.layer.startswith(node.scope):
                self._keep_tensor(ref, f"it enters the nested model {node.scope.rstrip('/')!r}")
        kind, why = _kind(node)
        why = why or getattr(self, f"_visit_{kind}")(node)
        if why is None:
            self.kinds[node.output] = kind
            return
        for ref in node.inputs:
            self._keep_tensor(ref, f"{node.name!r} reads it: {why}")
        count = getattr(node.layer, "filters", getattr(node.layer, "units", None))
        if isinstance(count, int):  # for the report
            self.keep(self._write(node.layer, self._new(count), node.name), why)

    # Each of the following sets the channels of a call's output, or says why it cannot.

    def _visit_mix(self, node):
        layer, ref = node.layer, node.inputs[0]
        known = self.tensors.get(ref)
        axis = self._axis(layer, ref)
        if known is not None and known.axis != axis:
            return _OTHER_AXIS
        self._read(layer, None if known is None else known.ids)
        count = layer.units if isinstance(layer, keras.layers.Dense) else layer.filters
        ids = self.writes[layer] if layer in self.writes else self._new(count)
        self.tensors[node.output] = Channels(self._write(layer, ids, node.name), self._axis(layer, node.output))
        if not treats_elements_apart(layer.activation):
            self.keep(ids, f"its activation {activation_name(layer.activation)!r} may mix channels")
        return None

    def _visit_depthwise(self, node):
        if not treats_elements_apart(node.layer.activation):
            return f"its activation {activation_name(node.layer.activation)!r} may mix channels"

        def repeat(known):
            self.writes[node.layer] = np.repeat(known.ids, node.layer.depth_multiplier)
            return Channels(self.writes[node.layer], known.axis)

        return self._pass_on(node, repeat, self._axis(node.layer, node.inputs[0]), reads=True)

    def _visit_norm(self, node):
        axis = node.layer.axis % len(self.shapes[node.inputs[0]])
        why = self._pass_on(node, lambda known: known, axis, reads=True)
        if why is None and node.inputs[0] in self.tensors:
            self.norms.setdefault(node.name, node.layer)
        return why

    def _visit_spatial(self, node):
        ref = node.inputs[0]
        axis = self._axis(node.layer, ref) if hasattr(node.layer, "data_format") else None
        # Global pooling may drop the dimensions before the channels.
        return self._pass_on(node, lambda known: Channels(known.ids, self._moved(known, ref, node.output)), axis)

    def _moved(self, known, before, after):
        last = known.axis == len(self.shapes[before]) - 1
        return len(self.shapes[after]) - 1 if last else known.axis

    def _visit_flatten(self, node):
        shape = self.shapes[node.inputs[0]]
        if None in shape[1:]:
            return "its input has no fixed size"
        return self._pass_on(node, lambda known: Channels(flatten(node.layer, known.ids, known.axis, shape), 1))

    def _visit_reshape(self, node):
        before, after = (self.shapes[ref][1:] for ref in (node.inputs[0], node.output))
        places = [place for place, size in enumerate(after, 1) if size != 1]
        if [size for size in before if size != 1] != [size for size in after if size != 1] or len(places) != 1:
            return "it moves channels"
        return self._pass_on(node, lambda known: Channels(known.ids, places[0]), reads=True)

    def _pass_on(self, node, change, axis=None, reads=False):
        """Sets the channels of a layer with one input and one output to `change` of its input's."""
        known = self.tensors.get(node.inputs[0])
        if known is not None and axis is not None and known.axis != axis:
            return _OTHER_AXIS
        if reads:
            self._read(node.layer, None if known is None else known.ids)
        if known is not None:
            self.tensors[node.output] = change(known)
        return None

    def _visit_elementwise(self, node):
        rank = len(self.shapes[node.output])
        found = {ref: self.tensors[ref] for ref in node.inputs if ref in self.tensors}
        if not found:
            return None
        axes = {known.axis for known in found.values()}
        if len(axes) > 1 or any(len(self.shapes[ref]) != rank for ref in node.inputs):
            return "it brings different axes together"
        axis = axes.pop()
        count = self.shapes[node.output][axis]
        whole = [ref for ref in node.inputs if self.shapes[ref][axis] == count]
        for ref in set(found) - set(whole):
            self._keep_tensor(ref, f"{node.name!r} spreads it over all channels")
        if not all(ref in found for ref in whole):
            return "it joins it to channels that stay"
        for ref in whole[1:]:
            self._join(found[whole[0]].ids, found[ref].ids)
        self.tensors[node.output] = found[whole[0]]
        return None

    def _visit_concatenate(self, node):
        found = {ref: self.tensors[ref] for ref in node.inputs if ref in self.tensors}
        if not found:
            return None
        axis = node.layer.axis % len(self.shapes[node.output])
        if {known.axis for known in found.values()} != {axis}:
            return "it brings different axes together"
        parts = []
        for ref in node.inputs:
            ids = found[ref].ids if ref in found else self._new(self.shapes[ref][axis])
            if ref not in found:
                self.keep(ids, "it is not known what makes it")
            parts.append(ids)
        self.tensors[node.output] = Channels(np.concatenate(parts), axis)
        return None

    def _visit_pad(self, node):
        known = self.tensors.get(node.inputs[0])
        if known is None:
            return None
        before, after = padding(node.layer, len(self.shapes[node.output]))[known.axis]
        if len(node.inputs) > 1:
            return "it pads with a tensor"
        if (before or after) and node.layer.mode != "constant":
            return f"it pads channels in mode {node.layer.mode!r}"
        self._read(node.layer, known.ids)
        ids = self.writes.get(node.layer)
        if ids is None:
            ids = np.concatenate([self._new(before), known.ids, self._new(after)])
            self.writes[node.layer] = ids
        self.tensors[node.output] = Channels(ids, known.axis)
        return None

    def _visit_slice(self, node):
        known = self.tensors.get(node.inputs[0])
        if known is None:
            return None
        rank = len(self.shapes[node.inputs[0]])
        key = node.args[1] if len(node.args) > 1 else node.kwargs["key"]
        parts = list(key) if isinstance(key, (list, tuple)) else [key]
        if Ellipsis not in parts:
            parts.append(Ellipsis)
        place = parts.index(Ellipsis)
        parts[place : place + 1] = [slice(None)] * (rank - len(parts) + 1)
        if not all(isinstance(part, slice) for part in parts) or parts[known.axis] != slice(None):
            return "it takes a part of the channels, or other axes"
        self.tensors[node.output] = known
        return None

    def _axis(self, layer, ref):
        first = getattr(layer, "data_format", None) == "channels_first"
        return 1 if first else len(self.shapes[ref]) - 1


_OTHER_AXIS = "its channels are on another axis"


def padding(pad, rank):
    """How much a `keras.ops.pad` adds before and after each of the axes, a list of pairs."""
    pairs = [tuple(pair) for pair in pad.pad_width]
    return pairs * rank if len(pairs) == 1 else pairs


def flatten(layer, values, axis, shape):
    """What a Flatten layer makes of a value for each channel: one for each element, in the layer's order."""
    places = [1] * len(shape[1:])
    places[axis - 1] = len(values)
    grid = np.broadcast_to(np.reshape(values, places), shape[1:])
    return (np.moveaxis(grid, 0, -1) if layer.data_format == "channels_first" else grid).ravel()


def _kind(node):
    """The kind of a call, see `ChannelGroups`, and why its channels cannot be followed, or `None`."""
    layer, unknown = node.layer, ("", f"{type(node.layer).__name__} may mix channels")
    if isinstance(layer, FBSConv2D):
        raise ValueError(f"layer {node.name!r} is an FBSConv2D already: slim the model first, then wrap it")
    if not isinstance(layer, keras.layers.Layer):
        numbers = all(_is_number(value) for value in keras.tree.flatten((node.args, node.kwargs)))
        name = operation(layer)
        if name in ELEMENTWISE_OPERATIONS and numbers:
            return "elementwise", None
        if name in _OPERATIONS and (name != "Pad" or numbers):
            return _OPERATIONS[name], None
        return unknown
    row = properties(layer)
    kind = _KINDS.get(row.role, row.role)
    if kind == "concatenate" or (kind == "elementwise" and row.apart):
        return kind, None
    if len(node.inputs) != 1:
        return unknown
    if kind in ("mix", "depthwise"):
        return kind, _why_not(layer)
    if kind in ("norm", "spatial", "flatten", "reshape"):
        return kind, None
    if kind == "elementwise" and isinstance(layer, keras.layers.Activation) and treats_elements_apart(layer.activation):
        return "elementwise", None
    return unknown


# What is done alike with several roles. A constant stays that constant where values move or are averaged, but for
# padding.
_KINDS = {"nothing": "spatial", "global": "spatial", "merge": "elementwise"}
_OPERATIONS = {"Concatenate": "concatenate", "Pad": "pad", "GetItem": "slice"}


def _is_number(value):
    # Ref is a tuple, whose parts keras.tree.flatten lists: a name and two integers.
    return value is None or isinstance(value, (str, bool, int, float))


def _why_not(layer):
    """Why the channels of a convolution or dense layer cannot be followed, or `None`."""
    if getattr(layer, "groups", 1) != 1:
        return f"it has {layer.groups} groups"
    if len(layer.weights) != 1 + layer.use_bias:
        return "it has more weights than kernel and bias"
    return None
