"""Which convolutions of a Keras model become FBS layers, together with what, and why the others do not."""

import contextlib
import dataclasses
import math
import typing

import keras

from fbs_keras import graph, patterns
from fbs_keras.graph.channelwise import activation_function, is_elementwise, passes_channels
from fbs_keras.graph.copying import remake
from fbs_keras.graph.kinds import replaced_methods
from fbs_keras.graph.properties import inherited
from fbs_keras.layers.fbs_conv2d import FBSConv2D, keeps_zero
from fbs_keras.wrapping.chains import chain_behind, needs_suppression, scopes
from fbs_keras.wrapping.folding import Folding, fold, is_separable


@dataclasses.dataclass(frozen=True)
class Decision:
    """What `wrap` does with one convolution.

    Attributes:
        path: The layer's name, after those of the nested models it is in: `"backbone/conv1"`.
        layer: The layer.
        reason: Why the layer is left alone; empty when it becomes an FBS layer.
        norm: The batch normalisation that the FBS layer takes in, or `None`.
        activation: The activation layer that the FBS layer takes in, or `None`.
        group_size: The FBS layer's.
        chain: The layers after it that treat its channels apart; a `Suppress` after the last zeroes the losers
            again. Empty where none is needed.
        passes: For a depthwise convolution: the path of the convolution whose channels it computes, or `""`.
        folding: For a convolution that could be wrapped: how, a `folding.Folding`.
        notes: What is to be said about it, a tuple of strings.
    """

    path: str
    layer: typing.Any
    reason: str = ""
    norm: typing.Any = None
    activation: typing.Any = None
    group_size: int = 1
    chain: tuple = ()
    passes: str = ""
    folding: Folding | None = None
    notes: tuple = ()

    @property
    def wrapped(self):
        return not (self.reason or self.passes)

    @property
    def last(self):
        """The last of the layers that become the FBS layer."""
        return self.activation or self.norm or self.layer

    def __str__(self):
        if self.reason:
            return f"{self.path}: left alone: {self.reason}"
        if self.passes:
            return f"{self.path}: computes the channels of {self.passes}"
        parts = [part.name for part in (self.layer, self.norm, self.activation) if part is not None]
        line = f"{self.path}: FBSConv2D of {' + '.join(parts)}"
        if is_separable(self.layer):
            line += " after its depthwise convolution"
        if self.chain:
            line += f", channels pass through {' + '.join(layer.name for layer in self.chain)}"
        return ", ".join((line, *self.notes))


def plan(model, *, include=None, exclude=None, group_size=1, init="preserve"):
    """Decides which convolutions `wrap` turns into FBS layers, and says why it leaves the others alone.

    Args:
        model: A built Sequential or Functional Keras model.
        include: The only convolutions to wrap: names, paths or patterns as in `fbs_keras.set_density`, one or a list.
            Defaults to all. Only what is named itself is wrapped where that is of no use: the convolution that computes
            the output, and those with fewer than `FEWEST_PIXELS` pixels.
        exclude: Convolutions to leave alone, likewise. Defaults to none.
        group_size: The group size of the FBS layers, as far as their filters divide into groups. Defaults to 1.
        init: `"preserve"` (default) or `"paper"`, as in `wrap`.

    Returns:
        A list with a `Decision` for each convolution.

    Raises:
        ValueError: If a name or pattern matches nothing, or a convolution named in `include` cannot be wrapped.

    Example:

    >>> [decision.path for decision in plan(model) if not decision.wrapped]
    ['logits']
    """
    include = None if include is None else patterns.as_keys(include, "include")
    exclude = patterns.as_keys(exclude or (), "exclude")
    places = scopes(model)
    decisions = list({decision.layer: decision for decision in _decide(model, places, init)}.values())
    unknown = patterns.unmatched([*exclude, *(include or ())], [decision.path for decision in decisions])
    if unknown:
        raise ValueError(
            f"include and exclude must name convolutions of model {model.name!r}, got {unknown[0]!r}; "
            f"it has {[decision.path for decision in decisions]}"
        )
    flat = graph.flatten(model)
    tensors = graph.specs(flat, model)
    decisions = [_choose(decision, include, exclude, flat, tensors) for decision in decisions]
    decisions = [_chained(_grouped(decision, group_size), decisions, places) for decision in decisions]
    chosen = _chosen_channels(decisions, flat, tensors)
    return [_depthwise(decision, chosen, flat) for decision in decisions]


def _choose(decision, include, exclude, flat, tensors):
    """Applies the user's choice to what could be done with a convolution."""
    if patterns.chosen(exclude, decision.path):
        return dataclasses.replace(decision, reason="excluded")
    chosen = patterns.PATTERN if include is None else patterns.chosen(include, decision.path)
    if not chosen:
        return dataclasses.replace(decision, reason="not in include")
    if chosen == patterns.PATTERN:
        return _unless_useless(decision, flat, tensors)
    if decision.reason:
        raise ValueError(f"{decision.path!r} is in include but cannot be wrapped: {decision.reason}")
    return decision


# Fewer pixels than this are left alone. A gate reads channels * filters weights, as a 1x1 convolution does, and the
# active weights are packed for each image. Speed-ups at density 0.5, our delegate against XNNPACK, 256 channels and
# filters, one thread of an AVX-512 virtual machine, by the size of the map:
#
#                                1x1   2x2   3x3   4x4   7x7   14x14
#     1x1 kernel, compact input  0.38  0.67  1.06  1.60  2.20  3.18
#     1x1 kernel, dense input    0.24  0.42  0.65  1.12  1.21  1.65
#     3x3 kernel, compact input  0.79  1.15  2.24  3.26  3.34  6.62
#     3x3 kernel, dense input    0.42  0.62  1.21  1.79  1.71  3.36
#
# 960 to 160 channels by 1x1, compact: 0.44, 0.76, 1.41, 2.05, 2.52, 3.03.
FEWEST_PIXELS = 16


def _unless_useless(decision, flat, tensors):
    """Leaves a convolution alone that could be wrapped, but is better not."""
    if not decision.wrapped:
        return decision
    if _computes_output(decision, flat):
        return dataclasses.replace(decision, reason="it computes the model's output")
    shapes = [tensors[node.output].shape for node in flat.nodes if node.layer is decision.layer]
    maps = [shape[1:3] if decision.layer.data_format == "channels_last" else shape[2:4] for shape in shapes]
    if all(None not in map_ and math.prod(map_) < FEWEST_PIXELS for map_ in maps):
        height, width = maps[0]
        reason = f"its map of {height}x{width} is so small that its gate would take longer than it saves"
        return dataclasses.replace(decision, reason=reason)
    return decision


def _grouped(decision, group_size):
    """Sets the group size of a convolution that is to be wrapped, as far as its filters divide into groups."""
    if not decision.wrapped:
        return decision
    filters, size = decision.layer.filters, math.gcd(decision.layer.filters, group_size)
    note = f"group_size {size}: its {filters} filters are no multiple of {group_size}"
    notes = decision.notes if size == group_size else (note, *decision.notes)
    return dataclasses.replace(decision, group_size=size, notes=notes)


def _decide(model, places, init):
    """Yields a `Decision` for each convolution of a model and of the models nested in it."""
    scope = places[model]
    for nodes in scope.calls.values():
        layer = nodes[0].layer
        if layer in places:
            yield from _decide(layer, places, init)
        elif isinstance(layer, keras.layers.Layer) and "Conv" in type(layer).__name__:
            path = f"{scope.prefix}{layer.name}"
            reason = _why_not(layer, nodes, scope)
            norm, activation, reason = (None, None, reason) if reason else _followers(nodes[0], scope)
            folding = None if reason else fold(layer, norm, init)
            if folding is None or folding.reason:
                yield Decision(path, layer, folding.reason if folding else reason, norm, activation)
            else:
                yield Decision(path, layer, "", norm, activation, folding=folding, notes=folding.notes)


def _why_not(layer, nodes, scope):
    """Why a convolution cannot become an FBS layer; empty when it can."""
    if isinstance(layer, FBSConv2D):
        return "it is an FBSConv2D already"
    if type(layer) not in (keras.layers.Conv2D, keras.layers.SeparableConv2D):
        return f"it is a {type(layer).__name__}; only Conv2D and SeparableConv2D are gated"
    if getattr(layer, "groups", 1) != 1:
        return f"it has {layer.groups} groups"
    if is_separable(layer) and layer.depth_multiplier != 1:
        return f"it has a depth_multiplier of {layer.depth_multiplier}"
    if len(nodes) > 1:
        return f"it is shared by {len(nodes)} calls"
    if scope.owners[layer] > 1:
        return f"it is shared by {scope.owners[layer]} models"
    if getattr(layer, "quantization_mode", None) is not None:
        return f"it is quantized ({layer.quantization_mode}); wrap the model first, and quantize in fbs_keras.convert"
    if getattr(layer, "lora_enabled", False):
        return "it has LoRA weights; wrap the model before enabling LoRA"
    if replaced := replaced_methods(layer):
        return f"its {min(replaced)} was replaced on the object"
    activation = layer.activation  # a function, a layer or any object to call
    name = getattr(activation, "__name__", None) or getattr(activation, "name", type(activation).__name__)
    if _has_state(activation, layer.filters):
        return f"its activation is the layer {name!r}, which has weights or seeds of its own"
    if not keeps_zero(activation):
        return f"its activation {name!r} moves zero, so no channel could be skipped"
    return ""


def _has_state(activation, channels):
    """Whether an activation is a layer with variables; it may not be built yet, and shall not be."""
    if not isinstance(activation, keras.layers.Layer):
        return False
    if activation.variables:
        return True
    with contextlib.suppress(Exception):
        probe = remake(activation)
        probe(keras.ops.zeros((1, 1, 1, channels)))
        return bool(probe.variables)
    return True


def _followers(node, scope):
    """The batch norm and the activation that the FBS layer that replaces `node` takes in.

    After a layer that regularizes its output nothing is taken in, for the FBS layer's output is what it would see;
    nor is what computes in another dtype than the convolution, unless the last that is taken in computes in its dtype.

    Args:
        node: The convolution's call.
        scope: The `chains.Scope` that it is in.

    Returns:
        `(norm, activation, reason)`: layers or `None`, and why the convolution cannot be wrapped, or `""`.
    """
    conv, norm, activation = node.layer, None, None
    if conv.activation is not keras.activations.linear or conv.activity_regularizer is not None:
        return None, None, ""
    after = scope.only_reader(node)
    if after is not None and _is_norm_of(after.layer, conv):
        norm = after.layer
        if getattr(norm, "renorm", False):
            return None, None, f"its norm {norm.name!r} uses batch renormalization"
        after = None if norm.activity_regularizer is not None else scope.only_reader(after)
    last = norm or conv
    if after is not None:
        function = None if replaced_methods(after.layer) else activation_function(after.layer)
        if function is not None and not _has_state(function, conv.filters):
            if not keeps_zero(function):
                return None, None, f"its activation {after.layer.name!r} moves zero, so no channel could be skipped"
            if getattr(after.layer, "compute_dtype", last.compute_dtype) == conv.compute_dtype:
                activation = after.layer
    if activation is None and last.compute_dtype != conv.compute_dtype:
        return None, None, ""
    return norm, activation, ""


def _is_norm_of(layer, conv):
    """Whether a layer is a batch norm of a convolution's channels that an FBS layer can take in."""
    return (
        type(layer) is keras.layers.BatchNormalization
        and layer.axis % 4 == _channel_axis(conv) % 4
        and layer.variable_dtype == conv.variable_dtype
        and not replaced_methods(layer)
    )


def _channel_axis(layer):
    return -1 if layer.data_format == "channels_last" else 1


def _chained(decision, decisions, places):
    """Adds the chain after an FBS layer, where zeroing the losers at its end pays."""
    # The mask that an FBS layer then returns too would be regularized with its output.
    if not decision.wrapped or getattr(decision.last, "activity_regularizer", None) is not None:
        return decision
    scope = next(scope for scope in places.values() if decision.layer in scope.calls)
    (last,) = scope.calls[decision.last]
    chain = chain_behind(last, scope, _channel_axis(decision.layer))
    gated = {other.layer for other in decisions if other.wrapped}
    readers = scope.graph.consumers(chain[-1].output) if chain else []
    reads_rows = any(node.layer in gated or isinstance(node.layer, FBSConv2D) for node in readers)
    if not needs_suppression(chain, reads_rows):
        return decision
    return dataclasses.replace(decision, chain=tuple(node.layer for node in chain))


def _chosen_channels(decisions, flat, tensors):
    """Which convolution chooses the channels of a tensor: `{Ref: path}` for those where some are zero."""
    starts = {
        decision.last: decision.path
        for decision in decisions
        if decision.wrapped or isinstance(decision.layer, FBSConv2D)
    }
    chained = {layer for decision in decisions for layer in decision.chain}
    chosen: dict[graph.Ref, str] = {}
    for node in flat.nodes:
        layer, read = node.layer, node.inputs[0] if len(node.inputs) == 1 else None
        if layer in starts:
            chosen[node.output] = starts[layer]
        elif read in chosen and (layer in chained or passes_channels(layer, tensors[read].shape)):
            chosen[node.output] = chosen[read]
    return chosen


def _depthwise(decision, chosen, flat):
    """Says whose channels a depthwise convolution computes, or why it computes all."""
    if type(decision.layer) is not keras.layers.DepthwiseConv2D:
        return decision
    if decision.layer.depth_multiplier != 1:
        reason = f"it has a depth_multiplier of {decision.layer.depth_multiplier}"
        return dataclasses.replace(decision, reason=reason)
    read = [node.inputs[0] for node in flat.nodes if node.layer is decision.layer]
    dense = [ref.layer for ref in read if ref not in chosen]
    if dense:
        return dataclasses.replace(decision, reason=f"it reads {dense[0]!r}, all of whose channels are active")
    return dataclasses.replace(decision, reason="", passes=" and ".join(sorted({chosen[ref] for ref in read})))


def _computes_output(decision, flat):
    """Whether a linear convolution computes the model's output, such as a 1x1 classifier.

    Args:
        decision: What could be done with the convolution.
        flat: The whole model's graph, nested models inlined.
    """
    if decision.activation is not None:
        return False
    if decision.layer.activation is not keras.activations.linear:
        return False
    last = decision.norm or decision.layer
    ref = next(node.output for node in flat.nodes if node.layer is last)
    while not flat.is_output(ref):
        consumers = flat.consumers(ref)
        if len(consumers) != 1 or len(consumers[0].inputs) != 1:
            return False
        layer = consumers[0].layer
        if isinstance(layer, keras.layers.Layer) and not inherited(layer).same_meaning:
            return False
        if isinstance(layer, keras.layers.Activation) and is_elementwise(layer.activation):
            return False  # features, after a ReLU that the FBS layer could not take in
        ref = consumers[0].output
    return True
