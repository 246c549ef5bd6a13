"""Runs changed model files in stock LiteRT with the delegate, in child processes.

    PYTHONPATH=tests:tflite python -m fuzz.mutants libfbs_delegate.so --count 100000 --findings folder

A file that ends its process is run again without the delegate, and with one that only refuses (`--refusing`). Where it
ends one of these too, the fault is LiteRT's, which does not promise to survive damaged files; so where LiteRT gives
nodes to any delegate by what it reads outside of its tables. Else it is a finding, and is kept in the folder. Prints
what became of all.
"""

import argparse
import ctypes
import json
import mmap
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
from ai_edge_litert import interpreter as litert
from fuzz import mutations
from fuzz.mutations import schema

CPU_SECONDS, SECONDS = 20, 300  # the most that one file may take
MEMORY = 6 << 30  # of the address space of a child
MOST_INPUT = 1 << 20  # elements that we are willing to fill: more take too long under sanitizers
OWN_FAULT = 70  # the exit code of a child that failed by this program's fault


class Progress:
    """Numbers that a child leaves behind: the file at hand, how many were run and how many refused."""

    def __init__(self):
        self.numbers = (ctypes.c_int64 * 3).from_buffer(mmap.mmap(-1, 24))

    current, ran, refused = (
        property(lambda self, n=n: self.numbers[n], lambda self, value, n=n: self.numbers.__setitem__(n, value))
        for n in range(3)
    )


def values_for(details, rng):
    """What an input is run with: any floats; integers that are mostly indices."""
    shape, dtype = details["shape"], details["dtype"]
    if np.prod(shape, dtype=np.float64) > MOST_INPUT:
        raise ValueError("too large an input")
    random_values = np.random.default_rng(rng.randrange(2**32))
    if np.issubdtype(dtype, np.floating):
        values = random_values.normal(size=shape).astype(dtype)
        if rng.random() < 0.1 and values.size:
            values.flat[0] = rng.choice(mutations.FLOATS)
        return values
    if np.issubdtype(dtype, np.integer):
        return random_values.integers(0, 127 if rng.random() < 0.05 else 4, size=shape).astype(dtype)
    return np.zeros(shape, dtype)


def run_model(content, seed, library):
    """Loads and runs a file; `library`: the delegate's, or None."""
    rng = random.Random(seed)
    options = {"path": rng.choice(["auto", "auto", "plain", "reference"])}
    threads = rng.choice([1, 1, 1, 2])
    delegates = [litert.load_delegate(library, options)] if library else []
    interpreter = litert.Interpreter(model_content=content, experimental_delegates=delegates, num_threads=threads)
    interpreter.allocate_tensors()
    if rng.random() < 0.2 and interpreter.get_input_details():
        details = rng.choice(interpreter.get_input_details())
        shape = mutations.change_integers(details["shape"], rng, [1, 2, 3, 5, 9])
        interpreter.resize_tensor_input(details["index"], shape)
        interpreter.allocate_tensors()
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], values_for(details, rng))
    for _ in range(2):
        interpreter.invoke()
    for details in interpreter.get_output_details():
        interpreter.get_tensor(details["index"])


def run_child(models, seeds, library, progress, log, sanitized):
    """Runs the mutants of these seeds in a child; returns its status, 0 when it came to the end."""
    log.seek(0)
    log.truncate()
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        if os.waitstatus_to_exitcode(status) == OWN_FAULT:
            log.seek(0)
            raise RuntimeError(log.read().decode(errors="replace")[-3000:])
        return status
    try:
        os.dup2(log.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if not sanitized:  # a sanitizer's shadow memory has more addresses than any limit
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        names = sorted(models)
        for seed in seeds:
            progress.current = seed
            content = mutations.mutant(models[names[seed % len(names)]], seed)
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                run_model(content, seed, library)
                refused = False
            except Exception:  # by our ops, by LiteRT, or by its wrapper
                refused = True
            # Counted when the interpreter is gone, since that may end the process too.
            progress.refused += refused
            progress.ran += not refused
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(OWN_FAULT)


def names_no_tensor(content):
    """Whether a graph's outputs name no tensor, which LiteRT looks up nevertheless once a delegate takes a node."""
    try:
        graphs = schema.ModelT.InitFromPackedBuf(bytearray(content), 0).subgraphs or []
    except Exception:  # whatever the reader meets in changed bytes
        return False
    return any(output < 0 for graph in graphs for output in mutations.integers(graph.outputs))


def run_mutants(
    models, first, count, library, findings, refusing=None, sanitized=False, batch=100, tell=lambda *args: None
):
    """Runs `count` mutants, whose seeds begin at `first`; returns numbers, and the findings' names."""
    findings = Path(findings)
    result = {"mutants": count, "ran": 0, "refused": 0, "LiteRT's own": 0, "findings": []}
    progress, start, names = Progress(), time.monotonic(), sorted(models)
    with tempfile.TemporaryFile() as log:
        seed, end = first, first + count
        while seed < end:
            last = min(seed + batch, end)
            status = run_child(models, range(seed, last), library, progress, log, sanitized)
            if status == 0:
                seed = last
            else:
                seed = progress.current
                log.seek(0)
                report = log.read()[-8000:]
                name = names[seed % len(names)]
                content = mutations.mutant(models[name], seed)
                others = [None, *([refusing] if refusing else [])]
                if names_no_tensor(content) or any(
                    run_child(models, [seed], other, Progress(), log, sanitized) != 0 for other in others
                ):
                    result["LiteRT's own"] += 1
                else:
                    findings.mkdir(parents=True, exist_ok=True)
                    (findings / f"mutant{seed}.tflite").write_bytes(content)
                    (findings / f"mutant{seed}.txt").write_bytes(f"{name}, status {status}\n".encode() + report)
                    result["findings"].append(f"mutant{seed} of '{name}', status {status}")
                seed += 1
            result["ran"], result["refused"] = progress.ran, progress.refused
            tell(seed - first, time.monotonic() - start, result)
    result["seconds"] = round(time.monotonic() - start)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", help="the delegate")
    parser.add_argument("--count", type=int, default=1000, help="how many files (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first one's number (default: %(default)s)")
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="a folder (default: %(default)s)")
    parser.add_argument("--models", type=Path, help="a folder of more .tflite files to change")
    parser.add_argument("--refusing", help="a delegate that refuses every model")
    parser.add_argument("--sanitized", action="store_true", help="the library was built with AddressSanitizer")
    arguments = parser.parse_args()
    models = mutations.op_models()
    for path in sorted(arguments.models.glob("*.tflite")) if arguments.models else []:
        models[path.name] = path.read_bytes()
    told = 0

    def tell(done, seconds, result):
        nonlocal told
        if done - told >= 1000:
            told = done
            print(f"{done} in {seconds:.0f} s: {json.dumps(result)}", file=sys.stderr, flush=True)

    result = run_mutants(
        models,
        arguments.first,
        arguments.count,
        arguments.library,
        arguments.findings,
        arguments.refusing,
        arguments.sanitized,
        tell=tell,
    )
    print(json.dumps(result, indent=1), flush=True)
    sys.exit(bool(result["findings"]))


if __name__ == "__main__":
    main()
