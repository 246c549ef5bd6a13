"""Plain Keras models, ready to wrap."""

from fbs_keras.models.mcifarnet import MCifarNet
from fbs_keras.models.resnet18 import ResNet18
from fbs_keras.models.vgg16 import VGG16

__all__ = ["VGG16", "MCifarNet", "ResNet18"]
