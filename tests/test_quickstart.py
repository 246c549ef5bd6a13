"""Tests of scripts/quickstart.py: judgement and tables on made-up figures, and the whole road on a small model."""

import json

import keras
import numpy as np
import pytest
import quickstart
from PIL import Image

import fbs_keras
from fbs_keras.benchmarks.measurement import Timing


@pytest.fixture
def logits():
    """Logits of 1000 images, the largest of each 10, and their classes."""
    rng = np.random.default_rng(0)
    values = rng.uniform(-5, 5, (1000, 10)).astype(np.float32)
    labels = rng.integers(0, 10, 1000)
    values[np.arange(1000), labels] = 10
    return values, labels


def test_equal_logits_agree(logits):
    values, labels = logits
    agreement = quickstart.compare(values, values, labels, np.zeros(1000, bool))
    assert agreement == quickstart.Agreement(1.0, 1.0, 1.0, 0.0, 0, 0)
    assert list(agreement.failures()) == []


@pytest.mark.parametrize(
    ("changed", "by", "near_tie", "failures"),
    [
        (1, 0.005, False, []),
        (1, 0.05, False, ["logits differ by 5.0e-03 of the largest, expected at most 1e-03"]),
        (1, 0.05, True, []),
        (1, 30.0, True, []),
        (2, 30.0, True, ["accuracy differs by 0.20 points", "99.80% of the images get the same class"]),
        (1, np.nan, False, ["logits differ by nan of the largest"]),
    ],
)
def test_failures(logits, changed, by, near_tie, failures):
    values, labels = logits
    other, mask = values.copy(), np.zeros(1000, bool)
    other[np.arange(changed), (labels[:changed] + 1) % 10] += by
    mask[:changed] = near_tie
    agreement = quickstart.compare(values, other, labels, mask)
    found = list(agreement.failures())
    assert len(found) == len(failures)
    for sentence, start in zip(found, failures, strict=True):
        assert sentence.startswith(start)
    assert agreement.swapped == (changed if near_tie else 0)


@pytest.mark.parametrize(
    ("changed", "failures"),
    [(2, []), (3, ["accuracy differs by 0.30"]), (11, ["accuracy differs by 1.10", "98.90% of the images"])],
)
def test_failures_of_int8(logits, changed, failures):
    values, labels = logits
    other = values * np.float32(1.01)
    other[np.arange(changed), (labels[:changed] + 1) % 10] += 30
    agreement = quickstart.compare(values, other, labels, np.zeros(1000, bool), quickstart.INT8)
    found = list(agreement.failures())
    assert len(found) == len(failures)
    for sentence, start in zip(found, failures, strict=True):
        assert sentence.startswith(start)
    assert quickstart.agreement_table({"int8": agreement}).endswith("in Keras")


@pytest.mark.parametrize(
    ("scores", "group_size", "expected"),
    [
        ([4.0, 3.0, 2.0, 1.0], 1, False),
        ([4.0, 2.00001, 2.0, 1.0], 1, True),
        ([2.0, 1.0, 4.0, 2.00001], 1, True),  # in any order
        ([4.0, 2.0, 2.0, 1.0], 1, False),  # equal: the first wins everywhere
        ([4.0, 3.99999, 2.0, 1.99999], 1, False),  # close, but not at the boundary
        ([0.0, 0.0, 0.0, 0.0], 1, False),
        ([4.0, 0.0, 3.99999, 0.0], 2, True),  # group means 2 and 1.999995
        ([4.0, 2.00001, 2.0, 1.0], 2, False),
    ],
)
def test_near_ties(scores, group_size, expected):
    layer = fbs_keras.FBSConv2D(4, 1, density=0.5, group_size=group_size, name="conv")
    model = keras.Sequential([keras.Input((2, 2, 3)), layer])
    assert quickstart.near_ties(model, {"conv": np.array([scores], np.float32)}).tolist() == [expected]


def test_near_ties_at_density_1():
    model = keras.Sequential([keras.Input((2, 2, 3)), fbs_keras.FBSConv2D(2, 1, name="conv")])
    assert quickstart.near_ties(model, {"conv": np.ones((3, 2), np.float32)}).tolist() == [False] * 3


def test_tables():
    timings = [
        Timing("dense", 4.0, 3.9, 4.2, 1.0, 200, 174_301_824, 5_200_000),
        Timing("FBS, our delegate", 1.25, 1.2, 1.4, 3.2, 200, 44_276_032, 5_900_000),
    ]
    agreements = {"FBS, our delegate": quickstart.Agreement(0.9054, 0.9053, 0.9999, 2.5e-6, 12, 1)}
    header, dense, fbs = quickstart.table(timings, agreements).splitlines()
    assert header.split()[:3] == ["accuracy", "in", "Keras"]
    assert dense.split() == ["dense", "-", "-", "174.30", "1.00x", "5.20", "4.000", "3.90", "-", "4.20", "1.00x"]
    assert fbs.split()[3:] == ["90.53%", "90.54%", "44.28", "3.94x", "5.90", "1.250", "1.20", "-", "1.40", "3.20x"]
    assert len(header) == len(dense) == len(fbs)
    assert quickstart.agreement_table(agreements) == (
        "FBS, our delegate  same class 99.99%, accuracy 90.53% against 90.54% in Keras, largest relative difference of "
        "logits 2.5e-06 (without 12 images with a near-tie, 1 of which exceed 1e-03)"
    )


def test_in_batches_joins_structures():
    images = np.arange(600.0)
    doubled, parts = quickstart.in_batches(lambda x: (2 * x, {"half": x / 2}), images, "test")
    np.testing.assert_array_equal(doubled, 2 * images)
    np.testing.assert_array_equal(parts["half"], images / 2)


def _small_model(wrapped):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((32, 32, 3))
    for i in range(2):
        x = keras.layers.Conv2D(16, 3, strides=2, use_bias=False, name=f"conv{i}")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    return fbs_keras.wrap(model, density=0.5, init="paper") if wrapped else model


def test_whole_road(cifar10_dir, tmp_path, capsys):
    paths = tmp_path / "dense.keras", tmp_path / "fbs.keras"
    for path, wrapped in zip(paths, (False, True), strict=True):
        _small_model(wrapped).save(path)
    output_dir = tmp_path / "runs" / "quickstart"
    assert quickstart.quickstart(*paths, cifar10_dir, "test[:300]", output_dir, threads=1, runs=5) == []

    result = json.loads((output_dir / "quickstart.json").read_text())
    assert result["images"] == 300
    assert [timing["name"] for timing in result["timings_ms"]] == [
        "dense",
        "static, as narrow",
        "FBS, stock LiteRT",
        "FBS, our delegate",
        "dense int8",
        "FBS int8, stock LiteRT",
        "FBS int8, our delegate",
    ]
    assert len(result["agreement"]) == 6  # all but the static net
    for name, agreement in result["agreement"].items():
        assert agreement["same_class"] >= (0.99 if "int8" in name else 0.999)
        assert agreement["near_ties"] < 300
    assert np.asarray(Image.open(output_dir / "channels.png")).std() > 10
    for name in ("dense.tflite", "fbs.tflite", "dense_int8.tflite", "fbs_int8.tflite"):
        assert (output_dir / name).read_bytes()[4:8] == b"TFL3"
    assert "speed-up" in capsys.readouterr().out


def test_missing_checkpoint(cifar10_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.keras is missing; train it with scripts/train\.py"):
        quickstart.quickstart(tmp_path / "gone.keras", tmp_path, cifar10_dir, "test", tmp_path, threads=1, runs=1)
