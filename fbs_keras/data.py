"""Image classification data sets of TensorFlow Datasets (TFDS), as batches for `fit` and `evaluate` on any backend."""

import dataclasses
import difflib
import math
import numbers
import os
import secrets
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

# Mean and standard deviation of the training images' red, green and blue, in 0..1. Other data sets use ImageNet's.
STATISTICS = {
    "cifar10": ((0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)),
    "imagenet2012": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_PADDING = 4  # for random crops of small images: He et al., "Deep Residual Learning", section 4.2
_AREA, _ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of random crops of large ones: Szegedy et al., "Going Deeper", section 6
_SIZE = 224  # of images that vary in size, as usual on ImageNet ...
_CENTRAL = 224 / 256  # ... and the part of their shorter side that is evaluated
_CACHE_BYTES = 2**30
_SHUFFLE_BUFFER = 10_000  # images, still encoded, of a set too large to be cached


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A split of a data set, ready to train or evaluate on.

    Attributes:
        batches: A `tf.data.Dataset` of `(images [N, H, W, C] float32, labels [N] int64)`, one epoch long.
        steps: Number of batches.
        image_shape: `(height, width, channels)` of every image.
        classes: Number of labels.
        class_names: One name for each label.
        from_epoch: For training, a function from the number of an epoch, and how many batches are one (default:
            `steps`), to an endless stream of batches from its start on. The order and the augmentation of an epoch
            follow from `load`'s seed and its number alone, so that training can go on where it was stopped.
    """

    batches: tf.data.Dataset
    steps: int
    image_shape: tuple[int, int, int]
    classes: int
    class_names: tuple[str, ...]
    from_epoch: Callable[..., tf.data.Dataset] | None = None


def normalise(images, name):
    """Scales images of the data set `name` to zero mean and unit variance in each channel: `(x / 255 - mean) / std`.

    Args:
        images: `[..., C]`, 0 to 255: a uint8 or float32 array, or a float32 tensor. C is 3, or 1 for grey images.
        name: The data set, as in `load`: models trained on it expect its statistics.

    Returns:
        The float32 images, of the same shape.
    """
    mean, std = _statistics(images, name)
    return images * (1 / (255 * std)) - mean / std


def to_pixels(images, name):
    """Undoes `normalise`: the uint8 images, 0 to 255, as one can look at them."""
    mean, std = _statistics(images, name)
    return np.clip(np.rint((images * std + mean) * 255), 0, 255).astype(np.uint8)


def _statistics(images, name):
    mean, std = np.asarray(STATISTICS.get(_base_name(name), STATISTICS["imagenet2012"]), np.float32)
    if images.shape[-1] == 1:
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    return mean, std


def load(
    name, split, batch_size, *, data_dir=None, training=False, augment=True, image_size=None, seed=None
) -> Dataset:
    """A TFDS image classification data set as batches of normalised images and their labels.

    For training, the images are shuffled anew each epoch and augmented, and an incomplete last batch is dropped.
    Augmentation flips half of the images and crops them at random: images of one size after padding them by 4, images
    that vary in size to 8 to 100 % of their area. Without training, images come in the stored order; of those that vary
    in size the shorter side is resized to 8/7 of `image_size` (256 for 224), and the centre is taken. Sets below 1 GiB
    are cached in memory.

    Args:
        name: Any TFDS image classification data set, such as `"cifar10"` or `"imagenet2012"`.
        split: A TFDS split, such as `"train"`, `"test"` or `"train[:90%]"`, or what `tfds.even_splits` makes of one.
        batch_size: Number of images in a batch; positive.
        data_dir: The TFDS data_dir that holds the prepared data set. Defaults to TFDS_DATA_DIR if set, else `data`.
        training: Whether to shuffle and augment.
        augment: Whether training crops and flips.
        image_size: Height and width to resize to. Defaults to the images' own size, or to 224 where they vary in size.
        seed: An integer that makes the order and the augmentation repeatable.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: If the data set or split is unknown, holds no labelled images, or an argument is out of range.
        FileNotFoundError: If the data set is not in `data_dir`.

    Example:

    >>> train = fbs_keras.data.load("cifar10", "train", 128, training=True)
    >>> model.fit(train.batches, epochs=40)
    """
    for argument, value in {"batch_size": batch_size, "image_size": image_size}.items():
        if value is not None and (not isinstance(value, numbers.Integral) or value < 1):
            raise ValueError(f"{argument} must be a positive integer, got {value!r}")
    builder = _prepared_builder(name, data_dir)
    image_feature, label_feature = _features(builder)
    *own_size, channels = image_feature.shape
    varies = None in own_size
    if image_size is None and varies:
        image_size = _SIZE
    size = own_size if image_size is None else [image_size, image_size]
    count = builder.info.splits[split].num_examples
    if training and batch_size > count:
        raise ValueError(f"batch_size must be at most the {count} images of {split!r}, got {batch_size}")
    augment = augment and training
    cached = not (varies and augment) and count * math.prod([*size, channels]) <= _CACHE_BYTES

    def decode(example):
        image = image_feature.decode_example(example["image"])
        if varies and not augment:
            image = _resize_and_crop_centre(image, image_size)
        elif not varies and size != own_size:
            image = _resize(image, size)
        return image, example["label"]

    def stored(seed=None):
        return builder.as_dataset(
            split=split,
            decoders={"image": tfds.decode.SkipDecoding()},
            shuffle_files=seed is not None,
            read_config=tfds.ReadConfig(shuffle_seed=seed, try_autocache=False, enable_ordering_guard=False),
        )

    def normalised(dataset):
        dataset = dataset.map(lambda images, labels: (normalise(tf.cast(images, tf.float32), name), labels))
        return dataset.prefetch(tf.data.AUTOTUNE)

    in_order = stored().map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    if cached:
        in_order = in_order.cache()
    details = {
        "image_shape": (*size, channels),
        "classes": label_feature.num_classes,
        "class_names": tuple(label_feature.names),
    }
    if not training:
        return Dataset(normalised(in_order.batch(batch_size)), math.ceil(count / batch_size), **details)
    steps = count // batch_size

    def shuffled(seeds, steps=steps):
        """Batches of epochs, each in an order of its own that follows from its seed."""

        def epoch(seed):
            tf.random.set_seed(1)  # of this function's graph alone: where the program's is 0, shuffle takes no tensor
            dataset = in_order if cached else stored(seed)
            # Large sets are shuffled while the images are small.
            dataset = dataset.shuffle(count if cached else _SHUFFLE_BUFFER, seed=seed)
            dataset = dataset.repeat().take(steps * batch_size)
            # Seed and place are the seed of an image's augmentation, or of its batch's.
            places = tf.data.Dataset.zip(
                tf.data.Dataset.from_tensors(seed).repeat(), tf.data.Dataset.range(tf.int64.max)
            )
            return tf.data.Dataset.zip(dataset, places)

        dataset = seeds.flat_map(tf.autograph.experimental.do_not_convert(epoch))
        if not cached:
            dataset = dataset.map(lambda example, seed: (decode(example), seed), num_parallel_calls=tf.data.AUTOTUNE)
        if varies and augment:
            dataset = _augmented(dataset, lambda image, seed: _resize(_random_crop(image, seed), size))
        dataset = dataset.batch(batch_size, drop_remainder=True)
        dataset = dataset.map(lambda examples, seeds: (examples, (seeds[0][0], seeds[1][0])))
        if augment:
            padding = 0 if varies else _PADDING
            dataset = _augmented(dataset, lambda images, seed: _shift_and_flip(images, padding, seed))
        return normalised(dataset.map(lambda examples, seed: examples))

    base = secrets.randbits(31) if seed is None else seed

    def from_epoch(first, steps=steps):
        epochs = tf.data.Dataset.range(first, tf.int64.max)
        return shuffled(
            epochs.map(lambda epoch: tf.random.stateless_uniform([], [base, epoch], None, None, tf.int64)), steps
        )

    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
    return Dataset(shuffled(seeds), steps, **details, from_epoch=from_epoch)


def evaluation_split(name, data_dir=None):
    """The split of a data set that is kept for evaluation: `"validation"` if there is one, else `"test"`.

    The test split comes second because some data sets, imagenet2012 among them, have no labels there.

    Args:
        name: The data set, as in `load`.
        data_dir: As in `load`.

    Returns:
        The name of the split.

    Raises:
        ValueError: If the data set is unknown or has neither.
        FileNotFoundError: If it is not in `data_dir`.

    Example:

    >>> fbs_keras.data.evaluation_split("imagenet2012")
    'validation'
    """
    splits = _prepared_builder(name, data_dir).info.splits
    for split in ("validation", "test"):
        if split in splits:
            return split
    raise ValueError(f"{name!r} has neither a validation nor a test split, but {', '.join(splits)}: name one of them")


def _base_name(name):
    return name.split(":")[0].split("/")[0]  # of "name/config:version"


def _prepared_builder(name, data_dir):
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR", "data")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        near = difflib.get_close_matches(_base_name(name), tfds.list_builders())
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"name must be a data set of TensorFlow Datasets, got {name!r}{hint}") from None
    if not builder.is_prepared():
        command = "python scripts/prepare_cifar10.py" if builder.name == "cifar10" else f"tfds build {name}"
        raise FileNotFoundError(f"{name!r} is not prepared in {data_dir!r}: run `{command} --data_dir {data_dir}`")
    return builder


def _features(builder):
    features = builder.info.features
    image, label = (dict(features).get(key) for key in ("image", "label"))
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise ValueError(
            f"{builder.name!r} is no image classification data set: expected the features 'image', an Image, "
            f"and 'label', a ClassLabel, got {', '.join(features)}"
        )
    return image, label


def _augmented(dataset, function):
    """Maps `function(images, seed)` over the images of a dataset of `((images, labels), seed)`."""
    return dataset.map(
        lambda example, seed: ((function(example[0], tf.stack(seed)), example[1]), seed),
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def _shift_and_flip(images, padding, seed):
    """Crops each image of a batch at random from its zero-padded self, and flips half of them: two gathers a batch."""
    count = tf.shape(images)[0]
    height, width = images.shape[1:3]
    row_seed, column_seed, flip_seed = tf.unstack(tf.random.split(seed, 3))
    shift = (count, 1)
    rows = tf.range(height) + tf.random.stateless_uniform(shift, row_seed, 0, 2 * padding + 1, tf.int32)
    columns = tf.range(width) + tf.random.stateless_uniform(shift, column_seed, 0, 2 * padding + 1, tf.int32)
    flip = tf.random.stateless_uniform(shift, flip_seed) < 0.5
    columns = tf.where(flip, columns[:, ::-1], columns)
    images = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    return tf.gather(tf.gather(images, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)


def _random_crop(image, seed):
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros([1, 0, 4]),
        seed,
        aspect_ratio_range=_ASPECT,
        area_range=_AREA,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.slice(image, begin, size)


def _resize_and_crop_centre(image, size):
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    image = _resize(image, tf.cast(tf.round(shape * (size / _CENTRAL / tf.reduce_min(shape))), tf.int32))
    top, left = tf.unstack((tf.shape(image)[:2] - size) // 2)
    return tf.image.crop_to_bounding_box(image, top, left, size, size)


def _resize(image, size):
    return tf.cast(tf.round(tf.image.resize(image, size, antialias=True)), tf.uint8)
