"""Gates as docs/gates.md ("A gate of your own") shows them."""

import keras
from keras import layers


def bottleneck(filters, units=4):
    """Two layers of few units between them, which start with all gates near 1."""
    return keras.Sequential([layers.Dense(units, "relu"), layers.Dense(filters, bias_initializer="ones")])


def peak(filters, data_format=None):
    """Max-pooled saliency of x after a ReLU, as a gate that reads x itself."""
    pool = layers.GlobalMaxPooling2D(data_format=data_format)
    return {"gate": keras.Sequential([pool, layers.Dense(filters, bias_initializer="ones")]), "gate_input": "x"}


@keras.saving.register_keras_serializable("tests")
class Bottleneck(layers.Layer):
    """`bottleneck` as a class."""

    def __init__(self, filters, units=4, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.units = filters, units
        self.reduce = layers.Dense(units, "relu")
        self.expand = layers.Dense(filters, bias_initializer="ones")

    def call(self, s):
        return self.expand(self.reduce(s))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "units": self.units}


# The arguments of an FBSConv2D of so many filters, by name.
GATES = {
    "bottleneck": lambda filters, data_format=None: {"gate": bottleneck(filters)},
    "class": lambda filters, data_format=None: {"gate": Bottleneck(filters)},
    "max": lambda filters, data_format=None: {"gate_input": "max"},
    "image": peak,
}
