import keras
import pytest
from keras import layers

from fbs_keras.wrapping.chains import chain_behind, needs_suppression, scopes


def chain_of(*stack, model=None):
    """The names of the layers that pass on the channels of the layer "conv", and whether these are to be suppressed."""
    if model is None:
        model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 1, name="conv"), *stack])
    scope = next(iter(scopes(model).values()))
    (node,) = (node for node in scope.graph.nodes if node.layer.name == "conv")
    chain = chain_behind(node, scope, channel_axis=-1)
    return [node.layer.name for node in chain], needs_suppression(chain, True), needs_suppression(chain, False)


def depthwise(**arguments):
    return layers.DepthwiseConv2D(3, name="depthwise", **arguments)


@pytest.mark.parametrize(
    ("stack", "names", "before_convolution", "otherwise"),
    [
        ([layers.ReLU(name="relu"), layers.MaxPooling2D(name="pool")], ["relu", "pool"], False, False),
        ([depthwise(use_bias=False)], ["depthwise"], False, False),
        ([depthwise()], ["depthwise"], True, True),
        ([layers.BatchNormalization(name="norm")], ["norm"], True, False),
        ([depthwise(use_bias=False), layers.BatchNormalization(name="norm")], ["depthwise", "norm"], True, True),
        ([layers.Dense(3), depthwise()], [], False, False),
        ([layers.ReLU(name="relu"), layers.Softmax(), depthwise()], ["relu"], False, False),
        ([layers.BatchNormalization(axis=1)], [], False, False),
        ([depthwise(depth_multiplier=2)], [], False, False),
        (
            [layers.GlobalMaxPooling2D(name="pool"), layers.BatchNormalization(name="norm")],
            ["pool", "norm"],
            True,
            False,
        ),
    ],
)
def test_chain(stack, names, before_convolution, otherwise):
    assert chain_of(*stack) == (names, before_convolution, otherwise)


def test_a_chain_ends_where_it_branches():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.ReLU(name="relu")(layers.Conv2D(4, 1, name="conv")(x))
    model = keras.Model(inputs, layers.Add()([x, depthwise(padding="same")(x)]))
    assert chain_of(model=model)[0] == ["relu"]


def test_a_chain_ends_at_the_output():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.ReLU(name="relu")(layers.Conv2D(4, 1, name="conv")(x))
    assert chain_of(model=keras.Model(inputs, [x, depthwise()(x)]))[0] == ["relu"]


def test_shared_layers_and_calls_in_training_mode_are_in_no_chain():
    shared, norm = depthwise(padding="same"), layers.BatchNormalization(name="norm")
    x = inputs = keras.Input((8, 8, 4))
    x = shared(layers.Conv2D(4, 1, name="conv")(shared(x)))
    assert chain_of(model=keras.Model(inputs, x))[0] == []
    x = norm(layers.Conv2D(4, 1, name="conv")(inputs), training=True)
    assert chain_of(model=keras.Model(inputs, x))[0] == []


def test_scopes_of_nested_models():
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(3, 1, name="conv")], name="inner")
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, inner(inner(inputs)))
    found = scopes(model)
    assert [scope.prefix for scope in found.values()] == ["", "inner/"]
    assert list(found) == [model, inner]
    assert found[model].owners[inner.layers[0]] == 1
