"""Times an FBS model against its dense network in LiteRT, all in one process and interleaved.

    python scripts/benchmark.py --model runs/fbs/model.keras --threads 1 --profile --json benchmark.json
    python scripts/benchmark.py --graph dense.tflite --graph fbs.tflite

With --model: the dense network (XNNPACK), a plain one as narrow as the FBS one (XNNPACK: the ideal), the portable file
without and with the delegate. With --graph: the given files, those with FBS ops without and with the delegate.
Speed-ups are ratios of medians to the first line. What cannot be run ends with exit code 1 and a line that says why.
"""

import dataclasses
import json
import shlex
import sys

import program
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "A .keras file with FBS layers.")
flags.DEFINE_multi_string("graph", [], "A .tflite file; may be given several times.")
flags.DEFINE_integer("threads", 1, "Threads.", lower_bound=1)
flags.DEFINE_integer("runs", 200, "Timed runs of each candidate.", lower_bound=1)
flags.DEFINE_integer("batch_size", 1, "The batch size of the files made from --model.", lower_bound=1)
flags.DEFINE_bool("profile", False, "Also time each FBS op in the delegate.")
flags.DEFINE_string("json", None, "A file to write the results to.")


def benchmark():
    if bool(FLAGS.model) == bool(FLAGS.graph):
        raise ValueError("expected either --model or --graph")

    from fbs_keras import benchmarking

    if FLAGS.model:
        program.start_tensorflow()
        from fbs_keras import export

        candidates = benchmarking.model_candidates(export.load(FLAGS.model), FLAGS.batch_size)
    else:
        candidates = benchmarking.file_candidates(FLAGS.graph)

    timings = benchmarking.measure(candidates, FLAGS.threads, FLAGS.runs, progress=True)
    profiles = {}
    if FLAGS.profile:
        for each in candidates:
            if each.use_delegate:
                profiles[each.name] = benchmarking.profile(each.model, FLAGS.threads, FLAGS.runs)

    environment = benchmarking.environment()
    command = shlex.join(["python", *sys.argv])
    device = environment["device"]
    print(f"\n{command}")
    isa = ", ".join(device["isa"])
    print(f"{device['cpu']} ({isa}), {FLAGS.threads} of {device['cores']} cores, {device['system']}")
    print(", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version), end="")
    print(f", commit {environment['commit']}\n" if environment["commit"] else "\n")
    print(benchmarking.table(timings))
    for name, rows in profiles.items():
        print(f"\n{name}, op by op\n{benchmarking.profile_table(rows)}")
    if FLAGS.json:
        result = {"command": command, "threads": FLAGS.threads, "batch_size": FLAGS.batch_size} | environment
        result |= {"timings_ms": [dataclasses.asdict(timing) for timing in timings], "profiles": profiles}
        with open(FLAGS.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)


if __name__ == "__main__":
    program.run(benchmark)
