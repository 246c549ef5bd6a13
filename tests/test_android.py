"""Android's library, built with an NDK where there is one, else with clang and lld and our own declarations of libc."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import build_delegate
import builds
import pytest
from builds import ROOT

ENTRY_POINTS = {"tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"}


def run(*command, **environment):
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, **environment})
    assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    return result.stdout


def require(*tools):
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if build_delegate.ndk_clang() is None:
        require("clang", "ld.lld")
    library = tmp_path_factory.mktemp("android") / "libfbs_delegate.so"
    run(sys.executable, build_delegate.__file__, "android-arm64", "--output", library)
    return library


def dynamic_symbols(library):
    """(names defined, names undefined)"""
    rows = [line.split() for line in run("readelf", "-W", "--dyn-syms", library).splitlines()]
    names = {row[7].partition("@")[0]: row[6] for row in rows if len(row) >= 8 and row[0][:-1].isdigit()}
    return {name for name in names if names[name] != "UND"}, {name for name in names if names[name] == "UND"}


def test_needs_libc_only(library):
    dynamic = run("readelf", "-W", "-d", library)
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)) <= {"libc.so", "libm.so"}
    assert re.findall(r"\(SONAME\).*\[(.*)\]", dynamic) == ["libfbs_delegate.so"]
    assert "TEXTREL" not in dynamic


def test_runs_on_16_kib_pages(library):
    segments = re.findall(r"^ *LOAD +(\S+) (\S+) .* (0x\w+)$", run("readelf", "-W", "-l", library), re.MULTILINE)
    assert len(segments) >= 2
    for offset, address, alignment in (map(lambda field: int(field, 16), segment) for segment in segments):
        assert alignment == 16384 and (address - offset) % alignment == 0


def test_exports_only_the_entry_points(library):
    assert dynamic_symbols(library)[0] == ENTRY_POINTS


def test_calls_only_what_android_7_has(library):
    levels = build_delegate.libc_symbols()
    assert max(levels.values()) <= 24
    undefined = dynamic_symbols(library)[1]
    assert {"malloc", "pthread_create", "__register_atfork", "__cxa_finalize"} <= undefined <= set(levels)


def test_runs_in_an_emulator(library, tmp_path):
    """The delegate's test host finds it as it finds one that gcc made from the sources. glibc stands in for Android's
    libc, of whose names it lacks one."""
    require("aarch64-linux-gnu-gcc", "qemu-aarch64")
    from op_files import write_attributes

    compiler = "aarch64-linux-gnu-gcc"
    source = "int* __errno_location(void); int* __errno(void) { return __errno_location(); }"
    (tmp_path / "libc.c").write_text(source)
    run(compiler, "-shared", "-fPIC", "-Wl,-soname,libc.so", tmp_path / "libc.c", "-o", tmp_path / "libc.so")
    write_attributes(tmp_path / "delegate_attributes.inc")
    wraps = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc", "posix_memalign")]
    build = [compiler, "-std=gnu11", "-O1", f"-I{tmp_path}", *wraps, ROOT / "tests/native/delegate_host.c"]
    run(*build, library, f"-Wl,-rpath-link={tmp_path}", "-o", tmp_path / "host")
    run(*build, *builds.sources(), "-static", "-lm", "-o", tmp_path / "expected")

    glibc = Path(run(compiler, "-print-file-name=libc.so.6").strip()).resolve()
    emulator = ["qemu-aarch64", "-L", glibc.parent.parent, "-E", f"LD_LIBRARY_PATH={tmp_path}:{library.parent}"]
    out = run(*emulator, tmp_path / "host", 500)
    assert "refused" in out and out == run("qemu-aarch64", tmp_path / "expected", 500)
