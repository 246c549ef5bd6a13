"""The exported ops, a module each: its class, with attributes and constants, and the rule by which a layer becomes it.

One op more: a module here, listed in `MODULES`; one of the same name in fbs_keras/export/lowering, for built-in ops;
and the native op.
"""

from fbs_keras.compact.ops import add, conv2d, depthwise_conv2d

MODULES = (conv2d, depthwise_conv2d, add)
OPS = {op.custom_name: op for module in MODULES for op in module.OPS}
