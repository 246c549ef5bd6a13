"""Tests of fit_gates: the function stays, and the gates tell which channels matter for an image."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import fbs_keras
from fbs_keras.layers.densities import fbs_layers, fbs_paths


def conv_block(x, filters, name, activation="relu"):
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.Activation(activation, name=f"{name}_act")(x)


def randomize(model, seed=0):
    """Weights as of a trained model: norms with statistics and gammas of both signs."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape
            values = (rng.normal(1, 0.5, size), rng.normal(0, 0.3, size), rng.normal(0, 0.5, size))
            for weight, value in zip((layer.gamma, layer.beta, layer.moving_mean), values, strict=True):
                weight.assign(value)
            layer.moving_variance.assign(rng.uniform(0.5, 2, size))
    return model


def images(count=64, size=8, seed=0):
    """Images whose brightness and contrast differ."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.1, 3, (count, 1, 1, 3))
    return (scale * rng.normal(size=(count, size, size, 3)) + scale).astype("float32")


def plain(head):
    """Two gated layers and a head after them."""
    inputs = keras.Input((8, 8, 3))
    return randomize(keras.Model(inputs, head(conv_block(conv_block(inputs, 8, "a"), 12, "b"))))


def pooled(x):
    return layers.Dense(5)(layers.GlobalAveragePooling2D()(layers.Dropout(0.5)(x)))


HEADS = {
    "pooled": pooled,
    "flattened": lambda x: layers.Dense(5)(layers.Flatten()(layers.MaxPooling2D()(x))),
    "convolved": lambda x: layers.Conv2D(5, 3)(layers.ZeroPadding2D()(layers.LeakyReLU()(x))),
    "two readers": lambda x: layers.Concatenate()([layers.Conv2D(2, 1)(x), layers.Conv2D(3, 3, padding="same")(x)]),
}


@pytest.mark.parametrize("head", HEADS)
def test_the_function_stays_but_for_the_spread(head):
    model = plain(HEADS[head])
    x = images()
    expected = model.predict(x, verbose=0)
    wrapped = fbs_keras.wrap(model, include=["a", "b"])
    before = [layer.get_weights() for layer in model.layers]
    lines = []
    fbs_keras.fit_gates(wrapped, x, spread=1e-5, print_fn=lines.append)
    assert [line.split(", R2")[0] for line in lines] == ["a: fitted", "b: fitted"]
    np.testing.assert_allclose(wrapped.predict(x, verbose=0), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    after = [layer.get_weights() for layer in model.layers]
    for old, new in zip(before, after, strict=True):  # of the model that was wrapped
        for one, other in zip(old, new, strict=True):
            np.testing.assert_array_equal(one, other)


def test_channels_win_where_they_matter():
    """Two channels look at red and blue: the gates must choose by the image's colour."""
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(2, 1, activation="relu", use_bias=False, name="conv")(inputs)
    model = keras.Model(inputs, layers.Conv2D(1, 1, kernel_initializer="ones")(x))
    model.get_layer("conv").kernel.assign(np.array([[1, 0], [0, 0], [0, 1]], "float32")[None, None])
    model = fbs_keras.wrap(model, density=0.5, include="conv")
    rng = np.random.default_rng(0)
    red = np.arange(64) % 2 == 0
    x = rng.uniform(0.5, 1, (64, 4, 4, 3)) * np.where(red[:, None], [1, 0.5, 0.1], [0.1, 0.5, 1])[:, None, None]
    fbs_keras.fit_gates(model, x)
    gate = keras.ops.convert_to_numpy(model.get_layer("conv").gate(keras.ops.convert_to_tensor(x, "float32")))
    np.testing.assert_array_equal(gate > 0, np.stack([red, ~red], axis=1))
    assert model.get_layer("conv").density.numpy() == 0.5  # as before


def test_gates_predict_importance_in_the_fitted_network():
    """Also those of b, whose input is scaled differently since a's gates are of one scale."""
    model = fbs_keras.wrap(plain(pooled))
    x, spread, lines = images(), 1e-4, []
    fbs_keras.fit_gates(model, x, spread=spread, print_fn=lines.append)
    readers = {"a": model.get_layer("b"), "b": model.layers[-1]}
    for line, (name, reader) in zip(lines, readers.items(), strict=True):
        layer, following = model.get_layer(name), keras.ops.convert_to_numpy(reader.kernel)
        got_x, y = keras.Model(model.inputs, [layer.input, layer.output]).predict(x, verbose=0)
        weight = np.sum(following.reshape(-1, layer.filters, following.shape[-1]) ** 2, axis=(0, 2))
        importance = np.sqrt(np.mean(y**2, axis=(1, 2)) * weight)
        expected = np.minimum(importance / importance.mean(), 4)
        g = keras.ops.convert_to_numpy(layer.predict_saliency(keras.ops.convert_to_tensor(got_x)))
        left = np.sum((expected - (g - 1) / spread - 1) ** 2) / np.sum((expected - expected.mean(axis=0)) ** 2)
        assert 1 - left == pytest.approx(float(line.removeprefix(f"{name}: fitted, R2 = ")), abs=0.02)


def test_the_winners_do_not_depend_on_the_spread():
    dense, chosen = plain(pooled), []
    for spread in (0.001, 0.1):
        model = fbs_keras.wrap(dense, density=0.5)
        fbs_keras.fit_gates(model, images(), spread=spread)
        layer = fbs_layers(model)[0]
        chosen.append(keras.ops.convert_to_numpy(layer.gate(keras.ops.convert_to_tensor(images(seed=1)))) > 0)
    np.testing.assert_array_equal(*chosen)


def add(x):
    return pooled(layers.Add()([x, conv_block(x, 12, "c")]))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (add, "b: left alone: add"),
        (lambda x: pooled(layers.BatchNormalization(name="norm")(x)), "b: left alone: norm reads it"),
        (lambda x: pooled(conv_block(x, 4, "c", "gelu")), "c: left alone: its activation is none with f(u x) = u f(x)"),
        (lambda x: [pooled(x), x], "b: left alone: it is the model's output"),
        (
            lambda x: pooled(conv_block(x, 4, "c", lambda x: ops.maximum(x, ops.minimum(x + 1, 0)))),
            "c: left alone: its activation is none with f(u x) = u f(x)",
        ),
        (
            lambda x: pooled(conv_block(x, 4, "c", lambda x: x - ops.mean(x, axis=-1, keepdims=True))),
            "c: left alone: its activation is none with f(u x) = u f(x)",
        ),
        (lambda x: pooled(layers.ReLU(threshold=1.0, name="cut")(x)), "b: left alone: cut reads it"),
    ],
)
def test_what_else_reads_a_layer_leaves_it_alone(head, reason):
    model = plain(head)
    x = images()
    expected = model.predict(x, verbose=0)
    wrapped = fbs_keras.wrap(model)
    lines = []
    fbs_keras.fit_gates(wrapped, x, spread=1e-6, print_fn=lines.append)
    assert any(line.startswith(reason) for line in lines), lines
    for path, layer in fbs_paths(wrapped):
        assert keras.ops.convert_to_numpy(layer.gate_kernel).any() == any(
            line.startswith(f"{path}: fitted") for line in lines
        )
    for got, want in zip(keras.tree.flatten(wrapped.predict(x, verbose=0)), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


def test_a_shared_reader_leaves_a_layer_alone():
    inputs = keras.Input((8, 8, 3))
    shared = layers.Conv2D(5, 1, name="shared")
    branches = [shared(conv_block(inputs, 8, name)) for name in "ab"]
    wrapped = fbs_keras.wrap(keras.Model(inputs, layers.Concatenate()(branches)))
    lines = []
    fbs_keras.fit_gates(wrapped, images(), print_fn=lines.append)
    assert lines == [f"{name}: left alone: shared reads it, which is called 2 times" for name in "ab"]


NAMES = ("mean", "absolute", "square", "cast", "add", "matmul", "relu")


def test_names_that_keras_gives_to_operations_are_free():
    keras.utils.clear_session()  # names are numbered from the start, as in a new process
    x = inputs = keras.Input((8, 8, 3))
    for name in NAMES:
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name=name)(x)
    model = fbs_keras.wrap(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    lines = []
    fbs_keras.fit_gates(model, images(), print_fn=lines.append)
    assert [line.split(", R2")[0] for line in lines] == [f"{name}: fitted" for name in NAMES]


def test_nested_models_with_layers_of_one_name():
    nets = [
        keras.Sequential([keras.Input(shape), layers.Conv2D(8, 3, activation="relu", name="conv")], name=name)
        for name, shape in (("one", (8, 8, 3)), ("two", (6, 6, 8)))
    ]
    inputs = keras.Input((8, 8, 3))
    model = fbs_keras.wrap(keras.Model(inputs, layers.Conv2D(4, 1, name="conv")(nets[1](nets[0](inputs)))))
    lines = []
    fbs_keras.fit_gates(model, images().astype("float64"), print_fn=lines.append)
    assert [line.split(", R2")[0] for line in lines] == [
        "one/conv: fitted",
        "two/conv: fitted",
    ]


def test_integers_are_images():
    model = fbs_keras.wrap(plain(pooled))
    fbs_keras.fit_gates(model, np.clip(images() * 50 + 100, 0, 255).astype("uint8"))
    assert keras.ops.convert_to_numpy(model.get_layer("a").gate_kernel).any()


def test_nested_models_and_batches_of_images():
    backbone = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(8, 3, activation="relu", name="conv")], name="net"
    )
    inputs = keras.Input((8, 8, 3))
    model = fbs_keras.wrap(keras.Model(inputs, layers.Conv2D(4, 1)(backbone(inputs))))
    lines = []
    fbs_keras.fit_gates(model, ((images(16, seed=seed),) for seed in range(3)), print_fn=lines.append)
    assert lines[0].startswith("net/conv: fitted, R2 = ")


@pytest.mark.parametrize(
    ("change", "kwargs", "error", "message"),
    [
        (None, {"spread": "wide"}, TypeError, "spread must be a number in (0, 1), got 'wide'"),
        (None, {"spread": 1.0}, ValueError, "spread must be in (0, 1), got 1.0"),
        (None, {"images": images(1)}, ValueError, "expected at least two images, some thousands better, got 1"),
        (None, {"images": images()[:0]}, ValueError, "expected at least two images, some thousands better, got 0"),
        (None, {"images": None}, ValueError, "expected at least two images, some thousands better, got 0"),
        (None, {"images": images()[..., :2]}, ValueError, "expected shape=(None, 8, 8, 3), found shape=(32, 8, 8, 2)"),
        (None, {"images": images() * np.inf}, ValueError, "'a' computes values that are not finite"),
        (None, {"images": images() * np.nan}, ValueError, "'a' computes values that are not finite"),
        ("fitted", {}, ValueError, "the gates of 'a' are trained or fitted already"),
        ("dense", {}, ValueError, "has no FBSConv2D layer"),
    ],
)
def test_what_cannot_be_fitted(change, kwargs, error, message):
    model = plain(pooled)
    if change != "dense":
        model = fbs_keras.wrap(model)
    if change == "fitted":
        fbs_keras.fit_gates(model, images())
    before = model.get_weights()
    with pytest.raises(error) as caught:
        fbs_keras.fit_gates(model, **{"images": images(), **kwargs})
    assert message in str(caught.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="takes PyTorch half a minute")
def test_cifar10_channels_are_chosen_better(cifar10_dir):
    """At a quarter of conv6's channels, or conv7's, without any training: how much of 93 % is left?"""
    from fbs_keras import data

    dense = fbs_keras.models.MCifarNet(weights="cifar10")
    train = data.load("cifar10", "train[:500]", 250, data_dir=cifar10_dir).batches.map(lambda x, y: x)
    test = list(data.load("cifar10", "test[:200]", 200, data_dir=cifar10_dir).batches.as_numpy_iterator())
    right = {}
    for start in ("preserve", "fit"):
        model = fbs_keras.wrap(dense)
        if start == "fit":
            fbs_keras.fit_gates(model, train)
        for name in ("conv6", "conv7"):
            fbs_keras.set_density(model, {"*": 1.0, name: 0.25})
            hits = [np.argmax(model.predict_on_batch(x), axis=1) == y for x, y in test]
            right[start, name] = np.mean(hits)
    assert right["fit", "conv7"] > 0.91
    assert right["fit", "conv6"] > right["preserve", "conv6"] + 0.2
