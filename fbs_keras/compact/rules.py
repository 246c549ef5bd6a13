"""The rules by which each layer of a model is exported: where compact tensors stay compact, and if not, why.

A rule answers with a `Step`; with a `Refusal` where the layer is of its kind but does not fit; with `None` otherwise.
Those of layers that become ops of ours stand beside these, in `ops`.
"""

import dataclasses
import math

import keras

from fbs_keras.compact.calls import Call, Refusal, is_operation
from fbs_keras.compact.ops import MODULES, conv2d, depthwise_conv2d
from fbs_keras.compact.steps import CHANNELWISE, CONCATENATE, DENSE, FUSED, NOTHING, ROWS, SCALE, SEPARABLE, Step
from fbs_keras.graph.channelwise import is_channelwise, passes_channels
from fbs_keras.graph.kinds import Changed, kind
from fbs_keras.graph.properties import properties, types
from fbs_keras.layers.fbs_conv2d import FBSConv2D
from fbs_keras.layers.suppress import Suppress

_MERGES = tuple(layer.__name__ for layer in types("merge"))


def decide(call: Call, follows: bool, compact: bool) -> Step:
    """Decides on a call.

    Args:
        call: The `Call`.
        follows: Whether it is part of the step before.
        compact: Whether it may read and write compact tensors.

    Returns:
        Its `Step`.
    """
    if follows:
        return call.step(FUSED, call.inputs[0])
    refusals = []
    # An FBS layer reads nothing but its image, however it is called.
    for rule in RULES if compact and (call.plain or isinstance(call.layer, FBSConv2D)) else ():
        answer = rule(call)
        if isinstance(answer, Step):
            return answer
        if answer is not None:
            refusals.append(answer)
    return _dense(call, refusals)


def _dense(call, refusals):
    """What always works: dense tensors."""
    reason = ""
    if call.compact and not call.plain:
        reason = "called with constants too"
    elif call.compact:
        unknown = Refusal(f"{type(call.layer).__name__} is not known to treat channels apart")
        reason = [*refusals, unknown][0].reason
    expanded = tuple(i for i, tensor in enumerate(call.inputs) if tensor.active is not None)
    action = conv2d.ACTION if isinstance(call.layer, FBSConv2D) else DENSE
    return call.step(action, expanded=expanded, reason=reason)


def _suppress(call):
    if kind(call.layer) is not Suppress:
        return None
    x, mask = call.inputs
    source = [node.layer for node in call.flat.nodes if node.output == call.node.inputs[1]._replace(tensor=0)]
    all_win = mask.active is None and source and isinstance(source[0], FBSConv2D)  # at density 1
    if all_win or (x.active is not None and x.winners == mask.winners):
        return call.step(NOTHING, x)
    if x.active is None:
        return Refusal("Suppress reads a dense tensor")
    return Refusal("the mask of Suppress is of another FBS layer than what it reads")


def _all_dense(call):
    return None if call.compact or isinstance(call.layer, FBSConv2D) else call.step(DENSE)


def _changed(call):
    name = type(call.layer).__name__
    return Refusal(f"{name} has a method that has been replaced") if kind(call.layer) is Changed else None


def _pad(call):
    if kind(call.layer) is not keras.layers.ZeroPadding2D or not call.pads(call.node, call.only_reader(call.node)):
        return None
    return call.step(FUSED, call.inputs[0])


def _separable(call):
    layer = call.layer
    if kind(layer) is not keras.layers.SeparableConv2D:
        return None
    if layer.depth_multiplier != 1:
        return Refusal(f"SeparableConv2D has depth_multiplier {layer.depth_multiplier}")
    return call.step(SEPARABLE, ops=(depthwise_conv2d.DepthwiseConv2DOp.from_layer(layer),))


def _channelwise(call):
    layer = call.layer
    if call.is_channelwise(call.node):
        norm = layer if kind(layer) is keras.layers.BatchNormalization else None
        return call.step(CHANNELWISE, call.inputs[0], norm=norm)
    name = type(layer).__name__
    if properties(layer).role == "normalize" or getattr(layer, "activation", None) is keras.activations.softmax:
        return Refusal(f"{name} mixes channels")
    if kind(layer) is keras.layers.Flatten:
        return Refusal("Flatten mixes pixels and channels")
    if len(call.inputs) == 1 and is_channelwise(layer, call.inputs[0].shape):
        return Refusal(f"{name} moves zero, and no Suppress with the same winners comes after it")
    return None


def _merge(call):
    fits = call.alike and is_operation(call.layer, *_MERGES) and len(call.inputs) > 1
    return call.step(CHANNELWISE, call.inputs[0]) if fits else None


def _scale(call):
    """A compact image by one number for each channel, which is dense or of other winners."""
    if not is_operation(call.layer, "Multiply") or len(call.inputs) != 2 or not _all_float32(call.inputs):
        return None
    for image, factors in ((0, 1), (1, 0)):
        x, scale = call.inputs[image], call.inputs[factors]
        fits = len(scale.shape) == len(x.shape) and math.prod(scale.shape[1:-1]) == 1
        if x.active is not None and fits and (x.shape, scale.shape[-1]) == (call.outputs[0].shape, x.shape[-1]):
            return call.step(SCALE, x, expanded=(factors,))
    return None


def _concatenate(call):
    """Compact where every reader can use that: it then reads fewer channels.

    On 28x28x256 before an FBS layer of 128 filters at density 0.5, 3x3: 210 us where expanding takes 415; with
    half of the channels dense 324 and 462, with 7/8 and more of them dense the same.
    """
    output = call.outputs[0]
    if _joins_channels(call.layer, output) and _all_float32(call.inputs):
        readers = call.flat.consumers(call.node.output)
        ends = call.flat.is_output(call.node.output)
        if not ends and all(_reads_compact(node.layer, output) for node in readers):
            active = sum(tensor.active or tensor.shape[-1] for tensor in call.inputs)
            return call.step(CONCATENATE, dataclasses.replace(output, active=active, winners=call.winners))
    if type(call.layer).__name__ != "Concatenate":
        return None
    return Refusal("what reads the concatenation needs it dense, or it is not along the channels")


def _all_float32(tensors):
    return all(tensor.dtype == "float32" for tensor in tensors)


def _joins_channels(layer, output):
    return is_operation(layer, "Concatenate") and layer.axis % len(output.shape) == len(output.shape) - 1


def _reads_compact(layer, tensor):
    return (
        isinstance(layer, FBSConv2D)
        or passes_channels(layer, tensor.shape)
        or _is_matrix(layer)
        or _joins_channels(layer, tensor)
        or is_operation(layer, "Add", "Multiply")
    )


def _rows(call):
    # A single pixel is expanded instead: 31 us for 256 of 512 channels to 1000, where gathering the rows takes 61.
    # So is what is flattened: 0.87 ms for 7x7x512, half of it active, to 256, against 4.99.
    layer, name = call.layer, type(call.layer).__name__
    single = math.prod(call.inputs[0].shape[1:-1]) == 1
    if len(call.inputs) == 1 and (call.aligned or not single) and _is_matrix(layer):
        return call.step(ROWS)
    if kind(layer) in (keras.layers.Dense, keras.layers.Conv2D) and single:
        return Refusal(f"of a single pixel, faster than to gather the rows of {name}")
    if isinstance(layer, keras.layers.Conv2D | keras.layers.Conv2DTranspose):
        return Refusal(f"read by {name} {'x'.join(map(str, layer.kernel_size))}, which is not an FBS layer")
    return None


def _is_matrix(layer):
    """Whether a layer is one matrix product over the channels."""
    if getattr(layer, "quantization_mode", None) is not None:
        return False
    if kind(layer) is keras.layers.Dense:
        return True
    return (
        kind(layer) is keras.layers.Conv2D
        and (layer.kernel_size, layer.strides, layer.groups) == ((1, 1), (1, 1), 1)
        and layer.data_format == "channels_last"
    )


def _several(call):
    name = type(call.layer).__name__
    return Refusal(f"{name} of tensors of other shapes or winners") if len(call.inputs) > 1 else None


# In the order in which they are tried. Those after `_all_dense` see calls that read a compact tensor, or FBS layers.
RULES = (
    _suppress,
    _all_dense,
    _changed,
    _pad,
    *(module.rule for module in MODULES),
    _separable,
    _channelwise,
    _merge,
    _scale,
    _concatenate,
    _rows,
    _several,
)
