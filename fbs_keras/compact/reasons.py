"""Why a layer cannot work on a compact tensor, in words."""

import math

import keras

from fbs_keras.graph.channelwise import is_channelwise
from fbs_keras.graph.kinds import Changed, kind
from fbs_keras.graph.properties import properties
from fbs_keras.layers.suppress import Suppress

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)


def reason(layer, inputs):
    """Says why a layer needs dense tensors.

    Args:
        layer: A Keras layer or operation.
        inputs: The `sparsity.Tensor`s that it reads.

    Returns:
        A phrase, which says something about that layer.

    Example:

    >>> reason(keras.layers.LayerNormalization(), [tensor])
    'LayerNormalization mixes channels'
    """
    name = type(layer).__name__
    if kind(layer) is Suppress:
        if inputs[0].active is None:
            return "Suppress reads a dense tensor"
        return "the mask of Suppress is of another FBS layer than what it reads"
    if kind(layer) is Changed:
        return f"{name} has a method that has been replaced"
    if properties(layer).role == "normalize" or getattr(layer, "activation", None) is keras.activations.softmax:
        return f"{name} mixes channels"
    if kind(layer) in (keras.layers.Dense, keras.layers.Conv2D) and math.prod(inputs[0].shape[1:-1]) == 1:
        return f"of a single pixel, faster than to gather the rows of {name}"
    if isinstance(layer, _CONVOLUTIONS):
        return f"read by {name} {'x'.join(map(str, layer.kernel_size))}, which is not an FBS layer"
    if isinstance(layer, keras.layers.DepthwiseConv2D | keras.layers.SeparableConv2D) and layer.depth_multiplier != 1:
        return f"{name} has depth_multiplier {layer.depth_multiplier}"
    if len(inputs) == 1 and is_channelwise(layer, inputs[0].shape):
        return f"{name} moves zero, and no Suppress with the same winners comes after it"
    if kind(layer) is keras.layers.Flatten:
        return "Flatten mixes pixels and channels"
    if name == "Concatenate":
        return "what reads the concatenation needs it dense, or it is not along the channels"
    if len(inputs) > 1:
        return f"{name} of tensors of other shapes or winners"
    return f"{name} is not known to treat channels apart"
