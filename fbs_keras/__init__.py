"""fbs_keras: convolutional networks that skip, for each input, the channels that do not matter for it."""

from fbs_keras import models
from fbs_keras.costs.budget import density_for_macs
from fbs_keras.costs.macs import count_macs
from fbs_keras.costs.summary import summary
from fbs_keras.export import convert
from fbs_keras.layers.densities import set_density
from fbs_keras.layers.fbs_conv2d import FBSConv2D
from fbs_keras.layers.suppress import Suppress
from fbs_keras.pruning.slimming import SlimmingRegularizer, slim
from fbs_keras.pruning.unused import remove_unused
from fbs_keras.runtime import Interpreter, delegate_path
from fbs_keras.training import schedules
from fbs_keras.training.callbacks import DensityScheduler, SaliencyRegularizer, gate_statistics
from fbs_keras.training.fitting import fit_gates
from fbs_keras.wrapping.wrapper import wrap

__version__ = "0.1.0"
__all__ = [
    "DensityScheduler",
    "FBSConv2D",
    "Interpreter",
    "SaliencyRegularizer",
    "SlimmingRegularizer",
    "Suppress",
    "convert",
    "count_macs",
    "delegate_path",
    "density_for_macs",
    "fit_gates",
    "gate_statistics",
    "models",
    "remove_unused",
    "schedules",
    "set_density",
    "slim",
    "summary",
    "wrap",
]
