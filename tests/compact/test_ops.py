"""Tests of fbs_keras/compact/ops: what Python and C both know of an op."""

import re
from pathlib import Path

import pytest

from fbs_keras.compact import op, ops, quantization
from fbs_keras.compact.ops import add
from fbs_keras.export import lowering

TFLITE = Path(__file__).parents[2] / "tflite"


def source(name):
    return (TFLITE / name).read_text(encoding="utf-8")


def test_the_delegate_has_the_same_ops():
    native = {}
    for path in (TFLITE / "delegate").glob("*_op.c"):
        for kind in re.findall(r"const FbsOpKind \w+ = {(.*?)};", path.read_text(encoding="utf-8"), re.DOTALL):
            names = dict(re.findall(r'\.(custom_name|composite_name) = "([\w.]+)"', kind))
            native[names["custom_name"]] = names["composite_name"]
    assert native == {name: kind.composite_name for name, kind in ops.OPS.items()}


def test_the_delegate_has_the_same_constants():
    native = set()
    for path in (TFLITE / "delegate").glob("*_op.c"):
        for kind in re.findall(r"FbsConvolutionKind \w+ = {(.*?)\n};", path.read_text(encoding="utf-8"), re.DOTALL):
            native.add(tuple(re.findall(r'{"(\w+)", k\w+, \d}', kind)))
    assert native == {kind.constant_names for kind in ops.conv2d.OPS}


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("delegate/attributes.h", "kFbsOpVersion", op.VERSION),
        ("core/add.h", "kFbsMaxAddends", add.MOST_ADDENDS),
        ("core/check.c", "kMostProducts", quantization.MOST_PRODUCTS),
    ],
)
def test_the_same_limits(file, name, value):
    assert re.findall(rf"enum {{ {name} = (\d+) }};", source(file)) == [str(value)]


def test_each_op_is_lowered():
    with pytest.raises(TypeError, match="how to compute int"):
        lowering.compute(3)
    for kind in ops.OPS.values():
        assert lowering.compute.dispatch(kind) is not lowering.compute.dispatch(object)


@pytest.mark.parametrize(
    ("compact", "expected"),
    [
        ([True, False], [(2, 0b01, "RELU")]),
        ([True] * 8, [(8, 0xFF, "RELU")]),
        ([True] * 9, [(8, 0xFF, "NONE"), (2, 0b10, "RELU")]),
        ([False] * 15 + [True], [(8, 0, "NONE"), (8, 0, "NONE"), (2, 0b10, "RELU")]),
    ],
)
def test_long_sums(compact, expected):
    chain = add.sums(compact, 5, "RELU")
    assert [(each.addends, each.compact, each.activation) for each in chain] == expected
    assert sum(each.addends for each in chain) == len(compact) + len(chain) - 1
