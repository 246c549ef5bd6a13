"""Tests of fbs_keras/export/converter.py: exported files run in stock LiteRT and compute what Keras does."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import small_models
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import flexbuffers
from keras import layers

import fbs_keras
from fbs_keras import graph
from fbs_keras.export import composite, convert, converter, explain, load, verify
from fbs_keras.runtime import Interpreter as FBSInterpreter
from fbs_keras.runtime import delegate_path

# What ops decompose into; nothing outside of XNNPACK but GATHER, TOPK_V2, ONE_HOT, SCATTER_ND and shapes.
DECOMPOSITION = {
    *("DEPTHWISE_CONV_2D", "ABS", "MEAN", "BATCH_MATMUL", "ADD", "MUL", "TRANSPOSE", "CONCATENATION"),
    *("RELU", "GATHER", "TOPK_V2", "ONE_HOT", "SCATTER_ND", "RESHAPE", "STRIDED_SLICE", "EXPAND_DIMS"),
}


def run(content, x):
    """Runs a file in the stock interpreter, without our delegate."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    batch = inputs[0]["shape"][0]
    results = []
    for start in range(0, len(x[0]), batch):
        for details, array in zip(inputs, x, strict=True):
            interpreter.set_tensor(details["index"], array[start : start + batch])
        interpreter.invoke()
        results.append([interpreter.get_tensor(details["index"]) for details in outputs])
    return [np.concatenate(arrays) for arrays in zip(*results, strict=True)]


def assert_close(got, expected, tolerance=1e-4):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def op_names(content):
    return composite.ops(composite.read(content))


@pytest.mark.parametrize("name", small_models.MODELS)
def test_computes_what_keras_does(name):
    model = small_models.make(name)
    x = small_models.noise(model)
    expected = small_models.expected(model, x)
    assert all(np.abs(y).max() > 1e-3 for y in expected)
    files = small_models.files(name)
    portable, builtin = files["portable"], files["builtin"]
    assert_close(run(portable, x), expected)
    assert_close(run(builtin, x), expected)
    main, *decompositions = op_names(portable)
    assert sum(each in ("fbs.conv2d", "fbs.gated_conv2d") for each in composites(portable)) == sum(
        isinstance(step.node.layer, fbs_keras.FBSConv2D) for step in _steps(model)
    )
    assert set().union(*decompositions) <= DECOMPOSITION
    assert not any("CUSTOM" in op for names in (main, *op_names(builtin)) for op in names)


def composites(content):
    """The names of a file's composites."""
    options = [op.builtinOptions2 for op in composite.read(content).subgraphs[0].operators]
    return [option.name.decode() for option in options if option is not None]


def _steps(model):
    from fbs_keras.compact import sparsity

    return sparsity.plan(model, 1).steps


@pytest.mark.parametrize("target", ["portable", "builtin"])
@pytest.mark.parametrize(
    "name",
    [
        *("sequential", "group_size", "shared", "several_inputs_and_outputs", "sums", "depthwise_stride", "norm_alone"),
        *("inverted_residual", "excited_blocks", "concatenations", "separable", "unfit_masks"),
    ],
)
def test_batch_of_three(name, target):
    model = small_models.make(name)
    x = small_models.noise(model, 6)
    content = small_models.files(name, batch_size=3)[target]
    assert_close(run(content, x), small_models.expected(model, x))


@pytest.mark.parametrize(
    "name",
    [
        *("sequential", "residual", "group_size", "dilation", "gelu", "density_one", "concatenation", "compact_output"),
        *("sums", "sums_read_by_others", "sums_of_many", "nested_sum", "difference", "shared", "dense_on_pixels"),
        *("depthwise_valid", "depthwise_padded", "depthwise_dilated", "depthwise_uneven", "depthwise_hard_silu"),
        *("inverted_residual", "excited_blocks", "concatenations", "separable", "unfit_masks"),
        *("gate_bottleneck", "gate_max", "gate_image", "gate_density_one"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_with_the_delegate(name, batch_size):
    try:
        delegate_path()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    model = small_models.make(name)
    x = small_models.noise(model)
    for target in ("portable", "custom"):
        interpreter = FBSInterpreter(small_models.files(name, batch_size=batch_size)[target])
        assert interpreter.partitions.claimed == interpreter.partitions.fbs_ops > 0
        outputs = interpreter.predict(x)
        assert_close(outputs if isinstance(outputs, list) else [outputs], small_models.expected(model, x))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("residual", [{"addends": 2, "compact": 3, "channels": 8, "activation": "RELU"}]),
        (
            "sums",
            [
                {"addends": 2, "compact": 2, "channels": 8, "activation": "RELU6"},
                {"addends": 3, "compact": 6, "channels": 8, "activation": "NONE"},
                {"addends": 2, "compact": 3, "channels": 8, "activation": "RELU"},
            ],
        ),
        ("sums_of_unequal_tensors", []),
        ("nested_sum", [{"addends": 2, "compact": 3, "channels": 8, "activation": "RELU"}]),
        (
            "sums_of_many",
            [
                {"addends": 8, "compact": 255, "channels": 8, "activation": "NONE"},
                {"addends": 2, "compact": 2, "channels": 8, "activation": "NONE"},
            ],
        ),
    ],
)
def test_attributes_of_sums(name, expected):
    sums = [
        flexbuffers.Loads(bytes(bytearray(op.customOptions)))
        for op in custom_ops(convert(small_models.make(name), target="custom"), "FbsAdd")
    ]
    inner = [attributes for attributes in sums if attributes["addends"] > 1]
    assert inner == [{"version": 1, **attributes} for attributes in expected]


def custom_ops(content, name):
    model = composite.read(content)
    return [
        op for op in model.subgraphs[0].operators if model.operatorCodes[op.opcodeIndex].customCode == name.encode()
    ]


@pytest.mark.parametrize("name", ["sequential", "strides_and_kernel", "shared", "inverted_residual", "concatenations"])
def test_macs_are_those_of_the_file(name):
    """Counted from the shapes of the file's ops, which `count_macs` does not look at."""
    model = small_models.make(name)
    file = composite.read(convert(model, target="custom"))
    tensors, found = file.subgraphs[0].tensors, []
    for op in file.subgraphs[0].operators:
        if file.operatorCodes[op.opcodeIndex].customCode == b"FbsConv2D":
            attributes = flexbuffers.Loads(bytes(bytearray(op.customOptions)))
            active_in = int(tensors[op.inputs[0]].shape[-1])
            outputs = int(np.prod(tensors[op.outputs[0]].shape))
            found.append(attributes["kernel_h"] * attributes["kernel_w"] * active_in * outputs)
    rows = fbs_keras.count_macs(model).rows
    assert sorted(found) == sorted(row.conv for row in rows if row.kind == "FBSConv2D")


def test_a_tensor_is_expanded_once():
    model = small_models.make("sums_read_by_others")
    content = convert(model, target="custom")
    sums = [flexbuffers.Loads(bytes(bytearray(op.customOptions))) for op in custom_ops(content, "FbsAdd")]
    # Of the first convolution, for Concatenate and Softmax, and of the last one, an output.
    assert [attributes["addends"] for attributes in sums].count(1) == 2
    assert op_names(content)[0].count("RELU") == 2


def test_only_the_delegate_has_to_know_sums():
    content = convert(small_models.make("residual"), target="custom")
    with pytest.raises(ValueError, match="use the delegate, or convert with target='portable'"):
        FBSInterpreter(content, use_delegate=False)


def test_custom_ops():
    model = small_models.make("sequential")
    content = convert(model, target="custom")
    assert op_names(content) == [["CUSTOM FbsConv2D"] * 3 + ["MEAN", "CUSTOM FbsAdd", "FULLY_CONNECTED"]]
    with pytest.raises(RuntimeError, match="FbsConv2D"):
        run(content, small_models.noise(model))


def test_attributes_and_operands_of_a_composite():
    model = composite.read(convert(small_models.make("sequential")))
    main = model.subgraphs[0]
    first, second = main.operators[:2]
    shapes = [tuple(main.tensors[index].shape.tolist()) for index in (*second.inputs, *second.outputs)]
    assert shapes == [(1, 8, 9, 4), (1, 4), (8, 9, 12), (12,), (8, 12), (12,), (1, 4, 5, 6), (1, 6)]
    assert len(first.inputs) == 5
    assert second.builtinOptions2.name == b"fbs.conv2d"
    assert flexbuffers.Loads(bytes(second.builtinOptions2.compositeAttributes)) == {
        **{"version": 1, "sparse_in": 1, "k": 6, "group_size": 1, "kernel_h": 3, "kernel_w": 3},
        **{"stride_h": 2, "stride_w": 2, "dilation_h": 1, "dilation_w": 1, "padding": "SAME", "activation": "RELU"},
    }


def test_equal_layers_share_a_decomposition():
    x = image = keras.Input((8, 8, 16))
    for _ in range(4):
        x = fbs_keras.FBSConv2D(16, 3, padding="same", density=0.5)(x)
    names = op_names(convert(keras.Model(image, layers.GlobalAveragePooling2D()(x))))
    assert len(names) == 1 + 3  # the main graph; the dense input, the three compact ones; the output made dense


@pytest.mark.parametrize("target", ["portable", "builtin", "custom"])
def test_weights_are_stored_once(target):
    model = fbs_keras.wrap(fbs_keras.models.MCifarNet(), density=0.5)
    for layer in model.layers:
        if isinstance(layer, fbs_keras.FBSConv2D):  # random, since equal constants are stored once
            layer.gate_kernel.assign(keras.random.normal(layer.gate_kernel.shape))
    constants = sum(4 * np.prod(w.shape) for w in model.weights if w.name in ("kernel", "gate_kernel", "bias"))
    content = convert(model, target=target)
    # The rest: biases, the graph, and 112 KB of patch indices, which the custom op has no need of.
    assert constants < len(content) < constants * 1.02 + (0 if target == "custom" else 200_000)


def test_shared_layer_is_stored_once():
    x = image = keras.Input((4, 4, 64))
    layer = fbs_keras.FBSConv2D(64, 3, padding="same", density=0.5)
    for _ in range(3):
        x = layer(x)
    content = convert(keras.Model(image, x))
    assert len(content) < 1.5 * 4 * 64 * 64 * 10


def test_mixed_precision_is_exported_in_float32():
    with_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small_models.make("sequential")
    finally:
        keras.config.set_dtype_policy(with_policy)
    float32 = small_models.make("sequential")
    float32.set_weights(model.get_weights())
    x = small_models.noise(model)
    assert_close(run(convert(model), x), small_models.expected(float32, x))
    assert model.layers[0].compute_dtype == "bfloat16"


@pytest.mark.parametrize("function", [convert, explain, lambda model: verify(model, convert(small_models.plain()))])
def test_reads_a_models_config_once(function):
    class Counting(keras.Model):
        reads = 0

        def get_config(self):
            self.reads += 1
            return super().get_config()

    plain = small_models.plain()
    model = Counting(plain.inputs, plain.outputs)
    model.reads = 0
    try:
        function(model)
    except ValueError as error:  # a file of other weights
        assert "differ" in str(error)
    assert model.reads == 1


def test_leaves_the_model_as_it_was():
    model = small_models.make("sequential")
    before = model.get_weights()
    losses = len(model.losses)
    convert(model)
    assert len(model.losses) == losses
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_writes_the_file_and_reads_keras_files(tmp_path):
    model = small_models.make("sequential")
    model.save(tmp_path / "model.keras")
    content = convert(str(tmp_path / "model.keras"), tmp_path / "model.tflite")
    assert (tmp_path / "model.tflite").read_bytes() == content
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.keras", "model.tflite"]
    x = small_models.noise(model)
    assert_close(run(content, x), small_models.expected(model, x))


def test_layers_do_not_train():
    """Random preprocessing layers train unless told not to, and `predict` overrides `training=True`."""
    x = keras.Input(small_models.IMAGE)
    y = layers.RandomRotation(0.1)(layers.RandomFlip()(x))
    y = layers.BatchNormalization()(fbs_keras.FBSConv2D(8, 3, density=0.5)(y), training=True)
    model = keras.Model(x, y)
    images = small_models.noise(model)
    assert_close(run(convert(model), images), [model.predict(images[0], verbose=0)])


def test_input_names_survive():
    content = convert(small_models.make("several_inputs_and_outputs"))
    interpreter = Interpreter(model_content=content)
    (signature,) = interpreter.get_signature_list().values()
    assert sorted(signature["inputs"]) == ["a", "b"]


def _dicts():
    """A model of dicts, whose order is not that of their keys; all shapes are equal, so a swap shows in values only."""
    b, a = keras.Input((6, 6, 2), name="b"), keras.Input((6, 6, 2), name="a")
    x = fbs_keras.FBSConv2D(4, 3, density=0.5)(b)
    y = fbs_keras.FBSConv2D(4, 3, density=0.5)(layers.Rescaling(3.0)(a))
    return keras.Model({"b": b, "a": a}, {"z": x, "c": y}, name="dicts")


def _nested_dicts():
    q, p = keras.Input((6, 6, 2), name="q"), keras.Input((6, 6, 2), name="p")
    y = _dicts()({"b": p, "a": layers.Rescaling(2.0)(q)})
    z = fbs_keras.FBSConv2D(4, 3, density=0.5)(y["z"])
    return keras.Model({"q": q, "p": p}, {"second": layers.Flatten()(y["c"]), "first": z})


@pytest.mark.parametrize("target", ["portable", "builtin"])
@pytest.mark.parametrize("make", [_dicts, _nested_dicts])
def test_dicts_are_in_the_order_of_their_keys(make, target):
    model = make()
    x = small_models.noise(model)
    expected = model(dict(zip(sorted(model.input), x, strict=True)), training=False)
    expected = [keras.ops.convert_to_numpy(expected[key]) for key in sorted(expected)]
    content = convert(model, target=target)
    assert_close(FBSInterpreter(content, use_delegate=False).predict(x), expected)
    assert verify(model, content, x).difference < 1e-4


@pytest.mark.parametrize(
    "names, expected",
    [
        (["my input", "image:0", "2-x:0"], ["my_input", "image_0", "input_2-x_0"]),
        (["Größe", "-x", "_y"], ["Gr__e", "input_-x", "input__y"]),
        (["a", "A", "a_1"], ["a", "A_1", "a_1_1"]),
        (["a.b", "a_b", "a b"], ["a.b", "a_b_1", "a_b_2"]),
    ],
)
def test_input_names_that_tensorflow_would_change(names, expected):
    inputs = [keras.Input((size,), name=name) for size, name in enumerate(names, 2)]
    model = keras.Model(inputs, layers.Concatenate()(inputs))
    content = convert(model)
    (signature,) = Interpreter(model_content=content).get_signature_list().values()
    assert sorted(signature["inputs"]) == sorted(expected)
    x = small_models.noise(model)
    assert_close(run(content, x), small_models.expected(model, x))


def test_density_at_the_time_of_conversion():
    model = small_models.make("sequential")
    fbs_keras.set_density(model, 0.25)
    assert "1x8x9x2/8" in explain(model)
    assert_close(
        run(convert(model), small_models.noise(model)), small_models.expected(model, small_models.noise(model))
    )


@pytest.mark.parametrize(
    ("densities", "settings", "sentences"),
    [
        ((0.3, 0.6), {}, ["k = 20 in a computes as 32 do; k = 39 in b computes as 48 do"]),
        ((0.6, 0.6), {}, ["k = 39 in a, b computes as 48 do"]),
        ((0.5, 0.7), {}, []),  # 45 of 48 lanes are used
        ((0.3, 0.6), {"round_channels": 16}, []),
        ((1.0, 1.0), {"filters": 20}, []),  # no density would fill them
        ((0.5, 0.5), {"filters": 20}, ["k = 10 in a, b computes as 16 do"]),
        ((0.85, 0.85), {"filters": 20}, []),  # nor would rounding up
        ((0.5, 0.5), {"filters": 8}, []),
    ],
)
def test_says_where_lanes_are_idle(densities, settings, sentences, caplog):
    found = [fbs_keras.FBSConv2D(**{"filters": 64, "kernel_size": 1, **settings}, name=name) for name in "ab"]
    model = keras.Sequential([keras.Input((4, 4, 3)), *found])
    fbs_keras.set_density(model, dict(zip("ab", densities, strict=True)))
    convert(model, target="custom")
    end = " where vectors hold 16 channels; wrap(..., round_channels=16) makes use of them."
    sentences = [sentence + end for sentence in sentences]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == sentences


def test_says_once_where_lanes_are_idle():
    layer = fbs_keras.FBSConv2D(64, 1, name="shared", density=0.3)
    layer.build((1, 4, 4, 64))
    (sentence,) = converter.idle_lanes([layer, layer])
    assert sentence.startswith("k = 20 in shared computes as 32 do where")


class Subclassed(keras.Model):
    def call(self, x):
        return x


def _unbuilt():
    return keras.Sequential([layers.Conv2D(4, 3)])


def _dynamic():
    return keras.Sequential([keras.Input((None, None, 3)), fbs_keras.FBSConv2D(4, 3)])


def _channels_first():
    return keras.Sequential([keras.Input((3, 8, 8)), fbs_keras.FBSConv2D(4, 3, data_format="channels_first")])


def _reshapes_by_batch():
    image = keras.Input(batch_shape=(4, 8, 8, 3))
    x = fbs_keras.FBSConv2D(4, 3)(image)
    return keras.Model(image, layers.Dense(2)(keras.ops.reshape(x, (x.shape[0], -1))))


BAD = {
    "target": (small_models.plain, {"target": "android"}, ValueError, "target must be one of 'portable', .* got 'andr"),
    "quantize": (
        small_models.plain,
        {"quantize": "int4"},
        ValueError,
        "quantize must be one of None, 'float16', 'dynamic_int8', got 'int4'",
    ),
    "batch_zero": (small_models.plain, {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    "batch_none": (small_models.plain, {"batch_size": None}, TypeError, "batch_size must be an integer, got None"),
    "batch_true": (small_models.plain, {"batch_size": True}, TypeError, "batch_size must be an integer, got True"),
    "batch_array": (
        small_models.plain,
        {"batch_size": np.array([2])},
        TypeError,
        "batch_size must be an integer, got arr",
    ),
    "batch_numpy_bool": (small_models.plain, {"batch_size": np.True_}, TypeError, "batch_size must be an integer"),
    "batch_huge": (
        small_models.plain,
        {"batch_size": 2**31},
        ValueError,
        "at most 2147483647; use a batch_size of at most",
    ),
    "batch_endless": (small_models.plain, {"batch_size": 10**30}, ValueError, "use a batch_size of at most"),
    "target_type": (small_models.plain, {"target": ["portable"]}, TypeError, "target must be one of .*, got list"),
    "target_array": (small_models.plain, {"target": np.array(["a", "b"])}, TypeError, "got ndarray"),
    "quantize_type": (
        small_models.plain,
        {"quantize": np.array([1, 2])},
        TypeError,
        "quantize must be one .*got ndarray",
    ),
    "path_bytes": (
        small_models.plain,
        {"path": b"model.tflite"},
        TypeError,
        "path must be a string or a path, got bytes",
    ),
    "path_empty": (small_models.plain, {"path": ""}, ValueError, "cannot write '': it is no file name"),
    "path_null": (small_models.plain, {"path": "a\0b"}, ValueError, "it is no file name"),
    "path_slash": (small_models.plain, {"path": "nothing/"}, ValueError, "cannot write 'nothing/': "),
    "path_long": (small_models.plain, {"path": "x" * 256}, ValueError, "its name is longer than 255 bytes"),
    "path_device": (small_models.plain, {"path": "/dev/null"}, ValueError, "it is no regular file"),
    "path_type": (small_models.plain, {"path": 3}, TypeError, "path must be a string or a path, got int"),
    "path_folder": (small_models.plain, {"path": "/nowhere/m.tflite"}, ValueError, "folder '/nowhere' does not exist"),
    "path_is_folder": (small_models.plain, {"path": "/"}, ValueError, "it is a folder"),
    "unbuilt": (_unbuilt, {}, ValueError, "is not built"),
    "subclassed": (Subclassed, {}, ValueError, "is a subclassed model"),
    "no_model": (lambda: 3, {}, TypeError, "must be a Keras model, got int"),
    "dynamic": (_dynamic, {}, ValueError, r"has shape \(None, None, None, 3\).*keras.Input of a fixed size"),
    "channels_first": (_channels_first, {}, ValueError, "'channels_first', which TFLite does not know"),
    "fixed_batch": (
        _reshapes_by_batch,
        {},
        ValueError,
        "for batches of 4, .* not compute batches of 1; .*batch_size=4",
    ),
    "missing_file": (lambda: "/nowhere/model.keras", {}, ValueError, "'/nowhere/model.keras' does not exist"),
    "no_keras_file": (lambda: __file__, {}, ValueError, "cannot be loaded as a Keras model"),
    "folder": (lambda: "/", {}, ValueError, "cannot be loaded as a Keras model"),
}


@pytest.mark.parametrize("case", BAD)
def test_says_what_is_wrong(case):
    make, arguments, error, message = BAD[case]
    model = make()
    with pytest.raises(error, match=message):
        convert(model, **arguments)


@pytest.mark.parametrize(
    ("model", "most"),
    [
        (lambda: keras.Sequential([keras.Input((8, 8, 3)), fbs_keras.FBSConv2D(4, 3)]), 6 * 6 * 27),  # its patches
        (lambda: keras.Sequential([keras.Input((8, 8, 3)), fbs_keras.FBSConv2D(4, 1)]), 8 * 8 * 4),  # has none
        (lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.UpSampling2D(8)]), 64 * 64 * 3),
    ],
)
def test_largest_batch(model, most):
    model = model()
    explain(model, batch_size=np.int64((2**31 - 1) // most))  # a NumPy integer will do
    with pytest.raises(ValueError, match=f"needs a tensor of {most} values.*at most {(2**31 - 1) // most}$"):
        explain(model, batch_size=(2**31 - 1) // most + 1)


def test_no_output_of_a_decomposition_is_read_inside():
    """LiteRT's CompiledModel would lose it, where it inlines composites."""
    file = composite.read(convert(small_models.make("sequential")))
    for graph_ in file.subgraphs[1:]:
        read = {int(index) for op in graph_.operators for index in op.inputs}
        assert not read & {*map(int, graph_.outputs)}


def test_a_long_file_name(tmp_path):
    path = tmp_path / ("x" * 248 + ".tflite")
    convert(small_models.plain(), path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_batch_that_the_model_was_built_with():
    """Keras gives a Sequential model without Input the size of the first batch, but takes other sizes then."""
    model = keras.Sequential(
        [fbs_keras.FBSConv2D(8, 3, activation="relu"), fbs_keras.FBSConv2D(4, 3), layers.Flatten()]
    )
    x = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype("float32")
    model(x)
    assert model.input_shape[0] == 6
    fbs_keras.set_density(model, 0.5)
    for batch_size in (1, 4):
        content = convert(model, batch_size=batch_size)
        assert verify(model, content).examples == 6
        assert verify(model, content, x[:5]).examples == 5


def test_h5(tmp_path):
    model = small_models.plain()
    model.save(tmp_path / "model.h5")
    model.save(tmp_path / "model.keras")
    assert convert(tmp_path / "model.h5") == convert(tmp_path / "model.keras")


class NotRegistered(layers.Layer):
    """A layer of a module that only its author has."""

    __module__ = "elsewhere"

    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_file_with_an_unknown_layer(suffix, tmp_path):
    image = keras.Input((8, 8, 3))
    keras.Model(image, NotRegistered()(image)).save(tmp_path / f"model.{suffix}")
    with pytest.raises(ValueError, match=r"cannot be loaded as a Keras model: .*'NotRegistered'"):
        load(tmp_path / f"model.{suffix}")


def test_op_that_tflite_lacks(tmp_path):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, NoTFLiteOp(name="mine")(image))
    with pytest.raises(ValueError, match=r"TFLite has no built-in op for: Digamma \(of 'mine'\); use other layers"):
        convert(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_unwritable_file(tmp_path, monkeypatch):
    def fail(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ValueError, match=r"cannot write .*: No space left on device"):
        convert(small_models.make("plain"), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


class NoTFLiteOp(layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.math.digamma(x)


def test_other_backend(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"tensorflow backend, got 'jax'.*KERAS_BACKEND=tensorflow"):
        load(None)


def test_imports_no_tensorflow_before_it_is_needed():
    code = "import sys, fbs_keras.export; assert 'tensorflow' not in sys.modules, 'tensorflow was imported'"
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("target", ["portable", "custom"])
def test_ops_are_named_after_their_layers(target):
    def names(model):
        file = composite.read(convert(model, target=target))
        return {file.subgraphs[0].tensors[op.outputs[0]].name.decode() for op in file.subgraphs[0].operators}

    assert {f"conv{index}" for index in range(8)} <= names(fbs_keras.wrap(fbs_keras.models.MCifarNet(), density=0.5))
    model = small_models.make("nested_sum")
    (operation,) = [node.name for node in graph.flatten(model).nodes if type(node.layer).__name__ == "Add"]
    assert {operation, f"{model.layers[-1].name}/dense"} <= names(model)


@pytest.mark.parametrize("target", ["portable", "builtin"])
def test_loops_stay(target):
    """A recurrent layer is a WHILE, whose subgraphs it knows by number."""
    x = keras.Input((6, 6, 3))
    y = layers.Reshape((4, 16))(fbs_keras.FBSConv2D(4, 3, density=0.5)(x))
    model = keras.Model(x, layers.LSTM(3)(y))
    assert verify(model, convert(model, target=target)).difference < 1e-4
