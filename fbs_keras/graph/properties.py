"""What each type of Keras layer does to channels at inference: one row a type, each claim held to by a test."""

import dataclasses

import keras

from fbs_keras.graph.kinds import kind


@dataclasses.dataclass(frozen=True)
class Properties:
    """What a type of layer does to the channels that it reads.

    Of what `None` stands for, the settings of the layer decide: `fbs_keras.graph.channelwise` knows how.

    Attributes:
        role: What becomes of channels:
            `"nothing"`: they pass as they are; `"spatial"`: values move or are averaged within a channel;
            `"global"`: each becomes one value; `"elementwise"`: each value is mapped by itself; `"merge"`: values at
            the same place of several tensors become one; `"norm"`: each is scaled and shifted;
            `"depthwise"`: each is convolved by itself; `"mix"`: new channels are made of all;
            `"normalize"`: each depends on all; `"concatenate"`, `"flatten"`, `"reshape"`, `"reorder"`: they get other
            places; `"resize"`: each is another size.
        apart: Whether each channel is computed from the channel of its place alone, of each input.
        keeps_zero: Whether a channel that is zero, in each input, stays zero.
        homogeneous: Whether `layer(u * x) = u * layer(x)` for a u > 0 of each channel.
        same_meaning: Whether a class score stays one: what only such layers follow computes the model's output.
    """

    role: str
    apart: bool | None = None
    keeps_zero: bool | None = None
    homogeneous: bool | None = None
    same_meaning: bool = False


_UNKNOWN = Properties("", apart=False)


def _of(names, *row, **columns):
    """A row for each of the layers of these names that this release of Keras has."""
    found = [getattr(keras.layers, name) for name in names if hasattr(keras.layers, name)]
    return {layer: Properties(*row, **columns) for layer in found}


def _ranks(*names):
    return [f"{name}{rank}D" for name in names for rank in (1, 2, 3)]


# By name, since not every Keras release has all of them.
PROPERTIES: dict[type, Properties] = {
    #                                                                    role  apart  zero  homogeneous
    **_of(["Identity", "Dropout", *_ranks("SpatialDropout")], "nothing", True, True, True, same_meaning=True),
    **_of(["GaussianDropout", "GaussianNoise", "AlphaDropout"], "nothing", True, True, True, same_meaning=True),
    **_of(["ActivityRegularization"], "nothing", True, True, True, same_meaning=True),
    **_of(_ranks("MaxPooling", "AveragePooling"), "spatial", True, True, True, same_meaning=True),
    **_of(_ranks("ZeroPadding", "Cropping", "UpSampling"), "spatial", True, True, True, same_meaning=True),
    **_of(_ranks("GlobalMaxPooling", "GlobalAveragePooling"), "global", True, True, True, same_meaning=True),
    **_of(["ReLU", "LeakyReLU", "ELU"], "elementwise", True),
    **_of(["Activation", "Rescaling"], "elementwise", same_meaning=True),
    **_of(["Add", "Subtract", "Average", "Maximum", "Minimum"], "merge", True, True, True),
    **_of(["Multiply"], "merge", True, True, False),
    **_of(["BatchNormalization"], "norm", True, False, False),
    **_of(["DepthwiseConv1D", "DepthwiseConv2D"], "depthwise"),
    **_of([*_ranks("Conv"), "Dense"], "mix", False),
    **_of([f"{name}Transpose" for name in _ranks("Conv")], "mix", False),
    **_of(["LayerNormalization", "GroupNormalization", "UnitNormalization"], "normalize", False),
    **_of(["RMSNormalization"], "normalize", False),
    **_of(["Softmax"], "normalize", False, same_meaning=True),
    **_of(["Concatenate"], "concatenate", False),
    **_of(["Flatten"], "flatten", same_meaning=True),
    **_of(["Reshape"], "reshape", same_meaning=True),
    **_of(["Permute"], "reorder", same_meaning=True),
    **_of(["Resizing"], "resize", True, True, same_meaning=True),
}

# Functions in `keras.activations` and `keras.ops` that map each value by itself; the last two lines' move zero.
ELEMENTWISE_FUNCTIONS = (
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "hard_silu", "mish", "tanh"),
    *("hard_tanh", "tanh_shrink", "soft_shrink", "hard_shrink", "softsign"),
    *("sigmoid", "hard_sigmoid", "log_sigmoid", "softplus", "squareplus", "exponential", "sparse_plus"),
    "sparse_sigmoid",
)
HOMOGENEOUS_FUNCTIONS = ("linear", "relu", "leaky_relu")
# Operations such as `keras.ops.relu(x)` in a Functional model. Their classes are not public, their names are stable.
ACTIVATION_OPERATIONS = {
    "Relu": keras.activations.relu,
    "Relu6": keras.activations.relu6,
    "Silu": keras.activations.silu,
    "HardSilu": keras.activations.hard_silu,
}
ELEMENTWISE_OPERATIONS = (
    *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Negative", "Absolute", "Square"),
    *ACTIVATION_OPERATIONS,
    *("Sigmoid", "HardSigmoid", "Tanh", "Gelu", "Elu", "LeakyRelu", "Softplus", "ZerosLike"),
)


def properties(layer):
    """The `Properties` of a layer of exactly one of the known types; of anything else, those of a layer not known."""
    return PROPERTIES.get(kind(layer), _UNKNOWN)


def inherited(layer):
    """The `Properties` of a layer's type, or of the next known type that it derives from."""
    return next((PROPERTIES[each] for each in type(layer).__mro__ if each in PROPERTIES), _UNKNOWN)


def types(role):
    """The layer types of a role, a tuple."""
    return tuple(layer for layer, row in PROPERTIES.items() if row.role == role)
