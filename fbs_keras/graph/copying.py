"""Copies of single Keras layers: their settings, their functions as live objects, and their state."""

import collections
import copy
import inspect
import numbers
import tempfile
import types
import typing
import warnings

import keras
import numpy as np

from fbs_keras.graph.kinds import replaced_methods

# Keras wraps these in every layer.
_WRAPPED = ("build", "quantize")
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks")  # of a torch module, which a layer is on torch


def remake(layer, copy_model=None, **changes):
    """Makes a new layer with the settings of one, without its state.

    Functions, initializers, regularizers and constraints are those of the layer itself, whether registered with Keras
    or not; layers in the layer are made anew. No function is looked up by its name, which another one may have.

    Args:
        layer: A Keras layer or operation.
        copy_model: A function that copies a Sequential or Functional model inside the layer. Defaults to Keras' way,
            by its config.
        **changes: Settings of the new layer that are others, by their names in the layer's config. `dtype` goes for
            the layers in it too.

    Returns:
        A layer of the same class, not built.

    Raises:
        ValueError: If the layer cannot be made from its config, or would not be the same.

    Example:

    >>> remake(keras.layers.Dense(4, activation=lambda x: 2 * x), units=8).units
    8
    """
    kind, name = type(layer), layer.name
    try:
        config = {**_config(layer), **changes}
        parts = {key: value for key, value in _live(layer, config) if key not in changes}
        parts = {key: _own_part(value, layer, copy_model, changes) for key, value in parts.items()}
        with keras.saving.custom_object_scope(_named(layer)):
            new = _make(kind, config, parts)
    except _CopyError:
        raise
    except Exception as error:
        foreign = "".join(f", {_name(part)}" for _, part in _attributes(layer) if _is_foreign(part))
        raise _CopyError(
            f"layer {name!r} ({kind.__name__}{foreign}) cannot be copied: {_first_paragraph(error)} "
            f"Give {kind.__name__} a get_config() from which its from_config() makes it again, and register what is no "
            "part of Keras with keras.saving.register_keras_serializable"
        ) from error
    _check_same(layer, new, parts)
    for flag in ("autocast", "supports_jit", "supports_masking"):  # of every layer, in no config
        if hasattr(layer, flag) and getattr(new, flag) != getattr(layer, flag):
            setattr(new, flag, getattr(layer, flag))
    return new


class _CopyError(ValueError):
    """Says which layer cannot be copied; layers that contain it pass it on."""


def _config(layer):
    """A layer's config, in which functions may stand by any name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        try:
            return layer.get_config()
        except Exception:
            # A lambda without source, an object without get_config. These are kept, and need no report.
            hidden = [
                (vars(part), key, value)
                for part in inner_layers(layer)
                for key, value in _attributes(part)
                if _is_foreign(value) and not isinstance(value, keras.layers.Layer)
            ]
            if not hidden:
                raise
            try:
                for attributes, key, _ in hidden:
                    attributes[key] = keras.activations.linear
                return layer.get_config()
            finally:
                for attributes, key, value in hidden:
                    attributes[key] = value


def _live(layer, config):
    """Yields the settings that are functions, layers or other objects to call, `(key, object)`."""
    for key, value in config.items():
        part = _attribute(layer, key)
        if isinstance(value, keras.random.SeedGenerator):
            yield key, value
        elif key == "dtype" and isinstance(layer, keras.layers.Layer) and not isinstance(value, str):
            yield key, layer.dtype_policy
        elif _is_list_of_layers(part) or (callable(part) and _stands_for(value, part, layer)):
            yield key, part


def _attribute(layer, key):
    """What a layer was given as the argument `key`, under one of the names by which layers keep it; no own method."""
    names = (key, f"_{key}", f"forward_{key}", f"{key}_layer")
    found = (getattr(layer, name, None) for name in names)
    return next((part for part in found if part is not None and getattr(part, "__self__", None) is not layer), None)


def _stands_for(value, part, layer):
    """Whether a value in a config is an object, or what Keras writes for it."""
    if isinstance(value, str):
        return value in ("linear", getattr(part, "__name__", None))  # `linear` where `_config` hid it
    return value is part or isinstance(value, dict)


def _own_part(part, layer, copy_model, changes):
    """What a new layer gets for a part of the old one: the same object, or a new one where it has state."""
    if _is_list_of_layers(part):
        return [_own_part(item, layer, copy_model, changes) for item in part]
    if isinstance(part, keras.random.SeedGenerator):
        return type(part).from_config(part.get_config())
    if copy_model is not None and isinstance(part, keras.Model):
        return copy_model(part)
    if not isinstance(part, keras.layers.Layer):
        return part
    same_dtype = part.compute_dtype == layer.compute_dtype  # then it goes along
    return remake(part, copy_model, **({"dtype": changes["dtype"]} if "dtype" in changes and same_dtype else {}))


def _make(kind, config, parts):
    """Makes a layer from its config, with live objects where the class takes them."""
    if not parts:
        return kind.from_config(config)
    ways = [lambda: kind.from_config({**config, **parts})]
    if kind.from_config.__func__.__module__.startswith("keras."):
        ways.append(lambda: kind(**keras.saving.deserialize_keras_object(_without(config, parts)), **parts))
    for way in ways:
        try:
            return way()
        except _CopyError:
            raise
        except Exception:  # a from_config that wants what get_config wrote
            continue
    return kind.from_config(config)


def _without(config, parts):
    return {key: value for key, value in config.items() if key not in parts}


def _named(layer):
    """What a layer's config may name that is no part of Keras: `{name: function or class}`."""
    found: dict[str, typing.Any] = {}
    for part in inner_layers(layer):
        found.update({type(part).__name__: type(part)} if _is_foreign(part) else {})
        for _, value in _attributes(part):
            if _is_foreign(value) and not isinstance(value, keras.layers.Layer):
                named: typing.Any = value if isinstance(value, types.FunctionType) else type(value)
                found[named.__name__] = named
    return {name: value for name, value in found.items() if name != "<lambda>"}


def _check_same(layer, new, parts):
    """Raises where a copy is known to compute something else."""
    for key, part in parts.items():
        made = _attribute(new, key)
        if isinstance(part, types.FunctionType) and made != part and getattr(made, "__code__", None) != part.__code__:
            raise _CopyError(
                f"layer {layer.name!r} cannot be copied: its {key} is the function {_name(part)}, but from its config "
                f"comes a layer with another, {_name(made)}; give the function a name that Keras does not know, and "
                "register it with keras.saving.register_keras_serializable"
            )
    replaced = sorted(replaced_methods(layer) - replaced_methods(new))
    if replaced:
        raise _CopyError(
            f"layer {layer.name!r} cannot be copied: its {replaced[0]} was replaced on the object, which no config "
            "tells; make it a method of a subclass"
        )
    if any(len(getattr(layer, hooks, ())) > len(getattr(new, hooks, ())) for hooks in _HOOKS):
        raise _CopyError(
            f"layer {layer.name!r} cannot be copied: it has hooks, which no config tells; remove them first"
        )


def _attributes(layer):
    return [(key, value) for key, value in vars(layer).items() if key not in _WRAPPED]


def inner_layers(layer):
    """Lists a layer and all layers in it, in an order that is the same for layers made alike."""
    found = {id(layer): layer}

    def visit(value):
        if isinstance(value, keras.layers.Layer):
            if id(value) not in found:
                found[id(value)] = value
                visit(vars(value))
        elif isinstance(value, dict):
            for item in list(value.values()):
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    visit(vars(layer))
    return list(found.values())


def carry_state(old, new, settings=True):
    """Gives a layer the state of one that is made like it: all that computes, trains or is saved with it.

    Variables, seeds of random layers included, with whether they are trained, their regularizer and their constraint;
    vocabularies; what Keras derives from these; numbers, strings and arrays that a user's own layer holds.

    Args:
        old: A built Keras layer.
        new: A built layer with as many weights of the same shapes.
        settings: `False` leaves regularizers, constraints and what the layer's config tells as `new` has them.

    Raises:
        ValueError: If the layers do not fit.
    """
    parts = list(zip(inner_layers(old), inner_layers(new), strict=False))
    for part, twin in parts:
        config = part.get_build_config() if part.built and not twin.built else None
        if config:  # an activation with weights, which is built when it is first called
            twin.build_from_config(config)
        if type(part) is type(twin):
            try:
                _carry_saved(part, twin)
            except Exception as error:
                raise ValueError(
                    f"layer {part.name!r} ({type(part).__name__}) cannot be copied: what it saves cannot be loaded: "
                    f"{_first_paragraph(error)}"
                ) from error
            if _is_foreign(part):
                _carry_attributes(part, twin, () if settings else _config(twin))
    pairs = _paired(old, new)
    for variable, twin in pairs:
        # As a new array: on JAX a shared one is deleted under one model when the other one trains.
        twin.assign(np.array(keras.ops.convert_to_numpy(variable)))
    if new.trainable != old.trainable:
        new.trainable = old.trainable
    for variable, twin in pairs:
        for rule in ("trainable", "regularizer", "constraint") if settings else ("trainable",):
            if getattr(twin, rule, None) is not getattr(variable, rule, None):
                setattr(twin, rule, getattr(variable, rule))
    for part, twin in parts:
        if part.weights and hasattr(twin, "finalize_state"):  # Normalization derives tensors from its weights
            twin.finalize_state()


def _paired(old, new):
    """Pairs the variables of two layers: by name, since a layer changed after build() has them in another order."""
    for kind in ("variables", "weights"):  # seeds are no weights; not all that replace a layer have them
        ours, theirs = (getattr(layer, kind) for layer in (old, new))
        if len(ours) != len(theirs):
            continue
        pairs = list(zip(ours, theirs, strict=True))
        if collections.Counter(v.name for v in ours) == collections.Counter(v.name for v in theirs):
            named = _by_name(theirs)
            pairs = [(variable, named[key]) for key, variable in _by_name(ours).items()]
        if all(tuple(variable.shape) == tuple(twin.shape) for variable, twin in pairs):
            return pairs
    raise ValueError(
        f"layer {old.name!r} ({type(old).__name__}) cannot be copied: it has the variables {_shapes(old)}, but one "
        f"made from its config has {_shapes(new)}; make all variables in __init__() or build()"
    )


def _by_name(variables):
    counts: collections.Counter[str] = collections.Counter()
    found = {}
    for variable in variables:
        found[variable.name, counts[variable.name]] = variable
        counts[variable.name] += 1
    return found


def _carry_saved(part, twin):
    """Carries over what a layer saves besides its variables."""
    base, kind = keras.layers.Layer, type(part)
    if kind.save_own_variables is not base.save_own_variables and (_is_foreign(part) or not part.weights):
        store: dict = {}
        part.save_own_variables(store)
        twin.load_own_variables({key: keras.ops.convert_to_numpy(value) for key, value in store.items()})
    if hasattr(kind, "save_assets") and kind.save_assets is not getattr(base, "save_assets", None):
        with tempfile.TemporaryDirectory() as folder:
            part.save_assets(folder)
            twin.load_assets(folder)


def _carry_attributes(part, twin, skip):
    """Carries over the numbers, strings and arrays that a user's own layer keeps in attributes."""
    skip = {*skip, *vars(keras.Model() if isinstance(part, keras.Model) else keras.layers.Layer())}
    for key, value in vars(part).items():
        if key in skip or not _is_data(value) or _equal(value, vars(twin).get(key)):
            continue
        if twin.dtype_policy == part.dtype_policy:
            setattr(twin, key, value if keras.ops.is_tensor(value) else copy.deepcopy(value))
        elif keras.ops.is_tensor(value) and keras.backend.standardize_dtype(value.dtype) == part.compute_dtype:
            setattr(twin, key, keras.ops.cast(value, twin.compute_dtype))
        elif not isinstance(value, str):  # which may be the name of the other dtype
            setattr(twin, key, copy.deepcopy(value))


def _is_data(value):
    if isinstance(value, list | tuple):
        return all(map(_is_data, value))
    if isinstance(value, dict):
        return all(map(_is_data, value.values()))
    return (
        value is None or isinstance(value, numbers.Number | str | bytes | np.ndarray | np.generic) or _is_tensor(value)
    )


def _is_tensor(value):
    return keras.ops.is_tensor(value) and not isinstance(value, keras.KerasTensor | keras.Variable)


def _equal(value, other):
    if isinstance(value, list | tuple):
        same = isinstance(other, list | tuple) and len(value) == len(other)
        return same and all(map(_equal, value, other))
    if isinstance(value, dict):
        return (
            isinstance(other, dict) and value.keys() == other.keys() and all(_equal(value[k], other[k]) for k in value)
        )
    if isinstance(value, np.ndarray) or _is_tensor(value):
        alike = isinstance(other, np.ndarray) or _is_tensor(other)
        return alike and np.array_equal(*map(keras.ops.convert_to_numpy, (value, other)))
    return type(value) is type(other) and value == other


def _is_list_of_layers(value):
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(x, keras.layers.Layer) for x in value)


def _is_foreign(value):
    """Whether a function or object to call is no part of Keras."""
    kind = value if isinstance(value, types.FunctionType) else type(value)
    return callable(value) and not inspect.isclass(value) and not (kind.__module__ or "").startswith("keras.")


def _name(part):
    return getattr(part, "__name__", None) or getattr(part, "name", type(part).__name__)


def _shapes(layer):
    return ", ".join(f"{variable.name} {tuple(variable.shape)}" for variable in layer.variables) or "none"


def _first_paragraph(error):
    text = " ".join(str(error).strip().partition("\n\n")[0].split()) or type(error).__name__
    return text if text.endswith(".") else f"{text}."
