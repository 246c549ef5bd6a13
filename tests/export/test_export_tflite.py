"""Tests of scripts/export_tflite.py."""

import functools

import small_models
from commands import run, run_alone

export = functools.partial(run, "export_tflite.py")


def test_exports_and_verifies(tmp_path):
    """As a user does it, in a process of its own."""
    small_models.make("sequential").save(tmp_path / "model.keras")
    output = tmp_path / "model.tflite"
    arguments = [f"--model={tmp_path / 'model.keras'}", f"--output={output}", "--verify", "--explain"]
    done = run_alone("export_tflite.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert "channelwise  1x4x5x4/8 -> 1x4/8" in done.stdout
    assert "(expanded: of a single pixel" in done.stdout
    assert "verified: 16 examples" in done.stdout
    assert output.read_bytes()[4:8] == b"TFL3"


def test_quantises(tmp_path):
    small_models.make("sequential").save(tmp_path / "model.keras")
    output = tmp_path / "model.tflite"
    arguments = [f"--model={tmp_path / 'model.keras'}", f"--output={output}", "--quantize=dynamic_int8", "--verify"]
    done = export(*arguments)
    assert done.returncode == 0, done.stderr
    assert "MB, dynamic_int8, target portable" in done.stdout
    assert "verified: 16 examples, dynamic_int8, signal to noise" in done.stdout


def test_error_is_one_line(tmp_path):
    done = export("--model=nowhere.keras", f"--output={tmp_path / 'model.tflite'}")
    assert done.returncode == 1
    assert done.stderr.strip().split("\n")[-1] == (
        "export_tflite: 'nowhere.keras' does not exist; expected a .keras or .h5 file, or a Keras model"
    )
    assert "Traceback" not in done.stderr
