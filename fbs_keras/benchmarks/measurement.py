"""Times exported files against each other: in one process, in turns, so that other work on the machine hits all."""

import dataclasses
import gc
import os
import platform
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tqdm import tqdm

from fbs_keras.runtime import DelegateWarning, Interpreter

BLOCK = 10  # runs in a row of one candidate: its weights are as warm in the caches as when it runs alone
LONGEST_BLOCK = 0.1  # s; what takes longer fills the caches by itself, and what disturbs it is to hit the others, too


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A file to be timed.

    Attributes:
        name: What the table calls it.
        model: Its path or bytes.
        use_delegate: Whether it runs with the FBS delegate.
        macs: MACs for one image, where known.
        delegate_options: The delegate's options, as `fbs_keras.Interpreter` takes them.
    """

    name: str
    model: str | bytes
    use_delegate: bool
    macs: int | None = None
    delegate_options: Mapping[str, Any] | None = None

    def interpreter(self, num_threads: int = 1) -> Interpreter:
        """An interpreter of the file, fed with standard normal inputs."""
        interpreter = Interpreter(self.model, num_threads, self.use_delegate, self.delegate_options)
        feed(interpreter)
        return interpreter


@dataclasses.dataclass(frozen=True)
class Timing:
    """How long one candidate took: milliseconds for one invocation.

    Attributes:
        name: The candidate's.
        median, p10, p90: Median and spread (10th and 90th percentile) of the runs.
        speedup: The first candidate's median over this one's.
        runs: How many runs these are of.
        macs: MACs for one image, where known.
        file_bytes: The file's size.
    """

    name: str
    median: float
    p10: float
    p90: float
    speedup: float
    runs: int
    macs: int | None
    file_bytes: int


def interleave(
    functions: Mapping[str, Callable[[], Any]], runs: int = 200, progress: bool = False, block: int = BLOCK
) -> dict[str, np.ndarray]:
    """Times functions in turns: blocks of a few runs of each, over and over, every round in another order.

    The first run of a block only warms up and is not counted. More than that depends on what ran before, such as the
    caches' content and the CPU's clock: in a fixed order, twins differed by 6 %, at random by 1 %.

    Args:
        functions: What to time, by name.
        runs: Timed runs of each; a positive integer, above `block` rounded up to a multiple of it. Defaults to 200.
        progress: Whether to show a progress bar. Defaults to `False`.
        block: Timed runs of a block. Defaults to 10.

    Returns:
        The times in seconds by name, each an array of `runs` in the order they were taken.

    Example:

    >>> times = interleave({"dense": dense.litert.invoke, "fbs": fbs.litert.invoke})
    >>> np.median(times["dense"]) / np.median(times["fbs"])
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, got {runs}")
    names = list(functions)
    random = Random(0)
    block = min(runs, block)
    times: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in tqdm(range(-(-runs // block)), desc="timing", unit="round", disable=not progress):
            for name in random.sample(names, len(names)):
                function = functions[name]
                function()
                for _ in range(block):
                    start = time.perf_counter()
                    function()
                    times[name].append(time.perf_counter() - start)
    finally:
        if collecting:
            gc.enable()
    return {name: np.array(values) for name, values in times.items()}


def plan_runs(functions: Mapping[str, Callable[[], Any]], seconds: float) -> tuple[int, int]:
    """How to interleave functions so that it takes about `seconds` times as many seconds as there are functions.

    Args:
        functions: What is to be timed; each is called twice.
        seconds: The average time for a function, above 0.

    Returns:
        `(runs, block)` for `interleave`.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
    for function in functions.values():
        function()
    start = time.perf_counter()
    for function in functions.values():
        function()
    each = max((time.perf_counter() - start) / len(functions), 1e-6)
    block = min(BLOCK, max(2, round(LONGEST_BLOCK / each)))
    return block * max(1, round(seconds / each / (block + 1))), block


def model_candidates(model: Any, batch_size: int = 1, quantize: str | None = None) -> list[Candidate]:
    """What an FBS model is to be compared with, and it itself.

    Args:
        model: A Keras model with FBS layers.
        batch_size: The files' batch size. Defaults to 1.
        quantize: How the weights of all files are stored; see `fbs_keras.convert`. Defaults to `None`, float32.

    Returns:
        Candidates "dense" (all channels, XNNPACK), "static" (a plain network as narrow as the FBS one, XNNPACK: the
        ideal), "FBS portable" (built-in ops and XNNPACK) and "FBS delegate".

    Raises:
        ValueError: If the model has no FBS layers, or cannot be exported.
    """
    from fbs_keras import export
    from fbs_keras.costs.macs import count_macs
    from fbs_keras.layers.densities import fbs_layers

    if not fbs_layers(model):
        raise ValueError(f"model {model.name!r} has no FBS layers; make them with fbs_keras.wrap(model) first")

    report = count_macs(model)
    portable = export.convert(model, batch_size=batch_size, quantize=quantize)
    return [
        Candidate("dense", export.baseline(model, "dense", batch_size, quantize), False, report.dense),
        Candidate("static", export.baseline(model, "static", batch_size, quantize), False, report.conv),
        Candidate("FBS portable", portable, False, report.fbs),
        Candidate("FBS delegate", portable, True, report.fbs),
    ]


def file_candidates(paths: Sequence[str]) -> list[Candidate]:
    """The given files; those that hold FBS ops with the delegate, and without it where they run without.

    Raises:
        ValueError: If a path is no TFLite model.
    """
    candidates = []
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DelegateWarning)  # a file without FBS ops is one to compare with
            claimed = Interpreter(path).partitions.claimed
        try:
            Interpreter(path, use_delegate=False)
            candidates.append(Candidate(path, path, False))
        except ValueError:
            if not claimed:
                raise
            # Custom ops: it runs with the delegate only.
        if claimed:
            candidates.append(Candidate(f"{path} + delegate", path, True))
    return candidates


def measure(
    candidates: Sequence[Candidate],
    num_threads: int = 1,
    runs: int = 200,
    progress: bool = False,
    seconds: float | None = None,
) -> list[Timing]:
    """Times candidates against the first of them, on standard normal input.

    Args:
        candidates: What to time.
        num_threads: Threads of each. Defaults to 1.
        runs: Timed runs of each. Defaults to 200.
        progress: Whether to show a progress bar. Defaults to `False`.
        seconds: The average time to spend on a candidate, instead of `runs`. Defaults to `runs`.

    Returns:
        A `Timing` for each candidate, in their order.
    """
    interpreters = {candidate.name: candidate.interpreter(num_threads) for candidate in candidates}
    functions = {name: interpreter.litert.invoke for name, interpreter in interpreters.items()}
    runs, block = plan_runs(functions, seconds) if seconds else (runs, BLOCK)
    times = interleave(functions, runs, progress, block)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    timings = []
    for candidate in candidates:
        p10, p90 = np.percentile(times[candidate.name], [10, 90]) * 1e3
        median = medians[candidate.name]
        size = len(candidate.model) if isinstance(candidate.model, bytes) else os.path.getsize(candidate.model)
        timings.append(
            Timing(
                name=candidate.name,
                median=median * 1e3,
                p10=float(p10),
                p90=float(p90),
                speedup=medians[candidates[0].name] / median,
                runs=len(times[candidate.name]),
                macs=candidate.macs,
                file_bytes=size,
            )
        )
    return timings


def feed(interpreter: Interpreter) -> None:
    """Gives a file standard normal inputs."""
    random = np.random.default_rng(0)
    for details in interpreter.litert.get_input_details():
        interpreter.litert.set_tensor(details["index"], random.normal(size=details["shape"]).astype(details["dtype"]))


def profile(
    model: str | bytes,
    num_threads: int = 1,
    runs: int = 200,
    delegate_options: Mapping[str, Any] | None = None,
    feed: Callable[[Interpreter], Any] = feed,
) -> list[dict[str, Any]]:
    """The times and the memory of each FBS op in the delegate.

    Args:
        model: The path or bytes of a file with FBS ops.
        num_threads: Threads. Defaults to 1.
        runs: How many runs. Defaults to 200.
        delegate_options: The delegate's other options. Defaults to none.
        feed: Sets the inputs. Defaults to standard normal ones.

    Returns:
        For each op, in the order of the graph, `op` (its name), `kernel`, `shape`, `macs` (convolution and predictor,
        for the whole batch), `workspace_bytes` (scratch memory, which all ops share: the delegate holds as much as the
        largest of them), `plan_bytes` (memory of its own, besides the file's weights), `runs`, `median_us` and
        `min_us`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "profile.tsv")
        interpreter = Interpreter(model, num_threads, delegate_options={**(delegate_options or {}), "profile": path})
        feed(interpreter)
        for _ in range(runs):
            interpreter.litert.invoke()
        del interpreter  # writes the file
        header, *lines = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    numbers = {"macs": int, "workspace_bytes": int, "plan_bytes": int, "runs": int, "median_us": float, "min_us": float}
    return [{key: numbers.get(key, str)(value) for key, value in zip(header, line, strict=True)} for line in lines]


def report_head(command: str, threads: int, environment: Mapping[str, Any]) -> str:
    """What a report of times begins with: the command, the device, the versions and the commit."""
    device = environment["device"]
    versions = [f"{name} {version}" for name, version in environment["versions"].items() if version]
    if environment["commit"]:
        versions.append(f"commit {environment['commit']}")
    isa = ", ".join(device["isa"])
    return "\n".join(
        [
            command,
            f"{device['cpu']} ({isa}), {threads} of {device['cores']} cores, {device['system']}",
            ", ".join(versions),
        ]
    )


def environment() -> dict[str, Any]:
    """What a time depends on: device, versions, commit."""
    packages = ("keras", "tensorflow", "ai-edge-litert", "numpy")
    versions = {"fbs-keras": _version("fbs-keras"), "python": platform.python_version()}
    return {
        "device": _device(),
        "versions": versions | {name: _version(name) for name in packages},
        "commit": _commit(),
    }


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device():
    """CPU model, its vector instructions, cores, system."""
    path = Path("/proc/cpuinfo")
    cpu, isa = cpu_and_isa(path.read_text(encoding="utf-8") if path.exists() else "")
    return {
        "cpu": cpu or platform.processor() or platform.machine(),
        "isa": isa,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def cpu_and_isa(cpuinfo: str) -> tuple[str | None, list[str]]:
    """The CPU's name, if it has one, and those of its vector instructions that matter, in Linux's /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    names = ("avx2", "fma", "avx512f", "avx512_vnni", "asimd", "asimddp")
    return fields.get("model name"), [flag for flag in names if flag in flags]


def _commit():
    """The commit of the checkout this package is in, with "-dirty" when files were changed since; else `None`."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def table(timings: Sequence[Timing]) -> str:
    """The timings as text."""
    heads = ["", "median ms", "p10-p90", "speed-up", "M MACs", "fewer", "file MB"]
    rows = [heads]
    for timing in timings:
        macs = fewer = "-"
        if timing.macs and timings[0].macs:
            macs, fewer = f"{timing.macs / 1e6:.2f}", f"{timings[0].macs / timing.macs:.2f}x"
        spread = f"{timing.p10:.3f}-{timing.p90:.3f}"
        size = f"{timing.file_bytes / 1e6:.2f}"
        rows.append([timing.name, f"{timing.median:.3f}", spread, f"{timing.speedup:.2f}x", macs, fewer, size])
    return aligned(rows, left=1)


def profile_table(ops: Sequence[Mapping[str, Any]]) -> str:
    """The result of `profile` as text, with the rate of each op, its share of their sum, and its memory."""
    total = sum(op["median_us"] for op in ops)
    rows = [["op", "kernel", "shape", "median us", "share", "M MACs", "GMAC/s", "workspace KB", "plan KB"]]
    for op in ops:
        micros = op["median_us"]
        share, rate = (f"{micros / total:.1%}", f"{op['macs'] / micros / 1e3:.1f}") if micros else ("-", "-")
        memory = [f"{op[key] / 1e3:.1f}" for key in ("workspace_bytes", "plan_bytes")]
        rows.append(
            [op["op"], op["kernel"], op["shape"], f"{micros:.1f}", share, f"{op['macs'] / 1e6:.2f}", rate, *memory]
        )
    return aligned(rows, left=3)


def aligned(rows: list[list[str]], left: int) -> str:
    """Rows of text as one text, in columns, the first `left` of them aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(cell.ljust(n) if i < left else cell.rjust(n) for i, (cell, n) in enumerate(cells)))
    return "\n".join(lines)
