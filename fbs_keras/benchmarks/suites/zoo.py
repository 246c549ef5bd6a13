"""Every image classifier of keras.applications: wrapped, counted, exported, compared with Keras, and timed.

This module is also the program of the process that measures one of them: what TensorFlow leaves in memory, or a model
too large for the machine, then touches no other.
"""

import collections
import dataclasses
import functools
import gc
import inspect
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fbs_keras import export, files
from fbs_keras.benchmarks import measurement
from fbs_keras.benchmarks.measurement import Candidate, Timing, aligned
from fbs_keras.costs.macs import count_macs
from fbs_keras.layers import gating
from fbs_keras.layers.densities import fbs_layers, set_density
from fbs_keras.wrapping import planning, wrap

DENSITY = 0.5
# What Keras and a file, or a model and its wrapped copy, may differ by, relative to the largest logit.
TOLERANCE = 1e-3
# By how much the logits of two images must differ for that to mean anything.
LEAST_SPREAD = 20 * TOLERANCE


@dataclasses.dataclass(frozen=True)
class ZooResult:
    """What was measured of a model; where `error` says what went wrong, nothing but its name.

    Attributes:
        name: The function of `keras.applications` that makes it.
        input_shape: Height, width and channels of its input.
        parameters: Weights of the model.
        wrapped: How many convolutions became FBS layers.
        left: How many did not, by the reason that `wrap` gives.
        density: Of the FBS layers, where nothing else is said.
        macs_dense, macs_fbs: MACs of one image, all layers, with the gates'.
        difference_open: Of the logits of the model and its wrapped copy at density 1, relative to the largest.
        spread: Of the logits of any two images in Keras, dense or FBS: the smallest, relative to the largest logit.
        difference_portable, difference_delegate: As `export.verify` reports it of Keras and the file.
        near_ties: Of `images` images, those that `export.verify` left out: rounding decided between their channels.
        images: How many images were compared.
        timings: Of the dense model, and of the FBS file without and with the delegate.
        seconds: How long all of it took.
        commit: That was measured.
        error: Why there are no figures, a sentence.
    """

    name: str
    input_shape: tuple[int, ...] = ()
    parameters: int = 0
    wrapped: int = 0
    left: dict[str, int] = dataclasses.field(default_factory=dict)
    density: float = DENSITY
    macs_dense: int = 0
    macs_fbs: int = 0
    difference_open: float = 0.0
    spread: float = 0.0
    difference_portable: float = 0.0
    difference_delegate: float = 0.0
    near_ties: int = 0
    images: int = 0
    timings: tuple[Timing, ...] = ()
    seconds: float = 0.0
    commit: str | None = None
    error: str = ""

    @property
    def saving(self) -> float:
        """How many times fewer MACs the FBS model needs, its gates included."""
        return self.macs_dense / self.macs_fbs

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "ZooResult":
        """Makes it of what `dataclasses.asdict` made of it."""
        timings = tuple(Timing(**timing) for timing in fields["timings"])
        return cls(**{**fields, "input_shape": tuple(fields["input_shape"]), "timings": timings})


def classifiers(filter_: str = "") -> dict[str, Callable[..., keras.Model]]:
    """Lists the functions of `keras.applications` that make a classifier of images, whichever this Keras has.

    Args:
        filter_: Those whose name contains this, or one of these, separated by commas; case is ignored. Defaults to
            all.

    Returns:
        The functions by name.

    Raises:
        ValueError: If there is none.
    """
    functions = {name: getattr(keras.applications, name) for name in dir(keras.applications)}
    known: dict[str, Callable[..., keras.Model]] = {
        name: function
        for name, function in functions.items()
        if inspect.isfunction(function) and "classes" in inspect.signature(function).parameters
    }
    parts = [part.strip().lower() for part in filter_.split(",")]
    found = {name: known[name] for name in known if any(part in name.lower() for part in parts)}
    if not found:
        raise ValueError(f"no classifier is called {filter_!r}; keras.applications has {', '.join(known)}")
    return found


def build(name: str, input_shape: tuple[int, ...] | None = None, seed: int = 0) -> keras.Model:
    """Makes a classifier with random weights that outputs logits, which depend on the image.

    Args:
        name: As `classifiers` lists it.
        input_shape: Height, width and channels. Defaults to the model's own, or 224x224x3 where it has none.
        seed: Of the weights. Defaults to 0.

    Returns:
        A Keras model.
    """
    options = {"weights": None, "classifier_activation": None}
    model = classifiers()[name](input_shape=input_shape, **options)
    if None in model.input_shape[1:]:
        model = classifiers()[name](input_shape=(224, 224, 3), **options)
    random = np.random.default_rng(seed)
    for layer in model.layers:
        for variable in layer.trainable_variables:
            variable.assign(_random_weight(variable, random))
    _calibrate(model, [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)])
    return model


def _random_weight(variable, random):
    """A value for a weight: filters that keep the scale of what they read, scales of either sign, small biases.

    As Keras makes them, scales are all 1, or 1e-6 where they weigh a residual branch, and biases are 0.
    """
    shape = tuple(variable.shape)
    if len(shape) > 1:
        depthwise = variable.name == "depthwise_kernel"
        return random.normal(0, math.sqrt(2 / math.prod(shape[:2] if depthwise else shape[:-1])), shape)
    if variable.name in ("bias", "beta"):
        return random.normal(0, 0.1, shape)
    return random.uniform(0.5, 1.5, shape) * random.choice([-1, 1], shape)


def _calibrate(model, norms):
    """Sets the averages of some norms to those of the images, so that activations keep their scale at any depth.

    They are the images that logits are compared on: with gates that multiply, what has another scale than the norms
    know diverges in nets as deep as EfficientNet, whose swish does not bound it.
    """
    norms = {id(norm): norm for norm in norms}
    found = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    # Others keep theirs: of a channel that fires for none of these images, the variance would be zero.
    kept = [layer for layer in found if id(layer) not in norms]
    # What drops a whole branch at random would leave its norms with another network's averages.
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    momenta, rates = [norm.momentum for norm in norms.values()], [layer.rate for layer in dropouts]
    for norm in norms.values():
        norm.momentum = 0.0
    for layer in dropouts:
        layer.rate = 0.0
    for norm in kept:
        norm.trainable = False
    model(images(model.input_shape[1:]), training=True)
    for norm, momentum in zip(norms.values(), momenta, strict=True):
        norm.momentum = momentum
    for layer, rate in zip(dropouts, rates, strict=True):
        layer.rate = rate
    for norm in kept:
        norm.trainable = True


def images(shape: Sequence[int], count: int = 3, seed: int = 0) -> np.ndarray:
    """Images of a few coloured fields with values in 0..255: in noise of fine grain all channel means are the same."""
    height, width, channels = shape
    random = np.random.default_rng(seed)
    fields = random.uniform(0, 255, (count, 4, 4, channels))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    noise = random.normal(0, 10, (count, height, width, channels))
    return np.clip(fields[:, rows][:, :, columns] + noise, 0, 255).astype("float32")


def randomise_gates(model: keras.Model, seed: int = 0) -> None:
    """Gives the gates weights with which some channels win always and some by the image; calibrates the norms.

    rho is uniform in 0.5..1.5, and phi such that ss(x) @ phi varies by 0.1 from channel to channel. What x is like
    depends on the gates before it, and where nothing normalises, its scale grows with theirs from layer to layer:
    so phi is set in one pass through the model, each layer's when its input comes.

    Args:
        model: The wrapped model, at the density that it is meant for.
        seed: Of the weights. Defaults to 0.
    """
    random = np.random.default_rng(seed)

    def predict_saliency(layer, x):
        s = keras.ops.convert_to_numpy(gating.saliency(x, layer.data_format))
        size = np.sqrt(np.square(s).sum(axis=1).mean())
        layer.gate_kernel.assign(random.normal(0, 0.1 / size, layer.gate_kernel.shape))
        layer.gate_bias.assign(random.uniform(0.5, 1.5, layer.gate_bias.shape))
        return type(layer).predict_saliency(layer, x)

    layers = fbs_layers(model)
    for layer in layers:
        layer.predict_saliency = functools.partial(predict_saliency, layer)
    _calibrate(model, [layer.norm for layer in layers if layer.norm is not None])
    for layer in layers:
        del layer.predict_saliency


def compare(name: str, folder: Path, input_shape: tuple[int, ...] | None = None, density: float = DENSITY) -> ZooResult:
    """Wraps, counts and exports a classifier and compares it with itself at each step.

    Args:
        name: As `classifiers` lists it.
        folder: Where to write `dense.tflite` and `fbs.tflite`.
        input_shape: As `build` takes it.
        density: Of the exported FBS model. Defaults to 0.5.

    Returns:
        A `ZooResult` without timings.

    Raises:
        ValueError: If the wrapped model computes something else than the model, a file something else than Keras, or
            the model itself nothing that depends on the image.
    """
    model = build(name, input_shape)
    x = images(model.input_shape[1:])
    decisions = planning.plan(model)
    left = collections.Counter(decision.reason for decision in decisions if decision.reason)
    logits = _logits(model, x)
    fbs = wrap(model)
    difference_open = _relative(logits, _logits(fbs, x))
    if not difference_open < TOLERANCE:  # NaN fails too
        raise ValueError(
            f"at density 1 the wrapped model's logits differ by {difference_open:.1e} of the largest, expected less "
            f"than {TOLERANCE:.0e}"
        )
    export.convert(model, folder / "dense.tflite")
    facts = {"input_shape": model.input_shape[1:], "parameters": model.count_params()}
    del model
    gc.collect()

    set_density(fbs, density)
    randomise_gates(fbs)
    spread = float(np.min([_spread(logits), _spread(_logits(fbs, x))]))
    if not spread > LEAST_SPREAD:  # NaN fails too
        raise ValueError(
            f"the logits of two images differ by {spread:.1e} of the largest, expected more than {LEAST_SPREAD:.0e}: "
            "too little to compare anything by"
        )
    export.convert(fbs, folder / "fbs.tflite")
    reports: list[Any] = [  # `Report`s, since the file is not quantised
        export.verify(fbs, folder / "fbs.tflite", x, tolerance=TOLERANCE, use_delegate=use_delegate)
        for use_delegate in (False, True)
    ]
    macs = count_macs(fbs)
    return ZooResult(
        name=name,
        **facts,
        wrapped=sum(decision.wrapped for decision in decisions),
        left=dict(left.most_common()),
        density=density,
        macs_dense=macs.dense,
        macs_fbs=macs.fbs,
        difference_open=difference_open,
        spread=spread,
        difference_portable=reports[0].difference,
        difference_delegate=reports[1].difference,
        near_ties=max(report.near_ties for report in reports),
        images=len(x),
    )


def _logits(model, x):
    return np.asarray(keras.ops.convert_to_numpy(model(x, training=False)))


def _relative(expected, got):
    """The largest difference, relative to the largest of the expected values of its image."""
    return float((np.abs(expected - got).max(axis=1) / np.abs(expected).max(axis=1)).max())


def _spread(logits):
    """The smallest difference between the logits of two images, relative to the largest logit."""
    pairs = [(a, b) for i, a in enumerate(logits) for b in logits[:i]]
    return float(np.min([np.abs(a - b).max() for a, b in pairs]) / np.abs(logits).max())


def measure(
    name: str, density: float = DENSITY, path: str = "auto", threads: int = 1, seconds: float = 2.0
) -> ZooResult:
    """Compares a classifier and times it: the dense model and the FBS file in turns.

    Args:
        name: As `classifiers` lists it.
        density: Of the FBS model. Defaults to 0.5.
        path: The delegate's option: which instruction set to use. Defaults to the best.
        threads: Threads of each. Defaults to 1.
        seconds: The average time to spend on each candidate. Defaults to 2.

    Returns:
        A `ZooResult`.

    Raises:
        ValueError: As `compare`.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        result = compare(name, folder, density=density)
        keras.utils.clear_session()
        gc.collect()
        fbs = str(folder / "fbs.tflite")
        candidates = [
            Candidate("dense", str(folder / "dense.tflite"), False, result.macs_dense),
            Candidate("FBS portable", fbs, False, result.macs_fbs),
            Candidate("FBS delegate", fbs, True, result.macs_fbs, {"path": path}),
        ]
        timings = measurement.measure(candidates, threads, seconds=seconds)
    commit = measurement.environment()["commit"]
    return dataclasses.replace(
        result, timings=tuple(timings), seconds=round(time.monotonic() - start, 1), commit=commit
    )


def measure_apart(name: str, **options: Any) -> ZooResult:
    """`measure` in a process of its own; what fails, or does not fit into memory, is in `error`."""
    command = [sys.executable, "-m", "fbs_keras.benchmarks.suites.zoo", json.dumps({"name": name} | options)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode == 0:
        return ZooResult.from_json(json.loads(process.stdout.splitlines()[-1]))
    lines = process.stderr.strip().splitlines()
    if process.returncode < 0:
        error = f"its process was ended by signal {-process.returncode}; 9 comes from a machine out of memory"
    else:
        error = lines[-1] if lines else "no reason given"
    return ZooResult(name, error=error, commit=measurement.environment()["commit"])


# Reasons of `wrap`, in the few words of the table; others are cut at the first of ":;,".
_SHORT = (
    (r"it reads .*, all of whose channels are active", "depthwise"),
    (r"its map of (\d+x\d+) is so small.*", r"on \1"),
    (r"it has \d+ groups", "grouped"),
    (r"its activation '(softmax|sigmoid|hard_sigmoid)' moves zero.*", r"\1"),
    (r"its activation .* moves zero.*", "activation moves zero"),
    (r"it computes the model's output", "output"),
)


def short(left: dict[str, int]) -> str:
    """Why convolutions were left alone, such as `"17 depthwise, 16 sigmoid"`."""
    counts: collections.Counter[str] = collections.Counter()
    for reason, count in left.items():
        words = next((re.sub(p, to, reason) for p, to in _SHORT if re.fullmatch(p, reason)), None)
        counts[words or re.split("[:;,]", reason)[0]] += count
    return ", ".join(f"{count} {words}" for words, count in counts.most_common())


_HEADS = [
    *("", "input", "convs: FBS", "left alone", "G MACs", "fewer", "density 1", "file", "delegate"),
    *("dense ms", "portable", "delegate", "MB dense", "MB FBS"),
]


def _cells(result):
    dense, portable, delegate = result.timings
    differences = (result.difference_open, result.difference_portable, result.difference_delegate)
    return [
        result.name,
        "x".join(map(str, result.input_shape[:2])),
        str(result.wrapped),
        short(result.left) or "-",
        f"{result.macs_dense / 1e9:.3f}",
        f"{result.saving:.2f}x",
        *(f"{difference:.0e}" for difference in differences),
        f"{dense.median:.2f}",
        f"{portable.speedup:.2f}x",
        f"{delegate.speedup:.2f}x",
        *(f"{timing.file_bytes / 1e6:.1f}" for timing in (dense, delegate)),
    ]


def table(results: Iterable[ZooResult]) -> str:
    """The results as text, a row a model; below it what failed."""
    results = list(results)
    rows = [_HEADS, *(_cells(result) for result in results if not result.error)]
    failures = [f"{result.name}: {result.error}" for result in results if result.error]
    return "\n".join([aligned(rows, left=4), *failures])


def markdown(results: Iterable[ZooResult]) -> str:
    """The results as a table in Markdown; below it what failed."""
    results = list(results)
    rows = [_HEADS, ["---"] * len(_HEADS), *(_cells(result) for result in results if not result.error)]
    failures = [f"\n{result.name}: {result.error}" for result in results if result.error]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), *failures])


MARKS = ("<!-- table: begin -->", "<!-- table: end -->")


def write_markdown(results: Iterable[ZooResult], path: str | Path) -> None:
    """Puts the table between the marks in a file; raises ValueError if it has none."""
    text = Path(path).read_text(encoding="utf-8")
    begin, end = MARKS
    if begin not in text or end not in text:
        raise ValueError(f"{str(path)!r} must hold the lines {begin} and {end}, between which the table goes")
    head, tail = text.split(begin)[0], text.split(end)[1]
    files.write(path, f"{head}{begin}\n\n{markdown(results)}\n\n{end}{tail}")


if __name__ == "__main__":
    try:
        print(json.dumps(dataclasses.asdict(measure(**json.loads(sys.argv[1])))))
    except (MemoryError, OSError, TypeError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}")
