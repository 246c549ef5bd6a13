"""Tests of fbs_keras/export/baselines.py."""

from collections import Counter

import keras
import numpy as np
import pytest
import small_models
from ai_edge_litert.interpreter import Interpreter
from test_converter import assert_close, op_names, run

import fbs_keras
from fbs_keras import graph
from fbs_keras.export import baseline


def test_m_cifarnet_is_a_plain_convolutional_net():
    model = fbs_keras.wrap(fbs_keras.models.MCifarNet(), density=0.5)
    for kind in ("dense", "static"):
        (ops,) = op_names(baseline(model, kind))
        assert ops[:8] == ["CONV_2D"] * 8
        assert set(ops[8:]) <= {"MEAN", "CONV_2D", "FULLY_CONNECTED", "RESHAPE"}


@pytest.mark.parametrize(
    "name",
    [
        *("sequential", "residual", "strides_and_kernel", "dilation_valid", "gelu", "nested"),
        *("inverted_residual", "excited_blocks", "concatenations"),
    ],
)
def test_dense_is_the_model_with_its_gates_at_rest(name):
    model = small_models.make(name)
    content = baseline(model, "dense")
    fbs_keras.set_density(model, 1.0)
    for weight in model.weights:
        if weight.name == "gate_kernel":
            weight.assign(np.zeros(weight.shape))
    x = small_models.noise(model)
    assert_close(run(content, x), small_models.expected(model, x))


@pytest.mark.parametrize(
    "name",
    ["residual", "concatenations", "sequential", "nested", "compact_output", "inverted_residual", "excited_blocks"],
)
def test_static_has_k_channels(name):
    model = small_models.make(name)
    content = baseline(model, "static")
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    convolutions = [op for op in interpreter._get_ops_details() if op["op_name"] == "CONV_2D"]
    found = Counter(interpreter._get_tensor_details(op["inputs"][1], 0)["shape"][0] for op in convolutions)
    layers = [node.layer for node in graph.flatten(model).nodes]
    gated = Counter(layer.active_channels for layer in layers if isinstance(layer, fbs_keras.FBSConv2D))
    assert not gated - found
    assert set(found - gated) <= {layer.filters for layer in layers if type(layer) is keras.layers.Conv2D}
    y = run(content, small_models.noise(small_models.make(name)))
    assert all(np.isfinite(array).all() for array in y)


def test_static_residual_net_adds_compact_tensors():
    (ops,) = op_names(baseline(small_models.make("residual"), "static"))
    assert "PAD" in ops  # densities .5 and .25 do not match
    model = small_models.make("residual")
    fbs_keras.set_density(model, 0.5)
    (ops,) = op_names(baseline(model, "static"))
    assert "PADV2" not in ops


def test_batch_size():
    interpreter = Interpreter(model_content=baseline(small_models.make("sequential"), "dense", batch_size=3))
    assert interpreter.get_input_details()[0]["shape"][0] == 3


@pytest.mark.parametrize("kind", ["dense", "static"])
def test_quantised(kind):
    model = fbs_keras.wrap(fbs_keras.models.MCifarNet(), density=0.5)
    float32, float16, int8 = (len(baseline(model, kind, quantize=q)) for q in (None, "float16", "dynamic_int8"))
    assert int8 < 0.28 * float32 < float16 < 0.52 * float32
    with pytest.raises(ValueError, match=r"quantize must be one of .* got 'int4'"):
        baseline(model, kind, quantize="int4")


def test_unknown_kind():
    with pytest.raises(ValueError, match="kind must be one of 'dense', 'static', got 'sparse'"):
        baseline(small_models.make("plain"), "sparse")
