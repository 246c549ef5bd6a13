"""Copies Keras models layer by layer, with some layers replaced."""

import contextlib
import typing

import keras

from fbs_keras.graph import reading
from fbs_keras.graph.copying import carry_state, inner_layers, remake


def rewrite(model, make, skip=(), insert=None):
    """Copies a Sequential or Functional model, nested models included; the given one stays as it is.

    Args:
        model: A built Sequential or Functional Keras model.
        make: A function from each layer or operation of the model to the new one in its place, a list of layers each of
            which reads the one before, or `None` for a copy with the same weights. A nested model is not passed to it,
            but its layers are.
        skip: Layers to leave out, whose input replaces their output.
        insert: Layers to add, `{layer called once: (new layer, Ref)}`: the new layer is called on that layer's
            output and the tensor of the same model that the `reading.Ref` names, and takes that output's place. A
            Sequential model that gets one becomes Functional. Defaults to none.

    Returns:
        `(new_model, pairs)`: the copy, not compiled, and `(old, new)` for each layer that `make` replaced, `new` as
        `make` returned it, whose weights are not set here.

    Raises:
        ValueError: If a layer cannot be copied, or layers share a weight, which their copies would not.
    """
    _check_no_ties(model)
    return _rewrite(model, make, skip, insert)


def _rewrite(model, make, skip=(), insert=None):
    rewriting = _Rewriting(make, skip, insert or {})
    new_model = rewriting.copy_model(model)
    for old, new in rewriting.copied:
        carry_state(old, new)
    if not model.trainable:
        _freeze_alone(new_model)
    return new_model, rewriting.replaced


def _check_no_ties(model):
    """Raises where a weight is in two layers of a model: in a copy they would train apart."""
    owners: dict[int, keras.layers.Layer] = {}
    for node in reading.flatten(model).nodes:
        for weight in getattr(node.layer, "weights", ()):
            owner = owners.setdefault(id(weight), node.layer)
            if owner is not node.layer:
                raise ValueError(
                    f"layers {owner.name!r} and {node.layer.name!r} share the weight {weight.name!r}, which would be "
                    "two weights in a copy; give each its own, or call one layer twice"
                )


def _freeze_alone(model):
    """Freezes a model, but leaves its layers as trainable as they are."""
    layers = [(layer, layer.trainable) for layer in inner_layers(model) if layer is not model]
    layers.sort(key=lambda pair: not isinstance(pair[0], keras.Model))  # models first, which set those of their layers
    variables = [(variable, variable.trainable) for variable in model.variables]
    model.trainable = False
    for each, trainable in (*layers, *variables):
        each.trainable = trainable


def replace(model, make, settings=False):
    """Copies a model with some layers replaced by others, which take over their weights.

    Args:
        model: A built Sequential or Functional Keras model.
        make: A function from each layer to the new layer in its place, with as many weights of the same shapes, or
            `None` for a copy.
        settings: Whether the new layers are also to have regularizers, constraints and what else hangs on the old ones.

    Returns:
        The copy, not compiled.
    """
    copy, pairs = _rewrite(model, make)
    for old, new in pairs:
        carry_state(old, new, settings)
    return copy


class _Rewriting:
    """One rewrite: what is shared within the model, nested models included, stays shared in the copy."""

    def __init__(self, make, skip, insert):
        self.make = make
        self.insert = insert
        self.skip = set(skip)
        self.copies: dict[typing.Any, keras.layers.Layer] = {}
        self.replaced: list[tuple] = []
        self.copied: list[tuple] = []

    def copy_model(self, model):
        model_graph = reading.read(model)
        inputs = keras.tree.map_structure(_copy_input, model.inputs[0] if _is_sequential(model) else model.input)
        values = dict(zip(reading.refs(model_graph.inputs), keras.tree.flatten(inputs), strict=True))
        sequential = _is_sequential(model) and not any(node.layer in self.insert for node in model_graph.nodes)
        if sequential:
            nodes = [node for node in model_graph.nodes if node.layer not in self.skip]
            layers = [layer for node in nodes for layer in _as_list(self.copy(node.layer))]
            return keras.Sequential([inputs, *layers], name=model.name)
        for node in model_graph.nodes:
            if node.layer in self.skip:
                values[node.output] = values[node.inputs[0]]
            else:
                first, *others = _as_list(self.copy(node.layer))
                args, kwargs = reading.replace_refs((node.args, node.kwargs), values.__getitem__)
                outputs = first(*args, **kwargs)
                for layer in others:
                    outputs = layer(outputs)
                values.update(node.outputs(outputs))
            if node.layer in self.insert:
                layer, ref = self.insert[node.layer]
                values[node.output] = layer([values[node.output], values[ref]])
        outputs = reading.replace_refs(model_graph.outputs, values.__getitem__)
        try:
            kind = keras.Model if _is_sequential(model) else type(model)
            return kind(inputs, outputs, name=model.name)  # keeps the train_step of a user's own class
        except TypeError:
            return keras.Model(inputs, outputs, name=model.name)

    def copy(self, layer):
        if layer not in self.copies:
            self.copies[layer] = self._make_copy(layer)
        return self.copies[layer]

    def _make_copy(self, layer):
        if isinstance(layer, keras.Model) and reading.is_readable(layer):
            return self.copy_model(layer)
        is_layer = isinstance(layer, keras.layers.Layer)
        new = self.make(layer)
        if new is not None:
            self.replaced.append((layer, new))
            return new
        new = remake(layer, self.copy_inner)
        if is_layer:
            self.copied.append((layer, new))
        else:
            new.name = layer.name  # which is not in every release's config of an operation
        return new

    def copy_inner(self, model):
        """Copies a model that is a part of a layer, such as one that TimeDistributed calls."""
        if reading.is_readable(model):
            return _Rewriting(lambda layer: None, (), {}).copy_model(model)
        return remake(model, self.copy_inner)


def compile_as(copy, model):
    """Compiles a copy of a model as the model is, unless with a loss or metric of the user's own."""
    if model.compiled:
        # What is no part of Keras may not be copied; the user compiles then. OSError: a lambda without source.
        with contextlib.suppress(TypeError, ValueError, NotImplementedError, OSError):
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
    layers = [node.layer for node in reading.flatten(model).nodes]
    if not any(getattr(layer, "compute_dtype", None) in others for layer in layers):
        return model

    def make(layer):
        if getattr(layer, "compute_dtype", None) not in others:  # an operation has none
            return None
        return remake(layer, copy_float32, dtype="float32")

    def copy_float32(inner):
        return replace(inner, make, settings=True)

    return copy_float32(model)


def _as_list(layers):
    return layers if isinstance(layers, list) else [layers]


def _is_sequential(model):
    return isinstance(model, keras.Sequential)


def _copy_input(tensor):
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
