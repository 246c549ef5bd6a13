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
                value *= 0.3
            elif weight.name in ("kernel", "pointwise_kernel"):
                value *= (2 / np.prod(weight.shape[:-1])) ** 0.5
            elif weight.name == "depthwise_kernel":
                value *= (2 / np.prod(weight.shape[:2])) ** 0.5
            else:
                continue
            weight.assign(value)
    return model


def arrays(tensors):
    """All tensors in a structure, as NumPy arrays: PyTorch's that have a gradient are none to NumPy itself."""
    return [keras.ops.convert_to_numpy(tensor) for tensor in keras.tree.flatten(tensors)]


def images(model, count=4, seed=1):
    """Normal numbers for a model to read: one array, or a list where the model takes several."""
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(count, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]
    return arrays if len(arrays) > 1 else arrays[0]


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
    x = inputs = keras.Input((12, 12, 3))
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


def mobile():
    """Blocks of expanding, depthwise and projecting convolutions, as of MobileNetV2 and EfficientNet."""
    x = inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="stem")(x)
    x = layers.ReLU(6.0, name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="plain")(x)
    x = shortcut = layers.Conv2D(6, 1, name="project")(x)
    x = layers.Conv2D(12, 1, use_bias=False, name="expand")(x)
    x = layers.Activation("silu", name="expand_silu")(layers.BatchNormalization(name="expand_bn")(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Activation("silu", name="silu")(layers.BatchNormalization(name="bn")(x))
    se = layers.GlobalAveragePooling2D(keepdims=True)(x)
    se = layers.Conv2D(4, 1, activation="relu", name="se_reduce")(se)
    se = layers.Conv2D(12, 1, activation="sigmoid", name="se_expand")(se)
    x = layers.Conv2D(6, 1, use_bias=False, name="se_project")(layers.Multiply()([x, se]))
    x = layers.Dropout(0.2)(layers.BatchNormalization(name="se_project_bn")(x))
    x = layers.Add(name="sum")([x, shortcut])
    x = layers.DepthwiseConv2D(3, activation="relu", name="after_sum")(x)
    x = layers.Conv2D(8, 1, activation="relu", name="last")(x)
    x = layers.DepthwiseConv2D(2, depth_multiplier=2, name="twice")(x)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)), name="mobile")


def mobile_sequential():
    """MobileNet: a padded depthwise convolution and a pooled head, in a Sequential model."""
    stack = [
        layers.Conv2D(8, 3, use_bias=False, name="conv"),
        layers.BatchNormalization(name="bn"),
        layers.ReLU(6.0, name="relu"),
        layers.ZeroPadding2D(((0, 1), (0, 1)), name="pad"),
        layers.DepthwiseConv2D(3, strides=2, use_bias=False, name="depthwise"),
        layers.BatchNormalization(name="depthwise_bn"),
        layers.ReLU(6.0, name="depthwise_relu"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(4),
    ]
    return keras.Sequential([keras.Input((12, 12, 3)), *stack], name="mobile_sequential")


def separable():
    """Xception: activations before separable convolutions, a projection beside them."""
    x = inputs = keras.Input((12, 12, 3))
    x = shortcut = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    x = layers.SeparableConv2D(10, 3, padding="same", use_bias=False, name="first")(x)
    x = layers.Activation("relu", name="relu")(layers.BatchNormalization(name="first_bn")(x))
    x = layers.SeparableConv2D(10, 3, padding="same", strides=2, name="second")(x)
    x = layers.BatchNormalization(name="second_bn")(x)
    x = layers.Add()([x, layers.Conv2D(10, 1, strides=2, padding="same", name="projection")(shortcut)])
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2, name="multiplied")(x)
    x = layers.SeparableConv2D(8, 3, padding="same", dilation_rate=2, activation="relu", name="dilated")(x)
    return keras.Model(inputs, layers.Flatten()(x), name="separable")


def orders():
    """Batch norms before convolutions: after a ReLU, after a pooling, in a pre-activation block, in a dense block."""
    x = inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="relu_first")(x)
    x = layers.BatchNormalization(name="norm_second")(x)
    x = layers.Conv2D(8, 3, padding="same", name="pool_first")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.ReLU(name="relu_third")(layers.BatchNormalization(name="norm_third")(x))
    x = shortcut = layers.Conv2D(8, 1, name="two_readers")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 3, padding="same", name="in_block")(x)
    x = layers.Add()([x, shortcut])
    x = layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same", name="grown")(layers.ReLU()(x))])
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(4, 1, use_bias=False, name="transition")(x)
    x = layers.BatchNormalization(axis=1, name="norm_of_rows")(x)
    return keras.Model(inputs, layers.Flatten()(x), name="orders")


def activations():
    """Activations that keep zero, in the layer, after it or unknown to Conv2D; and some that do not."""
    x = inputs = keras.Input((10, 10, 3))
    x = layers.Conv2D(6, 1, activation="hard_silu", name="hard_silu")(x)
    x = layers.Activation("gelu", name="gelu")(layers.Conv2D(6, 1, name="before_gelu")(x))
    x = layers.LeakyReLU(name="leaky")(layers.Conv2D(6, 1, name="before_leaky")(x))
    x = layers.ReLU(threshold=1.0, name="threshold")(layers.Conv2D(6, 1, name="before_threshold")(x))
    x = layers.Activation("softplus", name="softplus")(layers.Conv2D(6, 1, name="before_softplus")(x))
    x = layers.Softmax(name="softmax")(layers.Conv2D(6, 1, name="before_softmax")(x))
    x = layers.Conv2D(6, 1, activation="exponential", name="exponential")(x)
    x = layers.Conv2D(6, 1, name="before_operation")(x)
    return keras.Model(inputs, layers.Flatten()(keras.ops.relu(x)), name="activations")


def two_inputs():
    """Two inputs and outputs, a depthwise convolution called twice, a nested model that ends in one."""
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((8, 8, 3), name="b")
    shared = layers.DepthwiseConv2D(3, padding="same", name="shared")
    x, y = layers.Conv2D(6, 1, name="of_a")(a), layers.Conv2D(6, 1, name="of_b")(b)
    z = block_input = keras.Input((8, 8, 6))
    z = layers.Conv2D(6, 1, name="inside")(z)
    z = layers.BatchNormalization(name="bn")(layers.DepthwiseConv2D(3, name="depthwise")(layers.ReLU(name="relu")(z)))
    block = keras.Model(block_input, z, name="block")
    z = layers.Conv2D(4, 1, activation="relu", name="outside")(block(layers.Add()([shared(x), shared(y)])))
    return keras.Model([a, b], [layers.Flatten()(z), layers.GlobalMaxPooling2D()(y)], name="two_inputs")


MODELS = {
    make.__name__: make
    for make in (
        *(sequential, norms, plain, residual, nested, branches),
        *(mobile, mobile_sequential, separable, orders, activations, two_inputs),
    )
}
