"""Settings and fixtures that all tests share."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Small models run for milliseconds and compile for seconds: a third of the time, measured on JAX.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import keras
import pytest


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Weights and images that a test draws are the same in each run, and whatever ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def same_random_numbers_of_a_module():
    """The same for what the tests of a module share."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def cifar10_dir() -> str:
    """The TFDS data_dir that holds CIFAR-10, as `make data` leaves it."""
    folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or pathlib.Path(__file__).parents[1] / "data")
    if not (folder / "cifar10").exists():
        pytest.skip(f"CIFAR-10 is not in {folder}: run `make data`")
    return str(folder)
