import keras
import pytest
from keras import layers
from model_table import MODELS

import fbs_keras
from fbs_keras.wrapping import planning

# What becomes of each convolution of MODELS, as `wrap(print_fn=print)` says it.
REPORTS = {
    "branches": [
        "shared: left alone: it is shared by 2 calls",
        "taken: FBSConv2D of taken",
        "sigmoid: left alone: its activation 'sigmoid' moves zero, so no channel could be skipped",
        "separable: FBSConv2D of separable after its depthwise convolution",
        "grouped: left alone: it has 2 groups",
        "last: FBSConv2D of last",
        "head: left alone: it computes the model's output",
    ],
    "mobile": [
        "stem: FBSConv2D of stem + stem_bn + stem_relu",
        "plain: computes the channels of stem",  # zero stays zero
        "project: FBSConv2D of project",
        "expand: FBSConv2D of expand + expand_bn + expand_silu, channels pass through depthwise + bn + silu",
        "depthwise: computes the channels of expand",
        "se_reduce: left alone: its map of 1x1 is so small that its gate would take longer than it saves",
        "se_expand: left alone: its activation 'sigmoid' moves zero, so no channel could be skipped",
        "se_project: FBSConv2D of se_project + se_project_bn",
        "after_sum: left alone: it reads 'sum', all of whose channels are active",
        "last: FBSConv2D of last",
        "twice: left alone: it has a depth_multiplier of 2",
    ],
    "mobile_sequential": [
        "conv: FBSConv2D of conv + bn + relu, channels pass through "
        "pad + depthwise + depthwise_bn + depthwise_relu + pool",
        "depthwise: computes the channels of conv",
    ],
    "separable": [
        "stem: FBSConv2D of stem",
        "first: FBSConv2D of first + first_bn + relu after its depthwise convolution",
        "projection: FBSConv2D of projection",
        "second: FBSConv2D of second + second_bn after its depthwise convolution",
        "multiplied: left alone: it has a depth_multiplier of 2",
        "dilated: FBSConv2D of dilated after its depthwise convolution",
    ],
    "orders": [
        "relu_first: FBSConv2D of relu_first, channels pass through norm_second",
        "pool_first: FBSConv2D of pool_first, channels pass through pool + norm_third + relu_third",
        "two_readers: FBSConv2D of two_readers",
        "in_block: FBSConv2D of in_block",
        "grown: FBSConv2D of grown",
        "transition: FBSConv2D of transition",  # not with norm_of_rows
    ],
    "activations": [
        "hard_silu: FBSConv2D of hard_silu",
        "before_gelu: FBSConv2D of before_gelu + gelu",
        "before_leaky: FBSConv2D of before_leaky",
        "before_threshold: FBSConv2D of before_threshold",
        "before_softplus: left alone: its activation 'softplus' moves zero, so no channel could be skipped",
        "before_softmax: FBSConv2D of before_softmax",
        "exponential: left alone: its activation 'exponential' moves zero, so no channel could be skipped",
        "before_operation: FBSConv2D of before_operation + relu",
    ],
    "two_inputs": [
        "of_a: FBSConv2D of of_a",
        "of_b: FBSConv2D of of_b",
        "shared: computes the channels of of_a and of_b",
        "block/inside: FBSConv2D of inside + relu, channels pass through depthwise + bn",
        "block/depthwise: computes the channels of block/inside",
        "outside: FBSConv2D of outside",
    ],
}


@pytest.mark.parametrize("name", REPORTS)
def test_report(name):
    keras.utils.clear_session()  # the names of operations are counted
    assert [str(decision) for decision in planning.plan(MODELS[name]())] == REPORTS[name]


def test_a_batch_norm_is_in_a_chain_only_before_a_gated_convolution():
    def chain(*reader, **arguments):
        stack = [layers.Conv2D(4, 1, activation="relu", name="conv"), layers.BatchNormalization(), *reader]
        model = keras.Sequential([keras.Input((8, 8, 3)), *stack, layers.Flatten(), layers.Dense(2)])
        return planning.plan(model, **arguments)[0].chain

    assert not chain()
    assert not chain(layers.Conv2D(4, 1, groups=2))
    assert not chain(layers.Conv2D(4, 1), include="conv")
    assert len(chain(layers.Conv2D(4, 1))) == 1
    assert len(chain(layers.SeparableConv2D(4, 1))) == 1


def test_a_depthwise_convolution_behind_an_fbs_layer_computes_its_channels():
    wrapped = fbs_keras.wrap(MODELS["mobile_sequential"]())
    assert [str(decision) for decision in planning.plan(wrapped)] == [
        "conv: left alone: it is an FBSConv2D already",
        "depthwise: computes the channels of conv",
    ]


class PlusOne:
    """An activation without a `__name__`."""

    def __call__(self, x):
        return x + 1

    def get_config(self):
        return {}


@pytest.mark.parametrize(
    ("activation", "name"), [(layers.Activation("sigmoid", name="mine"), "mine"), (PlusOne(), "PlusOne")]
)
def test_activations_that_are_objects(activation, name):
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 1, activation=activation)])
    assert planning.plan(model)[0].reason == f"its activation {name!r} moves zero, so no channel could be skipped"


@pytest.mark.parametrize(("size", "wrapped"), [(3, False), (4, True), (None, True)], ids=["3x3", "4x4", "unknown"])
def test_small_maps_are_left_alone(size, wrapped):
    x = inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(4, 1, activation="relu", name="conv")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    (decision,) = planning.plan(model)
    assert decision.wrapped == wrapped
    assert wrapped or "its map of 3x3 is so small" in str(decision)
    assert planning.plan(model, include="conv")[0].wrapped
