import keras
import numpy as np
import pytest

import fbs_keras


@pytest.mark.parametrize(
    ("shape", "data_format"),
    [((2, 3, 4, 5), "channels_last"), ((2, 5, 3, 4), "channels_first"), ((2, 5), "channels_last"), ((2, 3, 5), None)],
)
def test_zeroes_the_losers(shape, data_format):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    x.reshape(-1)[::7] = np.inf
    mask = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 1, 1]], "float32")
    axis = 1 if data_format == "channels_first" else len(shape) - 1
    layer = fbs_keras.Suppress(data_format)
    y = keras.ops.convert_to_numpy(layer([x, mask]))
    for image in range(2):
        for channel in range(5):
            expected = np.take(x[image], channel, axis - 1) if mask[image, channel] else 0.0
            np.testing.assert_array_equal(np.take(y[image], channel, axis - 1), expected)


def test_config_and_shape():
    layer = fbs_keras.Suppress("channels_first", name="suppress")
    assert fbs_keras.Suppress.from_config(layer.get_config()).data_format == "channels_first"
    assert layer.compute_output_shape([(None, 4, 8, 8), (None, 4)]) == (None, 4, 8, 8)
    with pytest.raises(ValueError, match="data_format must be 'channels_last' or 'channels_first', got 'last'"):
        fbs_keras.Suppress("last")


def test_behind_a_depthwise_convolution():
    x = inputs = keras.Input((6, 6, 3))
    x, mask = fbs_keras.FBSConv2D(8, 1, density=0.25, gate_kernel_initializer="he_normal", return_mask=True)(x)
    x = keras.layers.DepthwiseConv2D(3, bias_initializer="ones")(x)
    model = keras.Model(inputs, [fbs_keras.Suppress()([x, mask]), mask])
    y, mask = model(np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype("float32"))
    active = np.abs(keras.ops.convert_to_numpy(y)).sum(axis=(1, 2)) > 0
    np.testing.assert_array_equal(active, keras.ops.convert_to_numpy(mask) > 0)
    assert (active.sum(axis=1) == 2).all()
