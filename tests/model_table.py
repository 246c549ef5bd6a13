"""Small models that core and export tests share: each line of MODELS is a name and a function that makes one."""

import keras
import numpy as np
from keras import layers


def randomise(model, seed=0):
    """Gives a model weights as after training: batch norms with gammas of both signs, zero and tiny; biases."""
    rng = np.random.default_rng(seed)
    for layer in all_layers(model):
        for weight in layer.weights:
            value = rng.normal(size=weight.shape)
            if weight.name == "moving_variance":
                value = rng.uniform(0.5, 2, size=weight.shape)
            elif weight.name == "gamma":
                value[:2] = 0, 1e-6
            elif weight.name in ("beta", "bias", "moving_mean"):
                pass
            else:
                continue
            weight.assign(value)
    return model


def all_layers(model):
    """The layers of a model and of the models in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)
        else:
            yield layer


def sequential():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(6, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ],
        name="sequential",
    )


def norms():
    """Batch norms without scale or center, convolutions with and without bias."""
    x = inputs = keras.Input((10, 10, 3))
    for scale, center, bias in [(False, True, False), (True, False, True), (False, False, True), (True, True, True)]:
        x = layers.Conv2D(8, 3, padding="same", use_bias=bias)(x)
        x = layers.BatchNormalization(scale=scale, center=center, epsilon=1e-4)(x)
        x = layers.Activation("relu")(x)
    return keras.Model(inputs, layers.GlobalMaxPooling2D()(x), name="norms")


def plain():
    """Convolutions without batch norm, as in VGG-16."""
    x = inputs = keras.Input((10, 10, 3))
    x = layers.Conv2D(8, 3, activation="relu")(x)
    x = layers.Conv2D(8, 3, strides=2)(x)
    x = layers.ReLU(max_value=6)(x)
    x = layers.Conv2D(5, 1, use_bias=False)(x)
    x = layers.LeakyReLU()(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(4)(x), name="plain")


def residual():
    """ReLU after the addition, a projection, and an addition of a tensor to itself scaled."""
    x = inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = shortcut = layers.ReLU()(x)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(layers.Add()([x, shortcut]))
    shortcut = layers.BatchNormalization()(layers.Conv2D(12, 1, strides=2)(x))
    x = layers.BatchNormalization()(layers.Conv2D(12, 3, strides=2, padding="same")(x))
    x = keras.ops.relu(x + shortcut * 0.5)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)), name="residual")


def nested():
    """A Functional model with a Sequential and a Functional model inside."""
    inner = keras.Sequential(
        [keras.Input((10, 10, 8)), layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()], name="inner"
    )
    y = middle_input = keras.Input((12, 12, 3))
    y = layers.Conv2D(8, 3, activation="relu", name="first")(y)
    middle = keras.Model(middle_input, inner(y), name="middle")
    inputs = keras.Input((12, 12, 3))
    x = layers.Dropout(0.2)(middle(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)), name="nested")


def branches():
    """Concatenation, a shared convolution, a separable one, a gate by sigmoid, a lambda, two outputs."""
    inputs = keras.Input((10, 10, 4))
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    a = shared(shared(inputs))
    b = layers.Conv2D(6, 1, name="taken")(a)
    c = layers.Conv2D(6, 1, activation="sigmoid", name="sigmoid")(a)
    x = layers.Multiply()([b, c])
    x = layers.Concatenate()([x, a])
    x = layers.SeparableConv2D(8, 3, name="separable")(x)
    x = layers.Lambda(lambda tensor: tensor + 1.0)(x)
    x = layers.Conv2D(8, 3, groups=2, name="grouped")(x)
    x = layers.ZeroPadding2D()(layers.Conv2D(8, 3, name="last")(layers.ReLU()(x)))
    head = layers.Conv2D(3, 1, name="head")(x)
    return keras.Model(inputs, [layers.GlobalAveragePooling2D()(head), layers.Flatten()(x)], name="branches")


MODELS = {make.__name__: make for make in (sequential, norms, plain, residual, nested, branches)}
