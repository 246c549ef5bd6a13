import keras
import numpy as np
import pytest
from model_table import MODELS, all_layers, randomise

from fbs_keras.rewriting import as_float32, rewrite


@pytest.mark.parametrize("name", MODELS)
def test_rewriting_nothing_copies_the_model(name):
    model = randomise(MODELS[name]())
    copy, pairs = rewrite(model, lambda layer: None)
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype("float32")
    for output, expected in zip(keras.tree.flatten(copy(x)), keras.tree.flatten(model(x)), strict=True):
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
