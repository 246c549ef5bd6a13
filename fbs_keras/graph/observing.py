"""A model over another one's layers that returns what is computed from the tensors in between."""

import keras

from fbs_keras.graph import reading


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
        values = dict(zip(reading.refs(self.flat.inputs), keras.tree.flatten(inputs), strict=True))
        for node in self.flat.nodes:
            values.update(node.outputs(node.call(values)))
        return self.function(self.flat, values)
