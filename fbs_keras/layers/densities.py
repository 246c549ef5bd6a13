"""The densities of a model's FBS layers: one for all, or by name, path and pattern."""

import keras

from fbs_keras import patterns
from fbs_keras.layers import gating
from fbs_keras.layers.fbs_conv2d import FBSConv2D


def fbs_layers(model):
    """Lists the FBS layers of a model, nested models included, in the order of `model.layers`.

    Args:
        model: A Keras model or layer.

    Returns:
        A list of `FBSConv2D` layers, each once.
    """
    return [layer for _, layer in fbs_paths(model)]


def fbs_paths(model, prefix=""):
    """Pairs each FBS layer with its path: its name after those of the nested models it is in, `"backbone/conv1"`.

    Args:
        model: A Keras model or layer.
        prefix: The path of `model` itself, with a slash at its end. Defaults to none.

    Returns:
        A list of `(path, layer)`, each layer once.
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"model must be a Keras model, got {model!r}")
    found = {}
    for layer in getattr(model, "layers", [model]):
        if isinstance(layer, FBSConv2D):
            found[layer] = prefix + layer.name
        elif isinstance(layer, keras.Model):
            found.update({inner: path for path, inner in fbs_paths(layer, f"{prefix}{layer.name}/")})
    return [(path, layer) for layer, path in found.items()]


def require_fbs_paths(model):
    """As `fbs_paths`, and raises if there is no FBS layer."""
    paths = fbs_paths(model)
    if not paths:
        raise ValueError(f"model {model.name!r} has no FBSConv2D layer; make one with fbs_keras.wrap(model)")
    return paths


def set_density(model: keras.Model, density: float | dict[str, float]) -> None:
    """Sets the density of a model's FBS layers; takes effect at once, with no recompilation.

    A dict names layers by name (`"conv1"`), by path with the nested models they are in (`"backbone/conv1"`), or by a
    shell pattern for either (`"stage4_*"`, `"*/conv?"`; `*` matches slashes too). Where several match a layer, its path
    goes before its name, a name before a pattern, and a later pattern before an earlier one. Layers that nothing
    matches keep their density.

    Args:
        model: A Keras model with FBS layers.
        density: A number in (0, 1] for all of them, or `{name, path or pattern: density}` for some.

    Raises:
        TypeError: If a density is not a number, or a name no string.
        ValueError: If a density is not in (0, 1], a name matches no FBS layer, or the model has no FBS layer.

    Example:

    >>> fbs_keras.set_density(model, 0.5)
    >>> fbs_keras.set_density(model, {"stage*": 0.5, "stage4_*": 0.3, "stem": 1.0})
    """
    paths = require_fbs_paths(model)
    wanted = by_path(density, [path for path, _ in paths])
    for path, layer in paths:
        if path in wanted:
            layer.density.assign(wanted[path])


def by_path(density, paths):
    """Resolves what `set_density` takes into a density for each path.

    Args:
        density: A number, or a dict, as in `set_density`.
        paths: The paths of the layers that there are.

    Returns:
        `{path: density}`, without the paths that nothing matches.

    Raises:
        TypeError, ValueError: As `set_density`.
    """
    if not isinstance(density, dict):
        return dict.fromkeys(paths, gating.check_density(density))
    values = {}
    for key, value in density.items():
        if not isinstance(key, str):
            raise TypeError(f"densities must be given by layer names or patterns, got {key!r}")
        values[key] = gating.check_density(value)
        if patterns.unmatched([key], paths):
            raise ValueError(f"no FBSConv2D layer matches {key!r}; the model has {list(paths)}")
    return {path: values[key] for path, key in patterns.closest(values, paths).items()}
