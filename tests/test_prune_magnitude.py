"""Tests of scripts/prune_magnitude.py, which is run, not imported: its flags are those of other scripts."""

import keras
import numpy as np
import pytest
from commands import run

SHORT = ["--epochs=2", "--steps_per_epoch=2", "--batch_size=8", "--train_split=train[:64]", "--learning_rate=0"]


def prune(model, folder, *arguments):
    model.save(folder / "dense.keras")
    return run("prune_magnitude.py", f"--model={folder / 'dense.keras'}", f"--run_dir={folder}", *arguments, *SHORT)


def test_the_smallest_weights_of_each_convolution_become_zeros(cifar10_dir, tmp_path):
    x = inputs = keras.Input((32, 32, 3))
    for name in ("conv0", "conv1"):
        x = keras.layers.ReLU()(keras.layers.Conv2D(32, 3, strides=2, name=name)(x))
    dense = keras.Model(inputs, keras.layers.Dense(10, name="logits")(keras.layers.GlobalAveragePooling2D()(x)))
    result = prune(dense, tmp_path, "--sparsity=0.75", f"--data_dir={cifar10_dir}")
    assert result.returncode == 0, result.stderr
    pruned = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    kernels = {layer.name: layer.kernel.numpy() for layer in pruned.layers if hasattr(layer, "kernel")}
    assert len(kernels) == 3
    for name, kernel in kernels.items():
        before = dense.get_layer(name).kernel.numpy()
        stay = kernel != 0
        np.testing.assert_array_equal(kernel[stay], before[stay])
        if name == "logits":
            assert stay.all()
            continue
        assert stay.mean() == pytest.approx(0.25, abs=0.01)
        assert np.abs(before[~stay]).max() <= np.abs(before[stay]).min()


def test_other_layers_are_refused(cifar10_dir, tmp_path):
    # A Sequential model lists no input: the first of its layers must not be taken for one.
    layers = [keras.layers.DepthwiseConv2D(3, name="depthwise"), keras.layers.Conv2D(10, 3)]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    result = prune(model, tmp_path, "--sparsity=0.5", f"--data_dir={cifar10_dir}")
    assert result.returncode != 0
    assert "got 'depthwise', a DepthwiseConv2D" in result.stderr
