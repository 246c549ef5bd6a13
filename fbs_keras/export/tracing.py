"""A Keras model as one TensorFlow function, with FBS layers as ops and compact tensors between them."""

import dataclasses
import typing

import keras
import numpy as np
import tensorflow as tf

from fbs_keras import graph
from fbs_keras.compact import steps
from fbs_keras.compact.op import ACTIVATIONS, normalization
from fbs_keras.compact.ops import conv2d
from fbs_keras.compact.ops.add import expansion
from fbs_keras.compact.ops.depthwise_conv2d import DepthwiseConv2DOp
from fbs_keras.export import lowering
from fbs_keras.export.lowering import depthwise_conv2d, gathering
from fbs_keras.export.names import accept_scopes, renamed
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
    """Carries out a plan on TensorFlow tensors.

    Args:
        quantize: How the constants of our ops are stored, as the plan was made for. Defaults to `None`, float32.
        fuse: Whether our ops become custom ops; otherwise they become built-in ops. Defaults to `True`.

    Attributes:
        names: A name for each custom op, in the order of their `CALL` attributes.
        made: The names of the layers that made TensorFlow's ops of each type, `{type: set of names}`.
    """

    def __init__(self, quantize=None, fuse=True):
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
                outputs = step.node.outputs(self._step(step, values))
                _check_shapes(step, outputs.values())
                values.update(outputs)
                for operation in _operations()[count:]:
                    self.made.setdefault(operation.type, set()).add(step.node.name)
        return [values.dense(ref) for ref in graph.refs(plan.graph.outputs)]

    def _step(self, step, values):
        """What a step's layer returns; `steps` tells of the actions."""
        node, layer = step.node, step.node.layer
        inputs = [values.dense(ref) if i in step.expanded else values[ref] for i, ref in enumerate(node.inputs)]
        match step.action:
            case conv2d.ACTION:
                (op,) = step.ops or (None,)
                return self.fbs(
                    layer,
                    op,
                    inputs[0],
                    node.name,
                    image=values.dense(node.inputs[0]) if layer.gate_input == "x" else None,
                    activation=step.activation,
                    dense=step.outputs[0].active is None,
                    fuse=step.fuse,
                )
            case steps.CHANNELWISE:
                return self.channelwise(step, inputs)
            case steps.SEPARABLE:
                (y,) = self.run_op(step.ops[0], layer, inputs, f"{node.name}/depthwise")
                return self.rows(layer, dataclasses.replace(inputs[0], values=y), layer.pointwise_kernel)
            case steps.SCALE:
                image, factors = inputs if isinstance(inputs[0], Compact) else inputs[::-1]
                return image.map(lambda values: values * self.gather(factors, image))
            case steps.CONCATENATE:
                return self.concatenate(inputs)
            case steps.ROWS:
                return self.rows(layer, inputs[0], layer.kernel)
            case steps.FUSED | steps.NOTHING:
                return inputs[0]
            case steps.DENSE:
                return call(node, dict(zip(node.inputs, inputs, strict=True)))
        return self.ops(step, inputs)

    def ops(self, step, inputs):
        """Computes a step that is ops of ours and nothing else, each of which reads what the one before wrote."""
        for op in step.ops:
            read, inputs = inputs[: op.reads], inputs[op.reads :]
            (y,) = self.run_op(op, step.node.layer, read, step.node.name, step.norm)
            inputs = [y, *inputs]
        if step.outputs[0].active is not None:
            y = dataclasses.replace(read[0], values=y)
        return _apply(step.activation, y)

    def run_op(self, op, layer, inputs, name, norm=None, g=None, fuse=True):
        """An op's outputs, of tensors and `Compact`s; of one custom op, if it is to be fused."""
        tensors = [part for x in inputs for part in ([x.values, x.indices] if isinstance(x, Compact) else [x])]
        tensors += [] if g is None else [g]
        constants = self.constants(op, layer, norm)
        if not (self.fuse and fuse):
            return lowering.compute(op, *tensors, *constants.values())
        self.names.append(name)
        return lowering.custom_op(op, len(self.names) - 1, tensors, list(constants.values()))

    def fbs(self, layer, op, x, name, *, image=None, activation=None, dense=False, fuse=True):
        """Computes what an FBS layer returns, of a tensor or a `Compact`.

        Args:
            layer: The layer.
            op: Its `Conv2DOp`.
            x: The tensor or `Compact`.
            name: The op's name.
            image: x as a tensor, for a gate that reads all of it.
            activation: As of the `Step`.
            dense: Whether y is to be dense, though not its mask.
            fuse: As of the `Step`.
        """
        x = x if isinstance(x, Compact) else tf.cast(x, "float32")  # as the layer does
        g = self.gate(layer, x, name, image) if op.gated else None
        y, *indices = self.run_op(op, layer, [x], name, g=g, fuse=fuse)
        mask = tf.ones((y.shape[0], y.shape[-1]))
        if indices:
            y, mask = (Compact(values, indices[0], layer.filters) for values in (y, mask))
            y = self.expand(y, f"{name}/dense") if dense else y
        y = _apply(activation, y)
        return (y, mask) if layer.return_mask else y

    def gate(self, layer, x, name, image):
        """Computes g, `[N, C_out]`, of a layer whose op does not predict it, in ordinary ops."""
        if layer.gate_input == "x":
            return layer.predict_from(layer.read_gate_input(image))
        if not isinstance(x, Compact):
            return layer.predict_from(layer.read_gate_input(x))
        s = x.map(layer.read_gate_input)  # the other channels are zero, and so is their saliency
        return layer.predict_from(self.expand(s, f"{name}/saliency"))

    def channelwise(self, step, inputs):
        """Calls a layer on `Compact`s that hold the same channels."""
        x, node = inputs[0], step.node
        if step.norm is not None:
            with tf.init_scope():
                scale, shift = (parameters.astype("float32") for parameters in normalization(step.norm))
            return x.map(lambda values: values * self.gather(scale, x) + self.gather(shift, x))
        return x.map(lambda _: call(node, {ref: x.values for ref, x in zip(node.inputs, inputs, strict=True)}))

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

    def rows(self, layer, x, kernel):
        """Computes a layer that is a matrix product over the channels of a `Compact`, a dense tensor."""
        y = self.multiply(x, tf.reshape(tf.convert_to_tensor(kernel), (x.channels, -1)))
        if layer.use_bias:
            y = y + tf.convert_to_tensor(layer.bias)
        return layer.activation(y)

    def multiply(self, x, kernel):
        """`x @ kernel` for a `Compact`."""
        return gathering.rows(x.values, x.indices, kernel)

    def gather(self, parameters, x):
        """Those of parameters `[C]` or `[N, 1, ..., C]` that are of the channels of a `Compact`, to multiply with."""
        return gathering.gather(parameters, x.indices, len(x.values.shape))

    def expand(self, x, name):
        """The dense tensor of a `Compact`."""
        (y,) = self.run_op(expansion(x.channels), None, [x], name)
        return y

    def constants(self, op, layer, norm=None):
        """An op's constants, as they are stored."""
        if not op.constant_names:
            return {}
        if (layer, norm) not in self._constants:
            try:
                with tf.init_scope():  # out of the function being traced, where variables have values
                    self._constants[layer, norm] = op.constants(layer, norm, self.quantize)
            except ValueError as error:
                raise ValueError(f"layer {layer.name!r}: {error}") from error
        return self._constants[layer, norm]


def _apply(activation, x):
    """An activation, or none, of a tensor or a `Compact`."""
    if activation is None:
        return x
    return x.map(activation) if isinstance(x, Compact) else activation(x)


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

    def fbs(self, layer, op, x, name, **_):
        """`activation(rho * (norm(conv(x)) + beta))` as one convolution; rho is 1 for a gate that has none."""
        values = x.values if isinstance(x, Compact) else tf.cast(x, "float32")
        with tf.init_scope():
            k = layer.active_channels if self.static else layer.filters
            folded = conv2d.fold(layer)
            rho = np.ones(layer.filters, "float32") if layer.gate_bias is None else layer.gate_bias.numpy()
            rho = np.maximum(rho, 0)
            kernel = (folded["weights"] * rho).reshape(-1, *layer.kernel_size, layer.filters).transpose(1, 2, 0, 3)
            kernel, bias = kernel[:, :, : values.shape[-1], :k], (folded["bias"] * rho)[:k]
        y = tf.nn.conv2d(values, kernel, layer.strides, layer.padding.upper(), dilations=layer.dilation_rate)
        y = layer.activation(y + bias)
        y, mask = (t if k == layer.filters else Compact(t, None, layer.filters) for t in (y, tf.ones((y.shape[0], k))))
        return (y, mask) if layer.return_mask else y

    def run_op(self, op, layer, inputs, name, norm=None, g=None, fuse=True):
        if not isinstance(op, DepthwiseConv2DOp):
            return super().run_op(op, layer, inputs, name, norm, g, fuse)
        (x,), constants = inputs, self.constants(op, layer, norm)
        k = x.values.shape[-1]
        kernel = constants["weights"][:k].T.reshape(op.kernel_h, op.kernel_w, k, 1)
        y = depthwise_conv2d.depthwise(op, x.values, kernel)
        activation = next(key for key, value in ACTIVATIONS.items() if value == op.activation)
        return [activation(y + constants["bias"][:k])]

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
