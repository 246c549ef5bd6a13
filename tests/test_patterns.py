"""Layers are named alike wherever they can be: by name, path or shell pattern."""

import keras
import pytest
from keras import layers

import fbs_keras
from fbs_keras import patterns
from fbs_keras.layers.densities import fbs_paths

PATHS = ["backbone/conv1", "backbone/conv2", "top"]


def model():
    """Three convolutions with gammas, of which two are nested, and a classifier."""

    def convolve(x, name):
        x = layers.Conv2D(8, 3, padding="same", use_bias=False, name=name)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs, inner = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    backbone = keras.Model(inner, convolve(convolve(inner, "conv1"), "conv2"), name="backbone")
    x = layers.GlobalAveragePooling2D()(convolve(backbone(inputs), "top"))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def wrap_include(keys):
    return [path for path, _ in fbs_paths(fbs_keras.wrap(model(), include=keys))]


def wrap_exclude(keys):
    return [path for path in PATHS if path not in dict(fbs_paths(fbs_keras.wrap(model(), exclude=keys)))]


def wrap_density(keys):
    wrapped = fbs_keras.wrap(model(), dict.fromkeys(keys, 0.5))
    return [path for path, layer in fbs_paths(wrapped) if layer.active_channels == 4]


def set_density(keys):
    wrapped = fbs_keras.wrap(model())
    fbs_keras.set_density(wrapped, dict.fromkeys(keys, 0.5))
    return [path for path, layer in fbs_paths(wrapped) if layer.active_channels == 4]


def slim(**arguments):
    lines = []
    fbs_keras.slim(model(), print_fn=lines.append, **arguments)
    return lines


def slim_include(keys):
    lines = slim(keep=0.9, include=keys)
    return [path for path in PATHS if not any(line.startswith(path) and "not in include" in line for line in lines)]


def slim_exclude(keys):
    lines = slim(keep=0.9, exclude=keys)
    return [path for path in PATHS if f"{path}: 8 channels: excluded" in lines]


def slim_widths(keys):
    lines = slim(widths=dict.fromkeys(keys, 5))
    return [path for path in PATHS if f"{path}: 8 -> 5 channels" in lines]


FUNCTIONS = [wrap_include, wrap_exclude, wrap_density, set_density, slim_include, slim_exclude, slim_widths]
KEYS = [
    (["conv1"], ["backbone/conv1"]),
    (["backbone/conv2"], ["backbone/conv2"]),
    (["conv?"], ["backbone/conv1", "backbone/conv2"]),
    (["backbone/*1", "*2"], ["backbone/conv1", "backbone/conv2"]),
]


@pytest.mark.parametrize(("keys", "expected"), KEYS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_patterns_mean_the_same_everywhere(function, keys, expected):
    assert function(keys) == expected


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_matches_nothing_is_refused(function):
    with pytest.raises(ValueError, match=r"conv\[3-9\]"):
        function(["conv1", "conv[3-9]"])


@pytest.mark.parametrize("function", [fbs_keras.wrap, lambda model, **keys: fbs_keras.slim(model, 0.5, **keys)])
@pytest.mark.parametrize("argument", ["include", "exclude"])
@pytest.mark.parametrize("keys", [3, [3], {"conv1": 0.5}])
def test_keys_are_strings(function, argument, keys):
    with pytest.raises(TypeError, match=f"{argument} must "):
        function(model(), **{argument: keys})


def test_the_closest_key_counts_whatever_the_order():
    keys = ["backbone/conv1", "conv1", "conv*", "*1"]
    for given in (keys, keys[::-1]):
        found = patterns.closest(given, PATHS)
        assert found == {"backbone/conv1": "backbone/conv1", "backbone/conv2": "conv*"}
    assert patterns.closest(["conv*", "*v1"], PATHS)["backbone/conv1"] == "*v1"  # of two patterns the last
