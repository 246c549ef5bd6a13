import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fbs_keras.layers import gating


def top_k(g, k):
    """The k largest of each row, the lower index first among equals, in plain NumPy."""
    mask = np.zeros_like(g)
    for row, values in enumerate(g):
        mask[row, np.argsort(-values, kind="stable")[:k]] = 1
    return mask


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize(
    ("density", "channels", "group_size", "k"),
    [
        (1, 64, 1, 64),
        (0.5, 64, 1, 32),
        (0.3, 10, 1, 3),
        (0.7, 10, 1, 7),
        (0.1, 3, 1, 1),
        (1e-06, 64, 1, 1),
        (0.3, 64, 16, 32),
        (0.25, 64, 16, 16),
        (0.01, 64, 64, 64),
        (0.51, 64, 1, 33),
    ],
)
def test_active_channels(density, channels, group_size, k):
    assert gating.active_channels(density, channels, group_size) == k
    g = np.random.default_rng(0).normal(size=(3, channels)).astype("float32")
    assert (to_numpy(gating.winners(keras.ops.array(g), density, group_size)).sum(axis=1) == k).all()


@pytest.mark.parametrize(
    ("density", "channels", "group_size", "round_channels", "k"),
    [
        (0.3, 64, 1, 16, 32),
        (0.25, 64, 1, 16, 16),
        (1e-6, 64, 1, 16, 16),
        (1, 64, 1, 16, 64),
        (0.9, 70, 1, 16, 64),
        (0.95, 70, 1, 16, 70),  # 80 are not there
        (0.5, 8, 1, 16, 8),
        (0.3, 64, 4, 16, 32),  # 20 in groups of 4, 32 in fours of groups
        (0.3, 96, 6, 16, 48),  # a multiple of 6 and 16
        (0.3, 64, 16, 8, 32),
        (0.3, 64, 1, 5, 20),
        (0.3, 64, 1, 2**31 - 1, 64),  # as int32, k + this would be negative
        (0.3, 64, 4, 2**40, 64),
    ],
)
def test_active_channels_rounded(density, channels, group_size, round_channels, k):
    assert gating.active_channels(density, channels, group_size, round_channels) == k
    g = np.random.default_rng(0).uniform(1, 2, size=(3, channels)).astype("float32")
    pi = to_numpy(gating.winner_take_all(keras.ops.array(g), density, group_size, round_channels))
    assert ((pi > 0).sum(axis=1) == k).all()


@settings(max_examples=200, deadline=None)
@given(tenths=st.integers(1, 100), channels=st.integers(1, 4096))
def test_active_channels_is_the_exact_ceiling(tenths, channels):
    assert gating.active_channels(tenths / 100, channels) == math.ceil(tenths * channels / 100 - 1e-9)
    # The layer holds its density in float32.
    assert gating.active_channels(float(np.float32(tenths / 100)), channels) == -(-tenths * channels // 100)


@settings(max_examples=100, deadline=None)
@given(
    g=hnp.arrays("float32", (2, 12), elements=st.integers(-3, 3).map(float)),  # few values: many ties
    k=st.integers(1, 12),
)
def test_winners_are_the_k_largest_and_ties_go_to_the_lower_index(g, k):
    np.testing.assert_array_equal(to_numpy(gating.winners(keras.ops.array(g), k / 12)), top_k(g, k))


def test_layer_and_file_agree_on_k_between_the_digits():
    # 0.5 + 0.5 * (1 / 45) ** 3 is 0.500005: at 192 channels a hair above 96.
    density = 0.5 + 0.5 * (1 / 45) ** 3
    g = np.random.default_rng(0).normal(size=(1, 192)).astype("float32")
    won = to_numpy(gating.winners(keras.ops.array(g), np.float32(density))).sum()
    assert gating.active_channels(np.float32(density), 192) == won


def test_winners_of_groups():
    g = np.array([[1, 9, 6, 6, 4, 4]], "float32")  # group means 5, 6, 4
    np.testing.assert_array_equal(to_numpy(gating.winners(keras.ops.array(g), 1 / 3, 2)), [[0, 0, 1, 1, 0, 0]])
    np.testing.assert_array_equal(to_numpy(gating.winners(keras.ops.array(g), 0.5, 2)), [[1, 1, 1, 1, 0, 0]])


def test_winner_take_all_keeps_values():
    g = keras.ops.array([[0.0, 3.0, 1.0, 2.0]])
    np.testing.assert_array_equal(to_numpy(gating.winner_take_all(g, 0.5)), [[0, 3, 0, 2]])


@pytest.mark.parametrize(("data_format", "axes"), [("channels_last", (1, 2)), ("channels_first", (2, 3))])
def test_saliency_is_the_mean_absolute_value(data_format, axes):
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype("float32")
    expected = np.abs(x).mean(axis=axes)
    np.testing.assert_allclose(to_numpy(gating.saliency(keras.ops.array(x), data_format)), expected, rtol=1e-6)


def test_predict():
    rng = np.random.default_rng(0)
    s, phi, rho = rng.normal(size=(4, 3)), rng.normal(size=(3, 5)), rng.normal(size=5)
    g = gating.predict(*(keras.ops.array(array.astype("float32")) for array in (s, phi, rho)))
    np.testing.assert_allclose(to_numpy(g), np.maximum(s @ phi + rho, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("density", "error"),
    [
        (0, ValueError),
        (1.5, ValueError),
        (float("nan"), ValueError),
        (-0.1, ValueError),
        (float("inf"), ValueError),
        ("half", TypeError),
        (None, TypeError),
        (True, TypeError),
        ([0.5], TypeError),
    ],
)
def test_check_density_refuses(density, error):
    with pytest.raises(error, match=r"density must be .*\(0, 1\], got"):
        gating.check_density(density)


@pytest.mark.parametrize("density", [1, 0.5, np.float32(0.25), 1e-9])
def test_check_density_accepts(density):
    assert gating.check_density(density) == density
