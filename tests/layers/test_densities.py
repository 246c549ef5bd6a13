import keras
import pytest
from keras import layers

import fbs_keras
from fbs_keras import FBSConv2D
from fbs_keras.layers.densities import fbs_layers, fbs_paths


def nested_model():
    """`conv` inside, and outside of it another `conv`, beside `other`: 8, 10 and 20 channels."""
    inner = keras.Sequential([keras.Input((8, 8, 3)), FBSConv2D(8, 1, name="conv")], name="inner")
    outer = [FBSConv2D(10, 1, name="conv"), FBSConv2D(20, 1, name="other")]
    return keras.Sequential([keras.Input((8, 8, 3)), inner, *outer])


def active(model):
    return [layer.active_channels for layer in fbs_layers(model)]


def test_paths_tell_layers_of_the_same_name_apart():
    assert [path for path, _ in fbs_paths(nested_model())] == ["inner/conv", "conv", "other"]


@pytest.mark.parametrize(
    ("density", "expected"),
    [
        (0.5, [4, 5, 10]),
        ({}, [8, 10, 20]),
        ({"other": 0.5}, [8, 10, 10]),
        ({"conv": 0.5}, [4, 5, 20]),
        ({"inner/conv": 0.5}, [4, 10, 20]),
        ({"inner/*": 0.5}, [4, 10, 20]),
        ({"c?nv": 0.5}, [4, 5, 20]),
        ({"*": 0.5}, [4, 5, 10]),
        ({"[co]*": 0.5}, [4, 5, 10]),
        # A path goes before a name, a name before a pattern, and of two patterns the later one.
        ({"inner/conv": 0.25, "conv": 0.5, "*": 1.0}, [2, 5, 20]),
        ({"*": 1.0, "conv": 0.5, "inner/conv": 0.25}, [2, 5, 20]),
        ({"*": 0.5, "c*": 0.1}, [1, 1, 10]),
        ({"c*": 0.1, "*": 0.5}, [4, 5, 10]),
    ],
)
def test_set_density(density, expected):
    model = nested_model()
    fbs_keras.set_density(model, density)
    assert active(model) == expected


def test_what_nothing_matches_keeps_its_density():
    model = nested_model()
    fbs_keras.set_density(model, 0.5)
    fbs_keras.set_density(model, {"other": 0.25})
    assert active(model) == [4, 5, 5]


@pytest.mark.parametrize(
    ("density", "error", "message"),
    [
        (
            {"inner/conv": 0.5, "stage*": 0.5},
            ValueError,
            r"no FBSConv2D layer matches 'stage\*'; the model has \['inner/conv', 'conv', 'other'\]",
        ),
        ({"CONV": 0.5}, ValueError, "no FBSConv2D layer matches 'CONV'"),
        ({"conv": 0.5, "other": 2}, ValueError, r"density must be in \(0, 1\], got 2"),
        ({"conv": None}, TypeError, "density must be a number"),
        ({3: 0.5}, TypeError, "densities must be given by layer names or patterns, got 3"),
        ("half", TypeError, "density must be a number"),
    ],
)
def test_set_density_refuses_and_changes_nothing(density, error, message):
    model = nested_model()
    with pytest.raises(error, match=message):
        fbs_keras.set_density(model, density)
    assert active(model) == [8, 10, 20]


def test_set_density_without_fbs_layers():
    with pytest.raises(ValueError, match="has no FBSConv2D layer; make one with"):
        fbs_keras.set_density(keras.Sequential([keras.Input((4,)), layers.Dense(2)]), 0.5)


def test_wrap_takes_densities():
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(8, 1, name="conv")], name="inner")
    convs = [layers.Conv2D(10, 1, name="conv"), layers.Conv2D(20, 1, name="other"), layers.Conv2D(2, 1, name="logits")]
    model = keras.Sequential([keras.Input((8, 8, 3)), inner, *convs[:2], layers.ReLU(), convs[2], layers.Flatten()])
    assert active(fbs_keras.wrap(model, {"inner/*": 0.5, "oth*": 0.1})) == [4, 10, 2]
    with pytest.raises(ValueError, match=r"matches 'logits'; the model has \['inner/conv', 'conv', 'other'\]"):
        fbs_keras.wrap(model, {"logits": 0.5})
