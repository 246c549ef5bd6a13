"""Tests of fbs_keras/graph/quantized.py: models that Keras has quantised are recognised, wherever the layer is."""

import keras
import pytest
from keras import layers

import fbs_keras
from fbs_keras.graph.quantized import check_not_quantized


def _sequential(*others):
    return keras.Sequential([keras.Input((8, 8, 3)), fbs_keras.FBSConv2D(8, 3), *others])


MODELS = {
    "dense": lambda: _sequential(layers.Dense(4, name="it")),
    "nested": lambda: _sequential(keras.Sequential([keras.Input((6, 6, 8)), layers.Dense(4, name="it")])),
    "wrapped": lambda: _sequential(layers.TimeDistributed(layers.Dense(4, name="it"))),
    "einsum": lambda: _sequential(layers.EinsumDense("abcd,de->abce", (6, 6, 4), name="it")),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["int8", "float8"])
@pytest.mark.parametrize("name", MODELS)
def test_says_what_to_do(name, mode):
    model = MODELS[name]()
    check_not_quantized(model)
    model.quantize(mode)
    message = (
        rf"layer 'it' of model '{model.name}' was quantised by Keras, by quantize\('{mode}'\).*as it was before, and "
    )
    calls = [check_not_quantized, fbs_keras.count_macs]
    if keras.backend.backend() == "tensorflow":
        calls += [fbs_keras.convert, fbs_keras.export.explain, lambda model: fbs_keras.export.verify(model, b"")]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call(model)


def test_layers_that_hold_other_things():
    class Holds(layers.Layer):
        def __init__(self):
            super().__init__()
            self.table = {1: "a", "b": [2, None], (3,): "c"}
            self.inner = [{"x": layers.Dense(4, name="it", dtype="int8_from_float32")}]

        def call(self, x):
            return self.inner[0]["x"](x)

    with pytest.raises(ValueError, match="layer 'it'"):
        check_not_quantized(_sequential(Holds()))
