"""What hangs on the layers that wrap() merges is carried over exactly, refused, or said in the report."""

import keras
import numpy as np
import pytest
from keras import constraints, layers, ops, regularizers

import fbs_keras
from fbs_keras.wrapping import planning
from fbs_keras.wrapping.folding import SMALLEST_FILTER, SMALLEST_GAMMA


class Signed(regularizers.Regularizer):
    """Tells a weight from its negative."""

    def __call__(self, weight):
        return ops.sum(ops.relu(-weight))


def conv(**arguments):
    return layers.Conv2D(8, 3, name="conv", **arguments)


def norm(**arguments):
    return layers.BatchNormalization(name="norm", **arguments)


def relu(**arguments):
    return layers.ReLU(name="relu", **arguments)


def separable(**arguments):
    return layers.SeparableConv2D(8, 3, name="conv", **arguments)


def build(*stack, negative=True):
    """A trained model: these layers and a classifier."""
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack, layers.Flatten(), layers.Dense(4, name="last")])
    rng = np.random.default_rng(0)
    for weight in (weight for layer in stack for weight in layer.weights):
        value = rng.normal(size=weight.shape)
        if weight.name in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 2, size=weight.shape)
        if weight.name == "gamma" and negative:
            value[::2] *= -1
        weight.assign(value)
    return model


X = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype("float32")


def losses(model):
    model(X)
    return float(sum(model.losses, start=0.0))


def report_of(model, **arguments):
    lines = []
    wrapped = fbs_keras.wrap(model, print_fn=lines.append, include="conv", **arguments)
    return wrapped, lines[0]


TAKEN_IN = "conv: FBSConv2D of conv + norm + relu"

# Layers, what the report says, and whether the regularisation loss stays the same.
CASES = {
    "kernel": ([conv(kernel_regularizer="l2"), norm(), relu()], TAKEN_IN, True),
    "kernel, odd": (
        [conv(kernel_regularizer=Signed()), norm(), relu()],
        f"{TAKEN_IN}, its kernel_regularizer Signed sees filters turned or scaled",
        False,
    ),
    "conv's bias": (
        [conv(bias_regularizer="l2"), norm(), relu()],
        f"{TAKEN_IN}, without conv's bias_regularizer: its bias goes into the norm's mean",
        False,
    ),
    "conv's bias held": (
        [conv(bias_constraint="non_neg"), norm(), relu()],
        f"{TAKEN_IN}, without conv's bias_constraint: its bias goes into the norm's mean",
        True,
    ),
    "gamma": ([conv(), norm(gamma_regularizer=regularizers.L1(0.1)), relu()], TAKEN_IN, True),
    "gamma, odd": (
        [conv(), norm(gamma_regularizer=Signed()), relu()],
        f"{TAKEN_IN}, its gamma_regularizer Signed sees gates, which take gamma's place, turned or scaled",
        False,
    ),
    "gamma held": ([conv(), norm(gamma_constraint=constraints.MaxNorm(0.5)), relu()], TAKEN_IN, True),
    "beta": (
        [conv(), norm(beta_regularizer="l2"), relu()],
        f"{TAKEN_IN}, its beta_regularizer L2 is dropped, since it would see beta / gate",
        False,
    ),
    "beta held": ([conv(), norm(beta_constraint="non_neg"), relu()], TAKEN_IN, True),
    "no norm": (
        [conv(kernel_regularizer="l2", bias_regularizer="l1"), relu()],
        "conv: FBSConv2D of conv + relu, its gates start equal, since its kernel_regularizer and bias_regularizer are "
        "for filters of their own size",
        True,
    ),
    "no norm, held": (
        [conv(kernel_constraint=constraints.UnitNorm([0, 1, 2])), relu()],
        "conv: FBSConv2D of conv + relu, its gates start equal, since its kernel_constraint is for filters of their "
        "own size",
        True,
    ),
    "no norm, positive": ([conv(kernel_constraint="non_neg"), relu()], "conv: FBSConv2D of conv + relu", True),
    "conv's output": ([conv(activity_regularizer="l2"), norm(), relu()], "conv: FBSConv2D of conv", True),
    "norm's output": (
        [conv(), norm(activity_regularizer="l2"), relu()],
        "conv: FBSConv2D of conv + norm",
        True,
    ),
    "relu's output": ([conv(), norm(), relu(activity_regularizer="l2")], TAKEN_IN, True),
    "output of a chain": (
        [conv(), relu(activity_regularizer="l2"), norm(), layers.Conv2D(4, 1, activation="relu")],
        "conv: FBSConv2D of conv + relu",  # no mask, which would be regularized too
        True,
    ),
    "separable": (
        [separable(depthwise_regularizer="l2", pointwise_regularizer="l1", depthwise_constraint="non_neg"), norm()],
        "conv: FBSConv2D of conv + norm after its depthwise convolution",
        True,
    ),
    "activation with weights": ([conv(), layers.Activation(layers.PReLU())], "conv: FBSConv2D of conv", True),
    "activation as a layer": ([conv(activation=layers.LeakyReLU())], "conv: FBSConv2D of conv", True),
    "frozen conv": ([conv(trainable=False), norm(), relu()], f"{TAKEN_IN}, frozen: its kernel", True),
    "frozen norm": (
        [conv(use_bias=False), norm(trainable=False), relu()],
        f"{TAKEN_IN}, frozen: its bias and gate_bias",
        True,
    ),
    "frozen": (
        [conv(trainable=False), norm(trainable=False)],
        "conv: FBSConv2D of conv + norm, frozen, and so is its gate",
        True,
    ),
    "other dtype": ([conv(), norm(dtype="float64"), relu()], "conv: FBSConv2D of conv", True),
    "norm in float32": (
        [conv(dtype="mixed_bfloat16"), norm(dtype="float32"), relu(dtype="mixed_bfloat16")],
        TAKEN_IN,
        True,
    ),
    "output in float32": (
        [conv(dtype="mixed_bfloat16", use_bias=False), norm(dtype="float32"), relu(dtype="float32")],
        "conv: FBSConv2D of conv",
        True,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_told_and_the_same(name):
    stack, line, same_losses = CASES[name]
    model = build(*stack)
    wrapped, said = report_of(model)
    assert said == line
    expected = ops.convert_to_numpy(ops.cast(model(X), "float32"))
    scale = 0.03 if "float32" in name else 1e-5
    np.testing.assert_allclose(ops.cast(wrapped(X), "float32"), expected, atol=scale * np.abs(expected).max())
    assert (losses(wrapped) == pytest.approx(losses(model), rel=1e-4)) == same_losses


REFUSED = {
    "kernel": ([conv(kernel_constraint="non_neg"), norm()], "its kernel_constraint NonNeg would not hold for filters"),
    "pointwise": ([separable(pointwise_constraint="non_neg"), norm()], "its pointwise_constraint NonNeg"),
    "gamma": ([conv(), norm(gamma_constraint="non_neg")], "its gamma_constraint NonNeg would not hold for gates"),
    "beta": ([conv(), norm(beta_constraint=constraints.MaxNorm())], "its beta_constraint MaxNorm would not hold"),
    "PReLU": ([conv(activation=layers.PReLU(name="mine"))], "its activation is the layer 'mine', which has weights"),
    "seeds": ([conv(activation=layers.Dropout(0.5, name="mine"))], "its activation is the layer 'mine'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    stack, reason = REFUSED[name]
    model = build(*stack)
    assert reason in planning.plan(model)[0].reason
    with pytest.raises(ValueError, match=reason):
        fbs_keras.wrap(model, include="conv")


def test_rules_are_those_of_the_weights():
    """Set after build(), they act although no config tells."""
    model = build(conv(), norm())
    model.layers[0].kernel.regularizer = regularizers.L2(0.1)
    model.layers[1].gamma.regularizer = regularizers.L1(0.1)
    assert losses(fbs_keras.wrap(model, include="conv")) == pytest.approx(losses(model))
    model.layers[0].kernel.constraint = constraints.NonNeg()
    assert "kernel_constraint NonNeg" in planning.plan(model)[0].reason
    model = build(conv(), norm(), negative=False)
    model.layers[0].kernel.constraint = constraints.NonNeg()
    kernel = fbs_keras.wrap(model, include="conv").layers[0].kernel
    assert isinstance(kernel.constraint, constraints.NonNeg)


# What is trained: (conv, norm, whether conv has a bias): the FBS layer's weights.
TRAINED = {
    (True, True, False): {"kernel", "bias", "gate_kernel", "gate_bias"},
    (False, True, True): {"bias", "gate_kernel", "gate_bias"},
    (True, False, False): {"kernel", "gate_kernel"},
    (True, False, True): {"kernel", "bias", "gate_kernel"},  # conv's bias shifts a norm that does not follow it
    (False, False, True): set(),
    (True, None, True): {"kernel", "bias", "gate_kernel", "gate_bias"},
    (False, None, True): set(),
}


@pytest.mark.parametrize("case", TRAINED)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_as_much_is_trained(case, activation, tmp_path):
    conv_trained, norm_trained, use_bias = case
    stack = [conv(use_bias=use_bias)] + ([] if norm_trained is None else [norm()])
    model = build(*stack, *([relu()] if activation else []))
    model.layers[0].trainable = conv_trained
    if norm_trained is not None:
        model.layers[1].trainable = norm_trained
    wrapped = fbs_keras.wrap(model, include="conv")
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for each in (wrapped, loaded):
        layer = each.layers[0]
        assert {weight.name for weight in layer.trainable_weights} == TRAINED[case]
        if layer.norm is not None and TRAINED[case]:
            assert layer.norm.trainable == norm_trained
        layer.trainable = False
        assert not layer.trainable_weights
        layer.trainable = True
        assert len(layer.trainable_weights) == 4


def test_single_weights_stay_frozen():
    model = build(conv(), norm(), relu())
    model.layers[1].gamma.trainable = False
    assert report_of(model)[1] == f"{TAKEN_IN}, frozen: its gate_bias"
    model.layers[1].beta.trainable = False
    assert report_of(model)[1] == f"{TAKEN_IN}, frozen: its bias and gate_bias"


@pytest.mark.parametrize("beta", [0.0, 1e-5, 0.5, -0.5])
@pytest.mark.parametrize("gamma", [0.0, 1e-7, -1e-4, -2.0])
def test_a_small_gamma_keeps_the_kernel_and_the_function(gamma, beta):
    model = build(conv(), norm(), relu())
    model.layers[1].gamma.assign(np.full(8, gamma))
    model.layers[1].beta.assign(np.full(8, beta))
    kernel = ops.convert_to_numpy(model.layers[0].kernel)
    layer = (wrapped := fbs_keras.wrap(model, include="conv")).layers[0]
    features = [keras.Model(each.inputs, each.layers[-3].output) for each in (model, wrapped)]
    expected, output = (ops.convert_to_numpy(each(X)) for each in features)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=30 * SMALLEST_GAMMA)
    kept = ops.convert_to_numpy(layer.kernel)
    share = np.abs(kept).sum(axis=(0, 1, 2)) / np.abs(kernel).sum(axis=(0, 1, 2))
    np.testing.assert_allclose(kept, np.sign(gamma or 1) * share * kernel, rtol=1e-4, atol=1e-7)
    assert (share > (0.99 if not beta else 0.99 * SMALLEST_FILTER)).all()
    assert np.abs(ops.convert_to_numpy(layer.bias)).max() <= max(1, abs(beta) / 1e-3) * 1.001


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="fit in a graph is the same, one is enough")
def test_a_channel_of_gamma_zero_comes_back():
    model = build(conv(use_bias=False), norm())
    model.layers[1].gamma.assign(np.zeros(8))
    model.layers[1].beta.assign(np.zeros(8))
    wrapped = fbs_keras.wrap(model, include="conv")
    y = np.random.default_rng(2).normal(size=(4, 4))
    for each in (model, wrapped):
        each.compile(keras.optimizers.SGD(0.01), "mse")
        each.fit(X, y, epochs=20, verbose=0)
    gamma, gates = (ops.convert_to_numpy(w) for w in (model.layers[1].gamma, wrapped.layers[0].gate_bias))
    assert np.abs(gamma).max() > 0.01
    assert gates.max() > 0.01
