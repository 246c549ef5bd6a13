"""The README's example runs as it stands."""

import pathlib
import re

import keras
import numpy as np
import pytest

import fbs_keras

README = pathlib.Path(__file__).parents[1] / "README.md"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="export runs on TensorFlow")
def test_use(tmp_path, monkeypatch):
    """On a model whose outputs are logits, as those of `fbs_keras.models` are."""
    section = README.read_text(encoding="utf-8").partition("## Use")[2]
    example, _ = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(8, 12, 12, 3)).astype("float32"), np.arange(8) % 3
    x = inputs = keras.Input((12, 12, 3))
    for filters in (16, 24):
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(keras.layers.Conv2D(filters, 3)(x)))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    monkeypatch.chdir(tmp_path)
    names = {"model": model, "images": images, "labels": labels}
    exec(example, names)  # 40 epochs of one batch
    model = names["model"]
    assert [layer.active_channels for layer in fbs_keras.layers.densities.fbs_layers(model)] == [8, 12]
    logits = model.predict(images, verbose=0)
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(8), labels])
    assert model.evaluate(images, labels, verbose=0) == pytest.approx(expected, rel=1e-3)
    np.testing.assert_allclose(fbs_keras.Interpreter("model.tflite").predict(images), logits, rtol=1e-3, atol=1e-4)
