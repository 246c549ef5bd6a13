"""Compiles the delegate's sources for the tests: warnings are errors here, and sanitizers can be asked for."""

import os
import shlex
import subprocess
from pathlib import Path

import build_delegate

ROOT = Path(__file__).parent.parent
CC = shlex.split(os.environ.get("CC", "cc"))
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion"]
WARNINGS += ["-Wstrict-prototypes", "-Wmissing-prototypes", "-Werror"]
SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def sources():
    return [str(ROOT / name) for name in build_delegate.sources()]


def compile_library(output, *flags):
    compile_c(output, *WARNINGS, "-fPIC", "-fvisibility=hidden", "-shared", *flags, *sources())
    return str(output)


def compile_c(output, *arguments, compiler=CC, libraries=("-lm", "-pthread")):
    command = [*compiler, "-std=gnu11", *map(str, arguments), "-o", str(output), *libraries]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stderr}"


def sanitizer_preload():
    """The sanitizers' runtimes, for LD_PRELOAD: a program built without them can then load one built with them."""

    def find(name):
        return subprocess.run(
            [*CC, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()

    return f"{find('libasan.so')} {find('libubsan.so')}"
