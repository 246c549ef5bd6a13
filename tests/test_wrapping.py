import keras
import numpy as np
import pytest
from keras import layers
from model_table import MODELS, all_layers, randomise

import fbs_keras
from fbs_keras import FBSConv2D, wrapping


def outputs(model, x):
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(model(x))]


def images(model, count=4, seed=1):
    return np.random.default_rng(seed).normal(size=(count, *model.input_shape[1:])).astype("float32")


@pytest.mark.parametrize("name", MODELS)
def test_preserves_the_function_at_density_1(name):
    model = randomise(MODELS[name]())
    x = images(model)
    before = outputs(model, x)
    wrapped = fbs_keras.wrap(model)
    for output, expected in zip(outputs(wrapped, x), before, strict=True):
        assert np.abs(output - expected).max() <= 1e-4 * np.abs(expected).max()
    assert wrapped.name == model.name
    for output, expected in zip(outputs(model, x), before, strict=True):
        np.testing.assert_array_equal(output, expected)  # the given model is left alone
    assert not any(isinstance(layer, FBSConv2D) for layer in all_layers(model))


def test_preserves_mcifarnet():
    model = randomise(fbs_keras.models.MCifarNet())
    x = images(model)
    (expected,), (output,) = outputs(model, x), outputs(fbs_keras.wrap(model), x)
    assert np.abs(output - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_gate_starts_at_the_size_of_gamma():
    model = randomise(MODELS["sequential"]())
    gamma = keras.ops.convert_to_numpy(model.layers[1].gamma)
    layer = fbs_keras.wrap(model).layers[0]
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(layer.gate_bias), np.maximum(np.abs(gamma), wrapping.SMALLEST_GATE), rtol=1e-6
    )
    assert not keras.ops.convert_to_numpy(layer.gate_kernel).any()


def test_paper_init():
    model = MODELS["sequential"]()
    layer = fbs_keras.wrap(model, init="paper").layers[0]
    phi = keras.ops.convert_to_numpy(layer.gate_kernel)
    assert (keras.ops.convert_to_numpy(layer.gate_bias) == 1).all()
    assert 0.3 < phi.std() / np.sqrt(2 / 3) < 1.5  # He-normal of 3 inputs
    np.testing.assert_array_equal(layer.get_weights()[0], model.layers[0].get_weights()[0])


def test_report(capsys):
    fbs_keras.wrap(MODELS["branches"](), print_fn=print)
    assert capsys.readouterr().out.splitlines() == [
        "shared: left alone: it is shared by 2 calls",
        "taken: FBSConv2D of taken",
        "sigmoid: left alone: its activation 'sigmoid' moves zero, so no channel could be skipped",
        "separable: left alone: it is a SeparableConv2D; only Conv2D is gated",
        "grouped: left alone: it has 2 groups",
        "last: FBSConv2D of last",
        "head: left alone: it computes the model's output",
    ]


def test_takes_in_norm_and_activation():
    wrapped = fbs_keras.wrap(fbs_keras.models.MCifarNet(), 0.5)
    fbs = [layer for layer in wrapped.layers if isinstance(layer, FBSConv2D)]
    assert [layer.name for layer in fbs] == [f"conv{i}" for i in range(8)]
    assert not any(isinstance(layer, layers.BatchNormalization | layers.ReLU) for layer in wrapped.layers)
    assert [layer.active_channels for layer in fbs] == [32, 32, 64, 64, 64, 96, 96, 96]
    assert isinstance(wrapped.get_layer("logits"), layers.Conv2D)


def test_activations_that_conv2d_cannot_name_stay_outside():
    wrapped = fbs_keras.wrap(MODELS["plain"]())
    kinds = [type(layer).__name__ for layer in wrapped.layers]
    assert kinds == ["InputLayer", "FBSConv2D", "FBSConv2D", "FBSConv2D", "LeakyReLU", "Flatten", "Dense"]
    assert wrapped.layers[2].activation is keras.activations.relu6


def names(model):
    return [layer.name for layer in fbs_keras.layers.fbs_layers(model)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"include": ["conv1", "conv2"]}, ["conv1", "conv2"]),
        ({"include": "conv1"}, ["conv1"]),
        ({"exclude": [f"conv{i}" for i in range(7)]}, ["conv7"]),
        ({"include": ["conv1", "conv2"], "exclude": "conv2"}, ["conv1"]),
        ({"include": ["logits"]}, ["logits"]),  # named by the user, even a classifier is wrapped
    ],
)
def test_include_and_exclude(arguments, expected):
    assert names(fbs_keras.wrap(fbs_keras.models.MCifarNet(), **arguments)) == expected


def test_include_takes_paths_of_nested_layers():
    assert names(fbs_keras.wrap(MODELS["nested"](), include=["middle/first"])) == ["first"]


def test_frozen_layers_stay_frozen():
    model = MODELS["sequential"]()
    model.layers[0].trainable = False
    model.layers[1].trainable = False
    layer = fbs_keras.wrap(model).layers[0]
    assert not layer.trainable
    assert not layer.norm.trainable


def test_compiled_model_stays_compiled():
    model = MODELS["sequential"]()
    model.compile("sgd", "mse")
    assert fbs_keras.wrap(model).compiled


def test_wrapped_model_can_be_wrapped_again_in_part():
    once = fbs_keras.wrap(fbs_keras.models.MCifarNet(), 0.5, include=["conv1"])
    twice = fbs_keras.wrap(once, 0.25)
    densities = [layer.active_channels / layer.filters for layer in fbs_keras.layers.fbs_layers(twice)]
    assert densities == [0.25, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25]


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def dense_only():
    return keras.Sequential([keras.Input((4,)), layers.Dense(2)], name="mlp")


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (MODELS["sequential"], {"density": 0}, ValueError, r"density must be in \(0, 1\], got 0"),
        (MODELS["sequential"], {"density": 1.5}, ValueError, r"density must be in \(0, 1\], got 1.5"),
        (MODELS["sequential"], {"density": float("nan")}, ValueError, r"density must be in \(0, 1\], got nan"),
        (MODELS["sequential"], {"density": "half"}, TypeError, "density must be a number .*, got 'half'"),
        (MODELS["sequential"], {"init": "zero"}, ValueError, "init must be one of 'preserve', 'paper', got 'zero'"),
        (MODELS["sequential"], {"include": ["x"]}, ValueError, "must name convolutions of model 'sequential', got 'x'"),
        (MODELS["sequential"], {"exclude": "x"}, ValueError, "must name convolutions of model 'sequential', got 'x'"),
        (MODELS["sequential"], {"include": [1]}, TypeError, "include must hold layer names, got 1"),
        (MODELS["branches"], {"include": ["grouped"]}, ValueError, "'grouped' is in include but cannot be wrapped"),
        (dense_only, {}, ValueError, "model 'mlp' has nothing to wrap:\n  it has no convolution"),
        (MODELS["branches"], {"exclude": ["taken", "last"]}, ValueError, "has nothing to wrap:\n  shared: left alone"),
        (Subclassed, {}, ValueError, "is a subclassed model"),
        (lambda: keras.Sequential([layers.Conv2D(2, 3)]), {}, ValueError, "is not built"),
        (lambda: "model.keras", {}, TypeError, "model must be a Keras model, got the string 'model.keras'"),
    ],
)
def test_bad_input(make, arguments, error, message):
    with pytest.raises(error, match=message):
        fbs_keras.wrap(make(), **arguments)


def test_model_with_a_subclassed_part_is_wrapped_around_it():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(Subclassed(name="odd")(x)))
    wrapped = fbs_keras.wrap(model)
    x = images(model)
    np.testing.assert_allclose(outputs(wrapped, x)[0], outputs(model, x)[0], rtol=1e-5)
    assert names(wrapped) == ["conv"]
