"""Installs fbs_keras, and compiles its LiteRT delegate with the system's C compiler.

The delegate is one shared library in plain C (tflite/): it needs a C11 compiler and POSIX threads, nothing of
TensorFlow or LiteRT. It is installed as fbs_keras/lib/<platform>/libfbs_delegate.so, where `fbs_keras.delegate_path()`
finds it. Libraries for other platforms that tflite/build_delegate.py has put there before, such
as Android's, are installed with it. Environment variables:

    CC=clang                   another compiler than cc, gcc or clang, whichever comes first
    CFLAGS="..."               further flags for it
    FBS_KERAS_PLATFORM=...     build a wheel for linux-x86_64 or linux-aarch64 on another machine (`make wheels`)
    FBS_KERAS_NO_DELEGATE=1    install without the delegate: portable files still run in stock LiteRT
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools < 70.1
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tflite"))
import build_delegate  # noqa: E402

PLATFORM = os.environ.get("FBS_KERAS_PLATFORM") or build_delegate.host_platform()

# `pip install fbs-keras` is enough to wrap and train with whatever Keras backend is there; like Keras, it brings none.
# What else a user may want is an extra. The tests have run at both ends: Keras 3.8 and 3.15, TensorFlow 2.19 and 2.21,
# ai-edge-litert 2.2 and 2.3 (up to 2.1 its XNNPACK computes some convolutions with strides 2x1 wrongly), NumPy 1.26 and
# 2.4. TensorFlow is bounded by minor, because its converter changes with each.
LITERT = "ai-edge-litert>=2.2,<3"
TENSORFLOW = "tensorflow>=2.19,<2.22"
KERAS = ["keras>=3.8,<4", "numpy>=1.26,<3", "absl-py>=1.4,<3", "tqdm>=4.64,<5"]
EXTRAS = {
    "tensorflow": [TENSORFLOW],
    "jax": ["jax>=0.7"],
    "runtime": [LITERT],  # Interpreter: run an exported file
    "export": [TENSORFLOW, LITERT, "flatbuffers>=24.3.25"],  # convert()
    "data": [
        "tensorflow-datasets>=4.9.7,<5",
        "importlib_resources",
    ],  # the data sets of scripts/; TFDS forgets to ask for the second
    "tfmot": ["tensorflow-model-optimization>=0.8,<0.9"],  # its pruning schedules in DensityScheduler
    "weights": ["safetensors>=0.4.3,<1"],  # models' weights from .safetensors files; .pth needs nothing
    "plots": ["matplotlib>=3.8,<4"],
    "tensorboard": ["tensorboard>=2.19,<2.22"],  # scripts/train.py writes its curves; TensorFlow no longer brings it
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
# The other backends that the tests run on, apart because PyPI's PyTorch has gigabytes.
EXTRAS["backends"] = ["torch==2.13.0", "openvino==2026.4.1"]
EXTRAS["dev"] = [
    "clang-format>=18",
    "hypothesis>=6.100",
    "import-linter>=2.1",
    "mypy>=1.10",
    "pytest>=8",
    "pytest-xdist>=3.5",
    "ruff>=0.6",
]
# Other tools that read exported files, at the versions of docs/interoperability.md: tests/export/test_other_tools.py.
EXTRAS["interop"] = [
    "ai-edge-quantizer==0.10.0",
    "onnxruntime==1.32.0; python_version >= '3.11'",
    "tf2onnx==1.17.0",
]


REMEDY = (
    "install one (Debian and Ubuntu: apt-get install gcc libc6-dev; macOS: xcode-select --install), or set CC, "
    "or set FBS_KERAS_NO_DELEGATE=1 to install without the delegate"
)


class BuildDelegate(build_ext):
    """Compiles the sources of the extension into a plain shared library: no Python headers, no Python symbols."""

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext):
        try:
            build_delegate.build(PLATFORM, self.get_ext_fullpath(ext.name))
        except build_delegate.BuildError as error:
            raise CompileError(f"{error}: {REMEDY}") from None

    def copy_extensions_to_source(self):
        for extension in self.extensions:
            Path(*extension.name.split(".")[:-1]).mkdir(parents=True, exist_ok=True)
        super().copy_extensions_to_source()


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and any Python: the library does not use Python's ABI."""

    def get_tag(self):
        python, abi, platform_tag = super().get_tag()
        if not self.distribution.has_ext_modules():
            return python, abi, platform_tag
        other = build_delegate.host_platform() != PLATFORM
        return "py3", "none", PLATFORM.replace("-", "_") if other else platform_tag


def delegate():
    if os.environ.get("FBS_KERAS_NO_DELEGATE") == "1" or sys.platform == "win32":
        return []
    os.chdir(ROOT)
    name = f"fbs_keras.lib.{PLATFORM}.libfbs_delegate"
    return [Extension(name, build_delegate.sources(), depends=build_delegate.sources(".h"))]


def read(name):
    path = ROOT / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


setup(
    name="fbs-keras",
    version="0.1.0",
    description="Dynamic channel pruning (Feature Boosting and Suppression) for Keras, with a fast LiteRT delegate",
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["fbs_keras", "fbs_keras.*", "_fbs_scripts"]),
    package_data={"fbs_keras.models": ["checkpoints/*.keras"], "fbs_keras": ["py.typed", "lib/android-*/*.so"]},
    install_requires=KERAS,
    extras_require=EXTRAS,
    ext_modules=delegate(),
    cmdclass={"build_ext": BuildDelegate, "bdist_wheel": PlatformWheel},
    zip_safe=False,
)
