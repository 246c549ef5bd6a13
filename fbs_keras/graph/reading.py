"""A Keras model read as a graph of nodes, through public API only: `get_config` and the live layers."""

import contextlib
import contextvars
import dataclasses
import functools
import typing

import keras

_memory: contextvars.ContextVar[dict | None] = contextvars.ContextVar("memory", default=None)


@contextlib.contextmanager
def reading_once():
    """While it lasts, the config of each Functional model, which takes long, is read once; also a decorator.

    For the length of one call of ours, in which nobody changes a graph. A Sequential model, which can change, is read
    anew each time.
    """
    if _memory.get() is not None:
        yield
        return
    token = _memory.set({})
    try:
        yield
    finally:
        _memory.reset(token)


def _once(function):
    """Makes a function of a model remember its results within `reading_once`."""

    @functools.wraps(function)
    def remembering(model):
        memory = _memory.get()
        if memory is None or isinstance(model, keras.Sequential):
            return function(model)
        key = function, id(model)
        if key not in memory:
            memory[key] = model, function(model)  # with the model itself, so that no other one gets its id
        return memory[key][1]

    return remembering


class Ref(typing.NamedTuple):
    """A tensor of the graph: output `tensor` of the call number `node` of layer `layer`."""

    layer: str
    node: int = 0
    tensor: int = 0


@dataclasses.dataclass(frozen=True)
class Node:
    """One call of a layer.

    Attributes:
        layer: The live Keras layer or operation.
        index: The number of this call among the layer's calls in the graph.
        args, kwargs: The call's arguments, with a `Ref` instead of each tensor.
        scope: In a flat graph, the names of the nested models that the call is in: `"backbone/"`.
    """

    layer: typing.Any
    index: int
    args: tuple
    kwargs: dict
    scope: str = ""

    @property
    def name(self):
        return self.scope + self.layer.name

    @property
    def output(self):
        """The call's output, the first one if there are several."""
        return Ref(self.name, self.index)

    @property
    def inputs(self):
        """The tensors that the call reads, in order."""
        return list(refs((self.args, self.kwargs)))

    def call(self, values):
        """Calls the layer on `values`, a mapping from `Ref` to tensors."""
        args, kwargs = replace_refs((self.args, self.kwargs), values.__getitem__)
        return self.layer(*args, **kwargs)

    def outputs(self, structure):
        """Pairs what the call returned, a tensor or a structure of tensors, with the graph's `Ref`s."""
        return {
            Ref(self.name, self.index, position): value for position, value in enumerate(keras.tree.flatten(structure))
        }


@dataclasses.dataclass(frozen=True)
class Graph:
    """A model's nodes in topological order, without its input layers.

    Attributes:
        nodes: List of `Node`.
        inputs: The model's inputs, a structure of `Ref` as the model takes it.
        outputs: The model's outputs, a structure of `Ref` as the model returns it.
    """

    nodes: list
    inputs: typing.Any
    outputs: typing.Any

    def consumers(self, ref):
        """The nodes that read a tensor."""
        return self._readers.get(ref, [])

    @functools.cached_property
    def _readers(self):
        readers: dict[Ref, list[Node]] = {}
        for node in self.nodes:
            for ref in set(node.inputs):
                readers.setdefault(ref, []).append(node)
        return readers

    def is_output(self, ref):
        return ref in refs(self.outputs)


def refs(structure):
    """Yields every `Ref` in a structure of lists, tuples and dicts."""
    if isinstance(structure, Ref):
        yield structure
    elif isinstance(structure, (list, tuple)):
        for item in structure:
            yield from refs(item)
    elif isinstance(structure, dict):
        for key in sorted(structure):  # as keras.tree and model.inputs do
            yield from refs(structure[key])


def replace_refs(structure, function):
    """Replaces every `Ref` in a structure by `function(ref)`."""
    if isinstance(structure, Ref):
        return function(structure)
    if isinstance(structure, (list, tuple)):
        return type(structure)(replace_refs(item, function) for item in structure)
    if isinstance(structure, dict):
        return {key: replace_refs(item, function) for key, item in structure.items()}
    return structure


def check_model(model):
    """Raises unless `model` is a built Sequential or Functional model, saying what to do instead."""
    if isinstance(model, str):
        raise TypeError(f"model must be a Keras model, got the string {model!r}; load it with keras.saving.load_model")
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a Keras model, got {type(model).__name__}")
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ValueError(
                f"model {model.name!r} is not built, so its shapes are not known; "
                "start it with keras.Input(shape) or call model.build(input_shape)"
            )
    elif "input_layers" not in _config(model):
        raise ValueError(
            f"model {model.name!r} is a subclassed model ({type(model).__name__}), whose graph cannot be read; "
            "expected a Sequential or Functional model"
        )


def is_readable(model):
    """Whether `read` can read a Keras model's graph."""
    try:
        check_model(model)
    except ValueError:
        return False
    return True


def read(model):
    """Reads the graph of a Sequential or Functional model.

    A nested model is one node, whose layer is that model.

    Args:
        model: A built Sequential or Functional Keras model.

    Returns:
        A `Graph`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, or subclassed.

    Example:

    >>> [node.layer.name for node in read(model).nodes]
    ['conv', 'norm', 'relu', 'logits']
    """
    with reading_once():
        check_model(model)
        return _read_sequential(model) if isinstance(model, keras.Sequential) else _read_functional(model)


@_once
def _read_functional(model):
    config = _config(model)
    layers = {layer.name: layer for layer in model.operations}
    inputs = _parse_history(config["input_layers"])
    # Keras counts a Functional model's making of itself as its first call in output_layers, but not in inbound_nodes.
    functional = {
        name for name, layer in layers.items() if isinstance(layer, keras.Model) and "input_layers" in _config(layer)
    }
    outputs = replace_refs(
        _parse_history(config["output_layers"]), lambda ref: ref._replace(node=ref.node - (ref.layer in functional))
    )
    sources = {ref.layer for ref in refs(inputs)}
    nodes = [
        Node(layers[entry["name"]], index, tuple(_parse(node["args"])), _parse(node["kwargs"]))
        for entry in config["layers"]
        if entry["name"] not in sources
        for index, node in enumerate(entry["inbound_nodes"])
    ]
    return Graph(_sort(nodes, set(refs(inputs))), inputs, outputs)


@reading_once()
def flatten(model):
    """Reads the graph of a model with the nested models' nodes instead of the nested models.

    Args:
        model: A built Sequential or Functional Keras model.

    Returns:
        A `Graph` whose nodes carry a `scope`. A nested subclassed model stays one node.

    Raises:
        TypeError, ValueError: As `read`.

    Example:

    >>> [node.name for node in flatten(model).nodes]
    ['backbone/conv', 'backbone/relu', 'logits']
    """
    graph = read(model)
    inputs = dict(zip(refs(graph.inputs), keras.tree.flatten(model.inputs), strict=True))
    integers = {ref for ref, tensor in inputs.items() if not _floats(tensor)}
    return _inline(graph, "", list(inputs), integers)


def _inline(graph, scope, inputs, integers):
    """Copies a graph into a scope, where its inputs are the tensors `inputs`; those in `integers` are no floats."""
    renamed = dict(zip(refs(graph.inputs), inputs, strict=True))

    def rename(ref):
        return renamed.get(ref, Ref(scope + ref.layer, ref.node, ref.tensor))

    nodes = []
    for node in graph.nodes:
        args, kwargs = replace_refs((node.args, node.kwargs), rename)
        if isinstance(node.layer, keras.Model) and is_readable(node.layer):
            call = f":{node.index}" if node.index else ""
            inner_scope = f"{scope}{node.layer.name}{call}/"
            inner_inputs = []
            # A nested model casts what it reads to the dtypes of its inputs.
            for ref, tensor in zip(refs((args, kwargs)), keras.tree.flatten(node.layer.inputs), strict=True):
                if ref in integers and _floats(tensor):
                    nodes.append(Node(_cast(tensor), 0, (ref,), {}, inner_scope))
                    ref = nodes[-1].output
                inner_inputs.append(ref)
            inner = _inline(read(node.layer), inner_scope, inner_inputs, integers)
            nodes += inner.nodes
            for position, ref in enumerate(refs(inner.outputs)):
                renamed[Ref(node.layer.name, node.index, position)] = ref
        else:
            nodes.append(dataclasses.replace(node, args=args, kwargs=kwargs, scope=scope))
    return Graph(nodes, replace_refs(graph.inputs, rename), replace_refs(graph.outputs, rename))


def _floats(tensor):
    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def _cast(tensor):
    """A Keras operation that casts to the dtype of an input of a nested model."""
    source = keras.Input(batch_shape=tensor.shape, dtype="uint8")
    cast = keras.Model(source, keras.ops.cast(source, tensor.dtype)).operations[-1]
    cast.name = f"cast_to_{tensor.name}"  # unlike any of the nested model's: an input has its name alone
    return cast


def specs(graph, model):
    """Computes the shape and dtype of every tensor of a graph, without calling a layer.

    Args:
        graph: `read(model)` or `flatten(model)`.
        model: The model.

    Returns:
        A dict from `Ref` to `keras.KerasTensor`.
    """
    values = dict(zip(refs(graph.inputs), keras.tree.flatten(model.inputs), strict=True))
    for node in graph.nodes:
        args, kwargs = replace_refs((node.args, node.kwargs), values.__getitem__)
        values.update(node.outputs(node.layer.compute_output_spec(*args, **kwargs)))
    return values


@_once
def _config(model):
    """A model's config, with the calls of its layers but without their settings, which not every layer can tell."""
    with _without_settings(getattr(model, "operations", ())):
        try:
            return model.get_config()
        except NotImplementedError:  # a subclassed model without get_config
            return {}


@contextlib.contextmanager
def _without_settings(layers):
    """While it lasts, layers have empty configs."""
    names = ("get_config", "get_build_config", "get_compile_config")
    hidden = [(vars(layer), name, vars(layer).get(name)) for layer in layers for name in names if hasattr(layer, name)]
    try:
        for attributes, name, _ in hidden:
            attributes[name] = dict
        yield
    finally:
        for attributes, name, own in hidden:
            attributes.pop(name)
            if own is not None:
                attributes[name] = own


def _read_sequential(model):
    ref = Ref("/input")  # no layer can have this name
    inputs, nodes = ref, []
    for layer in model.layers:
        nodes.append(Node(layer, 0, (ref,), {}))
        ref = nodes[-1].output
    return Graph(nodes, inputs, ref)


def _parse_history(value):
    """Turns `[name, node, tensor]` lists, however nested, into `Ref`s."""
    if isinstance(value, dict):
        return {key: _parse_history(item) for key, item in value.items()}
    if len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], int):
        return Ref(*value)
    return [_parse_history(item) for item in value]


def _parse(value):
    """Turns a node's serialised arguments into live ones, with `Ref`s for tensors."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            return Ref(*value["config"]["keras_history"])
        if "class_name" in value and "config" in value:
            return keras.saving.deserialize_keras_object(value)
        return {key: _parse(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_parse(item) for item in value)
    return value


def _sort(nodes, known):
    """Orders nodes so that each comes after those it reads; config lists layers, whose calls may interleave."""
    ordered = []
    known = {(ref.layer, ref.node) for ref in known}
    waiting = [(node, {(ref.layer, ref.node) for ref in node.inputs}) for node in nodes]
    while waiting:
        ready = [node for node, sources in waiting if sources <= known]
        if not ready:
            raise ValueError(f"the graph has a cycle or a missing input at layer {waiting[0][0].layer.name!r}")
        ordered += ready
        waiting = [(node, sources) for node, sources in waiting if not sources <= known]
        known |= {(node.layer.name, node.index) for node in ready}
    return ordered
