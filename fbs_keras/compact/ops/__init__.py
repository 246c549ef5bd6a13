"""The exported ops, a module each: its class, with attributes and constants, and the rule by which a layer becomes it.

One op more: a module here, listed below; how built-in ops compute it, in fbs_keras/export/lowering; and the native op.
"""

from fbs_keras.compact.ops import add, conv2d, depthwise_conv2d

OPS = {op.custom_name: op for op in (*conv2d.CONVOLUTIONS, add.AddOp, depthwise_conv2d.DepthwiseConv2DOp)}
