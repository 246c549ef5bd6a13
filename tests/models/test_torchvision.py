import keras
import numpy as np
import pytest
from keras import layers
from torch_files import random_arrays, save_old, save_safetensors, save_zip

import fbs_keras
from fbs_keras.models import torchvision

# PyTorch's operations in numpy, channels first, from its documentation.


def conv2d(x, arrays, name, stride=1):
    weight = arrays[f"{name}.weight"]
    size = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))[:, :, ::stride, ::stride]
    y = np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
    return y + arrays.get(f"{name}.bias", np.zeros(len(weight)))[:, None, None]


def batch_norm(x, arrays, name):
    weight, bias, mean, var = (
        arrays[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def max_pool2d(x, size, stride, padding):
    padded = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
    return windows[:, :, ::stride, ::stride].max((4, 5))


def linear(x, arrays, name):
    return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]


def relu(x):
    return np.maximum(x, 0)


def norm_shapes(name, channels):
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def resnet18_shapes(classes):
    """The tensors of torchvision's resnet18."""
    shapes = {"conv1.weight": (64, 3, 7, 7), **norm_shapes("bn1", 64)}
    before = 64
    for layer, channels in enumerate((64, 128, 256, 512), 1):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            shapes |= {f"{name}.conv1.weight": (channels, before, 3, 3), **norm_shapes(f"{name}.bn1", channels)}
            shapes |= {f"{name}.conv2.weight": (channels, channels, 3, 3), **norm_shapes(f"{name}.bn2", channels)}
            if before != channels:
                shapes[f"{name}.downsample.0.weight"] = (channels, before, 1, 1)
                shapes |= norm_shapes(f"{name}.downsample.1", channels)
            before = channels
    return shapes | {"fc.weight": (classes, 512), "fc.bias": (classes,)}


def resnet18(x, arrays):
    """What torchvision's resnet18 computes, and the feature maps before the pooling."""
    x = max_pool2d(relu(batch_norm(conv2d(x, arrays, "conv1", 2), arrays, "bn1")), 3, 2, 1)
    for layer in range(1, 5):
        for block in (0, 1):
            name, shortcut = f"layer{layer}.{block}", x
            stride = 2 if layer > 1 and block == 0 else 1
            x = relu(batch_norm(conv2d(x, arrays, f"{name}.conv1", stride), arrays, f"{name}.bn1"))
            x = batch_norm(conv2d(x, arrays, f"{name}.conv2"), arrays, f"{name}.bn2")
            if stride == 2:
                shortcut = conv2d(shortcut, arrays, f"{name}.downsample.0", 2)
                shortcut = batch_norm(shortcut, arrays, f"{name}.downsample.1")
            x = relu(x + shortcut)
    return linear(x.mean((2, 3)), arrays, "fc"), x


WIDTHS = (6, 5, 4, 8, 7, 6, 5, 4, 8, 7, 6, 5, 4)
# Where torchvision's vgg16_bn and vgg16 have their convolutions, in `features`.
PLACES = {
    True: (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40),
    False: (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
}
POOLED = (1, 3, 6, 9, 12)


def vgg16_shapes(batch_norm):
    shapes = {}
    for place, before, channels in zip(PLACES[batch_norm], (3, *WIDTHS), WIDTHS, strict=False):
        shapes |= {f"features.{place}.weight": (channels, before, 3, 3), f"features.{place}.bias": (channels,)}
        shapes |= norm_shapes(f"features.{place + 1}", channels) if batch_norm else {}
    return shapes | {"classifier.0.weight": (4096, 4), "classifier.0.bias": (4096,)}


def vgg16_features(x, arrays, with_norm):
    for number, place in enumerate(PLACES[with_norm]):
        x = conv2d(x, arrays, f"features.{place}")
        x = relu(batch_norm(x, arrays, f"features.{place + 1}") if with_norm else x)
        x = max_pool2d(x, 2, 2, 0) if number in POOLED else x
    return x


def images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def assert_same(model, x, expected):
    """The model computes on x, channels last, what is expected, and it depends on x."""
    y = keras.ops.convert_to_numpy(model(x.transpose(0, 2, 3, 1)))
    assert y.shape == expected.shape
    scale = np.abs(expected).max()
    assert np.abs(y - expected).max() <= 1e-4 * scale < 0.1 * np.abs(expected[0] - expected[1]).max()


def test_resnet18_computes_what_torchvisions_does(tmp_path):
    arrays = random_arrays(resnet18_shapes(classes=7))
    save_zip(tmp_path / "resnet18.pth", arrays)
    x = images(2, 3, 32, 32)  # even at every stride, where "same" padding would be another
    logits, features = resnet18(x, arrays)
    model = fbs_keras.models.ResNet18((32, 32, 3), 7, weights=tmp_path / "resnet18.pth")
    assert_same(model, x, logits)
    assert fbs_keras.count_macs(model).dense == fbs_keras.count_macs(fbs_keras.models.ResNet18((32, 32, 3), 7)).dense
    body = fbs_keras.models.ResNet18((32, 32, 3), include_top=False, weights=str(tmp_path / "resnet18.pth"))
    assert_same(fbs_keras.wrap(body), x, features.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(("with_norm", "save"), [(True, save_old), (False, save_safetensors)])
def test_vgg16_computes_what_torchvisions_does(with_norm, save, tmp_path):
    arrays = random_arrays(vgg16_shapes(with_norm))
    save(tmp_path / "vgg16.pth", arrays)
    arguments = {"widths": WIDTHS, "batch_norm": with_norm, "weights": tmp_path / "vgg16.pth"}
    model = fbs_keras.models.VGG16((64, 64, 3), include_top=False, **arguments)
    x = images(2, 3, 64, 64)
    expected = vgg16_features(x, arrays, with_norm).transpose(0, 2, 3, 1)
    assert_same(model, x, expected)
    assert_same(fbs_keras.wrap(model), x, expected)


def small(dense=5):
    """A convolution, a flattened map of 3x2x4 and two dense layers."""
    return keras.Sequential(
        [
            keras.Input((3, 2, 3)),
            layers.Conv2D(4, 3, padding="same", name="conv"),
            layers.Flatten(),
            layers.Dense(24, "relu", name="hidden"),
            layers.Dense(dense, name="logits"),
        ],
        name="small",
    )


NAMES = {"conv": "features.0", "hidden": "classifier.0", "logits": "classifier.2"}
SMALL = {
    "features.0.weight": (4, 3, 3, 3),
    "features.0.bias": (4,),
    "classifier.0.weight": (24, 24),
    "classifier.0.bias": (24,),
    "classifier.2.weight": (5, 24),
    "classifier.2.bias": (5,),
}


def test_a_flattened_map_keeps_its_order(tmp_path):
    arrays = random_arrays(SMALL)
    save_zip(tmp_path / "small.pth", arrays)
    model = small()
    torchvision.load_weights(model, tmp_path / "small.pth", NAMES, top="classifier.")
    x = images(2, 3, 3, 2)
    hidden = relu(linear(conv2d(x, arrays, "features.0").reshape(2, -1), arrays, "classifier.0"))
    assert_same(model, x, linear(hidden, arrays, "classifier.2"))


def test_vgg16_names_its_dense_layers_as_torchvision():
    names = fbs_keras.models.vgg16._torch_names(True)
    assert [names[name] for name in ("fc1", "fc2", "logits")] == ["classifier.0", "classifier.3", "classifier.6"]


def without(name):
    return {key: shape for key, shape in SMALL.items() if key != name}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (without("features.0.bias"), r"it lacks 'features\.0\.bias' \(1 missing\)$"),
        (SMALL | {"features.1.weight": (4,)}, r"it holds 'features\.1\.weight' \(1 unexpected\)$"),
        (
            {f"net.{name}": shape for name, shape in SMALL.items()},
            r"it lacks 'features\.0\.weight' \(6 missing\) and it holds 'net\.features\.0\.weight' \(6 unex",
        ),
        (
            SMALL | {"features.0.weight": (4, 3, 5, 5)},
            r"'features\.0\.weight' has shape \(4, 3, 5, 5\), expected \(4, 3, 3, 3\)$",
        ),
        (
            SMALL | {"classifier.2.weight": (1000, 24)},
            r"'classifier\.2\.weight' has shape \(1000, 24\), expected \(5, 24\); include_top=False leaves",
        ),
    ],
)
def test_other_weights_are_refused_and_nothing_is_assigned(shapes, message, tmp_path):
    save_zip(tmp_path / "small.pth", random_arrays(shapes))
    model = small()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"small\.pth' does not fit model 'small': " + message):
        torchvision.load_weights(model, tmp_path / "small.pth", NAMES, top="classifier.")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_weights_must_be_a_path(tmp_path):
    with pytest.raises(TypeError, match=r"weights must be the path of a \.pth or \.safetensors file, got True"):
        fbs_keras.models.VGG16((32, 32, 3), include_top=False, widths=WIDTHS, weights=True)
    with pytest.raises(FileNotFoundError):
        fbs_keras.models.VGG16((32, 32, 3), include_top=False, widths=WIDTHS, weights="imagenet")
