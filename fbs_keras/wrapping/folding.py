"""What an FBS layer takes over from a convolution and its batch norm: the weights, and all that hangs on them."""

import dataclasses

import keras
import numpy as np

from fbs_keras.graph.arrays import to_numpy

# A gate starts no lower than this where beta is larger, so that beta / rho stays near beta ...
SMALLEST_GATE = 1e-3
# ... nor, for a gamma of zero, than this: gradients reach it, and it changes the output by less than rounding does.
SMALLEST_GAMMA = 1e-8
SMALLEST_GAMMA_FLOAT16 = 1e-7  # which has no smaller numbers
# The share of its size that a filter keeps at least, where the gate is larger than gamma.
SMALLEST_FILTER = 1e-3

# Rules that say the same of a weight and of its negative, by exact type: a subclass may do something else.
_EVEN = tuple(getattr(keras.regularizers, name) for name in ("L1", "L2", "L1L2")) + tuple(
    getattr(keras.constraints, name) for name in ("MaxNorm", "MinMaxNorm", "UnitNorm")
)


@dataclasses.dataclass(frozen=True)
class Folding:
    """How a convolution and the batch norm after it become one FBS layer.

    Attributes:
        rho: What its gates start as, `[C]`.
        r: What each of the convolution's filters is multiplied by, `[C]`.
        arguments: Arguments of the FBS layer: regularizers, constraints, and what is trained.
        notes: What the FBS layer cannot do as the layers did, a tuple of strings to report.
        reason: Why the convolution is better left alone, or `""`.
    """

    rho: np.ndarray
    r: np.ndarray
    arguments: dict
    notes: tuple
    reason: str


def is_separable(layer):
    """Whether a convolution is two, a depthwise and a pointwise one, the second of which is gated."""
    return type(layer) is keras.layers.SeparableConv2D


def gated_kernel(conv):
    """The variable whose filters are gated."""
    return conv.pointwise_kernel if is_separable(conv) else conv.kernel


def fold(conv, norm, init):
    """Finds how a convolution becomes an FBS layer that computes the same at density 1.

    With r = gamma / rho,

        gamma * (conv + b - mean) / std + beta = rho * ((r * conv - r * (mean - b)) / std + beta / rho)

    and rho = |gamma|, r = +-1. Where gamma is so small that beta / rho would be huge, rho is larger and |r| smaller.
    Without a norm, rho is the relative size of the filter, and r = 1 / rho.

    Args:
        conv: A built `Conv2D` or `SeparableConv2D`.
        norm: The `BatchNormalization` after it, or `None`.
        init: `"preserve"` or `"paper"`, as in `fbs_keras.wrap`.

    Returns:
        A `Folding`.
    """
    kernel, bias = gated_kernel(conv), conv.bias if conv.use_bias else None
    count = conv.filters
    notes: list[str] = []
    reasons: list[str] = []
    if norm is None:
        gamma, beta = None, bias
        rho, rules = _filter_sizes(kernel), [variable for variable in (kernel, bias) if variable is not None]
        rules = [(variable, kind) for variable in rules for kind in ("regularizer", "constraint")]
        held = [(variable, kind) for variable, kind in rules if not _holds(_rule(variable, kind), 1 / rho)]
        if held and init == "preserve":
            rho = np.ones(count)
            notes.append(f"its gates start equal, since its {_names(held)} {_are(held)} for filters of their own size")
        r = 1 / rho
    else:
        gamma, beta = (norm.gamma if norm.scale else None), (norm.beta if norm.center else None)
        factors, shifts = array(gamma, 1.0, count), array(beta, 0.0, count)
        smallest = SMALLEST_GAMMA_FLOAT16 if conv.variable_dtype == "float16" else SMALLEST_GAMMA
        size = np.maximum(np.abs(factors), smallest)
        rho = np.maximum(size, np.minimum(SMALLEST_GATE, np.abs(shifts)))
        r = np.where(factors < 0, -1, 1) * np.maximum(size / rho, SMALLEST_FILTER)
        if bias is not None:
            lost = [kind for kind in ("regularizer", "constraint") if _rule(bias, kind) is not None]
            notes += [f"without {conv.name}'s bias_{kind}: its bias goes into the norm's mean" for kind in lost]
        if getattr(norm, "synchronized", False):
            notes.append(f"each device has batch statistics of its own, which {norm.name} shared")
    if init == "paper":
        rho = r = np.ones(count)
    arguments = _training(conv, norm, kernel, bias, gamma, beta)
    notes += _frozen_notes(arguments)
    gates = np.full(count, np.nan)  # what gamma was multiplied by to become a gate
    if gamma is not None:
        gates = np.where(np.abs(rho - np.abs(factors)) < 1e-5, np.where(factors < 0, -1, 1), np.nan)
    own_kernel = "pointwise" if is_separable(conv) else "kernel"
    for name, own, variable, scale, what in (
        ("kernel", own_kernel, kernel, r, "filters"),
        ("gate_bias", "gamma", gamma, gates, "gates, which take gamma's place,"),
        ("bias", "bias" if norm is None else "beta", beta, 1 / rho, "shifts"),
    ):
        regularizer, constraint = _rule(variable, "regularizer"), _rule(variable, "constraint")
        if not _holds(constraint, scale):
            reasons.append(
                f"its {own}_constraint {_name(constraint)} would not hold for {what} that wrap turns or scales; "
                f"remove it from the layer and from its weight first"
            )
        if not _holds(regularizer, scale):
            # A bias divided by a small gate may be so large that its penalty would outweigh the loss.
            dropped = name == "bias"
            change = "dropped, since it would see beta / gate" if dropped else f"sees {what} turned or scaled"
            notes.append(f"its {own}_regularizer {_name(regularizer)} {'is ' if dropped else ''}{change}")
            regularizer = None if dropped else regularizer
        arguments[f"{name}_regularizer"], arguments[f"{name}_constraint"] = regularizer, constraint
    return Folding(rho, r, arguments, tuple(notes), next(iter(reasons), ""))


def folded_weights(conv, norm, folding):
    """Tells the weights of the FBS layer that a convolution and its batch norm become.

    Args:
        conv: As in `fold`.
        norm: As in `fold`.
        folding: What it returned.

    Returns:
        `{name: function that computes it}`: `kernel`, `gate_bias`, `bias`; with a norm also `moving_mean` and
        `moving_variance`. Of a large model no two kernels need be there at once.
    """
    rho, r, count = folding.rho, folding.r, conv.filters

    def shift():
        return array(conv.bias if conv.use_bias else None, 0.0, count)

    weights = {"kernel": lambda: _scaled(gated_kernel(conv), r), "gate_bias": lambda: rho}
    if norm is None:
        return {**weights, "bias": lambda: shift() / rho}
    return {
        **weights,
        "bias": lambda: array(norm.beta if norm.center else None, 0.0, count) / rho,
        "moving_mean": lambda: r * (array(norm.moving_mean) - shift()),
        "moving_variance": lambda: array(norm.moving_variance),
    }


def array(variable, default=0.0, size=0):
    """A variable's value in double precision, or an array of `size` defaults instead of `None`."""
    if variable is None:
        return np.full(size, default)
    return to_numpy(variable, "float64")


def _scaled(kernel, r):
    """A kernel with its filters multiplied by `r`: in double precision, which takes long, only where that rounds."""
    if np.all(np.abs(r) == 1):
        return keras.ops.stop_gradient(keras.ops.multiply(kernel, keras.ops.convert_to_tensor(r, kernel.dtype)))
    return array(kernel) * r


def _filter_sizes(kernel):
    """The size of each filter relative to their mean: with no gamma to rank the channels by, this does."""
    size = np.sqrt(np.sum(array(kernel) ** 2, axis=(0, 1, 2)))
    return np.maximum(size / (size.mean() or 1.0), SMALLEST_GATE)


def _training(conv, norm, kernel, bias, gamma, beta):
    """What of the FBS layer is trained: as much as was, and the gate with it."""
    trained = {id(variable) for layer in (conv, norm) if layer is not None for variable in layer.trainable_weights}
    norm_trainable = norm is None or norm.trainable
    any_trained = any(id(v) in trained for v in (kernel, bias, gamma, beta)) or (norm is not None and norm.trainable)
    # With a frozen norm, the bias of the convolution shifts the output as beta does.
    shifts = [beta, bias] if norm is None or not norm.trainable else [beta]
    ours = {"kernel": [kernel], "bias": shifts, "gate_bias": [gamma]}
    frozen = [
        name
        for name, variables in ours.items()
        if any(v is not None for v in variables) and not any(id(v) in trained for v in variables if v is not None)
    ]
    return {
        "trainable": any_trained,
        "norm_trainable": norm_trainable,
        "frozen": tuple(frozen) if any_trained else (),
        "use_bias": any(v is not None for v in shifts),
    }


def _frozen_notes(arguments):
    if not arguments["trainable"]:
        return ["frozen, and so is its gate"]
    return [f"frozen: its {' and '.join(arguments['frozen'])}"] if arguments["frozen"] else []


def _rule(variable, kind):
    """A variable's regularizer or constraint: what acts, whatever its layer's config says."""
    return getattr(variable, kind, None)


def _holds(rule, scale):
    """Whether a regularizer or constraint says of `scale * weight` what it said of the weight."""
    if rule is None or np.allclose(scale, 1, rtol=0, atol=1e-6):
        return True
    if type(rule) is keras.constraints.NonNeg:
        return bool(np.all(scale > 0))
    return type(rule) in _EVEN and np.allclose(np.abs(scale), 1, rtol=0, atol=1e-6)


def _names(rules):
    return " and ".join(f"{'bias' if 'bias' in variable.name else 'kernel'}_{kind}" for variable, kind in rules)


def _are(rules):
    return "are" if len(rules) > 1 else "is"


def _name(rule):
    return getattr(rule, "__name__", type(rule).__name__)
