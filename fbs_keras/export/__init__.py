"""From a Keras model to a .tflite file."""

from fbs_keras.export.baselines import baseline
from fbs_keras.export.converter import convert, explain, load
from fbs_keras.export.verification import verify

__all__ = ["baseline", "convert", "explain", "load", "verify"]
