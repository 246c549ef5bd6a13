"""64-bit ARM in an emulator: the C tests on CPUs with and without the extensions, and an exported model in LiteRT.

`make test-aarch64` prepares what the second needs, and runs both.
"""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import builds
import numpy as np
import pytest
import quickstart
from aarch64 import prepare

import fbs_keras

HERE = Path(__file__).parent
PROGRAMS = sorted(path.name for path in (HERE / "native").glob("test_*.c"))
# As far as kernels tell them apart: neither half precision nor dot products; both; these and int8 matrix products.
CPUS = ["cortex-a53", "cortex-a76", "max"]
SEED, CASES = 20190506, 100
IMAGES, PROCESSES = 1000, os.cpu_count() or 1

pytestmark = pytest.mark.skipif(bool(prepare.missing()), reason=f"no emulator or cross compiler; {prepare.missing()}")


def compile_c(output, *arguments, **options):
    builds.compile_c(output, *arguments, compiler=["aarch64-linux-gnu-gcc"], **options)


def run(command, environment=None):
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr[-4000:]}"
    return result.stdout


@pytest.fixture(scope="session")
def core(tmp_path_factory):
    """The core as one object file."""
    path = tmp_path_factory.mktemp("aarch64") / "core.o"
    compile_c(path, "-O2", "-r", "-nostdlib", *sorted((builds.ROOT / "tflite" / "core").rglob("*.c")), libraries=[])
    return path


@pytest.fixture(scope="session")
def program(core):
    """program(name): the path of a test program, compiled once."""

    def build(name):
        path = core.parent / Path(name).stem
        if not path.exists():
            compile_c(path, "-O2", "-static", "-I", builds.ROOT / "tflite" / "core", HERE / "native" / name, core)
        return path

    return build


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_native(program, name, cpu):
    output = run(["qemu-aarch64", "-cpu", cpu, program(name), SEED, CASES])
    if name == "test_conv2d.c":
        assert " neon" in output


@pytest.fixture(scope="session")
def delegate(tmp_path_factory):
    path = tmp_path_factory.mktemp("aarch64-delegate") / "libfbs_delegate.so"
    compile_c(path, "-O3", "-fPIC", "-fvisibility=hidden", "-shared", *builds.sources())
    return path


@pytest.fixture(scope="session")
def images(cifar10_dir):
    """The first test images of CIFAR-10."""
    from fbs_keras import data

    dataset = data.load("cifar10", f"test[:{IMAGES}]", 250, data_dir=cifar10_dir)
    return np.concatenate([batch for batch, _ in dataset.batches.as_numpy_iterator()])


@pytest.mark.skipif(not prepare.prepared(), reason="no Python for ARM: run `make test-aarch64`, which prepares one")
@pytest.mark.parametrize(("quantize", "count"), [(None, IMAGES), ("dynamic_int8", 200)])
def test_model_as_on_this_machine(quantize, count, tmp_path, delegate, images):
    """The CIFAR-10 model, in LiteRT with the delegate, gives each image the class that it gets here."""
    images = images[:count]
    model = quickstart.ROOT / "fbs_keras/models/checkpoints/mcifarnet_cifar10_50.keras"
    fbs_keras.convert(quickstart.load_model(model), tmp_path / "m.tflite", quantize=quantize)
    expected = fbs_keras.Interpreter(tmp_path / "m.tflite").predict(images)

    def run_there(part):
        source, result = tmp_path / f"images{part}.npy", tmp_path / f"logits{part}.npy"
        np.save(source, images[part::PROCESSES])
        script = HERE / "aarch64" / "run_model.py"
        run(*prepare.command(script, tmp_path / "m.tflite", delegate, source, result, "path:neon"))
        return np.load(result)

    logits = np.empty_like(expected)
    with ThreadPoolExecutor(PROCESSES) as pool:
        for part, values in enumerate(pool.map(run_there, range(PROCESSES))):
            logits[part::PROCESSES] = values
    agreement = quickstart.compare(expected, logits, expected.argmax(axis=1), np.zeros(len(images), bool))
    if quantize is None:
        assert agreement.same_class == 1
        assert agreement.difference <= quickstart.FLOAT32.difference  # 7.6e-7 when it was written
    else:  # a rounding error may move a value to the next of 256
        assert agreement.same_class >= quickstart.INT8.same_class
