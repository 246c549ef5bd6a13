"""Tests of fbs_keras/export/sparsity.py: which tensors are compact."""

import keras
import pytest
import small_models
from keras import layers

import fbs_keras
from fbs_keras.export import sparsity


def actions(model, **arguments):
    return [(step.node.layer.__class__.__name__, step.action) for step in sparsity.plan(model, 1, **arguments).steps]


def test_m_cifarnet_is_compact_to_the_end():
    model = fbs_keras.wrap(fbs_keras.models.MCifarNet(), density=0.5)
    assert str(sparsity.plan(model, 1)).split("\n") == [
        "conv0     fbs          1x32x32x3 -> 1x30x30x32/64",
        "conv1     fbs          1x30x30x32/64 -> 1x30x30x32/64",
        "conv2     fbs          1x30x30x32/64 -> 1x15x15x64/128",
        "conv3     fbs          1x15x15x64/128 -> 1x15x15x64/128",
        "dropout0  channelwise  1x15x15x64/128 -> 1x15x15x64/128",
        "conv4     fbs          1x15x15x64/128 -> 1x15x15x64/128",
        "conv5     fbs          1x15x15x64/128 -> 1x8x8x96/192",
        "conv6     fbs          1x8x8x96/192 -> 1x8x8x96/192",
        "dropout1  channelwise  1x8x8x96/192 -> 1x8x8x96/192",
        "conv7     fbs          1x8x8x96/192 -> 1x8x8x96/192",
        "pool      channelwise  1x8x8x96/192 -> 1x1x1x96/192",
        "logits    dense        1x1x1x96/192 -> 1x1x1x10",
        "flatten   dense        1x1x1x10 -> 1x10",
    ]


CHANNELWISE = {
    "max pooling": lambda: layers.MaxPooling2D(2),
    "average pooling": lambda: layers.AveragePooling2D(2),
    "global pooling": lambda: layers.GlobalMaxPooling2D(),
    "zero padding": lambda: layers.ZeroPadding2D(1),
    "relu": lambda: layers.ReLU(6),
    "tanh": lambda: layers.Activation("tanh"),
    "dropout": lambda: layers.Dropout(0.5),
}
DENSE = {
    "relu with a threshold": lambda: layers.ReLU(negative_slope=0.5, threshold=1.0),
    "sigmoid": lambda: layers.Activation("sigmoid"),
    "softmax": lambda: layers.Activation("softmax"),
    "prelu": lambda: layers.PReLU(),
    "batch norm": lambda: layers.BatchNormalization(),
    "depthwise": lambda: layers.DepthwiseConv2D(3),
    "3x3 convolution": lambda: layers.Conv2D(4, 3),
    "strided 1x1 convolution": lambda: layers.Conv2D(4, 1, strides=2),
    "grouped 1x1 convolution": lambda: layers.Conv2D(4, 1, groups=2),
    "flatten": lambda: layers.Flatten(),
    "a subclass": lambda: type("MyPooling", (layers.MaxPooling2D,), {})(2),
}
ROWS = {"1x1 convolution": lambda: layers.Conv2D(4, 1), "dense": lambda: layers.Dense(4)}
CASES = [(sparsity.CHANNELWISE, CHANNELWISE), (sparsity.DENSE, DENSE), (sparsity.ROWS, ROWS)]


@pytest.mark.parametrize(
    ("action", "layer"),
    [pytest.param(action, layer, id=name) for action, table in CASES for name, layer in table.items()],
)
def test_action(action, layer):
    plan = sparsity.plan(small_models.after(layer, head=False)(), 1)
    step = plan.steps[-1]
    assert step.inputs[0].active == 4
    assert step.action == action
    assert step.outputs[0].active == (4 if action == sparsity.CHANNELWISE else None)


def test_additions_take_tensors_as_they_come_unless_aligned():
    image = keras.Input((8, 8, 3))
    a = fbs_keras.FBSConv2D(8, 3, density=0.5)(image)
    b = fbs_keras.FBSConv2D(8, 3, density=0.5)(image)
    c = fbs_keras.FBSConv2D(8, 3, density=0.25)(image)
    model = keras.Model(image, layers.Add()([layers.Add()([a, b]), c]))
    assert [action for _, action in actions(model)][-2:] == ["add", "add"]
    assert [action for _, action in actions(model, aligned=True)][-2:] == ["channelwise", "dense"]


RELUS = {
    "relu": (lambda: layers.ReLU(), "RELU"),
    "relu6": (lambda: layers.ReLU(6), "RELU6"),
    "activation": (lambda: layers.Activation("relu6"), "RELU6"),
    "relu up to 1": (lambda: layers.ReLU(1), "NONE"),
    "leaky relu": (lambda: layers.ReLU(negative_slope=0.1), "NONE"),
    "relu with a threshold": (lambda: layers.ReLU(threshold=1), "NONE"),
    "linear": (lambda: layers.Activation("linear"), "NONE"),
    "tanh": (lambda: layers.Activation("tanh"), "NONE"),
}


@pytest.mark.parametrize("name", RELUS)
def test_activation_of_a_sum(name):
    make, activation = RELUS[name]
    x = keras.Input((8, 8, 3))
    a = fbs_keras.FBSConv2D(8, 3, density=0.5)(x)
    *_, add, relu = sparsity.plan(keras.Model(x, make()(layers.Add()([a, a]))), 1).steps
    assert (add.action, add.activation) == ("add", activation)
    assert relu.action == ("dense" if activation == "NONE" else "fused")
    assert str(relu.outputs[0]) == "1x6x6x8"


def test_what_is_no_sum():
    x = keras.Input((8, 8, 3))
    a = fbs_keras.FBSConv2D(8, 3, padding="same", density=0.5)(x)
    one = layers.GlobalAveragePooling2D(keepdims=True)(a)
    others = [layers.Subtract()([a, a]), layers.Add()([a, one]), layers.Maximum()([a, a]), a + 1.0]
    others.append(type("MySum", (layers.Add,), {})()([a, a]))
    for other in others:
        assert sparsity.plan(keras.Model(x, other), 1).steps[-1].action == "dense"


def test_compact_output_is_expanded():
    assert str(sparsity.plan(small_models.make("compact_output"), 2)).endswith("dense        2x10x11x4/8 -> 2x10x11x8")


def test_nested_models_stay_compact():
    assert str(sparsity.plan(small_models.make("nested"), 1)).split("\n")[1].split() == [
        *("backbone/inner/a", "fbs", "1x8x9x4/8", "->", "1x6x7x4/8")
    ]
