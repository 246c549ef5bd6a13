"""Plain Keras models, ready to wrap."""

from fbs_keras.models.mcifarnet import MCifarNet

__all__ = ["MCifarNet"]
