"""Feature boosting and suppression: the layer, its gate and its densities, in keras.ops only."""

from fbs_keras.layers.fbs_conv2d import FBSConv2D
from fbs_keras.layers.suppress import Suppress

__all__ = ["FBSConv2D", "Suppress"]
