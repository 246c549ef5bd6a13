"""VGG-16, with batch norm and without."""

from collections.abc import Sequence

import keras
from keras import layers

from fbs_keras.models import torchvision

# Filters of the 3x3 convolutions; a max pooling ends each of the five blocks.
WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
BLOCKS = (2, 2, 3, 3, 3)
# What the paper's authors accelerate: network slimming, from 15.47 G to 7.90 G MACs, comes before FBS.
SLIM_WIDTHS = (16, 48, 70, 110, 143, 170, 232, 378, 399, 413, 456, 435, 512)


def VGG16(
    input_shape: tuple[int, ...] = (224, 224, 3),
    classes: int = 1000,
    include_top: bool = True,
    widths: Sequence[int] = WIDTHS,
    weight_decay: float = 1e-4,
    dropout: float = 0.5,
    batch_norm: bool = True,
    weights: str | None = None,
    name: str = "vgg16",
) -> keras.Model:
    """VGG-16: thirteen 3x3 convolutions, five max poolings and three dense layers.

    On 224x224x3 and 1000 classes: 15.47 G MACs, 15.35 G of them in the convolutions. For weights in the format of
    `keras.applications.VGG16` take that model, as it is: `fbs_keras.wrap(keras.applications.VGG16(weights=path))`.

    Args:
        input_shape: `(height, width, channels)`, at least 32x32. Defaults to `(224, 224, 3)`.
        classes: The number of classes. Defaults to 1000.
        include_top: Whether the dense layers are there. Defaults to `True`.
        widths: Filters of the thirteen convolutions. Defaults to VGG-16's; `models.vgg16.SLIM_WIDTHS` are the paper's.
        weight_decay: L2 weight of the kernels. Defaults to 1e-4.
        dropout: Rate of the dropout after each hidden dense layer. Defaults to 0.5.
        batch_norm: Whether batch norm follows each convolution, instead of a bias. Defaults to `True`.
        weights: Path of a state dict of torchvision's `vgg16_bn`, or `vgg16` with `batch_norm=False`, a `.pth` or
            `.safetensors` file; PyTorch is not needed. The model then computes what torchvision's does, with biases
            before batch norm and an epsilon of 1e-5. Without top, the file's classifier is not read. It expects images
            as `fbs_keras.models.ResNet18` does. Defaults to `None`: random weights.
        name: The model's name.

    Returns:
        A Functional Keras model from images to logits, `(batch, classes)`, or without top to the last feature maps.

    Raises:
        TypeError: If `weights` is no path.
        OSError: If it cannot be opened.
        ValueError: If there are not thirteen widths, or the weights are not those of such a model.

    Example:

    >>> model = fbs_keras.wrap(fbs_keras.models.VGG16(include_top=False), density=0.6)
    >>> model = fbs_keras.wrap(fbs_keras.models.VGG16(weights="vgg16_bn-6c64b313.pth"))

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014,
    configuration D; batch norm as in the FBS paper.
    """
    if len(widths) != len(WIDTHS):
        raise ValueError(f"widths must be the filters of {len(WIDTHS)} convolutions, got {len(widths)}")
    l2 = keras.regularizers.L2(weight_decay)
    as_torch = weights is not None
    epsilon = torchvision.EPSILON if as_torch else 1e-3
    filters = iter(widths)
    x = inputs = keras.Input(input_shape, name="image")
    for block, convolutions in enumerate(BLOCKS, 1):
        for conv in range(1, convolutions + 1):
            name_ = f"block{block}_conv{conv}"
            x = layers.Conv2D(
                next(filters),
                3,
                padding="same",
                use_bias=as_torch or not batch_norm,
                kernel_initializer="he_normal",
                kernel_regularizer=l2,
                name=name_,
            )(x)
            if batch_norm:
                x = layers.BatchNormalization(epsilon=epsilon, name=f"{name_}_norm")(x)
            x = layers.ReLU(name=f"{name_}_relu")(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        for name_ in ("fc1", "fc2"):
            x = layers.Dense(4096, "relu", kernel_initializer="he_normal", kernel_regularizer=l2, name=name_)(x)
            x = layers.Dropout(dropout, name=f"{name_}_dropout")(x)
        # The loss wants float32 whatever the dtype policy.
        x = layers.Dense(classes, kernel_regularizer=l2, dtype="float32", name="logits")(x)
    model = keras.Model(inputs, x, name=name)
    if as_torch:
        torchvision.load_weights(model, weights, _torch_names(batch_norm), top="classifier.")
    return model


def _torch_names(batch_norm):
    """What torchvision calls each layer: by its place among all, ReLUs and poolings included."""
    names = {"fc1": "classifier.0", "fc2": "classifier.3", "logits": "classifier.6"}
    place = 0
    for block, convolutions in enumerate(BLOCKS, 1):
        for conv in range(1, convolutions + 1):
            name = f"block{block}_conv{conv}"
            names[name], names[f"{name}_norm"] = f"features.{place}", f"features.{place + 1}"
            place += 3 if batch_norm else 2
        place += 1
    return names
