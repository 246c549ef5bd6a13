"""scripts/benchmark_android.py on this machine: its steps, and what it says of what is missing."""

import hashlib
import json
import os
import subprocess
import sys

import commands
import keras
import pytest
from op_files import Op, op_file

import fbs_keras

# Stands in for benchmark_model: runs the file in LiteRT with the given delegate, and reports as the tool does.
TOOL = """#!{python}
import sys, time
from ai_edge_litert import interpreter as litert
flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
print("STARTING!", file=sys.stderr)
delegates = []
if "external_delegate_path" in flags:
    options = dict(pair.split(":") for pair in flags.get("external_delegate_options", "").split(";") if pair)
    delegates = [litert.load_delegate(flags["external_delegate_path"], options)]
threads = int(flags["num_threads"])
interpreter = litert.Interpreter(flags["graph"], num_threads=threads, experimental_delegates=delegates)
kernels = sum(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())
if delegates:
    print(f"INFO: Explicitly applied EXTERNAL delegate, and the model graph will be partially executed by the delegate "
          f"w/ {{kernels}} delegate kernels.")
interpreter.allocate_tensors()
times, end = [], time.perf_counter() + float(flags["min_secs"])
while len(times) < int(flags["num_runs"]) or time.perf_counter() < end:
    start = time.perf_counter()
    interpreter.invoke()
    times.append((time.perf_counter() - start) * 1e6)
mean, low, high = sum(times) / len(times), min(times), max(times)
print(f"INFO: count={{len(times)}} first={{times[0]:.0f}} curr={{times[-1]:.0f}} min={{low:.0f}} max={{high:.0f}} "
      f"avg={{mean:.6g}} std=1 p5={{low:.0f}} median={{sorted(times)[len(times) // 2]:.0f}} p95={{high:.0f}}\\n")
print(f"INFO: Inference timings in us: Init: 5, First inference: 6, Warmup (avg): 7, Inference (avg): {{mean:.6g}}")
print("INFO: Memory footprint delta from the start of the tool (MB): init=1.5 overall=2.25")
"""


@pytest.fixture
def tool(tmp_path):
    path = tmp_path / "benchmark_model"
    path.write_text(TOOL.format(python=sys.executable))
    return path


def run(*arguments):
    return commands.run("benchmark_android.py", *arguments)


FAST = ["--rounds", 2, "--runs", 3, "--seconds", 0, "--cool_down", 0]


def test_model(tmp_path, tool):
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            fbs_keras.FBSConv2D(16, 3, activation="relu", density=0.5),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )
    model.save(tmp_path / "m.keras")
    files = ["--model", tmp_path / "m.keras", "--benchmark_model", tool, "--json", tmp_path / "b.json"]
    cores = sorted(os.sched_getaffinity(0))
    result = run("--local", *files, *FAST, "--cpus", f"{1 << cores[-1]:x}")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "b.json").read_text())
    names = [row["name"] for row in report["timings_ms"]]
    assert names[0] == "dense" and {"FBS portable", "FBS delegate"} <= set(names)
    assert all(row["median"] > 0 and row["runs"] == 6 for row in report["timings_ms"])
    assert sorted(report["rounds"]) == sorted(names)
    assert [each["memory"] for each in report["rounds"]["dense"]] == [2.25, 2.25]
    assert all(each["delegate_kernels"] == 2 for each in report["rounds"]["FBS delegate"])  # a convolution, a sum
    assert report["threads"] == report["batch_size"] == 1 and report["settings"]["rounds"] == 2
    digest = hashlib.sha256(tool.read_bytes()).hexdigest()[:16]
    assert report["versions"]["benchmark_model"] == f"sha256:{digest}" and "ai-edge-litert" not in report["versions"]
    for text in ("speed-up", report["device"]["cpu"], "benchmark_android.py"):
        assert text in result.stdout


def test_graphs(tmp_path, tool):
    (tmp_path / "a.tflite").write_bytes(op_file(Op()))
    delegate = fbs_keras.delegate_path()
    files = ["--graph", tmp_path / "a.tflite", "--benchmark_model", tool, "--delegate", delegate]
    result = run("--local", *files, *FAST)
    assert result.returncode == 0, result.stderr
    assert f"{tmp_path / 'a.tflite'} + delegate" in result.stdout


def test_phone_without_adb(tmp_path, tool):
    arguments = ["--graph", "a.tflite", "--benchmark_model", tool]
    command = commands.command("benchmark_android.py", *arguments)
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": str(tmp_path)})
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "benchmark_android: adb was not found; install Android's platform tools" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of --model and --graph"),
        (["--model", "a.keras", "--graph", "b.tflite"], "expected one of --model and --graph"),
        (["--graph", "a.tflite", "--local", "--serial", "abc"], "--serial chooses a phone, and --local needs none"),
        (["--graph", "a.tflite", "--local"], "--benchmark_model must be the path of TFLite's benchmark_model"),
        (["--graph", "a.tflite", "--local", "--benchmark_model", "nothing"], "there is no file 'nothing'"),
        (["--graph", "no.tflite", "--local", "--benchmark_model", __file__], "there is no file 'no.tflite'"),
        (["--graph", "a", "--local", "--benchmark_model", __file__, "--delegate", "no.so"], "there is no file 'no.so'"),
        (["--graph", "a.tflite", "--rounds", "0"], "flag --rounds=0: 0 is not a positive integer"),
    ],
)
def test_bad_arguments(arguments, message):
    result = run(*arguments)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert message in result.stderr + result.stdout
