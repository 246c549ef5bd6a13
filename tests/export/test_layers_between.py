"""Every layer and activation of Keras between two FBS layers: wrap and convert give Keras's values, or a sentence.

All cases are branches of one model, which is wrapped and converted once.
"""

import inspect

import keras
import numpy as np
import pytest
import small_models
from keras import layers, ops

import fbs_keras
from fbs_keras.runtime import Interpreter

# The settings of the layers that need some, or that have more to them than their defaults.
SETTINGS = {
    "Activation": ["tanh"],
    "ActivityRegularization": [0.1],
    "AdaptiveAveragePooling": [2],
    "AdaptiveMaxPooling": [2],
    "AveragePooling": [2],
    "MaxPooling": [2],
    "CenterCrop": [5, 6],
    "Conv": [6, 3],
    "ConvTranspose": [6, 3],
    "Dense": [6],
    "DepthwiseConv": [3],
    "EinsumDense": ["nhwc,cd->nhwd", (8, 8, 6)],
    "GaussianDropout": [0.5],
    "GaussianNoise": [0.5],
    "AlphaDropout": [0.5],
    "Dropout": [0.5],
    "SpatialDropout": [0.5],
    "GroupNormalization": [4],
    "GRU": [6],
    "LSTM": [6],
    "SimpleRNN": [6],
    "Permute": [(2, 1, 3)],
    "RepeatVector": [3],
    "Rescaling": [2.0, 1.0],
    "Reshape": [(4, 16, 8)],
    "Resizing": [6, 7],
    "SeparableConv": [6, 3],
    "RandomBrightness": [0.2],
    "RandomContrast": [0.2],
    "RandomCrop": [5, 6],
    "RandomGrayscale": [0.5],
    "RandomHue": [0.5],
    "RandomPosterization": [4],
    "RandomRotation": [0.1],
    "RandomSaturation": [0.5],
    "RandomSharpness": [0.5],
    "RandomTranslation": [0.1, 0.1],
    "RandomZoom": [0.1],
}
# What is made of the tensor by a layer that does not simply read an image.
CALLS = {
    "AdditiveAttention": lambda layer, x: layer()([_pixels(x), _pixels(x)]),
    "Attention": lambda layer, x: layer()([_pixels(x), _pixels(x)]),
    "Bidirectional": lambda layer, x: layer(layers.GRU(3))(_pixels(x)),
    "Dot": lambda layer, x: layer(2)([_pixels(x), _pixels(x)]),
    "GroupQueryAttention": lambda layer, x: layer(4, 4, 2)(_pixels(x), _pixels(x)),
    "MultiHeadAttention": lambda layer, x: layer(2, 4)(_pixels(x), _pixels(x)),
    "Lambda": lambda layer, x: layer(_double, output_shape=(8, 8, 8))(x),
    "Normalization": lambda layer, x: layer(mean=[0.5] * 8, variance=[2.0] * 8)(x),
    "RepeatVector": lambda layer, x: layer(3)(layers.GlobalMaxPooling2D()(x)),
    "RandomColorDegeneration": lambda layer, x: layer(0.5)(x[..., :3]),
    "SpectralNormalization": lambda layer, x: layer(layers.Conv2D(6, 3))(x),
    "TimeDistributed": lambda layer, x: layer(layers.Dense(6))(x),
    **{name: lambda layer, x: layer(6)(_pixels(x)) for name in ("GRU", "LSTM", "SimpleRNN")},
    **{
        name: lambda layer, x: layer()([x, layers.ReLU(0.5)(x)])
        for name in ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
    },
}
# Why a layer is not between two convolutions, by the beginning of its name.
SKIPPED = {
    "is no layer by itself": ("Layer", "Wrapper", "InputLayer", "InputSpec", "RNN", "StackedRNNCells"),
    "is a step of a recurrent layer": ("GRUCell", "LSTMCell", "SimpleRNNCell"),
    "reads sequences of images": ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"),
    "reads integers or strings": (
        *("CategoryEncoding", "Discretization", "Embedding", "HashedCrossing", "Hashing", "IntegerLookup"),
        *("ReversibleEmbedding", "StringLookup", "TextVectorization"),
    ),
    "reads sound": ("MelSpectrogram", "STFTSpectrogram"),
    "is of another framework": ("FlaxLayer", "JaxLayer", "TFSMLayer", "TorchModuleWrapper"),
    "prepares images with labels, or pixels in a range": (
        *("AugMix", "AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization", "CutMix", "Equalization"),
        *("MaxNumBoundingBoxes", "MixUp", "Pipeline", "RandAugment", "RandomColorJitter", "Solarization"),
    ),
}
OPERATIONS = {
    "relu": ops.relu,
    "pad": lambda x: ops.pad(x, [(0, 0), (1, 2), (0, 1), (0, 0)]),
    "pad_channels": lambda x: ops.pad(x, [(0, 0), (0, 0), (0, 0), (1, 2)]),
    "pad_by_one": lambda x: ops.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=1),
    "concatenate": lambda x: ops.concatenate([x, -x], axis=-1),
    "concatenate_rows": lambda x: ops.concatenate([x, x], axis=1),
    "stack": lambda x: ops.max(ops.stack([x, x * 2], axis=1), axis=1),
    "split": lambda x: ops.split(x, 2, axis=-1)[1],
    "transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "transpose_channels": lambda x: ops.transpose(x, (0, 3, 1, 2)),
    "reshape": lambda x: ops.reshape(x, (-1, 4, 16, 8)),
    "mean": lambda x: ops.mean(x, axis=(1, 2), keepdims=True) * x,
    "mean_channels": lambda x: ops.mean(x, axis=-1, keepdims=True),
    "max": lambda x: ops.max(x, axis=1, keepdims=True) - x,
    "multiply": lambda x: ops.multiply(x, 3.0),
    "square": ops.square,
    "abs": ops.abs,
    "exp": lambda x: ops.exp(-x),
    "clip": lambda x: ops.clip(x, 0.1, 1.0),
    "where": lambda x: ops.where(x > 0.2, x, 1.0),
    "maximum": lambda x: ops.maximum(x, 0.3),
    "softmax": ops.softmax,
    "normalize": lambda x: ops.normalize(x, axis=-1),
    "cumsum": lambda x: ops.cumsum(x, axis=-1),
    "flip": lambda x: ops.flip(x, axis=-1),
    "roll": lambda x: ops.roll(x, 1, axis=-1),
    "take": lambda x: ops.take(x, [3, 1, 0, 2], axis=-1),
    "slice": lambda x: x[:, 1:7, ::2, 2:],
    "matmul": lambda x: ops.matmul(x, x),
    "einsum": lambda x: ops.einsum("nhwc,nhvc->nwvh", x, x),
    "tile": lambda x: ops.tile(x, (1, 1, 1, 2)),
    "expand_and_squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    "average_pool": lambda x: ops.average_pool(x, 2, 2, "valid"),
    "max_pool": lambda x: ops.max_pool(x, 2, 2, "same"),
    "one_hot": lambda x: ops.one_hot(ops.argmax(x, axis=-1), 8),
    "cast": lambda x: ops.cast(ops.cast(x * 10, "int32"), "float32"),
    "power": lambda x: ops.power(x, 2.0),
    "logical": lambda x: ops.cast(ops.logical_not(x > 0.1), "float32"),
}


@keras.saving.register_keras_serializable(package="test_layers_between")
def _double(x):
    return x * 2


def _pixels(x):
    return layers.Reshape((64, 8))(x)


def _layer_classes():
    """The names of this Keras's public layers, without their other names."""
    return sorted(name for name, value in vars(layers).items() if inspect.isclass(value) and value.__name__ == name)


def _skipped(name):
    return next((reason for reason, names in SKIPPED.items() if name in names), None)


def _call(name, x):
    """Calls the layer of that name on an image of 8x8x8."""
    layer = getattr(layers, name)
    if name in CALLS:
        return CALLS[name](layer, x)
    base = name.replace("1D", "").replace("2D", "").replace("3D", "")
    shape = {"1D": (64, 8), "3D": (4, 4, 4, 8)}.get(name.removesuffix("Transpose")[-2:])
    x = x if shape is None else layers.Reshape(shape)(x)
    return layer(*SETTINGS.get(base, []))(x)


def _activation(name):
    return lambda x: layers.Activation(name)(x)


def _activations():
    """The public activation functions of this Keras. `glu` changes the shape, of which `Activation` does not tell."""
    found = {name for name, value in vars(keras.activations).items() if inspect.isfunction(value)}
    return sorted(found - {"get", "serialize", "deserialize", "glu", "threshold"})


CASES = {
    **{f"layer {name}": lambda x, name=name: _call(name, x) for name in _layer_classes() if _skipped(name) is None},
    **{f"activation {name}": lambda x, name=name: layers.Activation(name)(x) for name in _activations()},
    **{f"operation {name}": function for name, function in OPERATIONS.items()},
}
# What is refused, and the sentence's words for why.
REFUSED = {
    "layer AdaptiveAveragePooling3D": r"no built-in op for: AvgPool3D \(of 'adaptive_average.*use other layers",
    "layer AdaptiveMaxPooling3D": r"no built-in op for: MaxPool3D \(of 'adaptive_max_pooling3d.*use other layers",
    "layer AveragePooling3D": r"no built-in op for: AvgPool3D \(of 'average_pooling3d.*use other layers",
    "layer MaxPooling3D": r"no built-in op for: MaxPool3D \(of 'max_pooling3d.*use other layers",
    "operation one_hot": r"no built-in op for: BitwiseAnd \(of 'argmax.*use other layers",
    # At inference it leaves an image that is larger as it is.
    "layer RandomCrop": r"'random_crop.*' \(RandomCrop\) computes the shape \(8, 8, 8\).*take the layer out",
}
# What export has rules for; the rest takes minutes.
KNOWN = [
    *(f"layer {name}" for name in ("Activation", "ActivityRegularization", "Add", "Average", "AveragePooling2D")),
    *(f"layer {name}" for name in ("BatchNormalization", "Concatenate", "Conv2D", "Cropping2D", "Dense", "Dropout")),
    *(f"layer {name}" for name in ("DepthwiseConv2D", "ELU", "Flatten", "GlobalAveragePooling2D", "Identity")),
    *(f"layer {name}" for name in ("GlobalMaxPooling2D", "LayerNormalization", "LeakyReLU", "MaxPooling2D", "Maximum")),
    *(f"layer {name}" for name in ("Multiply", "PReLU", "ReLU", "Rescaling", "SeparableConv2D", "Softmax", "Subtract")),
    *(f"layer {name}" for name in ("SpatialDropout2D", "UpSampling2D", "ZeroPadding2D")),
    *(name for name in CASES if name.startswith("activation")),
    *(f"operation {name}" for name in ("concatenate", "multiply", "pad", "pad_channels", "relu", "split", "where")),
]
OTHERS = [name for name in CASES if name not in (*KNOWN, *REFUSED)]


def model_of(names):
    """For each case a branch: a convolution, the layer, and where that gives an image another convolution."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    outputs = []
    for name in names:
        x = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
        x = CASES[name](x)
        if len(x.shape) == 4:
            x = layers.Conv2D(8, 1, activation="relu")(x)
        outputs.append(layers.Flatten()(x))
    return keras.Model(image, outputs)


def compare(names):
    """The largest relative difference of each case: of wrapped and plain model, and of the file to the wrapped one."""
    model = model_of(names)
    for weight in model.weights:
        if weight.name == "bias":
            weight.assign(weight + 0.1)
    x = small_models.noise(model, 2)
    plain = small_models.expected(model, x)
    wrapped = fbs_keras.wrap(model)
    opened = small_models.expected(wrapped, x)
    fbs_keras.set_density(wrapped, 0.5)
    expected = small_models.expected(wrapped, x)
    content = fbs_keras.convert(wrapped)
    results = [Interpreter(content, use_delegate=use_delegate).predict(x) for use_delegate in (True, False)]
    pairs = [(opened, plain), *((got if len(names) > 1 else [got], expected) for got in results)]
    return {name: [_difference(a[i], b[i]) for a, b in pairs] for i, name in enumerate(names)}


def _difference(got, expected):
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-6))


def _compare_parts(names, size=20):
    found = {}
    for start in range(0, len(names), size):  # a model of all at once takes longer than several
        found.update(compare(names[start : start + size]))
    return found


@pytest.mark.parametrize("names", [KNOWN, pytest.param(OTHERS, marks=pytest.mark.zoo)], ids=["known", "others"])
def test_computes_what_keras_does(names):
    wrong = {name: differences for name, differences in _compare_parts(names).items() if not max(differences) < 1e-3}
    assert not wrong


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.zoo) for name in REFUSED if name in CASES])
def test_refuses(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        fbs_keras.convert(fbs_keras.wrap(model_of([name]), density=0.5))
