"""Tests of fbs_keras/graph/kinds.py."""

import keras
import pytest
from keras import layers, ops

import fbs_keras
from fbs_keras.graph.kinds import Changed, kind, operation, overridden


class Renamed(fbs_keras.FBSConv2D):
    """Other defaults, and methods of its own: it computes the same."""

    note: str = ""

    def __init__(self, filters=8, **kwargs):
        super().__init__(filters, 3, **kwargs)

    def get_config(self):
        return super().get_config()

    def describe(self):
        return self.name


class Mixin:
    def winners(self, g):
        return ops.ones_like(g)


class Mixed(Mixin, Renamed):
    pass


class Gated(Renamed):
    def gate(self, x):
        return self.predict_saliency(x)

    @property
    def active_channels(self):
        return 3


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: fbs_keras.FBSConv2D(8, 3), []),
        (Renamed, []),
        (Mixed, ["winners"]),
        (Gated, ["active_channels", "gate"]),
    ],
)
def test_overridden(make, expected):
    layer = make()
    layer(ops.ones((1, 4, 4, 2)))
    assert overridden(layer, fbs_keras.FBSConv2D) == expected
    layer.call = layer.call
    assert overridden(layer, fbs_keras.FBSConv2D) == sorted([*expected, "call"])


def test_kind():
    layer = layers.ReLU()
    assert kind(layer) is layers.ReLU
    assert kind(type("Mine", (layers.ReLU,), {})()) is not layers.ReLU
    layer.call = lambda x: x + 1
    assert kind(layer) is Changed
    assert kind(abs) is type(abs)  # as an activation may be


def test_operation():
    class Relu(keras.Operation):
        def call(self, x):
            return x + 1

        compute_output_spec = keras.Operation.compute_output_spec

    x = keras.Input((3,))
    own = ops.relu(x)._keras_history.operation
    assert operation(own) == "Relu"
    assert operation(Relu()) == operation(layers.ReLU()) == ""
    own.call = lambda x: x + 1
    assert operation(own) == ""
