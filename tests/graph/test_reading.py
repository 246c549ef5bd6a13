import keras
import numpy as np
import pytest
from keras import layers
from model_table import MODELS, arrays, images, randomise

import fbs_keras
from fbs_keras import graph
from fbs_keras.graph.reading import Ref


def run(model_graph, x):
    """Computes a model's outputs node by node."""
    values = dict(zip(graph.refs(model_graph.inputs), keras.tree.flatten(x), strict=True))
    for node in model_graph.nodes:
        values.update(node.outputs(node.call(values)))
    return arrays([values[ref] for ref in graph.refs(model_graph.outputs)])


@pytest.mark.parametrize("read", [graph.read, graph.flatten])
@pytest.mark.parametrize("name", MODELS)
def test_running_the_nodes_is_running_the_model(name, read):
    model = randomise(MODELS[name]())
    x = images(model)
    outputs = run(read(model), x)
    for output, expected in zip(outputs, arrays(model(x)), strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_nested_models_are_one_node_or_inlined():
    model = MODELS["nested"]()
    assert next(node.name for node in graph.read(model).nodes) == "middle"
    names = [node.name for node in graph.flatten(model).nodes]
    assert names[0] == "middle/first"
    assert names[1].startswith("middle/inner/conv2d")


def test_a_nested_model_called_twice_is_inlined_twice():
    inner = keras.Sequential([keras.Input((4, 4, 2)), layers.ReLU(name="relu")], name="inner")
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, layers.Add()([inner(inputs), inner(inputs * -1.0)]))
    names = [node.name for node in graph.flatten(model).nodes]
    assert [name for name in names if "relu" in name] == ["inner/relu", "inner:1/relu"]
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype("float32")
    np.testing.assert_allclose(run(graph.flatten(model), x)[0], np.abs(x), rtol=1e-6)


def test_shared_layers_have_a_node_for_each_call():
    nodes = [node for node in graph.read(MODELS["branches"]()).nodes if node.layer.name == "shared"]
    assert [node.output for node in nodes] == [Ref("shared", 0), Ref("shared", 1)]
    assert nodes[1].inputs == [Ref("shared", 0)]


def test_consumers():
    model_graph = graph.read(MODELS["residual"]())
    first_relu = next(node for node in model_graph.nodes if isinstance(node.layer, layers.ReLU))
    kinds = {type(node.layer).__name__ for node in model_graph.consumers(first_relu.output)}
    assert kinds == {"Conv2D", "Add"}


@pytest.mark.parametrize("name", MODELS)
def test_specs_are_the_real_shapes(name):
    model = MODELS[name]()
    model_graph = graph.flatten(model)
    specs = graph.specs(model_graph, model)
    shapes = [specs[ref].shape for ref in graph.refs(model_graph.outputs)]
    assert shapes == [tensor.shape for tensor in model.outputs]


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (Subclassed, ValueError, "is a subclassed model .*expected a Sequential or Functional model"),
        (lambda: keras.Sequential([layers.Dense(2)]), ValueError, "is not built.*keras.Input"),
        (lambda: "model.keras", TypeError, "got the string 'model.keras'; load it with keras.saving.load_model"),
        (lambda: layers.Dense(2), TypeError, "model must be a Keras model, got Dense"),
        (lambda: None, TypeError, "model must be a Keras model, got NoneType"),
    ],
)
def test_refuses_what_cannot_be_read(make, error, message):
    with pytest.raises(error, match=message):
        graph.read(make())


def test_outputs_of_nested_models():
    y = inner_input = keras.Input((4, 4, 2))
    inner = keras.Model(inner_input, layers.Conv2D(2, 1)(y), name="inner")
    inputs = keras.Input((4, 4, 2))
    once = inner(inputs)
    for outputs in (once, [once, inner(once)], [inner(once), layers.ReLU()(once), once]):
        model = keras.Model(inputs, outputs)
        x = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype("float32")
        for read in (graph.read, graph.flatten):
            for output, expected in zip(run(read(model), x), arrays(model(x)), strict=True):
                np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_a_nested_model_casts_integers_that_it_reads():
    pixels = keras.Input((4, 4, 3), dtype="uint8")
    net = keras.Sequential([keras.Input((4, 4, 3), name="image"), layers.ReLU(name="relu")], name="net")
    flat = graph.flatten(keras.Model(pixels, layers.Softmax(name="softmax")(net(pixels))))
    assert [node.name for node in flat.nodes] == ["net/cast_to_image", "net/relu", "softmax"]
    values = {next(graph.refs(flat.inputs)): np.full((1, 4, 4, 3), 200, "uint8")}
    values.update(flat.nodes[0].outputs(flat.nodes[0].call(values)))
    assert keras.backend.standardize_dtype(values[flat.nodes[0].output].dtype) == "float32"


class Counting(keras.Model):
    """A Functional model that counts how often its config is read."""

    reads = 0

    def get_config(self):
        self.reads += 1
        return super().get_config()


def counting_model():
    inner_inputs, inputs = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3)(inner_inputs)))
    inner = Counting(inner_inputs, layers.Conv2D(4, 3)(x), name="inner")
    return Counting(inputs, layers.Dense(2)(layers.Flatten()(inner(inputs))))


@pytest.mark.parametrize(
    ("function", "wrapped"),
    [
        (graph.read, False),
        (graph.flatten, False),
        (fbs_keras.wrap, False),
        (lambda model: fbs_keras.slim(model, 0.5), False),
        (fbs_keras.count_macs, True),
        (fbs_keras.remove_unused, True),
        (lambda model: fbs_keras.fit_gates(model, np.random.default_rng(0).normal(size=(4, 8, 8, 3))), True),
        (lambda model: fbs_keras.density_for_macs(model, 1.1), True),
    ],
    ids=["read", "flatten", "wrap", "slim", "count_macs", "remove_unused", "fit_gates", "density_for_macs"],
)
def test_a_config_is_read_once(function, wrapped):
    model = fbs_keras.wrap(counting_model()) if wrapped else counting_model()
    nested = next(layer for layer in model.layers if isinstance(layer, Counting))
    model.reads = nested.reads = 0
    function(model)
    assert (model.reads, nested.reads <= 1) == (1, True)


def test_within_reading_once_what_can_change_is_read_anew():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with graph.reading_once():
        counts = [len(graph.flatten(model).nodes)]
        model.add(layers.Dense(2))
        counts.append(len(graph.flatten(model).nodes))
    assert counts == [1, 2]
