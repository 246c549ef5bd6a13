"""Tests of scripts/tradeoff.py, with stand-ins for the training but for one point."""

import json
import pathlib
import subprocess
import sys

import keras
import pytest
from commands import Script, run

import fbs_keras

SCRIPT = Script("tradeoff")

DENSITIES = [1.0, 0.9, 0.5]
SHARES = {1.0: 1.0, 0.9: 0.82, 0.5: 0.25}
LAST = {  # what tells a method's last point from the others
    "FBS": ["train.py --pretrained=FBS/0.9/model.keras --density=0.5"],
    "FBS in groups": ["train.py --pretrained=FBS_in_groups/0.9/model.keras --density=0.5 --group_size=16"],
    "random gates": ["train.py --pretrained=random_gates/0.9/model.keras --density=0.5 --gates=random"],
    "NS": [
        "slim.py --model=NS/0.9/model.keras --keep=0.555556 --output=NS/slim_0.5.keras",
        "train.py --pretrained=NS/slim_0.5.keras",
    ],
    "NS+FBS": ["train.py --pretrained=NS+FBS/0.9/model.keras --density=0.5"],
    "magnitude": ["prune_magnitude.py --model=magnitude/0.9/model.keras --sparsity=0.7500"],
}
COMMON = ("--flagfile", "--run_dir", "--undefok")


@pytest.fixture
def tradeoff():
    with SCRIPT.called_with() as module:
        yield module


@pytest.mark.parametrize("method", LAST)
def test_each_point_is_trained_from_the_one_before_it(method, tradeoff):
    points = tradeoff.plan(method, DENSITIES, "dense.keras", "runs", SHARES)
    assert [point.density for point in points] == DENSITIES
    commands = [
        " ".join(part.replace("runs/", "") for part in command if not part.startswith(COMMON))
        for command in points[-1].commands
    ]
    assert commands == LAST[method]
    assert f"--run_dir={points[-1].folder}" in points[-1].commands[-1]
    used = [part for point in points for command in point.commands for part in command]
    assert any(part.endswith("=dense.keras") for part in used)


def test_slimmed_networks_learn_sparse_gammas_first(tradeoff):
    first, second, third = tradeoff.plan("NS", DENSITIES, "dense.keras", "runs", SHARES)
    assert len(first.commands) == 1
    sparse, slim, _ = second.commands
    assert {"--run_dir=runs/NS/sparse", "--slimming_weight=0.001"} <= set(sparse)
    assert "--model=runs/NS/sparse/model.keras" in slim
    assert len(third.commands) == 2


def row(method, density, **others):
    return {
        **{"method": method, "density": density, "top1": 0.9, "top5": 0.99, "macs": 10**8, "saving": 2.0},
        **{"seconds": 60.0, "ms": 0.5, "speedup": 1.5},
        **others,
    }


def test_table_and_figure_come_from_the_json_alone(tmp_path):
    rows = [row("dense", 1.0, saving=1.0), row("FBS", 0.5), row("random gates", 0.5, ms=None, speedup=None)]
    facts = {"command": "python scripts/tradeoff.py", "device": {"cpu": "a CPU", "isa": ["avx2"], "system": "Linux"}}
    facts["device"]["cores"] = 2
    facts |= {"versions": {"keras": "3.15", "tensorflow": None}, "commit": "abc", "rows": rows}
    (tmp_path / "rows.json").write_text(json.dumps(facts))
    outputs = [f"--markdown={tmp_path / 'page.md'}", f"--plot={tmp_path / 'figure.png'}"]
    result = run("tradeoff.py", f"--json={tmp_path / 'rows.json'}", *outputs)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "page.md").read_text()
    assert "| FBS | 0.5 | 90.00% | 99.00% | 100.00 | 2.00x | 0.500 | 1.50x |" in page
    assert "| random gates | 0.5 | 90.00% | 99.00% | 100.00 | 2.00x | - | - |" in page
    for line in ("python scripts/tradeoff.py", "a CPU (avx2), 1 of 2 cores, Linux", "keras 3.15, commit abc"):
        assert f"    {line}\n" in page
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_models_that_are_not_there(tradeoff):
    with pytest.raises(ValueError, match=r"--also must name a trained model, got nowhere\.keras, which is not there"):
        tradeoff.trained_otherwise("FBS, longer,0.5,nowhere.keras")
    with pytest.raises(ValueError, match=r"--also must be METHOD,DENSITY,FILE, got 'dense\.keras'"):
        tradeoff.trained_otherwise("dense.keras")


@pytest.fixture
def scripts_run_here(monkeypatch):
    start = subprocess.run

    def call(command, **options):
        if command[0] != sys.executable or not command[1].endswith(".py"):
            return start(command, **options)
        result = run(pathlib.Path(command[1]).name, *command[2:])
        assert result.returncode == 0, result.stderr
        return result

    monkeypatch.setattr(subprocess, "run", call)


def test_trains_and_measures_points(cifar10_dir, tmp_path, scripts_run_here):
    x = inputs = keras.Input((32, 32, 3))
    for _ in range(2):
        x = keras.layers.Conv2D(16, 3, strides=2)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))
    dense = tmp_path / "dense.keras"
    model.save(dense)
    small = "--train_split=train[:64],--eval_split=test[:32],--batch_size=16,--epochs=1"
    arguments = [f"--dense={dense}", f"--run_dir={tmp_path}", "--densities=0.5", "--method=FBS", "--seconds=0.01"]
    arguments += ["--split=test[:250]", f"--also=dense again,1,{dense}"]
    arguments += [f"--train_flags={small}", f"--data_dir={cifar10_dir}", f"--json={tmp_path / 'rows.json'}"]
    result = run("tradeoff.py", *arguments)
    assert result.returncode == 0, result.stderr
    first, second, third = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (third["method"], third["density"], third["saving"]) == ("dense again", 1, 1)
    assert (first["method"], second["method"], second["density"]) == ("dense", "FBS", 0.5)
    assert second["saving"] == pytest.approx(fbs_keras.count_macs(fbs_keras.wrap(model, 0.5)).saving)
    assert 0 <= second["top1"] < 0.5 and second["speedup"] > 0
    model = pathlib.Path(tmp_path, "FBS", "0.5", "model.keras")
    written = model.stat().st_mtime_ns
    assert run("tradeoff.py", *arguments).returncode == 0
    assert model.stat().st_mtime_ns == written
    assert run("tradeoff.py", *arguments, "--method=NS", "--notrain").returncode == 0
    assert not pathlib.Path(tmp_path, "NS").exists()
