"""A Keras model as a graph, copies of it, and what each Keras layer does to channels."""

from fbs_keras.graph.reading import (
    Graph,
    Node,
    Ref,
    check_model,
    flatten,
    is_readable,
    read,
    reading_once,
    refs,
    replace_refs,
    specs,
)

__all__ = [
    "Graph",
    "Node",
    "Ref",
    "check_model",
    "flatten",
    "is_readable",
    "read",
    "reading_once",
    "refs",
    "replace_refs",
    "specs",
]
