import keras
import numpy as np
import pytest
from keras import layers, ops
from model_table import MODELS, all_layers, images, randomise
from padding_nets import resnet

import fbs_keras
from fbs_keras.pruning.channel_groups import ChannelGroups
from fbs_keras.pruning.channel_removal import remove_channels


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def unit(x, filters, **arguments):
    x = layers.Conv2D(filters, 3, **{"padding": "same", **arguments})(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def concatenation():
    """As in a DenseNet: batch norms after concatenations, each ranks the channels of all layers before."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, use_bias=False)(inputs)
    for _ in range(2):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same", use_bias=False)(y)])
    x = layers.AveragePooling2D(2)(layers.ReLU()(layers.BatchNormalization()(x)))
    return keras.Model(inputs, layers.Dense(5)(layers.Flatten()(x)))


def squeeze_excite():
    """As in an EfficientNet: expansion, depthwise convolution, a gate for each channel, a residual addition."""
    inputs = keras.Input((8, 8, 3))
    x = shortcut = layers.BatchNormalization()(layers.Conv2D(6, 1)(inputs))
    x = unit(x, 12, use_bias=False)
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
    x = layers.Activation("silu")(x)
    gate = layers.Reshape((1, 1, 12))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(12, 1, activation="sigmoid")(layers.Conv2D(3, 1, activation="silu")(gate))
    x = layers.BatchNormalization()(layers.Conv2D(6, 1)(layers.Multiply()([x, gate])))
    x = layers.Add()([x, shortcut])
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalMaxPooling2D()(x)))


def transposed():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2DTranspose(6, 3, strides=2, use_bias=False)(unit(inputs, 6))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(5)(layers.Flatten()(unit(x, 4))))


def shared():
    inputs = keras.Input((8, 8, 3))
    conv, norm = layers.Conv2D(6, 3, padding="same"), layers.BatchNormalization()
    x = norm(conv(norm(conv(unit(inputs, 6)))))
    return keras.Model(inputs, layers.Dense(5)(layers.Flatten()(x)))


def mobilenet():
    return keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=5, classifier_activation=None)


def padded():
    """A nested model that pads, called twice; ones beside the channels of the second call."""
    part = keras.Input((8, 8, 4))
    nest = keras.Model(part, ops.pad(layers.ReLU()(part), [[0, 0], [1, 1], [0, 0], [2, 0]]), name="nest")
    inputs = keras.Input((8, 8, 3))
    x, y = (layers.Conv2D(4, 3, padding="same")(inputs) for _ in range(2))
    x = layers.Add()([layers.ReLU()(x), y])
    padding = ops.pad(x, [[0, 0]] * 3 + [[0, 3]], constant_values=1.0)
    x = layers.Concatenate()([layers.Cropping2D(((1, 1), (0, 0)))(nest(each)) for each in (x, y)] + [padding])
    return keras.Model(inputs, layers.Dense(5)(layers.Flatten()(layers.Conv2D(6, 3)(x))))


PLAIN = (concatenation, squeeze_excite, transposed, shared, mobilenet, padded, resnet)
MAKE = {**MODELS, **{make.__name__: make for make in PLAIN}}
if keras.backend.backend() == "jax":
    del MAKE["mobilenet"]  # compiles each of its ops by itself, for a minute and a half


def half(groups, seed=0):
    """Keeps about half of the channels that can be removed, and the last two of each layer."""
    roots = groups.roots(range(groups.count))
    kept = np.random.default_rng(seed).uniform(size=groups.count) < 0.5
    for layer in groups.layers.values():
        kept[roots[groups.writes[layer]][-2:]] = True  # randomise silences the first two
    return (kept | ~groups.is_free(range(groups.count)))[roots]


def silence(groups, kept):
    """Makes the channels that are not kept zero: their batch norm, and their filter."""
    for layer in {**groups.norms, **groups.layers}.values():
        side = groups.reads if isinstance(layer, layers.BatchNormalization) else groups.writes
        for name in ("gamma", "beta", "moving_mean", "kernel", "bias"):
            weight = getattr(layer, name, None)
            if weight is not None and not kept[side[layer]].all():
                axis = -2 if name == "kernel" and isinstance(layer, layers.Conv2DTranspose) else -1
                value = np.moveaxis(keras.ops.convert_to_numpy(weight).copy(), axis, -1)
                value[..., ~kept[side[layer]]] = 0
                weight.assign(np.moveaxis(value, -1, axis))


def calibrate(model):
    """Lets batch norms measure their means and variances, so that also a deep model tells inputs apart."""
    norms = [layer for layer in all_layers(model) if isinstance(layer, layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    model(images(model, count=8, seed=2), training=True)
    for norm in norms:
        norm.momentum = 0.99


def assert_same_function(model, other, tolerance=1e-4):
    x = images(model, count=3)
    for output, expected in zip(*(keras.tree.flatten(each(x)) for each in (other, model)), strict=True):
        output, expected = keras.ops.convert_to_numpy(output), keras.ops.convert_to_numpy(expected)
        assert expected.std(axis=0).max() > 10 * tolerance * np.abs(expected).max()  # it tells inputs apart
        assert np.abs(output - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", MAKE)
def test_without_channels_that_are_zero_the_function_is_the_same(name):
    model = randomise(MAKE[name]())
    groups = ChannelGroups(model)
    kept = half(groups)
    silence(groups, kept)
    calibrate(model)
    before = model.get_weights()
    smaller = remove_channels(model, groups, kept)
    assert (smaller.count_params() < model.count_params()) == (name not in ("branches", "separable"))
    assert_same_function(model, smaller)
    for weight, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)  # the given model is left alone
    assert not {id(layer) for layer in all_layers(model)} & {id(layer) for layer in all_layers(smaller)}


def constants():
    """Every way of a constant from one layer to the next that is exact: without zero padding."""
    inputs = keras.Input((12, 12, 3))
    x = unit(inputs, 8, padding="valid")
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, use_bias=False)(x))  # into the mean
    x = keras.ops.sigmoid(x * 2.0)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.MaxPooling2D(2, 1)(x))
    x = layers.Activation("tanh")(layers.BatchNormalization()(x))
    y = unit(inputs, 16, padding="valid")
    x = layers.Concatenate()([x, layers.Cropping2D(((2, 3), (2, 3)))(y)])
    x = layers.Conv2D(6, 1, use_bias=False, name="two readers")(x)  # into a new bias
    x = layers.Add()([layers.BatchNormalization()(x), layers.BatchNormalization()(x)])
    x = layers.Conv2D(6, 3, activation="relu")(layers.ReLU()(x))  # into its bias
    x = layers.Conv2D(6, 1, activation="tanh", use_bias=False)(layers.BatchNormalization()(x))
    x = layers.BatchNormalization()(x)  # too late for the mean: into a new bias before the activation
    shared = layers.Conv2D(6, 1)  # into the bias for both calls
    x = layers.Add()([shared(x), shared(x)])
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))


def test_the_constants_of_removed_channels_stay():
    model = randomise(constants())
    groups = ChannelGroups(model)
    normed = np.zeros(groups.count, bool)
    for norm in groups.norms.values():
        normed[groups.roots(groups.reads[norm])] = True
    kept = half(groups) | ~normed[groups.roots(range(groups.count))]
    for norm in groups.norms.values():
        norm.gamma.assign(keras.ops.convert_to_numpy(norm.gamma) * kept[groups.reads[norm]])
    calibrate(model)
    smaller = remove_channels(model, groups, kept)
    assert not kept[groups.writes[model.get_layer("two readers")]].all()
    assert smaller.get_layer("two readers").use_bias
    assert_same_function(model, smaller)


def test_channels_first():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no such convolution on the CPU")
    first = {"data_format": "channels_first"}
    model = keras.Sequential(
        [
            keras.Input((3, 8, 8)),
            layers.Conv2D(6, 3, **first),
            layers.BatchNormalization(axis=1),
            layers.ReLU(),
            layers.MaxPooling2D(**first),
            layers.Flatten(**first),
            layers.Dense(4),
        ]
    )
    groups = ChannelGroups(randomise(model))
    kept = half(groups)
    silence(groups, kept)
    smaller = remove_channels(model, groups, kept)
    assert smaller.count_params() < model.count_params()
    assert_same_function(model, smaller)


def test_save_and_compile(tmp_path):
    model = randomise(squeeze_excite())
    model.compile("sgd", "mse")
    groups = ChannelGroups(model)
    smaller = remove_channels(model, groups, half(groups))
    assert smaller.compiled
    smaller.save(tmp_path / "model.keras")
    assert_same_function(smaller, keras.saving.load_model(tmp_path / "model.keras"), tolerance=0)
    wrapped = fbs_keras.wrap(smaller)
    assert_same_function(smaller, wrapped)
    assert fbs_keras.count_macs(smaller).dense < fbs_keras.count_macs(model).dense
