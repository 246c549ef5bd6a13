"""Tests of scripts/slim.py."""

import pathlib

import keras
from commands import run

import fbs_keras

CHECKPOINT = pathlib.Path(__file__).parents[1] / "fbs_keras" / "models" / "checkpoints" / "mcifarnet_cifar10.keras"


def test_slims_a_file(tmp_path):
    path = tmp_path / "slim.keras"
    result = run("slim.py", f"--model={CHECKPOINT}", "--keep=0.6", f"--output={path}")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    model = keras.saving.load_model(path)
    assert lines[0] == f"conv0: 64 -> {model.get_layer('conv0').filters} channels"
    assert lines[8] == "logits: 10 channels: it computes the model's output"
    macs = fbs_keras.count_macs(model).dense
    assert lines[9].startswith(f"MACs 174.30 M -> {macs / 1e6:.2f} M ({174_301_824 / macs:.2f}x fewer), parameters 1,")
    filters = [layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert sum(filters) == round(0.6 * 1088) + 10


def test_bad_flags_are_one_line():
    result = run("slim.py", f"--model={CHECKPOINT}")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "slim: expected exactly one of keep, threshold and widths, got none"
    assert "Traceback" not in result.stderr
