#!/usr/bin/env bash
# Keras 3.15.1 with JAX 0.10.2.
#
# keras.ops functions take Keras variables, on JAX too: ops.add(variable, 1), ops.abs(variable). zeros_like and
# ones_like do not: they raise "ValueError: Could not convert <Variable ...> to a NumPy dtype". Code that was written on
# TensorFlow, where both work, has to convert the variable to a tensor first.
#
# Seen:
#     abs:        [1.0, 2.0]
#     zeros_like: ValueError
#     ones_like:  ValueError
#     zeros_like of convert_to_tensor(variable): [0.0, 0.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import keras
import numpy as np
from keras import ops

variable = keras.Variable(np.array([-1.0, 2.0], "float32"))
print("abs:       ", np.asarray(ops.abs(variable)).tolist())
for function in (ops.zeros_like, ops.ones_like):
    try:
        function(variable)
    except ValueError as error:
        assert "to a NumPy dtype" in str(error), error
        print(f"{function.__name__}:", type(error).__name__)
    else:
        raise SystemExit(f"{function.__name__} takes a variable now")
print("zeros_like of convert_to_tensor(variable):", np.asarray(ops.zeros_like(ops.convert_to_tensor(variable))).tolist())
PYTHON
