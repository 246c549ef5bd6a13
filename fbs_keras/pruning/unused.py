"""remove_unused(): takes away for good the channels that FBS layers never use."""

import numpy as np
from keras import ops

from fbs_keras import graph
from fbs_keras.graph.channelwise import activation_name, passes_apart, passes_channels
from fbs_keras.graph.copying import remake
from fbs_keras.graph.readers import kernel_readers
from fbs_keras.graph.rewriting import compile_as, rewrite
from fbs_keras.layers import gating
from fbs_keras.layers.densities import require_fbs_paths
from fbs_keras.layers.fbs_conv2d import FBSConv2D


def remove_unused(model, below=0.01, *, print_fn=None):
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
    outputs: dict[int, np.ndarray] = {}  # which channels stay, by id of the layer that makes or reads them
    inputs: dict[int, np.ndarray] = {}
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
            outputs[id(layer)] = kept
            inputs.update((id(reader), kept) for reader in readers)
        if print_fn is not None:
            print_fn(_line(node, readers, kept))

    def make(layer):
        if id(layer) not in outputs and id(layer) not in inputs:
            return None
        if id(layer) not in outputs:
            return remake(layer)
        filters = int(outputs[id(layer)].sum())
        return remake(layer, filters=filters, density=layer.active_channels / filters)

    small, pairs = rewrite(model, make)
    for old, new in pairs:
        _carry_over(old, new, inputs.get(id(old)), outputs.get(id(old)))
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
            if inputs is not None:  # behind a Flatten, every C-th row is of one channel
                rows = value.reshape(*value.shape[:-2], -1, len(inputs), value.shape[-1])[..., inputs, :]
                value = rows.reshape(*value.shape[:-2], -1, value.shape[-1])
            value = value if outputs is None else value[..., outputs]
        elif outputs is not None and value.ndim:
            value = value[outputs]
        if weight.name != "density":  # k of more channels
            smaller.assign(value)
