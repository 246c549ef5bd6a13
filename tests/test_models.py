import keras
import numpy as np
import pytest
from model_table import randomise

import fbs_keras
from fbs_keras.models import mcifarnet, vgg16


@pytest.fixture
def zeros(monkeypatch):
    """Weights of zeros where only shapes matter: to draw millions takes seconds."""

    def draw(self, shape, dtype=None):
        return keras.ops.zeros(shape, dtype)

    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", draw)


@pytest.mark.usefixtures("zeros")
def test_mcifarnet_is_the_papers():
    model = fbs_keras.models.MCifarNet()
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == 1_296_074
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}
    expected = {"conv0": (30, 30, 64), "conv2": (15, 15, 128), "conv5": (8, 8, 192), "conv7": (8, 8, 192)}
    assert expected.items() <= shapes.items()
    assert model.output_shape == (None, 10)


RIGHT = {None: 1875, 0.5: 1862, 0.4: 1816}  # of the first 2,000 test images; `make quickstart` counts all


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="6,000 images take minutes on a CPU")
@pytest.mark.parametrize("density", RIGHT, ids=str)
def test_trained_mcifarnet_is_as_accurate_as_it_was(density, cifar10_dir):
    from fbs_keras import data

    model = fbs_keras.models.MCifarNet(weights="cifar10", density=density)
    test = data.load("cifar10", "test[:2000]", 500, data_dir=cifar10_dir)
    right = [
        (np.argmax(model.predict_on_batch(images), -1) == labels).sum()
        for images, labels in test.batches.as_numpy_iterator()
    ]
    assert sum(right) == pytest.approx(RIGHT[density], abs=1)  # an image may lie between two classes


BAD_WEIGHTS = [
    ({"weights": "cifar100"}, "there are trained weights for weights='cifar10', density=None.*got weights='cifar100'"),
    ({"weights": "cifar10", "density": 0.55}, "got weights='cifar10', density=0.55"),
    ({"weights": "cifar10", "classes": 7}, "are for input_shape=.* and classes=10, got .* and 7"),
    ({"density": 1.5}, r"density must be in \(0, 1\], got 1.5"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_WEIGHTS, ids=str)
def test_mcifarnet_has_no_other_weights(arguments, message):
    with pytest.raises(ValueError, match=message):
        fbs_keras.models.MCifarNet(**arguments)


def test_damaged_weights_are_noticed(monkeypatch):
    name, sha256 = mcifarnet.WEIGHTS["cifar10", 0.5]
    monkeypatch.setitem(mcifarnet.WEIGHTS, ("cifar10", 0.5), (name, sha256[::-1]))
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        fbs_keras.models.MCifarNet(weights="cifar10", density=0.5)


def test_mcifarnet_takes_other_images_and_classes():
    model = fbs_keras.models.MCifarNet((64, 48, 1), classes=7)
    assert model(np.zeros((2, 64, 48, 1), "float32")).shape == (2, 7)


# G MACs as the paper and its authors count: VGG-16 slimmed first, savings against the wide one, gates included.
SLIM_VGG16 = {0.8: 3.01, 0.7: 3.88, 0.6: 5.24}


@pytest.mark.usefixtures("zeros")
def test_vgg16_counts_as_in_the_paper():
    model = fbs_keras.models.VGG16(include_top=False)
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}
    expected = {"block1_conv2": (224, 224, 64), "block4_conv3": (28, 28, 512), "block5_pool": (7, 7, 512)}
    assert expected.items() <= shapes.items()
    # The top's 124 M weights take seconds to make: those of a small image tell what they are of a large one.
    small = fbs_keras.models.VGG16((32, 32, 3), classes=10)
    assert small.output_shape == (None, 10)
    rows = [row for row in fbs_keras.count_macs(small).rows if row.kind == "Dense"]
    assert [row.dense for row in rows] == [512 * 4096, 4096 * 4096, 4096 * 10]
    top = 7 * 7 * 512 * 4096 + 4096 * 4096 + 4096 * 1000
    dense = fbs_keras.count_macs(model).dense + top
    assert dense == 15_470_264_320
    slim = fbs_keras.wrap(fbs_keras.models.VGG16(include_top=False, widths=vgg16.SLIM_WIDTHS))
    assert round((fbs_keras.count_macs(slim).dense + top) / 1e9, 2) == 7.90
    for density, saving in SLIM_VGG16.items():
        fbs_keras.set_density(slim, density)
        assert round(dense / (fbs_keras.count_macs(slim).fbs + top), 2) == saving


@pytest.mark.usefixtures("zeros")
@pytest.mark.parametrize(
    ("stem", "size", "classes", "macs", "parameters"),
    [("imagenet", 224, 1000, 1_814_073_344, 11_689_512), ("cifar", 32, 10, 555_422_720, 11_173_962)],
)
def test_resnet18_counts_as_published(stem, size, classes, macs, parameters):
    model = fbs_keras.models.ResNet18((size, size, 3), classes, stem=stem)
    report = fbs_keras.count_macs(model)
    assert (report.dense, report.parameters) == (macs, parameters)
    assert model.output_shape == (None, classes)


@pytest.mark.usefixtures("zeros")
def test_resnet18_is_wrapped_whole():
    lines = []
    wrapped = fbs_keras.wrap(fbs_keras.models.ResNet18((128, 128, 3)), 0.5, print_fn=lines.append)
    assert [line for line in lines if "left alone" in line] == []
    assert len(fbs_keras.layers.densities.fbs_layers(wrapped)) == 20
    for end in ("conv2", "projection"):  # no ReLU before the addition
        line = f"stage2_block1_{end}: FBSConv2D of stage2_block1_{end} + stage2_block1_{end}_norm"
        assert line in lines
        assert wrapped.get_layer(f"stage2_block1_{end}").activation is keras.activations.linear


NETWORKS = {  # the shapes of narrow layers repeat: JAX compiles each once
    "vgg16": lambda: fbs_keras.models.VGG16((32, 32, 3), include_top=False, widths=(8,) * 13),
    "resnet18": lambda: fbs_keras.models.ResNet18((64, 64, 3), classes=7),
    "cifar resnet18": lambda: fbs_keras.models.ResNet18((16, 16, 3), include_top=False, stem="cifar"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_wrapping_preserves_the_function(name):
    model = randomise(NETWORKS[name]())
    x = np.random.default_rng(1).normal(size=(2, *model.input_shape[1:])).astype("float32")
    expected = keras.ops.convert_to_numpy(model(x))
    output = keras.ops.convert_to_numpy(fbs_keras.wrap(model)(x))
    assert np.isfinite(expected).all() and expected.std() > 0
    assert np.abs(output - expected).max() <= 1e-4 * np.abs(expected).max()


def test_bad_arguments():
    with pytest.raises(ValueError, match="widths must be the filters of 13 convolutions, got 2"):
        fbs_keras.models.VGG16(widths=(8, 8))
    with pytest.raises(ValueError, match="stem must be one of 'imagenet', 'cifar', got 'mnist'"):
        fbs_keras.models.ResNet18(stem="mnist")
