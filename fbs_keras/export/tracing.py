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
from fbs_keras.export.attributes import ACTIVATIONS, MOST_ADDENDS, AddAttributes, Conv2DAttributes, constants


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
        fuse: Whether FBS layers and sums become custom ops; otherwise built-in ops take their place.

    Attributes:
        names: A name for each custom op, in the order of their `CALL` attributes.
    """

    def __init__(self, fuse):
        self.fuse = fuse
        self.names = []
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
        values = _Values(self.expand, zip(graph.refs(plan.graph.inputs), inputs, strict=True))
        # Stateless: the losses and updates of this call are not to stay in the user's layers.
        with keras.StatelessScope():
            for step in plan.steps:
                values.update(step.node.outputs(self._step(step, values)))
        return [values.dense(ref) for ref in graph.refs(plan.graph.outputs)]

    def _step(self, step, values):
        node, layer = step.node, step.node.layer
        inputs = [values[ref] for ref in node.inputs]
        if step.action == sparsity.FBS:
            return [self.fbs(layer, inputs[0], node.name)]
        if step.action == sparsity.ADD:
            return [self.add(inputs, step.activation, node.name)]
        if step.action == sparsity.FUSED:
            return inputs
        if step.action == sparsity.ROWS and isinstance(inputs[0], Compact):
            return [self.rows(layer, inputs[0])]
        if step.action == sparsity.CHANNELWISE and isinstance(inputs[0], Compact):
            return [dataclasses.replace(inputs[0], values=_call(node, [x.values for x in inputs]))]
        return _call(node, [values.dense(ref) for ref in node.inputs])

    def _op(self, attributes, operands, name):
        """An exported op's outputs; as one custom op, if they are to be fused."""
        if not self.fuse:
            return lowering.compute(attributes, *operands)
        self.names.append(name)
        return lowering.custom_op(attributes, len(self.names) - 1, *operands)

    def fbs(self, layer, x, name):
        """Computes an FBS layer on a tensor or a `Compact`."""
        sparse_in = isinstance(x, Compact)
        operands = [x.values, x.indices] if sparse_in else [x]
        with tf.init_scope():  # out of the function being traced, where variables have values
            attributes = Conv2DAttributes.from_layer(layer, sparse_in)
            weights = self.constants(layer).values()
            elementwise = is_elementwise(layer.activation)
        y, *indices = self._op(attributes, operands + [tf.constant(value) for value in weights], name)
        if indices:
            y = Compact(y, indices[0], layer.filters)
        if layer.activation in ACTIVATIONS:
            return y
        if isinstance(y, Compact) and elementwise:
            return dataclasses.replace(y, values=layer.activation(y.values))
        return layer.activation(self.expand(y, f"{name}/dense") if isinstance(y, Compact) else y)

    def add(self, addends, activation, name):
        """Computes `act(sum_i x_i)` of tensors and `Compact`s, a dense tensor."""
        while len(addends) > MOST_ADDENDS:
            addends = [self.add(addends[:MOST_ADDENDS], "NONE", name), *addends[MOST_ADDENDS:]]
        compact = [isinstance(x, Compact) for x in addends]
        attributes = AddAttributes(
            addends=len(addends),
            compact=sum(bit << i for i, bit in enumerate(compact)),
            channels=addends[0].channels if compact[0] else addends[0].shape[-1],
            activation=activation,
        )
        operands = [part for x in addends for part in ([x.values, x.indices] if isinstance(x, Compact) else [x])]
        (y,) = self._op(attributes, operands, name)
        return y

    def rows(self, layer, x):
        """Computes a Dense layer or a 1x1 convolution on a `Compact`."""
        y = self.multiply(x, tf.reshape(tf.convert_to_tensor(layer.kernel), (x.channels, -1)))
        if layer.use_bias:
            y = y + tf.convert_to_tensor(layer.bias)
        return layer.activation(y)

    def multiply(self, x, kernel):
        """`x @ kernel` for a `Compact`."""
        return lowering.rows(x.values, x.indices, kernel)

    def expand(self, x, name):
        """The dense tensor of a `Compact`."""
        return self.add([x], "NONE", name)

    def constants(self, layer):
        """The op's constants of an FBS layer."""
        if id(layer) not in self._constants:
            self._constants[id(layer)] = constants(layer)
        return self._constants[id(layer)]


class _Values(dict):
    """The tensors of a run by `graph.Ref`; each compact one that several layers want dense is expanded once."""

    def __init__(self, expand, items):
        super().__init__(items)
        self._expand = expand
        self._expanded = {}

    def dense(self, ref):
        if not isinstance(self[ref], Compact):
            return self[ref]
        if ref not in self._expanded:
            self._expanded[ref] = self._expand(self[ref], f"{ref.layer}/dense")
        return self._expanded[ref]


class PlainTracer(Tracer):
    """Traces FBS layers as plain convolutions, for comparison.

    Args:
        static: Whether each layer has its first k channels only; a `Compact` then holds the first ones, with no
            indices.
    """

    def __init__(self, static):
        super().__init__(fuse=False)
        self.static = static

    def fbs(self, layer, x, name):
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

    def expand(self, x, name):
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

    def fbs(self, layer, x, name):
        if layer.active_channels < layer.filters:
            self.gates.append((layer, layer.predict_saliency(x).numpy()))
        return layer(x)


def _call(node, inputs):
    """Calls a layer as `keras.Model.predict` does, which overrides what the graph says about training."""
    layer = node.layer
    if isinstance(layer, keras.layers.Layer) and "training" in inspect.signature(layer.call).parameters:
        node = dataclasses.replace(node, kwargs={**node.kwargs, "training": False})
    return node.call(dict(zip(node.inputs, inputs, strict=True)))
