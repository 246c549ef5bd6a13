"""From trained models to the table: evaluates, exports and times the dense and the FBS M-CifarNet on CIFAR-10.

    python scripts/quickstart.py            # or `make quickstart`, which installs everything and gets the data first

Every figure that it prints goes to <output_dir>/quickstart.json, the exported files and the figure of which channels
fire for which class lie beside it. Ends with exit code 1 when an exported file does not compute what Keras does.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import sys
import time

import numpy as np
from absl import flags
from tqdm import tqdm

from _fbs_scripts import program

ROOT = pathlib.Path(__file__).resolve().parents[1]
BATCH = 250


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What an exported file must reach, over all test images.

    Attributes:
        accuracy_points: By how many points at most its accuracy may differ from that in Keras.
        same_class: The least share of images that both give the same class.
        difference: The largest difference of a logit, relative to the image's largest.
    """

    accuracy_points: float
    same_class: float
    difference: float


FLOAT32 = Bounds(accuracy_points=0.1, same_class=0.999, difference=1e-3)
# Also of a model that computes in half precision itself, whose files compute in float32.
# TFLite's own int8 file of the dense network gives 99.7 % of the images the same class. Where 1 % get another class,
# about as many become right as wrong, give or take 0.1 points.
INT8 = Bounds(accuracy_points=0.2, same_class=0.99, difference=np.inf)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far a file agrees with the Keras model that it was exported from.

    Attributes:
        accuracy_keras, accuracy_file: Share of images that each classifies rightly.
        same_class: Share of images that both give the same class.
        difference: Largest difference of a logit, relative to the image's largest, on images without a near-tie.
        near_ties: Number of images that are left out of `difference`: rounding may decide between their channels.
        swapped: Number of these whose logits do differ by more than the bound.
        bounds: What the file must reach.
    """

    accuracy_keras: float
    accuracy_file: float
    same_class: float
    difference: float
    near_ties: int
    swapped: int
    bounds: Bounds = FLOAT32

    def failures(self):
        """What falls short, as sentences."""
        points = abs(self.accuracy_keras - self.accuracy_file) * 100
        bounds = self.bounds
        if points > bounds.accuracy_points + 1e-9:
            yield f"accuracy differs by {points:.2f} points, expected at most {bounds.accuracy_points}"
        if self.same_class < bounds.same_class:
            yield f"{self.same_class:.2%} of the images get the same class, expected at least {bounds.same_class:.1%}"
        if not self.difference <= bounds.difference:  # NaN fails too
            yield f"logits differ by {self.difference:.1e} of the largest, expected at most {bounds.difference:.0e}"


def compare(keras_logits, file_logits, labels, near_tie, bounds=FLOAT32):
    """Compares logits `[N, classes]` of Keras and of a file; `near_tie [N]` marks images of uncertain channels."""
    keras_class, file_class = keras_logits.argmax(axis=1), file_logits.argmax(axis=1)
    difference = np.abs(keras_logits - file_logits).max(axis=1) / np.abs(keras_logits).max(axis=1)
    return Agreement(
        accuracy_keras=float((keras_class == labels).mean()),
        accuracy_file=float((file_class == labels).mean()),
        same_class=float((keras_class == file_class).mean()),
        difference=float(difference[~near_tie].max()) if not near_tie.all() else float("nan"),
        near_ties=int(near_tie.sum()),
        swapped=int((near_tie & (difference > bounds.difference)).sum()),
        bounds=bounds,
    )


def near_ties(model, gates):
    """Marks images with a gate so close to the last winner's that rounding could swap them: a mask `[N]`."""
    from fbs_keras.export.verification import may_differ

    return np.any([may_differ(model.get_layer(name), g) for name, g in gates.items()], axis=0)


def in_batches(function, images, title):
    """Concatenates `function`'s results, an array or a structure of arrays, over batches of images."""
    import keras

    starts = tqdm(range(0, len(images), BATCH), desc=title, unit="batch")
    results = [function(images[start : start + BATCH]) for start in starts]
    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *results)


def table(timings, agreements):
    """The printed table: a row for each timed file, with the accuracy of those in `agreements {name: Agreement}`."""
    width = max(len(timing.name) for timing in timings)
    columns = ("accuracy", "in Keras", "M MACs", "fewer", "file MB", "latency ms", "  p10 - p90", "speed-up")
    lines = [f"{'':{width}}  " + "  ".join(f"{column:>{max(8, len(column))}}" for column in columns)]
    for timing in timings:
        agreement = agreements.get(timing.name)
        cells = (
            f"{agreement.accuracy_file:.2%}" if agreement else "-",
            f"{agreement.accuracy_keras:.2%}" if agreement else "-",
            f"{timing.macs / 1e6:.2f}",
            f"{timings[0].macs / timing.macs:.2f}x",
            f"{timing.file_bytes / 1e6:.2f}",
            f"{timing.median:.3f}",
            f"{timing.p10:.2f} - {timing.p90:.2f}",
            f"{timing.speedup:.2f}x",
        )
        lines.append(
            f"{timing.name:{width}}  "
            + "  ".join(f"{cell:>{max(8, len(column))}}" for cell, column in zip(cells, columns, strict=True))
        )
    return "\n".join(lines)


def agreement_table(agreements):
    """How each file agrees with its Keras model, one line each."""
    width = max(len(name) for name in agreements)
    lines = []
    for name, each in agreements.items():
        line = (
            f"{name:{width}}  same class {each.same_class:.2%}, accuracy {each.accuracy_file:.2%} against "
            f"{each.accuracy_keras:.2%} in Keras"
        )
        if each.bounds == FLOAT32:
            line += (
                f", largest relative difference of logits {each.difference:.1e} (without {each.near_ties} images "
                f"with a near-tie, {each.swapped} of which exceed {FLOAT32.difference:.0e})"
            )
        lines.append(line)
    return "\n".join(lines)


def load_model(path):
    """Loads a .keras file as it is, not in float32: what is exported is compared with it. Says how to make it."""
    from fbs_keras.export.converter import read_model

    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; train it with scripts/train.py, or name another with a flag")
    return read_model(path)


def step(text):
    """Prints what comes next."""
    print(f"\n> {text}", flush=True)


def quickstart(dense_path, fbs_path, data_dir, split, output_dir, threads, runs):
    """Runs all steps; returns what fell short, a list of sentences."""
    import fbs_keras
    from fbs_keras import data, export, files, plots
    from fbs_keras.benchmarks import measurement
    from fbs_keras.export.verification import half_precision

    output_dir.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()

    step(f"Load the dense and the FBS model and the images of CIFAR-10's {split!r}.")
    models = {"dense": load_model(dense_path), "FBS": load_model(fbs_path)}
    dataset = data.load("cifar10", split, BATCH, data_dir=data_dir)
    images, labels = (np.concatenate(arrays) for arrays in zip(*dataset.batches.as_numpy_iterator(), strict=True))
    dense_macs, fbs_macs = (fbs_keras.count_macs(model) for model in models.values())
    print(f"{len(images)} images; dense {dense_macs.dense / 1e6:.2f} M MACs, FBS {fbs_macs.fbs / 1e6:.2f} M")

    step("Evaluate both in Keras, and record what the gates of the FBS model choose.")
    logits, gates = in_batches(plots.gate_model(models["FBS"]).predict_on_batch, images, "FBS")
    keras_logits = {"dense": in_batches(models["dense"].predict_on_batch, images, "dense"), "FBS": logits}
    uncertain = {"dense": np.zeros(len(images), bool), "FBS": near_ties(models["FBS"], gates)}

    step("Draw which channels fire for which class.")
    figure = output_dir / "channels.png"
    examples = plots.class_examples(data.to_pixels(images, "cifar10"), labels, dataset.classes)
    rates = plots.firing_rates(models["FBS"], gates, labels, dataset.classes)
    plots.plot_channels(rates, dataset.class_names, examples, figure)
    print(figure)

    step("Export both to .tflite: the FBS file skips the channels that do not fire.")
    paths = {}
    for name, quantize in itertools.product(models, (None, "dynamic_int8")):
        path = output_dir / f"{name.lower()}{'_int8' if quantize else ''}.tflite"
        fbs_keras.convert(models[name], path, quantize=quantize)
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
        paths[path.stem] = str(path)
    dense, dense_int8, fbs, fbs_int8 = paths.values()
    candidates = [
        measurement.Candidate("dense", dense, False, dense_macs.dense),
        measurement.Candidate("static, as narrow", export.baseline(models["FBS"], "static"), False, fbs_macs.conv),
        measurement.Candidate("FBS, stock LiteRT", fbs, False, fbs_macs.fbs),
        measurement.Candidate("FBS, our delegate", fbs, True, fbs_macs.fbs),
        measurement.Candidate("dense int8", dense_int8, False, dense_macs.dense),
        measurement.Candidate("FBS int8, stock LiteRT", fbs_int8, False, fbs_macs.fbs),
        measurement.Candidate("FBS int8, our delegate", fbs_int8, True, fbs_macs.fbs),
    ]

    step("Evaluate the files in LiteRT, and compare with Keras image by image.")
    # The cores that this process may use, perhaps fewer than there are: threads that share one wait for each other.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    agreements = {}
    for each in candidates:
        if isinstance(each.model, bytes):  # the static net's output is of no use: it is there for its speed
            continue
        interpreter = fbs_keras.Interpreter(each.model, cores, each.use_delegate)
        file_logits = in_batches(interpreter.predict, images, each.name)
        source = "dense" if each.name.startswith("dense") else "FBS"
        rounds = "int8" in each.name or half_precision(models[source]) is not None
        bounds = INT8 if rounds else FLOAT32
        agreements[each.name] = compare(keras_logits[source], file_logits, labels, uncertain[source], bounds)
    print(agreement_table(agreements))

    step(f"Time the files, interleaved, on {threads} thread{'s' * (threads > 1)}, one image at a time.")
    timings = measurement.measure(candidates, threads, runs, progress=True)

    environment = measurement.environment()
    print(f"\n{table(timings, agreements)}\n")
    device = environment["device"]
    print(
        f"{device['cpu']} ({', '.join(device['isa'])}), {threads} thread{'s' * (threads > 1)}; speed-up is against "
        "dense XNNPACK; 'static, as narrow' is a plain net of the FBS model's width, the ideal."
    )
    ms = {timing.name: timing.median for timing in timings}
    print(f"In int8, FBS with our delegate is {ms['dense int8'] / ms['FBS int8, our delegate']:.2f}x as fast as dense.")
    result = {
        "split": split,
        "images": len(images),
        "threads": threads,
        "seconds": round(time.monotonic() - start, 1),
        "timings_ms": [dataclasses.asdict(timing) for timing in timings],
        "agreement": {name: dataclasses.asdict(each) for name, each in agreements.items()},
        "peak_activation_bytes": {"dense": fbs_macs.peak_dense, "FBS": fbs_macs.peak_fbs},
        "parameters": {"dense": dense_macs.parameters, "FBS": fbs_macs.parameters},
        **environment,
    }
    path = output_dir / "quickstart.json"
    files.write(path, json.dumps(result, indent=2) + "\n")
    print(f"All figures: {path}. Channels by class: {figure}. Files: {', '.join(paths.values())}.")
    return [f"{name}: {failure}" for name, each in agreements.items() for failure in each.failures()]


def main():
    program.start_tensorflow()
    values = flags.FLAGS
    failures = quickstart(
        pathlib.Path(values.dense),
        pathlib.Path(values.fbs),
        values.data_dir,
        values.split,
        pathlib.Path(values.output_dir),
        values.threads,
        values.runs,
    )
    if failures:
        sys.exit("\nThe files do not agree with Keras:\n" + "\n".join(failures))


if __name__ == "__main__":
    flags.DEFINE_string("dense", str(ROOT / "fbs_keras/models/checkpoints/mcifarnet_cifar10.keras"), "The dense model.")
    flags.DEFINE_string("fbs", str(ROOT / "fbs_keras/models/checkpoints/mcifarnet_cifar10_50.keras"), "The FBS model.")
    flags.DEFINE_string("data_dir", None, "TFDS data directory. Defaults to TFDS_DATA_DIR, else ./data.")
    flags.DEFINE_string("split", "test", "The images of CIFAR-10 to evaluate on.")
    flags.DEFINE_string("output_dir", "runs/quickstart", "Folder of the figures, the files and the plot.")
    flags.DEFINE_integer("threads", 1, "Threads to time with.", lower_bound=1)
    flags.DEFINE_integer("runs", 200, "Timed runs of each file.", lower_bound=1)
    program.run(main)
