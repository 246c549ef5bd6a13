"""Tests of scripts/average.py."""

import keras
import numpy as np
import pytest
from commands import run
from keras import layers

import fbs_keras


def save(path, filters=4, seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            fbs_keras.FBSConv2D(filters, 3, density=0.5, name="conv"),
            layers.GlobalAveragePooling2D(name="pool"),
        ],
        name="net",
    )
    model.save(path)
    return model


def test_the_weights_are_the_means(tmp_path):
    paths = [tmp_path / f"{seed}.keras" for seed in range(3)]
    models = [save(path, seed=seed) for seed, path in enumerate(paths)]
    result = run("average.py", *(f"--model={path}" for path in paths), f"--output={tmp_path / 'mean.keras'}")
    assert result.returncode == 0, result.stderr
    got = keras.saving.load_model(tmp_path / "mean.keras").get_weights()
    for mean, *each in zip(got, *(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(mean, sum(each) / 3, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.keras"], "expected --model at least twice, got it once"),
        (["a.keras", "b.keras"], "b.keras has other weights than"),
    ],
)
def test_what_cannot_be_averaged(tmp_path, names, message):
    save(tmp_path / "a.keras")
    save(tmp_path / "b.keras", filters=6)
    result = run("average.py", *(f"--model={tmp_path / name}" for name in names), f"--output={tmp_path / 'c.keras'}")
    assert result.returncode == 1
    assert message in result.stderr
    assert not (tmp_path / "c.keras").exists()
