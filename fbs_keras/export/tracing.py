"""A Keras model as one TensorFlow function, with FBS layers as ops and compact tensors between them."""

import dataclasses
import inspect
import typing

import keras
import numpy as np
import tensorflow as tf

from fbs_keras import graph
from fbs_keras.channelwise import is_elementwise
from fbs_keras.export import lowering, sparsity
from fbs_keras.export.attributes import ACTIVATIONS, Attributes, constants


@dataclasses.dataclass(frozen=True)  # and no tuple, which Keras would take for a structure of tensors
class Compact:
    """A compact tensor.

    Attributes:
        values: `[N, ..., k]`, the channels that it holds; all others are zero.
        indices: `[N, k]` int32, which channels they are.
        channels: C, the number of channels of the dense tensor.
    """

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
            return tuple(tf.identity(y) for y in self.run(plan, inputs))

        specs = [
            tf.TensorSpec(tensor.shape, tensor.dtype, name) for tensor, name in zip(plan.inputs, names, strict=True)
        ]
        return tf.function(function, input_signature=specs, autograph=False).get_concrete_function()

    def run(self, plan, inputs):
        """Computes a plan's outputs, in order, from its inputs."""
        values = dict(zip(graph.refs(plan.graph.inputs), inputs, strict=True))
        # Stateless: the losses and updates of this call are not to stay in the user's layers.
        with keras.StatelessScope():
            for step in plan.steps:
                values.update(step.node.outputs(self._step(step, [values[ref] for ref in step.node.inputs])))
        return [self._dense(values[ref]) for ref in graph.refs(plan.graph.outputs)]

    def _step(self, step, inputs):
        layer = step.node.layer
        if step.action == sparsity.FBS:
            return [self.fbs(layer, inputs[0])]
        if step.action == sparsity.ROWS and isinstance(inputs[0], Compact):
            return [self.rows(layer, inputs[0])]
        if step.action == sparsity.CHANNELWISE and isinstance(inputs[0], Compact):
            return [dataclasses.replace(inputs[0], values=_call(step.node, [x.values for x in inputs]))]
        return _call(step.node, [self._dense(x) for x in inputs])

    def _dense(self, x):
        return self.expand(x) if isinstance(x, Compact) else x

    def fbs(self, layer, x):
        """Computes an FBS layer on a tensor or a `Compact`."""
        sparse_in = isinstance(x, Compact)
        values, indices = (x.values, x.indices) if sparse_in else (x, None)
        with tf.init_scope():  # out of the function being traced, where variables have values
            attributes = Attributes.from_layer(layer, sparse_in)
            weights = self.constants(layer).values()
            elementwise = is_elementwise(layer.activation)
        weights = [tf.constant(value) for value in weights]
        if self.fuse:
            y, indices = lowering.custom_op(attributes, values, indices, *weights)
        else:
            y, indices = lowering.fbs_conv2d(attributes, values, indices, *weights)
        y = y if indices is None else Compact(y, indices, layer.filters)
        if layer.activation in ACTIVATIONS:
            return y
        if isinstance(y, Compact) and elementwise:
            return dataclasses.replace(y, values=layer.activation(y.values))
        return layer.activation(self._dense(y))

    def rows(self, layer, x):
        """Computes a Dense layer or a 1x1 convolution on a `Compact`."""
        y = self.multiply(x, tf.reshape(tf.convert_to_tensor(layer.kernel), (x.channels, -1)))
        if layer.use_bias:
            y = y + tf.convert_to_tensor(layer.bias)
        return layer.activation(y)

    def multiply(self, x, kernel):
        """`x @ kernel` for a `Compact`."""
        return lowering.rows(x.values, x.indices, kernel)

    def expand(self, x):
        """The dense tensor of a `Compact`."""
        return lowering.expand(x.values, x.indices, x.channels)

    def constants(self, layer):
        """The op's constants of an FBS layer."""
        if id(layer) not in self._constants:
            self._constants[id(layer)] = constants(layer)
        return self._constants[id(layer)]


class PlainTracer(Tracer):
    """Traces FBS layers as plain convolutions, for comparison.

    Args:
        static: Whether each layer has its first k channels only; a `Compact` then holds the first ones, with no
            indices.
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


class GateRecorder(Tracer):
    """Computes a model as Keras does and records what its gates predict.

    Attributes:
        gates: `(layer, g)` for each call of an FBS layer that suppresses channels, in order, g `[N, C_out]`.
    """

    def __init__(self):
        super().__init__(fuse=False)
        self.gates = []

    def fbs(self, layer, x):
        if layer.active_channels < layer.filters:
            self.gates.append((layer, layer.predict_saliency(x).numpy()))
        return layer(x)


def _call(node, inputs):
    """Calls a layer as `keras.Model.predict` does, which overrides what the graph says about training."""
    layer = node.layer
    if isinstance(layer, keras.layers.Layer) and "training" in inspect.signature(layer.call).parameters:
        node = dataclasses.replace(node, kwargs={**node.kwargs, "training": False})
    return node.call(dict(zip(node.inputs, inputs, strict=True)))
