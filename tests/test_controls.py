"""Tests of _fbs_scripts, controls.py and distillation.py: what FBS is compared with, and what it may learn from."""

import keras
import numpy as np
import tensorflow as tf

import fbs_keras
from _fbs_scripts import controls, distillation


def test_random_gates_draw_other_winners_for_each_image():
    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, fbs_keras.FBSConv2D(20, 3, density=0.5, name="conv")(inputs))
    copy = controls.with_random_gates(model)
    layer = copy.get_layer("conv")
    for variable, wanted in zip(layer.weights, model.get_layer("conv").weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), wanted.numpy())
    g = keras.ops.convert_to_tensor(np.tile(np.arange(1, 21, dtype="float32"), (200, 1)))
    mask = keras.ops.convert_to_numpy(layer.winners(g))
    np.testing.assert_array_equal(mask.sum(axis=1), 10)
    assert 0.35 < mask.mean(axis=0).min() < mask.mean(axis=0).max() < 0.65
    assert (mask != keras.ops.convert_to_numpy(layer.winners(g))).any()


def test_random_gates_are_saved_and_loaded(tmp_path):
    inputs = keras.Input((6, 6, 3))
    model = controls.with_random_gates(keras.Model(inputs, fbs_keras.FBSConv2D(4, 3, density=0.5)(inputs)))
    model.save(tmp_path / "model.keras")
    assert isinstance(keras.saving.load_model(tmp_path / "model.keras").layers[1], controls.RandomFBSConv2D)


def test_soft_labels_mix_the_teachers_probabilities_in():
    teacher = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="identity")])
    images = np.array([[0, 0], [np.log(3), 0], [1000, 0]], "float32")
    labels = np.array([[1, 0], [0, 1], [0, 1]], "float32")
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)
    soft = iter(distillation.SoftLabels(batches, teacher, 0.5))
    seen = [next(soft) for _ in range(4)]  # two epochs
    np.testing.assert_allclose(
        np.concatenate([mixed for _, mixed in seen[:2]]), [[0.75, 0.25], [0.375, 0.625], [0.5, 0.5]]
    )
    np.testing.assert_array_equal(seen[2][0], images[:2])
