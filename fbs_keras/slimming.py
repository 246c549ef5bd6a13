"""Network slimming: L1 on batch norm's gammas in training, then the channels with the smallest are removed for good."""

import contextlib
import math
import numbers

import keras
import numpy as np
from keras import ops

from fbs_keras.channel_groups import TRANSPOSED, ChannelGroups, flatten
from fbs_keras.rewriting import rewrite

# Gammas below it are reported as near zero: a hundredth of what they start from.
NEAR_ZERO = 0.01


def slim(
    model,
    keep=None,
    *,
    threshold=None,
    widths=None,
    include=None,
    exclude=None,
    min_channels=1,
    print_fn=None,
):
    """Returns a smaller copy of a model, without the channels whose batch norm scales them to almost nothing.

    A channel c of a layer with batch norm is ranked by `|gamma_c|`, among the channels of all layers, and removed if

        |gamma_c| < t,  t the threshold that leaves the fraction `keep` of all ranked channels,

    with its filter, its batch norm and the weights that read it. The given model is not changed.

    Channels that an addition, or another elementwise operation, brings together are one channel: removed in all its
    layers or in none, and ranked by the largest of their gammas, so that no channel goes that some layer needs.
    What is kept whole: the model's output, what enters a nested model, and what a grouped or separable convolution
    or a layer that mixes channels or is unknown reads. Depthwise convolutions lose the channels that they read.

    A removed channel is on average `beta` behind its batch norm, exactly so where gamma is 0. What that brings about
    behind the activation is added to the bias of the layers that read it, or taken from the mean of their batch norm.
    So the function stays the same where the removed gammas are 0, but at the borders of zero padding.

    Fine-tune the result, then `fbs_keras.wrap` it to skip channels by the input on top.

    Args:
        model: A built Sequential or Functional Keras model, trained with `fbs_keras.SlimmingRegularizer`. Models nested
            in it are slimmed too.
        keep: The fraction of ranked channels to keep, in (0, 1]. A model without gammas is ranked by the size of its
            filters, `sum |kernel|`, relative to the layer's mean.
        threshold: Or remove every channel with a |gamma| below this, a number not below 0.
        widths: Or keep so many channels, the first by rank: `{layer name: channels}`, others stay as they are. Layers
            without gamma are ranked by the size of their filters.
        include: Names of the only layers to slim; a name or a list of names. Defaults to all that can be.
        exclude: Names of layers to leave alone. Defaults to none.
        min_channels: With `keep` or `threshold`, each layer keeps at least so many channels. Defaults to 1.
        print_fn: Called with a line for each layer, which says how many channels stay and why. Defaults to no report.

    Returns:
        A new Keras model; compiled as the given one was, unless with a loss or metric that is no part of Keras.

    Raises:
        TypeError: If `model` is not a Keras model, `keep` or `threshold` no number, or `min_channels` or a width no
            integer.
        ValueError: If not exactly one of `keep`, `threshold` and `widths` is given, one is out of range, a name is
            unknown, a layer named in `include` or `widths` cannot be slimmed, the model is not built or subclassed,
            has an FBS layer, or nothing to slim.

    Example:

    >>> model.fit(x, y, epochs=60, callbacks=[fbs_keras.SlimmingRegularizer(1e-5)])
    >>> small = fbs_keras.slim(model, keep=0.6, print_fn=print)
    conv0: 64 -> 41 channels
    ...
    logits: 10 channels: it computes the model's output
    >>> model = fbs_keras.wrap(small, density=0.5)

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017. The largest
    gamma of joined channels and the folding of their constants are ours; the ranking by filters is that of Li et al.,
    "Pruning Filters for Efficient ConvNets", ICLR 2017.
    """
    _check_arguments(keep, threshold, widths, min_channels)
    groups = ChannelGroups(model)
    _restrict(groups, include, exclude)
    roots = groups.roots(range(groups.count))
    gammas, sizes = _gammas(groups, roots), _filter_sizes(groups, roots)
    if widths is not None:
        removed = _removed_by_width(groups, roots, np.where(np.isnan(gammas), sizes, gammas), widths)
    else:
        scores = gammas
        if keep is not None and np.isnan(gammas[groups.is_free(roots)]).all():
            scores = sizes
            if print_fn is not None:
                print_fn("no gamma ranks the channels: ranked by the size of their filters")
        removed = _removed_by_rank(groups, roots, scores, keep, threshold, min_channels)
    kept = ~removed[roots]
    if print_fn is not None:
        for path, layer in groups.layers.items():
            print_fn(_line(groups, path, groups.writes[id(layer)], kept))
    return _without(model, groups, kept)


def _check_arguments(keep, threshold, widths, min_channels):
    given = {name: value for name, value in (("keep", keep), ("threshold", threshold)) if value is not None}
    if len(given) + (widths is not None) != 1:
        named = [*given, *(["widths"] if widths is not None else [])]
        raise ValueError(f"expected exactly one of keep, threshold and widths, got {' and '.join(named) or 'none'}")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a number, got {value!r}")
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep}")
    if threshold is not None and not 0 <= threshold < math.inf:
        raise ValueError(f"threshold must be finite and not below 0, got {threshold}")
    if widths is not None and not isinstance(widths, dict):
        raise TypeError(f"widths must be a dict from layer name to channels, got {widths!r}")
    for name, value in {"min_channels": min_channels, **(widths or {})}.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(
                f"{name if name == 'min_channels' else f'widths[{name!r}]'} must be an integer, got {value!r}"
            )
        if value < 1:
            raise ValueError(
                f"{name if name == 'min_channels' else f'widths[{name!r}]'} must be at least 1, got {value}"
            )


def _named(groups, names, argument):
    """The layers that some names mean, `{path: layer}`: a path, or a layer's own name."""
    names = [names] if isinstance(names, str) else list(names or ())
    found = {path: layer for path, layer in groups.layers.items() if path in names or layer.name in names}
    known = {name for path, layer in found.items() for name in (path, layer.name)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{argument} must name layers with channels, got {unknown[0]!r}; there are {[*groups.layers]}")
    return found


def _restrict(groups, include, exclude):
    """Keeps the layers whole that the user did not choose."""
    for layer in _named(groups, exclude, "exclude").values():
        groups.keep(groups.writes[id(layer)], "excluded")
    if include is None:
        return
    chosen = _named(groups, include, "include")
    for path, layer in groups.layers.items():
        if path not in chosen:
            groups.keep(groups.writes[id(layer)], f"it is joined to {path!r}, which is not in include")
    for path, layer in chosen.items():
        ids = groups.writes[id(layer)]
        if not groups.is_free(ids).any():
            raise ValueError(f"{path!r} is in include but cannot be slimmed: {groups.reason(ids)}")


def _gammas(groups, roots):
    """The largest |gamma| of each group's batch norms, by its root; NaN where there is none."""
    scores = np.full(len(roots), np.nan)
    for norm in groups.norms.values():
        if norm.scale:
            np.fmax.at(scores, roots[groups.reads[id(norm)]], np.abs(_numpy(norm.gamma)))
    return scores


def _filter_sizes(groups, roots):
    """The largest `sum |kernel|`, relative to its layer's mean, of each group's convolutions; NaN where there is none."""
    scores = np.full(len(roots), np.nan)
    for layer in groups.layers.values():
        if id(layer) in groups.reads and not isinstance(layer, keras.layers.Dense):
            kernel = np.moveaxis(_numpy(layer.kernel), -2 if type(layer) in TRANSPOSED else -1, 0)
            size = np.abs(kernel).reshape(len(kernel), -1).sum(axis=1)
            np.fmax.at(scores, roots[groups.writes[id(layer)]], size / (size.mean() or 1.0))
    return scores


def _removed_by_rank(groups, roots, scores, keep, threshold, min_channels):
    """Marks the groups to remove, by root, of those ranked over the whole model."""
    free = np.unique(roots)
    free = free[groups.is_free(free)]
    ranked = free[~np.isnan(scores[free])]
    for root in free[np.isnan(scores[free])]:
        groups.keep([root], "no batch norm scales it")
    removed = np.zeros(len(roots), bool)
    if not len(ranked):
        lines = [_line(groups, path, groups.writes[id(layer)], ~removed) for path, layer in groups.layers.items()]
        raise ValueError("\n".join(["the model has nothing to slim:", *(f"  {line}" for line in lines)]))
    if threshold is not None:
        removed[ranked[scores[ranked] < threshold]] = True
    else:
        order = ranked[np.argsort(-scores[ranked], kind="stable")]
        removed[order[max(1, round(keep * len(order))) :]] = True
    for layer in groups.layers.values():
        own = roots[groups.writes[id(layer)]]
        gone = own[removed[own]]
        missing = min(min_channels, len(own)) - (len(own) - len(gone))
        if missing > 0:
            removed[gone[np.argsort(-scores[gone], kind="stable")[:missing]]] = False
    return removed


def _removed_by_width(groups, roots, scores, widths):
    """Marks the groups to remove, by root, so that the named layers keep their widths."""
    removed = np.zeros(len(roots), bool)
    decided: dict[int, str] = {}
    for name, width in widths.items():
        for path, layer in _named(groups, name, "widths").items():
            own = roots[groups.writes[id(layer)]]
            if width > len(own):
                raise ValueError(f"widths[{name!r}] must be at most the layer's {len(own)} channels, got {width}")
            free = groups.is_free(own) & ~np.isnan(scores[own])
            if width < (~free).sum():
                reason = groups.reason(own) or "neither a batch norm nor a filter ranks it"
                raise ValueError(f"{path!r} cannot be slimmed to {width} channels: {reason}")
            order = np.argsort(np.where(free, -scores[own], -np.inf), kind="stable")
            gone = np.zeros(len(roots), bool)
            gone[own[order[width:]]] = True
            for root in own:
                if int(root) in decided and removed[root] != gone[root]:
                    raise ValueError(
                        f"{path!r} cannot have {width} channels: it is joined to {decided[int(root)]!r}; "
                        "give both the same width"
                    )
                decided[int(root)] = path
            removed |= gone
    return removed


def _line(groups, path, ids, kept):
    count = kept[ids].sum()
    if count < len(ids):
        return f"{path}: {len(ids)} -> {count} channels"
    reason = groups.reason(ids)
    return f"{path}: {len(ids)} channels" + (f": {reason}" if reason else "")


def _without(model, groups, kept):
    """Copies a model without the channels that are not kept."""
    biases, means = _constants(groups, kept)
    axes = {
        id(node.layer): groups.tensors[node.output].axis for node in groups.graph.nodes if node.output in groups.tensors
    }

    def make(layer):
        ids = [side[id(layer)] for side in (groups.reads, groups.writes) if side.get(id(layer)) is not None]
        if all(kept[side].all() for side in ids):
            return None
        config = layer.get_config()
        for name in ("filters", "units"):
            if name in config:
                config[name] = int(kept[groups.writes[id(layer)]].sum())
        if id(layer) in biases:
            config["use_bias"] = True
        if isinstance(layer, keras.layers.Reshape):
            shape = [1] * len(layer.target_shape)
            shape[axes[id(layer)] - 1] = int(kept[groups.reads[id(layer)]].sum())
            config["target_shape"] = tuple(shape)
        return type(layer).from_config(config)

    slimmed, pairs = rewrite(model, make)
    for old, new in pairs:
        for name, value in _weights(old, groups, kept, biases.get(id(old), 0.0), means.get(id(old), 0.0)).items():
            if getattr(new, name) is not None:
                getattr(new, name).assign(value)
    if model.compiled:
        # A loss or metric of the user's own may not be copied; the user compiles then.
        with contextlib.suppress(TypeError, ValueError):
            slimmed.compile_from_config(model.get_compile_config())
    return slimmed


def _weights(layer, groups, kept, bias, mean):
    """The weights of a layer without the channels that are not kept, `{name: value}`; `bias`, `mean`: what to add."""
    if isinstance(layer, keras.layers.BatchNormalization):
        inputs = kept[groups.reads[id(layer)]]
        names = [
            name for name in ("gamma", "beta", "moving_mean", "moving_variance") if getattr(layer, name) is not None
        ]
        return {name: (_numpy(getattr(layer, name)) + (mean if name == "moving_mean" else 0))[inputs] for name in names}
    if isinstance(layer, keras.layers.Reshape):
        return {}
    kernel, outputs = _numpy(layer.kernel), kept[groups.writes[id(layer)]]
    reads = groups.reads.get(id(layer))
    axis_in, axis_out = (-1, -2) if type(layer) in TRANSPOSED else (-2, -1)
    if reads is not None:
        kernel = np.compress(kept[reads], kernel, axis=kernel.ndim + axis_in)
    if "Depthwise" not in type(layer).__name__:
        kernel = np.compress(outputs, kernel, axis=kernel.ndim + axis_out)
    before = _numpy(layer.bias) if layer.use_bias else np.zeros(len(outputs), "float32")
    return {"kernel": kernel, "bias": (before + bias)[outputs]}


def _constants(groups, kept):
    """What the removed channels bring about in the layers that read them.

    Returns:
        `(biases, means)`: what to add to a layer's bias, or to the moving mean of the batch norm behind it, by `id`.
    """
    biases: dict[int, np.ndarray] = {}
    means: dict[int, np.ndarray] = {}
    values: dict = {}  # of each tensor, the mean of its removed channels, [1, channels]; of others, anything
    calls = [id(node.layer) for node in groups.graph.nodes]
    for node in groups.graph.nodes:
        layer, output, kind = node.layer, node.output, groups.kinds.get(node.output)
        known = [groups.tensors.get(ref) for ref in node.inputs]
        if kind == "mix" and known[0] is not None and type(layer) not in TRANSPOSED and calls.count(id(layer)) == 1:
            constant = np.where(kept[known[0].ids], 0, values[node.inputs[0]])
            shift = _through(constant, layer)[0]
            after = groups.graph.consumers(output)
            normed = (
                len(after) == 1 and groups.kinds.get(after[0].output) == "norm" and not groups.graph.is_output(output)
            )
            if shift.any() and normed and not layer.use_bias and calls.count(id(after[0].layer)) == 1:
                means[id(after[0].layer)] = -shift
            elif shift.any():
                biases[id(layer)] = shift
        if output not in groups.tensors:
            continue
        inputs = [values.get(ref, np.zeros((1, 1), "float32")) for ref in node.inputs]
        values[output] = _value(node, kind, inputs, groups)
    return biases, means


def _value(node, kind, inputs, groups):
    """The constants of a call's output, by those of its inputs."""
    layer, known = node.layer, groups.tensors[node.output]
    if kind == "norm":
        return _numpy(layer.beta)[None] if layer.center else np.zeros((1, len(known.ids)), "float32")
    if kind == "depthwise":
        bias = _numpy(layer.bias) if layer.use_bias else 0
        return _numpy(layer.activation(_through(inputs[0], layer) + bias))
    if kind == "elementwise":
        return _numpy(node.call(dict(zip(node.inputs, inputs, strict=True))))
    if kind == "concatenate":
        sizes = [groups.shapes[ref][known.axis] for ref in node.inputs]
        return np.concatenate(
            [np.broadcast_to(value, (1, size)) for value, size in zip(inputs, sizes, strict=True)], axis=1
        )
    if kind == "flatten":
        ref = node.inputs[0]
        return flatten(layer, inputs[0][0], groups.tensors[ref].axis, groups.shapes[ref])[None]
    if kind == "mix":
        return np.zeros((1, len(known.ids)), "float32")  # only a batch norm says where a channel's mean is
    return inputs[0]


def _through(constant, layer):
    """What a convolution or dense layer, without its bias, makes of a constant for each channel, away from borders."""
    kernel = _numpy(layer.kernel)
    kernel = kernel.sum(axis=tuple(range(kernel.ndim - 2)))  # [in, out], or [in, multiplier] of a depthwise one
    if "Depthwise" in type(layer).__name__:
        return (constant[..., None] * kernel).reshape(len(constant), -1)
    return constant @ kernel


def _numpy(value):
    return np.asarray(ops.convert_to_numpy(value), "float32")


class SlimmingRegularizer(keras.callbacks.Callback):
    """Adds an L1 penalty on batch norms' gammas to the loss, so that `fbs_keras.slim` can tell which channels to remove.

    Adds `weight * sum_l ||gamma_l||_1` over the batch norms whose channels `slim` can remove, while `fit` runs: the
    model is as before behind it, and a file saved meanwhile holds nothing of it. Logs, at each epoch's end,
    `gamma_mean`, the mean |gamma|, and `gamma_near_zero`, the share of them below 0.01.

    In a custom loop, call `set_model(model)` and `on_train_begin()` before the first step is traced, `on_train_end()`
    behind the last, and add `sum(model.losses)` to the loss.

    Args:
        weight: A number not below 0. Defaults to 1e-5, that of the FBS paper's authors; Liu et al. take 1e-4 or 1e-5.
        print_fn: Called with a line for each batch norm at each epoch's end. Defaults to no report.

    Raises:
        TypeError: If `weight` is no number.
        ValueError: If `weight` is negative or not finite; at the start of training, if the model has no such batch
            norm or cannot be slimmed.

    Example:

    >>> model.fit(x, y, epochs=60, callbacks=[fbs_keras.SlimmingRegularizer(1e-5, print_fn=print)])

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, equation 1.
    """

    def __init__(self, weight=1e-5, print_fn=None):
        super().__init__()
        if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
            raise TypeError(f"weight must be a number not below 0, got {weight!r}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be finite and not below 0, got {weight}")
        self.weight = float(weight)
        self.print_fn = print_fn
        self._norms = {}

    def on_train_begin(self, logs=None):
        groups = ChannelGroups(self.model)
        self._norms = {
            path: norm
            for path, norm in groups.norms.items()
            if norm.scale and groups.is_free(groups.reads[id(norm)]).any()
        }
        if not self._norms:
            raise ValueError(
                f"SlimmingRegularizer found no batch norm with gammas in model {self.model.name!r} whose channels "
                "could be removed"
            )
        for norm in self._norms.values():
            norm.gamma.regularizer = _GammaPenalty(self.weight, _own_regularizer(norm))
        self._trace_again()

    def on_train_end(self, logs=None):
        for norm in self._norms.values():
            norm.gamma.regularizer = _own_regularizer(norm)
        self._trace_again()

    def _trace_again(self):
        """Makes the model forget compiled steps, which hold the losses of the time when they were traced."""
        if self.model.compiled:
            self.model.make_train_function(force=True)
            self.model.make_test_function(force=True)

    def on_epoch_end(self, epoch, logs=None):
        gammas = {path: np.abs(_numpy(norm.gamma)) for path, norm in self._norms.items()}
        if logs is not None:
            every = np.concatenate(list(gammas.values()))
            logs["gamma_mean"] = float(every.mean())
            logs["gamma_near_zero"] = float((every < NEAR_ZERO).mean())
        if self.print_fn is not None:
            for path, values in gammas.items():
                near = int((values < NEAR_ZERO).sum())
                self.print_fn(f"{path}: mean gamma {values.mean():.3g}, {near} of {len(values)} near zero")


class _GammaPenalty(keras.regularizers.Regularizer):
    """`weight * sum |gamma|`, and the regularizer that was there before."""

    def __init__(self, weight, own=None):
        self.weight = weight
        self.own = own

    def __call__(self, gamma):
        penalty = self.weight * ops.sum(ops.abs(gamma))
        return penalty if self.own is None else penalty + self.own(gamma)


def _own_regularizer(norm):
    """A batch norm's regularizer of gamma, below the penalty that a training that broke off may have left there."""
    regularizer = norm.gamma.regularizer
    return regularizer.own if isinstance(regularizer, _GammaPenalty) else regularizer
