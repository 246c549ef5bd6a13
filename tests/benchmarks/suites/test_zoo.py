"""The suite of keras.applications: a small member of each family goes all the way; the report says what was found."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import fbs_keras
from fbs_keras import export
from fbs_keras.benchmarks.measurement import Timing
from fbs_keras.benchmarks.suites import zoo
from fbs_keras.benchmarks.suites.zoo import ZooResult

SCRIPT = Path(__file__).parents[3] / "scripts" / "benchmark.py"

# The smallest of each family, at a size that its graph allows. All but the smallest of all run with -m zoo.
FAMILIES = [
    ("MobileNetV3Small", 64),
    *(
        pytest.param(name, size, marks=pytest.mark.zoo)
        for name, size in {
            "ConvNeXtTiny": 64,
            "DenseNet121": 64,
            "EfficientNetB0": 64,
            "EfficientNetV2B0": 64,
            "InceptionResNetV2": 96,
            "InceptionV3": 96,
            "MobileNet": 64,
            "MobileNetV2": 64,
            "NASNetMobile": 64,
            "ResNet50": 64,
            "ResNet50V2": 64,
            "VGG16": 64,
            "Xception": 96,
        }.items()
    ),
]

ROW = ZooResult(
    name="Net",
    input_shape=(224, 224, 3),
    parameters=3_500_000,
    wrapped=35,
    left={"it reads 'stem', all of whose channels are active": 17},
    macs_dense=300_000_000,
    macs_fbs=150_000_000,
    difference_open=2e-6,
    spread=0.4,
    difference_portable=3e-6,
    difference_delegate=4e-6,
    images=3,
    timings=(
        Timing("dense", 4.0, 3.9, 4.1, 1.0, 100, 300_000_000, 14_000_000),
        Timing("FBS portable", 5.0, 4.9, 5.1, 0.8, 100, 150_000_000, 19_000_000),
        Timing("FBS delegate", 2.0, 1.9, 2.1, 2.0, 100, 150_000_000, 19_000_000),
    ),
    commit="abc",
)
FAILED = ZooResult("Other", error="its outputs differ")


@pytest.mark.parametrize(("name", "size"), FAMILIES)
def test_family(name, size, tmp_path):
    """Same function at density 1; at 0.5 the file computes what Keras does, with the delegate and without."""
    result = zoo.compare(name, tmp_path, (size, size, 3))
    assert result.difference_open < 1e-3 and result.spread > 0.02
    assert max(result.difference_portable, result.difference_delegate) < 1e-3
    assert result.near_ties < result.images
    assert result.wrapped > 0 and result.saving > 1


class TestCompare:
    """What has to be told apart from a model that works, on one of two layers."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        def small(input_shape=None, weights=None, classes=10, classifier_activation=None):
            inputs = keras.Input(input_shape or (None, None, 3))
            x = keras.layers.Conv2D(16, 3, activation="relu")(inputs)
            x = keras.layers.BatchNormalization()(keras.layers.DepthwiseConv2D(3)(x))
            return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.GlobalAveragePooling2D()(x)))

        monkeypatch.setattr(zoo, "classifiers", lambda: {"Small": small})

    def test_counts(self, tmp_path):
        result = zoo.compare("Small", tmp_path, (12, 12, 3))
        assert (result.wrapped, result.input_shape, result.left) == (1, (12, 12, 3), {})
        dense = 10 * 10 * 9 * 3 * 16 + 8 * 8 * 9 * 16 + 16 * 10
        assert result.macs_dense == dense
        assert (tmp_path / "fbs.tflite").stat().st_size > (tmp_path / "dense.tflite").stat().st_size

    def test_weights_differ(self):
        model = zoo.build("Small")
        assert model.input_shape == (None, 224, 224, 3)
        norm = model.get_layer(index=3)
        assert len(np.unique(np.abs(norm.gamma))) == 16 and 0 < np.sum(np.less(norm.gamma, 0)) < 16
        outputs = keras.Model(model.inputs, norm.output)(zoo.images((224, 224, 3)))
        np.testing.assert_allclose(np.mean(outputs, axis=(0, 1, 2)), norm.beta, atol=1e-3)

    def test_another_function_at_density_1(self, tmp_path, monkeypatch):
        wrap = zoo.wrap
        monkeypatch.setattr(zoo, "wrap", lambda model: wrap(model, init="paper"))
        with pytest.raises(ValueError, match=r"at density 1 the wrapped model's logits differ by .*less than 1e-03"):
            zoo.compare("Small", tmp_path, (12, 12, 3))

    def test_another_file(self, tmp_path, monkeypatch):
        """The file is of density 1: it chooses all channels."""
        convert = export.convert

        def opened(model, path):
            densities = [layer.density.numpy() for layer in fbs_keras.layers.densities.fbs_layers(model)]
            if densities:
                fbs_keras.set_density(model, 1.0)
            convert(model, path)
            if densities:
                fbs_keras.set_density(model, 0.5)

        monkeypatch.setattr(export, "convert", opened)
        with pytest.raises(ValueError, match="differ by"):
            zoo.compare("Small", tmp_path, (12, 12, 3))

    @pytest.mark.parametrize("factor", [1.0, np.nan])
    def test_logits_that_do_not_depend_on_the_image(self, tmp_path, monkeypatch, factor):
        image = factor * zoo.images((12, 12, 3), count=1)
        monkeypatch.setattr(zoo, "images", lambda shape: np.repeat(image, 3, axis=0))
        with pytest.raises(ValueError, match=r"differ by (0.0e\+00|nan) of the largest"):
            zoo.compare("Small", tmp_path, (12, 12, 3))


def test_classifiers():
    names = list(zoo.classifiers())
    assert {"MobileNetV3Small", "ConvNeXtXLarge", "NASNetLarge", "EfficientNetB7", "VGG19"} <= set(names)
    assert len(names) >= 38
    assert list(zoo.classifiers("mobilenetv3, resnet50")) == [
        *("MobileNetV3Large", "MobileNetV3Small", "ResNet50", "ResNet50V2")
    ]
    with pytest.raises(ValueError, match=r"no classifier is called 'alexnet'; keras.applications has ConvNeXtBase, "):
        zoo.classifiers("alexnet")


@pytest.mark.parametrize(
    ("left", "words"),
    [
        ({}, ""),
        ({"it has 96 groups": 3, "it has 192 groups": 4, "it computes the model's output": 1}, "7 grouped, 1 output"),
        ({"its map of 1x1 is so small that its gate would take longer than it saves": 34}, "34 on 1x1"),
        ({"its activation 'sigmoid' moves zero, so no channel could be skipped": 16}, "16 sigmoid"),
        ({"it is shared by 2 calls": 1, "a new one: of many words": 2}, "2 a new one, 1 it is shared by 2 calls"),
    ],
)
def test_reasons_in_short(left, words):
    assert zoo.short(left) == words


def test_failure_is_a_sentence():
    result = zoo.measure_apart("ResNet50", threads=0, seconds=-1, nonsense=1)
    assert result.name == "ResNet50" and not result.timings
    assert result.error == "TypeError: measure() got an unexpected keyword argument 'nonsense'"


class TestReport:
    def test_table(self):
        assert zoo.table([ROW, FAILED]).splitlines()[1:] == [
            "Net  224x224  35          17 depthwise   0.300  2.00x      2e-06  3e-06     4e-06      4.00     0.80x     "
            "2.00x      14.0    19.0",
            "Other: its outputs differ",
        ]

    def test_markdown(self, tmp_path):
        path = tmp_path / "zoo.md"
        begin, end = zoo.MARKS
        path.write_text(f"# Head\n\n{begin}\nold\n{end}\n\nTail\n")
        for _ in range(2):  # again changes nothing
            zoo.write_markdown([ROW, FAILED], path)
            text = path.read_text()
            assert text.startswith("# Head\n") and text.endswith("\n\nTail\n") and "old" not in text
            assert (
                text.count("| Net | 224x224 | 35 | 17 depthwise |") == text.count("\nOther: its outputs differ\n") == 1
            )

    def test_no_marks(self, tmp_path):
        (tmp_path / "zoo.md").write_text("nothing")
        with pytest.raises(ValueError, match="must hold the lines <!-- table: begin -->"):
            zoo.write_markdown([ROW], tmp_path / "zoo.md")

    def test_json(self):
        for row in (ROW, FAILED):
            assert ZooResult.from_json(json.loads(json.dumps(dataclasses.asdict(row)))) == row

    def test_script_resumes(self, tmp_path):
        """Nothing is measured where the file has it all; the table is of all that it has."""
        results, page = tmp_path / "zoo.json", tmp_path / "zoo.md"
        rows = [dataclasses.replace(ROW, name=name) for name in ("VGG16", "Net")]
        results.write_text(json.dumps({"models": [dataclasses.asdict(row) for row in rows]}))
        page.write_text("\n".join(zoo.MARKS))
        options = ["--json", results, "--markdown", page, "--plot", tmp_path / "zoo.png"]
        command = [sys.executable, SCRIPT, "--suite", "zoo", "--filter", "vgg16", "--resume", *options]
        result = subprocess.run([*map(str, command)], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "VGG16 ..." not in result.stderr
        assert "VGG16  224x224" in result.stdout and "| VGG16 |" in page.read_text() and "| Net |" in page.read_text()
        assert [row["name"] for row in json.loads(results.read_text())["models"]] == ["Net", "VGG16"]
        assert (tmp_path / "zoo.png").read_bytes()[:4] == b"\x89PNG"
