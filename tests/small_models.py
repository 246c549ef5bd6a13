"""Small models with FBS layers, each with something that export has to get right."""

import functools

import keras
import numpy as np
from gates import GATES
from keras import layers

from fbs_keras import FBSConv2D, Suppress

IMAGE = (10, 11, 3)


def functional(body, shape=IMAGE):
    """A model of one image input."""
    x = keras.Input(shape, name="image")
    return keras.Model(x, body(x))


def sequential():
    return keras.Sequential(
        [
            keras.Input(IMAGE),
            FBSConv2D(8, 3, density=0.5),
            FBSConv2D(12, 3, 2, "same", density=0.5),
            FBSConv2D(8, 3, padding="same", density=0.5),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )


def one(**settings):
    """Two FBS layers of the same settings, the second on a compact tensor, and a classifier."""
    settings = {"kernel_size": 3, "padding": "same", "density": 0.5, **settings}

    def body(x):
        x = FBSConv2D(8, **settings)(x)
        x = FBSConv2D(12, **settings)(x)
        return layers.Dense(5)(layers.GlobalAveragePooling2D()(x))

    return lambda: functional(body)


def gated(name, **settings):
    """FBS layers with gates of `gates.GATES`: of a dense tensor, of compact ones and of a sum."""

    def layer(filters, **others):
        return FBSConv2D(filters, **{"padding": "same", "density": 0.5, **settings, **others, **GATES[name](filters)})

    def body(x):
        x = layer(8, kernel_size=3)(x)
        y = layer(8, kernel_size=1, activation=None)(x)
        x = layer(12, kernel_size=3, strides=2)(layers.ReLU()(layers.Add()([x, y])))
        x = layers.MaxPooling2D(2)(layer(8, kernel_size=3)(x))
        return layers.Dense(5)(layers.GlobalAveragePooling2D()(x))

    return lambda: functional(body)


def after(*others, head=True):
    """Layers after an FBS layer, and a classifier."""

    def body(x):
        x = FBSConv2D(8, 3, padding="same", density=0.5)(x)
        for other in others:
            x = other()(x)
        return layers.Dense(5)(layers.Flatten()(x)) if head else x

    return lambda: functional(body)


def residual():
    def body(x):
        a = FBSConv2D(8, 3, padding="same", density=0.5)(x)
        b = FBSConv2D(8, 3, padding="same", density=0.25, activation=None)(a)
        x = layers.ReLU()(layers.Add()([a, b]))
        return layers.GlobalAveragePooling2D()(FBSConv2D(6, 3, density=0.5)(x))

    return functional(body)


def sums():
    """Compact + dense with ReLU6, three tensors without activation, and two compact ones."""

    def body(x):
        a = FBSConv2D(8, 3, padding="same", density=0.5)(x)
        b = FBSConv2D(8, 3, padding="same", density=0.25, activation=None)(a)
        x = layers.ReLU(6)(layers.Add()([layers.Conv2D(8, 1)(x), b]))
        x = layers.Add()([x, a, b])
        a, b = (FBSConv2D(8, 3, density=0.5, activation=None)(x) for _ in range(2))
        return FBSConv2D(6, 3, density=0.5)(layers.Activation("relu")(layers.Add()([a, b])))

    return functional(body)


def sums_read_by_others():
    """A ReLU is not part of a sum that others read too, be it the model itself."""

    def body(x):
        a = FBSConv2D(8, 3, padding="same", density=0.5)(x)
        b = FBSConv2D(8, 3, padding="same", density=0.5, activation=None)(a)
        first, second = layers.Add()([a, b]), layers.Add()([b, a])
        x = layers.Concatenate()([layers.ReLU()(first), layers.Softmax()(first), a, layers.Softmax()(a)])
        return [FBSConv2D(6, 3, density=0.5)(x), second, layers.ReLU()(second)]

    return functional(body)


def sums_of_many():
    """Nine vectors: more than one op adds, and of another rank than images."""

    def body(x):
        convolutions = [FBSConv2D(8, 1, density=0.5, name=f"conv{i}") for i in range(3)]
        x = [layers.GlobalAveragePooling2D()(convolution(x)) for convolution in convolutions]
        return layers.Add()([x[i % 3] for i in range(9)])

    return functional(body)


def sums_of_unequal_tensors():
    """Of other shapes or another type than the sum's: the op does not broadcast or convert."""

    def body(x):
        a = FBSConv2D(8, 3, padding="same", density=0.5)(x)
        pooled = layers.GlobalAveragePooling2D(keepdims=True)(a)
        numbers = keras.ops.cast(layers.Rescaling(5.0)(layers.Conv2D(8, 1)(x)), "int32")
        return [layers.Add()([a, pooled]), layers.Add()([layers.Conv2D(1, 1)(x), a]), a + 1.0, a + numbers]

    return functional(body)


def nested_sum():
    """`a + b` and its ReLU on two sides of a nested model's border."""
    inputs = keras.Input((10, 11, 8))
    block = keras.Model(inputs, inputs + FBSConv2D(8, 3, padding="same", density=0.5)(inputs), name="block")

    def body(x):
        x = FBSConv2D(8, 3, padding="same", density=0.5, activation=None)(x)
        return FBSConv2D(6, 3, density=0.5)(layers.ReLU()(block(x)))

    return functional(body)


def difference():
    def body(x):
        a = FBSConv2D(8, 3, padding="same", density=0.5)(x)
        b = FBSConv2D(8, 3, padding="same", density=0.5)(a)
        x = layers.ReLU()(layers.Subtract()([a, b]))
        # Of the same channels: they stay compact.
        same = layers.Average()([a, layers.MaxPooling2D(3, 1, "same")(a), a])
        return [layers.GlobalAveragePooling2D()(x), FBSConv2D(4, 1, density=0.5)(same), same - a]

    return functional(body)


def concatenation():
    def body(x):
        a = FBSConv2D(8, 3, padding="same", density=0.5)(x)
        b = FBSConv2D(4, 1, density=0.5)(a)
        x = layers.Concatenate()([a, b, x])
        return layers.GlobalMaxPooling2D()(FBSConv2D(6, 3, density=0.5)(x))

    return functional(body)


def shared():
    def body(x):
        layer = FBSConv2D(8, 3, padding="same", density=0.5)
        x = FBSConv2D(8, 1, density=0.5)(x)
        return layers.GlobalAveragePooling2D()(layers.Add()([layer(layer(x)), x]))

    return functional(body)


def nested():
    inner = keras.Sequential([keras.Input((8, 9, 8)), FBSConv2D(8, 3, density=0.5, name="a")], name="inner")
    x = keras.Input(IMAGE)
    y = FBSConv2D(8, 3, density=0.5)(x)
    backbone = keras.Model(x, layers.Dropout(0.5)(inner(y)), name="backbone")
    image = keras.Input(IMAGE)
    y = FBSConv2D(4, 3, density=0.5, name="a")(backbone(image))
    return keras.Model(image, layers.Flatten()(y))


def several_inputs_and_outputs():
    b, a = keras.Input((6, 6, 2), name="b"), keras.Input(IMAGE, name="a")
    x, y = FBSConv2D(8, 3, density=0.5)(a), FBSConv2D(6, 3, density=0.5)(b)
    z = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalAveragePooling2D()(y)])
    return keras.Model([b, a], [layers.Dense(3)(z), x, y])


def plain():
    return keras.Sequential([keras.Input(IMAGE), layers.Conv2D(4, 3, activation="relu"), layers.Flatten()])


def convolutions_around():
    def body(x):
        x = layers.Conv2D(6, 3, activation="relu")(x)
        x = FBSConv2D(8, 3, padding="same", density=0.5)(x)
        x = layers.Conv2D(6, 3)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = FBSConv2D(8, 3, padding="same", density=0.5)(x)
        return layers.Conv2D(5, 1, activation="tanh")(x)

    return functional(body)


def suppressed(*others, head=lambda x: FBSConv2D(6, 1, density=0.5)(x), **settings):
    """Layers between an FBS layer and the Suppress layer with its mask, and what reads that."""

    def body(x):
        settings_ = {"kernel_size": 1, "activation": "relu6", "density": 0.5, **settings}
        x, mask = FBSConv2D(8, return_mask=True, **settings_)(x)
        for other in others:
            x = other()(x)
        return head(Suppress()([x, mask]))

    return lambda: functional(body)


def depthwise(size=3, *, norm=layers.BatchNormalization, activation=lambda: layers.ReLU(6), **settings):
    """A depthwise convolution with what follows it in the usual networks; all parts that are not `None`."""
    settings = {"padding": "same", "use_bias": False, **settings}
    return [part for part in (lambda: layers.DepthwiseConv2D(size, **settings), norm, activation) if part is not None]


def excite(x):
    """Squeeze-and-excite."""
    s = layers.Conv2D(4, 1, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    s = layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(s)
    return layers.Multiply()([x, s])


def inverted_residual():
    """MobileNetV2's block: expansion, depthwise, projection without activation, and an addition."""

    def body(x):
        x = a = FBSConv2D(8, 3, 2, padding="same", density=0.5, activation=None)(x)
        for stride in (1, 1, 2):
            y, mask = FBSConv2D(16, 1, density=0.5, activation="relu6", return_mask=True)(x)
            for part in depthwise(strides=stride):
                y = part()(y)
            y = FBSConv2D(8, 1, density=0.5, activation=None)(Suppress()([y, mask]))
            x = layers.Add()([x, y]) if stride == 1 else y
        return [layers.Dense(5)(layers.GlobalAveragePooling2D()(x)), a]

    return functional(body)


def excited_blocks():
    """MobileNetV3's: other activations, and squeeze-and-excite in either order and as `a * b`."""

    def body(x):
        x = FBSConv2D(8, 3, padding="same", density=0.5, activation="hard_silu")(x)
        y, mask = FBSConv2D(12, 1, density=0.5, activation="hard_silu", return_mask=True)(x)
        for part in depthwise(5, strides=2, activation=lambda: layers.Activation("hard_silu")):
            y = part()(y)
        x = FBSConv2D(8, 1, density=0.5, activation="silu")(excite(Suppress()([y, mask])))
        s = layers.Conv2D(8, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
        x = FBSConv2D(6, 1, density=0.5, activation="gelu")(layers.Multiply()([s, x]))
        # Of other winners, itself compact.
        s = FBSConv2D(6, 1, density=0.5, activation="tanh")(layers.GlobalMaxPooling2D(keepdims=True)(x))
        return [FBSConv2D(6, 1, density=0.5)(x * s), s]

    return functional(body)


def concatenations():
    """Compact and dense tensors, and a concatenation in another."""

    def body(x):
        a = FBSConv2D(8, 3, padding="same", density=0.5)(x)
        b = FBSConv2D(8, 3, padding="same", density=0.25, group_size=2)(a)
        c = layers.Conv2D(3, 1)(a)
        x = layers.Concatenate()([c, layers.ReLU()(layers.Concatenate()([a, b])), b])
        y = keras.ops.concatenate([layers.MaxPooling2D(2)(x), FBSConv2D(4, 3, 2, "same", density=0.5)(x)], -1)
        return FBSConv2D(8, 3, padding="same", density=0.5, group_size=4)(layers.SpatialDropout2D(0.1)(y))

    return functional(body, (10, 12, 3))


def dense_blocks():
    """DenseNet's: what reads the concatenations needs them dense."""

    def body(x):
        for _ in range(2):
            y = layers.ReLU()(layers.BatchNormalization()(x))
            x = layers.Concatenate()([x, FBSConv2D(4, 3, padding="same", density=0.5, activation=None)(y)])
        return layers.Concatenate(axis=1)([x, x])

    return functional(body)


def unfit_masks():
    """Suppress of another layer's mask, of a tensor that others read, of one that mixes channels; a mask alone."""

    def body(x):
        a, a_mask = FBSConv2D(8, 1, density=0.5, return_mask=True)(x)
        b, b_mask = FBSConv2D(8, 1, density=0.5, return_mask=True)(x)
        other = Suppress()([layers.BatchNormalization()(a), b_mask])
        read = layers.BatchNormalization()(b)
        mixed = layers.Softmax()(a)
        ys = [other, Suppress()([read, b_mask]), layers.ReLU()(read), Suppress()([mixed, a_mask])]
        return [FBSConv2D(6, 1, density=0.5)(layers.Concatenate()([*ys, a])), a_mask]

    return functional(body)


def squash(x):
    """An activation that nobody knows."""
    return keras.ops.tanh(x) * 2


MODELS = {
    "sequential": sequential,
    "density_quarter": one(density=0.25),
    "density_three_quarters": one(density=0.75),
    "density_one": one(density=1.0),
    "valid": one(padding="valid"),
    "stride": one(strides=2),
    "strides_and_kernel": one(strides=(2, 1), kernel_size=(1, 4)),
    "stride_valid": one(strides=2, padding="valid"),
    "even_kernel": one(kernel_size=2),
    "pointwise": one(kernel_size=1),
    "pointwise_stride": one(kernel_size=1, strides=2),
    "dilation": one(dilation_rate=2),
    "dilation_valid": one(dilation_rate=(1, 2), padding="valid"),
    "group_size": one(group_size=4),
    "round_channels": one(density=0.3, round_channels=4),
    "round_channels_of_groups": one(density=0.3, round_channels=6, group_size=4),
    "group_size_density_one": one(group_size=4, density=1.0),
    "gate_bottleneck": gated("bottleneck"),
    "gate_max": gated("max", group_size=2),
    "gate_image": gated("image"),
    "gate_density_one": gated("class", density=1.0),
    "no_norm": one(normalize=False),
    "no_bias": one(use_bias=False),
    "neither": one(normalize=False, use_bias=False),
    "linear": one(activation=None),
    "relu6": one(activation="relu6"),
    "leaky_relu": one(activation="leaky_relu"),
    "gelu": one(activation="gelu"),
    "activation_layer": one(activation=layers.ReLU(max_value=0.5)),
    "unknown_activation": one(activation=squash),
    "max_pooling": after(lambda: layers.MaxPooling2D(2), lambda: FBSConv2D(8, 3, density=0.5)),
    "average_pooling_same": after(lambda: layers.AveragePooling2D(2, padding="same")),
    "pool_to_one_pixel": after(lambda: layers.AveragePooling2D((10, 11))),
    "global_max_pooling": after(lambda: layers.GlobalMaxPooling2D(keepdims=True), lambda: layers.Conv2D(5, 1)),
    "padding_cropping": after(
        lambda: layers.ZeroPadding2D(((1, 2), (0, 3))),
        lambda: layers.Cropping2D(1),
        lambda: layers.UpSampling2D(2),
        lambda: FBSConv2D(8, 3, 2, density=0.5),
    ),
    "dropout": after(lambda: layers.Dropout(0.5), lambda: layers.SpatialDropout2D(0.5), layers.Identity),
    "activations": after(
        lambda: layers.Activation("tanh"), lambda: layers.ELU(), lambda: layers.ReLU(negative_slope=0.1, max_value=1)
    ),
    "moved_zero": after(lambda: layers.Activation("sigmoid"), lambda: FBSConv2D(8, 3, density=0.5)),
    "channel_parameters": after(
        lambda: layers.PReLU(), lambda: layers.DepthwiseConv2D(3), lambda: layers.BatchNormalization()
    ),
    "softmax": after(lambda: layers.Softmax(), head=False),
    "reshape": after(lambda: layers.Reshape((8, 10, 11))),
    "dense_on_pixels": after(lambda: layers.Dense(4), head=False),
    "compact_output": after(head=False),
    "depthwise": suppressed(*depthwise()),
    "depthwise_stride": suppressed(*depthwise(strides=2)),
    "depthwise_valid": suppressed(*depthwise(padding="valid", strides=2, use_bias=True)),
    "depthwise_padded": suppressed(
        lambda: layers.ZeroPadding2D(((0, 1), (0, 1))), *depthwise(strides=2, padding="valid")
    ),
    "depthwise_padded_as_same": suppressed(
        lambda: layers.ZeroPadding2D(((0, 1), (1, 1))), *depthwise(strides=2, padding="valid")
    ),
    "padded_as_same": after(
        lambda: layers.ZeroPadding2D(1),
        lambda: FBSConv2D(8, 3, density=0.5),
        lambda: layers.ZeroPadding2D(1),
        lambda: FBSConv2D(8, 3, 2, density=0.5),
    ),
    "depthwise_dilated": suppressed(*depthwise(dilation_rate=2, norm=None, use_bias=True)),
    "depthwise_uneven": suppressed(*depthwise((5, 2), activation=lambda: layers.Activation("relu"))),
    "depthwise_hard_silu": suppressed(*depthwise(activation=lambda: layers.Activation("hard_silu"))),
    "depthwise_sigmoid": suppressed(*depthwise(activation=lambda: layers.Activation("sigmoid"))),
    "depthwise_own_activation": suppressed(*depthwise(activation=None, norm=None)),
    "depthwise_own_silu": suppressed(lambda: layers.DepthwiseConv2D(3, activation="silu"), head=excite),
    "depthwise_density_one": suppressed(*depthwise(), density=1.0),
    "depthwise_unknown_activation": suppressed(*depthwise(), activation=squash),
    "depthwise_chain": suppressed(*depthwise(), lambda: layers.MaxPooling2D(2), *depthwise(activation=None)),
    "depthwise_alone": after(lambda: layers.DepthwiseConv2D(3, use_bias=False), lambda: FBSConv2D(8, 3, density=0.5)),
    "depthwise_doubled": after(lambda: layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "norm_alone": suppressed(layers.BatchNormalization, lambda: layers.BatchNormalization(scale=False)),
    "norm_to_pixel": suppressed(lambda: layers.GlobalMaxPooling2D(), layers.BatchNormalization, head=layers.Dense(3)),
    "separable": after(lambda: layers.SeparableConv2D(6, 3, padding="same", activation="relu"), head=False),
    "operations": suppressed(
        lambda: layers.DepthwiseConv2D(3),
        lambda: keras.ops.relu6,
        lambda: layers.MaxPooling2D(),
        lambda: keras.ops.silu,
    ),
    "inverted_residual": inverted_residual,
    "excited_blocks": excited_blocks,
    "concatenations": concatenations,
    "dense_blocks": dense_blocks,
    "unfit_masks": unfit_masks,
    "residual": residual,
    "sums": sums,
    "sums_read_by_others": sums_read_by_others,
    "sums_of_many": sums_of_many,
    "sums_of_unequal_tensors": sums_of_unequal_tensors,
    "nested_sum": nested_sum,
    "difference": difference,
    "concatenation": concatenation,
    "shared": shared,
    "nested": nested,
    "several_inputs_and_outputs": several_inputs_and_outputs,
    "convolutions_around": convolutions_around,
    "plain": plain,
}


def make(name):
    """One of `MODELS`, with random weights: gates that depend on the input, batch norm away from its start."""
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name in ("density", "saliency_weight", "usage", "saliency") or "seed" in weight.name:
            continue
        value = random.standard_normal(weight.shape) * 0.3
        if "variance" in weight.name:
            value = random.uniform(0.5, 2, weight.shape)
        if weight.name == "gate_bias":
            value = 1 + value
        weight.assign(value)
    return model


def noise(model, examples=4):
    """Inputs for a model, a list of arrays."""
    random = np.random.default_rng(1)
    return [random.standard_normal((examples, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]


def expected(model, x):
    """What Keras computes, a list of arrays."""
    y = model(x if len(x) > 1 else x[0], training=False)
    return [keras.ops.convert_to_numpy(item) for item in (y if isinstance(y, (list, tuple)) else [y])]


@functools.cache
def files(name, quantize=None, batch_size=1):
    """The model `make(name)` converted for every target: `{target: bytes}`."""
    from fbs_keras.export import converter

    model = make(name)
    plan = converter.plan_model(model, batch_size, quantize=quantize)
    return converter.contents(model, plan, batch_size)
