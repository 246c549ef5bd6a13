"""Where channels that an FBS layer suppressed are not zero for a while, until a Suppress layer makes them so again."""

from fbs_keras import graph
from fbs_keras.graph.channelwise import is_channelwise, moves_zero
from fbs_keras.graph.kinds import kind
from fbs_keras.layers.fbs_conv2d import FBSConv2D
from fbs_keras.layers.suppress import Suppress


def suppressed(flat, tensors):
    """Finds the tensors that nobody reads in the channels which an FBS layer suppressed, although these are not zero.

    Such a tensor lies between an FBS layer and the Suppress layer with its mask, after layers that treat every channel
    by itself, such as a depthwise convolution and its batch normalisation, and has no other reader. It need not be
    computed in those channels: a compact tensor may hold the others only, as if it were zero in those.

    Args:
        flat: A `graph.Graph`, nested models inlined.
        tensors: Its tensors, anything with a `shape`, by `graph.Ref`.

    Returns:
        A set of `graph.Ref`.
    """
    producers = {node.output: node for node in flat.nodes}
    found = set()
    for node in flat.nodes:
        if kind(node.layer) is Suppress:
            x, mask = node.inputs
            found |= _behind(x, mask, flat, tensors, producers)
    return found


def _behind(x, mask, flat, tensors, producers):
    """The tensors from an FBS layer to its Suppress layer, which reads `x`, that are not zero where they should be."""
    source = producers.get(mask._replace(tensor=0))
    if source is None or not isinstance(source.layer, FBSConv2D):
        return set()
    path: list[graph.Node] = []
    while x != source.output:
        node = producers.get(x)
        if node is None or not node.inputs:
            return set()
        if kind(node.layer) is Suppress and node.inputs[1] == mask:
            break
        if len(node.inputs) > 1 or not is_channelwise(node.layer, tensors[node.inputs[0]].shape):
            return set()
        path.insert(0, node)
        x = node.inputs[0]
    while path and not moves_zero(path[0].layer):
        del path[0]
    alone = all(len(flat.consumers(node.output)) == 1 and not flat.is_output(node.output) for node in path)
    return {node.output for node in path} if alone else set()
