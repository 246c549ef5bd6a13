import os
import pathlib
import subprocess
import sys

import keras
import pytest

import fbs_keras

SCRIPT = pathlib.Path(__file__).parents[1] / "scripts" / "slim.py"
CHECKPOINT = pathlib.Path(__file__).parents[1] / "checkpoints" / "mcifarnet.keras"


def run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=os.environ)


def test_slims_a_file(tmp_path):
    path = tmp_path / "slim.keras"
    result = run(f"--model={CHECKPOINT}", "--keep=0.6", f"--output={path}")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    model = keras.saving.load_model(path)
    assert lines[0] == f"conv0: 64 -> {model.get_layer('conv0').filters} channels"
    assert lines[8] == "logits: 10 channels: it computes the model's output"
    macs = fbs_keras.count_macs(model).dense
    assert lines[9].startswith(f"MACs 174.30 M -> {macs / 1e6:.2f} M ({174_301_824 / macs:.2f}x fewer), parameters 1,")
    filters = [layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert sum(filters) == round(0.6 * 1088) + 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"--model={CHECKPOINT}"], "slim: expected exactly one of keep, threshold and widths, got none"),
        ([f"--model={CHECKPOINT}", "--keep=2"], "slim: keep must be in (0, 1], got 2.0"),
        (["--model=nothing.keras", "--keep=0.5"], "nothing.keras"),
    ],
)
def test_bad_flags_are_one_line(arguments, message):
    result = run(*arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
