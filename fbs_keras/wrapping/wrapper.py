"""wrap(): turns the convolutions of a Keras model into FBS layers, keeping its weights and its function."""

import itertools
from collections.abc import Callable, Iterable

import keras

from fbs_keras import graph
from fbs_keras.graph.channelwise import activation_function
from fbs_keras.graph.copying import remake
from fbs_keras.graph.rewriting import compile_as, rewrite
from fbs_keras.layers.densities import by_path
from fbs_keras.layers.fbs_conv2d import FBSConv2D, check_count
from fbs_keras.layers.suppress import Suppress
from fbs_keras.wrapping.chains import scopes
from fbs_keras.wrapping.folding import array, folded_weights, is_separable
from fbs_keras.wrapping.planning import plan

INITS = ("preserve", "paper")


@graph.reading_once()
def wrap(
    model: keras.Model,
    density: float | dict[str, float] = 1.0,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    init: str = "preserve",
    group_size: int = 1,
    round_channels: int = 1,
    print_fn: Callable[[str], object] | None = None,
) -> keras.Model:
    """Returns a copy of a model in which convolutions are FBS layers, with the weights carried over.

    Each `Conv2D`, with the batch normalisation and the ReLU that follow it, becomes one `FBSConv2D`. With
    `init="preserve"` the copy computes at density 1 what the model did: batch norm's gamma becomes the gate,

        gamma * norm(conv(x)) + beta = |gamma| * (norm(sign(gamma) * conv(x)) + beta / |gamma|),

    so `rho = |gamma|`, its sign goes into the kernel, and `phi = 0`. The given model is not changed.

    What hangs on a weight or layer goes along: regularizers, constraints, activity regularizers, what is frozen,
    seeds, vocabularies, and functions as the objects that they are, registered or not. Where that cannot be, since
    gamma's sign or size changes what a rule would see, the convolution is left alone or the report says so: see
    `print_fn`. The optimizer of a compiled model starts anew.

    A `SeparableConv2D` becomes a `DepthwiseConv2D` and an `FBSConv2D`. A depthwise convolution after an FBS layer
    computes that layer's channels. Where it, or a batch normalisation after it, gives suppressed channels a value
    again, a `Suppress` layer after them zeroes these; likewise where batch normalisation comes before a convolution
    that is gated. A Sequential model that gets one becomes Functional.

    What stays as it is: convolutions with groups, those called more than once, those on maps so small that the gate
    would take longer than it saves, those with a constraint that would not hold, an activation with weights, LoRA or
    quantized weights, and the one that computes the model's output (the paper never gates the classifier).

    The copy is to be trained: compile it, `fit` it at density 1 for a while, then lower the density with
    `fbs_keras.DensityScheduler`.

    Args:
        model: A built Sequential or Functional Keras model. Models nested in it are wrapped too.
        density: The fraction of channels to keep, in (0, 1], or `{name, path or pattern: density}` as in
            `fbs_keras.set_density`; what nothing matches keeps all its channels. Defaults to 1.
        include: The only convolutions to wrap: names, paths or patterns as in `fbs_keras.set_density`, one or a list.
            Defaults to all. The classifier and convolutions on maps of fewer than 16 pixels, which save no time, are
            wrapped only where named themselves.
        exclude: Convolutions to leave alone, likewise. Defaults to none.
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
        ValueError: If the model is not built, is subclassed or has nothing to wrap, a density is not in (0, 1], a
            name or pattern matches nothing, a convolution named in `include` cannot be wrapped, `init` is unknown,
            `group_size` or `round_channels` is below 1, a layer cannot be copied, or two layers share a weight.

    Example:

    >>> model = fbs_keras.wrap(fbs_keras.models.MCifarNet(), density=0.5, print_fn=print)
    conv0: FBSConv2D of conv0 + conv0_norm + conv0_relu
    ...
    logits: left alone: it computes the model's output

    Source: paper, section 4 ("replace all convolutional layer computations"); the preserving start is ours.
    """
    graph.check_model(model)
    if not isinstance(init, str) or init not in INITS:
        raise ValueError(f"init must be one of {', '.join(map(repr, INITS))}, got {init!r}")
    check_count(group_size, "group_size")
    check_count(round_channels, "round_channels")
    decisions = plan(model, include=include, exclude=exclude, group_size=group_size, init=init)
    if print_fn is not None:
        for decision in decisions:
            print_fn(str(decision))
    if not any(decision.wrapped for decision in decisions):
        found = "\n".join(f"  {decision}" for decision in decisions) or "  it has no convolution"
        raise ValueError(f"model {model.name!r} has nothing to wrap:\n{found}")
    chosen = {decision.layer: decision for decision in decisions if decision.wrapped}
    densities = by_path(density, [decision.path for decision in chosen.values()])
    names = _layer_names(model)
    built: list = []  # what to call when the new layers are built

    def make(layer):
        if layer not in chosen:
            return None
        decision = chosen[layer]
        new = _new_layers(decision, densities, round_channels, init, names)
        built.append(_start_with(new[-1], folded_weights(layer, decision.norm, decision.folding)))
        return new

    wrapped, pairs = rewrite(
        model,
        make,
        skip=[
            part for decision in chosen.values() for part in (decision.norm, decision.activation) if part is not None
        ],
        insert={decision.chain[-1]: _suppression(decision, names) for decision in chosen.values() if decision.chain},
    )
    for restore_initializers in built:
        restore_initializers()
    for old, (*depthwise, _) in pairs:
        for layer in depthwise:
            layer.kernel.assign(array(old.depthwise_kernel))
    compile_as(wrapped, model)
    return wrapped


def _layer_names(model):
    """The names of a model's layers and of the layers of the models nested in it."""
    graphs = [scope.graph for scope in scopes(model).values()]
    outputs = [node.output for each in graphs for node in each.nodes]
    return {ref.layer for ref in (*outputs, *graph.refs([each.inputs for each in graphs]))}


def _unused(name, names):
    """A name for a new layer: with a number where the user has a layer of that name."""
    candidates = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(1)))
    return next(candidate for candidate in candidates if candidate not in names)


def _new_layers(decision, densities, round_channels, init, names):
    """Makes the layers that replace a decided convolution, with its settings but not yet its weights."""
    fbs = _fbs_layer(decision, densities, round_channels, init)
    return [_depthwise_layer(decision.layer, names), fbs] if is_separable(decision.layer) else [fbs]


def _depthwise_layer(conv, names):
    """Makes the first half of a separable convolution."""
    return keras.layers.DepthwiseConv2D(
        **_geometry(conv),
        data_format=conv.data_format,
        use_bias=False,
        depthwise_initializer=conv.depthwise_initializer,
        depthwise_regularizer=conv.depthwise_kernel.regularizer,
        depthwise_constraint=conv.depthwise_kernel.constraint,
        trainable=conv.trainable and conv.depthwise_kernel.trainable,
        dtype=conv.dtype_policy,
        name=_unused(f"{conv.name}_depthwise", names),
    )


def _geometry(conv):
    return {name: getattr(conv, name) for name in ("kernel_size", "strides", "padding", "dilation_rate")}


def _suppression(decision, names):
    """The layer after a chain that zeroes the losers again, and the winners that it reads."""
    conv = decision.layer
    policy = getattr(decision.chain[-1], "dtype_policy", conv.dtype_policy)  # an operation such as ops.relu has none
    layer = Suppress(data_format=conv.data_format, dtype=policy, name=_unused(f"{conv.name}_suppress", names))
    return layer, graph.Ref(conv.name, 0, 1)


def _fbs_layer(decision, densities, round_channels, init):
    """Makes the FBS layer for a decided convolution, with its settings but not yet its weights."""
    conv, norm, activation = decision.layer, decision.norm, decision.activation
    paper = init == "paper"
    kernel, geometry = "kernel", _geometry(conv)
    if is_separable(conv):
        kernel, geometry = "pointwise", {"kernel_size": 1}
    function = conv.activation if activation is None else activation_function(activation)
    layer = FBSConv2D(
        conv.filters,
        **geometry,
        **decision.folding.arguments,
        data_format=conv.data_format,
        activation=remake(function) if isinstance(function, keras.layers.Layer) else function,
        kernel_initializer=getattr(conv, f"{kernel}_initializer"),
        bias_initializer=conv.bias_initializer if norm is None else norm.beta_initializer,
        gate_kernel_initializer="he_normal" if paper else "zeros",
        gate_bias_initializer="ones",
        activity_regularizer=getattr(decision.last, "activity_regularizer", None),
        density=densities.get(decision.path, 1.0),
        group_size=decision.group_size,
        round_channels=round_channels,
        normalize=norm is not None,
        momentum=0.99 if norm is None else norm.momentum,
        epsilon=1e-3 if norm is None else norm.epsilon,
        return_mask=bool(decision.chain),
        dtype=conv.dtype_policy,
        name=conv.name,
    )
    layer.autocast = conv.autocast
    return layer


def _start_with(layer, values):
    """Makes an FBS layer's weights start, when it is built, as those that it takes over: random ones take long to make.

    Args:
        layer: The FBS layer, not built.
        values: `folded_weights`, with which it computes at density 1 what convolution, norm and activation did.

    Returns:
        A function that gives the layer its own initializers back.
    """
    own = []
    for name, value in values.items():
        owner, attribute = layer.norm if name.startswith("moving_") else layer, f"{name}_initializer"
        own.append((owner, attribute, getattr(owner, attribute)))
        # As new arrays: on JAX a shared one is deleted under one model when the other one trains.
        setattr(owner, attribute, lambda shape, dtype=None, value=value: keras.ops.convert_to_tensor(value(), dtype))

    def restore():
        for owner, attribute, initializer in own:
            setattr(owner, attribute, initializer)

    return restore
