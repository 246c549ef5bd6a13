"""Gates of a user's own: what they compute, train and are saved as, on each backend alike."""

import keras
import numpy as np
import pytest
from gates import GATES, Bottleneck, bottleneck, peak
from keras import layers

import fbs_keras
from fbs_keras import FBSConv2D
from fbs_keras.graph import rewriting

FORMATS = ("channels_last",) if keras.backend.backend() == "tensorflow" else ("channels_last", "channels_first")


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def images(*shape):
    return np.random.default_rng(0).normal(size=shape or (4, 8, 8, 6)).astype("float32")


def randomise(layer):
    random = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(random.normal(size=weight.shape))
    return layer


def model_of(*fbs_layers):
    return keras.Sequential([keras.Input((8, 8, 6)), *fbs_layers, layers.GlobalAveragePooling2D(), layers.Dense(3)])


def dense(layer, s):
    return s @ to_numpy(layer.kernel) + to_numpy(layer.bias)


def by_bottleneck(layer, x):
    first, second = layer.gate_layer.layers
    return dense(second, np.maximum(dense(first, np.abs(x).mean((1, 2))), 0))


def by_peak(layer, x):
    return np.abs(x).max((1, 2)) @ to_numpy(layer.gate_kernel) + to_numpy(layer.gate_bias)


def by_image(layer, x):
    return dense(layer.gate_layer.layers[-1], x.max((1, 2)))


EXPECTED = {
    "bottleneck": by_bottleneck,
    "max": by_peak,
    "image": by_image,
}


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("name", EXPECTED)
def test_computes_g_and_the_winners(name, data_format):
    layer = FBSConv2D(
        12, 3, density=0.5, group_size=2, normalize=False, data_format=data_format, **GATES[name](12, data_format)
    )
    x = images()
    inputs = x.transpose(0, 3, 1, 2).copy() if data_format == "channels_first" else x
    layer.build(inputs.shape)
    randomise(layer)
    expected = np.maximum(EXPECTED[name](layer, x), 0)
    g = layer.predict_saliency(keras.ops.convert_to_tensor(inputs))
    np.testing.assert_allclose(to_numpy(g), expected, rtol=1e-5, atol=1e-5)
    plain = to_numpy(keras.ops.conv(inputs, layer.kernel, data_format=data_format))
    plain, y = (to_numpy(each).astype("float64") for each in (plain, layer(inputs)))
    if data_format == "channels_first":
        plain, y = (each.transpose(0, 2, 3, 1) for each in (plain, y))
    pi = np.zeros_like(expected)
    for row, values in zip(pi, expected, strict=True):
        groups = np.argsort(-values.reshape(-1, 2).mean(1), kind="stable")[:3]
        row.reshape(-1, 2)[groups] = values.reshape(-1, 2)[groups]
    want = np.maximum(pi[:, None, None] * (plain + to_numpy(layer.bias)), 0)
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-5 * want.max())


@pytest.mark.parametrize("name", GATES)
def test_a_step_of_training_moves_the_gate(name):
    layer = FBSConv2D(12, 3, density=0.5, **GATES[name](12))
    model = model_of(layer)
    model.compile("sgd", "mse")
    before = [to_numpy(weight) for weight in layer.trainable_weights]
    callback = fbs_keras.SaliencyRegularizer(0.1)
    model.fit(images(), np.ones((4, 3)), callbacks=[callback], verbose=0)
    weights = layer.trainable_weights
    assert len(weights) == len(before) > 2
    moved = [np.abs(to_numpy(weight) - value).max() > 0 for weight, value in zip(weights, before, strict=True)]
    assert all(moved)
    assert fbs_keras.gate_statistics(model)[0].saliency > 0


@pytest.mark.parametrize("name", GATES)
def test_copies_compute_the_same(name, tmp_path):
    settings = {"use_bias": False, "density": 0.5}  # a bias would be the gate's only one
    model = model_of(*(FBSConv2D(12, 3, **settings, **GATES[name](12)) for _ in range(2)))
    model.compile("sgd", "mse")
    model.fit(images(), np.ones((4, 3)), verbose=0)
    expected = model.predict(images(), verbose=0)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    copies = [clone, rewriting.rewrite(model, lambda layer: None)[0]]
    for suffix in (".keras", ".weights.h5", ".h5"):
        path = tmp_path / f"model{suffix}"
        if suffix == ".weights.h5":
            model.save_weights(path)
            copies.append(keras.models.clone_model(model))
            copies[-1].load_weights(path)
        else:
            model.save(path)
            copies.append(keras.models.load_model(path, compile=False))
    for copy in copies:
        np.testing.assert_array_equal(copy.predict(images(), verbose=0), expected)
        gate = copy.layers[0].gate_layer
        assert gate is None or gate is not model.layers[0].gate_layer


def test_the_linear_gate_keeps_its_weights():
    layer = FBSConv2D(8, 3)
    layer.build((None, 8, 8, 6))
    names = ["kernel", "bias", "gate_kernel", "gate_bias", "density", "saliency_weight", "usage", "saliency"]
    assert sorted(weight.name for weight in layer.weights) == sorted([*names, "moving_mean", "moving_variance"])
    assert list(layer._stored_weights()) == names
    config = layer.get_config()
    assert (config["gate"], config["gate_input"]) == (None, "mean")
    del config["gate"], config["gate_input"]  # as in files from before
    assert FBSConv2D.from_config(config).gate_layer is None


def test_mixed_precision_computes_g_in_float32():
    layer = FBSConv2D(8, 3, density=0.5, dtype="mixed_bfloat16", gate=bottleneck(8))
    y = layer(images().astype("float32"))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    g = layer.predict_saliency(keras.ops.convert_to_tensor(images()))
    assert keras.backend.standardize_dtype(g.dtype) == "float32"
    single = rewriting.as_float32(model_of(FBSConv2D(8, 3, density=0.5, dtype="mixed_bfloat16", gate=bottleneck(8))))
    assert single.layers[0].compute_dtype == "float32"
    assert single.layers[0].gate_layer.layers[0].compute_dtype == "float32"


def test_frozen_gates_stay_frozen_in_copies():
    gate = bottleneck(8)
    gate.layers[0].trainable = False
    model = model_of(FBSConv2D(8, 3, density=0.5, gate=gate))
    copy, _ = rewriting.rewrite(model, lambda layer: None)
    assert [layer.trainable for layer in copy.layers[0].gate_layer.layers] == [False, True]
    model.layers[0].trainable = False
    assert not model.layers[0].trainable_weights


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"gate": 3}, TypeError, "gate must be a Keras layer or model, or None"),
        ({"gate": lambda s: s}, TypeError, "gate must be a Keras layer or model, or None"),
        ({"gate_input": "sum"}, ValueError, "gate_input must be one of 'mean', 'max', 'x', got 'sum'"),
        ({"gate_input": "x"}, ValueError, "gate_input='x' needs a gate that reads images"),
        ({"gate": layers.Dense(8), "gate_bias_constraint": "non_neg"}, ValueError, "gate_bias_constraint is for phi"),
        ({"gate": layers.Dense(8), "gate_kernel_regularizer": "l2"}, ValueError, "gate_kernel_regularizer is for phi"),
        ({"gate": layers.Dense(7)}, ValueError, r"'mine' \(Dense\) must return g of shape \(None, 8\), .* \(None, 7\)"),
        ({"gate": layers.Dense(8), "gate_input": "x"}, ValueError, r"must return g of .* got \(None, 8, 8, 8\)"),
        ({"gate": layers.GlobalMaxPooling2D()}, ValueError, r"cannot read gate_input='mean' .*with gate_input='x' it"),
        ({"gate": layers.Dense(8, dtype="mixed_bfloat16")}, ValueError, "must compute in float32, .*got bfloat16"),
        ({"gate": layers.Lambda(lambda s: [s, s])}, ValueError, r"must return g of shape \(None, 8\), .*got list"),
    ],
)
def test_refuses(settings, error, sentence):
    with pytest.raises(error, match=sentence):
        FBSConv2D(8, 3, name="mine", **settings).build((None, 8, 8, 6))


@pytest.mark.parametrize(
    ("settings", "gate"),
    [
        ({"gate": bottleneck(12, 4)}, 6 * 4 + 4 * 12),
        ({"gate": Bottleneck(12, 4)}, 6 * 4 + 4 * 12),
        ({"gate": layers.Dense(12)}, 6 * 12),
        ({"gate": layers.Dense(12), "gate_input": "max"}, 6 * 12),
        ({"gate_input": "max"}, 6 * 12),
        (peak(12), 6 * 12),
        (
            {
                "gate": keras.Sequential([layers.Conv2D(2, 3), layers.GlobalMaxPooling2D(), layers.Dense(12)]),
                "gate_input": "x",
            },
            36 * 9 * 6 * 2 + 2 * 12,
        ),
    ],
    ids=str,
)
def test_macs_are_those_of_a_small_model(settings, gate):
    report = fbs_keras.count_macs(model_of(FBSConv2D(12, 3, density=0.5, **settings)))
    assert (report.rows[0].gate, report.uncounted) == (gate + 36 * 12, [])


class Product(layers.Layer):
    """A gate with a weight of its own, whose product nothing counts."""

    def build(self, input_shape):
        self.matrix = self.add_weight(shape=(input_shape[-1], 12))

    def call(self, s):
        return keras.ops.matmul(s, self.matrix)


def test_tells_which_gate_is_not_counted():
    model = model_of(FBSConv2D(12, 3, density=0.5, gate=Product(name="product"), name="conv"))
    assert fbs_keras.count_macs(model).uncounted == ["conv/product"]


def test_budget_takes_them():
    model = model_of(FBSConv2D(12, 3, gate=bottleneck(12)), FBSConv2D(12, 3))
    for per_layer in (False, True):
        fbs_keras.set_density(model, fbs_keras.density_for_macs(model, 1.3, per_layer=per_layer))
        assert fbs_keras.count_macs(model).saving >= 1.3


def test_remove_unused_and_fit_gates_leave_them_alone():
    model = model_of(
        FBSConv2D(12, 3, name="before", gate_kernel_initializer="zeros"),
        FBSConv2D(12, 1, name="own", gate=bottleneck(12)),
        FBSConv2D(12, 1, name="peak", gate_input="max", gate_kernel_initializer="zeros"),
    )
    model.layers[2].usage.assign([0.0] * 6 + [1.0] * 6)
    model.layers[2].density.assign(0.25)
    before = "before: {}left alone: own reads it, whose gate is a layer, "
    own = "own: {}left alone: its gate is a layer, "
    lines = []
    smaller = fbs_keras.remove_unused(model, print_fn=lines.append)
    assert lines[0].startswith(before.format("12 channels: ")) and lines[1].startswith(own.format("12 channels: "))
    assert smaller.layers[2].filters == 6 and smaller.layers[2].gate_input == "max"
    lines.clear()
    fbs_keras.fit_gates(model, images(), print_fn=lines.append)
    assert lines[0].startswith(before.format("")) and lines[1].startswith(own.format("")) and "fitted" in lines[2]
