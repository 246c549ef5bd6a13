"""benchmark_model: its reports as it printed them, and the turns in which it is run."""

import dataclasses
import shlex

import pytest

from fbs_keras.benchmarks import benchmark_model, devices, measurement
from fbs_keras.benchmarks.benchmark_model import Run, Settings

NOTE = (
    "Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual ..."
)
# What the tool printed on others' phones and boards, as they published it, without the lines that are not read.
REPORTS = {
    # 2019, with a profile of the ops
    "first form": (
        """
Timings (microseconds): count=50 first=79449 curr=81350 min=77385 max=88213 avg=79732 std=1929
Memory (bytes): count=0
31 nodes observed


Average inference timings in us: Warmup: 83235, Init: 38467, Inference: 79760.9
""",
        Run(50, 79.7609, None, 38.467, None, 0),
    ),
    # TensorFlow 2.4
    "peak memory": (
        f"""
count=50 first=249042 curr=250889 min=247067 max=254474 avg=249684 std=1442
Inference timings in us: Init: 16242, First inference: 360262, Warmup (avg): 304586, Inference (avg): 249684
{NOTE}
Peak memory footprint (MB): init=4.92969 overall=138.809
""",
        Run(50, 249.684, None, 16.242, 138.809, 0),
    ),
    "one run to warm up, and exponents": (
        f"""
Initialized session in 17.187ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=1 curr=3512391

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
{NOTE}
Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
""",
        Run(50, 2950.34, None, 17.187, 46.0859, 0),
    ),
    # TensorFlow 2.15, an external delegate
    "external delegate": (
        f"""
INFO: EXTERNAL delegate created.
VERBOSE: Replacing 31 out of 31 node(s) with delegate (Vx Delegate) node, yielding 1 partitions for the whole graph.
INFO: Explicitly applied EXTERNAL delegate, and the model graph will be completely executed by the delegate.
INFO: The input model file size (MB): 0.497264
INFO: Initialized session in 25.573ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=277 first=201009 curr=863 min=811 max=201009 avg=1760.78 std=11997

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=876 first=1272 curr=1730 min=810 max=6334 avg=1096.48 std=476

INFO: Inference timings in us: Init: 25573, First inference: 201009, Warmup (avg): 1760.78, Inference (avg): 1096.48
INFO: {NOTE}
INFO: Memory footprint delta from the start of the tool (MB): init=15.4688 overall=43.2852
""",
        Run(876, 1.09648, None, 25.573, 43.2852, 1),
    ),
    "parts of the graph, in Android's log": (
        f"""
05-30 15:16:44.857  3380  3380 I tflite  : Explicitly applied NNAPI delegate, and the model graph will be partially \
executed by the delegate w/ 44 delegate kernels.
05-30 15:16:44.858  3380  3380 I tflite  : Initialized session in 126.059ms.
05-30 15:16:45.362  3380  3380 I tflite  : count=40 first=32942 curr=12594 min=11340 max=32942 avg=12581.9 std=3331
05-30 15:16:46.365  3380  3380 I tflite  : count=75 first=12840 curr=11853 min=11787 max=13649 avg=12167.6 std=325
05-30 15:16:46.366  3380  3380 I tflite  : Inference timings in us: Init: 126059, First inference: 32942, \
Warmup (avg): 12581.9, Inference (avg): 12167.6
05-30 15:16:46.366  3380  3380 I tflite  : {NOTE}
""",
        Run(75, 12.1676, None, 126.059, None, 44),
    ),
    # 2026
    "percentiles": (
        """
I tflite  : The input model file size (MB): 3.06409
I tflite  : Initialized session in 92.318ms.
I tflite  : count=3 first=235158 curr=200386 min=199462 max=235158 avg=211669 std=16613 p5=199462 \
median=200386 p95=235158
I tflite  : count=25 first=187533 curr=140990 min=140071 max=195121 avg=145528 std=13583 p5=140545 \
median=141253 p95=187533
I tflite  : Inference timings in us: Init: 92318, First inference: 187533, Warmup (avg): 211669, Inference (avg): 145528
I tflite  : Memory footprint delta from the start of the tool (MB): init=54.2852 overall=73.4102
""",
        Run(25, 145.528, 141.253, 92.318, 73.4102, 0),
    ),
    # as the tool's source prints it
    "all runs alike": (
        """
INFO: count=10 curr=30(all same) p5=30 median=30 p95=30
INFO: Inference timings in us: Init: 10, First inference: 30, Warmup (avg): 30.5, Inference (avg): 30
""",
        Run(10, 0.030, 0.030, 0.010, None, 0),
    ),
}


def assert_same(run, expected):
    assert dataclasses.asdict(run) == pytest.approx(dataclasses.asdict(expected))


class TestParse:
    @pytest.mark.parametrize("name", REPORTS)
    def test_real_reports(self, name):
        report, expected = REPORTS[name]
        assert_same(benchmark_model.parse(report), expected)

    def test_carriage_returns(self):
        """Old versions of adb end lines this way."""
        report, expected = REPORTS["percentiles"]
        assert_same(benchmark_model.parse(report.replace("\n", "\r\n")), expected)

    def test_profile_behind_the_summary_is_not_read(self):
        report, expected = REPORTS["external delegate"]
        profile = "Timings (microseconds): count=9 first=1 curr=1 min=1 max=1 avg=1 std=0\n"
        assert_same(benchmark_model.parse(report + profile), expected)

    @pytest.mark.parametrize(
        "report",
        [
            "",
            "ERROR: Failed to load model x.tflite\n",
            "INFO: count=277 first=1 curr=2 min=1 max=2 avg=1 std=1\nKilled\n",
        ],
    )
    def test_no_report(self, report):
        with pytest.raises(ValueError, match="without a report of timed runs; its last lines were:") as error:
            benchmark_model.parse(report)
        assert str(error.value).endswith(report.strip())

    def test_typical(self):
        assert [REPORTS[name][1].typical for name in ("percentiles", "peak memory")] == [141.253, 249.684]


class Script(devices.Device):
    """A device that takes files, writes down the commands, and answers with reports."""

    def __init__(self, claimed=8):
        self.files, self.commands, self.claimed, self.failing = {}, [], claimed, None

    def put(self, content, name, executable=False):
        assert name not in self.files, "put twice"
        self.files[name] = content, executable
        return f"/folder/{name}"

    def run(self, command):
        if self.failing in command:
            raise ValueError("it ended with status 1: out of memory")
        self.commands.append(command)
        delegate = any("--external_delegate_path" in argument for argument in command)
        number = sum(command == each for each in self.commands)  # the round
        mean = (100 if delegate else 400) * number
        claimed = f"partially executed by the delegate w/ {self.claimed} delegate kernels." if delegate else ""
        if delegate and not self.claimed:
            claimed = (
                "Though EXTERNAL delegate is explicitly applied, the model graph will not be executed by the delegate"
            )
        return f"""{claimed}
            count=7 first=9 curr=9 min=9 max=9 avg={mean} std=1
            Inference timings in us: Init: 1, First inference: 1, Warmup (avg): 1, Inference (avg): {mean}"""

    def describe(self):
        return {}

    def close(self):
        pass


SETTINGS = Settings(threads=2, rounds=3, runs=20, seconds=0.5, cool_down=0)


class TestMeasure:
    @pytest.fixture
    def paths(self, tmp_path):
        for name in ("tool", "delegate", "dense.tflite"):
            (tmp_path / name).write_text(name)
        return [str(tmp_path / name) for name in ("tool", "delegate", "dense.tflite")]

    @pytest.fixture
    def candidates(self, paths):
        return [
            measurement.Candidate("dense", paths[2], False, 8_000_000),
            measurement.Candidate("portable", b"a file", False, 2_000_000),
            measurement.Candidate("delegate", b"a file", True, 2_000_000, {"path": "neon", "winograd": 0}),
        ]

    def test_steps(self, paths, candidates):
        device = Script()
        benchmark_model.measure(device, paths[0], paths[1], candidates, SETTINGS)
        assert device.files.pop("benchmark_model") == (b"tool", True)
        assert device.files.pop("libfbs_delegate.so") == (b"delegate", False)
        assert sorted(content for content, _ in device.files.values()) == [b"a file", b"dense.tflite"]
        names = {content: name for name, (content, _) in device.files.items()}
        common = "--num_threads=2 --num_runs=20 --min_secs=0.5"
        ours = "--external_delegate_path=/folder/libfbs_delegate.so --external_delegate_options=path:neon;winograd:0"
        expected = [
            f"/folder/benchmark_model --graph=/folder/{names[b'dense.tflite']} {common}",
            f"/folder/benchmark_model --graph=/folder/{names[b'a file']} {common}",
            f"/folder/benchmark_model --graph=/folder/{names[b'a file']} {common} {ours}",
        ]
        rounds = [sorted(map(" ".join, device.commands[i : i + 3])) for i in (0, 3, 6)]
        assert rounds == [sorted(expected)] * 3

    def test_order_changes(self, paths, candidates):
        device = Script()
        benchmark_model.measure(device, paths[0], paths[1], candidates, dataclasses.replace(SETTINGS, rounds=20))
        assert len({tuple(map(tuple, device.commands[i : i + 3])) for i in range(0, 60, 3)}) > 3

    def test_cores(self, paths, candidates):
        device = Script()
        benchmark_model.measure(device, paths[0], None, candidates[:1], dataclasses.replace(SETTINGS, cpus="f0"))
        assert all(command[:3] == ["taskset", "f0", "/folder/benchmark_model"] for command in device.commands)

    def test_cool_down(self, paths, candidates, monkeypatch):
        rests = []
        monkeypatch.setattr(benchmark_model.time, "sleep", rests.append)
        settings = dataclasses.replace(SETTINGS, cool_down=2.5)
        benchmark_model.measure(Script(), paths[0], paths[1], candidates, settings)
        assert rests == [2.5] * 9

    def test_timings(self, paths, candidates):
        results = benchmark_model.measure(Script(), paths[0], paths[1], candidates, SETTINGS)
        dense, portable, ours = benchmark_model.timings(candidates, results)
        assert dense == measurement.Timing(
            "dense", 0.8, pytest.approx(0.48), pytest.approx(1.12), 1.0, 21, 8_000_000, 12
        )
        assert (portable.speedup, portable.file_bytes) == (1.0, 6)
        assert (ours.median, ours.speedup, ours.macs) == (pytest.approx(0.2), pytest.approx(4.0), 2_000_000)
        assert measurement.table([dense, portable, ours]).count("4.00x") == 3  # and fewer MACs, twice
        rounds = benchmark_model.as_json(results)["delegate"]
        assert [each["mean"] for each in rounds] == [0.1, 0.2, pytest.approx(0.3)]
        assert rounds[0]["delegate_kernels"] == 8

    def test_delegate_that_takes_nothing(self, paths, candidates):
        with pytest.raises(ValueError, match="delegate: benchmark_model ran the file without the FBS delegate"):
            benchmark_model.measure(Script(claimed=0), paths[0], paths[1], candidates[2:], SETTINGS)

    def test_the_error_names_the_candidate(self, paths, candidates):
        device = Script()
        device.failing = "--num_threads=2"
        with pytest.raises(ValueError, match="dense: it ended with status 1: out of memory"):
            benchmark_model.measure(device, paths[0], None, candidates[:1], SETTINGS)

    def test_commands_can_be_typed(self, paths, candidates):
        """An option's ';' is the shell's, too."""
        device = Script()
        benchmark_model.measure(device, paths[0], paths[1], candidates[2:], SETTINGS)
        assert "'--external_delegate_options=path:neon;winograd:0'" in shlex.join(device.commands[0])
