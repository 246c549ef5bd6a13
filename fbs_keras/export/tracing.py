"""A Keras model as one TensorFlow function, with FBS layers as ops and compact tensors between them."""

import typing

import keras
import numpy as np
import tensorflow as tf

from fbs_keras import graph
from fbs_keras.export import lowering, sparsity
from fbs_keras.export.attributes import ACTIVATIONS, Attributes, constants


class Compact(typing.NamedTuple):
    """A compact tensor: `values` `[N, ..., k]` are the channels `indices` `[N, k]` of C = `channels`; the rest are 0."""

    values: typing.Any
    indices: typing.Any
    channels: int


class Tracer:
    """Runs a plan on TensorFlow tensors.

    Args:
        fuse: Whether FBS layers become custom ops; otherwise built-in ops take their place.
    """

    def __init__(self, fuse):
        self.fuse = fuse
        self._constants = {}  # by layer, so that a layer called twice is stored once

    def trace(self, plan, names):
        """Traces a plan.

        Args:
            plan: A `Plan`.
            names: A name for each input.

        Returns:
            A concrete function from the model's inputs, in order, to its outputs, in order.
        """

        def function(*inputs):
            # Stateless: the layers' losses and metrics of this call are not to stay in the user's model.
            with keras.StatelessScope():
                return tuple(tf.identity(self.dense(value)) for value in self.run(plan, inputs))

        specs = [
            tf.TensorSpec(tensor.shape, tensor.dtype, name) for tensor, name in zip(plan.inputs, names, strict=True)
        ]
        return tf.function(function, input_signature=specs, autograph=False).get_concrete_function()

    def run(self, plan, inputs):
        """Computes a plan's outputs, tensors or `Compact`s, from its inputs."""
        values = dict(zip(graph.refs(plan.graph.inputs), inputs, strict=True))
        for step in plan.steps:
            for index, value in enumerate(self._step(step, values)):
                values[step.node.output._replace(tensor=index)] = value
        return [values[ref] for ref in graph.refs(plan.graph.outputs)]

    def dense(self, value):
        """Expands a value where it is compact."""
        return self.expand(value) if isinstance(value, Compact) else value

    def _step(self, step, values):
        node = step.node
        inputs = [values[ref] for ref in sparsity.read_inputs(node)]
        if step.action == sparsity.MODEL:
            return self.run(step.plan, inputs)
        if step.action == sparsity.FBS:
            return [self.fbs(node.layer, inputs[0])]
        if isinstance(inputs[0], Compact) and step.action == sparsity.ROWS:
            return [self.rows(node.layer, inputs[0])]
        if isinstance(inputs[0], Compact) and step.action == sparsity.CHANNELWISE:
            (y,) = keras.tree.flatten(node.call({ref: values[ref].values for ref in node.inputs}))
            return [inputs[0]._replace(values=y)]
        return keras.tree.flatten(node.call({ref: self.dense(values[ref]) for ref in node.inputs}))

    def fbs(self, layer, x):
        """Computes an FBS layer on a tensor or a `Compact`."""
        sparse_in = isinstance(x, Compact)
        with tf.init_scope():  # out of the function being traced, where variables have values
            attributes = Attributes.from_layer(layer, sparse_in)
        values, indices = (x.values, x.indices) if sparse_in else (x, None)
        weights = [tf.constant(value) for value in self.constants(layer).values()]
        if self.fuse:
            outputs = lowering.as_custom_op(attributes)(values, *([indices] if sparse_in else []), *weights)
            y, indices = outputs if isinstance(outputs, (list, tuple)) else (outputs, None)
        else:
            y, indices = lowering.fbs_conv2d(attributes, values, indices, *weights)
        return self.activate(layer, y if indices is None else Compact(y, indices, layer.filters))

    def activate(self, layer, y):
        """Applies the activation of an FBS layer where the op does not."""
        if layer.activation in ACTIVATIONS:
            return y
        if isinstance(y, Compact) and sparsity.is_elementwise(layer.activation):
            return y._replace(values=layer.activation(y.values))
        return layer.activation(self.dense(y))

    def rows(self, layer, x):
        """Computes a Dense layer or a 1x1 convolution on a `Compact`."""
        kernel = tf.reshape(tf.convert_to_tensor(layer.kernel), (x.channels, -1))
        y = self.multiply(x, kernel)
        if layer.use_bias:
            y = y + tf.convert_to_tensor(layer.bias)
        return layer.activation(y)

    def multiply(self, x, kernel):
        """`x @ kernel` for a `Compact`."""
        return lowering.rows(x.values, x.indices, kernel)

    def expand(self, x):
        """The dense tensor of a `Compact`."""
        return lowering.expand(*x)

    def constants(self, layer):
        """The op's constants of an FBS layer."""
        if id(layer) not in self._constants:
            with tf.init_scope():
                self._constants[id(layer)] = constants(layer)
        return self._constants[id(layer)]


class PlainTracer(Tracer):
    """Traces FBS layers as plain convolutions, for comparison.

    Args:
        static: Whether each layer has its first k channels only; a `Compact` then holds the first ones, with no indices.
    """

    def __init__(self, static):
        super().__init__(fuse=False)
        self.static = static

    def fbs(self, layer, x):
        """`activation(rho * (norm(conv(x)) + beta))` as one convolution."""
        values = x.values if isinstance(x, Compact) else x
        with tf.init_scope():
            k = layer.active_channels if self.static else layer.filters
            folded = self.constants(layer)
            rho = np.maximum(folded["gate_bias"], 0)
            kernel = (folded["weights"] * rho).reshape(-1, *layer.kernel_size, layer.filters).transpose(1, 2, 0, 3)
            kernel, bias = kernel[:, :, : values.shape[-1], :k], (folded["bias"] * rho)[:k]
        y = tf.nn.conv2d(values, kernel, layer.strides, layer.padding.upper(), dilations=layer.dilation_rate)
        y = layer.activation(y + bias)
        return y if k == layer.filters else Compact(y, None, layer.filters)

    def multiply(self, x, kernel):
        return tf.tensordot(x.values, kernel[: x.values.shape[-1]], 1)

    def expand(self, x):
        rank = len(x.values.shape)
        return tf.pad(x.values, [(0, 0)] * (rank - 1) + [(0, x.channels - x.values.shape[-1])])
