"""What all exported ops have in common: docs/design.md ("The ops") describes them, `ops` has a module for each."""

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


class Op:
    """One exported op; a subclass is a dataclass of its attributes, integers and strings.

    How it is computed in built-in ops is registered with `fbs_keras.export.lowering`, which needs TensorFlow.

    Attributes:
        custom_name, composite_name: What the op is called in its two forms.
        constant_names: The names of its last inputs, which are constant.
        reads: How many tensors it reads, compact ones with their indices; defaults to 1.
    """

    custom_name: typing.ClassVar[str]
    composite_name: typing.ClassVar[str]
    constant_names: typing.ClassVar[tuple[str, ...]] = ()
    reads: int = 1

    @property
    def operands(self):
        """The names of its inputs, in order."""
        raise NotImplementedError

    def constants(self, layer, norm=None, quantize=None):
        """Computes its constants as they are stored.

        Args:
            layer: The built layer that the op stands for.
            norm: The batch normalisation after it that the op takes in, or `None`. Defaults to `None`.
            quantize: One of `quantization.QUANTIZATIONS`. Defaults to `None`, float32.

        Returns:
            NumPy arrays by name, in the order of `constant_names`.

        Raises:
            ValueError: If `quantize` cannot hold them.
        """
        return {}

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


def window(layer):
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


def normalization(layer):
    """Computes what a batch normalisation layer applies at inference, `scale * x + shift`.

    Args:
        layer: A built `BatchNormalization`.

    Returns:
        `(scale, shift)`, float64 arrays `[C]`.
    """
    scale = 1 / np.sqrt(array(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        scale = scale * array(layer.gamma)
    shift = -array(layer.moving_mean) * scale
    return scale, shift + array(layer.beta) if layer.center else shift


def array(variable):
    """A variable's values, in float64, so that what is folded is rounded once."""
    return np.asarray(variable.numpy(), "float64")


def as_float32(constants):
    """Constants by name as the ops store them: contiguous, float32."""
    return {name: np.ascontiguousarray(value, "float32") for name, value in constants.items()}


def _literal(value):
    return f'"{value}"' if isinstance(value, str) else str(value)
