"""Each claim of graph/properties.py, and what channelwise.py makes of it, held against the real Keras layer."""

import keras
import numpy as np
import pytest
from keras import layers

from fbs_keras.graph.channelwise import is_channelwise, moves_zero, passes_channels, scales_channels
from fbs_keras.graph.properties import ELEMENTWISE_FUNCTIONS, HOMOGENEOUS_FUNCTIONS, PROPERTIES

CHANNELS = 4
# Arguments of layers that have no defaults, and settings that decide where a row says `None`.
ARGUMENTS = {
    **{layer: [{"rate": 0.5}] for layer in (layers.Dropout, layers.GaussianDropout, layers.AlphaDropout)},
    **{layer: [{"rate": 0.5}] for layer in (layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D)},
    layers.GaussianNoise: [{"stddev": 1.0}],
    layers.ReLU: [{}, {"max_value": 6}, {"negative_slope": 0.1}, {"threshold": 0.5}],
    layers.ELU: [{}, {"alpha": 0.3}],
    layers.Activation: [{"activation": name} for name in ("relu", "relu6", "tanh", "sigmoid", "softmax", "linear")],
    layers.Rescaling: [{"scale": 2.0}, {"scale": 2.0, "offset": 1.0}],
    layers.DepthwiseConv1D: [{"kernel_size": 2}, {"kernel_size": 2, "use_bias": False}],
    layers.DepthwiseConv2D: [
        {"kernel_size": 2},
        {"kernel_size": 2, "use_bias": False},
        {"kernel_size": 2, "use_bias": False, "activation": "sigmoid"},
        {"kernel_size": 2, "depth_multiplier": 2},
    ],
    **{layer: [{"filters": CHANNELS, "kernel_size": 2}] for layer in PROPERTIES if "Conv" in layer.__name__[:4]},
    layers.Dense: [{"units": CHANNELS}],
    layers.GroupNormalization: [{"groups": 2}],
    **{layer: [{"pool_size": 2}] for layer in PROPERTIES if layer.__name__.startswith("AveragePooling")},
    layers.Reshape: [{"target_shape": (-1, CHANNELS)}],
    layers.Permute: [{"dims": (2, 1, 3)}],
    layers.Resizing: [{"height": 3, "width": 2}],
}
CASES = [(layer, arguments) for layer in PROPERTIES for arguments in ARGUMENTS.get(layer, [{}])]


def make(layer_type, arguments):
    """A layer with random weights, how many tensors it reads, and the shape of each."""
    rank = next((int(digit) for digit in "123" if f"{digit}D" in layer_type.__name__), 2)
    shape = (3, *(4, 5, 6)[:rank], CHANNELS)
    layer = layer_type(**arguments)
    count = 2 if PROPERTIES[layer_type].role in ("merge", "concatenate") else 1
    layer.build([shape] * count if count > 1 else shape)
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        if "seed" not in weight.name:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return layer, count, shape


def facts(layer, count, shape):
    """What the layer does: `(apart, keeps_zero, homogeneous)`, by what it computes."""
    rng = np.random.default_rng(1)
    x = [rng.normal(size=shape, scale=3).astype("float32") for _ in range(count)]

    def compute(x):
        x = [keras.ops.convert_to_tensor(each) for each in x]
        return keras.ops.convert_to_numpy(layer(x if count > 1 else x[0], training=False))

    def training(x):
        x = [keras.ops.convert_to_tensor(each) for each in x]
        return keras.ops.convert_to_numpy(layer(x if count > 1 else x[0]))

    run = compute if "training" in layer.call.__code__.co_varnames else training
    y = run(x)
    apart = y.shape[-1] == CHANNELS
    keeps_zero = homogeneous = apart
    for channel in range(CHANNELS if apart else 0):
        others = np.arange(CHANNELS) != channel
        changed = [each + np.where(others, 0, rng.normal(size=shape)).astype("float32") for each in x]
        apart &= np.array_equal(run(changed)[..., others], y[..., others])
        keeps_zero &= not run([each * others for each in x])[..., channel].any()
    u = np.array([2, 4, 0.5, 8], "float32")
    if homogeneous:
        homogeneous = np.allclose(run([each * u for each in x]), y * u, rtol=1e-5, atol=1e-5)
    return bool(apart), bool(keeps_zero), bool(homogeneous)


@pytest.mark.parametrize(("layer_type", "arguments"), CASES, ids=[f"{t.__name__}-{a}" for t, a in CASES])
def test_claims(layer_type, arguments):
    layer, count, shape = make(layer_type, arguments)
    row = PROPERTIES[layer_type]
    apart, keeps_zero, homogeneous = found = facts(layer, count, shape)
    for claim, fact in zip((row.apart, row.keeps_zero, row.homogeneous), found, strict=True):
        assert claim is None or claim == fact
    if count > 1 or row.role in ("reorder", "resize", "reshape"):
        return  # of which channelwise.py knows less
    assert is_channelwise(layer, shape) <= apart
    if is_channelwise(layer, shape):
        assert moves_zero(layer) == (not keeps_zero)
    assert passes_channels(layer, shape) == (is_channelwise(layer, shape) and keeps_zero)
    assert scales_channels(layer, shape) <= homogeneous
    if row.role != "depthwise":
        assert is_channelwise(layer, shape) == apart
        assert scales_channels(layer, shape) == (apart and keeps_zero and homogeneous)


@pytest.mark.parametrize("name", ELEMENTWISE_FUNCTIONS)
def test_functions(name):
    function = getattr(keras.activations, name, None) or getattr(keras.ops, name, None)
    if function is None:
        pytest.skip(f"this Keras has no {name}")
    apart, _, homogeneous = facts(layers.Activation(function), 1, (3, 4, 5, CHANNELS))
    assert (apart, homogeneous) == (True, name in HOMOGENEOUS_FUNCTIONS)
