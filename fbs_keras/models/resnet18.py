"""ResNet-18."""

import keras
from keras import layers

from fbs_keras.models import torchvision

FILTERS = (64, 128, 256, 512)  # of the four stages, each of two blocks
STEMS = ("imagenet", "cifar")


def ResNet18(
    input_shape: tuple[int, ...] = (224, 224, 3),
    classes: int = 1000,
    include_top: bool = True,
    stem: str = "imagenet",
    weight_decay: float = 1e-4,
    weights: str | None = None,
    name: str = "resnet18",
) -> keras.Model:
    """ResNet-18: a stem, eight blocks of two 3x3 convolutions with a ReLU after the addition, and a classifier.

    On 224x224x3 and 1000 classes: 1.814 G MACs. The first convolution of stages 2 to 4 has stride 2, and so has the 1x1
    convolution that projects its shortcut.

    Args:
        input_shape: `(height, width, channels)`. Defaults to `(224, 224, 3)`.
        classes: The number of classes. Defaults to 1000.
        include_top: Whether average pooling and classifier are there. Defaults to `True`.
        stem: `"imagenet"` (default): a 7x7 convolution of stride 2 and a max pooling. `"cifar"`: a 3x3 convolution.
        weight_decay: L2 weight of the kernels. Defaults to 1e-4.
        weights: Path of a state dict of torchvision's `resnet18`, a `.pth` or `.safetensors` file; PyTorch is not
            needed. The model then computes what torchvision's does: its strided convolutions pad both sides alike,
            which Keras's "same" does not, and batch norm's epsilon is 1e-5. Without top, the file's classifier is not
            read. It expects RGB images as torchvision's, `(x / 255 - mean) / std`, with mean `(0.485, 0.456, 0.406)`
            and std `(0.229, 0.224, 0.225)`. Defaults to `None`: random weights.
        name: The model's name.

    Returns:
        A Functional Keras model from images to logits, `(batch, classes)`, or without top to the last feature maps.

    Raises:
        TypeError: If `weights` is no path.
        OSError: If it cannot be opened.
        ValueError: If `stem` is unknown, or the weights are not those of such a model.

    Example:

    >>> model = fbs_keras.wrap(fbs_keras.models.ResNet18(), density=0.5)
    >>> model = fbs_keras.wrap(fbs_keras.models.ResNet18(weights="resnet18-f37072fd.pth"))

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; its CIFAR stem is section 4.2's.
    """
    if stem not in STEMS:
        raise ValueError(f"stem must be one of {', '.join(map(repr, STEMS))}, got {stem!r}")
    l2 = keras.regularizers.L2(weight_decay)
    as_torch = weights is not None
    epsilon = torchvision.EPSILON if as_torch else 1e-3

    def pad(x, size, strides, name):
        """Pads as PyTorch does; at stride 1 "same" is that, at stride 2 it would pad the end only."""
        if not as_torch or strides == 1:
            return x, "same"
        return layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x) if size > 1 else x, "valid"

    def conv(x, filters, size, strides, name, relu=True):
        x, padding = pad(x, size, strides, name)
        x = layers.Conv2D(
            filters,
            size,
            strides,
            padding,
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=l2,
            name=name,
        )(x)
        x = layers.BatchNormalization(epsilon=epsilon, name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if relu else x

    x = inputs = keras.Input(input_shape, name="image")
    if stem == "imagenet":
        x = conv(x, FILTERS[0], 7, 2, "stem")
        x, padding = pad(x, 3, 2, "stem_pool")  # zeros are the least that comes out of a ReLU
        x = layers.MaxPooling2D(3, 2, padding, name="stem_pool")(x)
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
    model = keras.Model(inputs, x, name=name)
    if as_torch:
        torchvision.load_weights(model, weights, _torch_names(), top="fc.")
    return model


def _torch_names():
    """What torchvision calls each layer."""
    names = {"stem": "conv1", "stem_norm": "bn1", "logits": "fc"}
    for stage in range(1, len(FILTERS) + 1):
        for block in (1, 2):
            ours, theirs = f"stage{stage}_block{block}", f"layer{stage}.{block - 1}"
            for conv in (1, 2):
                names[f"{ours}_conv{conv}"] = f"{theirs}.conv{conv}"
                names[f"{ours}_conv{conv}_norm"] = f"{theirs}.bn{conv}"
            names[f"{ours}_projection"] = f"{theirs}.downsample.0"
            names[f"{ours}_projection_norm"] = f"{theirs}.downsample.1"
    return names
