#!/usr/bin/env bash
# tensorflow 2.21.0 and ai-edge-litert 2.3.0, Python 3.11, x86-64 Linux.
#
# The three largest of [1, NaN, 3, 2, NaN]. TensorFlow's kernel puts a NaN first and then leaves out the 2, which is
# larger than the 1 that it gives; LiteRT's TOPK_V2, of the file converted from the same function, ranks NaN last.
# Expected: one order of NaN in both, and no value left out for a smaller one.
# Seen:
#     TensorFlow: [nan, 3.0, 1.0] at [1, 2, 0]
#     LiteRT:     [3.0, 2.0, 1.0] at [2, 3, 0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow==2.21.0 ai-edge-litert==2.3.0
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - 2>"$folder/stderr" <<'PYTHON' || { cat "$folder/stderr"; exit 1; }
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

x = np.array([[1, np.nan, 3, 2, np.nan]], "float32")


@tf.function(input_signature=[tf.TensorSpec(x.shape, name="x")])
def largest(x):
    values, indices = tf.math.top_k(x, 3)
    return {"values": values, "indices": indices}


def show(name, outputs):
    values, indices = (np.asarray(outputs[key])[0].tolist() for key in ("values", "indices"))
    print(name, values, "at", indices)
    return indices


content = tf.lite.TFLiteConverter.from_concrete_functions([largest.get_concrete_function()], tf.Module()).convert()
tensorflow = show("TensorFlow:", largest(x))
litert = show("LiteRT:    ", Interpreter(model_content=content).get_signature_runner()(x=x))
assert (tensorflow, litert) == ([1, 2, 0], [2, 3, 0]), "the behaviour has changed"
PYTHON
