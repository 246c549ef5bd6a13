"""Which convolutions of a Keras model become FBS layers, together with what, and why the others do not."""

import collections
import dataclasses
import math
import typing

import keras

from fbs_keras import graph
from fbs_keras.channelwise import is_elementwise
from fbs_keras.layers import FBSConv2D, keeps_zero


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
        note: What is to be said about it, or `""`.
    """

    path: str
    layer: typing.Any
    reason: str = ""
    norm: typing.Any = None
    activation: typing.Any = None
    group_size: int = 1
    note: str = ""

    @property
    def wrapped(self):
        return not self.reason

    def __str__(self):
        if self.reason:
            return f"{self.path}: left alone: {self.reason}"
        parts = [part.name for part in (self.layer, self.norm, self.activation) if part is not None]
        return f"{self.path}: FBSConv2D of {' + '.join(parts)}" + (f", {self.note}" if self.note else "")


def plan(model, *, include=None, exclude=None, group_size=1):
    """Decides which convolutions `wrap` turns into FBS layers, and says why it leaves the others alone.

    Args:
        model: A built Sequential or Functional Keras model.
        include: Names of the only convolutions to wrap; a name or a list of names. Defaults to all that can be.
        exclude: Names of convolutions to leave alone. Defaults to none.
        group_size: The group size of the FBS layers, as far as their filters divide into groups. Defaults to 1.

    Returns:
        A list with a `Decision` for each convolution.

    Raises:
        ValueError: If a name is unknown, or a convolution named in `include` cannot be wrapped.

    Example:

    >>> [decision.path for decision in plan(model) if not decision.wrapped]
    ['logits']
    """
    include = None if include is None else _names(include, "include")
    exclude = _names(exclude or (), "exclude")
    owners = _owners(model)
    decisions = list({id(decision.layer): decision for decision in _decide(model, "", owners)}.values())
    flat = graph.flatten(model)
    decisions = [
        dataclasses.replace(decision, reason=OUTPUT) if _computes_output(decision, flat) else decision
        for decision in decisions
    ]
    known = {name for decision in decisions for name in (decision.path, decision.layer.name)}
    unknown = sorted((set(exclude) | set(include or ())) - known)
    if unknown:
        raise ValueError(
            f"include and exclude must name convolutions of model {model.name!r}, got {unknown[0]!r}; "
            f"it has {[decision.path for decision in decisions]}"
        )
    return [_grouped(_choose(decision, include, exclude), group_size) for decision in decisions]


def _names(names, argument):
    if isinstance(names, str):
        return [names]
    if not isinstance(names, list | tuple | set | frozenset):
        raise TypeError(f"{argument} must be a layer name or a list of them, got {names!r}")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{argument} must hold layer names, got {name!r} of type {type(name).__name__}")
    return list(names)


OUTPUT = "it computes the model's output"


def _choose(decision, include, exclude):
    """Applies the user's choice to what could be done with a convolution."""
    names = {decision.path, decision.layer.name}
    if names & set(exclude):
        return dataclasses.replace(decision, reason="excluded")
    if include is None:
        return decision
    if not names & set(include):
        return dataclasses.replace(decision, reason="not in include")
    if decision.reason == OUTPUT:
        return dataclasses.replace(decision, reason="")
    if decision.reason:
        raise ValueError(f"{decision.path!r} is in include but cannot be wrapped: {decision.reason}")
    return decision


def _grouped(decision, group_size):
    """Sets the group size of a convolution that is to be wrapped, as far as its filters divide into groups."""
    if not decision.wrapped:
        return decision
    filters, size = decision.layer.filters, math.gcd(decision.layer.filters, group_size)
    note = "" if size == group_size else f"group_size {size}: its {filters} filters are no multiple of {group_size}"
    return dataclasses.replace(decision, group_size=size, note=note)


def _owners(model):
    """In how many models, of a model and those nested in it, each layer stands: `{id: count}`."""
    counts: collections.Counter[int] = collections.Counter()
    seen = set()

    def visit(owner):
        seen.add(id(owner))
        layers = {id(node.layer): node.layer for node in graph.read(owner).nodes}
        counts.update(layers.keys())
        for layer in layers.values():
            if isinstance(layer, keras.Model) and graph.is_readable(layer) and id(layer) not in seen:
                visit(layer)

    visit(model)
    return counts


def _decide(model, prefix, owners):
    """Yields a `Decision` for each convolution of a model and of the models nested in it, each layer once."""
    model_graph = graph.read(model)
    calls: dict[int, list[graph.Node]] = {}
    for node in model_graph.nodes:
        calls.setdefault(id(node.layer), []).append(node)
    alone = {key for key, nodes in calls.items() if len(nodes) == 1 and owners[key] == 1}
    for nodes in calls.values():
        layer = nodes[0].layer
        if isinstance(layer, keras.Model):
            if graph.is_readable(layer):  # a subclassed model inside is copied as it is
                yield from _decide(layer, f"{prefix}{layer.name}/", owners)
        elif "Conv" in type(layer).__name__:
            reason = _why_not(layer, nodes, owners)
            norm, activation, moves_zero = (None, None, "") if reason else _followers(nodes[0], model_graph, alone)
            yield Decision(f"{prefix}{layer.name}", layer, reason or moves_zero, norm, activation)


def _why_not(layer, nodes, owners):
    """Why a convolution cannot become an FBS layer; empty when it can."""
    if isinstance(layer, FBSConv2D):
        return "it is an FBSConv2D already"
    if type(layer) is not keras.layers.Conv2D:
        return f"it is a {type(layer).__name__}; only Conv2D is gated"
    if layer.groups != 1:
        return f"it has {layer.groups} groups"
    if len(nodes) > 1:
        return f"it is shared by {len(nodes)} calls"
    if owners[id(layer)] > 1:
        return f"it is shared by {owners[id(layer)]} models"
    if not keeps_zero(layer.activation):
        return f"its activation {layer.activation.__name__!r} moves zero, so no channel could be skipped"
    return ""


def _followers(node, model_graph, alone):
    """The batch norm and the activation that an FBS layer in the place of `node` takes in.

    Args:
        node: The convolution's call.
        model_graph: The graph that it is in.
        alone: `id` of the layers that are called only once, and by this model only.

    Returns:
        `(norm, activation, reason)`: layers or `None`, and why the convolution cannot be wrapped, or `""`.
    """
    norm = activation = None
    channel_axis = 3 if node.layer.data_format == "channels_last" else 1
    if node.layer.activation is not keras.activations.linear:
        return None, None, ""
    after = _only_consumer(node, model_graph, alone)
    if after is not None and type(after.layer) is keras.layers.BatchNormalization:
        axis = after.layer.axis
        if (axis if axis >= 0 else axis + 4) == channel_axis:
            norm = after.layer
            after = _only_consumer(after, model_graph, alone)
    if after is not None and isinstance(after.layer, keras.layers.Layer):
        function = activation_function(after.layer)
        if function is not None and not keeps_zero(function):
            return None, None, f"its activation {after.layer.name!r} moves zero, so no channel could be skipped"
        if function is not None:
            activation = after.layer
    return norm, activation, ""


def _only_consumer(node, model_graph, alone):
    """The call that alone reads `node`'s output, of a layer that is called only there and so plainly; else `None`."""
    consumers = model_graph.consumers(node.output)
    if len(consumers) != 1 or model_graph.is_output(node.output) or id(consumers[0].layer) not in alone:
        return None
    # Not called with training=True, say, which the FBS layer would not do.
    plain = consumers[0].args == (node.output,) and all(value is None for value in consumers[0].kwargs.values())
    return consumers[0] if plain else None


def activation_function(layer):
    """The function of an activation layer, where `Conv2D(activation=...)` could name it; else `None`.

    Args:
        layer: Any Keras layer.

    Returns:
        A Keras activation function such as `keras.activations.relu`, or `None`.
    """
    if type(layer) is keras.layers.Activation:
        return None if layer.activation is keras.activations.softmax else layer.activation
    if type(layer) is keras.layers.ReLU and not layer.threshold and not layer.negative_slope:
        if layer.max_value is None:
            return keras.activations.relu
        if layer.max_value == 6:
            return keras.activations.relu6
    return None


# Layers that leave what a channel means as it is: a convolution whose values go through these alone is the output.
PASSING = (
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.MaxPooling2D,
    keras.layers.UpSampling2D,
    keras.layers.Resizing,
    keras.layers.Permute,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.Rescaling,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.Identity,
    keras.layers.Activation,
    keras.layers.Softmax,
)


def _computes_output(decision, flat):
    """Whether a linear convolution computes the model's output, such as a 1x1 classifier.

    Args:
        decision: What could be done with the convolution.
        flat: The whole model's graph, nested models inlined.
    """
    if decision.reason or decision.activation is not None:
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
        if isinstance(layer, keras.layers.Layer) and not isinstance(layer, PASSING):
            return False
        if isinstance(layer, keras.layers.Activation) and is_elementwise(layer.activation):
            return False  # features, behind a ReLU that the FBS layer could not take in
        ref = consumers[0].output
    return True
