"""Times exported files with TFLite's own `benchmark_model`, on a phone or on this machine, and reads its reports."""

import dataclasses
import hashlib
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tqdm import tqdm

from fbs_keras.benchmarks.devices import Device
from fbs_keras.benchmarks.measurement import Candidate, Timing

TOOL, DELEGATE = "benchmark_model", "libfbs_delegate.so"

NUMBER = r"([\d.]+(?:e[+-]?\d+)?)"
# The second is the form of 2019.
TIMINGS = (
    re.compile(rf"Inference timings in us: Init: {NUMBER}, .*Inference \(avg\): {NUMBER}"),
    re.compile(rf"Average inference timings in us: Warmup: {NUMBER}, Init: {NUMBER}, .*?Inference: {NUMBER}"),
)
# "count=50 first=9 curr=9 min=8 max=10 avg=9 std=1 p5=8 median=9 p95=10", older tools without percentiles. What is the
# same in all runs is said once: "count=10 curr=30(all same) p5=30 ...".
STATISTICS = re.compile(r"count=\d+ .*curr=.*")
MEMORY = re.compile(rf"emory footprint.* \(MB\): init={NUMBER} overall={NUMBER}")
KERNELS = re.compile(r"executed by the delegate w/ (\d+) delegate kernels")


@dataclasses.dataclass(frozen=True)
class Run:
    """What `benchmark_model` reports of one run of itself, in milliseconds and megabytes.

    Attributes:
        runs: How many inferences it timed, after those to warm up.
        mean: Their mean.
        median: Their median, where the tool reports it.
        init: Loading the file and preparing it.
        memory: By how much the process grew, where the tool reports it.
        delegate_kernels: How many parts of the graph the delegate runs; 0 without one.
    """

    runs: int
    mean: float
    median: float | None
    init: float
    memory: float | None
    delegate_kernels: int

    @property
    def typical(self) -> float:
        """The median, else the mean."""
        return self.mean if self.median is None else self.median


def parse(report: str) -> Run:
    """Reads what `benchmark_model` printed; old and new forms of its report, and those of Android's log.

    Args:
        report: All that it printed, to stdout and stderr.

    Returns:
        A `Run`.

    Raises:
        ValueError: If that is no report of a finished run; the message ends with the last lines of it.

    Example:

    >>> parse(subprocess.run([tool, "--graph=model.tflite"], capture_output=True, text=True).stdout).mean
    0.853
    """
    timings, older = (pattern.search(report) for pattern in TIMINGS)
    found = timings or older
    # The last one before the summary is of the timed runs; one before it is of the warm-up, one after of a profile.
    statistics = STATISTICS.findall(report[: found.start()]) if found else []
    if not found or not statistics:
        tail = "\n".join(report.strip().splitlines()[-8:])
        raise ValueError(f"benchmark_model ended without a report of timed runs; its last lines were:\n{tail}")
    values = {key: float(value) for key, value in re.findall(rf"(\w+)={NUMBER}", statistics[-1])}
    *_, init, mean = (float(group) / 1e3 for group in found.groups())
    memory, kernels = MEMORY.search(report), KERNELS.search(report)
    whole_graph = "graph will be completely executed by the delegate" in report
    return Run(
        runs=int(values["count"]),
        mean=mean,
        median=values["median"] / 1e3 if "median" in values else None,
        init=init,
        memory=float(memory[2]) if memory else None,
        delegate_kernels=int(kernels[1]) if kernels else int(whole_graph),
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to run the tool.

    Attributes:
        threads: Threads of each file.
        rounds: How often each file is timed, each time in a process of its own.
        runs: The least number of timed inferences in a round.
        seconds: The least time for these.
        cool_down: Seconds of rest before each of these processes.
        cpus: The mask of the cores to run on, as `taskset` takes it, in hexadecimal: "f0" are cores 4 to 7. All of them
            if empty.
    """

    threads: int = 1
    rounds: int = 5
    runs: int = 50
    seconds: float = 1.0
    cool_down: float = 5.0
    cpus: str = ""


def measure(
    device: Device,
    tool: str,
    delegate: str | None,
    candidates: Sequence[Candidate],
    settings: Settings,
    progress: bool = False,
) -> dict[str, list[Run]]:
    """Times files on a device: in turns, each round in another order, so that heat and other work hits all.

    Args:
        device: Where.
        tool: The path of a `benchmark_model` that runs there.
        delegate: The path of an FBS delegate that does; `None` will do if no candidate uses it.
        candidates: What to time.
        settings: How.
        progress: Whether to show a progress bar. Defaults to `False`.

    Returns:
        The `Run` of each round by the candidates' names.

    Raises:
        ValueError: If the tool cannot run a file, or the delegate did not take its ops.
        OSError: If a path cannot be copied to the device.
    """
    put_tool = device.put(Path(tool).read_bytes(), TOOL, executable=True)
    put_delegate = device.put(Path(delegate).read_bytes(), DELEGATE) if delegate else None
    commands: dict[str, list[str]] = {}
    files: dict[str, str] = {}
    for each in candidates:
        content = each.model if isinstance(each.model, bytes) else Path(each.model).read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        if digest not in files:
            files[digest] = device.put(content, f"{digest}.tflite")
        commands[each.name] = _command(each, files[digest], put_tool, put_delegate, settings)

    random = Random(0)
    results: dict[str, list[Run]] = {each.name: [] for each in candidates}
    with tqdm(total=settings.rounds * len(candidates), desc="timing", unit="run", disable=not progress) as bar:
        for _ in range(settings.rounds):
            for each in random.sample(list(candidates), len(candidates)):
                time.sleep(settings.cool_down)
                try:
                    run = parse(device.run(commands[each.name]))
                except ValueError as error:
                    raise ValueError(f"{each.name}: {error}") from None
                if each.use_delegate and not run.delegate_kernels:
                    raise ValueError(
                        f"{each.name}: benchmark_model ran the file without the FBS delegate. Is the delegate "
                        f"built for this device, and does the file hold FBS ops? The command was {commands[each.name]}"
                    )
                results[each.name].append(run)
                bar.update()
    return results


def _command(candidate: Candidate, model: str, tool: str, delegate: str | None, settings: Settings) -> list[str]:
    """The command that times a file for one round."""
    command = ["taskset", settings.cpus] if settings.cpus else []
    command += [tool, f"--graph={model}", f"--num_threads={settings.threads}"]
    command += [f"--num_runs={settings.runs}", f"--min_secs={settings.seconds:g}"]
    if candidate.use_delegate:
        command.append(f"--external_delegate_path={delegate}")
        options = ";".join(f"{key}:{value}" for key, value in (candidate.delegate_options or {}).items())
        if options:
            command.append(f"--external_delegate_options={options}")
    return command


def timings(candidates: Sequence[Candidate], results: dict[str, list[Run]]) -> list[Timing]:
    """The rounds of `measure` as `benchmarking.table` takes them: median and spread of the rounds' typical times."""
    rounds = {name: np.array([run.typical for run in runs]) for name, runs in results.items()}
    first = float(np.median(rounds[candidates[0].name]))
    rows = []
    for each in candidates:
        p10, median, p90 = (float(value) for value in np.percentile(rounds[each.name], [10, 50, 90]))
        size = len(each.model) if isinstance(each.model, bytes) else os.path.getsize(each.model)
        runs = sum(run.runs for run in results[each.name])
        rows.append(Timing(each.name, median, p10, p90, first / median, runs, each.macs, size))
    return rows


def as_json(results: dict[str, list[Run]]) -> dict[str, list[dict[str, Any]]]:
    """The rounds of `measure` as numbers, dictionaries and lists."""
    return {name: [dataclasses.asdict(run) for run in runs] for name, runs in results.items()}
