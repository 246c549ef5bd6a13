"""Tests of _fbs_scripts/program.py: how a script ends."""

import ast
import sys

import pytest
from commands import SCRIPTS

from _fbs_scripts import program


class TensorFlowsError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("expected this, got that"), 1, "train: expected this, got that"),
        (
            OSError(28, "No space left on device", "curve.csv"),
            1,
            "train: [Errno 28] No space left on device: 'curve.csv'",
        ),
        (
            TensorFlowsError("op: No space left on device\nmore"),
            1,
            "train: No space left on device; make some, and try",
        ),
        (KeyboardInterrupt(), 130, "train: interrupted"),
    ],
    ids=repr,
)
def test_a_script_ends_with_a_line(error, code, line, monkeypatch, capsys):
    def fail():
        raise error

    def run_main(main):
        main(["train.py"])

    monkeypatch.setattr(program.app, "run", run_main)
    monkeypatch.setattr(sys, "argv", ["scripts/train.py"])
    with pytest.raises(SystemExit) as raised:
        program.run(fail)
    said = raised.value.code if isinstance(raised.value.code, str) else capsys.readouterr().err
    assert said.strip().startswith(line)
    assert raised.value.code == 130 if code == 130 else isinstance(raised.value.code, str)  # which Python makes 1


def test_other_errors_are_the_scripts_own(monkeypatch):
    def fail():
        raise TensorFlowsError("a bug")

    monkeypatch.setattr(program.app, "run", lambda main: main(["train.py"]))
    with pytest.raises(TensorFlowsError):
        program.run(fail)


def test_a_damaged_model_is_told_in_a_sentence(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04nothing")
    for name in ("model.keras", "nowhere.keras"):
        with pytest.raises(ValueError, match=rf"{name} cannot be loaded as a Keras model: .") as raised:
            program.load_model(tmp_path / name)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.*")), ids=lambda script: script.name)
def test_the_folder_is_a_list_of_programs(script):
    """What they share is in _fbs_scripts."""
    text = script.read_text(encoding="utf-8")
    assert f"python scripts/{script.name}" in ast.get_docstring(ast.parse(text))
    assert '\nif __name__ == "__main__":\n' in text
    assert text.endswith(")\n") and "    program.run(" in text
