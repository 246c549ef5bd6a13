"""`fbs.conv2d` and its forms with int8 weights and with g as an operand: an FBS layer."""

import dataclasses
import typing

import keras
import numpy as np

from fbs_keras.compact import quantization
from fbs_keras.compact.calls import Call
from fbs_keras.compact.op import Op, array, as_float32, normalization, op_activation, window
from fbs_keras.graph.channelwise import is_elementwise
from fbs_keras.graph.kinds import kind
from fbs_keras.layers.fbs_conv2d import FBSConv2D

ACTION = "fbs"


@dataclasses.dataclass(frozen=True)
class Conv2DOp(Op):
    """One exported FBS convolution.

    Attributes:
        sparse_in: Whether the op takes `in_indices`, that is, whether `x` holds the active channels only.
        k: How many output channels win.
        group_size: Winners are whole groups of this many neighbouring channels.
        kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w: Integers, as in `keras.layers.Conv2D`.
        padding: `"SAME"` (TensorFlow's, asymmetric) or `"VALID"`.
        activation: `"NONE"`, `"RELU"` or `"RELU6"`.
    """

    custom_name = "FbsConv2D"
    composite_name = "fbs.conv2d"
    constant_names: typing.ClassVar[tuple[str, ...]] = ("weights", "bias", "gate_kernel", "gate_bias")
    gated: typing.ClassVar[bool] = False  # whether g is an operand
    int8: typing.ClassVar[bool] = False

    sparse_in: bool
    k: int
    group_size: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    padding: str
    activation: str

    @classmethod
    def from_layer(cls, layer, sparse_in, **others):
        """Reads the attributes off a built `FBSConv2D`.

        Args:
            layer: The layer. An activation that the op does not have becomes `"NONE"` and is to be applied after it.
            sparse_in: Whether the op gets the active channels of its input only.
            **others: Attributes that the layer does not tell.

        Returns:
            The op at the layer's present density.
        """
        return cls(
            sparse_in=sparse_in,
            k=layer.active_channels,
            group_size=layer.group_size,
            **window(layer),
            activation=op_activation(layer.activation) or "NONE",
            **others,
        )

    @property
    def operands(self):
        return ["x", *(["in_indices"] if self.sparse_in else []), *(["g"] if self.gated else []), *self.constant_names]

    def constants(self, layer, norm=None, quantize=None):
        """As `Op.constants`: what `store` makes of `fold`."""
        return self.store(fold(layer), quantize)

    @classmethod
    def store(cls, folded, quantize):
        """Stores float32 constants, as from `fold`: `weights` and `gate_kernel` as float16 for `"float16"`."""
        half = ("weights", "gate_kernel") if quantize is not None else ()
        return {k: quantization.to_float16(v, k) if k in half else v for k, v in folded.items()}

    def macs(self, positions, channels_in, channels_out, active_in, active_out, own_gate=None):
        """Counts the multiply-accumulates of an image.

        Args:
            positions: H * W of the output, before pooling.
            channels_in: All channels of the input.
            channels_out: All channels of the output.
            active_in: Those channels that the op reads.
            active_out: Those channels that it computes.
            own_gate: What a gate of the user's own costs, or `None` for the linear one. Defaults to `None`.

        Returns:
            `(convolution, gate)`: `kh kw H W n_in n_out`, and `n_in C_out + C_out H W` for the predictor and the
            scaling. Of another saliency, which is no part of the op, the predictor reads all of C_in.
        """
        convolution = self.kernel_h * self.kernel_w * positions * active_in * active_out
        predictor = (channels_in if self.gated else active_in) * channels_out
        return convolution, (predictor if own_gate is None else own_gate) + channels_out * positions


@dataclasses.dataclass(frozen=True)
class Conv2DInt8Op(Conv2DOp):
    """One exported FBS convolution with int8 weights: the attributes of `Conv2DOp`, and one more.

    Attributes:
        pool: 2 where each 2x2 outputs become the largest of them, else 1.
    """

    custom_name = "FbsConv2DInt8"
    composite_name = "fbs.conv2d_int8"
    constant_names: typing.ClassVar[tuple[str, ...]] = ("weights", "weight_scales", "bias", "gate_kernel", "gate_bias")
    int8 = True

    pool: int = 1

    @classmethod
    def store(cls, folded, quantize):
        """As of `Conv2DOp`: int8 `weights`, their `weight_scales` by output channel, and a float16 `gate_kernel`.

        Biases and the gate's bias stay float32: they are few.
        """
        weights, scales = quantization.to_int8(folded["weights"])
        rest = {name: value for name, value in folded.items() if name != "weights"}
        if "gate_kernel" in rest:
            rest["gate_kernel"] = quantization.to_float16(rest["gate_kernel"], "gate_kernel")
        return {"weights": weights, "weight_scales": scales, **rest}


@dataclasses.dataclass(frozen=True)
class GatedConv2DOp(Conv2DOp):
    """One exported FBS convolution whose g another layer predicts: the attributes of `Conv2DOp`."""

    custom_name = "FbsGatedConv2D"
    composite_name = "fbs.gated_conv2d"
    constant_names = ("weights", "bias")
    gated = True


@dataclasses.dataclass(frozen=True)
class GatedConv2DInt8Op(Conv2DInt8Op):
    """One such convolution with int8 weights: the attributes of `Conv2DInt8Op`."""

    custom_name = "FbsGatedConv2DInt8"
    composite_name = "fbs.gated_conv2d_int8"
    constant_names = ("weights", "weight_scales", "bias")
    gated = True


OPS = (Conv2DOp, Conv2DInt8Op, GatedConv2DOp, GatedConv2DInt8Op)


def predicts_gate(layer):
    """Whether an FBS layer's op predicts g itself, by the linear gate on the mean |x|; else g is an operand."""
    return layer.gate_layer is None and layer.gate_input == "mean"


def op_of(layer, sparse_in, quantize=None, pool=1):
    """The op of an FBS layer, one of `OPS`: with int8 weights for `"dynamic_int8"`, which alone may pool."""
    kinds = quantize == "dynamic_int8", not predicts_gate(layer)
    (op,) = (op for op in OPS if (op.int8, op.gated) == kinds)
    return op.from_layer(layer, sparse_in, **({"pool": pool} if op.int8 else {}))


def fold(layer):
    """Folds an FBS layer's normalisation away: `norm(conv(x)) + beta = conv(x, weights) + bias`.

    Args:
        layer: A built `FBSConv2D`.

    Returns:
        The op's constants by name, float32 arrays: `weights` `[C_in, KH * KW, C_out]` with `1 / sqrt(var + eps)`
        folded in, `bias` `[C_out]` = `beta - mean / sqrt(var + eps)`, and where the op predicts g, `gate_kernel`
        `[C_in, C_out]` and `gate_bias` `[C_out]`.
    """
    weights, bias = array(layer.kernel), np.zeros(layer.filters)
    if layer.use_bias:
        bias = array(layer.bias)
    if layer.norm is not None:
        scale, shift = normalization(layer.norm)
        weights, bias = weights * scale, bias + shift
    kernel_h, kernel_w, channels, filters = weights.shape
    weights = weights.reshape(kernel_h * kernel_w, channels, filters).transpose(1, 0, 2)
    folded = {"weights": weights, "bias": bias}
    if predicts_gate(layer):
        folded |= {"gate_kernel": array(layer.gate_kernel), "gate_bias": array(layer.gate_bias)}
    return as_float32(folded)


def rule(call: Call) -> typing.Any:
    """An FBS layer; in int8 with the 2x2 max pooling after it.

    Its y is compact unless all channels win, or its activation may mix channels; its mask is not computed otherwise.
    """
    layer = call.layer
    if not isinstance(layer, FBSConv2D):
        return None
    outputs = call.outputs
    if layer.active_channels < layer.filters:
        chosen = dataclasses.replace(outputs[0], active=layer.active_channels, winners=call.winners)
        outputs = [chosen if call.aligned or is_elementwise(layer.activation) else outputs[0], chosen][: len(outputs)]
    pooling = _pooling(call)
    step = call.step(
        ACTION,
        *outputs,
        ops=(op_of(layer, call.inputs[0].active is not None, call.quantize, 1 if pooling is None else 2),),
        activation=layer.activation if op_activation(layer.activation) is None else None,
        followers=() if pooling is None else (pooling,),
        # The runtime gives the delegate no memory for an op's outputs that nobody reads, the image where only the mask
        # is read.
        fuse=bool(call.flat.consumers(call.node.output)) or call.flat.is_output(call.node.output),
        # The gate alone does: the convolution reads the compact tensor.
        reason="its gate reads all channels" if layer.gate_input == "x" and call.compact else "",
    )
    if pooling is None:
        return step
    y, *mask = step.outputs
    return dataclasses.replace(step, outputs=[dataclasses.replace(y, shape=call.tensors[pooling.output].shape), *mask])


def _pooling(call):
    """The 2x2 max pooling that alone reads an FBS layer in int8, or `None`.

    VGG-16 then takes 14.1 instead of 15.1 ms, since the layer need not write a map four times as large.
    """
    reader = call.only_reader(call.node)
    pools = call.quantize == "dynamic_int8" and op_activation(call.layer.activation) is not None
    return reader if pools and reader is not None and _halves(reader.layer, call.outputs[0].shape) else None


def _halves(layer, shape):
    """Whether a layer takes the maximum of 2x2 pixels each, none of which lies outside of an image of this shape."""
    if kind(layer) is not keras.layers.MaxPooling2D or (layer.pool_size, layer.strides) != ((2, 2), (2, 2)):
        return False
    height, width = shape[1:3]
    inside = layer.padding == "valid" or height % 2 == width % 2 == 0
    return inside and min(height, width) > 1 and layer.data_format == "channels_last"
