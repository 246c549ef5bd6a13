"""remove_unused(): removes for good the channels that FBS layers never use."""

import typing
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from fbs_keras import graph
from fbs_keras.graph.channelwise import activation_name, passes_apart, passes_channels
from fbs_keras.graph.copying import remake
from fbs_keras.graph.observing import NEVER
from fbs_keras.graph.readers import kernel_readers
from fbs_keras.graph.rewriting import compile_as, rewrite
from fbs_keras.layers import gating
from fbs_keras.layers.densities import require_fbs_paths
from fbs_keras.layers.fbs_conv2d import FBSConv2D


@graph.reading_once()
def remove_unused(
    model: keras.Model, below: float = NEVER, *, print_fn: Callable[[str], object] | None = None
) -> keras.Model:
    """Returns a smaller copy of a trained model, without the channels that its gates hardly ever choose.

    A channel goes, with its filter, its gate and the weights that read it, where the share of training images for which
    it won, a moving average that every FBS layer keeps (`usage`), is less than `below`. As many channels win as before,
    so MACs stay what they were, but for the gates'. What is gained is a smaller file, and faster training, which
    computes all channels and masks the losers. Where a removed channel won, the next one in the order does: train on.

    FBS layers whose output is read by anything but convolutions and dense layers, an addition say, stay as they are;
    also those with a `gate` of their own, those that such a gate reads, and those whose activation mixes channels, as
    log_softmax does. A function that is not Keras's is tried on random
    values.

    Args:
        model: A trained Sequential or Functional Keras model with FBS layers. It is not changed.
        below: The usage below which a channel goes, in (0, 1). Defaults to 0.01. An untrained layer's usage is 1. The
            average starts with the first batch, and anew when the density changes; a channel that wins no more falls
            from 1 to below 0.01 in some 500 steps (at the layer's momentum of 0.99).
        print_fn: Called with a line for each FBS layer, which says how many channels stay and why. Defaults to no
            report.

    Returns:
        A new Keras model, compiled as the given one was, unless with a loss or metric that is no part of Keras.

    Raises:
        TypeError: If `model` is not a Keras model, or `below` no number.
        ValueError: If the model has no FBS layer, its graph cannot be read, `below` is not in (0, 1), or a layer's
            usage is not finite.

    Example:

    >>> small = fbs_keras.remove_unused(model, print_fn=print)
    conv0: 64 -> 33 channels, of which 16 win
    ...

    Source: ours.
    """
    below = gating.check_share(below, "below")
    require_fbs_paths(model)
    flat = graph.flatten(model)
    shapes = {ref: tuple(spec.shape) for ref, spec in graph.specs(flat, model).items()}
    outputs: dict[typing.Any, np.ndarray] = {}  # which channels stay, by the layer that makes or reads them
    inputs: dict[typing.Any, np.ndarray] = {}
    for node in flat.nodes:
        layer = node.layer
        if not isinstance(layer, FBSConv2D):
            continue
        kept = _used(node, below)
        readers = kernel_readers(node, flat, shapes, passes_channels, nested=False)
        apart = kept.all() or passes_apart(layer.activation, shapes[node.output], kept, layer.channel_axis)
        if isinstance(readers, list) and not apart:
            readers = f"its activation {activation_name(layer.activation)!r} may mix channels"
        if isinstance(readers, list):
            outputs[layer] = kept
            inputs.update((reader, kept) for reader in readers)
        if print_fn is not None:
            print_fn(_line(node, readers, kept))

    def make(layer):
        if layer not in outputs and layer not in inputs:
            return None
        if layer not in outputs:
            return remake(layer)
        filters = int(outputs[layer].sum())
        return remake(layer, filters=filters, density=layer.active_channels / filters)

    small, pairs = rewrite(model, make)
    for old, new in pairs:
        _carry_over(old, new, inputs.get(old), outputs.get(old))
    compile_as(small, model)
    return small


def _used(node, below):
    """Which channels of a layer stay, in whole groups: those that are used, and as many as win."""
    layer = node.layer
    usage = ops.convert_to_numpy(layer.usage)
    if not np.isfinite(usage).all():
        raise ValueError(f"the usage of {node.name!r} is not finite: train it on images whose values are finite")
    usage = usage.reshape(-1, layer.group_size).max(axis=1)
    kept = usage >= below
    kept[np.argsort(-usage, kind="stable")[: layer.active_channels // layer.group_size]] = True
    return np.repeat(kept, layer.group_size)


def _line(node, readers, kept):
    if isinstance(readers, str):
        return f"{node.name}: {len(kept)} channels: left alone: {readers}"
    change = f"{len(kept)} -> {kept.sum()} channels" if not kept.all() else f"{len(kept)} channels"
    return f"{node.name}: {change}, of which {node.layer.active_channels} win"


def _carry_over(old, new, inputs, outputs):
    """Sets a smaller layer's weights to those of the old one's channels that stay."""
    for weight, smaller in zip(old.weights, new.weights, strict=True):
        value = ops.convert_to_numpy(weight)
        if weight.name in ("kernel", "gate_kernel"):
            if inputs is not None:  # after a Flatten, every C-th row is of one channel
                rows = value.reshape(*value.shape[:-2], -1, len(inputs), value.shape[-1])[..., inputs, :]
                value = rows.reshape(*value.shape[:-2], -1, value.shape[-1])
            value = value if outputs is None else value[..., outputs]
        elif outputs is not None and value.ndim:
            value = value[outputs]
        if weight.name != "density":  # k of more channels
            smaller.assign(value)
