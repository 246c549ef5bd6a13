"""Gates of a user's own in exported files: trained a step, and equal to Keras with the delegate and without."""

import pathlib
import re

import keras
import numpy as np
import pytest
import small_models
from gates import GATES
from keras import layers

import fbs_keras
from fbs_keras.export import baseline, composite, convert, explain, verify
from fbs_keras.export.verification import signal_to_noise
from fbs_keras.runtime import Interpreter, delegate_path


def need_delegate():
    try:
        delegate_path()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def trained(name):
    """A model with gates of a kind, after a step of training."""
    model = small_models.make(name)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    (x,) = small_models.noise(model)
    model.fit(x, np.ones((len(x), 5)), verbose=0)
    return model, x


@pytest.mark.parametrize("name", ["gate_bottleneck", "gate_max", "gate_image"])
def test_trained_exported_and_run(name):
    need_delegate()
    model, x = trained(name)
    (expected,) = small_models.expected(model, [x])
    content = convert(model)
    for use_delegate in (False, True):
        interpreter = Interpreter(content, use_delegate=use_delegate)
        assert not use_delegate or interpreter.partitions.claimed == interpreter.partitions.fbs_ops >= 4
        np.testing.assert_allclose(interpreter.predict(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        report = verify(model, content, x, use_delegate=use_delegate)
        assert report.compared_gates == 4 and report.near_ties < len(x)


@pytest.mark.parametrize("quantize", ["float16", "dynamic_int8"])
@pytest.mark.parametrize("name", ["gate_bottleneck", "gate_max", "gate_image"])
def test_quantised(name, quantize):
    """As files with the linear gate: near Keras, and with the delegate near built-in ops."""
    need_delegate()
    model = small_models.make(name)
    (x,) = small_models.noise(model)
    (expected,) = small_models.expected(model, [x])
    files = small_models.files(name, quantize)
    plain = Interpreter(files["portable"], use_delegate=False).predict(x)
    least = {"float16": 50, "dynamic_int8": 30}[quantize]
    for target in ("portable", "custom"):
        fast = Interpreter(files[target]).predict(x)
        assert np.median(signal_to_noise(plain, fast)) > least
        assert np.median(signal_to_noise(expected, fast)) > least
    assert fbs_keras.export.verify(model, files["portable"], x).signal_to_noise > least


def test_ops():
    """The gate is ordinary ops, the convolution one op without the gate's constants, pooled in int8."""
    content = small_models.files("gate_max", "dynamic_int8")["custom"]
    names = composite.ops(composite.read(content))[0]
    assert names.count("CUSTOM FbsGatedConv2DInt8") == 4 and names.count("REDUCE_MAX") == 4
    assert "MAX_POOL_2D" not in names and names.count("FULLY_CONNECTED") == 5
    content = small_models.files("gate_bottleneck")["custom"]
    names = composite.ops(composite.read(content))[0]
    assert names.count("CUSTOM FbsGatedConv2D") == 4 and names.count("FULLY_CONNECTED") == 9


def test_the_linear_gate_stays_the_op_s():
    model = small_models.make("sequential")
    assert "GATED" not in str(composite.ops(composite.read(convert(model)))).upper()


@pytest.mark.parametrize("name", ["gate_bottleneck", "gate_image"])
def test_explains_what_the_gate_reads(name):
    reads_all = name == "gate_image"
    model = small_models.make(name)
    assert explain(model).count("expanded: its gate reads all channels") == (2 if reads_all else 0)
    # The convolution reads the compact tensor either way.
    assert fbs_keras.count_macs(model).rows[1].active_in == 4


@pytest.mark.parametrize("kind", ["dense", "static"])
def test_baselines(kind):
    assert composite.ops(composite.read(baseline(small_models.make("gate_bottleneck"), kind)))[0].count("CONV_2D") == 4


class Noisy(layers.Layer):
    """A gate that computes otherwise in training."""

    def call(self, s, training=False):
        return s + (keras.random.uniform(keras.ops.shape(s)) if training else 1.0)


def test_gates_are_not_in_training_in_a_file():
    image = keras.Input((6, 6, 8))
    gate = keras.Sequential([layers.Dropout(0.5), Noisy(), layers.Dense(8)])
    model = keras.Model(image, fbs_keras.FBSConv2D(8, 3, density=0.5, gate=gate)(image))
    assert verify(model, convert(model), use_delegate=False).compared_gates == 1


def test_half_precision():
    with_policy = {"dtype": "mixed_float16", **GATES["bottleneck"](8)}
    image = keras.Input((6, 6, 4))
    x = fbs_keras.FBSConv2D(8, 3, density=0.5, **with_policy)(image)
    model = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    assert verify(model, convert(model), use_delegate=False).precision == "float16"


def test_names_the_layer_whose_gate_tflite_has_no_op_for():
    gate = keras.Sequential([layers.Dense(8), layers.Lambda(lambda s: keras.ops.erfinv(keras.ops.tanh(s)))])
    image = keras.Input((6, 6, 4))
    model = keras.Model(image, fbs_keras.FBSConv2D(8, 3, density=0.5, gate=gate, name="odd")(image))
    with pytest.raises(ValueError, match="odd"):
        convert(model)


def test_the_document(tmp_path, monkeypatch):
    """The examples of docs/gates.md run as they stand, one after the other."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "gates.md").read_text(encoding="utf-8")
    define, train, wrapped = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    images, labels = random.normal(size=(8, 16, 16, 3)).astype("float32"), np.arange(8) % 3
    names = {"images": images, "labels": labels}
    exec(define + train, names)
    expected = names["model"].predict(images, verbose=0)
    got = Interpreter("model.tflite", use_delegate=False).predict(images)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    plain = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()])
    plain.layers[1].gamma.assign(random.uniform(0.5, 2, 8))
    names["wrapped"] = fbs_keras.wrap(plain, density=0.5)
    exec(wrapped, names)
    expected = names["wrapped"].predict(images[:, :8, :8], verbose=0)
    np.testing.assert_allclose(names["gated"].predict(images[:, :8, :8], verbose=0), expected, rtol=1e-5, atol=1e-6)
