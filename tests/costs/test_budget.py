import keras
import numpy as np
import pytest
from keras import layers

import fbs_keras
from fbs_keras import FBSConv2D
from fbs_keras.costs import macs
from fbs_keras.layers.densities import fbs_layers, fbs_paths


@pytest.fixture(scope="module")
def mcifarnet():
    """M-CifarNet with gates that differ between channels, the more the deeper the layer, at density 0.7."""
    model = fbs_keras.wrap(fbs_keras.models.MCifarNet(), 0.7)
    rng = np.random.default_rng(0)
    for depth, layer in enumerate(fbs_layers(model)):
        layer.gate_bias.assign(np.exp(0.3 * depth * rng.normal(size=layer.filters)))
    return model


def saving_at(model, density):
    """The saving at a density, or with a dict; the model keeps its own."""
    before = {path: float(layer.density) for path, layer in fbs_paths(model)}
    fbs_keras.set_density(model, density)
    saving = fbs_keras.count_macs(model).saving
    fbs_keras.set_density(model, before)
    return saving


@pytest.mark.parametrize("saving", [1.0, 1.5, 2.0, 3.9, 8.0])
def test_a_uniform_density_is_the_largest_that_saves_enough(mcifarnet, saving):
    density = fbs_keras.density_for_macs(mcifarnet, saving)
    assert saving_at(mcifarnet, density) >= saving > saving_at(mcifarnet, density + 0.01)


def test_the_papers_density():
    assert fbs_keras.density_for_macs(fbs_keras.wrap(fbs_keras.models.MCifarNet()), 3.93) == 0.5  # counts as 3.937


def test_densities_by_layer_meet_the_budget_and_fall_with_it(mcifarnet):
    before = np.ones(8)
    for saving in (1.2, 1.5, 2.0, 3.0, 3.9, 8.0):
        densities = fbs_keras.density_for_macs(mcifarnet, saving, per_layer=True)
        assert saving <= saving_at(mcifarnet, densities) <= 1.01 * saving
        values = np.array(list(densities.values()))
        assert (values <= before).all() and (values < before).any()
        before = values


def test_concentrated_layers_keep_fewer_channels(mcifarnet):
    densities = list(fbs_keras.density_for_macs(mcifarnet, 2.0, per_layer=True).values())
    assert densities == sorted(densities, reverse=True)
    assert densities[0] > densities[-1] + 0.2


def two_layers(first, second):
    """Two layers of four channels with the given gates."""
    model = keras.Sequential([keras.Input((8, 8, 3)), FBSConv2D(4, 3, name="a"), FBSConv2D(4, 3, name="b")])
    for layer, g in zip(model.layers, (first, second), strict=True):
        layer.gate_bias.assign(g)
    return model


def test_shares_by_hand():
    # Shares before each channel: 0, .4, .7, .9 and 0, .25, .5, .75; kept in the order 0 0 .25 .4 .5 .7 .75 .9.
    model = two_layers([1, 3, 4, 2], [5, 5, 5, 5])
    kept = [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4)]
    for first, second in kept:
        densities = {"a": first / 4, "b": second / 4}
        assert fbs_keras.density_for_macs(model, saving_at(model, densities), per_layer=True) == densities


def test_training_statistics_go_before_the_start():
    model = two_layers([1, 1, 1, 1], [1, 1, 1, 1])
    model.layers[0].saliency.assign([9, 0, 0, 0])
    model.layers[1].saliency.assign([2, 2, 2, 2])
    first, second = fbs_keras.density_for_macs(model, 1.3, per_layer=True).values()
    assert first < second


def test_whole_groups_and_rounded_channels_are_counted_as_they_win():
    model = fbs_keras.wrap(fbs_keras.models.MCifarNet(), group_size=4, round_channels=16)
    for per_layer in (False, True):
        densities = fbs_keras.density_for_macs(model, 2.0, per_layer=per_layer)
        assert saving_at(model, densities) >= 2.0
    for path, layer in fbs_paths(model):
        assert densities[path] * layer.filters % 16 == 0


def test_paths_of_nested_models():
    inner = keras.Sequential([keras.Input((8, 8, 3)), FBSConv2D(40, 3, name="conv")], name="inner")
    model = keras.Sequential([keras.Input((8, 8, 3)), inner, FBSConv2D(40, 3, name="conv"), layers.Flatten()])
    densities = fbs_keras.density_for_macs(model, 2.0, per_layer=True)
    assert list(densities) == ["inner/conv", "conv"]
    assert saving_at(model, densities) >= 2.0


def test_min_density(mcifarnet):
    densities = fbs_keras.density_for_macs(mcifarnet, 3.0, per_layer=True, min_density=0.5)
    assert min(densities.values()) == 0.5 < max(densities.values())
    assert fbs_keras.density_for_macs(mcifarnet, 80, min_density=0.01) < 0.1


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"saving": "2x"}, TypeError, "saving must be a number of at least 1, got '2x'"),
        ({"saving": 0.5}, ValueError, "saving must be a number of at least 1, got 0.5"),
        ({"saving": float("nan")}, ValueError, "saving must be a number of at least 1, got nan"),
        ({"saving": 2, "min_density": 0}, ValueError, r"density must be in \(0, 1\], got 0"),
        (
            {"saving": 5, "min_density": 0.5},
            ValueError,
            r"saving must be at most 3\.93, which min_density = 0\.5 gives in model 'mcifarnet', got 5; lower",
        ),
    ],
)
def test_bad_arguments(mcifarnet, arguments, error, message, per_layer):
    with pytest.raises(error, match=message):
        fbs_keras.density_for_macs(mcifarnet, per_layer=per_layer, **arguments)


def test_a_model_without_fbs_layers():
    with pytest.raises(ValueError, match=r"has no FBSConv2D layer; make one with fbs_keras\.wrap"):
        fbs_keras.density_for_macs(fbs_keras.models.MCifarNet(), 2.0)


@pytest.mark.parametrize("per_layer", [False, True])
def test_the_model_stays_as_it_is(mcifarnet, monkeypatch, per_layer):
    def densities():
        return [float(layer.density) for layer in fbs_layers(mcifarnet)]

    before = densities()
    fbs_keras.density_for_macs(mcifarnet, 2.0, per_layer=per_layer)
    assert densities() == before
    monkeypatch.setattr(macs, "report", lambda *sizes: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fbs_keras.density_for_macs(mcifarnet, 2.0, per_layer=per_layer)
    assert densities() == before


def test_a_residual_network():
    model = fbs_keras.wrap(fbs_keras.models.ResNet18((64, 64, 3)))
    densities = fbs_keras.density_for_macs(model, 2.0, per_layer=True)
    assert 2.0 <= saving_at(model, densities) <= 2.02
