"""Gates of a user's own: what `FBSConv2D(gate=...)` takes, and what it asks of it."""

import keras

from fbs_keras.layers import gating

# What a gate may read: a saliency of each input channel, or the layer's input.
GATE_INPUTS = (*gating.SALIENCIES, "x")


def check_gate(gate, gate_input):
    """Returns the argument `gate` of an FBS layer as a layer or `None`, or raises.

    Args:
        gate: A Keras layer, or what `keras.saving.serialize_keras_object` makes of it, or `None`.
        gate_input: One of `GATE_INPUTS`.

    Returns:
        A Keras layer, or `None` for the linear gate.

    Raises:
        TypeError: If `gate` is anything else.
        ValueError: If `gate_input` is, or is not for the linear gate.
    """
    if isinstance(gate, dict):
        gate = keras.saving.deserialize_keras_object(gate)
    if gate is not None and not isinstance(gate, keras.layers.Layer):
        raise TypeError(f"gate must be a Keras layer or model, or None for s @ phi + rho, got {gate!r}")
    if gate_input not in GATE_INPUTS:
        raise ValueError(f"gate_input must be one of {', '.join(map(repr, GATE_INPUTS))}, got {gate_input!r}")
    if gate is None and gate_input == "x":
        raise ValueError("gate_input='x' needs a gate that reads images, got gate=None, which reads saliencies")
    return gate


def check_no_rules(layer):
    """Raises where an FBS layer with a gate of its own has a regularizer or constraint for phi or rho."""
    for name in (f"gate_{weight}_{rule}" for weight in ("kernel", "bias") for rule in ("regularizer", "constraint")):
        if getattr(layer, name) is not None:
            raise ValueError(f"{name} is for phi or rho, which a layer with a gate lacks; give it to the gate's layers")


def build_gate(layer, shape, dtype):
    """Builds the gate of an FBS layer, and raises unless it makes g of what it is to read.

    Args:
        layer: The FBS layer, with a `gate_layer`.
        shape: The shape of what the gate reads, `None` for the batch.
        dtype: Its dtype.

    Raises:
        ValueError: If the gate cannot read it, or returns anything but `(batch, filters)` in float32 or better.
    """
    gate = layer.gate_layer
    place = f"the gate of FBSConv2D {layer.name!r} ({type(gate).__name__})"
    try:  # a call builds all layers that the gate is made of, which its own build() may not
        g = gate(keras.KerasTensor(shape, dtype))
    except Exception as error:  # whatever a layer raises for a shape that it was not made for
        remedy = "" if layer.gate_input == "x" else "; with gate_input='x' it would read the layer's input"
        raise ValueError(
            f"{place} cannot read gate_input={layer.gate_input!r} of shape {shape}{remedy}: "
            + str(error).strip().partition("\n")[0]
        ) from error
    expected, got = (None, layer.filters), getattr(g, "shape", type(g).__name__)
    if got != expected:
        raise ValueError(f"{place} must return g of shape {expected}, a number for each filter, got {got}")
    if keras.backend.standardize_dtype(g.dtype) not in ("float32", "float64"):
        raise ValueError(
            f"{place} must compute in float32, since half precision would decide between channels by rounding, got "
            f"{g.dtype}; make its layers with dtype='float32'"
        )
