"""Models from files as others wrote them go through the README's lines: load, wrap, fit, convert, run, benchmark."""

import json

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import fbs_keras
from fbs_keras.benchmarks import measurement

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="export runs on TensorFlow")

CLASSES = 4


def mini_xception():
    """Separable convolutions, projections on the way past them, regularised kernels, no Dense head."""
    inputs = keras.Input((24, 24, 1))
    x = layers.Conv2D(8, 3, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.01))(inputs)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    past = layers.BatchNormalization()(layers.Conv2D(16, 1, strides=2, padding="same", use_bias=False)(x))
    x = layers.SeparableConv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    x = layers.SeparableConv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(layers.BatchNormalization()(x))
    x = layers.Conv2D(CLASSES, 3, padding="same")(layers.add([x, past]))
    return keras.Model(inputs, layers.Activation("softmax")(layers.GlobalAveragePooling2D()(x)))


def sequential_without_input():
    """Flattened before a Dense head; told its input's size by its first batch, which Keras makes its batch size."""
    model = keras.Sequential(
        [
            layers.Conv2D(16, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model(np.zeros((2, 20, 20, 3)))
    return model


def bytes_with_rescaling():
    """Reads pixels as they are stored, uint8."""
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(layers.ZeroPadding2D()(x))
    x = layers.LeakyReLU()(layers.BatchNormalization()(x))
    x = layers.concatenate([x, layers.Conv2D(16, 3, padding="same", activation="relu")(x)])
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(layers.GlobalMaxPooling2D()(x)))


def nested():
    """A head of one's own on a backbone, as transfer learning makes them."""
    backbone = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(16, 3, strides=2, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(max_value=6.0),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
        ],
        name="backbone",
    )
    model = keras.Sequential([keras.Input((16, 16, 3)), backbone, layers.GlobalAveragePooling2D()])
    model.add(layers.Dense(CLASSES, activation="softmax"))
    return model


def my_accuracy(y_true, y_pred):
    """A metric that no other process knows."""
    return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)


def age(path):
    """Makes a .h5 file say the size of its input as Keras 2 did."""
    with h5py.File(path, "r+") as file:
        text = file.attrs["model_config"]
        config = json.loads(text)
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "InputLayer":
                layer["config"]["batch_input_shape"] = layer["config"].pop("batch_shape")
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.0.8"


@pytest.mark.parametrize(
    ("make", "suffix"),
    [(mini_xception, "h5"), (sequential_without_input, "h5"), (bytes_with_rescaling, "keras"), (nested, "keras")],
)
def test_lines_of_the_readme(make, suffix, tmp_path):
    random = np.random.default_rng(0)
    original, path = make(), tmp_path / f"foreign.{suffix}"
    original.set_weights([w + random.uniform(0, 0.1, w.shape) for w in original.get_weights()])  # trained, as it were
    original.compile("adam", "sparse_categorical_crossentropy", metrics=[my_accuracy])
    original.save(path)
    if suffix == "h5":
        age(path)
    shape, dtype = (32, *original.input_shape[1:]), original.inputs[0].dtype
    images = (random.integers(0, 256, shape) if dtype == "uint8" else random.normal(size=shape)).astype(dtype)
    labels = random.integers(0, CLASSES, 32)

    model = keras.saving.load_model(path, compile=False)
    wrapped = fbs_keras.wrap(model, density=1.0)
    np.testing.assert_allclose(wrapped(images), original(images), rtol=1e-3, atol=1e-5)
    schedule = fbs_keras.schedules.StepDown(0.5, every=1)
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    callbacks = [fbs_keras.DensityScheduler(schedule), fbs_keras.SaliencyRegularizer()]
    wrapped.fit(images, labels, epochs=6, callbacks=callbacks, verbose=0)
    assert all(layer.density.numpy() == 0.5 for layer in fbs_keras.layers.densities.fbs_layers(wrapped))
    fbs_keras.convert(wrapped, tmp_path / "model.tflite")
    for use_delegate in (False, True):
        report = fbs_keras.export.verify(wrapped, tmp_path / "model.tflite", images, use_delegate=use_delegate)
        assert report.compared_gates >= 1 and report.near_ties < 8
    timings = measurement.measure(measurement.model_candidates(wrapped), runs=1)
    assert timings[-1].name == "FBS delegate" and timings[-1].macs < timings[0].macs
