import keras
import numpy as np
import pytest
from keras import layers
from model_table import MODELS, all_layers, arrays, images, randomise

from fbs_keras.graph.reading import Ref
from fbs_keras.graph.rewriting import as_float32, rewrite


@pytest.mark.parametrize("name", MODELS)
def test_rewriting_nothing_copies_the_model(name):
    model = randomise(MODELS[name]())
    copy, pairs = rewrite(model, lambda layer: None)
    x = images(model)
    for output, expected in zip(arrays(copy(x)), arrays(model(x)), strict=True):
        np.testing.assert_array_equal(output, expected)
    assert pairs == []
    assert not {id(layer) for layer in all_layers(copy)} & {id(layer) for layer in all_layers(model)}


def test_as_float32():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = randomise(MODELS["nested"]())
    finally:
        keras.config.set_dtype_policy(policy)
    copy = as_float32(model)
    assert {layer.compute_dtype for layer in all_layers(copy)} == {"float32"}
    for weight, expected in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert as_float32(copy) is copy


def stack():
    names = ("first", "second", "third")
    return keras.Sequential([keras.Input((4,)), *[layers.Dense(4, name=name) for name in names]], name="stack")


@pytest.mark.parametrize("functional", [False, True])
def test_one_layer_becomes_several(functional):
    model = stack()
    if functional:
        model = keras.Model(model.inputs, model.outputs)
    new = [layers.Rescaling(2.0), layers.Rescaling(3.0)]
    copy, pairs = rewrite(model, lambda layer: new if layer.name == "second" else None)
    assert [(old.name, made) for old, made in pairs] == [("second", new)]
    assert isinstance(copy, keras.Sequential) != functional
    x = images(model)
    first, third = model.get_layer("first"), model.get_layer("third")
    np.testing.assert_allclose(*arrays([copy(x), third(first(x) * 6)]), rtol=1e-5)


def test_inserting_makes_a_sequential_model_functional():
    model = stack()
    insert = {model.get_layer("second"): (layers.Subtract(name="minus"), Ref("first"))}
    copy, _ = rewrite(model, lambda layer: None, insert=insert)
    assert [layer.name for layer in copy.layers[1:]] == ["first", "second", "minus", "third"]
    x = images(model)
    first, second, third = model.layers
    np.testing.assert_allclose(*arrays([copy(x), third(second(first(x)) - first(x))]), rtol=1e-5)
    assert copy.name == model.name
