import keras
import pytest
from keras import layers
from model_table import MODELS

import fbs_keras
from fbs_keras import FBSConv2D

# Millions of MACs of M-CifarNet's convolutions and classifier, by density; the paper's 3.93x at 0.5 includes the gates.
PAPER = {1: 174.30, 0.9: 142.82, 0.8: 113.44, 0.7: 86.50, 0.6: 64.01, 0.5: 43.97, 0.4: 28.93, 0.3: 16.65}


def test_mcifarnet_counts_as_in_the_paper():
    model = fbs_keras.models.MCifarNet()
    dense = fbs_keras.count_macs(model)
    assert (dense.dense, dense.fbs, dense.parameters) == (174_301_824, 174_301_824, 1_296_074)
    wrapped = fbs_keras.wrap(model)
    for density, millions in PAPER.items():
        fbs_keras.set_density(wrapped, density)
        report = fbs_keras.count_macs(wrapped)
        assert report.dense == dense.dense
        assert round(report.conv / 1e6, 2) == millions
    fbs_keras.set_density(wrapped, 0.5)
    report = fbs_keras.count_macs(wrapped)
    assert report.saving == pytest.approx(3.93, abs=0.01)
    assert report.parameters - dense.parameters == 143_552  # phi; rho takes gamma's place


def test_one_layer_by_hand():
    model = keras.Sequential([keras.Input((10, 10, 4)), FBSConv2D(8, 3, density=0.5), FBSConv2D(6, 1, density=0.5)])
    first, second = fbs_keras.count_macs(model).rows
    assert (first.dense, first.conv, first.gate) == (9 * 64 * 4 * 8, 9 * 64 * 4 * 4, 4 * 8 + 8 * 64)
    assert (second.dense, second.conv, second.gate) == (64 * 8 * 6, 64 * 4 * 3, 4 * 6 + 6 * 64)
    assert (second.active_in, second.channels_in, second.active_out, second.channels_out) == (4, 8, 3, 6)


def chain(*between):
    """Two FBS layers of 8 channels at density 0.25 with other layers between them."""
    return keras.Sequential(
        [keras.Input((8, 8, 3)), FBSConv2D(8, 3, density=0.25), *between, FBSConv2D(8, 1, density=0.25, name="last")]
    )


@pytest.mark.parametrize(
    ("between", "active"),
    [
        ([layers.MaxPooling2D()], 2),
        ([layers.ZeroPadding2D(), layers.Dropout(0.5), layers.Activation("gelu")], 2),
        ([layers.DepthwiseConv2D(3, use_bias=False)], 2),
        ([layers.DepthwiseConv2D(3)], 8),
        ([layers.BatchNormalization()], 8),
        ([layers.Activation("sigmoid")], 8),
        ([layers.Conv2D(8, 1)], 8),
    ],
)
def test_active_channels_pass_channelwise_layers_only(between, active):
    assert fbs_keras.count_macs(chain(*between)).rows[-1].active_in == active


def test_channels_first():
    arguments = {"density": 0.5, "padding": "same", "data_format": "channels_first"}
    model = keras.Sequential(
        [keras.Input((3, 8, 8)), FBSConv2D(64, 3, **arguments), layers.Dropout(0.5), FBSConv2D(32, 3, **arguments)]
    )
    last = fbs_keras.count_macs(model).rows[-1]
    assert (last.channels_in, last.active_in, last.conv) == (64, 32, 9 * 64 * 32 * 16)


def test_adding_a_number_fills_all_channels():
    inputs = keras.Input((8, 8, 3))
    x = FBSConv2D(8, 1, density=0.25)(inputs) + 1.0
    model = keras.Model(inputs, FBSConv2D(4, 1)(x))
    assert fbs_keras.count_macs(model).rows[-1].active_in == 8


@pytest.mark.parametrize(
    ("merge", "active"),
    [
        (lambda x, y: layers.Add()([x, y]), 8),  # is written dense
        (lambda x, y: layers.Concatenate()([x, y]), 2 + 2),
        (lambda x, y: layers.Concatenate()([x, layers.BatchNormalization()(y)]), 2 + 8),
        (lambda x, y: layers.Multiply()([x, layers.GlobalAveragePooling2D(keepdims=True)(y)]), 2),
    ],
    ids=["add", "concatenate", "concatenate dense", "scale"],
)
def test_merging_branches(merge, active):
    inputs = keras.Input((8, 8, 3))
    branches = [FBSConv2D(8, 1, density=0.25)(inputs) for _ in range(2)]
    model = keras.Model(inputs, FBSConv2D(4, 1, name="last")(merge(*branches)))
    assert fbs_keras.count_macs(model).rows[-1].active_in == active


@pytest.mark.parametrize(
    ("stack", "share"),
    [
        ([layers.Conv2D(6, 1)], 0.25),
        ([layers.Conv2D(6, 3)], 1),
        ([layers.Dense(6)], 0.25),
        ([layers.GlobalAveragePooling2D(), layers.Dense(6)], 1),  # of one pixel
        ([layers.SeparableConv2D(6, 3)], 0.25),
        ([layers.DepthwiseConv2D(3)], 1),
        ([layers.DepthwiseConv2D(3, use_bias=False)], 0.25),
    ],
    ids=lambda value: "+".join(type(layer).__name__ for layer in value) if isinstance(value, list) else "",
)
def test_what_other_layers_read(stack, share):
    model = keras.Sequential([keras.Input((8, 8, 3)), FBSConv2D(8, 3, density=0.25), *stack])
    row = fbs_keras.count_macs(model).rows[-1]
    assert row.fbs == row.dense * share


def test_channels_pass_through_depthwise_convolutions():
    rows = {row.name: row for row in fbs_keras.count_macs(fbs_keras.wrap(MODELS["mobile"](), 0.5)).rows}
    depthwise, project, after = rows["depthwise"], rows["se_project"], rows["after_sum"]
    assert (depthwise.active_in, depthwise.active_out, depthwise.fbs) == (6, 6, depthwise.dense // 2)
    assert (project.active_in, project.active_out, project.conv) == (6, 3, project.dense // 4)
    assert after.fbs == after.dense


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (layers.Conv2D(6, 3, groups=2), 9 * 36 * 2 * 6),
        (layers.DepthwiseConv2D(3), 9 * 36 * 4),
        (layers.SeparableConv2D(6, 3), 9 * 36 * 4 + 36 * 4 * 6),
        (layers.Conv2DTranspose(6, 3, strides=2), 9 * 64 * 4 * 6),
        (layers.Dense(5), 64 * 4 * 5),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_other_layers(layer, macs):
    model = keras.Sequential([keras.Input((8, 8, 4)), layer])
    assert fbs_keras.count_macs(model).dense == macs


def test_what_cannot_be_counted_is_named():
    inputs = keras.Input((4, 8))
    model = keras.Model(inputs, layers.LSTM(3, name="recurrent")(inputs))
    assert fbs_keras.count_macs(model).uncounted == ["recurrent"]


def test_peak_memory():
    model = keras.Sequential([keras.Input((8, 8, 3)), FBSConv2D(8, 3, padding="same"), FBSConv2D(8, 3, padding="same")])
    report = fbs_keras.count_macs(model)
    assert report.peak_dense == report.peak_fbs == 4 * 64 * (8 + 8)
    fbs_keras.set_density(model, 0.5)
    assert fbs_keras.count_macs(model).peak_fbs == 4 * 64 * (4 + 4) + 4 * (4 + 4)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_counted(name):
    model = MODELS[name]()
    report = fbs_keras.count_macs(fbs_keras.wrap(model, 0.5))
    assert report.dense == fbs_keras.count_macs(model).dense
    assert report.conv < report.dense
    assert report.uncounted == []


def test_a_model_of_unknown_size_is_refused():
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3)])
    with pytest.raises(ValueError, match=r"MACs need fixed dimensions.*build the model with a fixed Input shape"):
        fbs_keras.count_macs(model)
