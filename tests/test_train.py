import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import fbs_keras

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"
SMALL = ["--train_split=train[:64]", "--eval_split=test[:32]", "--batch_size=16"]


def command(script, *arguments):
    return [sys.executable, str(SCRIPTS / script), *map(str, arguments)]


def run(script, *arguments):
    return subprocess.run(command(script, *arguments), capture_output=True, text=True, env=os.environ)


def epochs(history):
    with open(history, newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def dense(cifar10_dir, tmp_path_factory):
    """A dense model, trained for an epoch of four steps, and the command's output."""
    folder = tmp_path_factory.mktemp("dense")
    result = run("train.py", f"--data_dir={cifar10_dir}", "--epochs=1", f"--run_dir={folder}", *SMALL)
    assert result.returncode == 0, result.stderr
    return folder / "model.keras"


def test_train_makes_a_model_a_curve_and_events(dense):
    folder = dense.parent
    assert epochs(folder / "history.csv") == [0]
    assert list((folder / "tensorboard").rglob("events*"))
    model = keras.saving.load_model(dense)
    assert model.output_shape == (None, 10)


def test_interrupted_fbs_training_goes_on(dense, cifar10_dir, tmp_path):
    arguments = [f"--data_dir={cifar10_dir}", f"--pretrained={dense}", "--density=0.45", "--epochs=4", *SMALL]
    arguments += ["--schedule=polynomial", "--learning_rate=0.01", f"--run_dir={tmp_path}"]
    arguments += ["--dtype_policy=mixed_bfloat16", "--round_channels=16"]
    with subprocess.Popen(command("train.py", *arguments), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while not (tmp_path / "last.keras").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "last.keras").exists()
    assert not (tmp_path / "model.keras").exists()
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
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert {layer.compute_dtype for layer in layers} == {"float32"}  # whatever it was trained in


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
        ("train.py", ["--run_dir=runs/x", "--model=Nothing"], "--model must be one of VGG16, MCifarNet, ResNet18, got"),
        ("train.py", ["--run_dir=runs/x", "--density=1.5"], r"density must be in (0, 1], got 1.5"),
        ("evaluate.py", ["--model=nothing.keras"], "nothing.keras"),
    ],
)
def test_bad_flags_are_one_line(script, arguments, message, cifar10_dir):
    result = run(script, *arguments, f"--data_dir={cifar10_dir}")
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
