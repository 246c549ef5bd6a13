"""Copies a model without some of its channels: smaller layers, the weights that stay, the constants of the others."""

import collections
import typing

import keras
import numpy as np

from fbs_keras.graph.arrays import to_numpy
from fbs_keras.graph.copying import remake
from fbs_keras.graph.rewriting import compile_as, rewrite
from fbs_keras.pruning.channel_groups import TRANSPOSED, flatten, padding


def remove_channels(model, groups, kept):
    """Copies a model without some of its channels.

    Args:
        model: A built Sequential or Functional Keras model.
        groups: Its `ChannelGroups`.
        kept: Which of its channels stay, a bool for each, the same for all channels of a group.

    Returns:
        A new Keras model, compiled as the given one was, unless with a loss or metric that is no part of Keras.

    Example:

    >>> groups = ChannelGroups(model)
    >>> kept = np.ones(groups.count, bool)
    >>> kept[groups.writes[model.get_layer("conv0")][10:]] = False
    >>> small = remove_channels(model, groups, kept)  # with ten channels after conv0
    """
    biases, means = _constants(groups, kept)
    nodes = {node.layer: node for node in groups.graph.nodes if node.output in groups.tensors}

    def make(layer):
        ids = [side[layer] for side in (groups.reads, groups.writes) if side.get(layer) is not None]
        if all(kept[side].all() for side in ids):
            return None
        changes: dict = {}
        for name in ("filters", "units"):
            if hasattr(layer, name):
                changes[name] = int(kept[groups.writes[layer]].sum())
        if layer in biases:
            changes["use_bias"] = True
        if isinstance(layer, keras.layers.Reshape):
            shape = [1] * len(layer.target_shape)
            shape[groups.tensors[nodes[layer].output].axis - 1] = int(kept[groups.reads[layer]].sum())
            changes["target_shape"] = tuple(shape)
        if not isinstance(layer, keras.layers.Layer):  # keras.ops.pad
            changes["pad_width"] = _smaller_padding(nodes[layer], groups, kept[groups.writes[layer]])
        return remake(layer, **changes)

    slimmed, pairs = rewrite(model, make)
    for old, new in pairs:
        if not isinstance(old, keras.layers.Layer):
            continue
        for name, value in _weights(old, groups, kept, biases.get(old, 0.0), means.get(old, 0.0)).items():
            if getattr(new, name) is not None:
                getattr(new, name).assign(value)
    compile_as(slimmed, model)
    return slimmed


def _smaller_padding(node, groups, kept):
    """The padding of a `keras.ops.pad` on all axes, without the channels that are not kept."""
    axis = groups.tensors[node.output].axis
    pairs = padding(node.layer, len(groups.shapes[node.output]))
    before, after = pairs[axis]
    pairs[axis] = (int(kept[:before].sum()), int(kept[len(kept) - after :].sum()))
    return pairs


def _weights(layer, groups, kept, bias, mean):
    """The weights of a layer without the channels that are not kept, `{name: value}`; `bias`, `mean`: what to add."""
    if isinstance(layer, keras.layers.BatchNormalization):
        inputs = kept[groups.reads[layer]]
        names = [
            name for name in ("gamma", "beta", "moving_mean", "moving_variance") if getattr(layer, name) is not None
        ]
        return {
            name: (to_numpy(getattr(layer, name)) + (mean if name == "moving_mean" else 0))[inputs] for name in names
        }
    if isinstance(layer, keras.layers.Reshape):
        return {}
    kernel, outputs = to_numpy(layer.kernel), kept[groups.writes[layer]]
    reads = groups.reads.get(layer)
    axis_in, axis_out = (-1, -2) if type(layer) in TRANSPOSED else (-2, -1)
    if reads is not None:
        kernel = np.compress(kept[reads], kernel, axis=kernel.ndim + axis_in)
    if "Depthwise" not in type(layer).__name__:
        kernel = np.compress(outputs, kernel, axis=kernel.ndim + axis_out)
    before = to_numpy(layer.bias) if layer.use_bias else np.zeros(len(outputs), "float32")
    return {"kernel": kernel, "bias": (before + bias)[outputs]}


def _constants(groups, kept):
    """What the removed channels bring about in the layers that read them.

    Returns:
        `(biases, means)`: what to add to a layer's bias, in a shared layer the mean over its calls, or to the moving
        mean of the batch norm after it, by layer.
    """
    shifts: dict[typing.Any, list] = {}  # of a layer's outputs, at each of its calls
    means: dict[typing.Any, np.ndarray] = {}
    values: dict = {}  # of each tensor, the mean of its removed channels, [1, channels]; of others, anything
    calls = collections.Counter(node.layer for node in groups.graph.nodes)
    for node in groups.graph.nodes:
        layer, output, kind = node.layer, node.output, groups.kinds.get(node.output)
        known = groups.tensors.get(node.inputs[0]) if kind == "mix" else None
        if known is not None and type(layer) not in TRANSPOSED:
            shift = _through(np.where(kept[known.ids], 0, values[node.inputs[0]]), layer)[0]
            norm = _only_norm(output, groups)
            linear = layer.activation is keras.activations.linear and not layer.use_bias
            if linear and norm is not None and calls[layer] == calls[norm] == 1:
                means[norm] = -shift
            else:
                shifts.setdefault(layer, []).append(shift)
        if output not in groups.tensors:
            continue
        inputs = [values.get(ref, np.zeros((1, 1), "float32")) for ref in node.inputs]
        values[output] = _value(node, kind, inputs, groups)
    biases = {layer: np.mean(each, axis=0) for layer, each in shifts.items()}
    return {layer: bias for layer, bias in biases.items() if bias.any()}, means


def _only_norm(ref, groups):
    """The batch norm that alone reads a tensor, or `None`."""
    after = groups.graph.consumers(ref)
    if len(after) == 1 and groups.kinds.get(after[0].output) == "norm" and not groups.graph.is_output(ref):
        return after[0].layer
    return None


def _value(node, kind, inputs, groups):
    """The constants of a call's output, by those of its inputs."""
    layer, known = node.layer, groups.tensors[node.output]
    if kind == "norm":
        return to_numpy(layer.beta)[None] if layer.center else np.zeros((1, len(known.ids)), "float32")
    if kind == "depthwise":
        bias = to_numpy(layer.bias) if layer.use_bias else 0
        return to_numpy(layer.activation(_through(inputs[0], layer) + bias))
    if kind == "elementwise":
        return to_numpy(node.call(dict(zip(node.inputs, inputs, strict=True))))
    if kind == "concatenate":
        sizes = [groups.shapes[ref][known.axis] for ref in node.inputs]
        return np.concatenate(
            [np.broadcast_to(value, (1, size)) for value, size in zip(inputs, sizes, strict=True)], axis=1
        )
    if kind == "pad":
        value = node.args[1] if len(node.args) > 1 else node.kwargs.get("constant_values")
        sides = padding(layer, len(groups.shapes[node.output]))[known.axis]
        return np.pad(inputs[0], ((0, 0), sides), constant_values=value or 0)
    if kind == "flatten":
        ref = node.inputs[0]
        return flatten(layer, inputs[0][0], groups.tensors[ref].axis, groups.shapes[ref])[None]
    if kind == "mix":
        bias = to_numpy(layer.bias) if layer.use_bias else np.zeros(len(known.ids), "float32")
        # As if the filter were zero. A function that mixes channels may not take this shape; all its channels stay.
        return to_numpy(layer.activation(bias[None])) if groups.is_free(known.ids).any() else bias[None]
    return inputs[0]


def _through(constant, layer):
    """What a convolution or dense layer, without its bias, makes of a constant for each channel, away from borders."""
    kernel = to_numpy(layer.kernel)
    kernel = kernel.sum(axis=tuple(range(kernel.ndim - 2)))  # [in, out], or [in, multiplier] of a depthwise one
    if "Depthwise" in type(layer).__name__:
        return (constant[..., None] * kernel).reshape(len(constant), -1)
    return constant @ kernel
