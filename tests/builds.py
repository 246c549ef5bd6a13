"""Compiles C for the tests, each file once: in build/tests, which modules, workers and later runs share.

A file's folder is named by a hash of the compiler, the command, the source and all headers, so a change makes another
file. `make clean` removes them. Warnings are errors here, and sanitizers can be asked for.
"""

import fcntl
import functools
import hashlib
import os
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import build_delegate
import op_files

ROOT = Path(__file__).parent.parent
CORE = ROOT / "tflite" / "core"
NATIVE = ROOT / "tests" / "native"
FOLDER = ROOT / "build" / "tests"
CC = shlex.split(os.environ.get("CC", "cc"))
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion"]
WARNINGS += ["-Wstrict-prototypes", "-Wmissing-prototypes", "-Werror"]
PROGRAM_WARNINGS = ["-Wall", "-Wextra", "-Werror"]
# -g1 is as much as a report needs: all of -g takes a third of the compiler's time.
SANITIZERS = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
THREAD_SANITIZER = ["-O1", "-g1", "-fsanitize=thread"]
LIBRARIES = ("-lm", "-pthread")
# The names of `FbsPath`, in its order.
PATHS = re.findall(r'\[kFbsPath\w+\] = "(\w+)"', (ROOT / "tflite/core/isa.c").read_text(encoding="utf-8"))


def sources():
    """The delegate's."""
    return [ROOT / name for name in build_delegate.sources()]


def objects(sources, flags, own_flags=lambda source: [], compiler=CC):
    """The object files of sources, compiled on all cores. `own_flags(source)`: what one has beside `flags`."""
    include, headers = _attributes(), _headers()

    def compile_source(source):
        warnings = WARNINGS if ROOT / "tflite" in source.parents else PROGRAM_WARNINGS
        command = [*compiler, "-std=gnu11", "-fPIC", "-fvisibility=hidden", *warnings, *flags, *own_flags(source)]
        if source.parent.name == "kernels" and set(SANITIZERS) <= set(flags):
            command.append("-O0")  # 80 s less to compile; test_conv2d.c runs for 15 s more
        command += [f"-I{CORE}", f"-I{include}", "-c", source]
        return _made(f"{source.stem}.o", command, source.read_bytes(), headers)

    slowest_first = sorted(sources, key=lambda source: source.parent.name != "kernels")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = dict(zip(slowest_first, pool.map(compile_source, slowest_first), strict=True))
    return [made[source] for source in sources]


def link(name, objects, flags=(), compiler=CC, libraries=LIBRARIES):
    """An executable or, with -shared, a library of object files; returns its path."""
    return _made(name, [*compiler, *flags, *objects, *libraries])


def delegate(*flags):
    """The delegate, compiled with flags."""
    return link("libfbs_delegate.so", objects(sources(), flags), ["-shared", *flags])


def shipped_delegate():
    """The delegate as `make install` has made it, or made like that now where a source has changed since."""
    library = ROOT / "fbs_keras" / "lib" / build_delegate.host_platform() / "libfbs_delegate.so"
    files = [*sources(), *(ROOT / name for name in build_delegate.sources(".h"))]
    if library.exists() and max(file.stat().st_mtime for file in files) < library.stat().st_mtime:
        return str(library)
    return delegate("-O3")


def failing_delegate():
    """One that fails when it is applied, upon which LiteRT undoes all delegates."""
    source = NATIVE / "failing_delegate.c"
    command = [
        *CC,
        "-std=gnu11",
        "-fPIC",
        "-shared",
        "-fvisibility=hidden",
        f"-I{ROOT / 'tflite' / 'delegate'}",
        source,
    ]
    return _made("failing.so", command, source.read_bytes(), _headers())


def compile_c(output, *arguments, compiler=CC, libraries=LIBRARIES):
    """Compiles something small into the file `output`, which no other test needs."""
    _run([*compiler, "-std=gnu11", *arguments, "-o", output, *libraries])


def _made(name, command, *contents):
    """The file that a command with `-o` makes. Only the first worker that asks runs it, the others wait."""
    command = list(map(str, command))
    identity = hashlib.sha256(repr([command, _version(command[0])]).encode())
    for content in contents:
        identity.update(content)
    made = FOLDER / identity.hexdigest()[:20] / name
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        with open(made.parent / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                unfinished = made.with_name(f"unfinished_{name}")
                _run([*command, "-o", unfinished])
                unfinished.replace(made)
    return str(made)


def _run(command):
    command = list(map(str, command))
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stderr}"


@functools.cache
def _version(compiler):
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def _headers():
    """What a source may include, as one text."""
    files = sorted([*(ROOT / "tflite").rglob("*.h"), *NATIVE.glob("*.h"), *_attributes().iterdir()])
    return b"".join(file.read_bytes() for file in files)


@functools.cache
def _attributes():
    """The folder of delegate_attributes.inc, which delegate_host.h includes."""
    folder = FOLDER / "include"
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = FOLDER / f"attributes_{os.getpid()}"
    op_files.write_attributes(unfinished)
    unfinished.replace(folder / "delegate_attributes.inc")
    return folder


def sanitizer_preload():
    """The sanitizers' runtimes, for LD_PRELOAD: a program built without them can then load one built with them."""

    def find(name):
        return subprocess.run(
            [*CC, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()

    return f"{find('libasan.so')} {find('libubsan.so')}"
