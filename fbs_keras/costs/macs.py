"""Counts multiply-accumulates, parameters and peak activation memory of dense and FBS models."""

import dataclasses
import math

import keras

from fbs_keras import graph
from fbs_keras.compact import sparsity, steps
from fbs_keras.graph.quantized import check_not_quantized
from fbs_keras.layers.fbs_conv2d import FBSConv2D, current_density
from fbs_keras.layers.suppress import Suppress

FLOAT_BYTES = 4
INDEX_BYTES = 4

# Their output replaces their input: runtimes fuse them into the layer before or work in place.
_IN_PLACE = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.Identity,
    keras.layers.Flatten,
    keras.layers.Reshape,
    Suppress,
)


@dataclasses.dataclass(frozen=True)
class LayerMacs:
    """Costs of one layer for one input image.

    Attributes:
        name: The layer's name, after those of the nested models it is in.
        kind: Its class name.
        output_shape: Its output's shape without the batch.
        density: An FBS layer's density, else `None`.
        channels_in, channels_out: All channels.
        active_in, active_out: The channels that the exported model reads and computes.
        dense: MACs with all channels, without the gate.
        conv: MACs with the active channels only.
        gate: MACs of the gate: predictor and scaling.
        parameters: Number of weights that training learns.
    """

    name: str
    kind: str
    output_shape: tuple
    density: float | None
    channels_in: int
    channels_out: int
    active_in: int
    active_out: int
    dense: int
    conv: int
    gate: int
    parameters: int

    @property
    def fbs(self):
        """MACs of the FBS layer, its gate included."""
        return self.conv + self.gate


@dataclasses.dataclass(frozen=True)
class MacReport:
    """Costs of a model for one input image; see `count_macs`.

    Attributes:
        rows: A `LayerMacs` for each layer with MACs.
        uncounted: Names of layers with weights whose MACs this library cannot count.
        parameters: Number of weights of the model that training learns, those of layers without MACs included.
        peak_dense, peak_fbs: Peak activation memory in bytes, with all channels and with the active ones only.
    """

    rows: list
    uncounted: list
    parameters: int
    peak_dense: int
    peak_fbs: int

    @property
    def dense(self):
        """MACs of the dense model."""
        return sum(row.dense for row in self.rows)

    @property
    def conv(self):
        """MACs of the FBS model without its gates."""
        return sum(row.conv for row in self.rows)

    @property
    def fbs(self):
        """MACs of the FBS model, its gates included."""
        return sum(row.fbs for row in self.rows)

    @property
    def saving(self):
        """How many times fewer MACs the FBS model needs, its gates included."""
        return self.dense / self.fbs if self.fbs else 1.0


@graph.reading_once()
def count_macs(model: keras.Model) -> MacReport:
    """Counts the multiply-accumulates of a model for one image, dense and with channels skipped.

    An FBS layer costs

        kh * kw * H * W * n_in * n_out + n_in * C_out + C_out * H * W

    for the convolution, the gate's predictor and the scaling, with `n_out = ceil(density * C_out)`. `n_in` are those
    channels of the input that the exported model reads, as `fbs_keras.compact.sparsity` decides for both: the
    producer's active ones, through pooling, activations, depthwise convolutions and concatenations; all of them at
    the model's input, after an addition, whose sum is written dense, and where a compact tensor is expanded. Layers
    that are not gated compute all their output channels, from the active ones of their input where they can read
    these: depthwise and separable convolutions, and 1x1 convolutions and Dense layers on several pixels. A
    channels-first model cannot be exported; it is counted with all channels after batch normalisation,
    concatenations and excitation. A `gate` of the layer's own costs what it would cost as a model, and the linear one
    of another saliency `C_in * C_out`.

    Args:
        model: A built Sequential or Functional Keras model with fixed spatial dimensions.

    Returns:
        A `MacReport`, with `.dense`, `.fbs`, `.saving` and a row for each layer.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, is subclassed, was quantised by Keras, or has spatial dimensions that are not
            fixed.

    Example:

    >>> report = fbs_keras.count_macs(fbs_keras.wrap(fbs_keras.models.MCifarNet(), density=0.5))
    >>> report.dense, report.fbs, round(report.saving, 2)
    (174301824, 44276032, 3.94)

    Source: paper, section 4, "MACs"; its figures leave out the gates (`MacReport.conv`), and count the union of the
        active channels after an addition, which differs at densities below 0.5 only.
    """
    return report(*read_sizes(model))


def read_sizes(model):
    """Reads what a count needs of a model but its densities, which takes most of the time: graph, tensors and gates."""
    model_graph = graph.flatten(model)
    check_not_quantized(model)
    tensors = graph.specs(model_graph, model)
    for ref, tensor in tensors.items():
        _check_fixed(tensor.shape, ref, model)
    gates = {
        node.output: _read_gate(node.layer, tensors[node.inputs[0]].shape)
        for node in model_graph.nodes
        if isinstance(node.layer, FBSConv2D) and node.layer.gate_layer is not None
    }
    return model_graph, tensors, gates


def report(model_graph, tensors, gates):
    """Counts what `read_sizes` read, at the densities of the moment."""
    shapes = {ref: tuple(tensor.shape[1:]) for ref, tensor in tensors.items()}
    channels = _channel_sizes(model_graph, shapes)
    active = dict(channels)  # of each tensor, the channels that it holds
    rows, uncounted = [], []
    for step in sparsity.plan_graph(model_graph, tensors, batch_size=1).steps:
        node = step.node
        for ref, tensor in node.outputs(step.outputs).items():
            active[ref] = tensor.active or channels[ref]
        own_gate, unknown = gates.get(node.output, (None, []))
        uncounted += [f"{node.name}/{name}" for name in unknown]
        row = _count(step, shapes, channels, active, own_gate)
        if row is not None:
            rows.append(row)
        elif _has_kernel(node.layer):
            uncounted.append(node.name)
    layers = dict.fromkeys(node.layer for node in model_graph.nodes)
    peaks = [_peak(model_graph, shapes, channels, kept) for kept in (channels, active)]
    parameters = sum(_parameters(layer) for layer in layers)
    return MacReport(rows, uncounted, parameters, *peaks)


def _check_fixed(shape, ref, model):
    if any(size is None for size in shape[1:]):
        raise ValueError(
            f"MACs need fixed dimensions, but {ref.layer!r} of model {model.name!r} has shape {tuple(shape)}; "
            "build the model with a fixed Input shape"
        )


def _channel_sizes(model_graph, shapes):
    """The number of channels of each tensor: the first dimension where a layer before it has channels first."""
    first: dict[graph.Ref, bool] = {}
    for node in model_graph.nodes:
        before = any(first.get(ref, False) for ref in node.inputs)
        data_format = getattr(node.layer, "data_format", None)
        first[node.output] = data_format == "channels_first" if data_format else before
        if data_format and node.inputs:
            first.setdefault(node.inputs[0], first[node.output])
    return {
        ref: 1 if not shape else shape[0] if first.get(ref, False) and len(shape) == 3 else shape[-1]
        for ref, shape in shapes.items()
    }


def _read_gate(layer, input_shape):
    """The MACs of the gate that an FBS layer has of its own, and the names of what in it cannot be counted."""
    gate, shape = layer.gate_layer, layer.gate_input_shape(input_shape)[1:]
    macs = _dense_macs(gate, 1, math.prod(shape[:-1]))  # g has one position
    if macs is not None:
        return macs, []
    try:
        model = gate
        if not (isinstance(gate, keras.Model) and graph.is_readable(gate)):
            inputs = keras.Input(shape)
            model = keras.Model(inputs, gate.call(inputs))  # into a layer that calls others
        counts = report(*read_sizes(model))
        nodes = graph.flatten(model).nodes
    except Exception:  # whatever the layer does with what is no array
        return 0, [gate.name] if _has_kernel(gate) else []
    known = {id(weight) for node in nodes for weight in getattr(node.layer, "weights", [])}
    others = [weight for weight in gate.trainable_weights if len(weight.shape) > 1 and id(weight) not in known]
    return counts.dense, [*counts.uncounted, *([gate.name] if others else [])]


def _count(step, shapes, sizes, active, own_gate=None):
    """The `LayerMacs` of a call, or `None` for a layer without MACs; `own_gate`: MACs of an FBS layer's own gate."""
    node, layer = step.node, step.node.layer
    if not node.inputs or not isinstance(layer, keras.layers.Layer):
        return None
    shape_in, shape_out = shapes[node.inputs[0]], shapes[node.output]
    channels_in, channels_out = sizes[node.inputs[0]], sizes[node.output]
    positions = math.prod(shape_out) // channels_out
    dense = _dense_macs(layer, positions, math.prod(shape_in) // channels_in)
    if dense is None:
        return None
    active_in = channels_in if step.action == steps.DENSE else active[node.inputs[0]]
    active_out = active[node.output]
    conv, gate, density = dense * active_in // channels_in, 0, None
    if isinstance(layer, FBSConv2D):
        (op,) = step.ops
        conv, gate = op.macs(positions, channels_in, channels_out, active_in, active_out, own_gate)
        density = current_density(layer)
    return LayerMacs(
        name=node.name,
        kind=type(layer).__name__,
        output_shape=shape_out,
        density=density,
        channels_in=channels_in,
        channels_out=channels_out,
        active_in=active_in,
        active_out=active_out,
        dense=dense,
        conv=conv,
        gate=gate,
        parameters=_parameters(layer),
    )


def _parameters(layer):
    """Number of weights that training learns, whether or not the layer is frozen: not averages, not bookkeeping."""
    state = []
    if isinstance(layer, keras.layers.BatchNormalization):
        state = [layer.moving_mean, layer.moving_variance]
    if isinstance(layer, FBSConv2D):
        state = [layer.density, layer.saliency_weight, layer.usage, layer.saliency]
        state += layer.norm.weights if layer.norm is not None else []
    left_out = {id(variable) for variable in state}
    weights = getattr(layer, "weights", [])
    return sum(math.prod(weight.shape) for weight in weights if id(weight) not in left_out)


def _dense_macs(layer, positions, positions_in):
    """MACs of a layer with all its channels: each weight of its kernels once for each position; else `None`."""
    if isinstance(layer, keras.layers.SeparableConv2D):
        return (math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape)) * positions
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return math.prod(layer.kernel.shape) * positions_in
    if isinstance(layer, keras.layers.Conv1D | keras.layers.Conv2D | keras.layers.DepthwiseConv2D | keras.layers.Dense):
        return math.prod(layer.kernel.shape) * positions
    return None


def _has_kernel(layer):
    return any(len(weight.shape) > 1 for weight in getattr(layer, "trainable_weights", []))


def _peak(model_graph, shapes, sizes, active):
    """Peak activation memory in bytes: the largest sum of the tensors that are alive while one layer runs."""

    def size(ref):
        channels, kept = sizes[ref], active[ref]
        values = math.prod(shapes[ref]) // channels * kept * FLOAT_BYTES
        return values + (kept * INDEX_BYTES if kept < channels else 0)

    last_use = {ref: step for step, node in enumerate(model_graph.nodes) for ref in node.inputs}
    for ref in graph.refs(model_graph.outputs):
        last_use[ref] = len(model_graph.nodes)
    alive = {ref: size(ref) for ref in graph.refs(model_graph.inputs)}
    peak = sum(alive.values())
    for step, node in enumerate(model_graph.nodes):
        ending = [ref for ref in set(node.inputs) if last_use[ref] == step]
        in_place = isinstance(node.layer, _IN_PLACE) and len(ending) == 1
        if in_place:
            alive.pop(ending[0], None)
        alive[node.output] = size(node.output)
        peak = max(peak, sum(alive.values()))
        for ref in ending:
            alive.pop(ref, None)
        if node.output not in last_use:
            alive.pop(node.output)
    return peak
