"""Recognises models on which Keras' `quantize` was called."""

import keras


def check_not_quantized(model):
    """Raises unless the layers of a model compute with the weights that they were trained with.

    A layer that Keras has quantised holds other weights, packed or with scales, which TFLite and we cannot read.

    Args:
        model: A Keras model.

    Raises:
        ValueError: If a layer, nested or not, was quantised by Keras.
    """
    for layer in held_layers(model):
        mode = getattr(layer.dtype_policy, "quantization_mode", None)
        if mode is not None and layer.weights and not isinstance(layer, keras.Model):
            raise ValueError(
                f"layer {layer.name!r} of model {model.name!r} was quantised by Keras, by quantize({mode!r}) or its "
                f"dtype {layer.dtype_policy.name!r}, which cannot be undone and which TFLite has no ops for; use the "
                "model as it was before, and fbs_keras.convert(model, quantize='dynamic_int8') for int8 weights"
            )


def held_layers(layer):
    """Yields a Keras layer, and all that it holds, also in lists and dicts, each once."""
    yield from _held(layer, set())


def _held(value, seen):
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, keras.layers.Layer):
        yield value
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _held(item, seen)
