"""Which layers treat every channel by itself, so that a channel that is zero stays zero and can be left out."""

import keras

from fbs_keras.layers import keeps_zero

_SHAPE_ONLY = (
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.UpSampling2D,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.Identity,
)
_ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)


def passes_channels(layer):
    """Whether a layer computes each output channel from the same input channel alone, and zero from zero.

    Args:
        layer: A Keras layer.

    Returns:
        `True` for pooling, zero padding, cropping, upsampling, dropout, identity and activations with f(0) = 0.

    Example:

    >>> passes_channels(keras.layers.MaxPooling2D()), passes_channels(keras.layers.Softmax())
    (True, False)
    """
    if isinstance(layer, _ACTIVATIONS):
        if isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.softmax:
            return False
        return keeps_zero(layer)
    return isinstance(layer, _SHAPE_ONLY)
