"""Names in an exported file: what TensorFlow would refuse is changed, and no tensor shares its name with another.

Users name layers, inputs and models as Keras lets them; TensorFlow's scopes take few characters, and tools that read
.tflite files tell tensors apart by their names.
"""

import itertools
import re

import keras

from fbs_keras.graph.quantized import held_layers

# A tensor inside of a layer's decomposition is named after the layer: a long name once for each of some 30 of them.
LONGEST_PREFIX = 80


def input_names(model):
    """A name for each of a model's inputs, in order: its own, as far as TensorFlow would not change it."""
    names: dict[str, str] = {}  # by what TensorFlow tells them apart by: it ignores case
    for tensor in model.inputs:
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", tensor.name)
        name = name if name[:1].isalpha() else f"input_{name}"
        key, name = next(
            (key, candidate)
            for candidate in itertools.chain([name], _numbered(name))
            if (key := re.sub(r"\W", "_", candidate).lower()) not in names
        )
        names[key] = name
    return list(names.values())


def renamed(layers):
    """Copies the variables whose names TensorFlow would not take as those of scopes, as its SavedModels make of them.

    Args:
        layers: Keras layers or operations.

    Returns:
        A list of `(variable, copy)`, for a `keras.StatelessScope`.
    """
    variables = {id(variable): variable for layer in layers for variable in getattr(layer, "variables", [])}
    return [
        (variable, keras.Variable(variable.numpy(), dtype=variable.dtype, trainable=False, name=f"variable_{index}"))
        for index, variable in enumerate(variables.values())
        if _scope(variable.path, root=True) != variable.path
    ]


def check_loops(model):
    """Raises ValueError where TensorFlow would not take the name of a layer that is called in a loop.

    Loops have graphs of their own, out of reach of `accept_scopes`. It must be known beforehand: where a scope cannot
    be opened, Keras leaves its name in the paths of all variables that are made later.
    """
    for loop in held_layers(model):
        if isinstance(loop, (keras.layers.RNN, keras.layers.TimeDistributed)):
            for layer in held_layers(loop):
                if layer is not loop and _scope(layer.name, root=False) != layer.name:
                    raise ValueError(
                        f"layer {loop.name!r} of model {model.name!r} calls {layer.name!r} in a loop, where TensorFlow "
                        "takes no such name; rename it to letters of ASCII, digits, '.', '-' and '_'"
                    )


def accept_scopes(graph):
    """Lets a TensorFlow graph open a scope of any name, under a name that it takes.

    Keras opens a scope for each layer that is called, by the layer's name.

    Args:
        graph: The `tf.Graph` in which layers are called.
    """
    name_scope = graph.name_scope

    def open_scope(name):
        return name_scope(_scope(name, root=not graph.get_name_scope()) if isinstance(name, str) else name)

    graph.name_scope = open_scope


def _scope(name, root):
    name = re.sub(r"[^A-Za-z0-9_./>-]", "_", name)
    return f"layer{name}" if root and name[:1] in tuple("_/>-") else name


def unique(names):
    """Makes names unique: the first that has a name keeps it, others get `_1`, `_2` ... after it.

    Args:
        names: A list of strings, or of bytes.

    Returns:
        A list of as many different ones.

    Example:

    >>> unique(["conv", "conv", "conv_1"])
    ['conv', 'conv_2', 'conv_1']
    """
    taken, seen = set(names), set()
    others: dict = {}  # for each name, those that it may get
    found = []
    for name in names:
        if name in seen:
            name = next(other for other in others.setdefault(name, _numbered(name)) if other not in taken)
            taken.add(name)
        seen.add(name)
        found.append(name)
    return found


def _numbered(name):
    for number in itertools.count(1):
        suffix = f"_{number}"
        yield name + (suffix.encode() if isinstance(name, bytes) else suffix)


def encode(name):
    """A name as a file holds it."""
    return name.encode("utf-8", "replace")


def prefix(name):
    """What the names of the tensors inside of a layer begin with, given the layer's, as a file holds it."""
    return encode(name.decode("utf-8", "replace")[:LONGEST_PREFIX])
