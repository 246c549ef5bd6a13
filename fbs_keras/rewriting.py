"""Copies Keras models layer by layer, with other layers in the place of some."""

import keras

from fbs_keras import graph


def rewrite(model, make, skip=()):
    """Copies a Sequential or Functional model, nested models included; the given one stays as it is.

    Args:
        model: A built Sequential or Functional Keras model.
        make: A function from each layer of the model to the new layer in its place, or to `None` for a copy with the
            same weights. A nested model is not passed to it, but its layers are.
        skip: Layers to leave out, whose input takes the place of their output.

    Returns:
        `(new_model, pairs)`: the copy, and `(old, new)` for each layer that `make` replaced. Those get no weights here.
    """
    skipped_ids = {id(layer) for layer in skip}
    copies: dict[int, keras.layers.Layer] = {}
    left_out: set[int] = set()
    replaced, copied = [], []

    def copy(layer):
        if id(layer) in copies:
            return copies[id(layer)]
        new = None
        if isinstance(layer, keras.Model) and graph.is_readable(layer):
            new, pairs = rewrite(layer, make, skip)
            replaced.extend(pairs)
        elif isinstance(layer, keras.layers.Layer):
            new = make(layer)
            if new is not None:
                replaced.append((layer, new))
        if new is None:
            new = _copy_layer(layer)
            copied.append((layer, new))
        if id(layer) in skipped_ids:
            left_out.add(id(new))
        copies[id(layer)] = new
        return new

    if isinstance(model, keras.Sequential):
        inputs = [
            keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name) for tensor in model.inputs
        ]
        layers = [copy(layer) for layer in model.layers if id(layer) not in skipped_ids]
        new_model = keras.Sequential([*inputs, *layers], name=model.name)
        if model.compiled:  # as clone_model does
            new_model.compile_from_config(model.get_compile_config())
    else:

        def call(layer, *args, **kwargs):
            return args[0] if id(layer) in left_out else layer(*args, **kwargs)

        new_model = keras.models.clone_model(model, clone_function=copy, call_function=call)
    for old, new in copied:
        if isinstance(old, keras.layers.Layer) and id(old) not in skipped_ids:
            new.set_weights(old.get_weights())
    return new_model, replaced


def as_float32(model):
    """Copies a model so that it computes in float32, as a model trained in mixed precision should be used.

    Args:
        model: A built Sequential or Functional Keras model.

    Returns:
        A copy with the same weights, or `model` itself where every layer computes in float32 already.

    Example:

    >>> keras.config.set_dtype_policy("mixed_float16")
    >>> model = as_float32(fbs_keras.models.MCifarNet())
    """
    flat = graph.flatten(model)
    if all(getattr(node.layer, "compute_dtype", "float32") in ("float32", None) for node in flat.nodes):
        return model

    def make(layer):
        config = layer.get_config()
        if getattr(layer, "compute_dtype", None) not in ("float16", "bfloat16"):
            return None
        return _from_config(layer, {**config, "dtype": "float32"})

    copy, pairs = rewrite(model, make)
    for old, new in pairs:
        new.set_weights(old.get_weights())
    return copy


def _copy_layer(layer):
    return _from_config(layer, layer.get_config())


def _from_config(layer, config):
    if isinstance(layer, keras.layers.Lambda):  # the function comes from the user's own live model, not from a file
        return type(layer).from_config(config, safe_mode=False)
    return type(layer).from_config(config)
