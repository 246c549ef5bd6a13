"""Tests that other tools take exported files, as docs/interoperability.md says: the quantiser of LiteRT, and ONNX."""

import keras
import numpy as np
import pytest
import small_models

import fbs_keras
from fbs_keras.export import composite, convert

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def trained():
    """A trained network, images, and what it makes of them."""
    model = fbs_keras.models.MCifarNet(weights="cifar10", density=0.5)
    x = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    return model, x, model.predict(x, verbose=0)


@pytest.mark.parametrize("recipe_name", ["dynamic_wi8_afp32", "weight_only_wi8_afp32"])
def test_ai_edge_quantizer(trained, recipe_name, tmp_path):
    quantizer = pytest.importorskip("ai_edge_quantizer.quantizer")
    from ai_edge_quantizer import recipe

    model, x, expected = trained
    content = convert(model, tmp_path / "float.tflite")
    tool = quantizer.Quantizer(str(tmp_path / "float.tflite"))
    tool.load_quantization_recipe(getattr(recipe, recipe_name)())
    quantised = bytes(tool.quantize().quantized_model)
    fbs_ops, _, _ = fbs_keras.Interpreter(content).partitions
    for use_delegate in (False, True):
        interpreter = fbs_keras.Interpreter(quantised, use_delegate=use_delegate)
        assert interpreter.partitions[:2] == (fbs_ops, fbs_ops if use_delegate else 0)
        np.testing.assert_array_equal(interpreter.predict(x).argmax(1), expected.argmax(1))


def _awkward_names():
    x = image = keras.Input((5, 5, 4), name="größe:0")
    for name in ("a:0", "a b", "größe", "A:0", "a;b"):
        x = fbs_keras.FBSConv2D(4, 1, density=0.5, name=name)(x)
    return keras.Model(image, x)


@pytest.mark.parametrize("name", ["several_inputs_and_outputs", "awkward_names", "trained"])
def test_tf2onnx(name, trained, tmp_path):
    convert_to_onnx = pytest.importorskip("tf2onnx.convert")
    onnxruntime = pytest.importorskip("onnxruntime")

    model, x, expected = trained
    if name != "trained":
        model = _awkward_names() if name == "awkward_names" else small_models.make(name)
        x = small_models.noise(model, 1)
        expected = small_models.expected(model, x)
    content = convert(model, tmp_path / "model.tflite", target="builtin")
    convert_to_onnx.from_tflite(str(tmp_path / "model.tflite"), opset=18, output_path=str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    file = composite.read(content).subgraphs[0]
    names = [[file.tensors[index].name.decode() for index in ends] for ends in (file.inputs, file.outputs)]
    arrays = [x[:1]] if name == "trained" else x
    outputs = session.run(names[1], dict(zip(names[0], arrays, strict=True)))
    for got, want in zip(outputs, [expected[:1]] if name == "trained" else expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
