"""density_for_macs(): the densities at which a model saves as many multiply-accumulates as wanted."""

import contextlib
import math

import keras
import numpy as np
from keras import ops

from fbs_keras.costs import macs
from fbs_keras.layers import gating
from fbs_keras.layers.densities import require_fbs_paths

GRID = 100  # a uniform density is a multiple of 1 / GRID


def density_for_macs(
    model: keras.Model, saving: float, *, per_layer: bool = False, min_density: float = 0.1
) -> float | dict[str, float]:
    """Finds the highest densities at which a model needs `saving` times fewer multiply-accumulates than without FBS.

    By default one density for all layers, the largest multiple of 0.01 that saves enough. With `per_layer`, layers
    whose saliency is concentrated in few channels keep fewer of them: with the mean predicted saliencies of a layer's
    channels in descending order, `g_1 >= g_2 >= ... >= g_C`, channel c is kept where the channels before it hold less
    than a share `tau` of the whole,

        (g_1 + ... + g_{c-1}) / (g_1 + ... + g_C) < tau,    density = kept / C,

    and `tau`, the same for all layers, is as large as the budget allows. Shares are compared, not the saliencies
    themselves, since their scales differ from layer to layer. Where no layer is more concentrated than another, the
    densities are uniform. The saliencies are the running averages of training (`FBSConv2D.saliency`), or before any
    training `relu(rho)`, which `fbs_keras.wrap` sets to batch norm's |gamma|; with a `gate` of the layer's own, ones.

    MACs are those of `fbs_keras.count_macs`, gates included. The model is not changed: pass the result to
    `fbs_keras.set_density`, or to a schedule as the density to end at.

    Args:
        model: A built Keras model with FBS layers and fixed spatial dimensions.
        saving: How many times fewer MACs, at least 1.
        per_layer: Whether to choose a density for each layer. Defaults to `False`: one for all.
        min_density: No layer gets less, in (0, 1]. Defaults to 0.1.

    Returns:
        A float, or with `per_layer` `{layer path: density}`.

    Raises:
        TypeError: If `saving` or `min_density` is not a number, or `model` no Keras model.
        ValueError: If `saving` is below 1 or cannot be reached, `min_density` is not in (0, 1], the model has no FBS
            layer, or its MACs cannot be counted.

    Example:

    >>> model = fbs_keras.wrap(fbs_keras.models.MCifarNet())
    >>> fbs_keras.density_for_macs(model, 3.9)
    0.5

    Source: ours. Comparing channels of all layers by one threshold is network slimming's (Liu et al., "Learning
    Efficient Convolutional Networks through Network Slimming", ICCV 2017), whose criterion is |gamma|.
    """
    if not gating.is_number(saving):
        raise TypeError(f"saving must be a number of at least 1, got {saving!r}")
    saving = float(saving)
    if not (math.isfinite(saving) and saving >= 1):
        raise ValueError(f"saving must be a number of at least 1, got {saving}")
    min_density = gating.check_density(min_density)
    paths = require_fbs_paths(model)
    layers = [layer for _, layer in paths]
    densities, steps = (_by_shares if per_layer else _uniform)(layers, min_density)
    sizes = macs.read_sizes(model)

    def saved(step):
        for layer, density in zip(layers, densities(step), strict=True):
            layer.density.assign(density)
        return macs.report(*sizes).saving

    with _densities_restored(layers):
        largest = saved(0)
        if largest < saving:
            raise ValueError(
                f"saving must be at most {math.floor(largest * 100) / 100:g}, which min_density = {min_density:g} "
                f"gives in model {model.name!r}, got {saving:g}; lower min_density, or wrap more convolutions"
            )
        # The saving falls from step to step: the last step that saves enough is in [low, high).
        low, high = 0, steps
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if saved(middle) >= saving else (low, middle)
        if not per_layer:
            return densities(low)[0]
        saved(low)
        return {path: layer.active_channels / layer.filters for path, layer in paths}


def _uniform(layers, min_density):
    """The uniform densities from `min_density` to 1: a function of the step, and the number of steps."""
    lowest = math.ceil(min_density * GRID - gating.ROUNDING)
    return lambda step: [(lowest + step) / GRID] * len(layers), GRID - lowest + 1


def _by_shares(layers, min_density):
    """Densities from `min_density` to 1, each step with the channel more before which there is the least saliency."""
    groups = np.array([layer.filters // layer.group_size for layer in layers])
    least, entries = [], []
    for index, layer in enumerate(layers):
        g = np.sort(_saliency(layer))[::-1]
        shares = (np.cumsum(g) - g) / g.sum()
        k = gating.active_channels(min_density, layer.filters, layer.group_size, layer.round_channels)
        least.append(k // layer.group_size)
        entries += [(share, index) for share in shares[least[-1] :]]
    order = np.array([index for _, index in sorted(entries)], int)
    return lambda step: (least + np.bincount(order[:step], minlength=len(layers))) / groups, len(entries) + 1


def _saliency(layer):
    """Mean predicted saliency of each group of channels, in float64; ones where all are zero."""
    g = ops.convert_to_numpy(layer.saliency)
    if not g.any() and layer.gate_layer is None:  # not trained yet
        g = np.maximum(ops.convert_to_numpy(layer.gate_bias), 0)
    g = np.asarray(g, "float64").reshape(-1, layer.group_size).mean(axis=1)
    return g if g.any() else np.ones_like(g)


@contextlib.contextmanager
def _densities_restored(layers):
    """Sets the layers' densities back at the end, also after an error."""
    before = [layer.density.numpy() for layer in layers]
    try:
        yield
    finally:
        for layer, density in zip(layers, before, strict=True):
            layer.density.assign(density)
