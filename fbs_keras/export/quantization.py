"""How the constants of the exported ops are stored: float32, float16 or int8."""

import numpy as np

from fbs_keras.compact.attributes import CONVOLUTIONS, Conv2DInt8Attributes, predicts_gate

QUANTIZATIONS = (None, "float16", "dynamic_int8")

# Sums of this many products of an activation (at most 255 from its zero point) and a weight (at most 127) fit int32.
MOST_PRODUCTS = 65_000


def check_quantize(quantize):
    """Raises TypeError or ValueError unless `quantize` is one of `QUANTIZATIONS`."""
    if quantize is not None and not isinstance(quantize, str):
        raise TypeError(f"quantize must be one of {', '.join(map(repr, QUANTIZATIONS))}, got {type(quantize).__name__}")
    if quantize not in QUANTIZATIONS:
        raise ValueError(f"quantize must be one of {', '.join(map(repr, QUANTIZATIONS))}, got {quantize!r}")


def conv2d_attributes(layer, sparse_in, quantize, pool=1):
    """The attributes of an FBS layer's op, one of `CONVOLUTIONS`: of int8 weights for `"dynamic_int8"`.

    `pool`, other than 1, is for those only.
    """
    int8, gated = quantize == "dynamic_int8", not predicts_gate(layer)
    (op,) = (op for op in CONVOLUTIONS if (issubclass(op, Conv2DInt8Attributes), op.gated) == (int8, gated))
    return op.from_layer(layer, sparse_in, **({"pool": pool} if int8 else {}))


def conv2d_constants(constants, quantize):
    """Quantises the constants of an FBS layer's op. Biases and the gate's bias stay float32: they are few.

    Args:
        constants: `weights`, `bias`, and `gate_kernel` and `gate_bias` where the op predicts g, float32, as from
            `attributes.constants`.
        quantize: `None`, which changes nothing; `"float16"`, for `weights` and `gate_kernel`; or `"dynamic_int8"`:
            `weights` int8, one scale for each output channel, and `gate_kernel` float16.

    Returns:
        The constants by name, in the order of the op's operands.

    Raises:
        ValueError: If `quantize` cannot hold them.
    """
    if quantize is None:
        return constants
    half = {name: to_float16(constants[name], name) for name in ("gate_kernel",) if name in constants}
    if quantize == "float16":
        return {**constants, "weights": to_float16(constants["weights"], "weights"), **half}
    weights, scales = to_int8(constants["weights"])
    rest = {name: value for name, value in constants.items() if name != "weights"}
    return {"weights": weights, "weight_scales": scales, **rest, **half}


def depthwise_constants(constants, quantize):
    """Quantises the constants of a depthwise convolution's op: `weights` to float16 unless `quantize` is `None`.

    Every weight of it is read once for each of few pixels, and its sums are of nine products: int8 would save little
    time and cost accuracy.
    """
    return constants if quantize is None else {**constants, "weights": to_float16(constants["weights"], "weights")}


def to_float16(values, name):
    """Rounds to float16; raises ValueError where that is not finite."""
    with np.errstate(over="ignore"):
        half = values.astype("float16")
    if not np.isfinite(half).all():
        raise ValueError(
            f"{name} of up to {np.abs(values).max():.3g} cannot be stored as float16, whose largest is 65504"
        )
    return half


def to_int8(weights):
    """Quantises weights `[C_in, KH * KW, C_out]` symmetrically, each output channel by its largest.

    Returns:
        `(q, scales)`: int8 in -127..127, and float32 `[C_out]`, such that `q * scales` is at most half a scale away
        from the weights. The scale of a channel of zeros is 1.

    Raises:
        ValueError: If a weight is not finite, or an output is a sum of more than `MOST_PRODUCTS` products.
    """
    if not np.isfinite(weights).all():
        raise ValueError("weights that are not finite cannot be stored as int8")
    products = weights.shape[0] * weights.shape[1]
    if products > MOST_PRODUCTS:
        raise ValueError(
            f"a convolution of {products} products an output cannot be computed in int8: int32 holds sums of at most "
            f"{MOST_PRODUCTS}; convert with quantize='float16'"
        )
    scales = (np.abs(weights).max((0, 1)) / 127).astype("float32")
    scales[scales < np.finfo("float32").tiny] = 1  # zeros, and what is no more than that
    return np.clip(np.rint(weights / scales), -127, 127).astype("int8"), scales
