"""What a model computes in between: its tensors, what its gates predict, which channels fire for which image."""

import dataclasses
import inspect

import keras
import numpy as np

from fbs_keras.graph import reading
from fbs_keras.layers.fbs_conv2d import FBSConv2D

# A channel fires for an image when it wins with a gate above 0. It does so always where that is for more than this
# share of all images, never where it is for less than that, and by the image otherwise.
ALWAYS, NEVER = 0.99, 0.01


def always_and_never(rates):
    """Tells which channels fire always, and which never; the others do so by the image.

    Args:
        rates: The share of images for which each channel fires, an array.

    Returns:
        `(always, never)`, masks of the same shape.

    Example:

    >>> always_and_never(np.array([1.0, 0.5, 0.0]))
    (array([ True, False, False]), array([False, False,  True]))
    """
    return rates > ALWAYS, rates < NEVER


def observe(model, function):
    """Makes a model that runs another one and returns what a function makes of all its tensors.

    It has one layer, in which the other model's run, nested models' too: no name that Keras gives can be one of the
    user's, and the user's layers are not called symbolically, which would leave nodes with them.

    Args:
        model: A built Sequential or Functional Keras model.
        function: Called with the flat graph, `reading.flatten(model)`, and `{Ref: tensor}` of all tensors; returns a
            tensor or a structure of tensors.

    Returns:
        A Keras model with the inputs of `model`, over its layers.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If its graph cannot be read.

    Example:

    >>> observe(model, lambda flat, values: [values[node.output] for node in flat.nodes]).predict(images)
    """
    reading.check_model(model)
    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name),
        model.inputs[0] if isinstance(model, keras.Sequential) else model.input,
    )
    name = "_".join(["observed", *(tensor.name for tensor in model.inputs)])  # unlike that of any input
    return keras.Model(inputs, _Observed(model, function, name)(inputs))


class _Observed(keras.layers.Layer):
    """Runs a model's layers one after the other."""

    def __init__(self, model, function, name):
        super().__init__(name=name, autocast=False)  # the layers cast what they read
        self.model = model
        self.function = function
        self.flat = reading.flatten(model)

    def call(self, inputs):
        return self.function(self.flat, tensors(self.flat, keras.tree.flatten(inputs)))


def tensors(flat, inputs):
    """Computes all tensors of a graph as `keras.Model.predict` does.

    Args:
        flat: The flat graph.
        inputs: The model's inputs, a list of tensors.

    Returns:
        `{Ref: tensor}`.
    """
    values = dict(zip(reading.refs(flat.inputs), inputs, strict=True))
    for node in flat.nodes:
        values.update(node.outputs(call(node, values)))
    return values


def call(node, values):
    """Calls a layer as `keras.Model.predict` does, which overrides what the graph says about training."""
    layer = node.layer
    if isinstance(layer, keras.layers.Layer) and "training" in inspect.signature(layer.call).parameters:
        node = dataclasses.replace(node, kwargs={**node.kwargs, "training": False})
    return node.call(values)


def gates(flat, values):
    """Computes what the gates predict, `g = relu(ss(x) @ phi + rho)`.

    Args:
        flat: The flat graph.
        values: `{Ref: tensor}` of all tensors.

    Returns:
        `(node, g)` for each call of an FBS layer, in order, g `[N, filters]`.
    """
    return [
        (node, node.layer.predict_saliency(values[node.inputs[0]]))
        for node in flat.nodes
        if isinstance(node.layer, FBSConv2D)
    ]


def fires(layer, g):
    """Tells which channels of an FBS layer fire for which image: win, with a gate above 0.

    Args:
        layer: The `FBSConv2D`.
        g: What its gates predict, an array `[N, filters]`.

    Returns:
        `[N, filters]`, booleans.
    """
    wins = layer.winners(keras.ops.convert_to_tensor(g))
    return (keras.ops.convert_to_numpy(wins) > 0) & (np.asarray(g) > 0)
