import keras
import numpy as np
import pytest
from keras import layers, ops

from fbs_keras.pruning.channel_groups import ChannelGroups, flatten


def conv(filters, name=None, **arguments):
    return layers.Conv2D(filters, 3, padding="same", name=name, **arguments)


def groups_of(groups, model, name):
    return groups.roots(groups.writes[model.get_layer(name)]).tolist()


def test_an_addition_joins_and_a_concatenation_puts_side_by_side():
    inputs = keras.Input((8, 8, 3))
    a, b, c = conv(4, "a")(inputs), conv(4, "b")(inputs), conv(8, "c")(inputs)
    x = layers.Concatenate()([layers.Add()([a, b]), layers.ReLU()(conv(4, "d")(inputs))]) * 0.5
    model = keras.Model(inputs, conv(2, "last")(x + c))
    groups = ChannelGroups(model)
    assert groups_of(groups, model, "a") == groups_of(groups, model, "b")
    assert groups_of(groups, model, "c") == groups_of(groups, model, "a") + groups_of(groups, model, "d")
    assert len(set(groups_of(groups, model, "c"))) == 8
    assert groups.is_free(groups.writes[model.get_layer("c")]).all()
    assert groups.roots(groups.reads[model.get_layer("last")]).tolist() == groups_of(groups, model, "c")


PASSED_ON = {
    "pooling": [layers.MaxPooling2D()],
    "global pooling": [layers.GlobalAveragePooling2D(), layers.Reshape((1, 1, 6)), layers.ReLU()],
    "padding": [layers.ZeroPadding2D(), layers.Dropout(0.5), layers.Activation("sigmoid"), layers.UpSampling2D()],
    "batch norm": [layers.BatchNormalization()],
    "depthwise": [layers.DepthwiseConv2D(3)],
}


@pytest.mark.parametrize("name", PASSED_ON)
def test_layers_that_pass_channels_on(name):
    parts = [type(layer).from_config(layer.get_config()) for layer in PASSED_ON[name]]
    model = keras.Sequential([keras.Input((8, 8, 3)), conv(6, "first"), *parts, conv(2, "last")])
    groups = ChannelGroups(model)
    assert groups.reads[model.layers[-1]].tolist() == groups.writes[model.layers[0]].tolist()
    assert groups.is_free(groups.writes[model.layers[0]]).all()


def test_what_the_depth_multiplier_makes_belongs_to_its_input():
    model = keras.Sequential([keras.Input((8, 8, 3)), conv(3), layers.DepthwiseConv2D(3, depth_multiplier=2), conv(1)])
    groups = ChannelGroups(model)
    ids = groups.writes[model.layers[0]]
    assert groups.reads[model.layers[-1]].tolist() == np.repeat(ids, 2).tolist()


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_a_padding_puts_new_channels_beside_those_it_reads(data_format):
    axis = 3 if data_format == "channels_last" else 1
    widths = [[0, 0]] + [[1, 2]] * 3
    widths[axis] = [2, 3]
    inputs = keras.Input((8, 8, 8))
    x = conv(4, "a", data_format=data_format)(inputs)
    x = ops.pad(x[(slice(None), *[slice(None, None, 2) if i != axis else slice(None) for i in (1, 2, 3)])], widths)
    model = keras.Model(inputs, conv(2, "last", data_format=data_format)(x))
    groups = ChannelGroups(model)
    read = groups.roots(groups.reads[model.get_layer("last")]).tolist()
    assert read[2:6] == groups_of(groups, model, "a")
    assert len(set(read)) == len(read) == 9
    assert groups.is_free(read).all()


KEPT = [
    (lambda: [layers.Conv2D(4, 1, groups=2, name="grouped")], "'grouped' reads it: it has 2 groups"),
    (lambda: [layers.SeparableConv2D(4, 1, name="mixed")], "'mixed' reads it: SeparableConv2D may mix channels"),
    (lambda: [layers.Lambda(lambda x: x, name="user")], "'user' reads it: Lambda may mix channels"),
    (lambda: [layers.LayerNormalization(name="norm")], "'norm' reads it: LayerNormalization may mix channels"),
    (lambda: [layers.Activation("softmax", name="soft")], "'soft' reads it: Activation may mix channels"),
    (lambda: [layers.Activation(lambda x: x + 1, name="own")], "'own' reads it: Activation may mix channels"),
    (lambda: [layers.BatchNormalization(axis=1, name="rows")], "'rows' reads it: its channels are on another axis"),
    (lambda: [layers.Reshape((16, 4, 6), name="moved")], "'moved' reads it: it moves channels"),
    (
        lambda: [layers.Lambda(lambda x: ops.pad(x, [[0, 0]] * 3 + [[1, 1]]), name="user")],
        "'user' reads it: Lambda may mix channels",
    ),
    (
        lambda: [layers.ZeroPadding2D(1, data_format="channels_first", name="pad")],
        "'pad' reads it: its channels are on another axis",
    ),
    (lambda: [layers.Permute((3, 1, 2), name="moved")], "'moved' reads it: Permute may mix channels"),
    (lambda: [keras.Sequential([keras.Input((8, 8, 6)), conv(2)], name="in")], "it enters the nested model 'in'"),
]


@pytest.mark.parametrize(("make", "reason"), KEPT, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_not_known_keeps_its_input_whole(make, reason):
    model = keras.Sequential([keras.Input((8, 8, 3)), conv(6), *make(), layers.GlobalMaxPooling2D(), layers.Dense(2)])
    groups = ChannelGroups(model)
    ids = groups.writes[model.layers[0]]
    assert not groups.is_free(ids).any()
    assert groups.reason(ids) == reason


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda x: ops.pad(x, [[0, 0]] * 3 + [[1, 1]], "reflect"), "it pads channels in mode 'reflect'"),
        (lambda x: ops.pad(x, [[0, 0]] + [[1, 1]] * 3), ""),
        (lambda x: x[..., 1:], "it takes a part of the channels, or other axes"),
        (lambda x: x[:, 0], "it takes a part of the channels, or other axes"),
        (lambda x: x[..., None, :], "it takes a part of the channels, or other axes"),
        (lambda x: x[:, 1:, ...], ""),
        (lambda x: x[:, ::2], ""),
        (ops.zeros_like, ""),
    ],
)
def test_operations_that_pad_or_slice(operation, reason):
    inputs = keras.Input((8, 8, 3))
    x = operation(conv(6, "first")(inputs))
    groups = ChannelGroups(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    (ids,) = (groups.writes[layer] for path, layer in groups.layers.items() if path == "first")
    assert groups.reason(ids).endswith(reason) and bool(groups.reason(ids)) is bool(reason)


def test_what_is_added_to_the_input_stays():
    inputs = keras.Input((8, 8, 3))
    x = conv(3, "first")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Add(name="add")([inputs, x]))))
    groups = ChannelGroups(model)
    assert groups.reason(groups.writes[model.get_layer("first")]) == (
        "'add' reads it: it joins it to channels that stay"
    )


def test_a_shared_layer_reads_the_same_channels_everywhere():
    inputs = keras.Input((8, 8, 3))
    shared = conv(4, "shared")
    x = shared(conv(6, "a")(inputs)) - shared(conv(6, "b")(inputs))
    model = keras.Model(inputs, layers.GlobalMaxPooling2D()(conv(2)(x)))
    groups = ChannelGroups(model)
    assert groups_of(groups, model, "a") == groups_of(groups, model, "b")
    assert groups.is_free(groups.writes[shared]).all()


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("axis", [1, 3])
def test_flatten_follows_the_layer(axis, data_format):
    shape = [2, 3, 4]
    places = np.arange(shape[axis - 1])
    layer = layers.Flatten(data_format=data_format)
    images = np.broadcast_to(places.reshape([-1 if i == axis else 1 for i in (1, 2, 3)]), shape)[None]
    np.testing.assert_array_equal(
        flatten(layer, places, axis, (None, *shape)), keras.ops.convert_to_numpy(layer(images))[0]
    )
