"""Network slimming: L1 on batch norm's gammas in training, then the channels with the smallest are removed for good."""

import math
from collections.abc import Callable, Iterable

import keras
import numpy as np
from keras import ops

from fbs_keras import graph, patterns
from fbs_keras.graph.arrays import to_numpy
from fbs_keras.layers import gating
from fbs_keras.layers.fbs_conv2d import check_count
from fbs_keras.pruning.channel_groups import TRANSPOSED, ChannelGroups, flatten, padding
from fbs_keras.pruning.channel_removal import remove_channels

# Gammas below it are reported as near zero: a hundredth of what they start from.
NEAR_ZERO = 0.01


@graph.reading_once()
def slim(
    model: keras.Model,
    keep: float | None = None,
    *,
    threshold: float | None = None,
    widths: dict[str, int] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    min_channels: int = 1,
    print_fn: Callable[[str], object] | None = None,
) -> keras.Model:
    """Returns a smaller copy of a model, without the channels whose batch norm scales them to almost nothing.

    A channel c of a layer with batch norm is ranked by `|gamma_c|`, among the channels of all layers, and removed if

        |gamma_c| < t,  t the threshold that leaves the fraction `keep` of all ranked channels,

    with its filter, its batch norm and the weights that read it. The given model is not changed.

    Channels that an addition, or another elementwise operation, brings together are one channel: removed in all its
    layers or in none, and ranked by the largest of their gammas, so that no channel goes that some layer needs.
    What is kept whole: the model's output, what enters a nested model, and what a grouped or separable convolution
    or a layer that mixes channels or is unknown reads. Depthwise convolutions lose the channels that they read.

    A removed channel is on average `beta` after its batch norm, exactly so where gamma is 0; without batch norm it is
    taken for its layer's bias. What that brings about after the activation is added to the bias of the layers that
    read it, or taken from the mean of their batch norm. So the function stays the same where the removed gammas, or
    filters, are 0, but at the borders of zero padding, after a gate that multiplies the channel, and in a transposed
    convolution or a shared layer that read it.

    Fine-tune the result, then `fbs_keras.wrap` it to skip channels by the input on top.

    Args:
        model: A built Sequential or Functional Keras model, trained with `fbs_keras.SlimmingRegularizer`. Models nested
            in it are slimmed too.
        keep: The fraction of ranked channels to keep, in (0, 1]. A model without gammas is ranked by the size of its
            filters, `sum |kernel|`, relative to the layer's mean.
        threshold: Or remove every channel with a |gamma| below this, a number not below 0.
        widths: Or keep this many channels, the first by rank: `{name, path or pattern: channels}` as in
            `fbs_keras.set_density`; others stay as they are. Layers without gamma are ranked by the size of their
            filters.
        include: The only layers to slim: names, paths or patterns likewise, one or a list. Defaults to all that can be.
        exclude: Layers to leave alone, likewise. Defaults to none.
        min_channels: With `keep` or `threshold`, each layer keeps at least this many channels. Defaults to 1.
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
            print_fn(_line(groups, path, groups.writes[layer], kept))
    return remove_channels(model, groups, kept)


def _check_arguments(keep, threshold, widths, min_channels):
    given = {name: value for name, value in (("keep", keep), ("threshold", threshold)) if value is not None}
    if len(given) + (widths is not None) != 1:
        named = [*given, *(["widths"] if widths is not None else [])]
        raise ValueError(f"expected exactly one of keep, threshold and widths, got {' and '.join(named) or 'none'}")
    for name, value in given.items():
        if not gating.is_number(value):
            raise TypeError(f"{name} must be a number, got {value!r}")
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep}")
    if threshold is not None and not 0 <= threshold < math.inf:
        raise ValueError(f"threshold must be finite and not below 0, got {threshold}")
    if widths is not None and not isinstance(widths, dict):
        raise TypeError(f"widths must be a dict from layer name to channels, got {widths!r}")
    check_count(min_channels, "min_channels")
    for name, width in (widths or {}).items():
        check_count(width, f"widths[{name!r}]")


def _keys(groups, names, argument):
    """The names, paths or patterns of an argument, a list; raises where one names no layer."""
    keys = patterns.as_keys(names, argument)
    unknown = patterns.unmatched(keys, groups.layers)
    if unknown:
        raise ValueError(f"{argument} must name layers with channels, got {unknown[0]!r}; there are {[*groups.layers]}")
    return keys


def _restrict(groups, include, exclude):
    """Keeps the layers whole that the user did not choose."""
    exclude = _keys(groups, exclude or (), "exclude")
    for path, layer in groups.layers.items():
        if patterns.chosen(exclude, path):
            groups.keep(groups.writes[layer], "excluded")
    if include is None:
        return
    include = _keys(groups, include, "include")
    for path, layer in groups.layers.items():
        if not patterns.chosen(include, path):
            groups.keep(groups.writes[layer], f"it is joined to {path!r}, which is not in include")
    for path, layer in groups.layers.items():
        ids = groups.writes[layer]
        if patterns.chosen(include, path) > patterns.PATTERN and not groups.is_free(ids).any():
            raise ValueError(f"{path!r} is in include but cannot be slimmed: {groups.reason(ids)}")


def _gammas(groups, roots):
    """The largest |gamma| of each group's batch norms, by its root; NaN where there is none, or a path around it."""
    scores = np.full(len(roots), np.nan)
    for norm in groups.norms.values():
        if norm.scale:
            np.fmax.at(scores, roots[groups.reads[norm]], np.abs(to_numpy(norm.gamma)))
    scores[roots[_unscaled(groups)]] = np.nan
    return scores


def _unscaled(groups):
    """The channels that some layer reads although no gamma scales them on the way there."""
    scaled: dict = {}  # of each tensor, whether a gamma scales each channel
    found = [np.zeros(0, int)]
    for node in groups.graph.nodes:
        kind, ref = groups.kinds.get(node.output), next(iter(node.inputs), None)
        inputs = [scaled[ref] for ref in node.inputs if ref in scaled]
        if kind == "mix" and inputs:
            found.append(groups.tensors[ref].ids[~inputs[0]])
        if node.output not in groups.tensors:
            continue
        count = len(groups.tensors[node.output].ids)
        if kind in ("mix", "norm"):
            scaled[node.output] = np.full(count, kind == "norm" and node.layer.scale)
        elif kind == "concatenate":
            sizes = [groups.shapes[ref][groups.tensors[node.output].axis] for ref in node.inputs]
            parts = [scaled.get(ref, np.zeros(size, bool)) for ref, size in zip(node.inputs, sizes, strict=True)]
            scaled[node.output] = np.concatenate(parts)
        elif kind == "elementwise":
            together = np.logical_or if type(node.layer).__name__ == "Multiply" else np.logical_and
            # What has one channel, or none that is known, is spread over all: their gammas do not scale it.
            whole = [scaled.get(ref, ()) for ref in node.inputs]
            scaled[node.output] = together.reduce([v if len(v) == count else np.zeros(count, bool) for v in whole])
        elif kind == "pad":  # what is constant needs no gamma
            sides = padding(node.layer, len(groups.shapes[node.output]))[groups.tensors[node.output].axis]
            scaled[node.output] = np.pad(inputs[0], sides, constant_values=True)
        elif kind == "flatten":
            scaled[node.output] = flatten(node.layer, inputs[0], groups.tensors[ref].axis, groups.shapes[ref])
        else:
            scaled[node.output] = np.repeat(inputs[0], count // len(inputs[0]))  # a depthwise convolution may multiply
    return np.concatenate(found)


def _filter_sizes(groups, roots):
    """The largest `sum |kernel|` of each group's filters, relative to their layer's mean; NaN where there is none."""
    scores = np.full(len(roots), np.nan)
    for layer in groups.layers.values():
        if layer in groups.reads and not isinstance(layer, keras.layers.Dense):
            kernel = np.moveaxis(to_numpy(layer.kernel), -2 if type(layer) in TRANSPOSED else -1, 0)
            size = np.abs(kernel).reshape(len(kernel), -1).sum(axis=1)
            np.fmax.at(scores, roots[groups.writes[layer]], size / (size.mean() or 1.0))
    return scores


def _removed_by_rank(groups, roots, scores, keep, threshold, min_channels):
    """Marks the groups to remove, by root, of those ranked over the whole model."""
    free = np.unique(roots)
    free = free[groups.is_free(free)]
    ranked = free[~np.isnan(scores[free])]
    for root in free[np.isnan(scores[free])]:
        groups.keep([root], "no gamma scales it before it is read")
    removed = np.zeros(len(roots), bool)
    if not len(ranked):
        lines = [_line(groups, path, groups.writes[layer], ~removed) for path, layer in groups.layers.items()]
        raise ValueError("\n".join(["the model has nothing to slim:", *(f"  {line}" for line in lines)]))
    if threshold is not None:
        removed[ranked[scores[ranked] < threshold]] = True
    else:
        order = ranked[np.argsort(-scores[ranked], kind="stable")]
        removed[order[max(1, round(keep * len(order))) :]] = True
    for layer in groups.layers.values():
        own = roots[groups.writes[layer]]
        gone = own[removed[own]]
        missing = min(min_channels, len(own)) - (len(own) - len(gone))
        if missing > 0:
            removed[gone[np.argsort(-scores[gone], kind="stable")[:missing]]] = False
    return removed


def _removed_by_width(groups, roots, scores, widths):
    """Marks the groups to remove, by root, so that the named layers keep their widths.

    Where a padding shortcut makes the channels of one layer a part of another's, the narrower layer chooses first.
    """
    removed = np.zeros(len(roots), bool)
    decided: dict[int, str] = {}
    wanted = [
        (name, path, roots[groups.writes[groups.layers[path]]], widths[name])
        for path, name in patterns.closest(_keys(groups, [*widths], "widths"), groups.layers).items()
    ]
    for name, path, own, width in sorted(wanted, key=lambda item: len(item[2])):
        if width > len(own):
            raise ValueError(f"widths[{name!r}] must be at most the layer's {len(own)} channels, got {width}")
        free = groups.is_free(own) & ~np.isnan(scores[own])
        if width < (~free).sum():
            reason = groups.reason(own) or "neither a batch norm nor a filter ranks it"
            raise ValueError(f"{path!r} cannot be slimmed to {width} channels: {reason}")
        known = np.array([int(root) in decided for root in own], bool)
        fixed, gone = ~free | (known & ~removed[own]), known & removed[own]
        if not fixed.sum() <= width <= len(own) - gone.sum():
            others = ", ".join(repr(other) for other in dict.fromkeys(decided[int(root)] for root in own[known]))
            remedy = "both the same width" if known.all() else f"it {fixed.sum()} to {len(own) - gone.sum()} channels"
            raise ValueError(f"{path!r} cannot have {width} channels: it is joined to {others}; give {remedy}")
        rank = np.select([fixed, gone], [-np.inf, np.inf], -scores[own])
        removed[own[np.lexsort((own, rank))[width:]]] = True
        left = len(own) - removed[own].sum()
        if left != width:
            raise ValueError(f"{path!r} cannot have {width} channels, since some go together: {left} would stay")
        for root in own:
            decided.setdefault(int(root), path)
    return removed


def _line(groups, path, ids, kept):
    count = kept[ids].sum()
    if count < len(ids):
        return f"{path}: {len(ids)} -> {count} channels"
    reason = groups.reason(ids)
    return f"{path}: {len(ids)} channels" + (f": {reason}" if reason else "")


class SlimmingRegularizer(keras.callbacks.Callback):
    """Adds an L1 penalty on batch norms' gammas to the loss, so that `fbs_keras.slim` can tell channels apart.

    Adds `weight * sum_l ||gamma_l||_1` over the batch norms whose channels `slim` can remove, while `fit` runs.
    After it the model is as before, and a file saved meanwhile holds nothing of it. Logs, at each epoch's end,
    `gamma_mean`, the mean |gamma|, and `gamma_near_zero`, the share of them below 0.01.

    In a custom loop, call `set_model(model)` and `on_train_begin()` before the first step is traced, `on_train_end()`
    after the last, and add `sum(model.losses)` to the loss.

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

    def __init__(self, weight: float = 1e-5, print_fn: Callable[[str], object] | None = None):
        super().__init__()
        if not gating.is_number(weight):
            raise TypeError(f"weight must be a number not below 0, got {weight!r}")
        weight = float(weight)
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be finite and not below 0, got {weight}")
        self.weight = weight
        self.print_fn = print_fn
        self._norms: dict = {}

    def on_train_begin(self, logs=None):
        groups = ChannelGroups(self.model)
        self._norms = {
            path: norm for path, norm in groups.norms.items() if norm.scale and groups.is_free(groups.reads[norm]).any()
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
        gammas = {path: np.abs(to_numpy(norm.gamma)) for path, norm in self._norms.items()}
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
