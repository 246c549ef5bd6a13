"""Draws which channels of an FBS model fire for which class (the paper's figure 3), and how images' choices differ.

python scripts/plot_channels.py --model fbs_keras/models/checkpoints/mcifarnet_cifar10_50.keras --output channels.png
"""

import numpy as np
from absl import flags

from _fbs_scripts import program

_MODEL = flags.DEFINE_string("model", None, "A .keras file with FBS layers.", required=True)
_OUTPUT = flags.DEFINE_string("output", "channels.png", "The figure to write; its suffix says the format.")
_CHOICES = flags.DEFINE_string("choices", None, "A second figure to write: how much images' choices differ.")
_LAYERS = flags.DEFINE_list("layers", None, "Layers to draw, by name. Defaults to four, from the first to the last.")
_DATASET = flags.DEFINE_string("dataset", "cifar10", "Name of a TFDS image classification data set.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS data directory. Defaults to TFDS_DATA_DIR, else ./data.")
_SPLIT = flags.DEFINE_string("split", "test[:2000]", "The images to count over.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "Height and width to resize to, where the images vary in size.")


def plot():
    """Does what the flags ask for."""
    program.start_tensorflow()

    from fbs_keras import data, plots

    dataset = data.load(_DATASET.value, _SPLIT.value, 250, data_dir=_DATA_DIR.value, image_size=_IMAGE_SIZE.value)
    model = program.load_model(_MODEL.value)
    images, labels = (np.concatenate(arrays) for arrays in zip(*dataset.batches.as_numpy_iterator(), strict=True))
    _, gates = plots.gate_model(model).predict(images, batch_size=250)
    examples = plots.class_examples(data.to_pixels(images, _DATASET.value), labels, dataset.classes)
    rates = plots.firing_rates(model, gates, labels, dataset.classes)
    plots.plot_channels(rates, dataset.class_names, examples, _OUTPUT.value, layers=_LAYERS.value)
    layers = {name: plots.choices(fires, labels) for name, fires in plots.fired_channels(model, gates).items()}
    for name, row in layers.items():
        print(
            f"{name}: {row.always:.0%} of the channels fire always, {row.never:.0%} never; two images share "
            f"{row.same:.0%} within a class, {row.others:.0%} across classes, {row.chance:.0%} by chance"
        )
    if _CHOICES.value is not None:
        plots.plot_choices(layers, _CHOICES.value)
    print(f"{_OUTPUT.value}: which of {len(labels)} images each channel of {_MODEL.value} fires for")


if __name__ == "__main__":
    program.run(plot)
