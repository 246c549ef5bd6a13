"""Times depthwise convolutions in the delegate against XNNPACK, each the only op of a file (docs/kernels_notebook.md).

python tests/native/bench_depthwise.py [avx2|avx512|...]
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parent.parent))
from op_files import Depthwise, op_file

import fbs_keras
from fbs_keras.benchmarks.measurement import interleave

# size, channels, kernel, stride: MobileNet's, and 5x5 ones of EfficientNet and MobileNetV3
LAYERS = [(112, 96, 3, 1), (56, 144, 3, 1), (28, 192, 3, 1), (14, 576, 3, 1), (7, 960, 3, 1)]
LAYERS += [(112, 96, 3, 2), (56, 144, 3, 2), (28, 192, 3, 2), (14, 576, 3, 2)]
LAYERS += [(28, 240, 5, 1), (14, 480, 5, 1), (7, 960, 5, 1), (56, 144, 5, 2), (14, 672, 5, 2)]
RUNS = 300


def xnnpack(size, channels, kernel, stride):
    """A dense layer's interpreter."""
    x = keras.Input((size, size, channels), batch_size=1)
    y = keras.layers.DepthwiseConv2D(kernel, strides=stride, padding="same", activation="relu6")(x)
    content = tf.lite.TFLiteConverter.from_keras_model(keras.Model(x, y)).convert()
    return prepared(content, [np.random.default_rng(0).normal(size=x.shape).astype(np.float32)], use_delegate=False)


def delegate(size, channels, kernel, stride, path):
    """The op at a density of 0.5, its indices ascending."""
    op = Depthwise(
        height=size,
        width=size,
        channels=channels,
        active=channels // 2,
        kernel=(kernel, kernel),
        strides=(stride, stride),
        activation="RELU6",
    )
    x, indices = op.inputs()
    return prepared(op_file(op), [x, np.sort(indices, axis=1)], use_delegate=True, delegate_options={"path": path})


def prepared(content, inputs, **options):
    litert = fbs_keras.Interpreter(content, **options).litert
    for details, value in zip(litert.get_input_details(), inputs, strict=True):
        litert.set_tensor(details["index"], value)
    return litert


def main(path="auto"):
    print(f"{'':22} {'dense us':>9} {'half us':>9} {'ratio / 2':>9}")
    for size, channels, kernel, stride in LAYERS:
        dense, half = xnnpack(size, channels, kernel, stride), delegate(size, channels, kernel, stride, path)
        times = interleave({"dense": dense.invoke, "half": half.invoke}, RUNS)
        dense_us, half_us = (1e6 * np.median(times[name]) for name in ("dense", "half"))
        layer = f"{size}x{size}x{channels}, {kernel}x{kernel} / {stride}"
        print(f"{layer:22} {dense_us:9.1f} {half_us:9.1f} {dense_us / half_us / 2:9.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
