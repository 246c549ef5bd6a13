#!/usr/bin/env bash
# ai-edge-litert 2.3.0 (XNNPACK's weight cache, through CompiledModel), models made by tensorflow 2.21.0, Python 3.11,
# x86-64 Linux.
#
# Two models of one graph and different weights, a Dense layer of ones and one of twos, run with the same file as
# CpuOptions(xnnpack_weight_cache_path=...), as after an update of an app's model. The second one computes with the
# weights of the first. No error, no warning. Expected: the cache is renewed or refused, as it is of another model.
# Seen, for eight inputs of 1:
#     no cache:          ones 8.0, twos 16.0
#     one cache file:    ones 8.0, twos 8.0
#     a cache file each: ones 8.0, twos 16.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0
KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - "$folder" 2>"$folder/stderr" <<'PYTHON' \
  || { cat "$folder/stderr"; exit 1; }
import sys

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.cpu_options import CpuOptions
from ai_edge_litert.options import Options

folder = sys.argv[1]


def model_file(weight):
    dense = keras.layers.Dense(4, use_bias=False, kernel_initializer=keras.initializers.Constant(weight))
    return tf.lite.TFLiteConverter.from_keras_model(keras.Sequential([keras.Input((8,)), dense])).convert()


def run(content, cache):
    options = Options(cpu_options=CpuOptions(xnnpack_weight_cache_path=cache and f"{folder}/{cache}"))
    model = CompiledModel.from_buffer(content, options=options)
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    inputs[0].write(np.ones((1, 8), "float32"))
    model.run_by_index(0, inputs, outputs)
    return float(outputs[0].read(4, np.float32)[0])


ones, twos = model_file(1.0), model_file(2.0)
seen = []
for what, caches in [("no cache", ("", "")), ("one cache file", ("a", "a")), ("a cache file each", ("b", "c"))]:
    results = run(ones, caches[0]), run(twos, caches[1])
    print(f"{what + ':':18} ones {results[0]}, twos {results[1]}")
    seen.append(results)
assert seen == [(8, 16), (8, 8), (8, 16)], "the behaviour has changed"
PYTHON
