"""Tests of fbs_keras/compact/padding.py."""

import keras
import pytest
from keras import layers

from fbs_keras.compact.padding import pads_as_same


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_only_what_same_pads_computes_the_same(size, kernel, stride, dilation):
    if stride > 1 and dilation > 1:
        return  # Keras has no such convolution
    x = keras.random.normal((1, size, size, 1))

    def convolve(padding):
        layer = layers.DepthwiseConv2D(
            kernel, strides=stride, dilation_rate=dilation, padding=padding, depthwise_initializer="ones"
        )
        layer.build(x.shape)
        return layer

    same, valid = convolve("same"), convolve("valid")
    expected = same(x)
    found = []
    for before in range(4):
        for after in range(4):
            pad = layers.ZeroPadding2D(((before, after), (before, after)))
            if size + before + after <= (kernel - 1) * dilation:
                continue
            if pads_as_same(pad, valid, x.shape):
                y = valid(pad(x))
                found.append((before, after))
                assert keras.ops.shape(y) == keras.ops.shape(expected)
                assert float(keras.ops.max(keras.ops.abs(y - expected))) < 1e-5
    assert len(found) == 1
    assert not pads_as_same(layers.ZeroPadding2D(0), same, x.shape)
    assert not pads_as_same(layers.MaxPooling2D(), valid, x.shape)
