"""Which compiler builds the delegate for which platform, and what is said when it cannot."""

import shutil
import subprocess

import build_delegate
import pytest
from build_delegate import BuildError

VARIABLES = ("CC", "CFLAGS", "ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_HOME")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def make_ndk(folder):
    clang = folder / "toolchains/llvm/prebuilt/linux-x86_64/bin/clang"
    clang.parent.mkdir(parents=True)
    clang.touch()
    return clang


@pytest.mark.parametrize("variable", ["ANDROID_NDK_HOME", "ANDROID_NDK_ROOT"])
def test_named_ndk(tmp_path, monkeypatch, variable):
    clang = make_ndk(tmp_path)
    monkeypatch.setenv(variable, str(tmp_path))
    assert build_delegate.ndk_clang() == str(clang)


def test_newest_ndk(tmp_path, monkeypatch):
    clangs = [make_ndk(tmp_path / "ndk" / version) for version in ("9.2.1", "27.0.12077973", "26.3.11579264")]
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path))
    assert build_delegate.ndk_clang() == str(clangs[1])


def test_no_ndk(tmp_path, monkeypatch):
    assert build_delegate.ndk_clang() is None
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path))
    assert build_delegate.ndk_clang() is None
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    with pytest.raises(BuildError, match=r"the NDK at .* has no toolchains/llvm/prebuilt/\*/bin/clang"):
        build_delegate.ndk_clang()


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        ("android-arm64", "Android needs its NDK, named by ANDROID_NDK_HOME, or clang and lld, of which clang was not"),
        (
            "linux-vax",
            "a C compiler is needed to build the delegate for linux-vax, and vax-linux-gnu-gcc was not found",
        ),
    ],
)
def test_no_compiler(tmp_path, monkeypatch, platform, message):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=message):
        build_delegate.build(platform, tmp_path / "library.so")


def test_compiler_for_another_machine(tmp_path, monkeypatch):
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    other = "linux-aarch64" if build_delegate.host_platform() != "linux-aarch64" else "linux-x86_64"
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(build_delegate, "sources", lambda: [])
    with pytest.raises(BuildError, match=f"the C compiler 'cc' compiles for another machine than {other}"):
        build_delegate.build(other, tmp_path / "library.so")
    assert not (tmp_path / "library.so").exists()


def test_linux_aarch64(tmp_path, monkeypatch):
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("aarch64-linux-gnu-gcc is not installed")
    monkeypatch.setenv("CFLAGS", "-O0")  # quicker
    build_delegate.build("linux-aarch64", tmp_path / "library.so")
    header = subprocess.run(["readelf", "-h", tmp_path / "library.so"], capture_output=True, text=True).stdout
    assert "DYN" in header and "AArch64" in header
