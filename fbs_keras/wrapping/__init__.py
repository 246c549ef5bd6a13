"""From a Keras model to one with FBS layers."""

from fbs_keras.wrapping.wrapper import wrap

__all__ = ["wrap"]
