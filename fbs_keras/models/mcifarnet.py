"""M-CifarNet, the paper's CIFAR-10 network."""

import typing

import keras
from keras import layers

from fbs_keras.models import pretrained
from fbs_keras.wrapping import wrapper

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

WEIGHTS = {
    ("cifar10", None): ("mcifarnet_cifar10.keras", "59187926126d8a77da481c6088a6849ef7847325da9efff708e50c80a4c5cb1d"),
    ("cifar10", 0.5): (
        "mcifarnet_cifar10_50.keras",
        "e0b1693a31d9c8fefd56f82685832acca2390d82ef8bedb3ec7c0ba49c03b48b",
    ),
    ("cifar10", 0.4): (
        "mcifarnet_cifar10_40.keras",
        "4ec00a572de110852315d9f4a5c3eb5209fc3d635918e1f362867f4c5d434dfe",
    ),
}


def MCifarNet(
    input_shape: tuple[int, ...] = (32, 32, 3),
    classes: int = 10,
    weight_decay: float = 1e-4,
    name: str = "mcifarnet",
    weights: str | None = None,
    density: float | None = None,
) -> keras.Model:
    """M-CifarNet: eight 3x3 convolutions with batch norm and ReLU, average pooling and a 1x1 classifier.

    On 32x32x3 and 10 classes: 174.30 M MACs, 1,296,074 parameters.

    Args:
        input_shape: `(height, width, channels)`, at least 8x8. Defaults to `(32, 32, 3)`.
        classes: The number of classes. Defaults to 10.
        weight_decay: L2 weight of the kernels. Defaults to 1e-4.
        name: The model's name.
        weights: `"cifar10"` for our own trained weights, which come with the package, of 32x32 images as
            `fbs_keras.data.normalise` scales them and 10 classes. Defaults to `None`, random ones.
        density: Density of the FBS layers, in (0, 1], or `None` (default) for the dense network. Trained weights are
            there for `None`, 0.5 and 0.4. The latter need no more MACs than that density everywhere, but have a density
            for each layer, and are without the channels that hardly any image used.

    Returns:
        A Functional Keras model from images to logits, `(batch, classes)`.

    Raises:
        TypeError, ValueError: If `density` is not in (0, 1], or there are no such weights.

    Example:

    >>> model = fbs_keras.wrap(fbs_keras.models.MCifarNet(), density=0.5)

    Trained:

    >>> model = fbs_keras.models.MCifarNet(weights="cifar10", density=0.5)

    Source: the paper, section 4.1, and its authors' released configuration.
    """
    if weights is not None:
        if (tuple(input_shape), classes) != ((32, 32, 3), 10):
            raise ValueError(
                f"weights={weights!r} are for input_shape=(32, 32, 3) and classes=10, got {input_shape} and {classes}"
            )
        return pretrained.load(WEIGHTS, weights, density)
    model = _build(input_shape, classes, keras.regularizers.L2(weight_decay), name)
    return model if density is None else wrapper.wrap(model, density)


def _build(input_shape, classes, l2, name):
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
