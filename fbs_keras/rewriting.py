"""Copies Keras models layer by layer, with other layers in the place of some."""

import contextlib

import keras

from fbs_keras import graph


def rewrite(model, make, skip=(), insert=None):
    """Copies a Sequential or Functional model, nested models included; the given one stays as it is.

    Args:
        model: A built Sequential or Functional Keras model.
        make: A function from each layer of the model to the new layer in its place, a list of layers each of which
            reads the one before, or `None` for a copy with the same weights. A nested model is not passed to it, but
            its layers are.
        skip: Layers to leave out, whose input takes the place of their output.
        insert: Layers to add, `{id of a layer called once: (new layer, Ref)}`: the new layer is called on that layer's
            output and the tensor of the same model that the `graph.Ref` names, and takes that output's place. A
            Sequential model that gets one becomes Functional. Defaults to none.

    Returns:
        `(new_model, pairs)`: the copy, not compiled, and `(old, new)` for each layer that `make` replaced, `new` as
        `make` returned it, whose weights are not set here.
    """
    rewriting = _Rewriting(make, skip, insert or {})
    new_model = rewriting.copy_model(model)
    for old, new in rewriting.copied:
        _copy_weights(old, new)
    return new_model, rewriting.replaced


def replace(model, make):
    """Copies a model with other layers in the place of some, which take over their weights.

    Args:
        model: A built Sequential or Functional Keras model.
        make: A function from each layer to the new layer in its place, with as many weights of the same shapes, or
            `None` for a copy.

    Returns:
        The copy, not compiled.
    """
    copy, pairs = rewrite(model, make)
    for old, new in pairs:
        _copy_weights(old, new)
    return copy


def _copy_weights(old, new):
    new.set_weights(old.get_weights())
    if hasattr(new, "finalize_state"):  # Normalization derives tensors from its weights
        new.finalize_state()


class _Rewriting:
    """One rewrite: what is shared within the model, nested models included, stays shared in the copy."""

    def __init__(self, make, skip, insert):
        self.make = make
        self.insert = insert
        self.skip = {id(layer) for layer in skip}
        self.copies: dict[int, keras.layers.Layer] = {}
        self.replaced: list[tuple] = []
        self.copied: list[tuple] = []

    def copy_model(self, model):
        model_graph = graph.read(model)
        inputs = keras.tree.map_structure(_copy_input, model.inputs[0] if _is_sequential(model) else model.input)
        values = dict(zip(graph.refs(model_graph.inputs), keras.tree.flatten(inputs), strict=True))
        sequential = _is_sequential(model) and not any(id(node.layer) in self.insert for node in model_graph.nodes)
        if sequential:
            nodes = [node for node in model_graph.nodes if id(node.layer) not in self.skip]
            layers = [layer for node in nodes for layer in _as_list(self.copy(node.layer))]
            return keras.Sequential([inputs, *layers], name=model.name)
        for node in model_graph.nodes:
            if id(node.layer) in self.skip:
                values[node.output] = values[node.inputs[0]]
            else:
                first, *others = _as_list(self.copy(node.layer))
                args, kwargs = graph.replace_refs((node.args, node.kwargs), values.__getitem__)
                outputs = first(*args, **kwargs)
                for layer in others:
                    outputs = layer(outputs)
                values.update(node.outputs(outputs))
            if id(node.layer) in self.insert:
                layer, ref = self.insert[id(node.layer)]
                values[node.output] = layer([values[node.output], values[ref]])
        outputs = graph.replace_refs(model_graph.outputs, values.__getitem__)
        try:
            kind = keras.Model if _is_sequential(model) else type(model)
            return kind(inputs, outputs, name=model.name)  # keeps the train_step of a user's own class
        except TypeError:
            return keras.Model(inputs, outputs, name=model.name)

    def copy(self, layer):
        if id(layer) not in self.copies:
            self.copies[id(layer)] = self._make_copy(layer)
        return self.copies[id(layer)]

    def _make_copy(self, layer):
        if isinstance(layer, keras.Model) and graph.is_readable(layer):
            return self.copy_model(layer)
        is_layer = isinstance(layer, keras.layers.Layer)
        new = self.make(layer) if is_layer else None
        if new is not None:
            self.replaced.append((layer, new))
            return new
        new = _from_config(layer, layer.get_config())
        if is_layer:
            self.copied.append((layer, new))
        return new


def compile_as(copy, model):
    """Compiles a copy of a model as the model is, unless with a loss or metric of the user's own."""
    if model.compiled:
        # What is no part of Keras may not be copied; the user compiles then.
        with contextlib.suppress(TypeError, ValueError):
            copy.compile_from_config(model.get_compile_config())


def as_float32(model):
    """Copies a model so that it computes in float32, as a model trained in mixed precision should be used.

    Args:
        model: A built Sequential or Functional Keras model.

    Returns:
        A copy with the same weights, not compiled, or `model` itself where every layer computes in float32 already.

    Example:

    >>> keras.config.set_dtype_policy("mixed_float16")
    >>> model = as_float32(fbs_keras.models.MCifarNet())
    """
    others = ("float16", "bfloat16", "float64")
    layers = [node.layer for node in graph.flatten(model).nodes]
    if not any(getattr(layer, "compute_dtype", None) in others for layer in layers):
        return model

    def make(layer):
        if layer.compute_dtype not in others:
            return None
        return _from_config(layer, {**layer.get_config(), "dtype": "float32"})

    return replace(model, make)


def _as_list(layers):
    return layers if isinstance(layers, list) else [layers]


def _is_sequential(model):
    return isinstance(model, keras.Sequential)


def _copy_input(tensor):
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def _from_config(layer, config):
    if isinstance(layer, keras.layers.Lambda):  # the function comes from the user's own live model, not from a file
        return type(layer).from_config(config, safe_mode=False)
    return type(layer).from_config(config)
