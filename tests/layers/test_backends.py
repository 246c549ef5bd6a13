"""FBS learns the same on every backend: from the same weights, on the same batches."""

import functools
import json
import os
import subprocess
import sys

import keras
import pytest

STEPS = """
import json, sys
import keras, numpy as np
import fbs_keras

model = fbs_keras.models.MCifarNet(weights="cifar10")
for layer in model.layers:
    if isinstance(layer, keras.layers.Dropout):
        layer.rate = 0.0
model = fbs_keras.wrap(model, 0.5)
model.compile(
    keras.optimizers.SGD(0.002, momentum=0.9, nesterov=True, global_clipnorm=5.0),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
random = np.random.default_rng(0)
images, labels = random.standard_normal((3, 4, 32, 32, 3), "float32"), random.integers(0, 10, (3, 4))
curve = [float(model.train_on_batch(*batch)) for batch in zip(images, labels)]
usage = [float(np.sum(layer.usage.numpy())) for layer in fbs_keras.layers.densities.fbs_layers(model)]
json.dump({"curve": curve, "usage": usage}, sys.stdout)
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="runs once, on all backends")
@pytest.mark.parametrize("other", ["jax", "torch"])
def test_learns_as_on_tensorflow(other):
    pytest.importorskip(other)
    expected, found = learn("tensorflow"), learn(other)
    curve = expected["curve"]
    assert curve[0] != pytest.approx(curve[1], rel=1e-2)
    assert found["curve"] == pytest.approx(curve, rel=1e-3)
    assert found["usage"] == pytest.approx(expected["usage"], rel=1e-3)


@functools.cache
def learn(backend):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    result = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
