"""The exported ops: their names, attributes and constants, as in docs/design.md ("The ops")."""

import dataclasses
import typing

import keras
import numpy as np

VERSION = 1
CALL = "call"

# The activations that the ops themselves apply. A ReLU layer with max_value=6 arrives as relu6.
ACTIVATIONS = {
    keras.activations.linear: "NONE",
    keras.activations.relu: "RELU",
    keras.activations.relu6: "RELU6",
}


def op_activation(activation):
    """Which of `ACTIVATIONS` a function is that the ops themselves apply, `"NONE"` for linear; `None` for another."""
    return next((name for known, name in ACTIVATIONS.items() if known is activation), None)


class Attributes:
    """What the attributes of all exported ops have in common; each is a dataclass of integers and strings.

    Attributes:
        custom_name, composite_name: What the op is called in its two forms.
        constants: The names of its last inputs, which are constant.
    """

    custom_name: typing.ClassVar[str]
    composite_name: typing.ClassVar[str]
    constants: typing.ClassVar[tuple[str, ...]] = ()

    @property
    def operands(self):
        """The names of its inputs, in order."""
        raise NotImplementedError

    def to_dict(self):
        """The flexbuffer map of the op: integers and strings; no booleans, of which the converter writes True as -1."""
        values = {name: value if isinstance(value, str) else int(value) for name, value in vars(self).items()}
        return {"version": VERSION, **values}

    def implements(self, call):
        """The `experimental_implements` value that makes the converter write a function's calls as one custom op.

        Args:
            call: An integer to find the op by in the file: its attribute `CALL` until `composite.restore_ops` has
                taken it off.
        """
        attributes = " ".join(
            f'attr {{ key: "{key}" value {{ {"s" if isinstance(value, str) else "i"}: {_literal(value)} }} }}'
            for key, value in {CALL: call, **self.to_dict()}.items()
        )
        return f'name: "{self.custom_name}" attr {{ key: "tfl_fusable_op" value {{ b: true }} }} {attributes}'


@dataclasses.dataclass(frozen=True)
class Conv2DAttributes(Attributes):
    """The attributes of one exported FBS convolution.

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
    constants: typing.ClassVar[tuple[str, ...]] = ("weights", "bias", "gate_kernel", "gate_bias")
    gated: typing.ClassVar[bool] = False  # whether g is an operand

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
            The `Attributes` at the layer's present density.
        """
        return cls(
            sparse_in=sparse_in,
            k=layer.active_channels,
            group_size=layer.group_size,
            **_window(layer),
            activation=op_activation(layer.activation) or "NONE",
            **others,
        )

    @property
    def operands(self):
        return ["x", *(["in_indices"] if self.sparse_in else []), *(["g"] if self.gated else []), *self.constants]


@dataclasses.dataclass(frozen=True)
class Conv2DInt8Attributes(Conv2DAttributes):
    """The attributes of one exported FBS convolution with int8 weights: those of `Conv2DAttributes`, and one more.

    Attributes:
        pool: 2 where each 2x2 outputs become the largest of them, else 1.
    """

    custom_name = "FbsConv2DInt8"
    composite_name = "fbs.conv2d_int8"
    constants: typing.ClassVar[tuple[str, ...]] = ("weights", "weight_scales", "bias", "gate_kernel", "gate_bias")

    pool: int = 1


@dataclasses.dataclass(frozen=True)
class GatedConv2DAttributes(Conv2DAttributes):
    """The attributes of an FBS convolution whose g another layer predicts: those of `Conv2DAttributes`."""

    custom_name = "FbsGatedConv2D"
    composite_name = "fbs.gated_conv2d"
    constants = ("weights", "bias")
    gated = True


@dataclasses.dataclass(frozen=True)
class GatedConv2DInt8Attributes(Conv2DInt8Attributes):
    """The attributes of such a convolution with int8 weights: those of `Conv2DInt8Attributes`."""

    custom_name = "FbsGatedConv2DInt8"
    composite_name = "fbs.gated_conv2d_int8"
    constants = ("weights", "weight_scales", "bias")
    gated = True


@dataclasses.dataclass(frozen=True)
class AddAttributes(Attributes):
    """The attributes of one exported sum of dense and compact tensors.

    Attributes:
        addends: How many tensors are added, at most `MOST_ADDENDS`.
        compact: Bit i tells that tensor i is compact, that is, that its indices follow it.
        channels: How many channels the sum has.
        activation: `"NONE"`, `"RELU"` or `"RELU6"`.
    """

    custom_name = "FbsAdd"
    composite_name = "fbs.add"

    addends: int
    compact: int
    channels: int
    activation: str

    def is_compact(self, addend):
        return bool(self.compact >> addend & 1)

    @property
    def operands(self):
        pairs = ([f"x{i}", f"indices{i}"] if self.is_compact(i) else [f"x{i}"] for i in range(self.addends))
        return [name for pair in pairs for name in pair]


@dataclasses.dataclass(frozen=True)
class DepthwiseConv2DAttributes(Attributes):
    """The attributes of one exported depthwise convolution of a compact tensor.

    Attributes:
        kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w: Integers, as in `keras.layers.DepthwiseConv2D`.
        padding: `"SAME"` (TensorFlow's, asymmetric) or `"VALID"`.
        activation: `"NONE"`, `"RELU"` or `"RELU6"`.
    """

    custom_name = "FbsDepthwiseConv2D"
    composite_name = "fbs.depthwise_conv2d"
    constants = ("weights", "bias")

    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    padding: str
    activation: str

    @classmethod
    def from_layer(cls, layer, activation="NONE"):
        """Reads the attributes off a built `DepthwiseConv2D`.

        Args:
            layer: The layer, of `depth_multiplier` 1.
            activation: `"NONE"`, `"RELU"` or `"RELU6"`: that of the layer, or of what follows it and its normalisation.
                Defaults to `"NONE"`.

        Returns:
            The `Attributes`.
        """
        return cls(**_window(layer), activation=activation)

    @property
    def operands(self):
        return ["x", "indices", *self.constants]


CONVOLUTIONS = (Conv2DAttributes, Conv2DInt8Attributes, GatedConv2DAttributes, GatedConv2DInt8Attributes)
OPS = {op.custom_name: op for op in (*CONVOLUTIONS, AddAttributes, DepthwiseConv2DAttributes)}
MOST_ADDENDS = 8


def _window(layer):
    """The attributes that all convolutions have."""
    kernel_h, kernel_w = layer.kernel_size
    stride_h, stride_w = layer.strides
    dilation_h, dilation_w = layer.dilation_rate
    return {
        "kernel_h": kernel_h,
        "kernel_w": kernel_w,
        "stride_h": stride_h,
        "stride_w": stride_w,
        "dilation_h": dilation_h,
        "dilation_w": dilation_w,
        "padding": layer.padding.upper(),
    }


def _literal(value):
    return f'"{value}"' if isinstance(value, str) else str(value)


def predicts_gate(layer):
    """Whether an FBS layer's op predicts g itself, by the linear gate on the mean |x|; else g is an operand."""
    return layer.gate_layer is None and layer.gate_input == "mean"


def constants(layer):
    """Folds an FBS layer's normalisation away: `norm(conv(x)) + beta = conv(x, weights) + bias`.

    Args:
        layer: A built `FBSConv2D`.

    Returns:
        The op's constants by name, float32 arrays: `weights` `[C_in, KH * KW, C_out]` with `1 / sqrt(var + eps)`
        folded in, `bias` `[C_out]` = `beta - mean / sqrt(var + eps)`, and where the op predicts g, `gate_kernel`
        `[C_in, C_out]` and `gate_bias` `[C_out]`.
    """
    weights, bias = _array(layer.kernel), np.zeros(layer.filters)
    if layer.use_bias:
        bias = _array(layer.bias)
    if layer.norm is not None:
        scale, shift = normalization(layer.norm)
        weights, bias = weights * scale, bias + shift
    kernel_h, kernel_w, channels, filters = weights.shape
    weights = weights.reshape(kernel_h * kernel_w, channels, filters).transpose(1, 0, 2)
    folded = {"weights": weights, "bias": bias}
    if predicts_gate(layer):
        folded |= {"gate_kernel": _array(layer.gate_kernel), "gate_bias": _array(layer.gate_bias)}
    return {name: np.ascontiguousarray(value, "float32") for name, value in folded.items()}


def depthwise_constants(layer, norm=None):
    """Folds the normalisation after a depthwise convolution away: `norm(dw(x)) = dw(x, weights) + bias`.

    Args:
        layer: A built `DepthwiseConv2D` of `depth_multiplier` 1.
        norm: A built `BatchNormalization` of the last axis that follows it, or `None`. Defaults to `None`.

    Returns:
        The op's constants by name, float32 arrays: `weights` `[C, KH * KW]` and `bias` `[C]`.

    Raises:
        ValueError: If the layer's `depth_multiplier` is not 1.
    """
    kernel = _array(layer.kernel)
    if kernel.shape[3] != 1:
        raise ValueError(
            f"depth_multiplier of {layer.name} must be 1, so that channels stay what they are, got {kernel.shape[3]}"
        )
    channels = kernel.shape[2]
    weights, bias = kernel.reshape(-1, channels).T, np.zeros(channels)
    if layer.use_bias:
        bias = _array(layer.bias)
    if norm is not None:
        scale, shift = normalization(norm)
        weights, bias = weights * scale[:, None], bias * scale + shift
    folded = {"weights": weights, "bias": bias}
    return {name: np.ascontiguousarray(value, "float32") for name, value in folded.items()}


def normalization(layer):
    """Computes what a batch normalisation layer applies at inference, `scale * x + shift`.

    Args:
        layer: A built `BatchNormalization`.

    Returns:
        `(scale, shift)`, float64 arrays `[C]`.
    """
    scale = 1 / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        scale = scale * _array(layer.gamma)
    shift = -_array(layer.moving_mean) * scale
    return scale, shift + _array(layer.beta) if layer.center else shift


def _array(variable):
    return np.asarray(variable.numpy(), "float64")
