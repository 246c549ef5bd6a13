"""The package build: where the delegate goes, and what is said when it cannot be compiled."""

import os
import subprocess
import sys

import pytest
from delegate_build import ROOT

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


REMEDY = "install one (Debian and Ubuntu: apt-get install gcc libc6-dev"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"CC": "", "PATH": "/nonexistent"},
            "a C compiler is needed to build the delegate, and neither cc, gcc nor clang",
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
