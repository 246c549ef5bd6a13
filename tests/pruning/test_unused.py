"""Tests of remove_unused: what never wins goes, and nothing changes; what else reads a layer keeps it whole."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import fbs_keras
from fbs_keras.layers.densities import fbs_layers

USED = 5  # of eight channels, in every layer that is changed


def images(count=16, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 8, 8, 3)).astype("float32")


def gated(x, name, **kwargs):
    return fbs_keras.FBSConv2D(8, 3, padding="same", density=0.5, name=name, **kwargs)(x)


def train(model, seed=0):
    """Makes every FBS layer choose its 4 of 8 winners among `USED`, by the image, and know that."""
    rng = np.random.default_rng(seed)
    for layer in fbs_layers(model):
        used = np.sort(rng.permutation(8)[:USED])
        layer.gate_kernel.assign(rng.normal(0, 0.1, layer.gate_kernel.shape))
        layer.gate_bias.assign(np.where(np.isin(np.arange(8), used), 5, 0.1))
        layer.usage.assign(np.where(np.isin(np.arange(8), used), 0.8, 0.001))
        layer.bias.assign(rng.normal(size=8))
        layer.norm.moving_mean.assign(rng.normal(size=8))
        layer.norm.moving_variance.assign(rng.uniform(0.5, 2, 8))
    return model


def pooled(x):
    return layers.Dense(5)(layers.GlobalAveragePooling2D()(x))


HEADS = {
    "pooled": pooled,
    "flattened": lambda x: layers.Dense(5)(layers.Flatten()(layers.MaxPooling2D()(x))),
    "convolved": lambda x: layers.Conv2D(5, 3)(layers.ZeroPadding2D()(layers.Dropout(0.5)(x))),
    "two readers": lambda x: layers.Concatenate()([layers.Conv2D(2, 1)(x), layers.Conv2D(3, 3, padding="same")(x)]),
    "gelu": lambda x: pooled(layers.Activation("gelu")(x)),
}


@pytest.mark.parametrize("head", HEADS)
def test_the_function_stays_where_unused_channels_never_win(head):
    inputs = keras.Input((8, 8, 3))
    model = train(keras.Model(inputs, HEADS[head](gated(gated(inputs, "a"), "b"))))
    model.compile("sgd", "mse")
    lines = []
    small = fbs_keras.remove_unused(model, print_fn=lines.append)
    assert lines == [f"{name}: 8 -> {USED} channels, of which 4 win" for name in "ab"]
    assert [(layer.filters, layer.active_channels) for layer in fbs_layers(small)] == [(USED, 4)] * 2
    assert [layer.usage.shape for layer in fbs_layers(small)] == [(USED,)] * 2
    np.testing.assert_allclose(
        small.predict(images(), verbose=0), model.predict(images(), verbose=0), rtol=1e-5, atol=1e-5
    )
    assert small.compiled
    macs = [[row.conv for row in fbs_keras.count_macs(each).rows if row.kind == "FBSConv2D"] for each in (small, model)]
    assert macs[0] == macs[1]
    assert all(layer.filters == 8 for layer in fbs_layers(model))


def test_as_many_channels_stay_as_win():
    model = train(
        keras.Sequential([keras.Input((8, 8, 3)), fbs_keras.FBSConv2D(8, 3, density=0.5), layers.Conv2D(2, 1)])
    )
    layer = fbs_layers(model)[0]
    layer.usage.assign([0, 0.3, 0, 0, 0.2, 0, 0, 0])
    small = fbs_layers(fbs_keras.remove_unused(model))[0]
    assert (small.filters, small.active_channels) == (4, 4)
    np.testing.assert_allclose(small.usage, [0, 0.3, 0, 0.2], rtol=1e-6)  # the first of those that are used alike


def test_nothing_goes_that_is_used():
    model = train(
        keras.Sequential([keras.Input((8, 8, 3)), fbs_keras.FBSConv2D(8, 3, density=0.5), layers.Conv2D(2, 1)])
    )
    lines = []
    fbs_keras.remove_unused(model, 0.0005, print_fn=lines.append)
    assert lines[0].endswith(": 8 channels, of which 4 win")


def test_a_shared_layer_stays_whole():
    inputs = keras.Input((8, 8, 3))
    shared = fbs_keras.FBSConv2D(8, 3, density=0.5, name="shared")
    shifted = layers.Rescaling(1.0, offset=1.0)(inputs)
    branches = [layers.Conv2D(4, 1)(shared(x)) for x in (inputs, shifted)]
    lines = []
    fbs_keras.remove_unused(train(keras.Model(inputs, layers.Concatenate()(branches))), print_fn=lines.append)
    assert lines == ["shared: 8 channels: left alone: it is called 2 times"] * 2


def test_a_nested_model_and_groups():
    net = keras.Sequential([keras.Input((8, 8, 3)), fbs_keras.FBSConv2D(8, 3, density=0.5, group_size=2)], name="net")
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Conv2D(2, 1)(net(inputs)))
    layer = fbs_layers(model)[0]
    layer.gate_bias.assign([3, 3, 1, 1, 0, 0, 2, 2])
    layer.usage.assign([1, 1, 0.4, 0.4, 0, 0, 0.6, 0.6])
    small = fbs_keras.remove_unused(model)
    assert (fbs_layers(small)[0].filters, fbs_layers(small)[0].active_channels) == (6, 4)
    np.testing.assert_allclose(small.predict(images(), verbose=0), model.predict(images(), verbose=0), atol=1e-5)


@keras.saving.register_keras_serializable("test_unused")
class Own(fbs_keras.FBSConv2D):
    pass


@keras.saving.register_keras_serializable("test_unused")
def centred(x):
    return x - ops.mean(x, axis=-1, keepdims=True)


# What an FBS layer does itself, and why it stays as it is then.
OWN = {
    "elementwise": ({"activation": "silu"}, ""),
    "a user's function": ({"activation": lambda x: ops.maximum(x, 0.1 * x)}, ""),
    "of pixels": ({"activation": lambda x: x - ops.mean(x, axis=(1, 2), keepdims=True)}, ""),
    "log_softmax": ({"activation": "log_softmax"}, "its activation 'log_softmax' may mix channels"),
    "a layer": ({"activation": layers.Activation("log_softmax")}, "its activation 'Activation' may mix channels"),
    "mean": ({"activation": centred}, "its activation 'centred' may mix channels"),
}


@pytest.mark.parametrize("name", OWN)
def test_its_own_activation_is_looked_at(name):
    settings, reason = OWN[name]
    inputs = keras.Input((8, 8, 3))
    model = train(keras.Model(inputs, pooled(gated(inputs, "a", **settings))))
    lines = []
    small = fbs_keras.remove_unused(model, print_fn=lines.append)
    assert lines == [f"a: 8 channels: left alone: {reason}" if reason else "a: 8 -> 5 channels, of which 4 win"]
    np.testing.assert_allclose(
        small.predict(images(), verbose=0), model.predict(images(), verbose=0), rtol=1e-5, atol=1e-5
    )


def test_a_subclass_stays_whole():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, pooled(Own(8, 3, density=0.5, name="a")(inputs)))
    lines = []
    fbs_keras.remove_unused(model, print_fn=lines.append)
    assert lines == ["a: 8 channels: left alone: it is a Own, which may do more than FBSConv2D"]


def test_weights_of_lora_keep_a_layer_whole():
    inputs = keras.Input((8, 8, 3))
    model = train(keras.Model(inputs, layers.Dense(5, name="d")(layers.Flatten()(gated(gated(inputs, "a"), "b")))))
    model.get_layer("d").enable_lora(2)
    lines = []
    fbs_keras.remove_unused(model, print_fn=lines.append)
    assert lines == [
        "a: 8 -> 5 channels, of which 4 win",
        "b: 8 channels: left alone: d reads it, which has more weights than kernel and bias",
    ]


def test_what_enters_a_nested_model_stays_whole():
    net = keras.Sequential([keras.Input((8, 8, 8)), layers.Conv2D(2, 3)], name="net")
    inputs = keras.Input((8, 8, 3))
    lines = []
    fbs_keras.remove_unused(train(keras.Model(inputs, net(gated(inputs, "a")))), print_fn=lines.append)
    assert lines == ["a: 8 channels: left alone: it enters the nested model 'net'"]


def masked(head):
    def apply(x):
        y, mask = fbs_keras.FBSConv2D(8, 3, density=0.5, return_mask=True, name="c")(x)
        return head(y, mask)

    return apply


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (masked(lambda y, mask: [pooled(y), mask]), "the model's output reads its winners"),
        (masked(lambda y, mask: [pooled(y), layers.Dense(2, name="d")(mask)]), "d reads its winners"),
        (
            lambda x: pooled(layers.MaxPooling2D(2, data_format="channels_first", name="odd")(gated(x, "c"))),
            "odd reads it",
        ),
        (lambda x: pooled(layers.GaussianNoise(0.0, name="noise")(gated(x, "c"), training=True)), "noise reads it"),
    ],
)
def test_readers_that_keep_a_layer_whole(head, reason):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, head(inputs))
    (layer,) = fbs_layers(model)
    layer.usage.assign([1] * 4 + [0] * 4)
    lines = []
    small = fbs_keras.remove_unused(model, print_fn=lines.append)
    assert lines == [f"c: 8 channels: left alone: {reason}"]
    pairs = (keras.tree.flatten(each.predict(images(), verbose=0)) for each in (small, model))
    for got, expected in zip(*pairs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_short_training_tells_what_is_unused():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, pooled(gated(inputs, "a")))
    (layer,) = fbs_layers(model)
    layer.gate_bias.assign([3, 0, 3, 0, 3, 0, 3, 0])
    layer.gate_kernel.assign(np.zeros((3, 8)))
    model.compile(keras.optimizers.SGD(1e-6), "mse")
    model.fit(images(), np.zeros((16, 5)), batch_size=4, verbose=0)
    assert fbs_layers(fbs_keras.remove_unused(model))[0].filters == 4


def test_usage_that_is_not_finite_is_refused():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, pooled(gated(inputs, "a")))
    fbs_layers(model)[0].usage.assign([np.nan] * 8)
    with pytest.raises(ValueError, match="the usage of 'a' is not finite"):
        fbs_keras.remove_unused(model)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (lambda x: pooled(layers.Add(name="sum")([x, layers.Conv2D(8, 1)(x)])), "sum reads it"),
        (lambda x: pooled(layers.BatchNormalization(name="norm")(x)), "norm reads it"),
        (lambda x: [pooled(x), x], "it is the model's output"),
    ],
)
def test_what_else_reads_a_layer_keeps_it_whole(head, reason):
    inputs = keras.Input((8, 8, 3))
    model = train(keras.Model(inputs, head(gated(gated(inputs, "a"), "b"))))
    lines = []
    small = fbs_keras.remove_unused(model, print_fn=lines.append)
    assert lines == ["a: 8 -> 5 channels, of which 4 win", f"b: 8 channels: left alone: {reason}"]
    pairs = (keras.tree.flatten(each.predict(images(), verbose=0)) for each in (small, model))
    for got, expected in zip(*pairs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "below", "error", "message"),
    [
        (pooled, 0.01, ValueError, "has no FBSConv2D layer"),
        (lambda x: pooled(gated(x, "a")), 1.0, ValueError, r"below must be in \(0, 1\), got 1.0"),
        (lambda x: pooled(gated(x, "a")), "few", TypeError, r"below must be a number in \(0, 1\), got 'few'"),
    ],
)
def test_what_cannot_be(model, below, error, message):
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(error, match=message):
        fbs_keras.remove_unused(keras.Model(inputs, model(inputs)), below)
