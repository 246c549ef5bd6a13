"""The libFuzzer targets of tests/native (fuzz_*.c): builds them, makes their seeds, runs them."""

import dataclasses
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import builds
import numpy as np
import op_files
from flatbuffers import flexbuffers

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "tests" / "native"
NAMES = sorted(source.stem for source in NATIVE.glob("fuzz_*.c"))
# Shares of the time: whole ops have the most to find.
SHARES = {"fuzz_attributes": 1, "fuzz_options": 1, "fuzz_add": 2, "fuzz_depthwise": 4, "fuzz_delegate": 6}
SHARES |= {"fuzz_conv2d": 6, "fuzz_conv2d_int8": 6}
FLAGS = ["-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-w"]
WRAPPED = ["fbs_threads_run", "malloc", "calloc", "realloc", "posix_memalign"]
LIMITS = ["-max_len=4096", "-timeout=120", "-rss_limit_mb=3000", "-malloc_limit_mb=1000"]

# Inputs that something was found with, and what that was.
REGRESSIONS = {
    "fuzz_conv2d": [  # gates below 2 beside larger ones: a shift of the winners' threshold overflowed
        bytes.fromhex("5606ffffff" + "f3" * 57 + "ff" * 14 + "18fb2d712861f3ad7faf3ec63070d6c10c7dc8db6cb10e00f20c4fc6")
        + bytes.fromhex("9ef3c67f84a6")
    ],
}


def missing():
    """Why the targets cannot be built here; None where they can."""
    if shutil.which("clang") is None:
        return "clang is not installed"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "empty.c")
        source.write_text("int LLVMFuzzerTestOneInput(const char* data, long size) { return !data && size; }\n")
        command = ["clang", "-fsanitize=fuzzer,address,undefined", str(source), "-o", str(source.with_suffix(""))]
        built = subprocess.run(command, capture_output=True, text=True)
    return None if built.returncode == 0 else f"clang has no libFuzzer or sanitizers: {built.stderr[-300:]}"


def flags_of(source):
    # Comparisons tell the fuzzer what a parser expects; in kernels they are loops' and cost half of the time.
    kernel = ROOT / "tflite" / "core" in source.parents
    coverage = "-fsanitize-coverage=inline-8bit-counters,pc-table" if kernel else "-fsanitize=fuzzer-no-link"
    # With sanitizers and optimisation, clang 14 needs minutes for the unrolled loops of these.
    optimisation = "-O0" if source.parent.name == "kernels" else "-O1"
    return [coverage, optimisation]


def build(folder, names=NAMES):
    """Compiles the delegate once and links each target with it in a folder; returns {name: executable}."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sources = [*(NATIVE / f"{name}.c" for name in names), *builds.sources()]
    objects = builds.objects(sources, FLAGS, flags_of, ["clang"])
    programs, library = objects[: len(names)], objects[len(names) :]
    for name, program in zip(names, programs, strict=True):
        # Only the host counts the memory that is asked for.
        wrapped = WRAPPED if name == "fuzz_delegate" else WRAPPED[:1]
        wraps = [f"-Wl,--wrap={function}" for function in wrapped]
        flags = [*FLAGS, "-fsanitize=fuzzer", *wraps]
        shutil.copy(builds.link(name, [program, *library], flags, ["clang"]), folder)
    return {name: folder / name for name in names}


def seeds(name):
    """The corpus that a target starts with: the same on every machine."""
    random = np.random.default_rng(0)
    attributes = [bytes(flexbuffers.Dumps(op.attributes)) for op in op_files.HOST_OPS.values()]
    if name == "fuzz_attributes":
        wide = {**op_files.Op().attributes, "k": 2**40, "group_size": -(2**33)}
        return [*attributes, *(bytes(flexbuffers.Dumps(other)) for other in (wide, {"padding": "x" * 300}))]
    if name == "fuzz_options":
        words = ["path", "reference", "method", "winograd2", "winograd", "0", "verbose", "1", "profile", "-"]
        return ["\0".join(["plain", "gemm", *words]).encode(), b"\0\0profile\0" + b"x" * 511, b"\0\0\1\1"]
    if name == "fuzz_delegate":
        # Op, form, threads, path, method; then what is spoilt: 8 are the attributes, which follow.
        hosts = [bytes([op, op % 2, 2, op % 2, op % 6]) for op in range(8)]
        attributes_of = [0, 1, 0, 0, 2, 3, 4, 5]
        valid = [host + b"\x08" + attributes[n] for host, n in zip(hosts, attributes_of, strict=True)]
        return valid + [host + bytes([spoils]) + random.bytes(24) for host in hosts for spoils in (0, 1, 2, 4)]
    return REGRESSIONS.get(name, []) + [random.bytes(length) for length in (20, 30, 40, 80, 160) for _ in range(12)]


@dataclasses.dataclass
class Run:
    """What a run of a target came to. `finding`: the end of its report where it stopped at an input, else empty."""

    name: str
    seconds: float
    executions: int
    edges: int
    finding: str

    def __str__(self):
        numbers = f"{self.seconds:6.0f} s {self.executions:11,d} executions {self.edges:6,d} edges"
        return f"{self.name:18} {numbers}   {'a finding' if self.finding else 'nothing found'}"


def run(executable, seconds, corpus, findings):
    """Fuzzes for so many seconds. New inputs are kept in the folder `corpus`, and one that fails in `findings`."""
    executable, corpus, findings = Path(executable), Path(corpus), Path(findings)
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(executable.name)):
        (corpus / f"seed{number}").write_bytes(seed)
    command = [str(executable), str(corpus), f"-artifact_prefix={findings}/", f"-max_total_time={max(1, int(seconds))}"]
    command += [*LIMITS, "-print_final_stats=1", "-seed=1"]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    report = result.stderr

    def last(pattern):
        found = re.findall(pattern, report)
        return int(found[-1]) if found else 0

    return Run(
        name=executable.name,
        seconds=seconds,
        executions=last(r"number_of_executed_units: (\d+)"),
        edges=last(r" cov: (\d+)"),
        finding="" if result.returncode == 0 else report[-6000:],
    )


def budgets(seconds):
    """{name: seconds}: the time shared among the targets."""
    total = sum(SHARES[name] for name in NAMES)
    return {name: seconds * SHARES[name] / total for name in NAMES}


def sanitized_environment():
    """For a program built without sanitizers that loads a library built with them."""
    options = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4000:handle_abort=0"
    return {"LD_PRELOAD": builds.sanitizer_preload(), "ASAN_OPTIONS": options}
