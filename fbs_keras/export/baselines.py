"""Plain networks to compare an FBS model's speed with."""

import os

import keras

from fbs_keras import graph
from fbs_keras.compact.quantization import check_quantize
from fbs_keras.export.converter import load, plan_model, to_tflite
from fbs_keras.export.names import input_names

KINDS = ("dense", "static")


@graph.reading_once()
def baseline(
    model: keras.Model | str | os.PathLike, kind: str, batch_size: int = 1, quantize: str | None = None
) -> bytes:
    """Converts a plain convolutional network of a model's shape: what FBS has to beat.

    Args:
        model: A built Sequential or Functional Keras model with FBS layers, or the path of a `.keras` or `.h5` file.
        kind: `"dense"`: each FBS layer is a convolution with all its channels, and with its gate at rest, `pi = rho`.
            `"static"`: each has only k channels, the first ones, in all places: the ideal, a smaller net whose channels
            do not depend on the input. Its output is of no use.
        batch_size: The file's batch size. Defaults to 1.
        quantize: `None` (default), `"float16"` or `"dynamic_int8"`, as TFLite itself quantises; see
            `fbs_keras.convert`.

    Returns:
        The bytes of a .tflite file. Its convolutions are CONV_2D with bias and ReLU fused, as of any Keras model.

    Raises:
        TypeError, ValueError: As `fbs_keras.convert`.

    Example:

    >>> dense = fbs_keras.export.baseline(model, "dense")
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    check_quantize(quantize)
    model = load(model)
    static = kind == "static"
    plan = plan_model(model, batch_size, aligned=static, compact=static)

    from fbs_keras.export import tracing

    return to_tflite(tracing.PlainTracer(static).trace(plan, input_names(model)), quantize)
