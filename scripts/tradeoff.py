"""Accuracy against MACs and time, for FBS and what it is to be compared with, from a trained dense model.

    python scripts/tradeoff.py --dense runs/dense/model.keras --run_dir runs/tradeoff
    python scripts/tradeoff.py --markdown docs/tradeoff.md --plot docs/images/tradeoff.png

The first trains what --run_dir does not hold yet, one density after the other, each from the model before it; stopped
and started again, it goes on where it was. It evaluates and times all models and writes the JSON. The second makes the
table and the figure from that JSON alone. What is compared:

    FBS           gates learnt, `train.py --density`
    FBS in groups the same with winners in groups of 16 channels, which run faster: `train.py --group_size 16`
    NS            network slimming: `slim.py` keeps as large a share of all channels
    NS+FBS        FBS in the network slimmed to 80 % of its channels
    magnitude     single weights pruned by tfmot: as many as FBS skips multiplications
    random gates  FBS whose winners are drawn at random: what is lost is what the gates know of the image
"""

import dataclasses
import json
import pathlib
import shlex
import subprocess
import sys
import time

from absl import flags

from _fbs_scripts import accuracy, program

METHODS = ("FBS", "FBS in groups", "NS", "NS+FBS", "magnitude", "random gates")

FLAGS = flags.FLAGS
flags.DEFINE_string("dense", None, "The trained dense .keras file; trains and measures.")
flags.DEFINE_string("run_dir", "runs/tradeoff", "Folder of the trained models.")
flags.DEFINE_multi_enum("method", None, METHODS, "Default: all.")
flags.DEFINE_list("densities", ["1", "0.9", "0.8", "0.7", "0.6", "0.5", "0.4", "0.3"], "From high to low.")
flags.DEFINE_string("flagfile_of_steps", "recipes/cifar10/step.cfg", "Flags of train.py for each step.")
flags.DEFINE_multi_string(
    "also", [], "A model trained otherwise, to be measured too: METHOD,DENSITY,FILE; can be given several times."
)
flags.DEFINE_list("train_flags", [], "More flags for each step, such as --steps_per_epoch=10.")
flags.DEFINE_bool("train", True, "Train what --run_dir does not hold yet; without it, measure what it holds.")
flags.DEFINE_string("data_dir", None, "TFDS data directory. Defaults to TFDS_DATA_DIR, else ./data.")
flags.DEFINE_string("split", "test", "The images of CIFAR-10 to evaluate on.")
flags.DEFINE_float("seconds", 2, "Time to spend on the timing of each model.", lower_bound=0.001)
flags.DEFINE_string("json", "docs/results/tradeoff.json", "File of the results.")
flags.DEFINE_string("markdown", None, "Table to write.")
flags.DEFINE_string("plot", None, "Figure to write.")

SCRIPTS = pathlib.Path(__file__).parent
SECONDS = "seconds.txt"  # a file in each point's folder
GATES = {"FBS in groups": ["--group_size=16"], "random gates": ["--gates=random"]}
SLIM_FIRST = 0.8  # channels that NS+FBS keeps for every image
SLIMMING_WEIGHT = 1e-3  # L1 of gammas in two epochs from a trained net; the authors' 1e-5 is for hundreds


@dataclasses.dataclass(frozen=True)
class Point:
    """A model of the trade-off.

    Attributes:
        method: What it is.
        density: The share of channels, or what saves as much.
        folder: Where it is trained.
        commands: What makes it, in order; the last writes `folder/model.keras`.
        trained: A model that is there already, for which the script has no commands.
    """

    method: str
    density: float
    folder: pathlib.Path
    commands: tuple[tuple[str, ...], ...]
    trained: pathlib.Path | None = None

    @property
    def model(self):
        return self.trained or self.folder / "model.keras"


def plan(method, densities, dense, run_dir, shares):
    """The points of a method, each trained from the one before it.

    Args:
        method: Its name.
        densities: Floats, from high to low.
        dense: The path of the dense model.
        run_dir: The folder of all models.
        shares: `{density: MACs of FBS's convolutions / dense MACs}`, for the share of single weights that stay.

    Returns:
        A list of `Point`s.
    """
    before, kept, points = dense, 1.0, []
    for density in densities:
        folder = pathlib.Path(run_dir, method.replace(" ", "_"), f"{density:g}")
        train = ("train.py", f"--flagfile={FLAGS.flagfile_of_steps}", *FLAGS.train_flags, f"--run_dir={folder}")
        commands = []
        share = SLIM_FIRST if method == "NS+FBS" else density
        if method in ("NS", "NS+FBS") and share < kept:
            if kept == 1:
                sparse = folder.with_name("sparse")
                penalty = (*train[:-1], f"--run_dir={sparse}", f"--slimming_weight={SLIMMING_WEIGHT:g}")
                commands.append((*penalty, f"--pretrained={before}"))
                before = sparse / "model.keras"
            slim = folder.with_name(f"slim_{share:g}.keras")
            commands.append(("slim.py", f"--model={before}", f"--keep={share / kept:g}", f"--output={slim}"))
            before, kept = slim, share
        if method == "magnitude" and density < 1:
            command = ("prune_magnitude.py", "--undefok=schedule,warmup_epochs", *train[1:])
            commands.append((*command, f"--model={before}", f"--sparsity={1 - shares[density]:.4f}"))
        else:
            gates = [] if method in ("NS", "magnitude") else [f"--density={density:g}"]
            gates += GATES.get(method, [])
            commands.append((*train, f"--pretrained={before}", *gates))
        points.append(Point(method, density, folder, tuple(commands)))
        before = points[-1].model
    return points


def trained_otherwise(text):
    """The point that a value of `--also` describes."""
    parts = text.rsplit(",", 2)
    if len(parts) != 3:
        raise ValueError(f"--also must be METHOD,DENSITY,FILE, got {text!r}")
    method, density, path = parts
    if not pathlib.Path(path).exists():
        raise ValueError(f"--also must name a trained model, got {path}, which is not there")
    return Point(method, float(density), pathlib.Path(path).parent, (), pathlib.Path(path))


def train(point):
    """Trains a point, unless that was done; goes on where it was stopped."""
    if point.model.exists():
        return
    from fbs_keras import files

    log = point.folder / SECONDS
    point.folder.mkdir(parents=True, exist_ok=True)
    for script, *arguments in point.commands:
        output = pathlib.Path(next(value for flag, value in map(_split, arguments) if flag in ("run_dir", "output")))
        if (output if output.suffix == ".keras" else output / "model.keras").exists():
            continue
        resume = ["--resume"] if script == "train.py" else []
        data = [f"--data_dir={FLAGS.data_dir}"] if FLAGS.data_dir and script != "slim.py" else []
        command = [sys.executable, str(SCRIPTS / script), *arguments, *data, *resume]
        print(" ".join(command), flush=True)
        begin = time.monotonic()
        subprocess.run(command, check=True)
        spent = time.monotonic() - begin + (float(log.read_text()) if log.exists() else 0)
        files.write(log, f"{spent:.0f}")


def seconds_of(point):
    """The seconds that a point's training took in all, `None` where that is not known."""
    log = point.folder / SECONDS
    return float(log.read_text()) if log.exists() else None


def _split(argument):
    flag, _, value = argument.removeprefix("--").partition("=")
    return flag, value


def evaluate_point(model, test):
    """Top-1 and top-5 accuracy of a Keras model."""
    logits, labels = accuracy.predict(model.predict_on_batch, test.batches, test.steps)
    return accuracy.top_k(logits, labels, 1), accuracy.top_k(logits, labels, 5)


def measure(points, dense, test):
    """Evaluates and times all points.

    Args:
        points: `Point`s, trained.
        dense: The dense Keras model.
        test: The images, a `fbs_keras.data.Dataset`.

    Returns:
        A list of dicts, the dense model's first.
    """
    import fbs_keras
    from _fbs_scripts import controls  # noqa: F401  so that Keras knows its layer
    from fbs_keras.benchmarks import measurement

    rows, candidates = [], []
    macs = fbs_keras.count_macs(dense).dense
    for point in [None, *points]:
        model = dense if point is None else program.load_model(point.model)
        report = fbs_keras.count_macs(model)
        top1, top5 = evaluate_point(model, test)
        row = {"method": "dense", "density": 1.0, "top1": top1, "top5": top5, "macs": report.fbs, "seconds": None}
        if point is not None:
            row |= {"method": point.method, "density": point.density, "seconds": seconds_of(point)}
            row["commands"] = [" ".join(command) for command in point.commands]
        if row["method"] == "magnitude":
            row["macs"] = round(macs * nonzero_share(model))
        row["saving"] = macs / row["macs"]
        rows.append(row)
        name = f"{row['method']} {row['density']:g}"
        print(f"{name}: top-1 {top1:.2%}, {row['saving']:.2f}x fewer MACs", flush=True)
        if row["method"] != "random gates":  # they take as long as learnt ones
            candidates.append(measurement.Candidate(name, fbs_keras.convert(model), True, row["macs"]))
    timings = {timing.name: timing for timing in measurement.measure(candidates, seconds=FLAGS.seconds)}
    for row in rows:
        timing = timings.get(f"{row['method']} {row['density']:g}")
        row |= {"ms": timing and timing.median, "speedup": timing and timing.speedup}
    return rows


def nonzero_share(model):
    """The share of a model's multiplications that are with weights other than zero."""
    import numpy as np

    import fbs_keras

    done = total = 0.0
    for row in fbs_keras.count_macs(model).rows:
        kernel = getattr(model.get_layer(row.name), "kernel", None)
        done += row.dense * (1 if kernel is None else float(np.mean(kernel.numpy() != 0)))
        total += row.dense
    return done / total


def table(rows):
    """The results as a Markdown table, a row for each saving."""
    lines = ["| | density | top-1 | top-5 | M MACs | fewer | ms | faster |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        accuracy, macs = f"{row['top1']:.2%} | {row['top5']:.2%}", f"{row['macs'] / 1e6:.2f} | {row['saving']:.2f}x"
        latency = "- | -" if row["ms"] is None else f"{row['ms']:.3f} | {row['speedup']:.2f}x"
        lines.append(f"| {row['method']} | {row['density']:g} | {accuracy} | {macs} | {latency} |")
    return "\n".join(lines)


INTRODUCTION = """\
# Accuracy against MACs and time: M-CifarNet on CIFAR-10

Made by scripts/tradeoff.py, which says what is compared. Top-1 and top-5 are of the 10,000 test images. MACs are those
of an image, gates included; for magnitude pruning, those with weights other than zero, which no runtime here skips.
Times are medians of one thread, of all files in turns, with the delegate and XNNPACK. Each point is trained from the
one before it by recipes/cifar10/step.cfg, cut as `--train_flags` below says: shortly, and as long for every method.
Compare such rows with each other; what longer training gives, rows that name their epochs show.

![Accuracy against MACs and against time](images/tradeoff.png)
"""


def page(facts):
    """The table with what it depends on, as a Markdown page."""
    from fbs_keras.benchmarks import measurement

    head = measurement.report_head(facts["command"], 1, facts)
    return "\n".join([INTRODUCTION, table(facts["rows"]), "", *(f"    {line}" for line in head.splitlines()), ""])


def tradeoff():
    """Does what the flags ask for."""
    from fbs_keras import files

    results = pathlib.Path(FLAGS.json)
    if FLAGS.dense is not None:
        program.start_tensorflow()

        import fbs_keras
        from fbs_keras import data
        from fbs_keras.benchmarks import measurement

        dense = program.load_model(FLAGS.dense)
        densities = [float(density) for density in FLAGS.densities]
        shares = {}
        for density in densities:
            report = fbs_keras.count_macs(fbs_keras.wrap(dense, density))
            shares[density] = report.conv / report.dense
        methods = FLAGS.method or METHODS
        points = [point for method in methods for point in plan(method, densities, FLAGS.dense, FLAGS.run_dir, shares)]
        points += map(trained_otherwise, FLAGS.also)
        if FLAGS.train:
            for point in points:
                train(point)
        points = [point for point in points if point.model.exists()]
        test = data.load("cifar10", FLAGS.split, 250, data_dir=FLAGS.data_dir)
        rows = measure(points, dense, test)
        facts = {"command": shlex.join(["python", *sys.argv]), **measurement.environment(), "rows": rows}
        results.parent.mkdir(parents=True, exist_ok=True)
        files.write(results, json.dumps(facts, indent=1) + "\n")
        print(f"saved {results}")
    facts = json.loads(results.read_text())
    print(table(facts["rows"]))
    if FLAGS.markdown is not None:
        files.write(FLAGS.markdown, page(facts))
    if FLAGS.plot is not None:
        from fbs_keras import plots

        plots.plot_tradeoff(facts["rows"], FLAGS.plot)


if __name__ == "__main__":
    program.run(tradeoff)
