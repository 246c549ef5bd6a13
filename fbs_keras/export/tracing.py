"""A Keras model as one TensorFlow function, with FBS layers as ops and compact tensors between them."""

import dataclasses
import typing

import keras
import numpy as np
import tensorflow as tf

from fbs_keras import graph
from fbs_keras.compact import steps
from fbs_keras.compact.attributes import (
    ACTIVATIONS,
    MOST_ADDENDS,
    AddAttributes,
    DepthwiseConv2DAttributes,
    constants,
    depthwise_constants,
    normalization,
    op_activation,
    predicts_gate,
)
from fbs_keras.export import lowering, quantization
from fbs_keras.export.names import accept_scopes, renamed
from fbs_keras.graph.channelwise import is_elementwise
from fbs_keras.graph.kinds import kind
from fbs_keras.graph.observing import call


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

    def map(self, function):
        """The same with other values."""
        return dataclasses.replace(self, values=function(self.values))


class Tracer:
    """Runs a plan on TensorFlow tensors.

    Args:
        quantize: How the constants of our ops are stored, one of `QUANTIZATIONS`. Defaults to `None`, float32.
        fuse: Whether steps that have an op of ours become custom ops; otherwise they become built-in ops. Defaults
            to `True`.

    Attributes:
        names: A name for each custom op, in the order of their `CALL` attributes.
        made: The names of the layers that made TensorFlow's ops of each type, `{type: set of names}`.
    """

    def __init__(self, quantize=None, fuse=True):
        quantization.check_quantize(quantize)
        self.quantize = quantize
        self.fuse = fuse
        self.names = []
        self.made = {}
        self._constants = {}  # by layer, so that a layer called twice is stored once
        self._renamed = []

    def trace(self, plan, names):
        """Traces a plan.

        Args:
            plan: A `Plan`.
            names: A name for each input.

        Returns:
            A concrete function from the model's inputs, in order, to its outputs, in order.
        """

        def function(*inputs):
            accept_scopes(inputs[0].graph)
            return tuple(tf.identity(y) for y in self.run(plan, inputs))

        self._renamed = renamed([step.node.layer for step in plan.steps])
        specs = [
            tf.TensorSpec(tensor.shape, tensor.dtype, name) for tensor, name in zip(plan.inputs, names, strict=True)
        ]
        traced = tf.function(function, input_signature=specs, autograph=False).get_concrete_function()
        traced.renamed = self._renamed  # which it does not keep by itself
        return traced

    def run(self, plan, inputs):
        """Computes a plan's outputs, in order, from its inputs."""
        values = _Values(self.expand, zip(graph.refs(plan.graph.inputs), inputs, strict=True))
        # Stateless: the losses and updates of this call are not to stay in the user's layers.
        with keras.StatelessScope(self._renamed):
            for step in plan.steps:
                count = len(_operations())
                outputs = step.node.outputs(self._step(step, values, plan.graph))
                _check_shapes(step, outputs.values())
                values.update(outputs)
                for operation in _operations()[count:]:
                    self.made.setdefault(operation.type, set()).add(step.node.name)
        return [values.dense(ref) for ref in graph.refs(plan.graph.outputs)]

    def _step(self, step, values, flat):
        """What a step's layer returns; `steps` tells of the actions."""
        node, layer = step.node, step.node.layer
        inputs = [values[ref] for ref in node.inputs]
        match step.action:
            case steps.FBS:
                # The runtime gives the delegate no memory for an op's outputs that nobody reads.
                read = bool(flat.consumers(node.output)) or flat.is_output(node.output)
                image = values.dense(node.inputs[0]) if layer.gate_input == "x" else None
                return self.fbs(layer, inputs[0], node.name, step.pool, read, image)
            case steps.CHANNELWISE:
                return self.channelwise(node, inputs)
            case steps.DEPTHWISE:
                return self.depthwise(step, inputs[0])
            case steps.SEPARABLE:
                return self.separable(layer, inputs[0], node.name)
            case steps.SCALE:
                (output,) = step.outputs
                first = (step.inputs[0].shape, step.inputs[0].winners) == (output.shape, output.winners)
                image, factors = node.inputs if first else node.inputs[::-1]
                return self.scale(values[image], values.dense(factors))
            case steps.CONCATENATE:
                return self.concatenate(inputs)
            case steps.ROWS:
                return self.rows(layer, inputs[0], layer.kernel)
            case steps.ADD:
                return self.add(inputs, step.activation, node.name)
            case steps.FUSED | steps.NOTHING:
                return inputs[0]
        return call(node, {ref: values.dense(ref) for ref in node.inputs})

    def _op(self, attributes, tensors, constants, name, read=True):
        """An exported op's outputs; as one custom op, if they are to be fused and the first of them is read."""
        values = list(constants.values())
        if not (self.fuse and read):
            return lowering.compute(attributes, *tensors, *values)
        self.names.append(name)
        return lowering.custom_op(attributes, len(self.names) - 1, tensors, values)

    def fbs(self, layer, x, name, pool=1, read=True, image=None):
        """Computes what an FBS layer returns, of a tensor or a `Compact`; pooled where `pool` is 2.

        Where its image is not `read`, but its mask is, built-in ops compute the mask. `image` is x as a tensor, for a
        gate that reads all of it.
        """
        sparse_in = isinstance(x, Compact)
        tensors = [x.values, x.indices] if sparse_in else [tf.cast(x, "float32")]  # as the layer does
        if not predicts_gate(layer):
            tensors.append(self.gate(layer, x, name, image))
        with tf.init_scope():  # out of the function being traced, where variables have values
            attributes = quantization.conv2d_attributes(layer, sparse_in, self.quantize, pool)
            constants = self.constants(layer)
            elementwise = is_elementwise(layer.activation)
        y, *indices = self._op(attributes, tensors, constants, name, read)
        mask = tf.ones((y.shape[0], y.shape[-1]))
        if indices:
            y, mask = (Compact(values, indices[0], layer.filters) for values in (y, mask))
        if op_activation(layer.activation) is None:
            if indices and not elementwise:
                y = self.expand(y, f"{name}/dense")
            y = y.map(layer.activation) if isinstance(y, Compact) else layer.activation(y)
        return (y, mask) if layer.return_mask else y

    def gate(self, layer, x, name, image):
        """Computes g, `[N, C_out]`, of a layer whose op does not predict it, in ordinary ops."""
        if layer.gate_input == "x":
            return layer.predict_from(layer.read_gate_input(image))
        if not isinstance(x, Compact):
            return layer.predict_from(layer.read_gate_input(x))
        s = x.map(layer.read_gate_input)  # the other channels are zero, and so is their saliency
        return layer.predict_from(self.expand(s, f"{name}/saliency"))

    def channelwise(self, node, inputs):
        """Calls a layer on `Compact`s that hold the same channels."""
        x, layer = inputs[0], node.layer
        if kind(layer) is keras.layers.BatchNormalization:
            with tf.init_scope():
                scale, shift = (parameters.astype("float32") for parameters in normalization(layer))
            return x.map(lambda values: values * self.gather(scale, x) + self.gather(shift, x))
        return dataclasses.replace(
            x, values=call(node, {ref: x.values for ref, x in zip(node.inputs, inputs, strict=True)})
        )

    def depthwise(self, step, x):
        """Computes a depthwise convolution of a `Compact`, with the normalisation and the activation after it."""
        layer = step.node.layer
        with tf.init_scope():
            folded = depthwise_constants(layer, step.norm)
        attributes = DepthwiseConv2DAttributes.from_layer(layer, step.activation)
        attributes = dataclasses.replace(attributes, padding=step.padding)
        y = self.convolve(attributes, x, folded, step.node.name)
        return y.map(layer.activation) if op_activation(layer.activation) is None else y

    def separable(self, layer, x, name):
        """Computes a separable convolution of a `Compact`, a dense tensor."""
        with tf.init_scope():
            weights = np.reshape(layer.depthwise_kernel.numpy(), (-1, x.channels)).T.copy()
        constants = {"weights": weights, "bias": np.zeros(x.channels, "float32")}
        attributes = DepthwiseConv2DAttributes.from_layer(layer)
        y = self.convolve(attributes, x, constants, f"{name}/depthwise")
        return self.rows(layer, y, layer.pointwise_kernel)

    def convolve(self, attributes, x, constants, name):
        """Computes a depthwise convolution of a `Compact`, with float32 constants."""
        stored = quantization.depthwise_constants(constants, self.quantize)
        (y,) = self._op(attributes, [x.values, x.indices], stored, name)
        return dataclasses.replace(x, values=y)

    def scale(self, x, factors):
        """Computes `x * factors` of a `Compact` and a dense tensor of one pixel."""
        return x.map(lambda values: values * self.gather(factors, x))

    def concatenate(self, parts):
        """Joins tensors and `Compact`s by their channels."""
        values, indices, channels = [], [], 0
        for part in parts:
            if not isinstance(part, Compact):
                batch, count = part.shape[0], part.shape[-1]
                part = Compact(part, np.tile(np.arange(count, dtype="int32"), (batch, 1)), count)
            values.append(part.values)
            indices.append(part.indices + channels)
            channels += part.channels
        return Compact(tf.concat(values, -1), tf.concat(indices, -1), channels)

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
        (y,) = self._op(attributes, operands, {}, name)
        return y

    def rows(self, layer, x, kernel):
        """Computes a layer that is a matrix product over the channels of a `Compact`, a dense tensor."""
        y = self.multiply(x, tf.reshape(tf.convert_to_tensor(kernel), (x.channels, -1)))
        if layer.use_bias:
            y = y + tf.convert_to_tensor(layer.bias)
        return layer.activation(y)

    def multiply(self, x, kernel):
        """`x @ kernel` for a `Compact`."""
        return lowering.rows(x.values, x.indices, kernel)

    def gather(self, parameters, x):
        """Those of parameters `[C]` or `[N, 1, ..., C]` that are of the channels of a `Compact`, to multiply with."""
        return lowering.gather(parameters, x.indices, len(x.values.shape))

    def expand(self, x, name):
        """The dense tensor of a `Compact`."""
        return self.add([x], "NONE", name)

    def constants(self, layer):
        """The constants of an FBS layer's op, as they are stored."""
        if id(layer) not in self._constants:
            try:
                self._constants[id(layer)] = quantization.conv2d_constants(constants(layer), self.quantize)
            except ValueError as error:
                raise ValueError(f"layer {layer.name!r}: {error}") from error
        return self._constants[id(layer)]


def _check_shapes(step, outputs):
    """Raises where a layer computes another shape than Keras, and with it the plan, was told."""
    if step.action != steps.DENSE:
        return
    for tensor, y in zip(step.outputs, outputs, strict=True):
        got, told = tuple(y.shape)[1:], tensor.shape[1:]
        if len(got) != len(told) or any(
            None not in pair and len(set(pair)) > 1 for pair in zip(got, told, strict=True)
        ):
            raise ValueError(
                f"layer {step.node.name!r} ({type(step.node.layer).__name__}) computes the shape {got} without the "
                f"batch, where its compute_output_shape tells Keras {told}; make both agree, or take the layer out"
            )


def _operations():
    """The operations of the function that is being traced; none where TensorFlow computes at once."""
    return [] if tf.executing_eagerly() else tf.compat.v1.get_default_graph().get_operations()


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
            indices. Otherwise the plan has to be one without compact tensors.
    """

    def __init__(self, static):
        super().__init__(fuse=False)
        self.static = static

    def fbs(self, layer, x, name, pool=1, read=True, image=None):
        """`activation(rho * (norm(conv(x)) + beta))` as one convolution; rho is 1 for a gate that has none."""
        values = x.values if isinstance(x, Compact) else tf.cast(x, "float32")
        with tf.init_scope():
            k = layer.active_channels if self.static else layer.filters
            folded = self.constants(layer)
            rho = np.ones(layer.filters, "float32") if layer.gate_bias is None else layer.gate_bias.numpy()
            rho = np.maximum(rho, 0)
            kernel = (folded["weights"] * rho).reshape(-1, *layer.kernel_size, layer.filters).transpose(1, 2, 0, 3)
            kernel, bias = kernel[:, :, : values.shape[-1], :k], (folded["bias"] * rho)[:k]
        y = tf.nn.conv2d(values, kernel, layer.strides, layer.padding.upper(), dilations=layer.dilation_rate)
        y = layer.activation(y + bias)
        y, mask = (t if k == layer.filters else Compact(t, None, layer.filters) for t in (y, tf.ones((y.shape[0], k))))
        return (y, mask) if layer.return_mask else y

    def convolve(self, attributes, x, constants, name):
        k = x.values.shape[-1]
        kernel = constants["weights"][:k].T.reshape(attributes.kernel_h, attributes.kernel_w, k, 1)
        y = lowering.depthwise(attributes, x.values, kernel)
        activation = next(key for key, value in ACTIVATIONS.items() if value == attributes.activation)
        return dataclasses.replace(x, values=activation(y + constants["bias"][:k]))

    def concatenate(self, parts):
        parts = [part if isinstance(part, Compact) else Compact(part, None, part.shape[-1]) for part in parts]
        return Compact(tf.concat([x.values for x in parts], -1), None, sum(x.channels for x in parts))

    def multiply(self, x, kernel):
        return tf.tensordot(x.values, kernel[: x.values.shape[-1]], 1)

    def gather(self, parameters, x):
        return parameters[..., : x.values.shape[-1]]

    def expand(self, x, name):
        rank = len(x.values.shape)
        return tf.pad(x.values, [(0, 0)] * (rank - 1) + [(0, x.channels - x.values.shape[-1])])
