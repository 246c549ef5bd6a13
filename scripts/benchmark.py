"""Times an FBS model, or a suite of convolutions or networks, against LiteRT's dense ones, interleaved in one process.

    python scripts/benchmark.py --model runs/fbs/model.keras --threads 1 --profile --json benchmark.json
    python scripts/benchmark.py --graph dense.tflite --graph fbs.tflite
    python scripts/benchmark.py --model runs/fbs/model.keras --quantize dynamic_int8
    python scripts/benchmark.py --suite networks --json networks.json --plot networks.png
    python scripts/benchmark.py --suite kernels --filter resnet18 --method auto --method gemm
    python scripts/benchmark.py --suite zoo --filter mobilenet,resnet50 --json zoo.json

With --model: the dense network (XNNPACK), a plain one as narrow as the FBS one (XNNPACK: the ideal), the portable file
without and with the delegate. With --graph: the given files, those with FBS ops without and with the delegate.
Speed-ups are ratios of medians to the first line. --quantize quantises all files, so that int8 is compared with int8.

With --suite: networks of random weights, or every convolution of the usual networks by itself. R is the speed-up over
how many times fewer MACs there are; R own the same with our own time at density 1 for the dense time. "direct" is
without Winograd's algorithm. Memory is by how much a process of its own grew: with the file's pages, and without
(anonymous: tensors, scratch memory, the copies of the weights that XNNPACK packs).

--suite zoo wraps, exports, compares with Keras and times every image classifier of keras.applications at density 0.5,
each in a process of its own; a failure goes into the table and the run goes on. Its --json file is written after each
model: models in it that are not measured stay in it, and --resume leaves out those that it has figures of.

What cannot be run ends with exit code 1 and a line that says why.
"""

import dataclasses
import json
import os
import shlex
import sys

from absl import flags

from _fbs_scripts import program

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "A .keras or .h5 file with FBS layers.")
flags.DEFINE_multi_string("graph", [], "A .tflite file; may be given several times.")
flags.DEFINE_enum("suite", None, ["kernels", "networks", "zoo"], "What to time instead of a model of one's own.")
flags.DEFINE_integer("threads", 1, "Threads.", lower_bound=1)
flags.DEFINE_integer("runs", 200, "Timed runs of each candidate; see --seconds for suites.", lower_bound=1)
flags.DEFINE_integer("batch_size", 1, "The batch size of the files made from --model.", lower_bound=1)
flags.DEFINE_string(
    "quantize", None, "How the weights of all files are stored: float16 or dynamic_int8. Defaults to float32."
)
flags.DEFINE_bool("profile", False, "Also time each FBS op of --model or --graph in the delegate.")
flags.DEFINE_string(
    "filter",
    "",
    "Only the suite's convolutions or networks whose name (or network) contains this; several for --suite zoo, "
    "separated by commas.",
)
flags.DEFINE_float("seconds", None, "Time for each of a suite's candidates. Defaults to 0.15 and 2.", lower_bound=1e-3)
flags.DEFINE_multi_float("density", [0.25, 0.5, 0.75, 1.0], "A density of --suite kernels; may be given several times.")
flags.DEFINE_multi_string(
    "method",
    None,
    "A method for --suite kernels: auto, direct, gemm, inplace, grouped, winograd2 or winograd4; may be given several "
    "times. Defaults to auto and, but for int8, direct. Where it does not support a convolution, another runs: see "
    "`kernel` in the --json file.",
)
flags.DEFINE_string("path", "auto", "The suite's instruction set: auto, plain, avx2, avx512 or neon.")
flags.DEFINE_string("json", None, "A file to write the results to.")
flags.DEFINE_bool("resume", False, "Leave out the models that --suite zoo has in its --json file already.")
flags.DEFINE_string("markdown", None, "A file between whose marks to write the table of --suite zoo, as docs/zoo.md.")
flags.DEFINE_string("plot", None, "A file to draw the suite's results to, such as kernels.png.")


def benchmark():
    if sum(map(bool, (FLAGS.model, FLAGS.graph, FLAGS.suite))) != 1:
        raise ValueError("expected one of --model, --graph and --suite")
    if FLAGS.plot and not FLAGS.suite:
        raise ValueError("--plot is for --suite; with --model and --graph use --json")
    if (FLAGS.resume or FLAGS.markdown) and FLAGS.suite != "zoo":
        raise ValueError("--resume and --markdown are for --suite zoo")
    if FLAGS.quantize and (FLAGS.graph or FLAGS.suite == "zoo"):
        raise ValueError("--quantize is for --model and for --suite kernels and networks")

    if not FLAGS.graph:
        program.start_tensorflow()
    from fbs_keras.benchmarks import measurement

    run = {None: time_candidates, "kernels": time_kernels, "networks": time_networks, "zoo": time_zoo}[FLAGS.suite]
    text, result, draw = run()
    environment = measurement.environment()
    command = shlex.join(["python", *sys.argv])
    print(f"\n{measurement.report_head(command, FLAGS.threads, environment)}\n\n{text}")
    write_json(result)
    if FLAGS.plot:
        draw(FLAGS.plot)


def write_json(result):
    """Writes numbers to --json, if it is given, with what they depend on."""
    from fbs_keras import files
    from fbs_keras.benchmarks import measurement

    if FLAGS.json:
        head = {"command": shlex.join(["python", *sys.argv]), "threads": FLAGS.threads}
        files.write(FLAGS.json, json.dumps(head | measurement.environment() | result, indent=2))


def time_candidates():
    """Times --model or --graph: the report's text, its numbers, and no plot."""
    from fbs_keras.benchmarks import measurement

    if FLAGS.model:
        from fbs_keras import export

        candidates = measurement.model_candidates(export.load(FLAGS.model), FLAGS.batch_size, FLAGS.quantize)
    else:
        candidates = measurement.file_candidates(FLAGS.graph)

    timings = measurement.measure(candidates, FLAGS.threads, FLAGS.runs, progress=True)
    profiles = {}
    if FLAGS.profile:
        for each in candidates:
            if each.use_delegate:
                profiles[each.name] = measurement.profile(each.model, FLAGS.threads, FLAGS.runs)
    text = measurement.table(timings)
    for name, rows in profiles.items():
        text += f"\n\n{name}, op by op\n{measurement.profile_table(rows)}"
    numbers = {"timings_ms": [dataclasses.asdict(timing) for timing in timings], "profiles": profiles}
    return text, {"batch_size": FLAGS.batch_size, "quantize": FLAGS.quantize} | numbers, None


def time_kernels():
    """Times convolutions by themselves: the report's text, its numbers, and a function that plots them to a file."""
    from fbs_keras.benchmarks.suites import figures, kernels, shapes

    rows = kernels.measure(
        shapes.shapes(FLAGS.filter),
        FLAGS.density,
        FLAGS.method,
        FLAGS.path,
        FLAGS.threads,
        FLAGS.seconds or 0.15,
        progress=True,
        quantize=FLAGS.quantize,
    )
    numbers = {"path": FLAGS.path, "quantize": FLAGS.quantize, "kernels": [dataclasses.asdict(row) for row in rows]}
    return kernels.table(rows), numbers, lambda path: figures.plot_kernels(rows, path)


def time_networks():
    """Times whole networks: the report's text, its numbers, and a function that plots them to a file."""
    from fbs_keras.benchmarks.suites import figures, networks

    results = []
    for network in networks.networks(FLAGS.filter):
        print(f"{network.title} ...", file=sys.stderr)
        seconds = FLAGS.seconds or 2.0
        results.append(networks.measure(network, FLAGS.path, FLAGS.threads, seconds, True, FLAGS.quantize))
    text = "\n\n".join(map(networks.table, results))
    numbers = {"path": FLAGS.path, "networks": [dataclasses.asdict(result) for result in results]}
    return text, numbers, lambda path: figures.plot_networks(results, path)


def time_zoo():
    """Measures the classifiers of keras.applications: the report's text, its numbers, and a function that plots."""
    from fbs_keras.benchmarks.suites import figures, zoo

    results = {}
    if FLAGS.json and os.path.exists(FLAGS.json):
        with open(FLAGS.json, encoding="utf-8") as file:
            results = {each["name"]: zoo.ZooResult.from_json(each) for each in json.load(file)["models"]}

    def numbers():
        return {"path": FLAGS.path, "models": [dataclasses.asdict(results[name]) for name in sorted(results)]}

    for name in zoo.classifiers(FLAGS.filter):
        if FLAGS.resume and name in results and not results[name].error:
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        results[name] = zoo.measure_apart(name, path=FLAGS.path, threads=FLAGS.threads, seconds=FLAGS.seconds or 2.0)
        print(zoo.table([results[name]]), file=sys.stderr, flush=True)
        write_json(numbers())
    ordered = [results[name] for name in sorted(results)]
    if FLAGS.markdown:
        zoo.write_markdown(ordered, FLAGS.markdown)
    return zoo.table(ordered), numbers(), lambda path: figures.plot_zoo(ordered, path)


if __name__ == "__main__":
    program.run(benchmark)
