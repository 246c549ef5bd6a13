"""`fbs.depthwise_conv2d`: a depthwise convolution of a compact tensor."""

import dataclasses
import typing

import keras
import numpy as np

from fbs_keras.compact import quantization
from fbs_keras.compact.calls import Call, Refusal, relu
from fbs_keras.compact.op import Op, array, as_float32, normalization, op_activation, window
from fbs_keras.graph.kinds import kind

ACTION = "depthwise"


@dataclasses.dataclass(frozen=True)
class DepthwiseConv2DOp(Op):
    """One exported depthwise convolution of a compact tensor.

    Attributes:
        kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w: Integers, as in `keras.layers.DepthwiseConv2D`.
        padding: `"SAME"` (TensorFlow's, asymmetric) or `"VALID"`.
        activation: `"NONE"`, `"RELU"` or `"RELU6"`.
    """

    custom_name = "FbsDepthwiseConv2D"
    composite_name = "fbs.depthwise_conv2d"
    constant_names = ("weights", "bias")

    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    padding: str
    activation: str

    @classmethod
    def from_layer(cls, layer, activation="NONE", padding=None):
        """Reads the attributes off a built `DepthwiseConv2D` or `SeparableConv2D`.

        Args:
            layer: The layer, of `depth_multiplier` 1.
            activation: `"NONE"`, `"RELU"` or `"RELU6"`: that of the layer, or of what follows it and its normalisation.
                Defaults to `"NONE"`.
            padding: `"SAME"` or `"VALID"`; `None` for the layer's own. Defaults to `None`.

        Returns:
            The op.
        """
        op = cls(**window(layer), activation=activation)
        return op if padding is None else dataclasses.replace(op, padding=padding)

    @property
    def operands(self):
        return ["x", "indices", *self.constant_names]

    def constants(self, layer, norm=None, quantize=None):
        """As `Op.constants`: `weights` `[C, KH * KW]`, float16 unless `quantize` is `None`, and `bias` `[C]`.

        The normalisation is folded away: `norm(dw(x)) = dw(x, weights) + bias`. Every weight is read once for each of
        few pixels, and its sums are of nine products: int8 would save little time and cost accuracy.
        """
        separable = kind(layer) is keras.layers.SeparableConv2D  # the bias is for its pointwise convolution
        kernel = array(layer.depthwise_kernel if separable else layer.kernel)
        if kernel.shape[3] != 1:
            raise ValueError(
                f"depth_multiplier of {layer.name} must be 1, so that channels stay what they are, "
                f"got {kernel.shape[3]}"
            )
        channels = kernel.shape[2]
        weights, bias = kernel.reshape(-1, channels).T, np.zeros(channels)
        if layer.use_bias and not separable:
            bias = array(layer.bias)
        if norm is not None:
            scale, shift = normalization(norm)
            weights, bias = weights * scale[:, None], bias * scale + shift
        folded = as_float32({"weights": weights, "bias": bias})
        if quantize is not None:
            folded["weights"] = quantization.to_float16(folded["weights"], "weights")
        return folded


OPS = (DepthwiseConv2DOp,)


def rule(call: Call) -> typing.Any:
    """A depthwise convolution, with the batch normalisation and the ReLU after it."""
    layer = call.layer
    if kind(layer) is keras.layers.DepthwiseConv2D and layer.depth_multiplier != 1:
        return Refusal(f"DepthwiseConv2D has depth_multiplier {layer.depth_multiplier}")
    if not call.is_depthwise(call.node):
        return None
    norm, followers, activation = None, [], op_activation(layer.activation) or "NONE"
    if layer.activation is keras.activations.linear:
        reader = call.only_reader(call.node)
        is_norm = reader is not None and kind(reader.layer) is keras.layers.BatchNormalization
        if is_norm and reader.output in call.suppressed:
            norm = reader.layer
            followers.append(reader)
            reader = call.only_reader(reader)
        if reader is not None and relu(reader.layer) != "NONE":
            activation = relu(reader.layer)
            followers.append(reader)
    return call.step(
        ACTION,
        call.inputs[0],
        ops=(DepthwiseConv2DOp.from_layer(layer, activation, call.padding),),
        norm=norm,
        activation=layer.activation if op_activation(layer.activation) is None else None,
        followers=tuple(followers),
    )
