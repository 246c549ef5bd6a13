"""Tests of scripts/train.py and scripts/evaluate.py, on forty small images and on photos that vary in size."""

import csv
import itertools
import signal
import subprocess
import time

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
from commands import Script, command, run

import fbs_keras
from _fbs_scripts import controls

TRAIN = Script("train")
train = TRAIN.module

FILTERS = {"conv0": 32, "conv1": 32, "conv2": 48}


def epochs(history):
    with open(history, newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def interrupt_after_an_epoch(run_dir, arguments):
    """Starts training and kills it at the first checkpoint."""
    with subprocess.Popen(command("train.py", *arguments), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 600
        while not (run_dir / "last.keras").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert (run_dir / "last.keras").exists()
    assert not (run_dir / "model.keras").exists()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Arguments of the scripts for a data set of 40 images and 10 to evaluate on: four steps an epoch."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
    images = rng.integers(0, 256, (50, 8, 8, 3), np.uint8)
    examples = [(i, {"image": image, "label": i % 3}) for i, image in enumerate(images)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="dots",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": examples[:40], "test": examples[40:]},
        data_dir=str(folder),
    )
    return ["--dataset=dots", f"--data_dir={folder}", "--batch_size=10"]


def net(filters):
    x = inputs = keras.Input((8, 8, 3))
    for name, count in filters.items():
        x = keras.layers.Conv2D(count, 3, padding="same", name=name)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.5)(x))
        x = keras.layers.Dropout(0.3)(x)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))


@pytest.fixture(scope="module")
def dense(data, tmp_path_factory):
    """A dense model, trained for an epoch, to be slimmed."""
    folder = tmp_path_factory.mktemp("dense")
    net(FILTERS).save(folder / "start.keras")
    arguments = [f"--pretrained={folder / 'start.keras'}", "--epochs=1", "--slimming_weight=1e-5"]
    result = run("train.py", *data, *arguments, f"--run_dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder / "model.keras"


def test_train_makes_a_model_a_curve_and_events(dense):
    folder = dense.parent
    assert epochs(folder / "history.csv") == [0]
    assert "gamma_near_zero" in (folder / "history.csv").read_text()
    assert list((folder / "tensorboard").rglob("events*"))
    model = keras.saving.load_model(dense)
    assert model.output_shape == (None, 3)


def test_interrupted_fbs_training_goes_on(dense, data, tmp_path):
    arguments = [*data, f"--pretrained={dense}", "--macs_saving=2", "--epochs=4"]
    arguments += ["--schedule=polynomial", "--learning_rate=0.01", f"--run_dir={tmp_path}"]
    arguments += ["--dtype_policy=mixed_bfloat16", "--round_channels=8", "--ema=0.5"]
    interrupt_after_an_epoch(tmp_path, arguments)
    again = run("train.py", *arguments)
    assert again.returncode != 0
    assert "add --resume to go on with it" in again.stderr + again.stdout
    result = run("train.py", *arguments, "--resume")
    assert result.returncode == 0, result.stderr
    assert "resuming after epoch" in result.stdout
    assert epochs(tmp_path / "history.csv") == [0, 1, 2, 3]
    model = keras.saving.load_model(tmp_path / "model.keras")
    layers = fbs_keras.layers.densities.fbs_layers(model)
    assert [layer.active_channels for layer in layers] == [16, 16, 24]
    assert fbs_keras.count_macs(model).saving >= 2
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert {layer.compute_dtype for layer in layers} == {"float32"}  # whatever it was trained in


@pytest.fixture(scope="module")
def small(data, tmp_path_factory):
    """Arguments of train.py for a net that trains in half a second."""
    path = tmp_path_factory.mktemp("small") / "start.keras"
    net({"conv0": 8, "conv1": 8}).save(path)
    return [f"--pretrained={path}", *data, "--epochs=4", "--learning_rate=0.05"]


@pytest.fixture
def in_process(monkeypatch):
    """Runs train.py here; `stop` is what to call as each batch begins, with the number of batches so far."""

    def train_here(*arguments, stop=lambda batches: None):
        checkpoint = train.checkpoint

        def stopping(*settings):
            callback, batches = checkpoint(*settings), itertools.count(1)
            callback.on_train_batch_begin = lambda batch, logs=None: stop(next(batches))
            return callback

        with TRAIN.called_with(*arguments), monkeypatch.context() as patch:
            patch.setattr(train, "checkpoint", stopping)
            train.train()

    policy = keras.config.dtype_policy()
    yield train_here
    keras.config.set_dtype_policy(policy)


def curve(run_dir):
    with open(run_dir / "history.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


class Stopped(BaseException):
    """Ends a run as a kill does: no handler of the script's takes it."""


def stop_at(last, error=Stopped):
    def stop(batches):
        if batches == last:
            raise error

    return stop


@pytest.mark.filterwarnings("ignore:epoch . was validated after")  # of so few steps
@pytest.mark.parametrize(
    "arguments",
    [
        ["--density=0.5", "--density_epochs=2", "--ema=0.5", "--saliency_weight=0.01", "--gates=random"],
        ["--teacher", "--steps_per_epoch=3", "--slimming_weight=0.01", "--dtype_policy=mixed_bfloat16"],
    ],
)
def test_a_resumed_run_is_an_unbroken_one(small, in_process, tmp_path, arguments):
    teacher = small[0].replace("--pretrained", "--teacher")
    arguments = [*small, *(teacher if each == "--teacher" else each for each in arguments)]
    in_process(*arguments, f"--run_dir={tmp_path / 'whole'}")
    with pytest.raises(Stopped):  # in the third epoch
        in_process(*arguments, f"--run_dir={tmp_path / 'broken'}", stop=stop_at(10))
    assert len(curve(tmp_path / "broken")) in (2, 3)
    in_process(*arguments, f"--run_dir={tmp_path / 'broken'}", "--resume")
    whole, broken = curve(tmp_path / "whole"), curve(tmp_path / "broken")
    assert whole[2]["loss"] != whole[1]["loss"]
    for row, wanted in zip(broken, whole, strict=True):
        assert row == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    first, second = (keras.saving.load_model(tmp_path / name / "model.keras") for name in ("whole", "broken"))
    for variable, wanted in zip(second.trainable_variables, first.trainable_variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), wanted.numpy(), rtol=1e-3, atol=1e-5, err_msg=variable.path)


def test_a_run_goes_on_after_an_interruption_and_damage(small, in_process, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        in_process(*small, f"--run_dir={tmp_path}", stop=stop_at(10, KeyboardInterrupt))
    assert "the same command with --resume goes on after the last epoch" in capsys.readouterr().out
    with pytest.raises(
        ValueError, match="trained for 8 steps, which are no epochs of 16 or more than --epochs=4: resume"
    ):
        in_process(*small, "--steps_per_epoch=16", f"--run_dir={tmp_path}", "--resume")
    assert {path.name for path in tmp_path.iterdir()} >= {"last.keras", "previous.keras"}
    last, history = tmp_path / "last.keras", tmp_path / "history.csv"
    last.write_bytes(last.read_bytes()[:1000])
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join([lines[0], lines[1][:20]]))
    (tmp_path / "last.1.tmp.keras").write_bytes(b"half a file")
    in_process(*small, f"--run_dir={tmp_path}", "--resume")
    told = capsys.readouterr().out
    assert f"{last} cannot be loaded as a Keras model" in told and "going on from" in told
    assert "resuming after epoch 1" in told
    assert f"{history} is damaged: it has 0 of 1 epochs" in told
    assert epochs(history) == [1, 2, 3]
    assert not (tmp_path / "last.1.tmp.keras").exists()
    for name in train.CHECKPOINTS:
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(
        ValueError, match=r"there is no checkpoint to resume from, train anew .*previous\.keras cannot be"
    ):
        in_process(*small, f"--run_dir={tmp_path}", "--resume")


def test_a_teacher_and_a_trained_fbs_model(dense, data, tmp_path):
    common = [*data, "--epochs=1", "--schedule=constant", "--dropout=0.1"]
    first, second = tmp_path / "first", tmp_path / "second"
    densities = ["--init=fit", "--density=0.8", "--densities=conv[12]=0.5,conv2=0.25"]
    result = run("train.py", *common, f"--pretrained={dense}", *densities, f"--run_dir={first}")
    assert result.returncode == 0, result.stderr
    assert "conv2: fitted, R2 = " in result.stdout
    layers = fbs_keras.layers.densities.fbs_layers(keras.saving.load_model(first / "model.keras"))
    assert [layer.active_channels for layer in layers] == [26, 16, 12]
    assert all(layer.gate_kernel.numpy().any() for layer in layers)
    on = [f"--pretrained={first / 'model.keras'}", "--density=0.5", f"--teacher={dense}", f"--run_dir={second}"]
    result = run("train.py", *common, *on, "--gates=random", "--dtype_policy=mixed_bfloat16")
    assert result.returncode == 0, result.stderr
    model = keras.saving.load_model(second / "model.keras")
    layers = fbs_keras.layers.densities.fbs_layers(model)
    assert {(type(layer), float(layer.density.numpy())) for layer in layers} == {(controls.RandomFBSConv2D, 0.5)}
    assert {layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)} == {0.1}


def test_unused_channels_are_removed_and_the_rest_trains_on(dense, data, tmp_path):
    fbs, small = tmp_path / "fbs.keras", tmp_path / "small"
    model = fbs_keras.wrap(keras.saving.load_model(dense), 0.5)
    model.get_layer("conv2").usage.assign(np.arange(48) % 3 / 2)  # a third of the channels never wins
    model.save(fbs)
    arguments = [*data, f"--pretrained={fbs}", "--remove_unused=0.1", "--epochs=1"]
    result = run("train.py", *arguments, f"--run_dir={small}")
    assert result.returncode == 0, result.stderr
    assert "conv2: 48 -> 32 channels, of which 24 win" in result.stdout
    assert "gate_always" in (small / "history.csv").read_text()
    model = keras.saving.load_model(small / "model.keras")
    assert fbs_keras.layers.densities.fbs_layers(model)[-1].active_channels == 24
    arguments = [f"--model={small / 'model.keras'}", f"--dense={dense}", *data]
    result = run("evaluate.py", *arguments, "--split=test[:10]")
    assert result.returncode == 0, result.stderr
    macs, before = fbs_keras.count_macs(model).fbs, fbs_keras.count_macs(keras.saving.load_model(dense)).dense
    assert f"{macs / 1e6:.2f} M MACs, {before / macs:.2f}x fewer than {dense}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--density=0.5", "--densities=conv2"], "--densities must be a list of name=density, got 'conv2'"),
        (["--densities=conv2=0.5"], "--densities needs --density, that of the other layers"),
        (["--density=0.5", "--densities=conv8=0.5"], "no FBSConv2D layer matches 'conv8'"),
    ],
)
def test_densities_that_cannot_be(dense, data, tmp_path, arguments, message):
    result = run("train.py", *data, "--epochs=2", f"--run_dir={tmp_path}", f"--pretrained={dense}", *arguments)
    assert result.returncode != 0
    assert message in result.stderr + result.stdout


@pytest.fixture(scope="module")
def photos_dir(tmp_path_factory):
    """A data_dir with a small imagenet2012: JPEG photos that vary in size, and a test split without labels."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    rng = np.random.default_rng(0)

    def photos(count, label):
        sizes = rng.integers(40, 120, (count, 2))
        return [
            (i, {"image": rng.integers(0, 256, (*size, 3), np.uint8), "label": label(i)})
            for i, size in enumerate(sizes)
        ]

    tfds.dataset_builders.store_as_tfds_dataset(
        name="imagenet2012",
        version="5.1.0",
        config="small",
        features=tfds.features.FeaturesDict(
            {"image": tfds.features.Image(encoding_format="jpeg"), "label": tfds.features.ClassLabel(num_classes=10)}
        ),
        split_datasets={
            "train": photos(18, lambda i: i % 10),
            "validation": photos(10, lambda i: i),
            "test": photos(3, lambda i: -1),
        },
        data_dir=folder,
    )
    return folder


def test_photos_train_a_resnet_with_fbs(photos_dir, tmp_path):
    data = ["--dataset=imagenet2012/small", f"--data_dir={photos_dir}", "--image_size=64"]
    arguments = [*data, "--model=ResNet18", "--density=0.5", "--epochs=2", "--batch_size=8", "--label_smoothing=0.1"]
    arguments += ["--weight_decay=1e-3", "--warmup_epochs=0.5", "--learning_rate=0.01", f"--run_dir={tmp_path}"]
    result = run("train.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert epochs(tmp_path / "history.csv") == [0, 1]
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.input_shape == (None, 64, 64, 3)
    assert model.get_layer("stem").kernel_regularizer.l2 == pytest.approx(1e-3)
    assert fbs_keras.count_macs(model).saving > 1.9
    result = run("evaluate.py", f"--model={tmp_path / 'model.keras'}", *data)
    assert result.returncode == 0, result.stderr
    assert "imagenet2012/small, validation, 10 images: top-1 " in result.stdout


def test_evaluate_prints_accuracy_and_macs(dense, data):
    result = run("evaluate.py", f"--model={dense}", *data, "--split=test[:5]")
    assert result.returncode == 0, result.stderr
    macs = fbs_keras.count_macs(keras.saving.load_model(dense)).dense
    assert f"{macs / 1e6:.2f} M MACs" in result.stdout
    assert "dots, test[:5], 5 images: top-1 " in result.stdout


def test_evaluate_runs_a_tflite_file(dense, data, tmp_path):
    path = tmp_path / "model.tflite"
    fbs_keras.convert(fbs_keras.wrap(keras.saving.load_model(dense), 0.5), path)
    result = run("evaluate.py", f"--model={path}", *data, "--split=test[:5]")
    assert result.returncode == 0, result.stderr
    assert "with the delegate" in result.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (
            "train.py",
            ["--run_dir=runs/x", "--model=Nothing"],
            "--model must be one of VGG16, MCifarNet, ResNet18, or a model of keras.applications, got",
        ),
        ("train.py", ["--run_dir=runs/x", "--density=1.5"], r"density must be in (0, 1], got 1.5"),
        ("evaluate.py", ["--model=nothing.keras"], "nothing.keras"),
    ],
)
def test_bad_flags_are_one_line(script, arguments, message):
    result = run(script, *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
