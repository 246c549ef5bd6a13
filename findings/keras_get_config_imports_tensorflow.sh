#!/usr/bin/env bash
# Keras 3.15.1 on JAX 0.10.2, with tensorflow 2.21.0 installed beside.
#
# A program on the JAX backend never uses TensorFlow. One would expect it not to be imported either: Keras takes care
# to import it lazily. But the first get_config(), save(), or clone of a Functional or Sequential model imports all of
# it, only to ask whether some value is a tf.TensorShape: seconds and hundreds of megabytes, wherever TensorFlow
# happens to be installed.
#
# Seen:
#     after making and calling a model: tensorflow imported: False
#     after model.get_config():         tensorflow imported: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2 tensorflow==2.21.0
KERAS_BACKEND=jax TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - 2>"$folder/stderr" <<'PYTHON' \
  || { cat "$folder/stderr"; exit 1; }
import sys

import keras
import numpy as np

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
model(np.zeros((1, 4), "float32"))
before = "tensorflow" in sys.modules
model.get_config()
after = "tensorflow" in sys.modules
print("after making and calling a model: tensorflow imported:", before)
print("after model.get_config():         tensorflow imported:", after)
assert (before, after) == (False, True)
PYTHON
