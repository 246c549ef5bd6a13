"""The layers against NumPy in float64: every dtype policy, geometry and tie, on each Keras backend alike."""

import functools
import itertools
import os

import keras
import ml_dtypes
import numpy as np
import pytest

import fbs_keras

BACKEND = keras.backend.backend()
POLICIES = ["float32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64"]
if BACKEND == "openvino":
    POLICIES.remove("float64")  # Keras makes float32 of it there
ACTIVATIONS = {"linear": lambda y: y, "relu": lambda y: np.maximum(y, 0), "tanh": np.tanh}
FORMATS = ("channels_last",) if BACKEND == "tensorflow" else ("channels_last", "channels_first")

trains = pytest.mark.skipif(BACKEND == "openvino", reason="OpenVINO does not train")


def to_numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def dtypes(policy):
    """What a layer of this policy returns, and what its gate is computed in."""
    compute = policy.removeprefix("mixed_")
    if BACKEND == "jax" and compute == "float64" and not os.environ.get("JAX_ENABLE_X64"):
        compute = "float32"
    return compute, "float64" if compute == "float64" else "float32"


def randomise(layer, seed=0):
    """Weights that half precision holds exactly, gates that differ by more than it rounds off."""
    random = np.random.default_rng(seed)
    for weight in layer.weights:
        if weight.name in ("density", "saliency_weight", "usage", "saliency"):
            continue
        value = random.integers(-7, 8, weight.shape) / 8
        if weight.name == "moving_variance":
            value = np.abs(value) + 0.5
        elif weight.name == "gate_bias":
            value = 1 + random.permutation(value.size) / 4
        elif weight.name == "gate_kernel":
            value = value / 64
        weight.assign(value.astype(weight.dtype))


def images(shape, seed=1):
    return np.random.default_rng(seed).integers(-7, 8, shape) / 8


def convolution(x, kernel, strides, padding, dilation):
    """x [N, H, W, C] * kernel [KH, KW, C, O], as TensorFlow pads."""
    positions = []
    for axis, size in enumerate(kernel.shape[:2], 1):
        reach, step = (size - 1) * dilation[axis - 1] + 1, strides[axis - 1]
        if padding == "same":
            missing = max(0, (-(-x.shape[axis] // step) - 1) * step + reach - x.shape[axis])
            before = missing // 2
            x = np.pad(x, [(before, missing - before) if each == axis else (0, 0) for each in range(4)])
        positions.append(np.arange(0, x.shape[axis] - reach + 1, step))
    rows, columns = positions
    y = 0.0
    for i, j in itertools.product(range(kernel.shape[0]), range(kernel.shape[1])):
        y = y + x[:, rows + i * dilation[0]][:, :, columns + j * dilation[1]] @ kernel[i, j]
    return y


def gate(layer, x):
    """pi: the k largest of g, the lower index first among equals."""
    phi, rho = (to_numpy(weight).astype("float64") for weight in (layer.gate_kernel, layer.gate_bias))
    g = np.maximum(np.abs(x).mean(axis=(1, 2)) @ phi + rho, 0)
    pi = np.zeros_like(g)
    for row, values in zip(pi, g, strict=True):
        won = np.argsort(-values, kind="stable")[: layer.active_channels]
        row[won] = values[won]
    return pi


def reference(layer, x):
    """What the layer computes of x [N, H, W, C], in float64."""
    y = convolution(x, to_numpy(layer.kernel).astype("float64"), layer.strides, layer.padding, layer.dilation_rate)
    if layer.norm is not None:
        mean, variance = (to_numpy(weight).astype("float64") for weight in layer.norm.weights)
        y = (y - mean) / np.sqrt(variance + layer.epsilon)
    if layer.use_bias:
        y = y + to_numpy(layer.bias).astype("float64")
    return ACTIVATIONS[layer.activation.__name__](gate(layer, x)[:, None, None] * y)


def build(layer, x):
    """The layer, with weights for images x [N, H, W, C]."""
    layer.build(as_inputs(layer, x).shape)
    randomise(layer)
    return layer


def as_inputs(layer, x):
    """Images [N, H, W, C] as the layer takes them."""
    # Copied, since OpenVINO misreads float16 arrays with strides.
    x = x.transpose(0, 3, 1, 2).copy() if layer.data_format == "channels_first" else x
    return x.astype(layer.compute_dtype)


def as_last(layer, y):
    """A layer's output as [N, H, W, C], in float64."""
    y = to_numpy(y).astype("float64")
    return y.transpose(0, 2, 3, 1) if layer.data_format == "channels_first" else y


def assert_equal(y, expected, *dtypes):
    """Equal to some units of rounding at the largest value, by the least exact of the dtypes."""
    unit = max(eps(dtype) for dtype in dtypes)
    np.testing.assert_allclose(y, expected, rtol=0, atol=8 * unit * np.abs(expected).max())


def eps(dtype):
    return float(ml_dtypes.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("norm", "bias", "data_format"),
    [(norm, bias, FORMATS[0]) for norm in (True, False) for bias in (True, False)]
    + [(True, True, data_format) for data_format in FORMATS[1:]],
)
@pytest.mark.parametrize("policy", POLICIES)
def test_inference(policy, norm, bias, data_format):
    compute, gates = dtypes(policy)
    layer = fbs_keras.FBSConv2D(
        8,
        3,
        padding="same",
        use_bias=bias,
        normalize=norm,
        density=0.5,
        data_format=data_format,
        return_mask=True,
        dtype=policy,
    )
    suppress = fbs_keras.Suppress(data_format, dtype=policy)
    x = images((2, 6, 5, 4))
    expected = gate(build(layer, x), x)
    inputs = as_inputs(layer, x)
    g = layer.predict_saliency(keras.ops.convert_to_tensor(inputs))
    assert keras.backend.standardize_dtype(g.dtype) == gates
    assert_equal(np.where(expected > 0, to_numpy(g), 0), expected, gates)
    for activation in ACTIVATIONS:
        layer.activation = keras.activations.get(activation)
        y, mask = layer(inputs)
        assert keras.backend.standardize_dtype(y.dtype) == keras.backend.standardize_dtype(mask.dtype) == compute
        np.testing.assert_array_equal(to_numpy(mask), expected > 0)
        assert_equal(as_last(layer, y), reference(layer, x), compute, gates)
    z = suppress([y + 1, mask])
    assert keras.backend.standardize_dtype(z.dtype) == compute
    np.testing.assert_array_equal(as_last(layer, z), np.where(expected[:, None, None] > 0, as_last(layer, y + 1), 0))


def network(policy):
    """Every kind of FBS layer, side by side."""
    inputs, outputs = keras.Input((6, 5, 4)), []
    for norm, bias in itertools.product([True, False], [True, False]):
        layer = fbs_keras.FBSConv2D(
            8,
            3,
            activation="tanh",
            normalize=norm,
            use_bias=bias,
            density=0.75,
            data_format="channels_last",
            return_mask=True,
            dtype=policy,
            name="conv" + "_norm" * norm + "_bias" * bias,
        )
        outputs.append(fbs_keras.Suppress("channels_last", dtype=policy)(layer(inputs)))
        randomise(layer)
    return keras.Model(inputs, outputs)


@functools.cache
def a_step(policy):
    """What one step of training makes of the weights, `{path: (before, after)}`."""
    model = network(policy)
    before = [to_numpy(weight).astype("float64") for weight in model.weights]
    # In graphs, and compiled: test_layers.py. Tracing takes TensorFlow seconds.
    fast = {"run_eagerly": True} if BACKEND == "tensorflow" else {"jit_compile": BACKEND == "jax"}
    model.compile(keras.optimizers.SGD(0.5), "mse", auto_scale_loss=False, **fast)
    history = model.fit(images((4, 6, 5, 4)), [np.ones((4, 4, 3, 8))] * 4, epochs=1, batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    after = [to_numpy(weight).astype("float64") for weight in model.weights]
    return {weight.path: pair for weight, *pair in zip(model.weights, before, after, strict=True)}


@trains
@pytest.mark.parametrize("policy", POLICIES)
def test_training(policy):
    """A step moves all weights as it does in float32, within what the dtypes of the policy hold."""
    variables, compute = keras.DTypePolicy(policy).variable_dtype, dtypes(policy)[0]
    for path, (before, after) in a_step("float32").items():
        step, found = after - before, a_step(policy)[path][1] - before
        assert step.any() or path.endswith(("/density", "/saliency_weight")), path
        held = max(eps("float32"), eps(variables)) * np.abs(before).max()
        computed = (100 * eps("float32") + 30 * eps(compute)) * np.abs(step).max()  # found: 57, 16
        np.testing.assert_allclose(found, step, rtol=0, atol=held + computed, err_msg=path)


GEOMETRIES = [
    {"kernel_size": kernel, "padding": padding, **step}
    for kernel in (2, 3, (4, 1))
    for padding in ("same", "valid")
    for step in ({}, {"strides": 2}, {"strides": (1, 3)}, {"dilation_rate": 2}, {"dilation_rate": (2, 3)})
]


@pytest.mark.parametrize("data_format", FORMATS)
def test_geometry(data_format):
    x = images((2, 9, 8, 3))
    for options in GEOMETRIES:
        layer = build(fbs_keras.FBSConv2D(6, density=0.5, normalize=False, data_format=data_format, **options), x)
        y, expected = as_last(layer, layer(as_inputs(layer, x))), reference(layer, x)
        assert y.shape == expected.shape, options
        np.testing.assert_allclose(y, expected, rtol=0, atol=6e-7 * np.abs(expected).max(), err_msg=str(options))


@pytest.mark.parametrize("options", [{}, {"group_size": 2}, {"round_channels": 4}], ids=str)
@pytest.mark.parametrize("gates", [[1] * 8, [2, 1, 2, 1, 2, 1, 2, 1], [0] * 8, [0, 0, 0, 0, 3, 0, 0, 0]], ids=str)
def test_ties(gates, options):
    """Among equals the lower index wins, of zeros too."""
    layer = fbs_keras.FBSConv2D(8, 1, density=0.3, return_mask=True, data_format="channels_last", **options)
    x = images((2, 3, 3, 4))
    build(layer, x)
    layer.gate_kernel.assign(np.zeros((4, 8)))
    layer.gate_bias.assign(gates)
    size, k = layer.group_size, layer.active_channels
    order = np.argsort(-np.mean(np.reshape(gates, (-1, size)), axis=1), kind="stable")[: k // size]
    expected = np.repeat(np.isin(np.arange(8 // size), order), size)
    np.testing.assert_array_equal(to_numpy(layer(as_inputs(layer, x))[1]), np.tile(expected, (2, 1)))
