"""Tests of fbs_keras/compact/quantization.py, and of what `convert(quantize=)` writes."""

import keras
import numpy as np
import pytest
import small_models
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import flexbuffers
from keras import layers

import fbs_keras
from fbs_keras.benchmarks.suites import kernels
from fbs_keras.benchmarks.suites.shapes import Shape
from fbs_keras.compact.ops import conv2d
from fbs_keras.compact.ops.conv2d import Conv2DInt8Op, op_of
from fbs_keras.compact.quantization import MOST_PRODUCTS, to_float16, to_int8
from fbs_keras.export import baseline, composite, convert, converter, verify
from fbs_keras.export.verification import signal_to_noise
from fbs_keras.runtime import delegate_path

QUANTIZED = ("float16", "dynamic_int8")


def need_delegate():
    try:
        delegate_path()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def run(content, x, use_delegate=False):
    outputs = fbs_keras.Interpreter(content, use_delegate=use_delegate).predict(x)
    return outputs if isinstance(outputs, list) else [outputs]


class TestConstants:
    def test_int8_is_half_a_scale_away_at_most(self):
        random = np.random.default_rng(0)
        weights = random.standard_normal((5, 9, 7)).astype("float32") * np.logspace(-30, 30, 7).astype("float32")
        q, scales = to_int8(weights)
        assert (q.dtype, scales.dtype, scales.shape) == ("int8", "float32", (7,))
        assert (np.abs(q).max((0, 1)) == 127).all()
        error = np.abs(q * scales.astype("float64") - weights)
        assert (error <= scales * (0.5 + 1e-5)).all()
        assert error.max((0, 1)) == pytest.approx(scales / 2, rel=0.2)  # and no finer: it is int8

    def test_channels_of_zeros(self):
        weights = np.zeros((2, 1, 3), "float32")
        weights[1, 0, 1], weights[:, 0, 2] = -3.0, 1e-45
        q, scales = to_int8(weights)
        assert scales.tolist() == [1, np.float32(3 / 127), 1]
        assert q[:, 0].tolist() == [[0, 0, 0], [0, -127, 0]]

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, value):
        with pytest.raises(ValueError, match="not finite"):
            to_int8(np.full((1, 1, 1), value, "float32"))

    def test_sums_that_may_overflow(self):
        to_int8(np.ones((MOST_PRODUCTS, 1, 1), "float32"))
        with pytest.raises(ValueError, match=r"of 65001 products an output cannot be computed in int8"):
            to_int8(np.ones((MOST_PRODUCTS + 1, 1, 1), "float32"))

    def test_float16(self):
        assert to_float16(np.array([1 / 3, -65504], "float32"), "weights").tolist() == [np.float16(1 / 3), -65504]
        with pytest.raises(ValueError, match=r"weights of up to 7e.04 cannot be stored as float16"):
            to_float16(np.array([7e4], "float32"), "weights")

    def test_names_the_layer(self):
        model = small_models.make("sequential")
        model.layers[1].kernel.assign(model.layers[1].kernel * 1e6)
        with pytest.raises(ValueError, match=rf"layer '{model.layers[1].name}': weights of up to .* as float16"):
            convert(model, quantize="float16")


TYPES = {
    "float16": ["float32", "int32", "float16", "float32", "float16", "float32"],
    "dynamic_int8": ["float32", "int32", "int8", "float32", "float32", "float16", "float32"],
}


@pytest.mark.parametrize("quantize", QUANTIZED)
@pytest.mark.parametrize("target", ["portable", "custom"])
def test_operands(target, quantize):
    model = small_models.make("sequential")
    for layer in model.layers[:3]:
        layer.bias.assign(keras.random.normal(layer.bias.shape))
    file = composite.read(convert(model, target=target, quantize=quantize))
    main = file.subgraphs[0]
    second = [op for op in main.operators if len(op.inputs) > 3][1]
    tensors = [main.tensors[index] for index in second.inputs]
    assert [composite.TYPES[tensor.type] for tensor in tensors] == TYPES[quantize]
    stored = op_of(model.layers[1], False, quantize).constants(model.layers[1], quantize=quantize)
    for tensor, value in zip(tensors[2:], stored.values(), strict=True):
        assert tuple(tensor.shape) == value.shape
        assert bytes(file.buffers[tensor.buffer].data) == value.tobytes()
    options = second.builtinOptions2.compositeAttributes if target == "portable" else second.customOptions
    assert flexbuffers.Loads(bytes(bytearray(options))) == {
        **{"version": 1, "sparse_in": 1, "k": 6, "group_size": 1, "kernel_h": 3, "kernel_w": 3},
        **{"stride_h": 2, "stride_w": 2, "dilation_h": 1, "dilation_w": 1, "padding": "SAME", "activation": "RELU"},
        **({"pool": 1} if quantize == "dynamic_int8" else {}),
    }
    int8 = quantize == "dynamic_int8"
    if target == "portable":
        assert second.builtinOptions2.name == (b"fbs.conv2d_int8" if int8 else b"fbs.conv2d")
    else:
        names = [name for name in composite.ops(file)[0] if "CUSTOM FbsConv" in name]
        assert names[1] == ("CUSTOM FbsConv2DInt8" if int8 else "CUSTOM FbsConv2D")


@pytest.mark.parametrize("quantize", QUANTIZED)
@pytest.mark.parametrize("name", ["sequential", "group_size", "excited_blocks", "several_inputs_and_outputs"])
def test_stock_runtime(name, quantize):
    """Portable and built-in files compute the same, about what Keras does."""
    model = small_models.make(name)
    x = small_models.noise(model, 3)
    portable, builtin = (run(small_models.files(name, quantize)[target], x) for target in ("portable", "builtin"))
    for got, same, expected in zip(portable, builtin, small_models.expected(model, x), strict=True):
        np.testing.assert_allclose(got, same, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
        assert np.median(signal_to_noise(expected, got)) > {"float16": 50, "dynamic_int8": 30}[quantize]
        assert not np.array_equal(expected, got)


@pytest.mark.parametrize("quantize", QUANTIZED)
@pytest.mark.parametrize("name", ["sequential", "residual", "inverted_residual", "density_one"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_with_the_delegate(name, quantize, batch_size):
    need_delegate()
    model = small_models.make(name)
    x = small_models.noise(model, 3)
    for target in ("portable", "custom"):
        interpreter = fbs_keras.Interpreter(small_models.files(name, quantize, batch_size)[target])
        assert interpreter.partitions.claimed == interpreter.partitions.fbs_ops > 0
        outputs = interpreter.predict(x)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        for got, expected in zip(outputs, small_models.expected(model, x), strict=True):
            assert np.median(signal_to_noise(expected, got)) > {"float16": 50, "dynamic_int8": 30}[quantize]


def pools(content):
    """The attribute `pool` of a file's composites; and whether its main graph, and any decomposition, pools."""
    file = composite.read(content)
    options = [op.builtinOptions2 for op in file.subgraphs[0].operators if op.builtinOptions2 is not None]
    main, *decompositions = ("MAX_POOL_2D" in ops for ops in composite.ops(file))
    attributes_ = [flexbuffers.Loads(bytes(bytearray(option.compositeAttributes))) for option in options]
    return [values.get("pool") for values in attributes_ if "k" in values], main, any(decompositions)


def same_pooling():
    def body(x):
        x = layers.MaxPooling2D(padding="same")(fbs_keras.FBSConv2D(8, 3, density=0.5)(x))
        return layers.MaxPooling2D()(fbs_keras.FBSConv2D(9, 3, padding="same", density=1.0, activation="relu6")(x))

    return small_models.functional(body, (10, 12, 3))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    ("name", "expected"),
    # Of 10x11 pixels, and before a depthwise convolution, where the winners are a mask too.
    [("max_pooling", [2, 1]), ("masked_pooling", [2, 1]), ("same_pooling", [2, 2])],
)
def test_pooling_is_part_of_the_int8_op(name, expected, batch_size, monkeypatch):
    monkeypatch.setitem(small_models.MODELS, "same_pooling", same_pooling)
    masked = small_models.suppressed(lambda: layers.MaxPooling2D(), *small_models.depthwise())
    monkeypatch.setitem(small_models.MODELS, "masked_pooling", masked)
    model = small_models.make(name)
    x = small_models.noise(model, 3)
    settings = {"quantize": "dynamic_int8", "batch_size": batch_size}
    plan = converter.plan_model(model, **settings)
    files = converter.contents(model, plan, batch_size)
    content, builtin, custom = (files[target] for target in converter.TARGETS)
    assert pools(content) == (expected, False, True)
    assert pools(convert(model, quantize="float16"))[:2] == ([None] * len(expected), True)
    monkeypatch.setattr(conv2d, "_pooling", lambda call: None)
    apart = convert(model, **settings)
    assert pools(apart) == ([1] * len(expected), True, False)
    monkeypatch.undo()
    (portable,), (wanted,) = run(content, x), small_models.expected(model, x)
    for same in (apart, builtin):
        np.testing.assert_array_equal(run(same, x)[0], portable)
    assert np.median(signal_to_noise(wanted, portable)) > 30
    assert verify(model, content, x).signal_to_noise > 30
    need_delegate()
    outputs = [run(file, x, use_delegate=True)[0] for file in (content, apart, custom)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])
    assert np.median(signal_to_noise(wanted, outputs[0])) > 30


def test_file_without_the_attribute_pool():
    """As `convert` wrote them before there was one: it is 1."""
    values = {"sparse_in": 0, "k": 4, "group_size": 1, "padding": "SAME", "activation": "RELU"}
    values |= {f"{name}_{axis}": 1 for name in ("kernel", "stride", "dilation") for axis in "hw"}
    assert Conv2DInt8Op(**values).pool == 1


def quantize_image(x):
    """The activations of docs/design.md, per image: `(q - z, s)`."""
    low, high = min(0, x.min()), max(0, x.max())
    scale = np.float32(high) / np.float32(255) - np.float32(low) / np.float32(255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return np.clip(np.rint(x * (np.float32(1) / scale)) + zero, 0, 255) - zero, scale


@pytest.mark.parametrize(
    "shape",
    [Shape(3, 1, 9, 32, 48), Shape(3, 2, 9, 16, 32), Shape(1, 1, 8, 64, 32), Shape(3, 1, 9, 3, 16, "valid")],
    ids=lambda shape: shape.name,
)
@pytest.mark.parametrize("density", [0.5, 1.0])
@pytest.mark.parametrize("path", ["reference", "auto"])
def test_delegate_quantises_activations(shape, density, path):
    """Against the equations in NumPy: int8 activations and weights, exact sums."""
    need_delegate()
    layer = kernels.make_layer(shape)
    content, _ = kernels.convolutions(layer, shape, density, "dynamic_int8")
    interpreter = fbs_keras.Interpreter(content, delegate_options={"path": path})
    kernels.feed(interpreter, shape)
    litert = interpreter.litert
    litert.invoke()
    inputs = {details["shape"].size: litert.get_tensor(details["index"]) for details in litert.get_input_details()}
    outputs = {details["shape"].size: litert.get_tensor(details["index"]) for details in litert.get_output_details()}

    x, channels = inputs[4], inputs.get(2, np.arange(shape.channels)[None])[0]
    winners = outputs.get(2, np.arange(shape.filters)[None])[0]
    stored = op_of(layer, False, "dynamic_int8").constants(layer)
    q, scale = quantize_image(x)
    filters = stored["weights"][channels][:, :, winners].astype("float64")
    filters = filters.reshape(len(channels), shape.kernel, shape.kernel, -1).transpose(1, 2, 0, 3)
    acc = tf.nn.conv2d(q.astype("float64"), filters, shape.stride, shape.padding.upper()).numpy()
    g = np.maximum(np.abs(x).mean((1, 2)) @ stored["gate_kernel"].astype("float32")[channels] + stored["gate_bias"], 0)
    assert sorted(winners) == sorted(np.argsort(-g[0], kind="stable")[: len(winners)])
    expected = g[0, winners] * (acc * (scale * stored["weight_scales"][winners]) + stored["bias"][winners])
    expected = np.maximum(expected, 0) if layer.activation is keras.activations.relu else expected
    np.testing.assert_allclose(outputs[4], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    # XNNPACK quantises 1x1 convolutions pixel by pixel, which is finer.
    ("shape", "worse"),
    [(Shape(3, 1, 28, 64, 64), 0.2), (Shape(3, 2, 28, 64, 64), 0.2), (Shape(1, 1, 14, 128, 64), 1.5)],
    ids=["3x3", "3x3, stride 2", "1x1"],
)
def test_no_more_noise_than_xnnpack(shape, worse):
    need_delegate()
    layer = kernels.make_layer(shape)
    layer.gate_kernel.assign(keras.ops.zeros_like(layer.gate_kernel))  # so that both compute the same
    x = np.maximum(np.random.default_rng(0).standard_normal((1, shape.size, shape.size, shape.channels)), 0)
    x = x.astype("float32")
    expected = keras.ops.convert_to_numpy(layer(x))
    ours, theirs = (
        signal_to_noise(expected, run(content, x, use_delegate)[0])[0]
        for content, use_delegate in zip(
            kernels.convolutions(layer, shape, 1.0, "dynamic_int8"), (True, False), strict=True
        )
    )
    assert 30 < theirs < 50
    assert ours > theirs - worse


def test_sizes():
    convolutions = [layers.Conv2D(128, 3, activation="relu") for _ in range(3)]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    model = fbs_keras.wrap(keras.Sequential([keras.Input((16, 16, 3)), *convolutions, *head]), density=0.5)
    for layer in model.layers:
        if isinstance(layer, fbs_keras.FBSConv2D):  # random, since equal constants are stored once
            layer.gate_kernel.assign(keras.random.normal(layer.gate_kernel.shape))
    float32, float16, int8 = (len(convert(model, quantize=quantize)) for quantize in (None, *QUANTIZED))
    assert int8 < 0.3 * float32
    assert float16 < 0.52 * float32
    assert len(baseline(model, "dense", quantize="dynamic_int8")) < 0.27 * len(baseline(model, "dense"))


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_model_without_fbs_layers_is_as_tflite_makes_it(quantize):
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(32, 3, activation="relu")(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(64, 3)(x))
    model = keras.Model(image, layers.Dense(40)(x))
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    stock = converter.convert()
    ours = convert(model, quantize=quantize)
    assert sorted(composite.ops(composite.read(ours))[0]) == sorted(composite.ops(composite.read(stock))[0])
    x = small_models.noise(model, 1)
    interpreter = Interpreter(model_content=stock)
    interpreter.resize_tensor_input(0, x[0].shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[0])
    interpreter.invoke()
    np.testing.assert_array_equal(run(ours, x)[0], interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


@pytest.mark.parametrize("quantize", [None, *QUANTIZED])
def test_integers_equal_to_a_constant_stay_integers(quantize):
    """Four biases of zero, and the four zeros at which a slice begins, are one constant on their way."""
    image = keras.Input((6, 6, 3))
    x = keras.ops.slice(image, (0, 0, 0, 0), (1, 5, 5, 3))
    x = layers.Conv2D(4, 1)(keras.ops.slice(fbs_keras.FBSConv2D(4, 3)(x), (0, 0, 0, 0), (1, 2, 2, 4)))
    model = keras.Model(image, x)
    file = composite.read(convert(model, target="custom", quantize=quantize))
    (op,) = (op for op in file.subgraphs[0].operators if file.operatorCodes[op.opcodeIndex].customCode)
    assert composite.TYPES[file.subgraphs[0].tensors[op.inputs[-1]].type] == "float32"
    assert verify(model, convert(model, quantize=quantize), small_models.noise(model, 1)).examples == 1
