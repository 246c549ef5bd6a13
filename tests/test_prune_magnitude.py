"""Tests of scripts/prune_magnitude.py."""

import keras
import numpy as np
import prune_magnitude
import pytest
from commands import run

import fbs_keras


def test_prunes_all_convolutions_alike(cifar10_dir, tmp_path):
    dense = fbs_keras.models.MCifarNet()
    dense.save(tmp_path / "dense.keras")
    arguments = [f"--model={tmp_path / 'dense.keras'}", "--sparsity=0.75", f"--run_dir={tmp_path}"]
    arguments += ["--epochs=2", "--steps_per_epoch=2", "--batch_size=8", "--train_split=train[:64]"]
    result = run("prune_magnitude.py", *arguments, f"--data_dir={cifar10_dir}")
    assert result.returncode == 0, result.stderr
    pruned = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    zeros = {layer.name: np.mean(layer.kernel.numpy() == 0) for layer in pruned.layers if hasattr(layer, "kernel")}
    assert zeros.pop("logits") == 0
    assert len(zeros) == 8
    assert list(zeros.values()) == pytest.approx([0.75] * 8, abs=0.01)
    assert np.abs(pruned.get_layer("conv0").kernel.numpy() - dense.get_layer("conv0").kernel.numpy()).max() > 0


def test_other_layers_are_refused():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.DepthwiseConv2D(3, name="depthwise")])
    with pytest.raises(ValueError, match="got 'depthwise', a DepthwiseConv2D"):  # a Sequential model lists no input
        prune_magnitude.in_tf_keras(model, lambda layer: layer)


def test_the_copy_in_keras_2_computes_the_same():
    model = fbs_keras.models.MCifarNet()
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    copy = prune_magnitude.in_tf_keras(model, lambda layer: layer)
    np.testing.assert_allclose(copy.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-4, atol=1e-5)
