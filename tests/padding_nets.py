"""Residual networks whose shortcuts pad channels, as those of the ResNet paper's option A on CIFAR-10."""

import keras
import numpy as np
from keras import layers, ops


def unit(x, filters, name, strides=1):
    x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(name=f"{name}_norm")(x)


def pad(x, before, after):
    """Every second pixel, and channels of zeros before and after."""
    return ops.pad(x[:, ::2, ::2, :], [[0, 0], [0, 0], [0, 0], [before, after]])


def pad_by_concatenation(x, before, after):
    x = layers.MaxPooling2D(1, 2)(x)
    return layers.Concatenate()([x, ops.zeros_like(x)])


def resnet(shortcut=pad, width=8):
    """Three stages of a block each; the stream is as wide as the convolutions that are added to it."""
    x = inputs = keras.Input((16, 16, 3))
    x = layers.ReLU()(unit(x, width, "stem"))
    for stage, filters in enumerate((width, 2 * width, 4 * width)):
        y = layers.ReLU()(unit(x, filters, f"s{stage}_a", 1 + (stage > 0)))
        y = unit(y, filters, f"s{stage}_b")
        extra = filters - x.shape[-1]
        x = layers.ReLU()(layers.Add()([y, shortcut(x, extra // 4, extra - extra // 4) if extra else x]))
    model = keras.Model(inputs, layers.Dense(5, name="logits")(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for weight in (layer.gamma, layer.beta, layer.moving_mean):
                weight.assign(rng.normal(size=weight.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 2, layer.gamma.shape))
    return model


def silence(model, channels):
    """Zeroes gamma and beta of channels of the stream, counted in the last stage, wherever they are made."""
    for norm in (layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)):
        if norm.name.startswith(("stem", "s0_b", "s1_b", "s2_b")):
            offset = {8: 6, 16: 4, 32: 0}[norm.gamma.shape[0]]
            for weight in (norm.gamma, norm.beta):
                own = np.arange(weight.shape[0]) + offset
                weight.assign(np.where(np.isin(own, channels), 0, keras.ops.convert_to_numpy(weight)))
    return model
