"""Times an FBS model on a phone against LiteRT's dense one, with TFLite's benchmark_model and the FBS delegate.

    python scripts/benchmark_android.py --model runs/fbs/model.keras --benchmark_model android_aarch64_benchmark_model
    python scripts/benchmark_android.py --graph dense.tflite --graph fbs.tflite --benchmark_model ... --cpus fast
    python scripts/benchmark_android.py --local --model runs/fbs/model.keras --benchmark_model linux_benchmark_model

Pushes the tool, the delegate and the files to a folder of the phone by adb, and runs the files in turns, several
rounds, with a rest before each run; the folder is removed in the end. The table and the JSON are those of
scripts/benchmark.py: the median of the rounds' medians (of their means, where an older tool reports no median), their
spread, and the ratio to the first line. "rounds" in the JSON has each of them, with memory and start-up.

benchmark_model is Google's: TensorFlow Lite's documentation, in its chapter on measuring performance, links prebuilt
ones ("native benchmark binary": android_aarch64 for phones, linux_x86-64 for --local).

Heat is what spoils such figures: take the phone out of its case and off its charger, and let --cool_down be long enough
that later rounds are as fast as earlier ones. What cannot be run ends with exit code 1 and a line that says why.
"""

import dataclasses
import hashlib
import json
import os
import shlex
import sys

from absl import flags

from _fbs_scripts import program

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "A .keras or .h5 file with FBS layers.")
flags.DEFINE_multi_string("graph", [], "A .tflite file; may be given several times.")
flags.DEFINE_string("benchmark_model", None, "TFLite's benchmark_model for the phone, or for this machine.")
flags.DEFINE_string("delegate", None, "The FBS delegate. Defaults to fbs_keras.delegate_path().")
flags.DEFINE_string("serial", None, "Which phone, as `adb devices` lists it, where there are several.")
flags.DEFINE_bool("local", False, "Run on this machine instead of a phone.")
flags.DEFINE_integer("threads", 1, "Threads.", lower_bound=1)
flags.DEFINE_integer("rounds", 5, "How often each file is run, in turns.", lower_bound=1)
flags.DEFINE_integer("runs", 50, "The least number of timed inferences in a round.", lower_bound=1)
flags.DEFINE_float("seconds", 1.0, "The least time for these.", lower_bound=0)
flags.DEFINE_float("cool_down", 5.0, "Seconds of rest before each run of a file.", lower_bound=0)
flags.DEFINE_string("cpus", "", "Cores to run on: 'fast', or a mask in hexadecimal as taskset's, such as f0.")
flags.DEFINE_integer("batch_size", 1, "The batch size of the files made from --model.", lower_bound=1)
flags.DEFINE_string("json", None, "A file to write the results to.")


def benchmark():
    if bool(FLAGS.model) == bool(FLAGS.graph):
        raise ValueError("expected one of --model and --graph")
    if FLAGS.local and FLAGS.serial:
        raise ValueError("--serial chooses a phone, and --local needs none")
    if not FLAGS.benchmark_model:
        raise ValueError(
            "--benchmark_model must be the path of TFLite's benchmark_model; TensorFlow Lite's documentation, in its "
            "chapter on measuring performance, links prebuilt ones (for phones: android_aarch64)"
        )
    for path in filter(None, (FLAGS.benchmark_model, FLAGS.delegate)):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {path!r}")

    from fbs_keras.benchmarks import devices

    with devices.Local() if FLAGS.local else devices.Phone(FLAGS.serial) as device:
        time_on(device)


def time_on(device):
    """Times --model or --graph on a device, prints the table and writes the JSON."""
    delegate = find_delegate()
    if not FLAGS.graph:
        program.start_tensorflow()
    from fbs_keras import files
    from fbs_keras.benchmarks import benchmark_model, measurement

    if FLAGS.model:
        from fbs_keras import export

        candidates = measurement.model_candidates(export.load(FLAGS.model), FLAGS.batch_size)
    else:
        candidates = measurement.file_candidates(FLAGS.graph)

    cpus = device.fast_cores(FLAGS.threads) if FLAGS.cpus == "fast" else FLAGS.cpus
    settings = benchmark_model.Settings(FLAGS.threads, FLAGS.rounds, FLAGS.runs, FLAGS.seconds, FLAGS.cool_down, cpus)
    results = benchmark_model.measure(device, FLAGS.benchmark_model, delegate, candidates, settings, progress=True)
    timings = benchmark_model.timings(candidates, results)

    command = shlex.join(["python", *sys.argv])
    environment = measurement.environment() | {"device": device.describe()}
    # The runtime is the tool's, which does not tell its version.
    with open(FLAGS.benchmark_model, "rb") as file:
        environment["versions"]["benchmark_model"] = f"sha256:{hashlib.sha256(file.read()).hexdigest()[:16]}"
    del environment["versions"]["ai-edge-litert"]
    print(f"\n{measurement.report_head(command, FLAGS.threads, environment)}\n\n{measurement.table(timings)}")
    if FLAGS.json:
        numbers = {
            "timings_ms": [dataclasses.asdict(timing) for timing in timings],
            "rounds": benchmark_model.as_json(results),
            "settings": dataclasses.asdict(settings),
        }
        head = {"command": command, "threads": FLAGS.threads, "batch_size": FLAGS.batch_size}
        files.write(FLAGS.json, json.dumps(head | environment | numbers, indent=2))


def find_delegate():
    """The path of the delegate for the device."""
    from fbs_keras import runtime

    if FLAGS.delegate:
        return FLAGS.delegate
    try:
        return runtime.delegate_path(None if FLAGS.local else "android-arm64")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. Another one is named by --delegate") from None


if __name__ == "__main__":
    program.run(benchmark)
