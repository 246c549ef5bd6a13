"""Tests of _fbs_scripts/distribution.py: several devices, and several processes, train to what one device trains to."""

import csv
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
from commands import SCRIPTS

import fbs_keras  # noqa: F401 (the saved models hold its layers)
from _fbs_scripts import distribution

# Two devices of the machine's one CPU: JAX takes a flag, TensorFlow a call before it starts.
TWO_DEVICES = "--xla_force_host_platform_device_count=2"
LAUNCHER = """
import os, runpy, sys
if os.environ["KERAS_BACKEND"] == "tensorflow" and os.environ["DEVICES"] == "2":
    import tensorflow as tf
    device = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [device, device])
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def shades_dir(tmp_path_factory):
    """A data_dir with photos of one shade each, so that no crop or flip changes them."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    shades = np.random.default_rng(0).integers(0, 256, (17, 3), np.uint8)
    examples = [(i, {"image": np.full((9 + i, 20, 3), shade), "label": i % 3}) for i, shade in enumerate(shades)]
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=3)}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="shades",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": examples[:16], "validation": examples},
        data_dir=folder,
    )
    return folder


def save_model(path, norm):
    x = inputs = keras.Input((8, 8, 3))
    for filters in (8, 12):
        x = keras.layers.Conv2D(filters, 3, kernel_regularizer=keras.regularizers.L2(0.01))(x)
        if norm:
            x = keras.layers.BatchNormalization(momentum=0.5)(x)
        x = keras.layers.ReLU()(x)
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    keras.utils.set_random_seed(0)
    keras.Model(inputs, outputs).save(path)


def start(backend, devices, arguments, cluster=None):
    """Starts train.py; `cluster` is `(addresses, process)`."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "DEVICES": str(devices), "TF_CPP_MIN_LOG_LEVEL": "2"}
    if devices == 2:
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {TWO_DEVICES}"
    if cluster:
        environment["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = ",".join(cluster[0])
        environment["KERAS_DISTRIBUTION_NUM_PROCESSES"] = str(len(cluster[0]))
        environment["KERAS_DISTRIBUTION_PROCESS_ID"] = str(cluster[1])
    command = [sys.executable, "-c", LAUNCHER, str(SCRIPTS / "train.py"), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def free_address():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return f"localhost:{listener.getsockname()[1]}"


def history(run_dir):
    with open(run_dir / "history.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_all_devices_train_as_one(backend, shades_dir, tmp_path):
    norm = backend == "jax"  # in TensorFlow, batch norm sees the part of the batch on its own device
    save_model(tmp_path / "start.keras", norm)
    common = [f"--data_dir={shades_dir}", "--dataset=shades", "--eval_split=validation[:16]", "--image_size=8"]
    common += ["--batch_size=16", "--epochs=3", "--density_epochs=1", f"--pretrained={tmp_path / 'start.keras'}"]
    common += ["--density=0.5", "--saliency_weight=0.1", "--learning_rate=0.05", "--ema=0.5"]
    runs = {"one": [start(backend, 1, [*common, f"--run_dir={tmp_path / 'one'}"])]}
    # 17 images are no multiple of two or four devices: the last is left out.
    common = [*common, "--distribute", "--eval_split=validation"]
    if backend == "tensorflow":
        runs["devices"] = [start(backend, 2, [*common, f"--run_dir={tmp_path / 'devices'}"])]
    else:
        addresses = [free_address(), free_address()]
        folders = [tmp_path / "processes", tmp_path / "no_files_here"]
        runs["processes"] = [
            start(backend, 2, [*common, f"--run_dir={folder}"], (addresses, process))
            for process, folder in enumerate(folders)
        ]
    outputs = {name: [finish(process) for process in processes] for name, processes in runs.items()}
    expected = history(tmp_path / "one")
    assert [row["density"] for row in expected] == [1, 0.5, 0.5]
    assert expected[2]["loss"] < expected[0]["loss"]
    model = keras.saving.load_model(tmp_path / "one" / "model.keras")
    for name in list(runs)[1:]:
        for row, wanted in zip(history(tmp_path / name), expected, strict=True):
            if backend == "tensorflow":  # where these are device 0's
                row, wanted = ({key: each[key] for key in each if "gate_" not in key} for each in (row, wanted))
            assert row == pytest.approx(wanted, rel=1e-3, abs=1e-6), name
        trained = keras.saving.load_model(tmp_path / name / "model.keras")
        for variable, wanted in zip(trained.trainable_variables, model.trainable_variables, strict=True):
            np.testing.assert_allclose(
                variable.numpy(), wanted.numpy(), rtol=1e-3, atol=1e-5, err_msg=f"{name} {variable.path}"
            )
    if backend == "jax":
        assert "saved" in outputs["processes"][0]
        assert not (tmp_path / "no_files_here").exists()


def test_a_process_reads_its_part_of_the_data():
    devices = distribution.Devices(count=4, processes=2, process=1)
    assert devices.batch_size(32) == 16
    assert not devices.chief
    splits = tfds.core.SplitDict(
        [tfds.core.SplitInfo(name="train", shard_lengths=[11], num_bytes=0, filename_template=None)]
    )
    parts = devices.part("train").to_absolute(splits)
    assert [(part.from_, part.to) for part in parts] == [(4, 6), (6, 8)]
    with pytest.raises(ValueError, match="--batch_size must be a multiple of the 4 devices, got 30"):
        devices.batch_size(30)


def test_several_processes_need_jax(monkeypatch):
    monkeypatch.setenv("KERAS_DISTRIBUTION_JOB_ADDRESSES", "localhost:1,localhost:2")
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(
        ValueError, match="--distribute trains in several processes with KERAS_BACKEND=jax, got tensorf"
    ):
        distribution.all_devices()
