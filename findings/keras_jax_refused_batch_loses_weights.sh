#!/usr/bin/env bash
# Keras 3.15.1 on JAX 0.10.2. On TensorFlow and PyTorch it is not so.
#
# A batch of a wrong shape is refused by an error, and one would expect the model to be as before: correct the batch,
# and call it again. But on JAX `predict` takes the variables out of the model to spare memory, and puts them back only
# where it comes to its end. After the error all weights are gone: the model cannot be called, read or saved any more.
# `predict_on_batch` leaves them in their place.
#
# Seen:
#     predict_on_batch: ValueError, then the weights are [(4, 2), (2,)]
#     predict:          ValueError, then get_weights() raises TypeError: 'NoneType' object is not callable
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2
KERAS_BACKEND=jax "$folder/venv/bin/python" - 2>"$folder/stderr" <<'PYTHON' || { cat "$folder/stderr"; exit 1; }
import keras
import numpy as np

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
wrong = np.zeros((2, 5), "float32")
try:
    model.predict_on_batch(wrong)
except ValueError:
    shapes = [weight.shape for weight in model.get_weights()]
print("predict_on_batch: ValueError, then the weights are", shapes)
assert shapes == [(4, 2), (2,)]

try:
    model.predict(wrong, verbose=0)
except ValueError:
    refused = True
try:
    model.get_weights()
    lost = ""
except TypeError as error:
    lost = str(error)
print("predict:          ValueError, then get_weights() raises TypeError:", lost)
assert refused and lost == "'NoneType' object is not callable"
PYTHON
