"""Tests of observe: a model's tensors, and nothing left with its layers."""

import keras
import numpy as np
from keras import layers

from fbs_keras.graph.observing import observe


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
