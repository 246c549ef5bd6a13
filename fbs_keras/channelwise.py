"""Which layers treat every channel by itself, so that a channel that is zero stays zero and can be left out."""

import keras

from fbs_keras.layers import keeps_zero

# Exact types, here and below: a subclass may do something else.
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
# By name, since not every Keras release has all of them.
_ELEMENTWISE_NAMES = (
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "hard_silu", "mish", "tanh"),
    *("hard_tanh", "tanh_shrink", "soft_shrink", "hard_shrink", "softsign"),
)
_ELEMENTWISE = [getattr(keras.activations, name) for name in _ELEMENTWISE_NAMES if hasattr(keras.activations, name)]


def is_elementwise(activation):
    """Whether an activation function is known to treat every element by itself, and maps zero to zero.

    Args:
        activation: A function, or an activation layer used as one.

    Returns:
        A bool. A function of the user's own is not known.
    """
    return (activation in _ELEMENTWISE or type(activation) in _ELEMENTWISE_LAYERS) and keeps_zero(activation)


def passes_channels(layer, input_shape):
    """Whether a layer computes each output channel from the same input channel alone, and zero from zero.

    Args:
        layer: A Keras layer or operation.
        input_shape: The shape of its input, batch included.

    Returns:
        `True` for pooling, zero padding, cropping, upsampling, dropout, activations with f(0) = 0 and the flattening
        of a 1x1 map; `False` for anything else.

    Example:

    >>> shape = (None, 8, 8, 64)
    >>> passes_channels(keras.layers.MaxPooling2D(), shape), passes_channels(keras.layers.Softmax(), shape)
    (True, False)
    """
    if type(layer) in _NOTHING_AT_INFERENCE or type(layer) in _SPATIAL:
        return True
    if type(layer) in _ELEMENTWISE_LAYERS:
        return keeps_zero(layer)
    if type(layer) is keras.layers.Activation:
        return is_elementwise(layer.activation)
    return type(layer) is keras.layers.Flatten and all(size == 1 for size in input_shape[1:-1])
