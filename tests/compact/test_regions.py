"""Tests of fbs_keras/compact/regions.py: where suppressed channels are not zero for a while."""

import keras
import pytest
from keras import layers

import fbs_keras
from fbs_keras import graph
from fbs_keras.compact import regions


def suppressed(body):
    """The names of the layers whose outputs are found in a model of one image, whose first FBS layer has a mask."""
    x = keras.Input((8, 8, 3))
    y, mask = fbs_keras.FBSConv2D(8, 3, density=0.5, return_mask=True, name="conv")(x)
    flat = graph.flatten(keras.Model(x, body(y, mask)))
    return sorted(ref.layer for ref in regions.suppressed(flat, graph.specs(flat, keras.Model(x, body(y, mask)))))


def chain(y, mask):
    y = layers.ReLU(name="relu")(layers.MaxPooling2D(name="pool")(y))
    y = layers.BatchNormalization(name="norm")(layers.DepthwiseConv2D(3, name="depthwise")(y))
    return fbs_keras.Suppress(name="suppress")([layers.Activation("silu", name="silu")(y), mask])


def two(y, mask):
    y = fbs_keras.Suppress(name="first")([layers.BatchNormalization(name="norm")(y), mask])
    return fbs_keras.Suppress(name="second")([layers.BatchNormalization(name="norm2")(y), mask])


def branch(y, mask):
    """What is read by others before zero moves does no harm."""
    z = layers.BatchNormalization(name="norm")(layers.ReLU(name="relu")(y))
    return [fbs_keras.Suppress(name="suppress")([z, mask]), layers.Softmax()(y)]


def read_by_others(y, mask):
    z = layers.BatchNormalization(name="norm")(y)
    return [fbs_keras.Suppress()([layers.ReLU()(z), mask]), layers.Softmax()(z)]


def output(y, mask):
    z = layers.BatchNormalization(name="norm")(y)
    return [fbs_keras.Suppress()([z, mask]), z]


def mixed(y, mask):
    return fbs_keras.Suppress()([layers.LayerNormalization()(layers.BatchNormalization()(y)), mask])


def of_another_layer(y, mask):
    z = fbs_keras.FBSConv2D(8, 1, density=0.5)(y)
    return fbs_keras.Suppress()([layers.BatchNormalization()(z), mask])


def changed_mask(y, mask):
    return fbs_keras.Suppress()([layers.BatchNormalization()(y), layers.ReLU()(mask)])


FOUND = [(chain, ["depthwise", "norm", "silu"]), (two, ["norm", "norm2"]), (branch, ["norm"])]
NOTHING = [(body, []) for body in (read_by_others, output, mixed, of_another_layer, changed_mask)]


@pytest.mark.parametrize(("body", "expected"), FOUND + NOTHING)
def test_suppressed(body, expected):
    assert suppressed(body) == expected
