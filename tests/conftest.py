"""Settings and fixtures that all tests share."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest


@pytest.fixture(scope="session")
def cifar10_dir() -> str:
    """The TFDS data_dir that holds CIFAR-10, as `make data` leaves it."""
    folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or pathlib.Path(__file__).parents[1] / "data")
    if not (folder / "cifar10").exists():
        pytest.skip(f"CIFAR-10 is not in {folder}: run `make data`")
    return str(folder)
