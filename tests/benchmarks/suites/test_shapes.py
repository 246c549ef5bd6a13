"""The table of convolutions against the models that have them."""

import keras
import pytest

import fbs_keras
from fbs_keras.benchmarks.suites import shapes

MODELS = {
    "resnet18": fbs_keras.models.ResNet18,
    "vgg16": lambda: fbs_keras.models.VGG16(include_top=False),
    "mcifarnet": fbs_keras.models.MCifarNet,
}


@pytest.mark.parametrize("name", MODELS)
def test_each_convolution_of_a_network_once(name):
    expected = {
        (
            layer.kernel_size[0],
            layer.strides[0],
            layer.input.shape[1],
            layer.input.shape[3],
            layer.filters,
            layer.padding,
        )
        for layer in MODELS[name]().layers
        if isinstance(layer, keras.layers.Conv2D) and layer.name != "logits"
    }
    found = [
        (shape.kernel, shape.stride, shape.size, shape.channels, shape.filters, shape.padding)
        for shape in shapes.shapes(name)
    ]
    assert set(found) == expected and len(found) == len(expected)


def test_resnet50_has_the_convolutions_of_its_blocks():
    """1x1, 3x3, 1x1 with a quarter of the output's channels inside, and a 1x1 projection of each stage's input."""
    expected = {(7, 2, 224, 3, 64)}
    channels, size = 64, 56
    for stage, inner in enumerate((64, 128, 256, 512)):
        stride = 1 if stage == 0 else 2
        inner_size = size // stride
        expected |= {
            (1, 1, size, channels, inner),
            (3, stride, size, inner, inner),
            (1, stride, size, channels, 4 * inner),
        }
        channels, size = 4 * inner, inner_size
        expected |= {(1, 1, size, inner, channels), (1, 1, size, channels, inner), (3, 1, size, inner, inner)}
    found = shapes.shapes("resnet50")
    assert {(shape.kernel, shape.stride, shape.size, shape.channels, shape.filters) for shape in found} == expected


def test_names_and_networks():
    names = [shape.name for shape in shapes.shapes()]
    assert len(set(names)) == len(names) == 44
    assert [shape.name for shape in shapes.shapes("32x32")] == ["3x3 32x32 3-64 valid"]
    (shape,) = shapes.shapes("3x3/2 28x28 128-256")
    assert shape.networks == ("resnet18",)
    (shape,) = shapes.shapes("3x3 7x7 512-512")
    assert shape.networks == ("resnet18", "resnet50")


def test_unknown():
    with pytest.raises(
        ValueError, match=r"no convolution is called 'vgg19'; .* networks resnet18, resnet50, vgg16, mcif"
    ):
        shapes.shapes("vgg19")
