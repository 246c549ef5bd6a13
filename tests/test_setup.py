"""The package build: where the delegate goes, and what is said when it cannot be compiled."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from builds import ROOT

from fbs_keras.runtime import platform_name


def build(folder, **environment):
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder), "--build-temp", str(folder)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


def test_builds_the_delegate(tmp_path):
    result = build(tmp_path, CFLAGS="-O0")  # quicker
    assert result.returncode == 0, result.stderr
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.so")] == [
        f"fbs_keras/lib/{platform_name()}/libfbs_delegate.so"
    ]


def test_without_the_delegate(tmp_path):
    result = build(tmp_path, FBS_KERAS_NO_DELEGATE="1")
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize("platform", ["linux-x86_64", "linux-aarch64"])
def test_wheel(tmp_path, platform):
    """A wheel holds the packages, its platform's library, and Android's where that has been built."""
    compiler = "cc" if platform == platform_name() else f"{platform.removeprefix('linux-')}-linux-gnu-gcc"
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    project = tmp_path / "project"
    libraries = [project / "fbs_keras/lib" / name / "libfbs_delegate.so" for name in ("android-arm64", "other")]
    for name in ("_fbs_scripts", "fbs_keras", "tflite"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("lib", "*.keras", "__pycache__"))
    shutil.copy(ROOT / "setup.py", project)
    for library in libraries:
        library.parent.mkdir(parents=True)
        library.touch()
    environment = {**os.environ, "FBS_KERAS_PLATFORM": platform, "CC": compiler, "CFLAGS": "-O0"}
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith(f"-py3-none-{platform.replace('-', '_')}.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith(".so")] == [
        f"fbs_keras/lib/{name}/libfbs_delegate.so" for name in ("android-arm64", platform)
    ]
    assert {"fbs_keras/export/converter.py", "_fbs_scripts/program.py"} <= set(names)


REMEDY = "install one (Debian and Ubuntu: apt-get install gcc libc6-dev"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"CC": "", "PATH": "/nonexistent"},
            f"a C compiler is needed to build the delegate for {platform_name()}, and cc or gcc or clang was not found",
        ),
        (
            {"CC": "/nonexistent/cc -m64"},
            "the C compiler '/nonexistent/cc' could not build the delegate (No such file or",
        ),
        ({"CC": "false"}, "the C compiler 'false' could not build the delegate (exit status 1, see its message above)"),
    ],
)
def test_no_compiler(tmp_path, environment, message):
    result = build(tmp_path, **environment)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert message in result.stderr and REMEDY in result.stderr
