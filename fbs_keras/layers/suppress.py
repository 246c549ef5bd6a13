"""Suppress: zeroes the channels that an FBS layer further back suppressed."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="fbs_keras")
class Suppress(keras.layers.Layer):
    """Zeroes the channels that lost in an `FBSConv2D` further back.

    Computes `y = x * mask`. Layers that treat every channel by itself but move zero, such as batch normalisation
    after a depthwise convolution, give a suppressed channel a value again; after them this layer makes it zero, so
    that the channels are those of the `FBSConv2D` all the way, and all layers between can skip the others.

    Args:
        data_format: `"channels_last"` or `"channels_first"`. Defaults to `keras.config.image_data_format()`.
        **kwargs: `name`, `dtype`, as for any Keras layer.

    Input shape:
        A pair: `(batch, ..., channels)`, or with channels first, and the mask, `(batch, channels)`, which
        `FBSConv2D(..., return_mask=True)` returns.

    Output shape:
        That of the first input.

    Raises:
        ValueError: If `data_format` is neither.

    Example:

    >>> y, mask = fbs_keras.FBSConv2D(64, 1, density=0.5, return_mask=True)(x)
    >>> y = keras.layers.DepthwiseConv2D(3, padding="same")(y)
    >>> y = fbs_keras.Suppress()([keras.layers.BatchNormalization()(y), mask])

    Source: ours; the paper has no depthwise convolutions.
    """

    def __init__(self, data_format: str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(f"data_format must be 'channels_last' or 'channels_first', got {data_format!r}")

    def call(self, inputs: Any) -> Any:
        x, mask = inputs
        others = tuple(range(1, x.ndim - 1)) if self.data_format == "channels_last" else tuple(range(2, x.ndim))
        # A choice, not a product: what a suppressed channel holds may be infinite.
        return ops.where(ops.expand_dims(mask, others) > 0, x, ops.zeros((), x.dtype))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "data_format": self.data_format}
