"""wrap(): turns the convolutions of a Keras model into FBS layers, keeping its weights and its function."""

import collections
import contextlib
import dataclasses
import math
import typing

import keras
import numpy as np

from fbs_keras import gating, graph
from fbs_keras.channelwise import is_elementwise
from fbs_keras.layers import FBSConv2D, check_count, keeps_zero
from fbs_keras.rewriting import rewrite

# A gate starts no lower than this, so that beta / rho stays finite where batch norm's gamma is zero or nearly so.
SMALLEST_GATE = 1e-3

INITS = ("preserve", "paper")


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


def wrap(
    model,
    density=1.0,
    *,
    include=None,
    exclude=None,
    init="preserve",
    group_size=1,
    round_channels=1,
    print_fn=None,
):
    """Returns a copy of a model in which convolutions are FBS layers, with the weights carried over.

    Each `Conv2D`, with the batch normalisation and the ReLU that follow it, becomes one `FBSConv2D`. With
    `init="preserve"` the copy computes at density 1 what the model did: batch norm's gamma becomes the gate,

        gamma * norm(conv(x)) + beta = |gamma| * (norm(sign(gamma) * conv(x)) + beta / |gamma|),

    so `rho = |gamma|`, its sign goes into the kernel, and `phi = 0`. The given model is not changed. What else stays as
    it is: convolutions with groups, those called more than once, and the one that computes the model's output (the
    paper never gates the classifier).

    The copy is to be trained: compile it, `fit` it at density 1 for a while, then lower the density with
    `fbs_keras.DensityScheduler`.

    Args:
        model: A built Sequential or Functional Keras model. Models nested in it are wrapped too.
        density: The fraction of channels to keep, in (0, 1]. Defaults to 1.
        include: Names of the only convolutions to wrap; a name or a list of names. Defaults to all that can be.
        exclude: Names of convolutions to leave alone. Defaults to none.
        init: `"preserve"` (default), or `"paper"`: phi He-normal, rho = 1, kernels copied. The paper's start changes
            the function, and needs training at density 1 with a small learning rate first.
        group_size: Winners are whole groups of this many neighbouring channels. A convolution whose filters do not
            divide into such groups gets the largest size that divides both. Defaults to 1, the paper's.
        round_channels: The number of winners is rounded up to a multiple of this. 16 fills the vectors of every CPU:
            a layer with 20 active channels takes as long as one with 32. Defaults to 1, the paper's.
        print_fn: Called with a line for each convolution, which says what became of it and why. Defaults to no report.

    Returns:
        A new Keras model; compiled as the given one was, unless with a loss or metric that is no part of Keras.

    Raises:
        TypeError: If `model` is not a Keras model, `density` no number, or `group_size` or `round_channels` no integer.
        ValueError: If the model is not built, is subclassed or has nothing to wrap, the density is not in (0, 1], a
            name is unknown, a convolution named in `include` cannot be wrapped, `init` is unknown, or `group_size` or
            `round_channels` is below 1.

    Example:

    >>> model = fbs_keras.wrap(fbs_keras.models.MCifarNet(), density=0.5, print_fn=print)
    conv0: FBSConv2D of conv0 + conv0_norm + conv0_relu
    ...
    logits: left alone: it computes the model's output

    Source: paper, section 4 ("replace all convolutional layer computations"); the preserving start is ours.
    """
    graph.check_model(model)
    density = gating.check_density(density)
    if not isinstance(init, str) or init not in INITS:
        raise ValueError(f"init must be one of {', '.join(map(repr, INITS))}, got {init!r}")
    check_count(group_size, "group_size")
    check_count(round_channels, "round_channels")
    decisions = [_grouped(decision, group_size) for decision in plan(model, include=include, exclude=exclude)]
    if print_fn is not None:
        for decision in decisions:
            print_fn(str(decision))
    if not any(decision.wrapped for decision in decisions):
        found = "\n".join(f"  {decision}" for decision in decisions) or "  it has no convolution"
        raise ValueError(f"model {model.name!r} has nothing to wrap:\n{found}")
    chosen = {id(decision.layer): decision for decision in decisions if decision.wrapped}
    wrapped, pairs = rewrite(
        model,
        lambda layer: _fbs_layer(chosen[id(layer)], density, round_channels, init) if id(layer) in chosen else None,
        skip=[
            part for decision in chosen.values() for part in (decision.norm, decision.activation) if part is not None
        ],
    )
    for old, new in pairs:
        _carry_over(chosen[id(old)], new, init)
    if model.compiled:
        # A loss or metric of the user's own may not be copied; the user compiles then.
        with contextlib.suppress(TypeError, ValueError):
            wrapped.compile_from_config(model.get_compile_config())
    return wrapped


def plan(model, *, include=None, exclude=None):
    """Decides which convolutions `wrap` turns into FBS layers, and says why it leaves the others alone.

    Args:
        model: A built Sequential or Functional Keras model.
        include: Names of the only convolutions to wrap; a name or a list of names. Defaults to all that can be.
        exclude: Names of convolutions to leave alone. Defaults to none.

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
    return [_choose(decision, include, exclude) for decision in decisions]


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


def _fbs_layer(decision, density, round_channels, init):
    """Makes the FBS layer for a decided convolution, with its settings but not yet its weights."""
    conv, norm, activation = decision.layer, decision.norm, decision.activation
    paper = init == "paper"
    layer = FBSConv2D(
        conv.filters,
        conv.kernel_size,
        strides=conv.strides,
        padding=conv.padding,
        data_format=conv.data_format,
        dilation_rate=conv.dilation_rate,
        activation=conv.activation if activation is None else activation_function(activation),
        use_bias=conv.use_bias if norm is None else norm.center,
        kernel_initializer=conv.kernel_initializer,
        bias_initializer=conv.bias_initializer,
        gate_kernel_initializer="he_normal" if paper else "zeros",
        gate_bias_initializer="ones",
        kernel_regularizer=conv.kernel_regularizer,
        bias_regularizer=conv.bias_regularizer if norm is None else norm.beta_regularizer,
        activity_regularizer=conv.activity_regularizer,
        kernel_constraint=conv.kernel_constraint,
        bias_constraint=conv.bias_constraint if norm is None else norm.beta_constraint,
        density=density,
        group_size=decision.group_size,
        round_channels=round_channels,
        normalize=norm is not None,
        momentum=0.99 if norm is None else norm.momentum,
        epsilon=1e-3 if norm is None else norm.epsilon,
        norm_trainable=norm is None or norm.trainable,
        trainable=conv.trainable,
        dtype=conv.dtype_policy,
        name=conv.name,
    )
    return layer


def _carry_over(decision, layer, init):
    """Sets the FBS layer's weights so that at density 1 it computes what convolution, norm and activation did.

    With r = gamma / rho and rho = max(|gamma|, SMALLEST_GATE):

        gamma * (conv + b - mean) / std + beta = rho * ((r * conv - r * (mean - b)) / std + beta / rho)
    """
    conv, norm = decision.layer, decision.norm
    kernel = np.asarray(keras.ops.convert_to_numpy(conv.kernel), "float64")
    bias = _array(conv.bias if conv.use_bias else None, 0.0, layer.filters)
    if norm is None:
        # With no gamma to rank the channels by, the size of their filters does.
        size = np.sqrt(np.sum(kernel**2, axis=(0, 1, 2)))
        mean_size = size.mean() or 1.0
        rho = np.maximum(size / mean_size, SMALLEST_GATE)
        r, beta, mean = 1 / rho, bias, None
    else:
        gamma = _array(norm.gamma if norm.scale else None, 1.0, layer.filters)
        beta = _array(norm.beta if norm.center else None, 0.0, layer.filters)
        rho = np.maximum(np.abs(gamma), SMALLEST_GATE)
        r, mean = gamma / rho, _array(norm.moving_mean, 0.0, layer.filters) - bias
    if init == "paper":
        rho = r = np.ones(layer.filters)
    layer.kernel.assign(kernel * r)
    layer.gate_bias.assign(rho)
    if layer.use_bias:
        layer.bias.assign(beta / rho)
    if norm is not None:
        layer.norm.moving_mean.assign(r * mean)
        layer.norm.moving_variance.assign(norm.moving_variance)


def _array(variable, default, size):
    if variable is None:
        return np.full(size, default)
    return np.asarray(keras.ops.convert_to_numpy(variable), "float64")
