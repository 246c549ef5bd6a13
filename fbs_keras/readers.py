"""Which layers' kernels read the channels of an FBS layer, followed through what lies between."""

import keras

from fbs_keras.kinds import kind
from fbs_keras.layers import FBSConv2D


def kernel_readers(node, flat, shapes, passes):
    """Lists the layers whose kernels read an FBS layer's channels, `[..., channels, outputs]`.

    Args:
        node: The FBS layer's call, a `graph.Node`.
        flat: The flat graph that it is in.
        shapes: `{Ref: shape}` of all tensors.
        passes: A function of a layer and its input's shape, which says whether the channels may be followed through it.
            They are followed through a `Flatten`, too: every C-th row of the next kernel belongs to a channel then.

    Returns:
        A list of FBS layers, `Conv2D` and `Dense` layers, each called once; or where something else reads the
        channels, a string that says what.
    """
    calls = _calls(node.layer, flat)
    if calls > 1:
        return f"it is called {calls} times"
    return _readers(node.output, flat, shapes, passes, node.layer.data_format)


def _calls(layer, flat):
    return sum(node.layer is layer for node in flat.nodes)


def _readers(ref, flat, shapes, passes, data_format):
    if flat.is_output(ref):
        return "it is the model's output"
    found = []
    for node in flat.consumers(ref):
        layer = node.layer
        if _mixes_channels(layer, shapes[ref]):
            calls = _calls(layer, flat)
            if calls > 1:
                return f"{node.name} reads it, which is called {calls} times"
            found.append(layer)
            continue
        flattens = kind(layer) is keras.layers.Flatten and layer.data_format == data_format
        if not flattens and not passes(layer, shapes[ref]):
            return f"{node.name} reads it"
        behind = _readers(node.output, flat, shapes, passes, data_format)
        if isinstance(behind, str):
            return behind
        found += behind
    return found


def _mixes_channels(layer, shape):
    if kind(layer) is keras.layers.Dense:
        return len(shape) == 2
    return isinstance(layer, FBSConv2D) or (kind(layer) is keras.layers.Conv2D and layer.groups == 1)
