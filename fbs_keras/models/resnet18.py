"""ResNet-18."""

import keras
from keras import layers

FILTERS = (64, 128, 256, 512)  # of the four stages, each of two blocks
STEMS = ("imagenet", "cifar")


def ResNet18(
    input_shape=(224, 224, 3),
    classes=1000,
    include_top=True,
    stem="imagenet",
    weight_decay=1e-4,
    name="resnet18",
):
    """ResNet-18: a stem, eight blocks of two 3x3 convolutions with a ReLU after the addition, and a classifier.

    On 224x224x3 and 1000 classes: 1.814 G MACs. The first convolution of stages 2 to 4 has stride 2, and so has the 1x1
    convolution that projects its shortcut.

    Args:
        input_shape: `(height, width, channels)`. Defaults to `(224, 224, 3)`.
        classes: The number of classes. Defaults to 1000.
        include_top: Whether average pooling and classifier are there. Defaults to `True`.
        stem: `"imagenet"` (default): a 7x7 convolution of stride 2 and a max pooling. `"cifar"`: a 3x3 convolution.
        weight_decay: L2 weight of the kernels. Defaults to 1e-4.
        name: The model's name.

    Returns:
        A Functional Keras model from images to logits, `(batch, classes)`, or without top to the last feature maps.

    Raises:
        ValueError: If `stem` is unknown.

    Example:

    >>> model = fbs_keras.wrap(fbs_keras.models.ResNet18(), density=0.5)

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; its CIFAR stem is section 4.2's.
    """
    if stem not in STEMS:
        raise ValueError(f"stem must be one of {', '.join(map(repr, STEMS))}, got {stem!r}")
    l2 = keras.regularizers.L2(weight_decay)

    def conv(x, filters, size, strides, name, relu=True):
        x = layers.Conv2D(
            filters,
            size,
            strides,
            "same",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=l2,
            name=name,
        )(x)
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if relu else x

    x = inputs = keras.Input(input_shape, name="image")
    if stem == "imagenet":
        x = conv(x, FILTERS[0], 7, 2, "stem")
        x = layers.MaxPooling2D(3, 2, "same", name="stem_pool")(x)
    else:
        x = conv(x, FILTERS[0], 3, 1, "stem")
    for stage, filters in enumerate(FILTERS, 1):
        for block in (1, 2):
            name_ = f"stage{stage}_block{block}"
            strides = 2 if stage > 1 and block == 1 else 1
            shortcut = x if strides == 1 else conv(x, filters, 1, strides, f"{name_}_projection", relu=False)
            x = conv(x, filters, 3, strides, f"{name_}_conv1")
            x = conv(x, filters, 3, 1, f"{name_}_conv2", relu=False)
            x = layers.Add(name=f"{name_}_add")([x, shortcut])
            x = layers.ReLU(name=f"{name_}_relu")(x)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        # The loss wants float32 whatever the dtype policy.
        x = layers.Dense(classes, kernel_regularizer=l2, dtype="float32", name="logits")(x)
    return keras.Model(inputs, x, name=name)
