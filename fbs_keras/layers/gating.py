"""The gate of an FBS layer: channel saliency and k-winners-take-all, as in the paper's section 3.

Source: Gao, Zhao, Dudziak, Mullins, Xu, "Dynamic Channel Pruning: Feature Boosting and Suppression", ICLR 2019.
"""

import math
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

# density * channels is computed in float32, whose rounding could lift an exact product such as 0.3 * 10 over the next
# integer. 1e-3 is far above that error for any real layer (2.4e-4 at 4096 channels) and far below a channel.
ROUNDING = 1e-3


def is_number(value: object) -> bool:
    """Whether a value is a real number, which a bool is not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_density(density: Any) -> float:
    """Returns `density` as a float in (0, 1], or raises.

    Args:
        density: The fraction of channels to keep, a real number in (0, 1].

    Returns:
        The density as a Python float.

    Raises:
        TypeError: If `density` is not a real number.
        ValueError: If `density` is not in (0, 1].

    Example:

    >>> check_density(0.5)
    0.5
    """
    if not is_number(density):
        raise TypeError(f"density must be a number in (0, 1], got {density!r} of type {type(density).__name__}")
    density = float(density)
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], got {density}")
    return density


def check_share(value, name):
    """Returns the argument `name` as a float in (0, 1), or raises."""
    if not is_number(value):
        raise TypeError(f"{name} must be a number in (0, 1), got {value!r}")
    value = float(value)
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), got {value}")
    return value


def active_channels(density, channels, group_size=1, round_channels=1):
    """Computes k, the number of channels that win: `k = ceil(density * channels)`, in whole groups.

    Args:
        density: The fraction of channels to keep, in (0, 1].
        channels: The layer's number of output channels, a multiple of `group_size`.
        group_size: How many neighbouring channels win or lose together. Defaults to 1.
        round_channels: k is rounded up to a multiple of this, but not above `channels`. Defaults to 1.

    Returns:
        k, an integer from `group_size` to `channels`.

    Example:

    >>> active_channels(0.3, 64)
    20
    >>> active_channels(0.3, 64, group_size=16)
    32
    >>> active_channels(0.3, 64, round_channels=16)
    32

    Source: paper, section 3.3.
    """
    groups = channels // group_size
    step = groups_at_a_time(groups, group_size, round_channels)
    share = np.float32(density) * np.float32(groups) - np.float32(ROUNDING)  # as `winners` computes it
    return group_size * min(groups, step * max(1, -(-math.ceil(share) // step)))


def groups_at_a_time(groups, group_size, round_channels):
    """The number of winning groups is a multiple of this, or all, so that k is a multiple of `round_channels`."""
    return min(groups, round_channels // math.gcd(group_size, round_channels))  # the bound keeps it in int32


def mean(x, axis):
    """The mean over `axis`, in float64 too, which `keras.ops.mean` rounds to float32 on all backends but TensorFlow."""
    if keras.backend.standardize_dtype(x.dtype) != "float64":
        return ops.mean(x, axis=axis)
    return ops.sum(x, axis=axis) / ops.sum(ops.ones_like(x), axis=axis)


def saliency(x, data_format="channels_last"):
    """Computes each channel's saliency, `ss(x) = mean_{h,w} |x|`.

    Args:
        x: Feature maps, `[N, H, W, C]`, or `[N, C, H, W]` for `"channels_first"`.
        data_format: `"channels_last"` (default) or `"channels_first"`.

    Returns:
        `[N, C]`.

    Source: paper, equation 7.
    """
    return mean(ops.abs(x), (1, 2) if data_format == "channels_last" else (2, 3))


def peak_saliency(x, data_format="channels_last"):
    """Computes each channel's largest value, `max_{h,w} |x|`: as `saliency`, but blind to how large an object is.

    Args:
        x: Feature maps, `[N, H, W, C]`, or `[N, C, H, W]` for `"channels_first"`.
        data_format: `"channels_last"` (default) or `"channels_first"`.

    Returns:
        `[N, C]`.

    Source: ours; the paper compares no saliencies.
    """
    return ops.max(ops.abs(x), axis=(1, 2) if data_format == "channels_last" else (2, 3))


# What a gate may read but x itself, by the name in `FBSConv2D(gate_input=...)`. A channel of zeros has saliency 0 in
# each, so that the exported file computes them from the channels that a compact tensor holds.
SALIENCIES = {"mean": saliency, "max": peak_saliency}


def predict(s, phi, rho):
    """Predicts the output channels' saliencies from the input's, `g(x) = ReLU(ss(x) @ phi + rho)`.

    Args:
        s: Input channel saliencies, `[N, C_in]`.
        phi: `[C_in, C_out]`.
        rho: `[C_out]`.

    Returns:
        `[N, C_out]`, not negative.

    Source: paper, equation 6.
    """
    return ops.relu(s @ phi + rho)  # not keras.ops.matmul, for the reason that `mean` gives


def winners(g, density, group_size=1, round_channels=1):
    """Marks the k largest entries of each row with 1, `k = ceil(density * C)`, the others with 0.

    Exactly k entries win: among equals the lower index does, as in TFLite's TOPK_V2, so that training and inference
    choose the same channels. `density` may be a tensor, so k may change from step to step in a compiled function.

    Args:
        g: Predicted saliencies, `[N, C]`.
        density: The fraction of channels that win, a number or a scalar tensor in (0, 1].
        group_size: With a size above 1, whole groups of neighbouring channels win, by the mean of g over the group.
        round_channels: k is rounded up to a multiple of this, but not above C. Defaults to 1.

    Returns:
        `[N, C]` of zeros and ones, through which no gradient flows.

    Example:

    >>> winners(keras.ops.array([[1.0, 3.0, 3.0, 2.0]]), 0.25)
    [[0., 1., 0., 0.]]
    """
    g = ops.stop_gradient(g)
    channels = g.shape[-1]
    groups = channels // group_size
    if group_size > 1:
        g = mean(ops.reshape(g, (-1, groups, group_size)), -1)
    k = ops.cast(ops.ceil(ops.cast(density, "float32") * groups - ROUNDING), "int32")
    step = groups_at_a_time(groups, group_size, round_channels)
    k = ops.minimum(groups, step * ops.maximum(1, (k + step - 1) // step))
    threshold = ops.expand_dims(ops.take(ops.sort(g, axis=-1), groups - k, axis=-1), -1)
    above = ops.cast(g > threshold, "int32")
    tied = ops.cast(g == threshold, "int32")
    room = k - ops.sum(above, axis=-1, keepdims=True)
    mask = above + tied * ops.cast(ops.cumsum(tied, axis=-1) <= room, "int32")
    if group_size > 1:
        mask = ops.repeat(mask, group_size, axis=-1)
    return ops.cast(mask, g.dtype)


def winner_take_all(g, density, group_size=1, round_channels=1):
    """Keeps the k largest entries of each row and zeroes the rest, `pi = wta_k(g)`.

    The gradient reaches the winners only. See `winners` for k and ties.

    Args:
        g: Predicted saliencies, `[N, C]`.
        density: The fraction of channels that win, a number or a scalar tensor in (0, 1].
        group_size: How many neighbouring channels win or lose together. Defaults to 1.
        round_channels: k is rounded up to a multiple of this, but not above C. Defaults to 1.

    Returns:
        `[N, C]`.

    Source: paper, section 3.3.
    """
    return g * winners(g, density, group_size, round_channels)
