"""How a caller names layers: by name, by path or by a shell pattern for either, wherever layers can be named."""

import fnmatch
from collections.abc import Iterable, Mapping

PATTERN, NAME, PATH = 1, 2, 3


def closeness(key: str, path: str) -> int:
    """How closely a key names a layer: by its `PATH`, its `NAME`, a `PATTERN` for either, or 0, not at all.

    Args:
        key: A name (`"conv1"`), a path with the nested models that the layer is in (`"backbone/conv1"`), or a shell
            pattern for either (`"stage4_*"`, `"*/conv?"`; `*` matches slashes too).
        path: The layer's path.

    Returns:
        An integer, larger for what is closer.
    """
    name = path.rpartition("/")[2]
    if key == path:
        return PATH
    if key == name:
        return NAME
    return PATTERN if fnmatch.fnmatchcase(path, key) or fnmatch.fnmatchcase(name, key) else 0


def as_keys(names: str | Iterable[str] | None, argument: str) -> list[str]:
    """Returns what a caller passed for layers to choose, one key or several, as a list; raises where it is none.

    Args:
        names: A key as in `closeness`, a list, tuple or set of them, or `None` for none.
        argument: The argument's name, for the error.
    """
    if isinstance(names, str):
        return [names]
    if names is None:
        return []
    if not isinstance(names, Iterable) or isinstance(names, Mapping | bytes):
        raise TypeError(f"{argument} must be a layer name or pattern, or a list of them, got {names!r}")
    names = list(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{argument} must hold layer names, got {name!r} of type {type(name).__name__}")
    return names


def unmatched(keys: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Lists the keys that name none of some paths."""
    paths = list(paths)
    return [key for key in keys if not any(closeness(key, path) for path in paths)]


def chosen(keys: Iterable[str], path: str) -> int:
    """How closely the closest of some keys names a layer; 0 where none does."""
    return max((closeness(key, path) for key in keys), default=0)


def closest(keys: Iterable[str], paths: Iterable[str]) -> dict[str, str]:
    """Finds the key that names each path most closely, of equally close ones the last.

    Returns:
        `{path: key}`, without the paths that none names.

    Example:

    >>> closest(["stage*", "stage4_*", "stem"], ["stem", "stage1_conv", "stage4_conv", "head"])
    {'stem': 'stem', 'stage1_conv': 'stage*', 'stage4_conv': 'stage4_*'}
    """
    keys = list(keys)
    found = {}
    for path in paths:
        ranks = [closeness(key, path) for key in keys]
        if any(ranks):
            found[path] = keys[max(range(len(keys)), key=lambda index: (ranks[index], index))]
    return found
