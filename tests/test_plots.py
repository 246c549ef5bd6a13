"""Tests of fbs_keras/plots.py."""

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import fbs_keras
from fbs_keras import graph, plots


@pytest.fixture
def model():
    """Two FBS layers, the second in a nested model; the gates depend on the input."""
    inner = keras.Sequential(
        [keras.Input((6, 6, 8)), fbs_keras.FBSConv2D(12, 3, name="deep", density=0.25)], name="inner"
    )
    x = inputs = keras.Input((8, 8, 3))
    x = fbs_keras.FBSConv2D(8, 3, name="shallow", density=0.3, group_size=2, round_channels=4)(x)
    x = inner(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    rng = np.random.default_rng(0)
    for layer in fbs_keras.layers.densities.fbs_layers(model):
        layer.gate_kernel.assign(rng.normal(0, 1, layer.gate_kernel.shape))
    return model


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(size=(20, 8, 8, 3)).astype(np.float32)


def test_gate_model_returns_outputs_and_gates(model, images):
    config = model.get_config()
    outputs, gates = plots.gate_model(model).predict(images, verbose=0)
    np.testing.assert_allclose(outputs, model.predict(images, verbose=0), rtol=1e-5, atol=1e-6)
    assert sorted(gates) == ["inner/deep", "shallow"]
    shallow, deep = fbs_keras.layers.densities.fbs_layers(model)
    expected = {"shallow": shallow.predict_saliency(images), "inner/deep": deep.predict_saliency(shallow(images))}
    for name, g in expected.items():
        np.testing.assert_allclose(gates[name], keras.ops.convert_to_numpy(g), rtol=1e-5, atol=1e-6)
    assert model.get_config() == config  # the given model is as before
    assert len(graph.flatten(model).nodes) == 4


def test_gate_model_needs_a_gate():
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="has no FBSConv2D layer"):
        plots.gate_model(model)


def test_firing_rates(model, images):
    _, gates = plots.gate_model(model).predict(images, verbose=0)
    labels = np.arange(20) % 2
    rates = plots.firing_rates(model, dict(sorted(gates.items())), labels, 3)
    assert list(rates) == ["shallow", "inner/deep"]
    shallow, deep = fbs_keras.layers.densities.fbs_layers(model)
    for name, fires in {"shallow": shallow.gate(images), "inner/deep": deep.gate(shallow(images))}.items():
        fires = keras.ops.convert_to_numpy(fires) > 0
        np.testing.assert_allclose(rates[name][0], fires[0::2].mean(axis=0))
        np.testing.assert_allclose(rates[name][1], fires[1::2].mean(axis=0))
        assert np.isnan(rates[name][2]).all()


def test_channel_order():
    #                  silent  likes 1  always  likes 0  always  likes 1, seldom
    rates = np.array([[0.00, 0.1, 1.00, 0.8, 0.95, 0.1], [0.05, 0.9, 1.00, 0.2, 0.93, 0.3]])
    assert plots.channel_order(rates).tolist() == [2, 4, 3, 1, 5, 0]


def test_plot_shows_every_channel_of_the_chosen_layers(tmp_path):
    rng = np.random.default_rng(0)
    rates = {f"conv{i}": rng.random((3, 8 + i)) for i in range(6)}
    examples = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    path = tmp_path / "channels.png"
    figure = plots.plot_channels(rates, ["ant", "bee", "cow"], examples, path)
    assert isinstance(figure, Figure)
    titles = [axes.get_title("left") for axes in figure.axes]
    assert [title.split(":")[0] for title in titles if title] == ["conv0", "conv2", "conv3", "conv5"]
    (table,) = next(axes for axes in figure.axes if axes.get_title("left").startswith("conv5")).get_images()
    np.testing.assert_allclose(sorted(table.get_array().ravel()), sorted(rates["conv5"].ravel()))
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape[0] > 500 and pixels.std() > 10

    figure = plots.plot_channels(rates, ["ant", "bee", "cow"], examples, layers=["conv4"])
    assert len([axes for axes in figure.axes if axes.get_title("left")]) == 1
    with pytest.raises(ValueError, match=r"layers must be among \['conv0'.*got 'conv9'"):
        plots.plot_channels(rates, ["ant", "bee", "cow"], examples, layers=["conv9"])


def test_title_counts_channels():
    rates = {"conv": np.array([[1.0, 0.0, 0.5, 0.5], [1.0, 0.0, 0.7, 0.3]])}
    figure = plots.plot_channels(rates, ["ant", "bee"], np.zeros((2, 4, 4, 3), np.uint8))
    assert any(
        axes.get_title("left") == "conv: 2 of 4 channels fire for an image: 1 always, 2 by the image, 1 never"
        for axes in figure.axes
    )


def test_class_examples():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    examples = plots.class_examples(images, np.array([1, 3, 3, 1]), 4)
    assert examples.ravel().tolist() == [0, 0, 0, 1]


def overlap(fires, pairs):
    return np.mean([(fires[i] & fires[j]).sum() for i, j in pairs]) / fires.sum(axis=1).mean()


def test_choices_compare_all_pairs_of_images():
    fires = np.random.default_rng(0).random((30, 16)) < np.linspace(-0.2, 1.2, 16)
    labels = np.arange(30) % 3
    found = plots.choices(fires, labels)
    pairs = [(i, j) for i in range(30) for j in range(30) if i != j]
    assert found.same == pytest.approx(overlap(fires, [p for p in pairs if labels[p[0]] == labels[p[1]]]))
    assert found.others == pytest.approx(overlap(fires, [p for p in pairs if labels[p[0]] != labels[p[1]]]))
    assert found.chance == pytest.approx(fires.mean())
    assert (found.always, found.never, found.by_input) == (3 / 16, 3 / 16, 10 / 16)


def test_static_choices_overlap_wholly():
    found = plots.choices(np.tile([True, False], (6, 4)), [0, 0, 1, 1, 2, 2])
    assert (found.always, found.never, found.same, found.others) == (0.5, 0.5, 1, 1)


def test_plot_choices(model, images, tmp_path):
    _, gates = plots.gate_model(model).predict(images, verbose=0)
    layers = {
        name: plots.choices(fires, np.arange(20) % 2) for name, fires in plots.fired_channels(model, gates).items()
    }
    figure = plots.plot_choices(layers, tmp_path / "choices.png")
    assert isinstance(figure, Figure)
    assert Image.open(tmp_path / "choices.png").size == (1560, 546)


def test_plot_tradeoff_leaves_out_what_was_not_timed(tmp_path):
    common = {"density": 0.5, "top1": 0.9, "saving": 2.0}
    speedups = {"dense": 1, "FBS": 2, "x": None, "NS": 3}
    rows = [{"method": name, "speedup": speedup, **common} for name, speedup in speedups.items()]
    figure = plots.plot_tradeoff(rows, tmp_path / "tradeoff.png")
    lines = [[line.get_label() for line in axes.get_lines()] for axes in figure.axes]
    assert lines == [["FBS", "x", "NS", "dense"], ["FBS", "NS", "dense"]]
    assert len({axes.get_lines()[-2].get_color() for axes in figure.axes}) == 1  # NS
