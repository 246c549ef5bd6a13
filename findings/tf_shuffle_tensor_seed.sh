#!/usr/bin/env bash
# TensorFlow 2.21.0: Dataset.shuffle takes a tensor as its seed, as documented, unless tf.random.set_seed(0) was called.
#
# An order for each epoch that follows from its number, so that a stopped training can go on with the same one:
# epochs.flat_map(lambda epoch: images.shuffle(n, seed=epoch)). It works with every global seed, and with none, but 0:
# TensorFlow then asks whether the pair (0, seed) equals (0, 0), and a tensor in a graph cannot be asked. 0 is what
# programs call set_seed with. tf.random.set_seed(1) inside of the function helps; it is that of its graph alone.
#
# Seen:
#     global seed 1: [2, 3, 0, 1, 0, 3, 2, 1]
#     global seed 0: OperatorNotAllowedInGraphError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow==2.21.0
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'END'
import tensorflow as tf


def orders(global_seed):
    tf.random.set_seed(global_seed)
    epochs = tf.data.Dataset.range(1, 3)
    return [int(i) for i in epochs.flat_map(lambda epoch: tf.data.Dataset.range(4).shuffle(4, seed=epoch))]


print("global seed 1:", orders(1))
try:
    orders(0)
except tf.errors.OperatorNotAllowedInGraphError as error:
    print("global seed 0:", type(error).__name__)
else:
    raise SystemExit("global seed 0 works too: the behaviour has changed")
END
