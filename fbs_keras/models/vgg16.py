"""VGG-16 with batch norm."""

import keras
from keras import layers

# Filters of the 3x3 convolutions; a max pooling ends each of the five blocks.
WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
BLOCKS = (2, 2, 3, 3, 3)
# What the paper's authors accelerate: network slimming, from 15.47 G to 7.90 G MACs, comes before FBS.
SLIM_WIDTHS = (16, 48, 70, 110, 143, 170, 232, 378, 399, 413, 456, 435, 512)


def VGG16(
    input_shape=(224, 224, 3),
    classes=1000,
    include_top=True,
    widths=WIDTHS,
    weight_decay=1e-4,
    dropout=0.5,
    name="vgg16",
):
    """VGG-16 with batch norm: thirteen 3x3 convolutions, five max poolings and three dense layers.

    On 224x224x3 and 1000 classes: 15.47 G MACs, 15.35 G of them in the convolutions.

    Args:
        input_shape: `(height, width, channels)`, at least 32x32. Defaults to `(224, 224, 3)`.
        classes: The number of classes. Defaults to 1000.
        include_top: Whether the dense layers are there. Defaults to `True`.
        widths: Filters of the thirteen convolutions. Defaults to VGG-16's; `models.vgg16.SLIM_WIDTHS` are the paper's.
        weight_decay: L2 weight of the kernels. Defaults to 1e-4.
        dropout: Rate of the dropout after each hidden dense layer. Defaults to 0.5.
        name: The model's name.

    Returns:
        A Functional Keras model from images to logits, `(batch, classes)`, or without top to the last feature maps.

    Raises:
        ValueError: If there are not thirteen widths.

    Example:

    >>> model = fbs_keras.wrap(fbs_keras.models.VGG16(include_top=False), density=0.6)

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014,
    configuration D; batch norm as in the FBS paper.
    """
    if len(widths) != len(WIDTHS):
        raise ValueError(f"widths must be the filters of {len(WIDTHS)} convolutions, got {len(widths)}")
    l2 = keras.regularizers.L2(weight_decay)
    filters = iter(widths)
    x = inputs = keras.Input(input_shape, name="image")
    for block, convolutions in enumerate(BLOCKS, 1):
        for conv in range(1, convolutions + 1):
            name_ = f"block{block}_conv{conv}"
            x = layers.Conv2D(
                next(filters),
                3,
                padding="same",
                use_bias=False,
                kernel_initializer="he_normal",
                kernel_regularizer=l2,
                name=name_,
            )(x)
            x = layers.BatchNormalization(name=f"{name_}_norm")(x)
            x = layers.ReLU(name=f"{name_}_relu")(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        for name_ in ("fc1", "fc2"):
            x = layers.Dense(4096, "relu", kernel_initializer="he_normal", kernel_regularizer=l2, name=name_)(x)
            x = layers.Dropout(dropout, name=f"{name_}_dropout")(x)
        # The loss wants float32 whatever the dtype policy.
        x = layers.Dense(classes, kernel_regularizer=l2, dtype="float32", name="logits")(x)
    return keras.Model(inputs, x, name=name)
