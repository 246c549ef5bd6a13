"""Which layers' kernels read the channels of an FBS layer, followed through what lies between."""

import keras

from fbs_keras.graph.kinds import kind
from fbs_keras.layers.fbs_conv2d import FBSConv2D


def kernel_readers(node, flat, shapes, passes, nested=True):
    """Lists the layers whose kernels read an FBS layer's channels, `[..., channels, outputs]`.

    Args:
        node: The FBS layer's call, a `graph.Node`.
        flat: The flat graph that it is in.
        shapes: `{Ref: shape}` of all tensors.
        passes: A function of a layer, its input's shape and the axis of the channels there, which says whether the
            channels may be followed through it. They are followed through a `Flatten`, too: every C-th row of the next
            kernel belongs to a channel then.
        nested: Whether the channels may be followed into a nested model too, which has an input of a certain shape.
            Defaults to `True`.

    Returns:
        A list of FBS layers, `Conv2D` and `Dense` layers, each called once; or where something else reads the
        channels, a string that says what.
    """
    if kind(node.layer) is not FBSConv2D:
        return f"it is a {type(node.layer).__name__}, which may do more than FBSConv2D"
    if node.layer.gate_layer is not None:
        return f"its gate is a layer, {node.layer.gate_layer.name!r}, whose outputs stay what they are"
    if has_other_weights(node.layer):
        return "it has other weights than FBSConv2D's, such as LoRA's"
    calls = _calls(node.layer, flat)
    if calls > 1:
        return f"it is called {calls} times"
    winners = node.output._replace(tensor=1)
    if flat.consumers(winners) or flat.is_output(winners):
        reader = next((each.name for each in flat.consumers(winners)), "the model's output")
        return f"{reader} reads its winners"
    return _readers(node.output, flat, shapes, passes, node.layer, nested)


def _calls(layer, flat):
    return sum(node.layer is layer for node in flat.nodes)


def _readers(ref, flat, shapes, passes, source, nested):
    if flat.is_output(ref):
        return "it is the model's output"
    found = []
    for node in flat.consumers(ref):
        layer = node.layer
        if not nested and not ref.layer.startswith(node.scope):
            return f"it enters the nested model {node.scope.rstrip('/')!r}"
        if _mixes_channels(layer, shapes[ref], source.data_format):
            calls = _calls(layer, flat)
            if calls > 1:
                return f"{node.name} reads it, which is called {calls} times"
            if getattr(layer, "gate_layer", None) is not None:
                return (
                    f"{node.name} reads it, whose gate is a layer, {layer.gate_layer.name!r}, that reads all channels"
                )
            if has_other_weights(layer):
                return f"{node.name} reads it, which has more weights than kernel and bias"
            found.append(layer)
            continue
        flattens = kind(layer) is keras.layers.Flatten and layer.data_format == source.data_format
        # Not called with training=True, say: a random layer would not leave a zero channel zero.
        plain = node.args == (ref,) and not any(node.kwargs.values())
        axis = source.channel_axis if len(shapes[ref]) == 4 else -1
        if not plain or not (flattens or passes(layer, shapes[ref], axis)):
            return f"{node.name} reads it"
        behind = _readers(node.output, flat, shapes, passes, source, nested)
        if isinstance(behind, str):
            return behind
        found += behind
    return found


def _mixes_channels(layer, shape, data_format):
    if kind(layer) is keras.layers.Dense:
        return len(shape) == 2
    is_conv = kind(layer) is FBSConv2D or (kind(layer) is keras.layers.Conv2D and layer.groups == 1)
    return is_conv and layer.data_format == data_format


def has_other_weights(layer):
    """Whether a layer has weights that are not its type's own, such as LoRA's or those of a quantised layer."""
    if isinstance(layer, FBSConv2D):
        state = (layer.density, layer.saliency_weight, layer.usage, layer.saliency)
        own = [layer.gate_kernel, layer.gate_bias, *state, *([] if layer.norm is None else layer.norm.weights)]
    else:
        own = []
    return len(layer.weights) != 1 + layer.use_bias + len(own)
