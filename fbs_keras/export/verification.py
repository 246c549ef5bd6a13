"""verify(): does an exported file compute what the Keras model does?"""

import dataclasses
import os
from typing import Any

import keras
import numpy as np

from fbs_keras import graph, runtime
from fbs_keras.compact.ops.conv2d import fold
from fbs_keras.export.converter import plan_model, read_model
from fbs_keras.graph import observing
from fbs_keras.graph.rewriting import as_float32

# Two gates this close, relative to the largest, may swap places by rounding: 1e-6 is what float32 sums over some
# hundred channels differ by from one order of summation to another, and it grows from layer to layer.
NEAR_TIE = 1e-5

# What half of the examples must reach in a quantised file, in dB. A file of other weights has about 0 dB, more where
# the outputs hardly depend on the input. The medians of M-CifarNet on CIFAR-10's test images are 72 (float16) and 39
# (int8) dB. Where rounding swaps channels that are no near-tie, it is less: in a ResNet-18 of random weights and gates,
# on noise, 18 to 21 dB for three images of eight (float16) and 9 for all of them (int8).
LEAST_SIGNAL_TO_NOISE = {"float16": 15, "dynamic_int8": 5}

# What half of the examples must reach where the model itself computes in half precision, in dB: of those for which it
# chooses the same channels as in float32, and of all where it does so for none. Six nets on noise have at least 49
# (float16) and 29 (bfloat16) dB in every example of the former kind, 24 in one of the latter; a file without its
# input's normalisation has less than 0.
LEAST_OF_HALF = {"float16": (35, 15), "bfloat16": (20, 5)}


@dataclasses.dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        examples: How many examples were run.
        near_ties: How many of them had, in some layer, gates so close that Keras and the file chose different channels,
            or may have, where the file does not show it; the outputs of these are not compared.
        compared_gates: How many FBS layers' choices were compared; 0 where a file does not show them.
        difference: The largest difference of an output, relative to the largest output of the example.
        precision: `"float16"` or `"bfloat16"` where the model computes in it; `None` where it computes in float32.
        signal_to_noise: The median over the examples in dB, as in `QuantizedReport`, against the model in that
            precision; all else is against a float32 copy of it. `None` where it computes in float32.
    """

    examples: int
    near_ties: int
    compared_gates: int
    difference: float
    precision: str | None = None
    signal_to_noise: float | None = None

    def __str__(self):
        text = (
            f"{self.examples} examples, largest relative difference {self.difference:.1e}; "
            f"choices of {self.compared_gates} FBS layers compared, {self.near_ties} examples with a near-tie left out"
        )
        if self.precision is not None:
            text += f"; signal to noise against the model in {self.precision} {self.signal_to_noise:.1f} dB"
        return text


@dataclasses.dataclass(frozen=True)
class QuantizedReport:
    """What `verify` found of a quantised file.

    Attributes:
        examples: How many examples were run.
        quantize: `"float16"` or `"dynamic_int8"`.
        signal_to_noise: The median over the examples of sum y^2 / sum (difference of y)^2 in dB, of that output which
            has the lowest.
        same_class: The share of examples whose largest output is the same; `None` for models that are no classifiers:
            of several outputs, or of another shape than `[N, classes]`.
        accuracy_keras, accuracy_file: The share of examples that each classifies rightly; `None` without labels.
    """

    examples: int
    quantize: str
    signal_to_noise: float
    same_class: float | None
    accuracy_keras: float | None
    accuracy_file: float | None

    def __str__(self):
        parts = [f"{self.examples} examples, {self.quantize}", f"signal to noise {self.signal_to_noise:.1f} dB"]
        if self.same_class is not None:
            parts.append(f"same class {self.same_class:.2%}")
        if self.accuracy_file is not None:
            parts.append(f"accuracy {self.accuracy_file:.2%}, in Keras {self.accuracy_keras:.2%}")
        return ", ".join(parts)


@graph.reading_once()
def verify(
    model: keras.Model | str | os.PathLike,
    content: bytes | str | os.PathLike,
    x: Any = None,
    *,
    labels: Any = None,
    tolerance: float = 1e-3,
    use_delegate: bool | None = None,
) -> Report | QuantizedReport:
    """Compares a Keras model with the file that it was exported to, on the same inputs.

    Of a float32 file, first the channels that each FBS layer chose, then the outputs, with those of
    `model(x, training=False)`. Gates that differ by rounding only may change places; such examples are counted, and
    their outputs are not compared.

    A model of half precision, such as one of the policy "mixed_float16", computes other values than its file, in which
    all is float32. Its file is compared with a float32 copy of the model, and with the model itself as signal and
    noise.

    Quantisation changes every value, and with them some choices. So of a quantised file the outputs are compared as
    signal and noise, and as classes.

    Args:
        model: The Keras model, or the path of a `.keras` or `.h5` file.
        content: The bytes of the `.tflite` file, or its path.
        x: Inputs, `[examples, ...]`, or a list of them for a model of several inputs, in the order of `model.inputs`.
            Defaults to standard normal noise: 16 examples, or as many as the model's batch if that is fixed.
        labels: The right classes, `[examples]`, to tell the accuracy of a quantised classifier. Defaults to none.
        tolerance: The largest difference of an output of a float32 file to accept, relative to the largest output of
            the example. Defaults to 1e-3. Of a quantised file, half of the examples must reach a signal-to-noise ratio
            of 15 dB (float16) or 5 dB (int8); of the float32 file of a model that computes in half precision, 35 dB
            (float16) or 20 dB (bfloat16).
        use_delegate: Whether to run the file with the FBS delegate. Defaults to doing so where the file needs it.

    Returns:
        A `Report`, or a `QuantizedReport` for a quantised file.

    Raises:
        ValueError: If the file chooses other channels, or its outputs differ by more than is accepted; or if an
            argument cannot be used: `content` is no TFLite model, or `model`, `content` and `x` differ in shape.

    Example:

    >>> print(fbs_keras.export.verify(model, "model.tflite"))
    16 examples, largest relative difference 6.1e-07; choices of 8 FBS layers compared, 0 examples with a near-tie ...
    """
    original = read_model(model)  # what the file is to compute; the float32 copy is made as for the file
    model = as_float32(original)
    content = _read(content)
    x = _noise(model) if x is None else [np.asarray(array) for array in (x if isinstance(x, (list, tuple)) else [x])]
    if len(x) != len(model.inputs):
        raise ValueError(f"x must hold an array for each of the model's {len(model.inputs)} inputs, got {len(x)}")

    from fbs_keras.export import composite

    file = composite.read(content)
    if use_delegate is None:
        use_delegate = any("CUSTOM" in op for op in composite.ops(file)[0])
    gates = _gates(model, x)
    precision = half_precision(original)
    expected = _outputs(model if precision else original, x)
    quantize = composite.quantization(file)
    if quantize is not None:
        outputs = runtime.Interpreter(content, use_delegate=use_delegate).predict(x)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        return _compare_quantized(quantize, _outputs(original, x), outputs, labels)
    content, positions = composite.show_choices(content, [fold(layer)["weights"] for layer, _ in gates])
    outputs = runtime.Interpreter(content, use_delegate=use_delegate).predict(x)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    shown = sum(position is not None for position in positions)
    _check_shapes(expected, outputs[: len(outputs) - shown])

    near_tie = np.zeros(len(x[0]), bool)
    for (layer, g), position in zip(gates, positions, strict=True):
        if position is None:
            near_tie |= may_differ(layer, g)
        else:
            near_tie |= _compare_choices(layer, g, outputs[position], near_tie)
    if near_tie.all():
        raise ValueError("every example has a near-tie, so no output could be compared; verify with other inputs")
    difference = max(
        _difference(want[~near_tie], got[~near_tie])
        for want, got in zip(expected, outputs[: len(expected)], strict=True)
    )
    if not difference <= tolerance:  # NaN fails too
        raise ValueError(f"the outputs differ by {difference:.1e} of the largest, expected at most {tolerance:.1e}")
    report = Report(len(x[0]), int(near_tie.sum()), shown, difference)
    if precision is None:
        return report
    same = _same_choices(gates, _gates(original, x))
    ratio = _compare_half(precision, _outputs(original, x), outputs[: len(expected)], same)
    return dataclasses.replace(report, precision=precision, signal_to_noise=ratio)


def signal_to_noise(expected, got):
    """Computes `10 log10(sum expected^2 / sum (expected - got)^2)` of each example.

    Args:
        expected: `[N, ...]`.
        got: `[N, ...]`, of the same shape.

    Returns:
        `[N]`, in dB; infinite where both are equal.
    """
    expected, got = (np.reshape(y, (len(y), -1)).astype("float64") for y in (expected, got))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = 10 * np.log10((expected**2).sum(axis=1) / ((expected - got) ** 2).sum(axis=1))
    return np.where((expected == got).all(axis=1), np.inf, ratios)


def _compare_quantized(quantize, expected, outputs, labels):
    """The `QuantizedReport` of outputs; raises where they have too much noise."""
    _check_shapes(expected, outputs)
    pairs = list(zip(expected, outputs, strict=True))
    ratio = float(min(np.median(signal_to_noise(want, got)) for want, got in pairs))
    least = LEAST_SIGNAL_TO_NOISE[quantize]
    if not ratio >= least:  # NaN fails too
        raise ValueError(f"the outputs have a signal-to-noise ratio of {ratio:.1f} dB, expected at least {least}")
    report = QuantizedReport(len(expected[0]), quantize, ratio, None, None, None)
    if len(expected) > 1 or expected[0].ndim != 2 or expected[0].shape[1] < 2:
        return report
    keras_class, file_class = (y.argmax(axis=1) for y in pairs[0])
    report = dataclasses.replace(report, same_class=float((keras_class == file_class).mean()))
    if labels is None:
        return report
    accuracies = [float((classes == np.asarray(labels)).mean()) for classes in (keras_class, file_class)]
    return dataclasses.replace(report, accuracy_keras=accuracies[0], accuracy_file=accuracies[1])


def _read(content):
    """The bytes of a .tflite file, given them or its path; raises for what LiteRT cannot read."""
    from ai_edge_litert import interpreter as litert

    if runtime.is_path(content):
        with open(content, "rb") as file:
            content = file.read()
    try:
        litert.Interpreter(model_content=content)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"LiteRT cannot read this model: {error}") from error
    return content


def half_precision(model):
    """The least precise type that a model's layers compute in, `"bfloat16"` or `"float16"`; `None` if neither."""
    types = {getattr(node.layer, "compute_dtype", None) for node in graph.flatten(model).nodes}
    return next((dtype for dtype in ("bfloat16", "float16") if dtype in types), None)


def _same_choices(gates, others):
    """Which examples choose the same channels in every FBS layer: a mask `[N]`, or `True` where there are no gates."""
    same = [
        (_choices(layer, g)[0] == _choices(layer, other)[0]).all(axis=1)
        for (layer, g), (_, other) in zip(gates, others, strict=True)
    ]
    return np.all(same, axis=0)


def _compare_half(precision, expected, outputs, same):
    """The signal-to-noise ratio of outputs against those of a model in half precision; raises where it is too low."""
    _check_shapes(expected, outputs)
    same = np.broadcast_to(same, len(expected[0]))
    compared, least = (same, LEAST_OF_HALF[precision][0]) if same.any() else (~same, LEAST_OF_HALF[precision][1])
    pairs = zip(expected, outputs, strict=True)
    ratio = float(min(np.median(signal_to_noise(want[compared], got[compared])) for want, got in pairs))
    if not ratio >= least:  # NaN fails too
        raise ValueError(
            f"against the model itself, which computes in {precision}, the outputs have a signal-to-noise ratio of "
            f"{ratio:.1f} dB, expected at least {least}; against a float32 copy of it they are right, so the copy "
            "computes something else: a layer of it may hold state that is neither in its weights nor in its config"
        )
    return ratio


def _gates(model, x):
    """What the gates of a model predict: `(layer, g)` for each call of an FBS layer that suppresses channels."""
    import tensorflow as tf

    flat = plan_model(model, len(x[0]), compact=False).graph  # which says what cannot be exported
    with keras.StatelessScope():  # the losses of this call are not to stay in the user's layers
        values = observing.tensors(flat, [tf.convert_to_tensor(array) for array in x])
        found = [(node.layer, g) for node, g in observing.gates(flat, values)]
    return [(layer, g.numpy()) for layer, g in found if layer.active_channels < layer.filters]


def _outputs(model, x):
    """A model's outputs, a list of arrays.

    By Keras itself and not from the graph, which the exported file's tracer reads too: a graph read wrongly would be
    wrong in both.
    """
    import tensorflow as tf

    tensors = [tf.convert_to_tensor(array) for array in x]
    sequential = isinstance(model, keras.Sequential)
    structure = tensors[0] if sequential else keras.tree.pack_sequence_as(model.input, tensors)
    with keras.StatelessScope():  # the losses of this call are not to stay in the user's layers
        outputs = keras.tree.flatten(model(structure, training=False))
    outputs = [keras.ops.convert_to_numpy(y) for y in outputs]
    return [y.astype("float32") if y.dtype.name in LEAST_OF_HALF else y for y in outputs]


def _check_shapes(expected, got):
    expected, got = [y.shape[1:] for y in expected], [y.shape[1:] for y in got]
    if expected != got:
        raise ValueError(
            "the file is not of this model: without the batch, the model's outputs have the shapes "
            f"{expected}, the file's {got}"
        )


def _compare_choices(layer, g, indices, skip):
    """Which examples chose other channels because of a near-tie; raises where there was none."""
    expected, threshold, tolerance = _choices(layer, g)
    chosen = np.zeros(g.shape, bool)
    np.put_along_axis(chosen, indices, True, axis=1)
    close = np.abs(_scores(layer, g) - threshold) <= tolerance
    wrong = ((chosen != expected) & ~close).any(axis=1) | (chosen.sum(axis=1) != expected.sum(axis=1))
    if (wrong & ~skip).any():
        example = int(np.flatnonzero(wrong & ~skip)[0])
        extra, missing = chosen[example] & ~expected[example], expected[example] & ~chosen[example]
        raise ValueError(
            f"layer {layer.name!r}, example {example}: the file chooses channels {np.flatnonzero(extra).tolist()} "
            f"where the model chooses {np.flatnonzero(missing).tolist()}"
        )
    return (chosen != expected).any(axis=1)


def may_differ(layer, g):
    """Which examples have a near-tie that could change a layer's choice.

    Args:
        layer: The `FBSConv2D`.
        g: Its predicted saliencies for each example, `[N, filters]`. Of exactly equal ones the first wins everywhere.

    Returns:
        A mask, `[N]`.
    """
    expected, threshold, tolerance = _choices(layer, g)
    scores = _scores(layer, g)
    best_loser = np.where(expected, -np.inf, scores).max(axis=1, keepdims=True)
    return ((best_loser < threshold) & (threshold - best_loser <= tolerance))[:, 0]


def _choices(layer, g):
    """The channels to choose, a mask; the score of the last one; how far from it a score is a near-tie."""
    scores = _scores(layer, g)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : layer.active_channels]
    mask = np.zeros(g.shape, bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask, np.take_along_axis(scores, order[:, -1:], axis=1), NEAR_TIE * scores.max(axis=1, keepdims=True)


def _scores(layer, g):
    """What channels are chosen by: g, or its mean over the channel's group."""
    size = layer.group_size
    return g if size == 1 else np.repeat(g.reshape(len(g), -1, size).mean(axis=2), size, axis=1)


def _difference(expected, got):
    axes = tuple(range(1, expected.ndim))
    scale = np.maximum(np.abs(expected).max(axis=axes, keepdims=True), 1e-30)
    return float(np.max(np.abs(expected - got) / scale))


def _noise(model):
    random = np.random.default_rng(0)
    examples = next((tensor.shape[0] for tensor in model.inputs if tensor.shape[0]), 16)
    arrays = [random.standard_normal((examples, *tensor.shape[1:])) for tensor in model.inputs]
    return [array.astype(tensor.dtype) for array, tensor in zip(arrays, model.inputs, strict=True)]
