"""What FBS is compared with to see what its gates are worth: gates that know nothing of the image."""

import keras
from keras import ops

import fbs_keras
from fbs_keras.graph import rewriting
from fbs_keras.layers import gating


@keras.saving.register_keras_serializable(package="controls")
class RandomFBSConv2D(fbs_keras.FBSConv2D):
    """An `FBSConv2D` whose winners are drawn at random for each image; their boosts stay the gate's."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed_generator = keras.random.SeedGenerator(0)

    def winners(self, g):
        lots = keras.random.uniform(ops.shape(g), seed=self.seed_generator)
        return gating.winners(lots, self.density, self.group_size, self.round_channels)


def with_random_gates(model):
    """A copy of a model whose FBS layers draw their winners at random."""

    def make(layer):
        return RandomFBSConv2D.from_config(layer.get_config()) if type(layer) is fbs_keras.FBSConv2D else None

    return rewriting.replace(model, make)
