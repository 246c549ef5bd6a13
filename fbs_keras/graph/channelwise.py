"""Which layers treat every channel by itself, so that a channel can be left out, and which keep a zero channel zero."""

import keras
import numpy as np
from keras import ops

from fbs_keras.graph.kinds import kind, operation
from fbs_keras.graph.properties import (
    ACTIVATION_OPERATIONS,
    ELEMENTWISE_FUNCTIONS,
    HOMOGENEOUS_FUNCTIONS,
    properties,
)
from fbs_keras.layers.fbs_conv2d import keeps_zero


def _functions(names):
    """The functions of these names in `keras.activations` and `keras.ops`, as far as they are there."""
    return [getattr(module, name) for module in (keras.activations, ops) for name in names if hasattr(module, name)]


_ELEMENTWISE = _functions(ELEMENTWISE_FUNCTIONS)
_HOMOGENEOUS = _functions(HOMOGENEOUS_FUNCTIONS)


def treats_elements_apart(activation):
    """Whether an activation function, or an activation layer used as one, is known to treat every element by itself."""
    return _is_elementwise_layer(activation) or any(activation is known for known in _ELEMENTWISE)


def _is_elementwise_layer(layer):
    """Whether a layer maps each value by itself, whatever its settings: ReLU, LeakyReLU, ELU."""
    row = properties(layer)
    return row.role == "elementwise" and row.apart is True


def is_elementwise(activation):
    """Whether an activation function is known to treat every element by itself, and maps zero to zero.

    Args:
        activation: A function, or an activation layer used as one.

    Returns:
        A bool. A function of the user's own is not known.
    """
    return treats_elements_apart(activation) and keeps_zero(activation)


def activation_name(activation):
    """What to call an activation function, or an activation layer used as one, in a report."""
    return getattr(activation, "__name__", type(activation).__name__)


def activation_function(layer):
    """The function of an activation layer, where `Conv2D(activation=...)` could name it; else `None`.

    Args:
        layer: Any Keras layer or operation.

    Returns:
        A Keras activation function such as `keras.activations.relu`, or `None`.
    """
    if not isinstance(layer, keras.layers.Layer):
        return ACTIVATION_OPERATIONS.get(operation(layer))
    if kind(layer) is keras.layers.Activation:
        return None if layer.activation is keras.activations.softmax else layer.activation
    if kind(layer) is keras.layers.ReLU and not layer.threshold and not layer.negative_slope:
        if layer.max_value is None:
            return keras.activations.relu
        if layer.max_value == 6:
            return keras.activations.relu6
    return None


def is_channelwise(layer, input_shape, channel_axis=-1):
    """Whether a layer computes each output channel from the same input channel alone.

    Args:
        layer: A Keras layer or operation.
        input_shape: The shape of its input, batch included.
        channel_axis: Which dimension of its input the channels are. Defaults to -1.

    Returns:
        `True` for pooling, zero padding, cropping, upsampling, dropout, rescaling, elementwise activations, the
        flattening of a 1x1 map, depthwise convolutions with a `depth_multiplier` of 1 and batch normalisation of the
        channels; `False` for anything else.

    Example:

    >>> shape = (None, 8, 8, 64)
    >>> is_channelwise(keras.layers.BatchNormalization(), shape), is_channelwise(keras.layers.Softmax(), shape)
    (True, False)
    """
    if not isinstance(layer, keras.layers.Layer):
        return activation_function(layer) is not None
    rank, role = len(input_shape), properties(layer).role
    if role == "nothing" or _is_elementwise_layer(layer):
        return True
    if role in ("spatial", "global"):
        return _channels_are_on(channel_axis, layer, rank)
    if kind(layer) is keras.layers.Activation:
        return treats_elements_apart(layer.activation)
    if role == "depthwise":
        apart = layer.depth_multiplier == 1 and treats_elements_apart(layer.activation)
        return apart and _channels_are_on(channel_axis, layer, rank)
    if role == "norm":
        return layer.axis % rank == channel_axis % rank
    if kind(layer) is keras.layers.Rescaling:
        return isinstance(layer.scale, int | float) and isinstance(layer.offset, int | float)
    others = [size for axis, size in enumerate(input_shape) if axis not in (0, channel_axis % rank)]
    return role == "flatten" and all(size == 1 for size in others)


def _channels_are_on(channel_axis, layer, rank):
    """Whether a layer takes the same axis for that of the channels."""
    first = getattr(layer, "data_format", None) == "channels_first"  # not every layer of one dimension has any
    return channel_axis % rank == (1 if first else rank - 1)


def moves_zero(layer):
    """Whether a channelwise layer may give a channel that is zero another value, as `is_channelwise` knows layers."""
    role = properties(layer).role
    if role == "norm":
        return True
    if role == "depthwise":
        return layer.use_bias or not keeps_zero(layer.activation)
    if kind(layer) is keras.layers.Rescaling:
        return layer.offset != 0
    if _is_elementwise_layer(layer):
        return not keeps_zero(layer)
    return kind(layer) is keras.layers.Activation and not keeps_zero(layer.activation)


def passes_channels(layer, input_shape, channel_axis=-1):
    """Whether a layer computes each output channel from the same input channel alone, and zero from zero.

    Args:
        layer: A Keras layer or operation.
        input_shape: The shape of its input, batch included.
        channel_axis: Which dimension of its input the channels are. Defaults to -1.

    Returns:
        `True` for pooling, zero padding, cropping, upsampling, dropout, activations with f(0) = 0, the flattening of a
        1x1 map and depthwise convolutions without a bias; `False` for anything else.

    Example:

    >>> shape = (None, 8, 8, 64)
    >>> passes_channels(keras.layers.MaxPooling2D(), shape), passes_channels(keras.layers.Softmax(), shape)
    (True, False)
    """
    return is_channelwise(layer, input_shape, channel_axis) and not moves_zero(layer)


def scales_channels(layer, input_shape, channel_axis=-1):
    """Whether a layer passes channels and their scale on: `layer(u * x) = u * layer(x)` for a u > 0 of each channel.

    Args:
        layer: A Keras layer or operation.
        input_shape: The shape of its input, batch included.
        channel_axis: Which dimension of its input the channels are. Defaults to -1.

    Returns:
        `True` for pooling, zero padding, cropping, upsampling, dropout, the flattening of a 1x1 map and activations
        such as ReLU; `False` for anything else.

    Example:

    >>> shape = (None, 8, 8, 64)
    >>> scales_channels(keras.layers.ReLU(), shape), scales_channels(keras.layers.ReLU(max_value=6), shape)
    (True, False)
    """
    if not passes_channels(layer, input_shape, channel_axis) or properties(layer).role == "depthwise":
        return False
    is_activation = _is_elementwise_layer(layer) or activation_function(layer) is not None
    return not is_activation or is_homogeneous(layer)


def is_homogeneous(activation):
    """Whether an activation f is known to have `f(u * x) = u * f(x)` for u > 0, as ReLU does.

    Args:
        activation: A function, an activation layer or an operation.
    """
    if kind(activation) is keras.layers.ReLU:
        return activation.max_value is None and not activation.threshold
    candidates = (activation, activation_function(activation))
    is_known = any(candidate is known for candidate in candidates for known in _HOMOGENEOUS)
    return is_known or kind(activation) is keras.layers.LeakyReLU


def passes_apart(activation, shape, kept, channel_axis=-1):
    """Whether an activation function computes the channels `kept` as if the others, being zero, were not there.

    A function that is not known is tried on random values of many sizes.

    Args:
        activation: A function, or an activation layer used as one.
        shape: The shape of its input, batch included.
        kept: Which of the channels stay, a bool for each.
        channel_axis: Which dimension of its input the channels are. Defaults to -1.

    Returns:
        A bool: `False` also where the others do not stay zero, or the function fails on fewer channels or is random.

    Example:

    >>> kept = np.array([True, True, False])
    >>> passes_apart(lambda x: x * x, (None, 8, 8, 3), kept), passes_apart(keras.ops.log_softmax, (None, 8, 8, 3), kept)
    (True, False)
    """
    if treats_elements_apart(activation):
        return keeps_zero(activation)
    examples = _examples(shape, channel_axis)
    zeros = np.compress(~kept, np.zeros_like(examples), channel_axis)
    x = np.moveaxis(np.moveaxis(examples, channel_axis, -1) * kept, -1, channel_axis)
    y, smaller = _results(activation, x), _results(activation, np.compress(kept, x, channel_axis))
    if y is None or smaller is None:
        return False
    return np.array_equal(np.compress(~kept, y, channel_axis), zeros) and _agree(
        np.compress(kept, y, channel_axis), smaller
    )


def passes_scale(activation, shape, channel_axis=-1):
    """Whether an activation function has `f(u * x) = u * f(x)` for a u > 0 of each image and channel.

    A function that is not known is tried on random values of many sizes.

    Args:
        activation: A function, or an activation layer used as one.
        shape: The shape of its input, batch included.
        channel_axis: Which dimension of its input the channels are. Defaults to -1.

    Returns:
        A bool: `False` also where the function fails or is random.

    Example:

    >>> shape = (None, 8, 8, 3)
    >>> passes_scale(lambda x: ops.maximum(x, 0.2 * x), shape), passes_scale(keras.activations.gelu, shape)
    (True, False)
    """
    if treats_elements_apart(activation):
        return is_homogeneous(activation)
    x = _examples(shape, channel_axis)
    sizes = np.ones(x.ndim, int)
    sizes[[0, channel_axis]] = x.shape[0], x.shape[channel_axis]
    u = np.exp2(np.random.default_rng(1).integers(-12, 12, sizes)).astype("float32")  # a power of 2 rounds nothing
    y, scaled = _results(activation, x), _results(activation, u * x)
    return y is not None and scaled is not None and _agree(scaled / u, y)


def _examples(shape, channel_axis):
    """Random feature maps of a shape, or smaller ones with as many channels: four images, of 1e-4 to 100."""
    sizes = [4, *(min(size or 7, 7) for size in shape[1:])]
    sizes[channel_axis] = shape[channel_axis]
    scale = np.reshape([1e-4, 1e-2, 1, 100], (4, *[1] * (len(sizes) - 1)))
    return (scale * np.random.default_rng(0).normal(size=sizes)).astype("float32")


def _results(activation, x):
    """What an activation function, or a layer without weights used as one, makes of x; `None` if that is not sure."""
    try:
        first, again = (ops.convert_to_numpy(activation(ops.convert_to_tensor(x))) for _ in range(2))
    except Exception:  # whatever a user's function raises for a shape that it was not made for
        return None
    sure = first.shape == x.shape and np.array_equal(first, again) and np.isfinite(first).all()
    return first if sure and not getattr(activation, "weights", ()) else None


def _agree(got, expected):
    """Whether two arrays are the same but for rounding, image by image."""
    largest = np.abs(expected).max(axis=tuple(range(1, expected.ndim)), keepdims=True)
    return bool(np.all(np.abs(got - expected) <= 1e-5 * np.abs(expected) + 1e-6 * largest))
