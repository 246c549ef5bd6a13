"""Layers that are of a class, but compute something else: subclasses, and layers whose method has been replaced."""

import functools

import keras
import numpy as np
import pytest
import small_models
from keras import layers, ops

import fbs_keras
from fbs_keras.export import baseline, convert, explain, verify
from fbs_keras.runtime import Interpreter

# Layers that export knows, by how they are called.
OF_ONE = {
    "norm": layers.BatchNormalization,
    "relu": layers.ReLU,
    "relu6": functools.partial(layers.ReLU, 6),
    "leaky_relu": layers.LeakyReLU,
    "activation": functools.partial(layers.Activation, "relu"),
    "rescaling": functools.partial(layers.Rescaling, 2.0),
    "dropout": functools.partial(layers.Dropout, 0.5),
    "depthwise": functools.partial(layers.DepthwiseConv2D, 3, use_bias=False),
    "separable": functools.partial(layers.SeparableConv2D, 4, 3),
    "max_pooling": functools.partial(layers.MaxPooling2D, 2),
    "global_pooling": layers.GlobalAveragePooling2D,
    "padding": functools.partial(layers.ZeroPadding2D, 1),
    "cropping": functools.partial(layers.Cropping2D, 1),
    "upsampling": functools.partial(layers.UpSampling2D, 2),
    "flatten": layers.Flatten,
    "dense": functools.partial(layers.Dense, 4),
    "pointwise": functools.partial(layers.Conv2D, 4, 1),
}
OF_SEVERAL = {
    "add": layers.Add,
    "multiply": layers.Multiply,
    "maximum": layers.Maximum,
    "concatenate": layers.Concatenate,
}


def changed(make, replace):
    """A layer that adds 1 to what its class computes: of a subclass, or with its `call` replaced."""
    layer = make()
    call = type(layer).call
    if replace:
        layer.call = lambda inputs, **_: call(layer, inputs) + 1.0
        return layer
    subclass = type("Mine", (type(layer),), {"call": lambda self, inputs: call(self, inputs) + 1.0})
    return subclass.from_config(layer.get_config())


@pytest.mark.parametrize("replace", [False, True], ids=["subclass", "replaced"])
def test_computes_what_keras_does(replace):
    image = keras.Input((6, 7, 3))
    x = fbs_keras.FBSConv2D(8, 3, padding="same", density=0.5)(image)
    y = fbs_keras.FBSConv2D(8, 1, density=0.5)(image)
    ys = [changed(make, replace)(x) for make in OF_ONE.values()]
    ys += [changed(make, replace)([x, y]) for make in OF_SEVERAL.values()]
    # One that reads and one that is read by an FBS layer, too.
    ys.append(fbs_keras.FBSConv2D(8, 3, density=0.5)(changed(layers.ReLU, replace)(x)))
    model = keras.Model(image, ys)
    x = small_models.noise(model, 2)
    expected = small_models.expected(model, x)
    content = convert(model)
    for use_delegate in (True, False):
        got = Interpreter(content, use_delegate=use_delegate).predict(x)
        for name, a, b in zip([*OF_ONE, *OF_SEVERAL, "fbs"], got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max(), err_msg=name)
    assert explain(model).count("expanded: ") >= len(OF_ONE) + len(OF_SEVERAL)


class Reversed(fbs_keras.FBSConv2D):
    def predict_saliency(self, x):
        return 3.0 - ops.minimum(super().predict_saliency(x), 2.5)


class Drawn(fbs_keras.FBSConv2D):
    def winners(self, g):
        return ops.ones_like(g)


class Squared(fbs_keras.FBSConv2D):
    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs * inputs, kernel)


class Fixed(fbs_keras.FBSConv2D):
    """Other defaults only."""

    def __init__(self, filters=8, kernel_size=3, density=0.5, **kwargs):
        super().__init__(filters, kernel_size, density=density, **kwargs)


def model_of(layer):
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layer(image))


@pytest.mark.parametrize(
    ("kind", "method"),
    [(Reversed, "predict_saliency"), (Drawn, "winners"), (Squared, "convolution_op")],
)
@pytest.mark.parametrize("function", [convert, explain, functools.partial(baseline, kind="dense")])
def test_refuses_another_gate(kind, method, function):
    model = model_of(kind(16, 3, density=0.5, name="mine"))
    with pytest.raises(
        ValueError, match=rf"'mine' \({kind.__name__}\) overrides {method} of FBSConv2D.*FBSConv2D\(gate=layer\)"
    ):
        function(model)
    assert fbs_keras.count_macs(model).rows[0].active_out == 8


def test_refuses_a_replaced_method():
    layer = fbs_keras.FBSConv2D(16, 3, density=0.5, name="mine")
    layer.gate = lambda x: ops.ones((1, 16))
    with pytest.raises(ValueError, match="overrides gate of FBSConv2D"):
        convert(model_of(layer))


def test_takes_other_defaults():
    model = model_of(Fixed())
    assert verify(model, convert(model)).compared_gates == 1


def test_verify_refuses_the_file_of_the_parent():
    settings = {"density": 0.5, "name": "mine"}
    content = convert(model_of(fbs_keras.FBSConv2D(16, 3, **settings)))
    with pytest.raises(ValueError, match="overrides predict_saliency"):
        verify(model_of(Reversed(16, 3, **settings)), content)
