"""convert(): a Keras model with FBS layers -> a .tflite file."""

import contextlib
import functools
import logging
import math
import numbers
import os
import tempfile

import keras
import numpy as np

from fbs_keras import files, graph
from fbs_keras.compact import sparsity
from fbs_keras.compact.ops import OPS, conv2d
from fbs_keras.compact.quantization import check_quantize
from fbs_keras.export import messages
from fbs_keras.export.names import check_loops, input_names
from fbs_keras.graph.quantized import check_not_quantized
from fbs_keras.graph.rewriting import as_float32

TARGETS = ("portable", "builtin", "custom")
MOST_VALUES = 2**31 - 1

_LOGGER = logging.getLogger(__name__)


@graph.reading_once()
def convert(
    model: keras.Model | str | os.PathLike,
    path: str | os.PathLike | None = None,
    *,
    target: str = "portable",
    quantize: str | None = None,
    batch_size: int = 1,
) -> bytes:
    """Converts a Keras model to a .tflite file in which FBS layers compute their winning channels only.

    Between FBS layers only the winners are stored, `[N, H, W, k]` with `k = ceil(density * C)`, together with their
    indices. All shapes are static.

    Args:
        model: A built Sequential or Functional Keras model, or the path of a `.keras` or `.h5` file. Models without FBS
            layers are converted too.
        path: Where to write the file; nothing is written before it is complete. Defaults to no file.
        target: What FBS layers become:
            `"portable"` (default): composites of built-in ops; run in any current LiteRT, faster with our delegate.
            `"builtin"`: built-in ops; run in any LiteRT or TensorFlow Lite, but the delegate does not see them.
            `"custom"`: custom ops; run only with the delegate, `fbs_keras.delegate_path()`.
        quantize: How weights are stored:
            `None` (default): float32.
            `"float16"`: float16, half the file; what is computed is float32.
            `"dynamic_int8"`: int8, a scale for each output channel, the gates' kernels float16: 0.3 of the file. Our
            delegate quantises the activations of each FBS layer by their range and multiplies in int8; built-in ops
            multiply its weights in float32.
            What is no FBS layer goes through TFLite's own quantisation of this kind, "float16" or "dynamic range".
            The linear gate is computed in float32 under all three; a layer's own `gate` is no FBS layer.
        batch_size: The file's batch size, a positive integer. Defaults to 1, whatever batch the model was built with:
            like Keras, which gives a Sequential model the size of the first batch, we do not hold it to that.

    Returns:
        The file's bytes.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has the wrong value, Keras runs on another backend than TensorFlow, or the model is
            not built, is subclassed, has an input of unknown size, uses channels_first, or a layer that TFLite has no
            ops for.

    Example:

    >>> content = fbs_keras.convert(model, "model.tflite")
    """
    if not isinstance(target, str):
        raise TypeError(f"target must be one of {', '.join(map(repr, TARGETS))}, got {type(target).__name__}")
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(map(repr, TARGETS))}, got {target!r}")
    check_quantize(quantize)
    path = _check_path(path)
    model = load(model)
    plan = plan_model(model, batch_size, quantize=quantize)
    content = contents(model, plan, int(batch_size), [target])[target]
    for sentence in idle_lanes([step.node.layer for step in plan.steps if step.action == conv2d.ACTION]):
        _LOGGER.warning(sentence)
    if target == "custom":
        _LOGGER.info("the file needs the delegate: load fbs_keras.delegate_path(), or use fbs_keras.Interpreter")
    if path is not None:
        _write_atomically(path, content)
    return content


def contents(model, plan, batch_size, targets=TARGETS):
    """Converts a planned model for several targets, of which all but the first cost little: `{target: bytes}`."""
    from fbs_keras.export import composite, tracing

    tracer = tracing.Tracer(plan.quantize)
    content = to_tflite(_trace(tracer, plan, model, batch_size), plan.quantize)
    files = {"custom": composite.restore_ops(content, tracer.names)}
    for target in {*targets} - {"custom"}:
        files[target] = composite.to_composites(files["custom"], decompose, inlined=target == "builtin")
        if target == "builtin":
            files[target] = composite.inline_composites(files[target])
    for target in targets:
        _check_ops(composite.ops(composite.read(files[target])), target, tracer.made)
    return files


LANES = 16  # float32 values in a vector of AVX-512, the widest kernels
# k = 39 of 64 channels computed as 48 (19 % idle) saved 1.33 times less time than MACs, 20 as 32 (38 %) 1.67 times
# less, against 1.02 without idle lanes.
MOST_IDLE = 0.15


def idle_lanes(layers):
    """Says where the number of winning channels leaves much of a kernel's vectors idle.

    Args:
        layers: `FBSConv2D` layers, of which each counts once.

    Returns:
        A list of one sentence, or of none.

    Example:

    >>> idle_lanes([FBSConv2D(64, 3, density=0.3, name="conv3")])
    ['k = 20 in conv3 computes as 32 do where vectors hold 16 channels; wrap(..., round_channels=16) makes ...']
    """
    found: dict[int, list[str]] = {}
    for layer in dict.fromkeys(layers):
        k = layer.active_channels
        computed = -(-k // LANES) * LANES
        if computed <= layer.filters and 1 - k / computed > MOST_IDLE:  # more than all filters would be no remedy
            found.setdefault(k, []).append(layer.name)
    if not found:
        return []
    parts = [f"k = {k} in {', '.join(names)} computes as {-(-k // LANES) * LANES} do" for k, names in found.items()]
    return [
        f"{'; '.join(parts)} where vectors hold {LANES} channels; wrap(..., round_channels={LANES}) makes use of them."
    ]


@graph.reading_once()
def explain(model: keras.Model | str | os.PathLike, batch_size: int = 1) -> str:
    """Tells how each layer of a model is exported, which tensors are compact (`32/64`), and why others are not.

    Args:
        model: A built Sequential or Functional Keras model, or the path of a `.keras` or `.h5` file.
        batch_size: The file's batch size. Defaults to 1.

    Returns:
        A table, as a string.

    Raises:
        As `convert`.

    Example:

    >>> print(explain(model))
    conv0    fbs          1x32x32x3 -> 1x30x30x32/64
    conv1    fbs          1x30x30x32/64 -> 1x30x30x32/64
    ...
    logits   dense        1x1x1x96/192 -> 1x1x1x10  (expanded: of a single pixel, faster than to gather the rows of ...)
    """
    return str(plan_model(load(model), batch_size))


def load(model: keras.Model | str | os.PathLike) -> keras.Model:
    """Prepares a model for export.

    Args:
        model: A Keras model, or the path of a `.keras` or `.h5` file.

    Returns:
        The model, or a float32 copy of it where it computes in another precision.

    Raises:
        TypeError, ValueError: If the model cannot be exported; see `convert`.
    """
    return as_float32(read_model(model))


def read_model(model):
    """As `load`, but in the model's own precision."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"export needs Keras on its tensorflow backend, got {keras.backend.backend()!r}; save the model as a "
            ".keras file and export that with the environment variable KERAS_BACKEND=tensorflow"
        )
    if isinstance(model, (str, os.PathLike)):
        model = _load_file(os.fspath(model))
    graph.check_model(model)
    check_not_quantized(model)
    for node in graph.flatten(model).nodes:
        if getattr(node.layer, "data_format", None) == "channels_first":
            raise ValueError(
                f"layer {node.name!r} has data_format 'channels_first', which TFLite does not know; "
                "rebuild the model with 'channels_last'"
            )
    return model


def plan_model(model, batch_size, **settings):
    """Plans a whole model for a batch size; see `sparsity.plan` for the settings."""
    if isinstance(batch_size, (bool, np.bool_)) or not isinstance(batch_size, numbers.Integral):
        raise TypeError(f"batch_size must be an integer, got {batch_size!r}")
    batch_size = int(batch_size)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    check_loops(model)
    for tensor in model.inputs:
        if None in tensor.shape[1:]:
            raise ValueError(
                f"input {tensor.name!r} of model {model.name!r} has shape {tuple(tensor.shape)}, but every size except "
                "the batch's must be known; rebuild the model with keras.Input of a fixed size"
            )
    plan = sparsity.plan(model, batch_size, **settings)
    _check_sizes(plan, model, batch_size)
    return plan


def _check_sizes(plan, model, batch_size):
    """Raises where TFLite, which counts values by int32, cannot hold a tensor of the plan."""
    sizes = {f"input {tensor.name!r}": math.prod(tensor.shape[1:]) for tensor in model.inputs}
    for step in plan.steps:
        sizes[f"layer {step.node.name!r}"] = max(_values(step), default=0)
    where, values = max(sizes.items(), key=lambda item: item[1])
    most = MOST_VALUES // max(values, 1)
    if batch_size > most:
        remedy = f"use a batch_size of at most {most}" if most else "build the model for smaller inputs"
        raise ValueError(
            f"{where} needs a tensor of {values} values an example, {values * batch_size} with "
            f"batch_size={batch_size}, but TFLite's tensors hold at most {MOST_VALUES}; {remedy}"
        )


def _values(step):
    """How many values an example has in each of the tensors that a step reads, writes or makes."""
    yield from (math.prod(tensor.shape[1:]) for tensor in (*step.inputs, *step.outputs))
    if step.action == conv2d.ACTION and math.prod(step.node.layer.kernel_size) > 1:  # the patches of its decomposition
        pixels = math.prod(step.outputs[0].shape[1:-1]) * step.pool**2
        yield pixels * math.prod(step.node.layer.kernel_size) * (step.inputs[0].active or step.inputs[0].shape[-1])


def to_tflite(function, quantize=None):
    """Converts a concrete function to a .tflite file's bytes, quietly.

    Args:
        function: The function, with one signature of tensors.
        quantize: How TFLite stores the weights of its own ops, one of `QUANTIZATIONS`. Defaults to `None`, float32.
    """
    import tensorflow as tf

    from fbs_keras.export import composite

    # Through a SavedModel, which keeps the functions that are to become custom ops. The converter would make one by
    # itself, but where that fails it silently goes another way, and the functions are lost.
    with _saved_model(function) as folder:
        with messages.held():
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        content = _run(converter)
    return composite.order_inputs_and_outputs(
        content, [spec.name for spec in tf.nest.flatten(function.structured_input_signature)]
    )


@contextlib.contextmanager
def _saved_model(function):
    """A folder with a concrete function as a SavedModel; it goes when the block ends."""
    import tensorflow as tf

    owner = tf.Module()
    owner.function = function
    owner.variables_ = function.variables
    options = tf.saved_model.SaveOptions(save_debug_info=True)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            with messages.held():
                tf.saved_model.save(owner, folder, {"serving_default": function}, options)
        except (OSError, tf.errors.OpError) as error:
            raise ValueError(
                f"the conversion cannot write temporary files to {tempfile.tempdir or 'any folder'}: {_reason(error)}; "
                "make room, or set the environment variable TMPDIR to another folder"
            ) from error
        except Exception as error:
            raise ValueError(f"TensorFlow cannot save the model for its conversion: {_first_line(error)}") from error
        yield folder


def _run(converter):
    # Ops that TFLite lacks become custom ones, which _check_ops names; the converter's own error is pages long.
    converter.allow_custom_ops = True
    said = messages.Said()
    try:
        with messages.held() as said:
            return converter.convert()
    except Exception as error:  # TensorFlow's own ConverterError, of no public name, and others
        reason = _first_line(error)
        if said.error and said.error not in reason:
            reason += f" ({said.error})"
        raise ValueError(f"TensorFlow cannot convert the model to TFLite: {reason}") from error


@functools.lru_cache(maxsize=512)  # it takes about 0.1 s, and networks repeat themselves
def decompose(op, inputs):
    """Converts the built-in ops of one exported op, given the `compact.op.Op` and its inputs' shapes and types."""
    import tensorflow as tf

    from fbs_keras.export import lowering

    specs = [
        tf.TensorSpec(shape, dtype, f"{index}_{name}")
        for index, (name, (shape, dtype)) in enumerate(zip(op.operands, inputs, strict=True))
    ]

    @tf.function(input_signature=specs, autograph=False)
    def composite(*operands):
        return lowering.compute(op, *operands)

    # Without an owner, which TensorFlow warns of, and so without a SavedModel: in half the time.
    with messages.held():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([composite.get_concrete_function()])
    return _run(converter)


def _trace(tracer, plan, model, batch_size):
    """The plan's concrete function; says why there is none where a model reshapes by the batch it was built with."""
    try:
        return tracer.trace(plan, input_names(model))
    except ValueError as error:
        size = model.inputs[0].shape[0]
        if size in (None, batch_size):
            raise
        raise ValueError(
            f"model {model.name!r}, built for batches of {size}, does not compute batches of {batch_size}; convert it "
            f"with batch_size={size}, or build it with no batch size: {_first_line(error)}"
        ) from error


def _load_file(path):
    if not os.path.exists(path):
        raise ValueError(f"{path!r} does not exist; expected a .keras or .h5 file, or a Keras model")
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises anything from KeyError to zipfile's errors
        reason = str(error).rpartition("Exception encountered: ")[2]  # what went wrong inside, after pages of config
        raise ValueError(f"{path!r} cannot be loaded as a Keras model: {_first_line(reason or repr(error))}") from error


def _reason(error):
    """What the system says of an error with a file, without the names of temporary ones."""
    text = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    return text.split("\n")[0].rpartition("; ")[2].partition(" [Op:")[0]


def _first_line(error):
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def _check_path(path):
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise TypeError(f"path must be a string or a path, got {type(path).__name__}")
    path = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(path)) if "\0" not in path else ""
    problem = None
    if not path or "\0" in path:
        problem = "it is no file name"
    elif not os.path.isdir(folder):
        problem = f"folder {folder!r} does not exist"
    elif os.path.isdir(path) or path.endswith(("/", os.sep)):
        problem = "it is a folder; expected a file name"
    elif os.path.exists(path) and not os.path.isfile(path):
        problem = "it is no regular file"
    elif not os.access(folder, os.W_OK):
        problem = f"folder {folder!r} is read-only"
    elif len(os.fsencode(os.path.basename(path))) > _longest_name(folder):
        problem = f"its name is longer than {_longest_name(folder)} bytes"
    if problem:
        raise ValueError(f"cannot write {path!r}: {problem}")
    return path


def _longest_name(folder):
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # no such call, as on Windows, or a file system without an answer
        return 255


def _check_ops(subgraphs, target, made):
    allowed = {f"CUSTOM {name}" for name in OPS} if target == "custom" else set()
    unknown = sorted({op for names in subgraphs for op in names if op.startswith("CUSTOM")} - allowed)
    if unknown:
        parts = []
        for op in (op.removeprefix("CUSTOM ").removeprefix("Flex") for op in unknown):
            layers = ", ".join(map(repr, sorted(made.get(op, ()))))
            parts.append(f"{op} (of {layers})" if layers else op)
        raise ValueError(
            f"the model uses TensorFlow ops that TFLite has no built-in op for: {', '.join(parts)}; "
            "use other layers in their place, or split the model there and run that part elsewhere"
        )


def _write_atomically(path, content):
    try:
        files.write(path, content)
    except OSError as error:
        raise ValueError(str(error)) from error
