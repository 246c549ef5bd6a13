#!/usr/bin/env bash
# Keras 3.15.1, on any backend (here JAX 0.10.2).
#
# A layer whose activation is the user's own function is copied by its config, or saved and loaded. One would expect
# the function, or an error that it is not registered. But get_config() writes the bare name of a function that is
# called as one of Keras's is, and from_config() looks that up: the copy computes Keras's relu instead of the own one.
# Under any other name, from_config() raises an error.
#
# Seen, for -1 and 1 and an own relu(x) of x * x:
#     config:  relu
#     layer:   [1.0, 1.0]
#     copy:    [0.0, 1.0]
#     own name "square": TypeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import keras
import numpy as np


def relu(x):
    return x * x


def square(x):
    return x * x


def outputs(layer):
    return np.asarray(layer(np.array([[-1.0, 1.0]], "float32")))[0].tolist()


layer = keras.layers.Activation(relu)
copy = keras.layers.Activation.from_config(layer.get_config())
print("config: ", layer.get_config()["activation"])
print("layer:  ", outputs(layer))
print("copy:   ", outputs(copy))
assert outputs(layer) == [1.0, 1.0] and outputs(copy) == [0.0, 1.0]
try:
    keras.layers.Activation.from_config(keras.layers.Activation(square).get_config())
except Exception as error:
    print('own name "square":', type(error).__name__)
else:
    raise SystemExit("a function that is not registered was found")
PYTHON
