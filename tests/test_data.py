"""Tests of fbs_keras/data.py, on small TFDS data sets made here and on CIFAR-10."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from fbs_keras import data

COUNT = 20


def _store(folder, name, shape, images, image_key="image", splits=("train",)):
    """Stores numbered images (label i % 3) as a TFDS data set, the same ones in each split."""
    examples = [(i, {image_key: image, "label": i % 3}) for i, image in enumerate(images)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                image_key: tfds.features.Image(shape=shape),
                "label": tfds.features.ClassLabel(names=["cat", "dog", "eel"]),
            }
        ),
        split_datasets=dict.fromkeys(splits, examples),
        data_dir=folder,
        disable_shuffling=True,
    )


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """A data_dir with images of one size, grey ones, ones that vary in size, and a set that has no images."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    rng = np.random.default_rng(0)
    _store(folder, "tiny", (12, 12, 3), rng.integers(1, 256, (COUNT, 12, 12, 3), np.uint8))
    _store(folder, "tiny_grey", (8, 8, 1), rng.integers(0, 256, (COUNT, 8, 8, 1), np.uint8))
    sizes = [(20 + i, 40 - i, 3) for i in range(COUNT)]
    _store(folder, "tiny_photos", (None, None, 3), [np.full(size, 10 * i, np.uint8) for i, size in enumerate(sizes)])
    _store(folder, "tiny_pictures", (4, 4, 3), np.zeros((3, 4, 4, 3), np.uint8), image_key="picture")
    return folder


def _pixels(dataset, name="tiny"):
    """The images of one epoch, back in 0..255, and their labels."""
    mean, std = (np.float32(values) for values in data.STATISTICS.get(name, data.STATISTICS["imagenet2012"]))
    batches = list(dataset.batches.as_numpy_iterator())
    images = np.concatenate([images for images, _ in batches])
    assert images.dtype == np.float32
    return np.rint((images * std + mean) * 255).astype(int), np.concatenate([labels for _, labels in batches])


def _stored(folder, name):
    examples = tfds.as_numpy(tfds.load(name, data_dir=folder, split="train"))
    return np.stack([example["image"] for example in examples])


def test_evaluation_gives_every_image_in_order(tiny_dir):
    dataset = data.load("tiny", "train", 8, data_dir=tiny_dir)
    images, labels = _pixels(dataset)
    np.testing.assert_array_equal(images, _stored(tiny_dir, "tiny"))
    np.testing.assert_array_equal(labels, np.arange(COUNT) % 3)
    assert dataset.steps == 3
    assert dataset.image_shape == (12, 12, 3)
    assert dataset.classes == 3
    assert dataset.class_names == ("cat", "dog", "eel")


def test_split_slice(tiny_dir):
    images, _ = _pixels(data.load("tiny", "train[5:9]", 3, data_dir=tiny_dir))
    np.testing.assert_array_equal(images, _stored(tiny_dir, "tiny")[5:9])


def test_training_shuffles_anew_each_epoch_and_drops_the_rest(tiny_dir):
    dataset = data.load("tiny", "train", 8, data_dir=tiny_dir, training=True, augment=False)
    stored = [image.tobytes() for image in _stored(tiny_dir, "tiny").astype(int)]
    orders = [[stored.index(image.tobytes()) for image in _pixels(dataset)[0]] for _ in range(2)]
    assert dataset.steps == 2
    for order in orders:
        assert len(set(order)) == 16
    assert orders[0] != orders[1]


def test_labels_follow_their_images(tiny_dir):
    stored = [image.tobytes() for image in _stored(tiny_dir, "tiny").astype(int)]
    images, labels = _pixels(data.load("tiny", "train", 10, data_dir=tiny_dir, training=True, augment=False))
    np.testing.assert_array_equal([stored.index(image.tobytes()) % 3 for image in images], labels)


def test_augmentation_crops_the_padded_image_and_flips(tiny_dir):
    dataset = data.load("tiny", "train", COUNT, data_dir=tiny_dir, training=True)
    padded = np.pad(_stored(tiny_dir, "tiny"), [(0, 0), (4, 4), (4, 4), (0, 0)])
    crops = {}
    for i in range(COUNT):
        for top in range(9):
            for left in range(9):
                crop = padded[i, top : top + 12, left : left + 12].astype(int)
                crops[crop.tobytes()] = (i, top, left, False)
                crops[crop[:, ::-1].tobytes()] = (i, top, left, True)
    seen = [crops[image.tobytes()] for _ in range(8) for image in _pixels(dataset)[0]]  # a KeyError: no such crop
    for position, values in ((0, range(COUNT)), (1, range(9)), (2, range(9)), (3, (False, True))):
        assert {crop[position] for crop in seen} == set(values)
    assert 40 < sum(flipped for *_, flipped in seen) < 120  # of 160


def test_seed_repeats_order_and_augmentation(tiny_dir):
    def epochs(seed):
        dataset = data.load("tiny", "train", 8, data_dir=tiny_dir, training=True, seed=seed)
        return [_pixels(dataset)[0] for _ in range(2)]

    first, again, other = epochs(1), epochs(1), epochs(2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("name", ["tiny", "tiny_photos"])  # kept in memory, and read anew each epoch
def test_an_epoch_follows_from_seed_and_number(tiny_dir, name):
    tf.random.set_seed(0)

    def stream(first, seed=1, steps=2, count=6):
        dataset = data.load(name, "train", 8, data_dir=tiny_dir, image_size=12, training=True, seed=seed)
        batches = dataset.from_epoch(first, steps).take(count).as_numpy_iterator()
        return [images for images, _ in batches]

    whole = stream(0)
    np.testing.assert_array_equal(stream(2, count=2), whole[4:])
    np.testing.assert_array_equal(stream(1, count=3), whole[2:5])
    assert not np.array_equal(whole[:2], whole[2:4])
    assert not np.array_equal(stream(0, seed=2), whole)
    short, long = stream(0, steps=1), stream(0, steps=3)  # an epoch may have more or fewer batches than the set
    np.testing.assert_array_equal(short[:3], whole[::2])
    np.testing.assert_array_equal(long[:2], whole[:2])
    np.testing.assert_array_equal(long[3:5], whole[2:4])


def test_an_epoch_of_the_stream_has_each_image_once(tiny_dir):
    dataset = data.load("tiny", "train", 5, data_dir=tiny_dir, training=True, augment=False)
    images = [
        image.tobytes() for image in dataset.from_epoch(3).take(8).unbatch().map(lambda x, y: x).as_numpy_iterator()
    ]
    assert len(set(images[:COUNT])) == COUNT == len(set(images[COUNT:]))


@pytest.mark.parametrize("training", [False, True])
def test_images_that_vary_in_size_are_resized(tiny_dir, training):
    dataset = data.load("tiny_photos", "train", 5, data_dir=tiny_dir, image_size=16, training=training, seed=0)
    images, labels = _pixels(dataset)
    assert images.shape == (COUNT, 16, 16, 3)
    assert dataset.image_shape == (16, 16, 3)
    shades = images[:, 0, 0, 0]  # each image is of one shade, and so is every crop of it
    np.testing.assert_array_equal(images, np.broadcast_to(shades[:, None, None, None], images.shape))
    np.testing.assert_array_equal(shades // 10 % 3, labels)
    assert sorted(shades) == [10 * i for i in range(COUNT)]


@pytest.mark.parametrize(
    ("shape", "image_size", "scale", "corner"),
    [
        ((512, 768), None, 1 / 2, (16, 80)),  # 224 is the default: 512 -> 256, 768 -> 384, and the centre of those
        ((384, 256), None, 1, (80, 16)),
        ((128, 200), 64, 73 / 128, (4, 25)),  # 64 / 0.875 = 73.1 -> 73; 114.3 -> 114
    ],
)
def test_evaluation_resizes_the_shorter_side_and_takes_the_centre(tmp_path, shape, image_size, scale, corner):
    rows, columns = (np.linspace(0, 255, size) for size in shape)
    photo = np.stack(np.broadcast_arrays(rows[:, None], columns[None, :], 0), axis=-1).astype(np.uint8)
    _store(str(tmp_path), "tiny_ramp", (None, None, 3), [photo])
    dataset = data.load("tiny_ramp", "train", 1, data_dir=str(tmp_path), image_size=image_size)
    size = image_size or 224
    assert dataset.image_shape == (size, size, 3)
    image = _pixels(dataset)[0][0]
    for axis, channel in ((0, 0), (1, 1)):
        seen = image[..., channel].mean(1 - axis)
        places = (np.arange(size) + corner[axis] + 0.5) / scale - 0.5  # in the photo
        np.testing.assert_allclose(seen, places * 255 / (shape[axis] - 1), atol=1.5)


def test_evaluation_split_prefers_the_one_with_labels(tmp_path, tiny_dir):
    image = np.zeros((1, 4, 4, 3), np.uint8)
    for name, splits in (("tiny_three", ("train", "validation", "test")), ("tiny_two", ("train", "test"))):
        _store(str(tmp_path), name, (4, 4, 3), image, splits=splits)
    assert data.evaluation_split("tiny_three", str(tmp_path)) == "validation"
    assert data.evaluation_split("tiny_two", str(tmp_path)) == "test"
    with pytest.raises(ValueError, match="'tiny' has neither a validation nor a test split, but train: name one"):
        data.evaluation_split("tiny", tiny_dir)


def test_split_made_by_even_splits(tiny_dir):
    parts = tfds.even_splits("train", 3, drop_remainder=True)
    first, rest = (
        data.load("tiny", parts[0], 3, data_dir=tiny_dir),
        data.load("tiny", parts[1] + parts[2], 3, data_dir=tiny_dir),
    )
    assert (first.steps, rest.steps) == (2, 4)
    images = np.concatenate([_pixels(first)[0], _pixels(rest)[0]])
    np.testing.assert_array_equal(images, _stored(tiny_dir, "tiny")[:18])


def test_image_size_resizes_images_of_one_size(tiny_dir):
    images, _ = _pixels(data.load("tiny", "train", 20, data_dir=tiny_dir, image_size=4))
    stored = _stored(tiny_dir, "tiny")
    assert images.shape == (COUNT, 4, 4, 3)
    np.testing.assert_allclose(images.mean((1, 2)), stored.mean((1, 2)), atol=12)


def test_grey_images(tiny_dir):
    dataset = data.load("tiny_grey", "train", COUNT, data_dir=tiny_dir)
    images, _ = next(iter(dataset.batches.as_numpy_iterator()))
    assert images.shape == (COUNT, 8, 8, 1)
    np.testing.assert_allclose(images, data.normalise(_stored(tiny_dir, "tiny_grey"), "tiny_grey"), atol=1e-6)


def test_cached_and_streamed_sets_hold_the_same(tiny_dir, monkeypatch):
    monkeypatch.setattr(data, "_CACHE_BYTES", 0)
    dataset = data.load("tiny", "train", 10, data_dir=tiny_dir, training=True, augment=False)
    stored = {image.tobytes() for image in _stored(tiny_dir, "tiny").astype(int)}
    for _ in range(2):
        assert {image.tobytes() for image in _pixels(dataset)[0]} == stored


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalise(dtype):
    images = np.array([[[[0, 128, 255]]]], dtype)
    mean, std = np.array([0.49140, 0.48216, 0.44653]), np.array([0.24703, 0.24349, 0.26159])
    result = data.normalise(images, "cifar10")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[0, 0, 0], (np.array([0, 128, 255]) / 255 - mean) / std, rtol=1e-5)
    np.testing.assert_array_equal(data.normalise(images, "cifar10:3.0.2"), result)
    assert not np.array_equal(data.normalise(images, "eurosat/rgb"), result)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "cifar11",
            {},
            ValueError,
            "must be a data set of TensorFlow Datasets, got 'cifar11'; did you mean .*'cifar10'",
        ),
        ("no_such_thing_at_all", {}, ValueError, "got 'no_such_thing_at_all'$"),
        ("cifar10", {}, FileNotFoundError, "run `python scripts/prepare_cifar10.py --data_dir"),
        ("mnist", {}, FileNotFoundError, "run `tfds build mnist --data_dir"),
        (
            "tiny_pictures",
            {},
            ValueError,
            "expected the features 'image', an Image.* got picture, label|label, picture",
        ),
        ("tiny", {"split": "nowhere"}, ValueError, "nowhere"),
        ("tiny", {"batch_size": 0}, ValueError, "batch_size must be a positive integer, got 0"),
        ("tiny", {"batch_size": 2.5}, ValueError, "batch_size must be a positive integer, got 2.5"),
        ("tiny", {"batch_size": 21, "training": True}, ValueError, "at most the 20 images of 'train', got 21"),
        ("tiny", {"image_size": -1}, ValueError, "image_size must be a positive integer, got -1"),
    ],
)
def test_bad_arguments(tiny_dir, name, options, error, message):
    with pytest.raises(error, match=message):
        data.load(name, **{"split": "train", "batch_size": 4, "data_dir": tiny_dir} | options)


def test_data_dir_defaults_to_the_environment(tiny_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", tiny_dir)
    assert data.load("tiny", "train", 4).steps == 5


def test_cifar10(cifar10_dir):
    dataset = data.load("cifar10", "test", 1000, data_dir=cifar10_dir)
    assert (dataset.steps, dataset.image_shape, dataset.classes) == (10, (32, 32, 3), 10)
    assert dataset.class_names[3] == "cat"
    batches = list(dataset.batches.as_numpy_iterator())
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    np.testing.assert_array_equal(np.bincount(labels), [1000] * 10)
    np.testing.assert_allclose(images.mean((0, 1, 2)), 0, atol=0.02)  # the statistics are the training images'
    np.testing.assert_allclose(images.std((0, 1, 2)), 1, atol=0.02)


def test_to_pixels_undoes_normalise():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    pixels = data.to_pixels(data.normalise(images, "cifar10"), "cifar10")
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, images)
