"""Tests of fbs_keras/export/verification.py."""

import dataclasses
import re

import keras
import numpy as np
import pytest
import small_models
from keras import layers

import fbs_keras
from fbs_keras.export import convert, verify
from fbs_keras.export.verification import signal_to_noise
from fbs_keras.graph import reading


@pytest.mark.parametrize("target", ["portable", "builtin"])
def test_accepts_a_right_file(target, tmp_path):
    model = small_models.make("sequential")
    convert(model, tmp_path / "model.tflite", target=target)
    report = verify(model, tmp_path / "model.tflite")
    assert (report.examples, report.compared_gates) == (16, 3 if target == "portable" else 0)
    assert report.difference < 1e-4
    assert f"{report.difference:.1e}" in str(report)


@pytest.mark.parametrize(("name", "gates"), [("inverted_residual", 7), ("excited_blocks", 6), ("concatenations", 4)])
def test_follows_masks(name, gates):
    model = small_models.make(name)
    report = verify(model, convert(model))
    assert (report.compared_gates, report.near_ties) == (gates, 0)
    assert report.difference < 1e-4


def test_finds_wrong_channels():
    model = small_models.make("sequential")
    content = convert(model)
    layer = model.layers[1]
    layer.gate_bias.assign(np.roll(keras.ops.convert_to_numpy(layer.gate_bias), 1))
    with pytest.raises(ValueError, match=rf"layer '{layer.name}', example \d+: the file chooses channels \["):
        verify(model, content)


@pytest.mark.parametrize("target", ["portable", "builtin"])
def test_finds_wrong_values(target):
    model = small_models.make("sequential")
    content = convert(model, target=target)
    model.layers[-1].bias.assign(model.layers[-1].bias + 0.1)
    with pytest.raises(ValueError, match="the outputs differ by"):
        verify(model, content)


def test_finds_another_density():
    model = small_models.make("sequential")
    content = convert(model)
    fbs_keras.set_density(model, 0.75)
    with pytest.raises(ValueError, match="chooses channels"):
        verify(model, content)


def test_counts_near_ties():
    """A gate within rounding of another: the file, with the gates' order changed by that much, chooses otherwise."""
    model = small_models.make("sequential")
    layer = model.layers[1]
    x = small_models.noise(model, 6)
    g = keras.ops.convert_to_numpy(layer.predict_saliency(model.layers[0](x[0])))
    order = np.argsort(-g[2])
    k = layer.active_channels
    bias = keras.ops.convert_to_numpy(layer.gate_bias)
    bias[order[k]] += g[2, order[k - 1]] - g[2, order[k]]  # example 2 has a tie at the last place
    layer.gate_bias.assign(bias + np.eye(len(bias))[order[k]] * 3e-6)
    content = convert(model)
    layer.gate_bias.assign(bias - np.eye(len(bias))[order[k]] * 3e-6)
    report = verify(model, content, x)
    assert report.near_ties == 1
    with pytest.raises(ValueError, match="every example has a near-tie"):
        verify(model, content, [x[0][2:3]])


def test_own_inputs():
    model = small_models.make("several_inputs_and_outputs")
    x = small_models.noise(model, 3)
    assert verify(model, convert(model), x).examples == 3


def test_one_array_for_each_input():
    model = small_models.make("sequential")
    with pytest.raises(ValueError, match="each of the model's 1 inputs, got 2"):
        verify(model, convert(model), 2 * small_models.noise(model))


@pytest.mark.parametrize(
    "content, message",
    [
        ("/no/such.tflite", "no file '/no/such.tflite'"),
        (b"PK", "must be a TFLite model, which 2 bytes is not"),
        (b"\x20\0\0\0TFL3" + bytes(range(256)), "LiteRT cannot read this model"),
        (None, "got NoneType"),
    ],
    ids=["missing", "bytes", "corrupt", "none"],
)
def test_refuses_what_is_no_file(content, message):
    with pytest.raises(ValueError, match=message):
        verify(small_models.make("sequential"), content)


def test_refuses_the_file_of_another_model():
    model, other = small_models.make("compact_output"), small_models.make("sequential")
    shapes = "the model's outputs have the shapes [(10, 11, 8)], the file's [(5,)]"
    with pytest.raises(ValueError, match=re.escape(shapes)):
        verify(model, convert(other))
    shapes = "the model's outputs have the shapes [(5,)], the file's [(10, 11, 8)]"
    with pytest.raises(ValueError, match=re.escape(shapes)):
        verify(other, convert(model, target="builtin"))


def test_fixed_batch():
    x = keras.Input(batch_shape=(2, 6, 6, 3))
    model = keras.Model(x, fbs_keras.FBSConv2D(8, 3, density=0.5)(x))
    assert verify(model, convert(model, batch_size=2)).examples == 2


def test_does_not_rely_on_how_the_graph_is_read(monkeypatch):
    """Outputs read in the wrong order, for the file and here alike, are found all the same."""
    x = keras.Input(small_models.IMAGE)
    y = fbs_keras.FBSConv2D(8, 3, density=0.5)(x)
    model = keras.Model(x, [layers.ReLU()(y), layers.Rescaling(2.0)(y)])
    assert verify(model, convert(model)).difference < 1e-4
    read = reading.read

    def read_wrongly(model):
        graph = read(model)
        return dataclasses.replace(graph, outputs=graph.outputs[::-1])

    monkeypatch.setattr(reading, "read", read_wrongly)
    with pytest.raises(ValueError, match="the outputs differ by"):
        verify(model, convert(model))


@pytest.mark.parametrize("target", ["portable", "builtin"])
@pytest.mark.parametrize("quantize", ["float16", "dynamic_int8"])
def test_quantised_files(quantize, target):
    model = small_models.make("sequential")
    content = convert(model, target=target, quantize=quantize)
    report = verify(model, content)
    assert (report.examples, report.quantize) == (16, quantize)
    assert 30 < report.signal_to_noise < 90 and 0.8 <= report.same_class <= 1
    assert report.accuracy_keras is report.accuracy_file is None
    assert str(report).startswith(
        f"16 examples, {quantize}, signal to noise {report.signal_to_noise:.1f} dB, same class "
    )
    x = small_models.noise(model, 8)
    classes = np.argmax(model(x[0]), axis=1)
    labels = np.where(np.arange(8) < 6, classes, (classes + 1) % 5)
    report = verify(model, content, x, labels=labels)
    assert report.accuracy_keras == 0.75
    assert f"accuracy {report.accuracy_file:.2%}, in Keras 75.00%" in str(report)


@pytest.mark.parametrize("quantize", ["float16", "dynamic_int8"])
def test_quantised_files_of_other_weights(quantize):
    model = small_models.make("sequential")
    content = convert(model, quantize=quantize)
    model.layers[-1].kernel.assign(-model.layers[-1].kernel)
    with pytest.raises(ValueError, match=r"the outputs have a signal-to-noise ratio of .* dB, expected at least"):
        verify(model, content)
    with pytest.raises(ValueError, match="the file is not of this model"):
        verify(small_models.make("compact_output"), content)


def test_quantised_files_of_no_classifier():
    model = small_models.make("several_inputs_and_outputs")
    report = verify(model, convert(model, quantize="dynamic_int8"))
    assert report.same_class is None and "class" not in str(report)


def test_signal_to_noise():
    expected = np.array([[3.0, 4.0], [0.0, 10.0], [1.0, 2.0]])
    got = np.array([[3.3, 4.4], [0.0, 11.0], [1.0, 2.0]])
    np.testing.assert_allclose(signal_to_noise(expected, got), [20, 20, np.inf])


def mixed(policy, *, mean=100.0, fbs=False):
    """A model of a policy whose first layer has adapted to images, and these images."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        scale = layers.Normalization()
        x = np.random.default_rng(0).normal(mean, 30, (16, 8, 8, 3)).astype("float32")
        scale.adapt(x)
        convolution = fbs_keras.FBSConv2D(16, 3, density=0.5) if fbs else layers.Conv2D(16, 3, activation="relu")
        head = [layers.GlobalAveragePooling2D(), layers.Dense(4, dtype="float32")]
        return keras.Sequential([keras.Input((8, 8, 3)), scale, convolution, *head]), x
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(("policy", "least"), [("mixed_float16", 45), ("mixed_bfloat16", 28)])
@pytest.mark.parametrize("fbs", [False, True])
def test_half_precision(policy, least, fbs):
    """Of the policies' layers, normalisation among them, the file is of what they were adapted to."""
    model, x = mixed(policy, fbs=fbs)
    report = verify(model, convert(model), x)
    precision = policy.removeprefix("mixed_")
    assert report.precision == precision and report.signal_to_noise > least and report.difference < 1e-4
    assert f"signal to noise against the model in {precision} {report.signal_to_noise:.1f} dB" in str(report)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("quantize", [None, "float16"])
def test_compares_with_the_model_itself(policy, quantize, monkeypatch):
    """A copy that loses state is wrong in the file and in what verify copies alike."""
    model, x = mixed(policy)

    def forget(layer):
        layer.mean, layer.variance = keras.ops.zeros((1, 1, 1, 3)), keras.ops.ones((1, 1, 1, 3))

    monkeypatch.setattr(layers.Normalization, "finalize_state", forget)
    content = convert(model, quantize=quantize)
    with pytest.raises(ValueError, match="against the model itself" if quantize is None else "signal-to-noise"):
        verify(model, content, x)


@pytest.mark.parametrize("percent", [5, 30])
def test_finds_small_errors_in_half_precision(percent, monkeypatch):
    """The copy's last kernel is larger: by 5 %, which float16 alone tells from rounding, or by 30 %."""
    from fbs_keras.graph import rewriting

    model, x = mixed("mixed_float16" if percent == 5 else "mixed_bfloat16", mean=0.0)
    copy = rewriting.as_float32

    def wrong(model):
        found = copy(model)
        if found is not model:
            kernel = found.layers[-1].kernel
            kernel.assign(kernel * (1 + percent / 100))
        return found

    monkeypatch.setattr("fbs_keras.export.converter.as_float32", wrong)
    monkeypatch.setattr("fbs_keras.export.verification.as_float32", wrong)
    with pytest.raises(ValueError, match="against the model itself"):
        verify(model, convert(model), x)


def test_float64():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        model = small_models.make("sequential")
    finally:
        keras.config.set_dtype_policy(before)
    report = verify(model, convert(model))
    assert report.precision is None and report.difference < 1e-4
