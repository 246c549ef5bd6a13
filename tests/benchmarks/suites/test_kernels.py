"""The suite of convolutions: its files compute what the layer does, and its figures are what they say."""

import keras
import numpy as np
import pytest

from fbs_keras import count_macs
from fbs_keras.benchmarks.measurement import profile
from fbs_keras.benchmarks.suites import kernels
from fbs_keras.benchmarks.suites.kernels import KernelRow, MethodTime
from fbs_keras.benchmarks.suites.shapes import Shape
from fbs_keras.runtime import Interpreter

SHAPES = {
    "same": Shape(3, 1, 6, 32, 48),
    "stride": Shape(3, 2, 7, 16, 32),
    "projection": Shape(1, 2, 7, 16, 32),
    "image": Shape(3, 1, 9, 3, 16, "valid"),
}


def run(content, shape):
    """A file's inputs and outputs, by the number of their dimensions."""
    interpreter = Interpreter(content)
    kernels.feed(interpreter, shape)
    litert = interpreter.litert
    litert.invoke()
    inputs = {details["shape"].size: litert.get_tensor(details["index"]) for details in litert.get_input_details()}
    return inputs, {
        details["shape"].size: litert.get_tensor(details["index"]) for details in litert.get_output_details()
    }


@pytest.mark.parametrize("density", [0.5, 1.0])
@pytest.mark.parametrize("name", SHAPES)
def test_files_compute_the_layer(name, density):
    shape = SHAPES[name]
    layer = kernels.make_layer(shape)
    fbs, _ = kernels.convolutions(layer, shape, density)
    inputs, outputs = run(fbs, shape)
    x = inputs[4]
    if 2 in inputs:  # at density 0.5, and not an image
        x = np.zeros((1, shape.size, shape.size, shape.channels), "float32")
        x[..., inputs[2][0]] = inputs[4]
    assert (2 in inputs) == (density < 1 and shape.channels > 3)
    expected = keras.ops.convert_to_numpy(layer(x))
    y = outputs[4]
    if density < 1:
        y = np.zeros(expected.shape, "float32")
        y[..., outputs[2][0]] = outputs[4]
        chosen = outputs[2][0]
        assert len(chosen) == shape.filters // 2 and np.ptp(chosen) > len(chosen)  # from anywhere
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_static_is_as_narrow():
    shape = SHAPES["same"]
    _, static = kernels.convolutions(kernels.make_layer(shape), shape, 0.5)
    inputs, outputs = run(static, shape)
    assert inputs[4].shape == (1, 6, 6, 16) and outputs[4].shape == (1, 6, 6, 24)


def test_the_op_is_named_after_the_layer():
    shape = SHAPES["image"]
    layer = kernels.make_layer(shape)
    fbs, _ = kernels.convolutions(layer, shape, 0.5)
    assert [row["op"] for row in profile(fbs, runs=1)] == [layer.name]


@pytest.mark.parametrize("name", SHAPES)
def test_macs(name):
    shape = SHAPES[name]
    layer = kernels.make_layer(shape)
    model = keras.Sequential([keras.Input((shape.size, shape.size, shape.channels)), layer])
    assert kernels.macs(shape, shape.channels, shape.filters) == count_macs(model).dense
    assert kernels.macs(shape, 2, 5) * shape.channels * shape.filters == count_macs(model).dense * 10


def test_measure():
    shape = SHAPES["same"]
    rows = kernels.measure([shape], [0.5], ["auto", "gemm"], path="plain", seconds=1e-3)
    assert [(row.shape, row.density) for row in rows] == [(shape.name, 0.5), (shape.name, 1.0)]
    half, full = rows
    assert (half.active_in, half.active_out, half.mac_ratio) == (16, 24, 4.0)
    assert full.static_ms == full.dense_ms == half.dense_ms
    for mine, whole in zip(half.methods, full.methods, strict=True):
        assert mine.kernel.endswith("plain") and whole.r_own == pytest.approx(1)
        assert mine.r == pytest.approx(half.dense_ms / mine.ms / 4)
        assert mine.r_own == pytest.approx(whole.ms / mine.ms / 4)
        assert mine.of_static == pytest.approx(half.static_ms / mine.ms)
    assert [each.method for each in half.methods] == ["auto", "gemm"]
    assert half.methods[1].kernel == "gemm_plain"


def test_int8():
    rows = kernels.measure([SHAPES["same"]], [0.5], path="plain", seconds=1e-3, quantize="dynamic_int8")
    assert [[each.method for each in row.methods] for row in rows] == [["auto"]] * 2
    assert all("int8" in each.kernel for row in rows for each in row.methods)


def row(shape, density, dense_macs, fbs_macs, dense_ms, static_ms, *method):
    return KernelRow(
        shape, ("net",), density, 8, 8, dense_macs, fbs_macs, dense_ms, static_ms, [MethodTime("auto", "k", *method)]
    )


def test_table():
    rows = [
        row("3x3 6x6 8-8", 0.5, 40_000_000, 10_000_000, 2.0, 0.5, 0.4, 1.25, 0.8, 1.25),
        row("3x3 6x6 8-8", 1.0, 40_000_000, 40_000_000, 2.0, 2.0, 2.5, 0.8, 1.0, 0.8),
        row("1x1 6x6 8-8", 1.0, 4_000_000, 4_000_000, 0.2, 0.2, 1.0, 0.2, 1.0, 0.2),
    ]
    assert kernels.table(rows).splitlines() == [
        "convolution          density  M MACs  fewer  dense ms  static ms  auto ms     R  R own  of static",
        "3x3 6x6 8-8              0.5   10.00  4.00x     2.000      0.500    0.400  1.25   0.80       125%",
        "3x3 6x6 8-8                1   40.00  1.00x     2.000      2.000    2.500  0.80   1.00        80%",
        "1x1 6x6 8-8                1    4.00  1.00x     0.200      0.200    1.000  0.20   1.00        20%",
        "geometric mean of 1      0.5                                               1.25   0.80       125%",
        "geometric mean of 2        1                                               0.40   1.00        40%",
    ]


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\], got 0"):
        kernels.measure([SHAPES["same"]], [0])
    with pytest.raises(ValueError, match=r"option 'method' must be auto, .* got 'fastest'"):
        kernels.measure([SHAPES["image"]], [1.0], ["fastest"])
