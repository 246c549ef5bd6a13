"""Tests of fbs_keras/export/names.py: any layer name converts, and no two tensors of a file share a name."""

import keras
import pytest
import small_models
from keras import layers

import fbs_keras
from fbs_keras.export import baseline, composite, convert, names, verify


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a_1", "a_2"]),
        (["a", "a", "a_1", "a_1"], ["a", "a_2", "a_1", "a_1_1"]),
        (["a", "A"], ["a", "A"]),
        ([b"", b"", b"x"], [b"", b"_1", b"x"]),
    ],
)
def test_unique(given, expected):
    assert names.unique(given) == expected


def test_prefix_is_short_and_valid_text():
    assert names.prefix(names.encode("größe" * 100)).decode() == ("größe" * 100)[: names.LONGEST_PREFIX]
    assert names.encode("a\ud800") == b"a?"


def tensor_names(content):
    return [tensor.name.decode() for graph in composite.read(content).subgraphs for tensor in graph.tensors]


@pytest.mark.parametrize("name", ["shared", "sums_of_many", "excited_blocks"])
@pytest.mark.parametrize("target", ["portable", "builtin"])
def test_tensors_have_names_of_their_own(name, target):
    found = tensor_names(convert(small_models.make(name), target=target))
    assert all(found)
    assert len(set(found)) == len(found)


def test_names_tell_layer_and_role():
    model = small_models.make("sequential")
    first, second = (layer.name for layer in model.layers[:2])
    portable, builtin = (tensor_names(convert(model, target=target)) for target in ("portable", "builtin"))
    operands = [first, f"{first}/indices", *(f"{first}/{role}" for role in ("weights", "bias", "gate_kernel"))]
    assert {*operands, f"{second}/weights"} <= {*portable} & {*builtin}
    assert {"fbs.conv2d_0/x", "fbs.conv2d_0/y", "fbs.conv2d_0/indices", "fbs.conv2d_0/MatMul"} <= {*portable}
    assert {f"{first}/MatMul", f"{second}/MatMul"} <= {*builtin}
    assert tensor_names(convert(model)) == portable


@pytest.mark.parametrize("make", [convert, lambda model: baseline(model, "dense")])
def test_ends_keep_their_names(make):
    file = composite.read(make(small_models.make("sequential")))
    main, (signature,) = file.subgraphs[0], file.signatureDefs
    ends = [main.tensors[index].name for index in (*main.inputs, *main.outputs)]
    assert ends == [b"serving_default_" + signature.inputs[0].name + b":0", b"StatefulPartitionedCall:0"]
    assert [signature.signatureKey, signature.outputs[0].name] == [b"serving_default", b"output_0"]


def test_long_names_are_not_repeated():
    lengths = []
    for name in ("short", "long" * 1000):
        model = keras.Sequential([keras.Input((8, 8, 3)), fbs_keras.FBSConv2D(8, 3, density=0.5, name=name)])
        lengths.append(len(convert(model, target="builtin")))
    assert lengths[1] - lengths[0] < 10 * 4000  # of the layer's 40 tensors, only operands and results have all of it


AWKWARD = [
    *(
        "a b",
        "größe",
        "_lead",
        "-lead",
        ".lead",
        "a:0",
        "a;b",
        "a\\b",
        "a>b",
        "名前",
        "a\nb",
        '"',
        "x" * 2000,
    ),
    *("0", "serving_default_image:0", "StatefulPartitionedCall:0"),
]


@pytest.mark.parametrize("target", ["portable", "builtin"])
def test_any_name_converts(target):
    """Inputs, layers of several kinds and models may be called anything that Keras takes."""
    x = image = keras.Input((5, 5, 4), name="größe:0 of a")
    for name in AWKWARD:
        x = fbs_keras.FBSConv2D(4, 1, density=0.5, name=name)(x)
    for index, layer in enumerate([layers.BatchNormalization, layers.Softmax, layers.Flatten]):
        x = layer(name=AWKWARD[index] + " more")(x)
    model = keras.Model(image, layers.Dense(3, name=AWKWARD[3] + "!")(x), name="a model")
    content = convert(model, target=target)
    assert verify(model, content, use_delegate=False).difference < 1e-4
    found = tensor_names(content)
    assert {names.encode(name).decode() for name in AWKWARD} <= {*found}
    assert len(set(found)) == len(found)
    assert len(composite.read(baseline(model, "dense")).subgraphs) == 1


@pytest.mark.parametrize("target", ["portable", "builtin"])
def test_names_that_clash(target):
    """Names that differ by case, or by what TensorFlow does not take; one name in several models; a layer's and a
    tensor's."""
    x = image = keras.Input((5, 5, 4))
    for index, name in enumerate(["conv", "Conv", "a b", "a_b", "a:b", "layer_a", "_a", "-a", "conv", "conv_1"]):
        layer = fbs_keras.FBSConv2D(4, 1, density=0.5, name=name)
        inner = keras.Sequential([keras.Input(x.shape[1:]), layer, layer], name=f"model {index // 8}{index}")
        x = inner(x)
    model = keras.Model(image, layers.Dense(3, name="indices")(x))
    content = convert(model, target=target)
    found = tensor_names(content)
    assert len(set(found)) == len(found)
    assert {"model 00/conv", "model 00/conv_1", "model 00/conv_1/indices"} <= {*found}  # called twice
    assert verify(model, content, use_delegate=False).difference < 1e-4


def test_keras_takes_no_slashes():
    with pytest.raises(ValueError, match="cannot contain"):
        layers.Dense(1, name="a/b")


@pytest.mark.parametrize(
    ("shape", "make"),
    [
        ((4, 3), lambda: layers.RNN(layers.LSTMCell(2, name="my cell"), name="loop")),
        ((4, 3), lambda: layers.RNN([layers.LSTMCell(2), layers.GRUCell(2, name="my cell")], name="loop")),
        ((4, 3), lambda: layers.TimeDistributed(layers.Dense(2, name="my cell"), name="loop")),
        ((4, 3), lambda: layers.Bidirectional(layers.RNN(layers.GRUCell(2, name="my cell"), name="loop"))),
    ],
)
def test_says_which_name_to_change(shape, make):
    model = keras.Sequential([keras.Input(shape), make()])
    with pytest.raises(ValueError, match=r"loop' of model .* calls 'my cell' in a loop, .*; rename it to letters of"):
        convert(model)
    later = layers.Dense(1, name="later")
    later.build((1, 2))
    assert later.kernel.path == "later/kernel"
