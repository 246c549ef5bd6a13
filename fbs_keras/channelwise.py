"""Which layers treat every channel by itself, so that a channel can be left out, and which keep a zero channel zero."""

import keras
from keras import ops

from fbs_keras.kinds import kind, operation
from fbs_keras.layers import keeps_zero

# Exact kinds, here and below: a subclass may do something else.
_NOTHING_AT_INFERENCE = (
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.AlphaDropout,
    keras.layers.ActivityRegularization,
)
_SPATIAL = (
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.UpSampling2D,
)
_ELEMENTWISE_LAYERS = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)
# By name, since not every Keras release has all of them. The last line's map zero to something else.
_ELEMENTWISE_NAMES = (
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "hard_silu", "mish", "tanh"),
    *("hard_tanh", "tanh_shrink", "soft_shrink", "hard_shrink", "softsign"),
    *("sigmoid", "hard_sigmoid", "log_sigmoid", "softplus", "squareplus", "exponential"),
)
_ELEMENTWISE = [getattr(keras.activations, name) for name in _ELEMENTWISE_NAMES if hasattr(keras.activations, name)]


def is_elementwise(activation):
    """Whether an activation function is known to treat every element by itself, and maps zero to zero.

    Args:
        activation: A function, or an activation layer used as one.

    Returns:
        A bool. A function of the user's own is not known.
    """
    return treats_elements_apart(activation) and keeps_zero(activation)


# Operations in a Functional model, such as `keras.ops.relu(x)`, by the names of their classes. All keep zero.
_OPERATIONS = {
    "Relu": keras.activations.relu,
    "Relu6": keras.activations.relu6,
    "Silu": keras.activations.silu,
    "HardSilu": keras.activations.hard_silu,
}


def activation_function(layer):
    """The function of an activation layer, where `Conv2D(activation=...)` could name it; else `None`.

    Args:
        layer: Any Keras layer or operation.

    Returns:
        A Keras activation function such as `keras.activations.relu`, or `None`.
    """
    if not isinstance(layer, keras.layers.Layer):
        return _OPERATIONS.get(operation(layer))
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
    if kind(layer) in (*_NOTHING_AT_INFERENCE, *_SPATIAL, *_ELEMENTWISE_LAYERS):
        return True
    if kind(layer) is keras.layers.Activation:
        return treats_elements_apart(layer.activation)
    if kind(layer) is keras.layers.DepthwiseConv2D:
        return layer.depth_multiplier == 1 and treats_elements_apart(layer.activation)
    if kind(layer) is keras.layers.BatchNormalization:
        return layer.axis % len(input_shape) == channel_axis % len(input_shape)
    if kind(layer) is keras.layers.Rescaling:
        return isinstance(layer.scale, int | float) and isinstance(layer.offset, int | float)
    return kind(layer) is keras.layers.Flatten and all(size == 1 for size in input_shape[1:-1])


def moves_zero(layer):
    """Whether a channelwise layer may give a channel that is zero another value, as `is_channelwise` knows layers."""
    if kind(layer) is keras.layers.BatchNormalization:
        return True
    if kind(layer) is keras.layers.DepthwiseConv2D:
        return layer.use_bias or not keeps_zero(layer.activation)
    if kind(layer) is keras.layers.Rescaling:
        return layer.offset != 0
    if kind(layer) in _ELEMENTWISE_LAYERS:
        return not keeps_zero(layer)
    return kind(layer) is keras.layers.Activation and not keeps_zero(layer.activation)


def passes_channels(layer, input_shape):
    """Whether a layer computes each output channel from the same input channel alone, and zero from zero.

    Args:
        layer: A Keras layer or operation.
        input_shape: The shape of its input, batch included.

    Returns:
        `True` for pooling, zero padding, cropping, upsampling, dropout, activations with f(0) = 0, the flattening of a
        1x1 map and depthwise convolutions without a bias; `False` for anything else.

    Example:

    >>> shape = (None, 8, 8, 64)
    >>> passes_channels(keras.layers.MaxPooling2D(), shape), passes_channels(keras.layers.Softmax(), shape)
    (True, False)
    """
    return is_channelwise(layer, input_shape) and not moves_zero(layer)


def scales_channels(layer, input_shape):
    """Whether a layer passes channels and their scale on: `layer(u * x) = u * layer(x)` for a u > 0 of each channel.

    Args:
        layer: A Keras layer or operation.
        input_shape: The shape of its input, batch included.

    Returns:
        `True` for pooling, zero padding, cropping, upsampling, dropout, the flattening of a 1x1 map and activations
        such as ReLU; `False` for anything else.

    Example:

    >>> shape = (None, 8, 8, 64)
    >>> scales_channels(keras.layers.ReLU(), shape), scales_channels(keras.layers.ReLU(max_value=6), shape)
    (True, False)
    """
    if not passes_channels(layer, input_shape) or kind(layer) is keras.layers.DepthwiseConv2D:
        return False
    is_activation = kind(layer) in _ELEMENTWISE_LAYERS or activation_function(layer) is not None
    return not is_activation or is_homogeneous(layer)


def is_homogeneous(activation):
    """Whether an activation function f has `f(u * x) = u * f(x)` for u > 0, as ReLU does."""
    x = ops.convert_to_tensor([-8.0, -2.0, -0.5, 0.5, 2.0, 8.0])
    return bool(ops.all(ops.abs(activation(2 * x) - 2 * activation(x)) < 1e-5))  # ReLU6 stops at 6, GELU bends at 0


def treats_elements_apart(activation):
    """Whether an activation function, or an activation layer used as one, is known to treat every element by itself."""
    return activation in _ELEMENTWISE or kind(activation) in _ELEMENTWISE_LAYERS
