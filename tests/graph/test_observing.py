"""Tests of observe: a model's tensors, and nothing left with its layers."""

import keras
import numpy as np
from keras import layers

import fbs_keras
from fbs_keras import plots
from fbs_keras.graph.observing import always_and_never, observe


def test_tensors_of_nested_and_shared_layers():
    conv = layers.Conv2D(3, 1, name="conv")
    net = keras.Sequential([keras.Input((4, 4, 3)), conv], name="net")
    inputs = {"a": keras.Input((4, 4, 3), name="a"), "b": keras.Input((4, 4, 3), dtype="uint8", name="observed_a_b")}
    x = layers.Subtract(name="conv")([net(inputs["a"]), net(inputs["b"])])
    model = keras.Model(inputs, layers.Dropout(0.5)(x * 2.0))
    calls = len(conv._inbound_nodes)
    images = {"a": np.random.default_rng(0).normal(size=(5, 4, 4, 3)), "b": np.full((5, 4, 4, 3), 200, "uint8")}
    seen = observe(model, lambda flat, values: [values[node.output] for node in flat.nodes]).predict(images, verbose=0)
    a, b = (image.astype("float32") for image in images.values())  # the nested model casts its input
    difference = conv(a) - conv(b)
    expected = [conv(a), b, conv(b), difference, 2 * difference, 2 * difference]
    for got, value in zip(seen, expected, strict=True):
        np.testing.assert_allclose(got, keras.ops.convert_to_numpy(value), rtol=1e-4, atol=1e-3)
    assert len(conv._inbound_nodes) == calls


def test_what_is_called_for_training_is_observed_as_predict_calls_it():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dropout(0.5)(inputs, training=True))
    x = np.ones((4, 8), "float32")
    seen = observe(model, lambda flat, values: values[flat.nodes[-1].output])
    np.testing.assert_array_equal(seen.predict(x, verbose=0), model.predict(x, verbose=0))


def test_always_never_and_by_the_image_are_the_same_everywhere():
    rates = np.array([[0.0, 0.005, 0.01, 0.5, 0.99, 0.995, 1.0], [0.0, 0.013, 0.01, 0.5, 0.99, 0.989, 1.0]], "float32")
    usage = rates.mean(axis=0)  # that of one class is another
    always, never = always_and_never(usage)
    assert (always.sum(), never.sum()) == (2, 2)
    model = keras.Sequential([keras.Input((4, 4, 3)), fbs_keras.FBSConv2D(7, 3, name="conv")])
    model.layers[0].usage.assign(usage)
    (row,) = fbs_keras.gate_statistics(model)
    assert (row.always, row.never) == (always.mean(), never.mean())
    figure = plots.plot_channels({"conv": rates}, ["ant", "bee"], np.zeros((2, 4, 4, 3), np.uint8))
    assert "2 always, 3 by the image, 2 never" in "".join(axes.get_title("left") for axes in figure.axes)
    fires = np.arange(1000)[:, None] < 1000 * usage
    chosen = plots.choices(fires, np.arange(1000) % 2)
    assert (chosen.always, chosen.never) == (always.mean(), never.mean())
