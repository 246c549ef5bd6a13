"""M-CifarNet, the paper's CIFAR-10 network."""

import typing

import keras
from keras import layers

# (filters, strides, padding) of each 3x3 convolution; 0.5 marks a dropout rate.
CONVOLUTIONS: list[typing.Any] = [
    (64, 1, "valid"),
    (64, 1, "same"),
    (128, 2, "same"),
    (128, 1, "same"),
    0.5,
    (128, 1, "same"),
    (192, 2, "same"),
    (192, 1, "same"),
    0.5,
    (192, 1, "same"),
]


def MCifarNet(input_shape=(32, 32, 3), classes=10, weight_decay=1e-4, name="mcifarnet"):
    """M-CifarNet: eight 3x3 convolutions with batch norm and ReLU, average pooling and a 1x1 classifier.

    On 32x32x3 and 10 classes: 174.30 M MACs, 1,296,074 parameters.

    Args:
        input_shape: `(height, width, channels)`, at least 8x8. Defaults to `(32, 32, 3)`.
        classes: The number of classes. Defaults to 10.
        weight_decay: L2 weight of the kernels. Defaults to 1e-4.
        name: The model's name.

    Returns:
        A Functional Keras model from images to logits, `(batch, classes)`.

    Example:

    >>> model = fbs_keras.wrap(fbs_keras.models.MCifarNet(), density=0.5)

    Source: the paper, section 4.1, and its authors' released configuration.
    """
    l2 = keras.regularizers.L2(weight_decay)
    x = inputs = keras.Input(input_shape, name="image")
    convolutions = dropouts = 0
    for item in CONVOLUTIONS:
        if isinstance(item, float):
            x = layers.Dropout(item, name=f"dropout{dropouts}")(x)
            dropouts += 1
            continue
        filters, strides, padding = item
        name_ = f"conv{convolutions}"
        x = layers.Conv2D(
            filters,
            3,
            strides,
            padding,
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=l2,
            name=name_,
        )(x)
        x = layers.BatchNormalization(epsilon=1e-3, name=f"{name_}_norm")(x)
        x = layers.ReLU(name=f"{name_}_relu")(x)
        convolutions += 1
    x = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    x = layers.Conv2D(classes, 1, kernel_regularizer=l2, name="logits")(x)
    logits = layers.Flatten(dtype="float32", name="flatten")(x)  # the loss wants float32 whatever the dtype policy
    return keras.Model(inputs, logits, name=name)
