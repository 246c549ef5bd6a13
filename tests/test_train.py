"""Tests of scripts/train.py and scripts/evaluate.py, on a little of CIFAR-10 and on photos that vary in size."""

import csv
import signal
import subprocess
import time

import controls
import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
from commands import command, run

import fbs_keras

SMALL = ["--train_split=train[:64]", "--eval_split=test[:32]", "--batch_size=16"]


def epochs(history):
    with open(history, newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def interrupt_after_an_epoch(run_dir, arguments):
    """Starts training and kills it at the first checkpoint."""
    with subprocess.Popen(command("train.py", *arguments), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 600
        while not (run_dir / "last.keras").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert (run_dir / "last.keras").exists()
    assert not (run_dir / "model.keras").exists()


@pytest.fixture(scope="module")
def dense(cifar10_dir, tmp_path_factory):
    """A dense model, trained for an epoch of four steps, to be slimmed."""
    folder = tmp_path_factory.mktemp("dense")
    arguments = [f"--data_dir={cifar10_dir}", "--epochs=1", f"--run_dir={folder}", "--slimming_weight=1e-5"]
    result = run("train.py", *arguments, *SMALL)
    assert result.returncode == 0, result.stderr
    return folder / "model.keras"


def test_train_makes_a_model_a_curve_and_events(dense):
    folder = dense.parent
    assert epochs(folder / "history.csv") == [0]
    assert "gamma_near_zero" in (folder / "history.csv").read_text()
    assert list((folder / "tensorboard").rglob("events*"))
    model = keras.saving.load_model(dense)
    assert model.output_shape == (None, 10)


def test_interrupted_fbs_training_goes_on(dense, cifar10_dir, tmp_path):
    arguments = [f"--data_dir={cifar10_dir}", f"--pretrained={dense}", "--macs_saving=3.5", "--epochs=4", *SMALL]
    arguments += ["--schedule=polynomial", "--learning_rate=0.01", f"--run_dir={tmp_path}"]
    arguments += ["--dtype_policy=mixed_bfloat16", "--round_channels=16", "--ema=0.5"]
    interrupt_after_an_epoch(tmp_path, arguments)
    again = run("train.py", *arguments)
    assert again.returncode != 0
    assert "add --resume to go on with it" in again.stderr + again.stdout
    result = run("train.py", *arguments, "--resume")
    assert result.returncode == 0, result.stderr
    assert "resuming after epoch" in result.stdout
    assert epochs(tmp_path / "history.csv") == [0, 1, 2, 3]
    model = keras.saving.load_model(tmp_path / "model.keras")
    layers = fbs_keras.densities.fbs_layers(model)
    assert [layer.active_channels for layer in layers] == [32, 32, 64, 64, 64, 96, 96, 96]
    assert fbs_keras.count_macs(model).saving >= 3.5
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert {layer.compute_dtype for layer in layers} == {"float32"}  # whatever it was trained in


def test_a_teacher_and_a_trained_fbs_model(dense, cifar10_dir, tmp_path):
    common = [f"--data_dir={cifar10_dir}", *SMALL, "--epochs=1", "--schedule=constant", "--dropout=0.1"]
    first, second = tmp_path / "first", tmp_path / "second"
    densities = ["--init=fit", "--density=0.8", "--densities=conv[67]=0.5,conv7=0.25"]
    result = run("train.py", *common, f"--pretrained={dense}", *densities, f"--run_dir={first}")
    assert result.returncode == 0, result.stderr
    assert "conv7: fitted, R2 = " in result.stdout
    layers = fbs_keras.densities.fbs_layers(keras.saving.load_model(first / "model.keras"))
    assert [layer.active_channels for layer in layers] == [52, 52, 103, 103, 103, 154, 96, 48]
    assert all(layer.gate_kernel.numpy().any() for layer in layers)
    on = [f"--pretrained={first / 'model.keras'}", "--density=0.5", f"--teacher={dense}", f"--run_dir={second}"]
    result = run("train.py", *common, *on, "--gates=random", "--dtype_policy=mixed_bfloat16")
    assert result.returncode == 0, result.stderr
    model = keras.saving.load_model(second / "model.keras")
    layers = fbs_keras.densities.fbs_layers(model)
    assert {(type(layer), float(layer.density.numpy())) for layer in layers} == {(controls.RandomFBSConv2D, 0.5)}
    assert {layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)} == {0.1}


def test_unused_channels_are_removed_and_the_rest_trains_on(dense, cifar10_dir, tmp_path):
    fbs, small = tmp_path / "fbs.keras", tmp_path / "small"
    model = fbs_keras.wrap(keras.saving.load_model(dense), 0.5)
    model.get_layer("conv7").usage.assign(np.arange(192) % 3 / 2)  # a third of the channels never wins
    model.save(fbs)
    arguments = [f"--data_dir={cifar10_dir}", f"--pretrained={fbs}", "--remove_unused=0.1", "--epochs=1", *SMALL]
    result = run("train.py", *arguments, f"--run_dir={small}")
    assert result.returncode == 0, result.stderr
    assert "conv7: 192 -> 128 channels, of which 96 win" in result.stdout
    assert "gate_always" in (small / "history.csv").read_text()
    assert fbs_keras.densities.fbs_layers(keras.saving.load_model(small / "model.keras"))[-1].active_channels == 96
    arguments = [f"--model={small / 'model.keras'}", f"--dense={dense}", f"--data_dir={cifar10_dir}"]
    result = run("evaluate.py", *arguments, "--split=test[:100]")
    assert result.returncode == 0, result.stderr
    assert f"44.27 M MACs, 3.94x fewer than {dense}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--density=0.5", "--densities=conv7"], "--densities must be a list of name=density, got 'conv7'"),
        (["--densities=conv7=0.5"], "--densities needs --density, that of the other layers"),
        (["--density=0.5", "--densities=conv8=0.5"], "no FBSConv2D layer matches 'conv8'"),
    ],
)
def test_densities_that_cannot_be(dense, cifar10_dir, tmp_path, arguments, message):
    common = [f"--data_dir={cifar10_dir}", *SMALL, "--epochs=2", f"--run_dir={tmp_path}"]
    result = run("train.py", *common, f"--pretrained={dense}", *arguments)
    assert result.returncode != 0
    assert message in result.stderr + result.stdout


@pytest.fixture(scope="module")
def photos_dir(tmp_path_factory):
    """A data_dir with a small imagenet2012: JPEG photos that vary in size, and a test split without labels."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    rng = np.random.default_rng(0)

    def photos(count, label):
        sizes = rng.integers(40, 120, (count, 2))
        return [
            (i, {"image": rng.integers(0, 256, (*size, 3), np.uint8), "label": label(i)})
            for i, size in enumerate(sizes)
        ]

    tfds.dataset_builders.store_as_tfds_dataset(
        name="imagenet2012",
        version="5.1.0",
        config="small",
        features=tfds.features.FeaturesDict(
            {"image": tfds.features.Image(encoding_format="jpeg"), "label": tfds.features.ClassLabel(num_classes=10)}
        ),
        split_datasets={
            "train": photos(18, lambda i: i % 10),
            "validation": photos(10, lambda i: i),
            "test": photos(3, lambda i: -1),
        },
        data_dir=folder,
    )
    return folder


def test_photos_train_a_resnet_with_fbs(photos_dir, tmp_path):
    data = ["--dataset=imagenet2012/small", f"--data_dir={photos_dir}", "--image_size=64"]
    arguments = [*data, "--model=ResNet18", "--density=0.5", "--epochs=2", "--batch_size=8", "--label_smoothing=0.1"]
    arguments += ["--weight_decay=1e-3", "--warmup_epochs=0.5", "--learning_rate=0.01", f"--run_dir={tmp_path}"]
    result = run("train.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert epochs(tmp_path / "history.csv") == [0, 1]
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.input_shape == (None, 64, 64, 3)
    assert model.get_layer("stem").kernel_regularizer.l2 == pytest.approx(1e-3)
    assert fbs_keras.count_macs(model).saving > 1.9
    result = run("evaluate.py", f"--model={tmp_path / 'model.keras'}", *data)
    assert result.returncode == 0, result.stderr
    assert "imagenet2012/small, validation, 10 images: top-1 " in result.stdout


def test_evaluate_prints_accuracy_and_macs(dense, cifar10_dir):
    result = run("evaluate.py", f"--model={dense}", f"--data_dir={cifar10_dir}", "--split=test[:100]")
    assert result.returncode == 0, result.stderr
    assert "174.30 M MACs" in result.stdout
    assert "cifar10, test[:100], 100 images: top-1 " in result.stdout


def test_evaluate_runs_a_tflite_file(dense, cifar10_dir, tmp_path):
    path = tmp_path / "model.tflite"
    fbs_keras.convert(fbs_keras.wrap(keras.saving.load_model(dense), 0.5), path)
    result = run("evaluate.py", f"--model={path}", f"--data_dir={cifar10_dir}", "--split=test[:20]")
    assert result.returncode == 0, result.stderr
    assert "with the delegate" in result.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (
            "train.py",
            ["--run_dir=runs/x", "--model=Nothing"],
            "--model must be one of VGG16, MCifarNet, ResNet18, or a model of keras.applications, got",
        ),
        ("train.py", ["--run_dir=runs/x", "--density=1.5"], r"density must be in (0, 1], got 1.5"),
        ("evaluate.py", ["--model=nothing.keras"], "nothing.keras"),
    ],
)
def test_bad_flags_are_one_line(script, arguments, message, cifar10_dir):
    result = run(script, *arguments, f"--data_dir={cifar10_dir}")
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
