"""Tests of fbs_keras/compact/sparsity.py: which tensors are compact."""

import keras
import pytest
import small_models
from keras import layers

import fbs_keras
from fbs_keras.compact import sparsity, steps
from fbs_keras.compact.ops import depthwise_conv2d


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
        "logits    dense        1x1x1x96/192 -> 1x1x1x10"
        "  (expanded: of a single pixel, faster than to gather the rows of Conv2D)",
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
    "depthwise with a bias": lambda: layers.DepthwiseConv2D(3),
    "doubling depthwise": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
    "3x3 convolution": lambda: layers.Conv2D(4, 3),
    "strided 1x1 convolution": lambda: layers.Conv2D(4, 1, strides=2),
    "grouped 1x1 convolution": lambda: layers.Conv2D(4, 1, groups=2),
    "flatten": lambda: layers.Flatten(),
    "a subclass": lambda: type("MyPooling", (layers.MaxPooling2D,), {})(2),
}
DEPTHWISE = {
    "depthwise": lambda: layers.DepthwiseConv2D(3, use_bias=False),
    "depthwise with silu": lambda: layers.DepthwiseConv2D(3, use_bias=False, activation="silu"),
}
ROWS = {"1x1 convolution": lambda: layers.Conv2D(4, 1), "dense": lambda: layers.Dense(4)}
CASES = [
    (steps.CHANNELWISE, CHANNELWISE),
    (depthwise_conv2d.ACTION, DEPTHWISE),
    (steps.SEPARABLE, {"separable": lambda: layers.SeparableConv2D(4, 3)}),
    (steps.DENSE, DENSE),
    (steps.ROWS, ROWS),
]


@pytest.mark.parametrize(
    ("action", "layer"),
    [pytest.param(action, layer, id=name) for action, table in CASES for name, layer in table.items()],
)
def test_action(action, layer):
    plan = sparsity.plan(small_models.after(layer, head=False)(), 1)
    step = plan.steps[-1]
    assert step.inputs[0].active == 4
    assert step.action == action
    assert step.outputs[0].active == (4 if action in (steps.CHANNELWISE, depthwise_conv2d.ACTION) else None)
    assert bool(step.reason) == (action == steps.DENSE)


def fbs(**settings):
    return lambda: fbs_keras.FBSConv2D(
        **{"filters": 8, "kernel_size": 3, "padding": "same", "density": 0.5, **settings}
    )


# (image, FBS layer, what comes after it, whether the FBS layer takes in the next layer)
POOLING = {
    "2x2": ((10, 12, 3), fbs(), [lambda: layers.MaxPooling2D(2)], True),
    "2x2, odd sizes": ((9, 11, 3), fbs(), [lambda: layers.MaxPooling2D((2, 2), strides=2)], True),
    "2x2 pixels": ((2, 2, 3), fbs(), [lambda: layers.MaxPooling2D()], True),
    "same, even sizes": ((10, 12, 3), fbs(), [lambda: layers.MaxPooling2D(padding="same")], True),
    "same, odd height": ((9, 12, 3), fbs(), [lambda: layers.MaxPooling2D(padding="same")], False),
    "same, odd width": ((10, 11, 3), fbs(), [lambda: layers.MaxPooling2D(padding="same")], False),
    "same, one row": ((1, 12, 3), fbs(), [lambda: layers.MaxPooling2D(padding="same")], False),
    "all channels": ((10, 12, 3), fbs(density=1.0), [lambda: layers.MaxPooling2D()], True),
    "3x3": ((10, 12, 3), fbs(), [lambda: layers.MaxPooling2D(3, strides=2)], False),
    "1x2": ((10, 12, 3), fbs(), [lambda: layers.MaxPooling2D((1, 2))], False),
    "stride 1": ((10, 12, 3), fbs(), [lambda: layers.MaxPooling2D(2, strides=1)], False),
    "average": ((10, 12, 3), fbs(), [lambda: layers.AveragePooling2D(2)], False),
    "a subclass": ((10, 12, 3), fbs(), [lambda: type("MyPooling", (layers.MaxPooling2D,), {})(2)], False),
    "an activation between": ((10, 12, 3), fbs(), [lambda: layers.ReLU(6), lambda: layers.MaxPooling2D()], False),
    "an activation that the op lacks": ((10, 12, 3), fbs(activation="gelu"), [lambda: layers.MaxPooling2D()], False),
}


@pytest.mark.parametrize("name", POOLING)
def test_fbs_takes_in_pooling(name):
    image, convolution, behind, fused = POOLING[name]

    def body(x):
        for layer in (convolution, *behind):
            x = layer()(x)
        return x

    model = small_models.functional(body, image)
    plain, pooled = (sparsity.plan(model, 1, quantize=quantize).steps for quantize in (None, "dynamic_int8"))
    assert [step.pool for step in plain] == [1] * len(plain) and "fused" not in [step.action for step in plain]
    if not fused:
        assert [(step.action, step.outputs) for step in pooled] == [(step.action, step.outputs) for step in plain]
        return
    assert [(step.action, step.pool) for step in pooled] == [("fbs", 2), ("fused", 1)]
    assert pooled[0].outputs == pooled[1].inputs == pooled[1].outputs == plain[1].outputs


@pytest.mark.parametrize("read_by", ["another layer", "the model's output"])
def test_fbs_leaves_pooling_where_others_read_its_output(read_by):
    def body(x):
        x = fbs()()(x)
        return [layers.MaxPooling2D()(x), x if read_by == "the model's output" else layers.ReLU(6)(x)]

    steps_ = sparsity.plan(small_models.functional(body), 1, quantize="dynamic_int8").steps
    assert [step.action for step in steps_[:2]] == ["fbs", "channelwise"] and steps_[0].pool == 1


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
    "operation": (lambda: keras.ops.relu, "RELU"),
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
    a, b = (fbs_keras.FBSConv2D(8, 3, density=0.5)(x) for _ in range(2))
    *_, add, relu = sparsity.plan(keras.Model(x, make()(layers.Add()([a, b]))), 1).steps
    assert (add.action, add.ops[0].activation) == ("add", activation)
    assert relu.action == ("dense" if activation == "NONE" else "fused")
    assert str(relu.outputs[0]) == "1x6x6x8"


def test_what_is_no_sum():
    x = keras.Input((8, 8, 3))
    a, b = (fbs_keras.FBSConv2D(8, 3, padding="same", density=0.5)(x) for _ in range(2))
    one = layers.GlobalAveragePooling2D(keepdims=True)(b)
    others = [layers.Subtract()([a, b]), layers.Add()([a, one]), layers.Maximum()([a, b]), a + 1.0]
    others.append(type("MySum", (layers.Add,), {})()([a, b]))
    for other in others:
        assert sparsity.plan(keras.Model(x, other), 1).steps[-1].action == "dense"


def test_tensors_of_the_same_channels_stay_compact():
    x = keras.Input((8, 8, 3))
    a = fbs_keras.FBSConv2D(8, 3, padding="same", density=0.5)(x)
    pooled, one = layers.MaxPooling2D(1)(a), layers.GlobalAveragePooling2D(keepdims=True)(a)
    for y in (layers.Add()([a, pooled]), a - pooled, layers.Average()([a, pooled, a]), a * one):
        step = sparsity.plan(keras.Model(x, y), 1).steps[-1]
        assert (step.action, str(step.outputs[0])) == ("channelwise", "1x8x8x4/8")


def test_compact_output_is_expanded():
    assert str(sparsity.plan(small_models.make("compact_output"), 2)).endswith(
        "dense        2x10x11x4/8 -> 2x10x11x8  (expanded: the model's output)"
    )


def test_nested_models_stay_compact():
    assert str(sparsity.plan(small_models.make("nested"), 1)).split("\n")[1].split() == [
        *("backbone/inner/a", "fbs", "1x8x9x4/8", "->", "1x6x7x4/8")
    ]


def test_depthwise_takes_in_what_follows():
    def inner(name):
        return sparsity.plan(small_models.make(name), 1).steps[1:-1]

    depthwise, norm, relu, suppress = inner("depthwise")
    assert (depthwise.action, depthwise.norm, depthwise.ops[0].activation) == ("depthwise", norm.node.layer, "RELU6")
    assert [step.action for step in (norm, relu, suppress)] == ["fused", "fused", "nothing"]
    assert str(suppress.outputs[0]) == "1x10x11x4/8"
    depthwise, norm, activation, _ = inner("depthwise_hard_silu")
    assert (depthwise.ops[0].activation, norm.action, activation.action) == ("NONE", "fused", "channelwise")
    depthwise, relu, _ = inner("depthwise_dilated")
    assert (depthwise.norm, depthwise.ops[0].activation, relu.action) == (None, "RELU6", "fused")
    assert [step.action for step in inner("operations")] == [
        *("depthwise", "fused", "channelwise", "channelwise", "nothing")
    ]
    assert [step.action for step in inner("depthwise_density_one")] == ["dense", "dense", "dense", "nothing"]


def test_a_mask_of_density_one_leaves_a_compact_tensor_so():
    x = keras.Input((8, 8, 3))
    y = fbs_keras.FBSConv2D(8, 1, density=0.5)(x)
    _, mask = fbs_keras.FBSConv2D(8, 1, return_mask=True)(x)
    *_, suppress, pool = sparsity.plan(keras.Model(x, layers.MaxPooling2D()(fbs_keras.Suppress()([y, mask]))), 1).steps
    assert (suppress.action, pool.action) == ("nothing", "channelwise")
    assert str(suppress.outputs[0]) == "1x8x8x4/8"


def test_excitation_stays_compact():
    model = small_models.make("excited_blocks")
    found = [step for step in sparsity.plan(model, 1).steps if step.action == "scale"]
    assert [[str(tensor) for tensor in (*step.inputs, *step.outputs)] for step in found] == [
        ["1x5x6x6/12", "1x1x1x12", "1x5x6x6/12"],
        ["1x1x1x8", "1x5x6x4/8", "1x5x6x4/8"],
        ["1x5x6x3/6", "1x1x1x3/6", "1x5x6x3/6"],
    ]


def test_concatenation_is_compact_where_that_is_of_use():
    found = [
        step for step in sparsity.plan(small_models.make("concatenations"), 1).steps if step.action == "concatenate"
    ]
    assert [[str(tensor) for tensor in (*step.inputs, *step.outputs)] for step in found] == [
        ["1x10x12x4/8", "1x10x12x2/8", "1x10x12x6/16"],
        ["1x10x12x3", "1x10x12x6/16", "1x10x12x2/8", "1x10x12x11/27"],
        ["1x5x6x11/27", "1x5x6x2/4", "1x5x6x13/31"],
    ]
    assert "concatenate" not in [step.action for step in sparsity.plan(small_models.make("dense_blocks"), 1).steps]


@pytest.mark.parametrize("name", ["inverted_residual", "excited_blocks", "concatenations", "depthwise_chain"])
def test_aligned_and_dense_plans(name):
    model = small_models.make(name)
    aligned = sparsity.plan(model, 1, aligned=True).steps
    assert not any(step.action == "add" for step in aligned)
    assert {tensor.winners for step in aligned for tensor in step.outputs if tensor.active} == {"first"}
    dense = sparsity.plan(model, 1, compact=False).steps
    assert {step.action for step in dense} == {"fbs", "dense"}
    assert all(tensor.active is None for step in dense for tensor in step.outputs)


def test_says_why_tensors_are_expanded():
    """The table as `--explain` prints it."""

    def body(x):
        x, mask = fbs_keras.FBSConv2D(8, 3, padding="same", density=0.5, return_mask=True, name="first")(x)
        x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
        x = fbs_keras.Suppress(name="suppress")([layers.BatchNormalization(name="norm")(x), mask])
        y = layers.Concatenate(name="join")([x, layers.LayerNormalization(name="layer_norm")(x)])
        y = fbs_keras.FBSConv2D(8, 1, density=0.5, name="last")(y)
        y = layers.Add(name="sum")([y, layers.Conv2D(8, 3, padding="same", name="conv")(x)])
        y = layers.BatchNormalization(name="moved")(fbs_keras.FBSConv2D(8, 1, density=0.5, name="other")(y))
        return [y, x]

    assert str(sparsity.plan(small_models.functional(body), 1)).split("\n") == [
        "first       fbs          1x10x11x3 -> 1x10x11x4/8, 1x4/8",
        "depthwise   depthwise    1x10x11x4/8 -> 1x10x11x4/8",
        "norm        fused        1x10x11x4/8 -> 1x10x11x4/8",
        "suppress    nothing      1x10x11x4/8, 1x4/8 -> 1x10x11x4/8",
        "layer_norm  dense        1x10x11x4/8 -> 1x10x11x8  (expanded: LayerNormalization mixes channels)",
        "conv        dense        1x10x11x4/8 -> 1x10x11x8  (expanded: read by Conv2D 3x3, which is not an FBS layer)",
        "join        concatenate  1x10x11x4/8, 1x10x11x8 -> 1x10x11x12/16",
        "last        fbs          1x10x11x12/16 -> 1x10x11x4/8",
        "sum         add          1x10x11x4/8, 1x10x11x8 -> 1x10x11x8",
        "other       fbs          1x10x11x8 -> 1x10x11x4/8",
        "moved       dense        1x10x11x4/8 -> 1x10x11x8"
        "  (expanded: BatchNormalization moves zero, and no Suppress with the same winners comes after it)",
        "(output)    dense        1x10x11x4/8 -> 1x10x11x8  (expanded: the model's output)",
    ]


def test_depthwise_pads_where_the_padding_is_that_of_same():
    def steps_of(name, **settings):
        steps_ = sparsity.plan(small_models.make(name), 1, **settings).steps
        return [(step.action, *(op.padding for op in step.ops)) for step in steps_]

    assert steps_of("depthwise_padded")[1:3] == [("channelwise",), ("depthwise", "VALID")]
    assert steps_of("depthwise_padded_as_same")[1:3] == [("fused",), ("depthwise", "SAME")]
    assert steps_of("depthwise_padded_as_same", aligned=True)[1] == ("channelwise",)
    # An FBS layer's saliency is a mean over the padding too.
    assert ("fused",) not in steps_of("padded_as_same")
