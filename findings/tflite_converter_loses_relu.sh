#!/usr/bin/env bash
# tensorflow 2.21.0 (tf.lite.TFLiteConverter), Python 3.11, x86-64 Linux.
#
# reshape(relu(matmul(reshape(x), w))), with w an input of the function, becomes one BATCH_MATMUL, without the ReLU: the
# file gives negative values. No warning. Expected: what TensorFlow computes, nothing below 0.
# Seen:
#     ops: BATCH_MATMUL DELEGATE
#     smallest output: TensorFlow 0.0, the converted file -9.067
#     without the last reshape: TensorFlow 0.0, the converted file 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow==2.21.0 ai-edge-litert==2.3.0
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - 2>"$folder/stderr" <<'PYTHON' || { cat "$folder/stderr"; exit 1; }
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

random = np.random.default_rng(0)
x = random.normal(size=(1, 16, 8)).astype("float32")
w = random.normal(size=(8, 8)).astype("float32")


def smallest(reshapes_back):
    @tf.function(input_signature=[tf.TensorSpec(x.shape, name="x"), tf.TensorSpec(w.shape, name="w")])
    def function(x, w):
        y = tf.nn.relu(tf.matmul(tf.reshape(x, (16, 8)), w))
        return tf.reshape(y, (1, 16, 8)) if reshapes_back else y

    concrete = function.get_concrete_function()
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module()).convert()
    interpreter = Interpreter(model_content=content)
    (got,) = interpreter.get_signature_runner()(x=x, w=w).values()
    ops = [op["op_name"] for op in interpreter._get_ops_details()]
    return float(function(x, w).numpy().min()), float(got.min()), ops


want, got, ops = smallest(reshapes_back=True)
print("ops:", *ops)
print(f"smallest output: TensorFlow {want:.1f}, the converted file {got:.3f}")
want_without, got_without, _ = smallest(reshapes_back=False)
print(f"without the last reshape: TensorFlow {want_without:.1f}, the converted file {got_without:.1f}")
assert want == want_without == got_without == 0 and got < -1, "the behaviour has changed"
PYTHON
