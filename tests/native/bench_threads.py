"""Times two threads and 64 against one while others use the cores, in the delegate and in XNNPACK.

docs/kernels_notebook.md has what was measured.

    python tests/native/bench_threads.py [--seconds S] [--other another/libfbs_delegate.so] [condition ...]

Each condition (below) has a process of its own, in which everything takes turns. Columns: the median in microseconds,
and how many times as long as one thread of the same kind that is, by the median and by the mean, which shows what a
median hides: that some runs wait for milliseconds. `--other` is timed beside the installed delegate, to compare two
versions.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ai_edge_litert import interpreter as litert

sys.path.insert(0, str(Path(__file__).parent.parent))
from op_files import Op, op_file

import fbs_keras

# Later layers of M-CifarNet, and two of a few microseconds; XNNPACK's are plain ones, as narrow.
NETWORKS = {
    "large": [Op(height=15, width=15, in_channels=128, active=64, filters=128, k=64)] * 4,
    "small": [Op(height=6, width=6, in_channels=32, active=16, filters=32, k=16)] * 2,
}
# Which cores this process may use, whether only after it has started its threads, and which cores others keep busy.
CONDITIONS = {
    "free": ([0, 1], False, []),
    "one busy": ([0, 1], False, [1]),
    "both busy": ([0, 1], False, [0, 1]),
    "both busy, twice": ([0, 1], False, [0, 0, 1, 1]),
    "pinned to a free core": ([0], False, []),
    "pinned to a busy core": ([0], False, [0]),
    "pinned later": ([0], True, [0]),
}
THREADS = (1, 2, 64)
BLOCK = 10


def write_files(folder):
    """`<network>.FBS` and `<network>.XNNPACK`."""
    import keras
    import tensorflow as tf

    for name, ops in NETWORKS.items():
        Path(folder, f"{name}.FBS").write_bytes(op_file(*ops))
        x = y = keras.Input((ops[0].height, ops[0].width, ops[0].active), batch_size=1)
        for op in ops:
            y = keras.layers.Conv2D(op.k, op.kernel, padding="same", activation="relu")(y)
        converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(x, y))
        Path(folder, f"{name}.XNNPACK").write_bytes(converter.convert())


def prepared(path, delegates, num_threads):
    interpreter = litert.Interpreter(str(path), num_threads=num_threads, experimental_delegates=delegates)
    interpreter.allocate_tensors()
    for details in interpreter.get_input_details():
        shape, dtype = details["shape"], details["dtype"]
        values = np.random.default_rng(0).normal(size=shape) if dtype == np.float32 else [np.arange(shape[-1]) * 2]
        interpreter.set_tensor(details["index"], np.asarray(values, dtype))
    return interpreter


def interleave(functions, seconds):
    """The times of each in microseconds: about `seconds` of it, less where others take much longer."""
    times = {name: [] for name in functions}
    spent = dict.fromkeys(functions, 0.0)
    while min(spent.values()) < seconds and sum(spent.values()) < 3 * seconds * len(functions):
        for name in random.sample(list(functions), len(functions)):
            for run in range(BLOCK + 1):  # the first one warms up
                start = time.perf_counter()
                functions[name]()
                took = time.perf_counter() - start
                spent[name] += took
                if run > 0:
                    times[name].append(1e6 * took)
    return times


def keep_busy(core):
    code = f"import os; os.sched_setaffinity(0, [{core}])\nwhile os.getppid() == {os.getpid()}: sum(range(10**6))"
    return subprocess.Popen([sys.executable, "-c", code])


def measure(name, folder, seconds, other):
    """Prints the rows of one condition."""
    cores, later, busy = CONDITIONS[name]
    if not later:
        os.sched_setaffinity(0, cores)
    libraries = {"delegate": fbs_keras.delegate_path(), **({"other": other} if other else {})}
    delegates = {kind: [litert.load_delegate(path)] for kind, path in libraries.items()} | {"XNNPACK": []}
    interpreters = {
        (network, kind, count): prepared(
            Path(folder, f"{network}.{'FBS' if delegates[kind] else kind}"), delegates[kind], count
        )
        for network in NETWORKS
        for kind in delegates
        for count in THREADS
    }
    for task in os.listdir("/proc/self/task") if later else []:
        os.sched_setaffinity(int(task), cores)
    others = [keep_busy(core) for core in busy]
    try:
        times = interleave({key: interpreter.invoke for key, interpreter in interpreters.items()}, seconds)
    finally:
        for process in others:
            process.kill()
    for network in NETWORKS:
        for kind in delegates:
            one, *more = (times[network, kind, count] for count in THREADS)
            row = f"{name:22} {network:6} {kind:9} {np.median(one):9.1f}"
            for several in more:
                median = np.median(several)
                row += f"{median:12.1f} {median / np.median(one):7.2f} {np.mean(several) / np.mean(one):7.2f}"
            print(row, flush=True)


def main():
    parser = argparse.ArgumentParser(description="Times threads on busy cores.")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each column of a row; default: %(default)s")
    parser.add_argument("--other", help="another build of the delegate")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # of the files: a process of one condition
    parser.add_argument("conditions", nargs="*", metavar="condition", help=", ".join(CONDITIONS))
    arguments = parser.parse_args()
    if arguments.folder:
        measure(*arguments.conditions, arguments.folder, arguments.seconds, arguments.other)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_files(folder)
        print(f"{'':39} {'1 thread':>9}{'2 threads':>12} {'median':>7} {'mean':>7}{'64':>12} {'median':>7} {'mean':>7}")
        for name in arguments.conditions or CONDITIONS:
            command = [sys.executable, __file__, f"--folder={folder}", f"--seconds={arguments.seconds}", name]
            subprocess.run([*command, *([f"--other={arguments.other}"] if arguments.other else [])], check=True)


if __name__ == "__main__":
    main()
