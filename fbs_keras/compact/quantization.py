"""How the constants of the exported ops are stored: in float32, float16 or int8."""

import numpy as np

QUANTIZATIONS = (None, "float16", "dynamic_int8")

# Sums of this many products of an activation (at most 255 from its zero point) and a weight (at most 127) fit int32.
MOST_PRODUCTS = 65_000


def check_quantize(quantize):
    """Raises TypeError or ValueError unless `quantize` is one of `QUANTIZATIONS`."""
    if quantize is not None and not isinstance(quantize, str):
        raise TypeError(f"quantize must be one of {', '.join(map(repr, QUANTIZATIONS))}, got {type(quantize).__name__}")
    if quantize not in QUANTIZATIONS:
        raise ValueError(f"quantize must be one of {', '.join(map(repr, QUANTIZATIONS))}, got {quantize!r}")


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
