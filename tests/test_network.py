"""Tests of _fbs_scripts/network.py."""

import keras
import numpy as np
import pytest

from _fbs_scripts import network


def test_models_of_keras_applications_read_normalised_images():
    model = network.by_name("MobileNetV3Small", (32, 32, 3), 7)
    assert model.input_shape == (None, 32, 32, 3)
    assert not any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    assert model.layers[-1].activation is keras.activations.linear


def test_weight_decay_of_every_kernel():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()])
    decayed = network.with_weight_decay(model, 0.5)
    kernel = decayed.layers[0].kernel
    assert float(kernel.regularizer(kernel)) == pytest.approx(0.5 * np.square(kernel.numpy()).sum(), rel=1e-5)
    for variable, wanted in zip(decayed.weights, model.weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), wanted.numpy())
