"""Settings and fixtures that all tests share."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Small models run for milliseconds and compile for seconds: a third of the time, measured on JAX.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import keras
import numpy as np
import pytest

if keras.backend.backend() == "jax":

    def draw(self, shape, dtype=None):
        """What `VarianceScaling` draws, by NumPy: JAX compiles for each shape, longer than small models take to run."""
        fans = float(np.prod(shape[:-1])), float(np.prod(shape[:-2]) * shape[-1])
        fan = {"fan_in": fans[0], "fan_out": fans[1], "fan_avg": sum(fans) / 2}[self.mode]
        seed = self.seed if isinstance(self.seed, int) else np.random.randint(2**31)
        values = np.random.default_rng(seed).normal(0, (self.scale / max(1, fan)) ** 0.5, shape)
        return keras.ops.convert_to_tensor(values, dtype)

    keras.initializers.VarianceScaling.__call__ = draw


SLOW = ("test_core.py", "test_delegate.py", "test_fuzz.py", "test_train.py")
SHARING = ("test_converter.py",)  # whose models are converted once for all tests that have them


def pytest_collection_modifyitems(items):
    """What takes longest comes first, so that workers end together; tests of one model are neighbours, who share it."""

    def order(item):
        model = item.callspec.params.get("name", "") if hasattr(item, "callspec") else ""
        return item.path.name not in SLOW, item.path, model if item.path.name in SHARING else ""

    items.sort(key=order)


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
