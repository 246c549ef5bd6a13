import copy
import os
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest

import fbs_keras
from fbs_keras import FBSConv2D
from fbs_keras.graph import rewriting
from fbs_keras.layers.fbs_conv2d import keeps_zero

BACKEND = keras.backend.backend()


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def randomise(layer, seed=0):
    """Gives every weight of a layer a random value, variances positive."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        if weight.name not in ("density", "saliency_weight"):
            value = rng.normal(size=weight.shape)
            weight.assign(np.abs(value) + 0.5 if weight.name == "moving_variance" else value)


ACTIVATIONS = {"relu": lambda y: np.maximum(y, 0), "relu6": lambda y: np.clip(y, 0, 6), "tanh": np.tanh}


def reference(layer, x):
    """The paper's equations in NumPy, around Keras's own convolution."""
    kernel, beta, phi, rho = (
        to_numpy(weight) for weight in (layer.kernel, layer.bias, layer.gate_kernel, layer.gate_bias)
    )
    g = np.maximum(np.abs(x).mean(axis=(1, 2)) @ phi + rho, 0)
    pi = np.zeros_like(g)
    for row, values in enumerate(g):
        won = np.argsort(-values, kind="stable")[: layer.active_channels]
        pi[row, won] = values[won]
    conv = to_numpy(keras.ops.conv(x, kernel, layer.strides, layer.padding, dilation_rate=layer.dilation_rate))
    norm = (conv - to_numpy(layer.norm.moving_mean)) / np.sqrt(to_numpy(layer.norm.moving_variance) + layer.epsilon)
    return ACTIVATIONS[layer.activation.__name__](pi[:, None, None] * (norm + beta))


CASES = [
    {},
    {"padding": "same"},
    {"strides": 2, "padding": "same"},
    {"strides": (2, 1)},
    {"kernel_size": 1},
    {"kernel_size": (5, 3), "padding": "same"},
    {"dilation_rate": 2},
    {"density": 0.3},
    {"density": 1.0},
    {"density": 0.01},
    {"activation": "relu6"},
    {"activation": "tanh"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_computes_the_papers_equations(case):
    layer = FBSConv2D(**{"filters": 10, "kernel_size": 3, "density": 0.5, **case})
    x = np.random.default_rng(1).normal(size=(4, 9, 8, 5)).astype("float32")
    layer(x)
    randomise(layer)
    y = to_numpy(layer(x))
    np.testing.assert_allclose(y, reference(layer, x), rtol=1e-4, atol=1e-5)
    assert (np.abs(y).sum(axis=(1, 2)) > 0).sum(axis=1).max() <= layer.active_channels


def test_without_norm_bias_or_activation_is_a_gated_convolution():
    layer = FBSConv2D(6, 3, activation=None, use_bias=False, normalize=False, density=0.5)
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 4)).astype("float32")
    y = to_numpy(layer(x))
    gate = to_numpy(layer.gate(x))
    conv = to_numpy(keras.ops.conv(x, layer.kernel))
    np.testing.assert_allclose(y, gate[:, None, None] * conv, rtol=1e-4, atol=1e-5)
    assert ((gate > 0).sum(axis=1) == 3).all()


def test_channels_first_equals_channels_last():
    if BACKEND == "tensorflow":
        pytest.skip("TensorFlow has no channels_first convolution on CPUs")
    last = FBSConv2D(6, 3, density=0.5, data_format="channels_last")
    first = FBSConv2D(6, 3, density=0.5, data_format="channels_first")
    x = np.random.default_rng(1).normal(size=(2, 7, 6, 4)).astype("float32")
    last(x), first(x.transpose(0, 3, 1, 2))
    randomise(last)
    first.set_weights(last.get_weights())
    np.testing.assert_allclose(
        to_numpy(first(x.transpose(0, 3, 1, 2))).transpose(0, 2, 3, 1), to_numpy(last(x)), rtol=1e-4, atol=1e-5
    )


def test_group_size_chooses_whole_groups():
    layer = FBSConv2D(8, 3, density=0.5, group_size=4)
    gate = to_numpy(layer.gate(layer_input(layer)))
    won = (gate.reshape(-1, 2, 4) > 0).any(axis=2)
    assert layer.active_channels == 4
    assert (won.sum(axis=1) == 1).all()


@pytest.mark.parametrize(("density", "k"), [(0.25, 16), (0.26, 32), (0.5, 32), (0.9, 64)])
def test_round_channels(density, k):
    layer = FBSConv2D(64, 3, round_channels=16)
    x = layer_input(layer)
    layer.gate_bias.assign(100 + np.arange(64))  # no gate is 0
    fbs_keras.set_density(layer, density)
    assert layer.active_channels == k
    assert ((to_numpy(layer.gate(x)) > 0).sum(axis=1) == k).all()
    assert ((np.abs(to_numpy(layer(x))).sum(axis=(1, 2)) > 0).sum(axis=1) <= k).all()


def layer_input(layer, batch=4):
    x = np.random.default_rng(2).normal(size=(batch, 8, 8, 3)).astype("float32")
    layer(x)
    randomise(layer)
    return x


def gradients(layer, x):
    """d sum(y^2) / d(kernel, phi, rho) by the backend's own autodiff."""
    variables = layer.trainable_variables
    if BACKEND == "torch":
        (layer(x) ** 2).sum().backward()
        return [variable.value.grad.numpy() for variable in variables]
    if BACKEND == "jax":
        import jax

        def loss(trainable):
            y, _ = layer.stateless_call(trainable, [v.value for v in layer.non_trainable_variables], x)
            return (y**2).sum()

        return [np.asarray(gradient) for gradient in jax.grad(loss)([v.value for v in variables])]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    return [gradient.numpy() for gradient in tape.gradient(loss, [v.value for v in variables])]


def test_gradient_reaches_winners_only():
    layer = FBSConv2D(8, 3, density=0.25)
    x = layer_input(layer, batch=1)
    won = to_numpy(layer.gate(x))[0] > 0
    assert won.sum() == 2
    for variable, gradient in zip(layer.trainable_variables, gradients(layer, x), strict=True):
        by_channel = np.abs(gradient).reshape(-1, 8).sum(axis=0)
        assert (by_channel[~won] == 0).all(), variable.name
        assert (by_channel[won] > 0).any(), variable.name


POLICIES = [
    ("float32", False),
    ("float32", True),
    ("mixed_bfloat16", True),
    ("mixed_float16", False),
    ("float16", True),
    ("float64", False),
]


@pytest.mark.parametrize(("policy", "jit_compile"), POLICIES)
def test_trains_under_dtype_policies(policy, jit_compile):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            FBSConv2D(8, 3, density=0.5, dtype=policy),
            FBSConv2D(8, 3, density=0.5, strides=2, dtype=policy),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, dtype="float32"),
        ]
    )
    # A rate at which float16 weights near 1 still move.
    optimizer = keras.optimizers.SGD(0.5)
    jit_compile = jit_compile and BACKEND != "torch"  # torch.compile takes minutes
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=jit_compile)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 8, 8, 3)).astype("float32"), rng.integers(0, 2, size=16)
    before = [to_numpy(weight) for weight in model.trainable_weights]
    history = model.fit(x, y, epochs=2, batch_size=8, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert model.layers[0].compute_dtype == policy.removeprefix("mixed_")
    changed = [np.abs(to_numpy(w) - b).max() > 0 for w, b in zip(model.trainable_weights, before, strict=True)]
    assert all(changed)


def test_half_precision_chooses_the_same_channels_as_float32():
    half, single = FBSConv2D(32, 3, density=0.5, dtype="mixed_float16"), FBSConv2D(32, 3, density=0.5)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 16)).astype("float16")
    half(x), single(x.astype("float32"))
    half.set_weights(single.get_weights())
    np.testing.assert_allclose(to_numpy(half.gate(x)), to_numpy(single.gate(x.astype("float32"))), rtol=1e-5)


def test_regularisers_constraints_and_initialisers_reach_the_weights():
    layer = FBSConv2D(
        4,
        3,
        kernel_initializer="ones",
        bias_initializer="ones",
        gate_kernel_initializer="ones",
        gate_bias_initializer="zeros",
        kernel_regularizer="l2",
        gate_kernel_regularizer="l1",
        gate_bias_constraint="non_neg",
        activity_regularizer="l2",
    )
    layer(np.ones((1, 5, 5, 2), "float32"))
    assert to_numpy(layer.gate_kernel).min() == to_numpy(layer.bias).min() == 1
    assert to_numpy(layer.gate_bias).max() == 0
    # The kernel's L2, phi's L1, the activity's L2 and the saliency's weight, which is 0.
    losses = sorted(float(to_numpy(loss)) for loss in layer.losses)
    assert len(losses) == 4
    assert losses[0] == 0
    assert layer.gate_bias.constraint is not None


def test_saliency_weight_adds_the_l1_of_g():
    layer = FBSConv2D(4, 3, density=0.5)
    x = layer_input(layer)
    layer.saliency_weight.assign(0.5)
    layer(x)
    expected = 0.5 * to_numpy(layer.predict_saliency(x)).sum(axis=1).mean()
    np.testing.assert_allclose(float(to_numpy(sum(layer.losses))), expected, rtol=1e-5)


def test_training_tracks_usage():
    layer = FBSConv2D(8, 3, density=0.25, momentum=0.5)
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype("float32")
    for _ in range(30):
        layer(x, training=True)
    np.testing.assert_allclose(to_numpy(layer.usage), (to_numpy(layer.gate(x)) > 0).mean(axis=0), atol=1e-6)
    usage = to_numpy(layer.usage)
    layer(-x[:1], training=False)
    np.testing.assert_array_equal(to_numpy(layer.usage), usage)


def test_usage_starts_with_the_first_batch_at_a_density():
    layer, rng = (
        FBSConv2D(8, 3, gate_bias_initializer=keras.initializers.RandomNormal(1, 1, seed=0)),
        np.random.default_rng(0),
    )

    def train(density, steps):
        layer.density.assign(density)
        wins = []
        for _ in range(steps):
            x = rng.normal(size=(16, 6, 6, 3)).astype("float32")
            layer(x, training=True)
            wins.append(to_numpy(layer.winners(layer.predict_saliency(keras.ops.convert_to_tensor(x)))).mean(axis=0))
        return wins

    train(1.0, 3)
    assert (to_numpy(layer.usage) == 1).all()
    for density in (0.5, 0.25):
        first, second, third = train(density, 3)
        expected = 0.99 * (0.99 * first + 0.01 * second) + 0.01 * third
        np.testing.assert_allclose(to_numpy(layer.usage), expected, atol=1e-6)
        assert (to_numpy(layer.usage) < 0.01).any()


@pytest.mark.parametrize(
    ("activation", "keeps"),
    [
        (keras.activations.relu, True),
        (keras.activations.sigmoid, False),
        (keras.activations.softmax, False),
        (keras.activations.glu, False),  # needs two channels
        (keras.layers.ReLU(threshold=1.0, negative_slope=0.5), False),
        (keras.layers.PReLU(), True),
        (keras.layers.BatchNormalization(), False),
        (lambda x: x - keras.ops.mean(x, axis=(1, 2), keepdims=True), True),  # needs an image
        (lambda x: keras.ops.sum(x, axis=-1), False),
        (lambda x: x / x, False),
    ],
    ids=["relu", "sigmoid", "softmax", "glu", "ReLU", "PReLU", "BatchNormalization", "centred", "sum", "quotient"],
)
def test_keeps_zero(activation, keeps):
    assert keeps_zero(activation) is keeps
    assert not getattr(activation, "weights", ())  # which would be for one channel


def test_config_round_trip():
    layer = FBSConv2D(
        8,
        (3, 1),
        strides=2,
        padding="same",
        activation="relu6",
        use_bias=False,
        density=0.7,
        group_size=2,
        round_channels=4,
        normalize=False,
        momentum=0.9,
        epsilon=1e-5,
        gate_kernel_regularizer="l1",
        dtype="mixed_bfloat16",
        name="gated",
    )
    config = layer.get_config()
    again = FBSConv2D.from_config(config)
    assert again.get_config() == config
    assert (again.density, again.group_size, again.strides, again.name) == (0.7, 2, (2, 2), "gated")
    assert (again.round_channels, again.active_channels) == (4, 8)
    for added in ("group_size", "round_channels"):  # models saved before the settings were there
        del config[added]
    old = FBSConv2D.from_config(config)
    assert (old.group_size, old.round_channels) == (1, 1)


def small_model(**kwargs):
    layers = [FBSConv2D(6, 3, density=0.5, name="a", **kwargs), FBSConv2D(4, 3, normalize=False, name="b", **kwargs)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers, keras.layers.Flatten(), keras.layers.Dense(2)])
    for seed, layer in enumerate(model.layers[:2]):
        randomise(layer, seed)
    return model


def lora_model():
    model = small_model()
    for layer in model.layers[:2]:
        layer.enable_lora(2)
        rng = np.random.default_rng(0)
        layer.lora_kernel_b.assign(rng.normal(size=layer.lora_kernel_b.shape))
    return model


def saved(model, path):
    model.save(path)
    return keras.saving.load_model(path)


def weights_saved(model, path, other):
    model.save_weights(path)
    other.load_weights(path)
    return other


def cloned(model):
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


COPIES = {
    "keras": lambda model, folder: saved(model, folder / "model.keras"),
    "h5": lambda model, folder: saved(model, folder / "model.h5"),
    "weights": lambda model, folder: weights_saved(model, folder / "model.weights.h5", cloned(model)),
    "weights without LoRA": lambda model, folder: weights_saved(model, folder / "model.weights.h5", small_model()),
    "clone": lambda model, folder: cloned(model),
    "deepcopy": lambda model, folder: copy.deepcopy(model),
    "pickle": lambda model, folder: pickle.loads(pickle.dumps(model)),
    "rewrite": lambda model, folder: rewriting.rewrite(model, lambda layer: None)[0],
}


@pytest.mark.parametrize("make", [small_model, lora_model])
@pytest.mark.parametrize("way", COPIES)
def test_copies_compute_the_same(make, way, tmp_path):
    model = make()
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    other = COPIES[way](model, tmp_path)
    np.testing.assert_allclose(to_numpy(other(x)), to_numpy(model(x)), rtol=1e-6, atol=1e-6)


def test_lora(tmp_path):
    model = lora_model()
    layer = model.layers[0]
    product = to_numpy(layer.lora_kernel_a) @ to_numpy(layer.lora_kernel_b)
    kernel = next(weight for weight in layer.weights if weight.name == "kernel")
    np.testing.assert_allclose(to_numpy(layer.kernel), to_numpy(kernel) + product, rtol=1e-5, atol=1e-5)
    loaded = saved(model, tmp_path / "model.keras").layers[0]
    np.testing.assert_array_equal(to_numpy(loaded.kernel), to_numpy(layer.kernel))
    assert [weight.trainable for weight in loaded.weights] == [weight.trainable for weight in layer.weights]
    assert to_numpy(loaded.lora_kernel_a).any(), "both factors zero: nothing would train them"


def test_weights_of_another_layer_are_refused(tmp_path):
    small_model(use_bias=False).save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=r"FBSConv2D 'a' expected 8 weights \(kernel, bias, .*but the file has 7"):
        small_model().load_weights(tmp_path / "model.weights.h5")


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_quantize_says_what_to_do(mode):
    if mode == "int4" and not hasattr(keras.quantizers, "pack_int4"):
        pytest.skip("this Keras has no int4")
    model = small_model()
    with pytest.warns(UserWarning) as warned:
        model.quantize(mode)
    said = [str(warning.message) for warning in warned]
    for name in "ab":
        message = f"FBSConv2D '{name}' has no quantized form in Keras and stays as it is"
        assert sum(message in each for each in said) == 1, said
    with pytest.raises(NotImplementedError, match="for an int8 file use"):
        model.layers[0].quantize(mode)
    with pytest.raises(ValueError, match=f"dtype must be a policy of floating-point numbers.*got '{mode}"):
        FBSConv2D(8, 3, dtype=f"{mode}_from_float32")


def policy_map():
    policies = keras.dtype_policies.DTypePolicyMap(default_policy="float32")
    policies["fbs"] = "mixed_bfloat16"
    return policies


@pytest.mark.parametrize(
    ("dtype", "later", "expected"),
    [
        ("float32", "mixed_bfloat16", "bfloat16"),
        ("mixed_bfloat16", "float32", "float32"),
        ("float16", "float32", "float32"),
        (policy_map(), None, "bfloat16"),
    ],
)
@pytest.mark.parametrize("kind", ["float32", "int32"])
def test_policies_that_change_and_inputs_of_other_dtypes(dtype, later, expected, kind):
    layer = FBSConv2D(6, 3, dtype=dtype, name="fbs", density=0.5)
    x = np.random.default_rng(0).integers(-9, 9, (4, 8, 8, 3))
    layer(x.astype("float32"))
    if later is not None:
        layer.dtype_policy = later
    y = layer(x.astype(kind), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == expected
    again = FBSConv2D.from_config(layer.get_config())
    assert keras.backend.standardize_dtype(again(x.astype(kind)).dtype) == expected


@pytest.mark.parametrize("argument", [True, False])
def test_a_frozen_norm_stays_frozen(argument):
    layer = FBSConv2D(6, 3, norm_trainable=argument)
    x = layer_input(layer)
    layer.norm.trainable = False
    if not argument:  # else nothing tells a norm frozen before from one frozen with the layer
        layer.trainable = False
        layer.trainable = True
    again = FBSConv2D.from_config(layer.get_config())
    again(x)
    for each in (layer, again):
        before = to_numpy(each.norm.moving_mean)
        each(x, training=True)
        np.testing.assert_array_equal(to_numpy(each.norm.moving_mean), before)


LOAD = """
import sys, keras, numpy, fbs_keras
model = keras.saving.load_model(sys.argv[1])
x = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], model.predict(x, verbose=0))
print([layer.active_channels for layer in model.layers if isinstance(layer, fbs_keras.FBSConv2D)])
"""


def test_saved_model_loads_in_a_fresh_process(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), FBSConv2D(8, 3), FBSConv2D(6, 3), keras.layers.Flatten()])
    for seed, layer in enumerate(model.layers[:2]):
        randomise(layer, seed)
    fbs_keras.set_density(model, 0.5)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    model.save(tmp_path / "model.keras")
    files = [str(tmp_path / name) for name in ("model.keras", "x.npy", "y.npy")]
    run = subprocess.run([sys.executable, "-c", LOAD, *files], capture_output=True, text=True, env=os.environ)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("[4, 3]")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"density": 0}, ValueError, r"density must be in \(0, 1\], got 0"),
        ({"density": 1.5}, ValueError, r"density must be in \(0, 1\], got 1.5"),
        ({"density": float("nan")}, ValueError, r"density must be in \(0, 1\], got nan"),
        ({"density": "half"}, TypeError, "density must be a number .* got 'half'"),
        ({"groups": 2}, ValueError, "groups must be 1 in FBSConv2D, got 2"),
        ({"group_size": 3}, ValueError, "group_size must divide filters = 8, got 3"),
        ({"group_size": 0}, ValueError, "group_size must be at least 1, got 0"),
        ({"group_size": 2.0}, TypeError, "group_size must be an integer, got 2.0"),
        ({"round_channels": 0}, ValueError, "round_channels must be at least 1, got 0"),
        ({"round_channels": True}, TypeError, "round_channels must be an integer, got True"),
        ({"activation": "sigmoid"}, ValueError, "activation must map 0 to 0.*got 'sigmoid'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        FBSConv2D(8, 3, **arguments)


def test_the_core_imports_no_tensorflow():
    if BACKEND == "tensorflow":
        pytest.skip("Keras itself imports TensorFlow on this backend")
    code = "import sys, fbs_keras; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


@pytest.mark.parametrize("frozen", ["kernel", ("norm",), [1]])
def test_frozen_names_weights(frozen):
    with pytest.raises(ValueError, match=r"frozen must hold names of 'kernel', .*, got"):
        fbs_keras.FBSConv2D(4, 3, frozen=frozen)


def test_frozen_is_what_is_not_trained_now():
    layer = fbs_keras.FBSConv2D(4, 3, frozen=("kernel",))
    assert layer.get_config()["frozen"] == ["kernel"]
    layer.build((None, 8, 8, 3))
    assert [weight.name for weight in layer.trainable_weights] == ["bias", "gate_kernel", "gate_bias"]
    layer.trainable = False
    assert layer.get_config()["frozen"] == ["kernel"]
    layer.trainable = True
    assert layer.get_config()["frozen"] == []
    layer.gate_bias.trainable = False
    assert layer.get_config()["frozen"] == ["gate_bias"]
