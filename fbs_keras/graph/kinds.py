"""What kind of layer a layer is, where that has to tell exactly what it computes."""

import inspect

import keras

# What a subclass may override without computing anything else. Keras itself puts `build` and `quantize` on instances.
_HARMLESS = frozenset(
    (
        *("__init__", "__doc__", "__module__", "__qualname__", "__annotations__", "__annotate_func__"),
        *("__annotations_cache__", "__firstlineno__", "__static_attributes__", "__dict__", "__weakref__"),
        *("__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__", "__repr__", "__str__"),
        *("get_config", "from_config", "get_build_config", "build_from_config", "get_compile_config"),
        *("save_own_variables", "load_own_variables", "compute_output_shape", "compute_output_spec"),
    )
)
_NOT_REPLACED = _HARMLESS | {"build", "quantize"}


class Changed:
    """The kind of a layer one of whose methods has been replaced."""


def kind(layer):
    """The class of a layer, which tells exactly what it computes: to be compared by `is`, since a subclass may differ.

    Args:
        layer: A Keras layer or operation.

    Returns:
        Its class; or `Changed`, which is no layer's, where a method of this one layer has been replaced, as in
        `layer.call = my_call`.

    Example:

    >>> kind(keras.layers.ReLU()) is keras.layers.ReLU
    True
    """
    return Changed if replaced_methods(layer) else type(layer)


def operation(layer):
    """The name of an operation of Keras's own, such as `"Relu"` for `keras.ops.relu`; empty for anything else."""
    own = type(layer)
    if isinstance(layer, keras.layers.Layer) or not own.__module__.startswith("keras.") or replaced_methods(layer):
        return ""
    return own.__name__


def overridden(layer, parent):
    """Lists what a layer does otherwise than its parent class.

    Args:
        layer: A layer of class `parent` or of a subclass.
        parent: The class.

    Returns:
        The names of methods and class attributes of `parent` that a subclass defines anew, or that have been replaced
        on this one layer, sorted. Not those without an effect on what is computed: `__init__`, `get_config` and the
        like.

    Example:

    >>> class Mine(fbs_keras.FBSConv2D):
    ...     def gate(self, x): ...
    >>> overridden(Mine(8, 3), fbs_keras.FBSConv2D)
    ['gate']
    """
    added = [each for each in type(layer).__mro__ if each not in parent.__mro__]  # subclasses, and what these mix in
    defined = {name for each in added for name in vars(each) if hasattr(parent, name)}
    return sorted((defined - _HARMLESS) | replaced_methods(layer))


def replaced_methods(layer):
    """The names of the methods that were replaced on a layer itself, not in its class, a set."""
    return {
        name
        for name, value in getattr(layer, "__dict__", {}).items()  # a built-in function as activation has none
        if name not in _NOT_REPLACED and callable(value) and inspect.isroutine(getattr(type(layer), name, None))
    }
