#!/usr/bin/env bash
# Keras 3.15.1 on JAX 0.10.2: building a model compiles an XLA program for each shape of weights that it draws.
#
# keras.initializers draw with jax.random, whose functions are compiled for each shape: a second or more a layer, however
# small it is, where drawing takes milliseconds. Nothing says so, since build() is not compiled itself. A second model of
# the same shapes is built at once. An initializer that draws by NumPy saves nearly all of it, as tests of many small
# models want.
#
# Seen, on two busy cores (the seconds differ by machine):
#     8 layers of different widths: 8 programs, 26.85 s of compiling
#     the same widths again: 0 programs
#     8 layers that NumPy draws: 8 programs, 0.10 s
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2 jaxlib==0.10.2
cd "$folder"
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'END'
import jax
import keras
import numpy as np

seconds = []


def listen(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        seconds.append(duration)


jax.monitoring.register_event_duration_secs_listener(listen)


class Drawn(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return keras.ops.convert_to_tensor(np.random.default_rng(0).normal(0, 0.1, shape).astype("float32"))


def build(first_width, initializer):
    """Builds eight layers; returns how many programs were compiled for them."""
    seconds.clear()
    for width in range(first_width, first_width + 8):
        keras.layers.Conv2D(width, 3, kernel_initializer=initializer, use_bias=False).build((None, 8, 8, 4))
    return len(seconds)


keras.layers.Conv2D(3, 3, use_bias=False).build((None, 8, 8, 4))  # what is compiled once for all
first, drawing = build(16, "glorot_uniform"), sum(seconds)
print(f"8 layers of different widths: {first} programs, {drawing:.2f} s of compiling")
again = build(16, "glorot_uniform")
print(f"the same widths again: {again} programs")
drawn, copying = build(32, Drawn()), sum(seconds)
print(f"8 layers that NumPy draws: {drawn} programs, {copying:.2f} s")
if first < 8 or again or drawing < 3 * copying:
    raise SystemExit("the behaviour has changed")
END
