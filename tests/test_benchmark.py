"""Timing: the measuring itself with functions of known duration, and the script on real files."""

import dataclasses
import functools
import json

import commands
import keras
import numpy as np
import pytest
from op_files import Op, op_file

import fbs_keras
from fbs_keras.benchmarks import measurement
from fbs_keras.benchmarks.measurement import Timing


class Clock:
    """Stands for time.perf_counter: passes only in the functions it makes."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def function(self, name, duration):
        def run():
            self.calls.append(name)
            self.now += duration

        return run


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(measurement.time, "perf_counter", clock)
    return clock


class TestInterleave:
    def test_times(self, clock):
        times = measurement.interleave({"a": clock.function("a", 3.0), "b": clock.function("b", 0.5)}, runs=20)
        np.testing.assert_allclose(times["a"], [3.0] * 20)
        np.testing.assert_allclose(times["b"], [0.5] * 20)

    def test_takes_turns(self, clock):
        measurement.interleave({name: clock.function(name, 1) for name in "abc"}, runs=300)
        block = measurement.BLOCK + 1  # one to warm up
        blocks = clock.calls[::block]
        assert clock.calls == [name for name in blocks for _ in range(block)]
        rounds = ["".join(blocks[i : i + 3]) for i in range(0, 90, 3)]
        assert set(rounds) == {"abc", "acb", "bac", "bca", "cab", "cba"}  # each follows each

    @pytest.mark.parametrize(("runs", "taken"), [(1, 1), (7, 7), (10, 10), (11, 20), (200, 200)])
    def test_runs(self, clock, runs, taken):
        times = measurement.interleave({"a": clock.function("a", 1)}, runs)
        assert len(times["a"]) == taken

    def test_first_of_a_block_is_not_counted(self, clock):
        def run():  # slow only after another function
            clock.now += 1.0 if clock.calls[-1:] == ["a"] else 100.0
            clock.calls.append("a")

        times = measurement.interleave({"a": run, "b": clock.function("b", 1)}, runs=20)
        assert times["a"].max() == 1.0

    @pytest.mark.parametrize(
        ("durations", "seconds", "planned"),
        [
            ((0.001, 0.003), 2.2, (1000, 10)),  # 2.2 s / 2 ms, less one of eleven that warms up
            ((0.01, 0.03), 2.4, (100, 5)),  # blocks of 0.1 s
            ((0.5, 0.7), 3.6, (4, 2)),
            ((0.001, 0.003), 1e-9, (10, 10)),
        ],
    )
    def test_plan_runs(self, clock, durations, seconds, planned):
        functions = {name: clock.function(name, duration) for name, duration in zip("ab", durations, strict=True)}
        runs, block = measurement.plan_runs(functions, seconds)
        assert (runs, block) == planned
        before = clock.now
        assert len(measurement.interleave(functions, runs, block=block)["a"]) == runs
        if seconds > 1e-9:
            assert clock.now - before == pytest.approx(2 * seconds)

    def test_no_time(self):
        with pytest.raises(ValueError, match="seconds must be above 0, got 0"):
            measurement.plan_runs({"a": int}, 0)

    def test_no_runs(self):
        with pytest.raises(ValueError, match="runs must be at least 1, got 0"):
            measurement.interleave({"a": int}, runs=0)


class TestMeasure:
    @pytest.fixture
    def candidates(self):
        slow, fast = op_file(Op(height=40, width=40, k=16)), op_file(Op(height=4, width=4, k=1))
        return [
            measurement.Candidate("slow", slow, True, 4_000_000),
            measurement.Candidate("fast", fast, True, 1_000_000),
        ]

    def test_rows(self, candidates):
        slow, fast = measurement.measure(candidates, num_threads=1, runs=50)
        assert [slow.name, slow.speedup, slow.runs, slow.macs] == ["slow", 1.0, 50, 4_000_000]
        assert slow.file_bytes == len(candidates[0].model)
        assert fast.speedup == pytest.approx(slow.median / fast.median)
        assert fast.speedup > 2  # about 100 times fewer MACs
        for timing in (slow, fast):
            assert 0 < timing.p10 <= timing.median <= timing.p90 < 1e3

    def test_profile(self):
        ops = Op(), Op(in_channels=16, active=8, filters=12, k=5, strides=(2, 2))
        rows = measurement.profile(op_file(*ops, form="composite"), runs=11)
        assert [row["op"] for row in rows] == ["conv0", "conv1"]
        assert rows[0]["macs"] == 6 * 5 * 9 * 8 * 8 + 8 * 16
        assert rows[1]["macs"] == 3 * 3 * 9 * 8 * 5 + 8 * 12
        assert all(row["workspace_bytes"] > 0 and row["plan_bytes"] > 0 for row in rows)
        assert all(row["runs"] == 11 and row["median_us"] >= row["min_us"] > 0 for row in rows)

    def test_options_of_the_delegate(self, candidates):
        forced = dataclasses.replace(candidates[0], delegate_options={"path": "fastest"})
        with pytest.raises(ValueError, match=r"option 'path' must be auto, .* got 'fastest'"):
            measurement.measure([forced], runs=1)
        options = {"path": "plain", "method": "gemm"}
        (row,) = measurement.profile(candidates[0].model, runs=1, delegate_options=options)
        assert row["kernel"] == "gemm_plain"

    def test_seconds_in_the_place_of_runs(self, candidates):
        slow, fast = measurement.measure(candidates, seconds=1e-6)
        assert slow.runs == fast.runs == measurement.BLOCK

    def test_environment(self):
        environment = measurement.environment()
        assert environment["device"]["cpu"] and environment["device"]["cores"] >= 1
        assert environment["versions"]["keras"] == keras.__version__


class TestTables:
    def test_table(self):
        timings = [
            Timing("dense", 2.0, 1.9, 2.5, 1.0, 200, 8_000_000, 5_000_000),
            Timing("FBS", 0.5, 0.4, 0.61, 4.0, 200, 2_000_000, 5_500_000),
            Timing("other", 1.0, 1.0, 1.0, 2.0, 200, None, 10_000),
        ]
        assert measurement.table(timings).splitlines() == [
            "       median ms      p10-p90  speed-up  M MACs  fewer  file MB",
            "dense      2.000  1.900-2.500     1.00x    8.00  1.00x     5.00",
            "FBS        0.500  0.400-0.610     4.00x    2.00  4.00x     5.50",
            "other      1.000  1.000-1.000     2.00x       -      -     0.01",
        ]

    def test_report_head(self):
        device = {"cpu": "Fast", "isa": ["avx2", "fma"], "cores": 8, "system": "Linux 6 x86_64"}
        environment = {"device": device, "versions": {"keras": "3.8", "tensorflow": None}, "commit": "abc"}
        assert measurement.report_head("python x.py", 2, environment).splitlines() == [
            "python x.py",
            "Fast (avx2, fma), 2 of 8 cores, Linux 6 x86_64",
            "keras 3.8, commit abc",
        ]

    def test_profile_table(self):
        row = {"macs": 3_000_000, "runs": 9, "min_us": 20.0, "shape": "a -> b"}
        row |= {"workspace_bytes": 64_000, "plan_bytes": 1_234}
        rows = [
            row | {"op": "conv", "kernel": "gemm_avx2", "median_us": 30.0},
            row | {"op": "never", "kernel": "reference", "median_us": 0.0},
        ]
        assert measurement.profile_table(rows).splitlines() == [
            "op     kernel     shape   median us   share  M MACs  GMAC/s  workspace KB  plan KB",
            "conv   gemm_avx2  a -> b       30.0  100.0%    3.00   100.0          64.0      1.2",
            "never  reference  a -> b        0.0       -    3.00       -          64.0      1.2",
        ]


run_script = functools.partial(commands.run, "benchmark.py")


class TestScript:
    def test_model(self, tmp_path):
        model = keras.Sequential(
            [
                keras.Input((12, 12, 3)),
                fbs_keras.FBSConv2D(16, 3, activation="relu", density=0.5),
                fbs_keras.FBSConv2D(32, 3, activation="relu", density=0.25),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(4),
            ]
        )
        model.save(tmp_path / "m.keras")
        result = run_script("--model", tmp_path / "m.keras", "--runs", 20, "--profile", "--json", tmp_path / "b.json")
        assert result.returncode == 0, result.stderr
        report = json.loads((tmp_path / "b.json").read_text())
        assert [row["name"] for row in report["timings_ms"]] == ["dense", "static", "FBS portable", "FBS delegate"]
        macs = fbs_keras.count_macs(model)
        assert [row["macs"] for row in report["timings_ms"]] == [macs.dense, macs.conv, macs.fbs, macs.fbs]
        assert all(row["runs"] == 20 and row["median"] > 0 for row in report["timings_ms"])
        # Two convolutions, and the sum that makes the pooled tensor dense.
        assert [(row["kernel"].startswith("add"), row["runs"]) for row in report["profiles"]["FBS delegate"]] == [
            (is_sum, 20) for is_sum in (False, False, True)
        ]
        assert report["threads"] == 1 and "--profile" in report["command"]
        for text in ("FBS delegate", "speed-up", report["device"]["cpu"], report["versions"]["ai-edge-litert"]):
            assert text in result.stdout
        assert "timing: 100%" in result.stderr

    def test_int8(self, tmp_path):
        model = keras.Sequential([keras.Input((12, 12, 3)), fbs_keras.FBSConv2D(64, 3, density=0.5)])
        model.save(tmp_path / "m.keras")
        arguments = ["--model", tmp_path / "m.keras", "--runs", 5, "--quantize", "dynamic_int8"]
        result = run_script(*arguments, "--json", tmp_path / "b.json")
        assert result.returncode == 0, result.stderr
        report = json.loads((tmp_path / "b.json").read_text())
        assert report["quantize"] == "dynamic_int8"
        sizes = {row["name"]: row["file_bytes"] for row in report["timings_ms"]}
        expected = {
            "FBS delegate": len(fbs_keras.convert(model, quantize="dynamic_int8")),
            "dense": len(fbs_keras.export.baseline(model, "dense", quantize="dynamic_int8")),
        }
        assert {name: sizes[name] for name in expected} == pytest.approx(expected, rel=0.02)  # but for names

    def test_kernels(self, tmp_path):
        paths = ["--json", tmp_path / "k.json", "--plot", tmp_path / "k.png"]
        arguments = ["--filter", "3x3 8x8", "--density", 0.5, "--method", "gemm", "--seconds", 0.005]
        result = run_script("--suite", "kernels", *arguments, *paths)
        assert result.returncode == 0, result.stderr
        report = json.loads((tmp_path / "k.json").read_text())
        assert [(row["shape"], row["density"]) for row in report["kernels"]] == [
            ("3x3 8x8 192-192", d) for d in (0.5, 1)
        ]
        assert [method["method"] for method in report["kernels"][0]["methods"]] == ["gemm"]
        assert report["threads"] == 1 and report["path"] == "auto" and "--suite kernels" in report["command"]
        for text in ("3x3 8x8 192-192", "R own", report["device"]["cpu"], report["versions"]["ai-edge-litert"]):
            assert text in result.stdout
        assert (tmp_path / "k.png").read_bytes()[:4] == b"\x89PNG"

    def test_model_without_fbs_layers(self):
        model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)], name="plain")
        with pytest.raises(ValueError, match=r"model 'plain' has no FBS layers; make them with fbs_keras\.wrap"):
            measurement.model_candidates(model)

    @pytest.mark.parametrize("path", ["nothing.tflite", __file__])
    def test_no_graph(self, path):
        with pytest.raises(ValueError, match=r"there is no file|model must be a TFLite model"):
            measurement.file_candidates([path])

    def test_graphs(self, tmp_path):
        """Files with custom ops run with the delegate only."""
        paths = tmp_path / "a.tflite", tmp_path / "b.tflite"
        for path, op in zip(paths, (Op(), Op(k=16)), strict=True):
            path.write_bytes(op_file(op))
        result = run_script("--graph", paths[0], "--graph", paths[1], "--threads", 2, "--runs", 5)
        assert result.returncode == 0, result.stderr
        rows = [line for line in result.stdout.splitlines()[-3:] if "tflite" in line]
        assert [row.split("  ")[0] for row in rows] == [f"{path} + delegate" for path in paths]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "benchmark: expected one of --model, --graph and --suite"),
            (["--model", "a.keras", "--graph", "b.tflite"], "benchmark: expected one of --model, --graph and --suite"),
            (["--model", "a.keras", "--plot", "b.png"], "benchmark: --plot is for --suite"),
            (["--suite", "kernels", "--density", "2"], "benchmark: density must be in (0, 1], got 2.0"),
            (["--graph", "a.tflite", "--quantize", "float16"], "benchmark: --quantize is for --model and for --suite"),
            (["--suite", "all"], "value should be one of <kernels|networks|zoo>"),
            (["--graph", "a.tflite", "--threads", "0"], "flag --threads=0: 0 is not a positive integer"),
            (["stray"], "expected flags only, got stray"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        result = run_script(*arguments)
        assert result.returncode != 0 and "Traceback" not in result.stderr
        assert message in result.stderr + result.stdout
