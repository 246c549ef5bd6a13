"""Variables and tensors as arrays."""

from typing import Any

import keras
import numpy as np


def to_numpy(value: Any, dtype: str = "float32") -> np.ndarray:
    """The value of a variable or tensor as an array of a type."""
    return np.asarray(keras.ops.convert_to_numpy(value), dtype)
