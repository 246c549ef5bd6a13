"""Compiles the delegate into one shared library; setup.py, the Makefile and the tests all build it here.

    python tflite/build_delegate.py                  for this machine
    python tflite/build_delegate.py linux-aarch64    with a cross compiler: CC, or aarch64-linux-gnu-gcc
    python tflite/build_delegate.py android-arm64    with the NDK's clang, or any clang and lld without an NDK

It goes to fbs_keras/lib/<platform>/libfbs_delegate.so, where `fbs_keras.delegate_path("<platform>")` finds it.
Environment variables: CC and CFLAGS, as always, but Android's compiler is clang; ANDROID_NDK_HOME, ANDROID_NDK_ROOT or
ANDROID_HOME (its newest ndk/*) say where the NDK is.
"""

import argparse
import os
import platform as host
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBC = ROOT / "tflite/android/libc"
FLAGS = ["-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-shared"]
# API level 24 is Android 7; Android 15 and newer may run on 16-KiB pages.
ANDROID_FLAGS = ["--target=aarch64-linux-android24", "-Wl,--no-undefined", "-Wl,-z,max-page-size=16384"]
SONAME = "-Wl,-soname,libfbs_delegate.so"
MACHINES = {"x86_64": 62, "aarch64": 183, "arm64": 183}  # e_machine of an ELF file


class BuildError(Exception):
    """The library cannot be built; the message says why."""


def host_platform():
    """This machine in the names of `delegate_path`, such as "linux-x86_64"."""
    system = {"Darwin": "macos"}.get(host.system(), host.system().lower())
    machine = {"AMD64": "x86_64"}.get(host.machine(), host.machine())
    return f"{system}-{machine}"


def sources(suffix=".c"):
    """The delegate's C files, relative to the project's root."""
    folders = ("tflite/core", "tflite/core/kernels", "tflite/delegate")
    return sorted(path.relative_to(ROOT).as_posix() for name in folders for path in (ROOT / name).glob(f"*{suffix}"))


def build(platform, library):
    """Compiles the delegate for a platform into the file `library`."""
    library = Path(library).absolute()
    library.parent.mkdir(parents=True, exist_ok=True)
    if platform == "android-arm64":
        build_for_android(library)
    else:
        run([*compiler(platform), *FLAGS, *user_flags(), *sources(), "-o", str(library), "-lm", "-pthread"])
    check_machine(platform, library)


def compiler(platform):
    """The C compiler's command as a list."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    machine = platform.partition("-")[2]
    names = ["cc", "gcc", "clang"] if platform == host_platform() else [f"{machine}-linux-gnu-gcc"]
    for name in names:
        if shutil.which(name):
            return [name]
    raise BuildError(
        f"a C compiler is needed to build the delegate for {platform}, and {' or '.join(names)} was not found"
    )


def build_for_android(library):
    ndk = ndk_clang()
    if ndk is not None:
        run([ndk, *ANDROID_FLAGS, SONAME, *FLAGS, *user_flags(), *sources(), "-o", str(library), "-lm"])
        return
    for tool in ("clang", "ld.lld"):
        if shutil.which(tool) is None:
            raise BuildError(
                f"Android needs its NDK, named by ANDROID_NDK_HOME, or clang and lld, of which {tool} was not found "
                "(Debian and Ubuntu: apt-get install clang lld)"
            )
    # Our own declarations of the few functions of libc that we call, and a library of their names to link with: what is
    # missing there is an error. Atomic operations are instructions, not calls of the compiler's runtime, which is the
    # NDK's.
    clang = ["clang", *ANDROID_FLAGS, "-shared", "-nostdlib", "-fuse-ld=lld"]
    flags = ["-nostdlibinc", "-isystem", str(LIBC), "-mno-outline-atomics", "-Werror=implicit-function-declaration"]
    with tempfile.TemporaryDirectory() as folder:
        libc, assembly = Path(folder, "libc.so"), Path(folder, "libc.s")
        assembly.write_text("".join(f".globl {name}\n.type {name}, %function\n{name}:\n" for name in libc_symbols()))
        run([*clang, "-Wl,-soname,libc.so", str(assembly), "-o", str(libc)])
        files = [str(LIBC / "crtbegin.c"), *sources(), str(libc)]
        run([*clang, SONAME, *FLAGS, *flags, *user_flags(), *files, "-o", str(library)])


def libc_symbols():
    """{name: API level}: what the delegate may call in Android's libc."""
    lines = (LIBC / "symbols.txt").read_text().splitlines()
    return {name: int(level) for name, level in (line.split() for line in lines if not line.startswith("#"))}


def ndk_clang():
    """The clang of the NDK that the environment names, or None where it names none."""
    named = os.environ.get("ANDROID_NDK_HOME") or os.environ.get("ANDROID_NDK_ROOT")
    if named:
        ndks = [Path(named)]
    elif os.environ.get("ANDROID_HOME"):
        ndks = list(Path(os.environ["ANDROID_HOME"]).glob("ndk/[0-9]*"))
    else:
        ndks = []
    if not ndks:
        return None
    ndk = max(ndks, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])
    for clang in ndk.glob("toolchains/llvm/prebuilt/*/bin/clang"):
        return str(clang)
    raise BuildError(f"the NDK at {ndk} has no toolchains/llvm/prebuilt/*/bin/clang")


def user_flags():
    return shlex.split(os.environ.get("CFLAGS", ""))


def run(command):
    print(shlex.join(command), flush=True)
    try:
        subprocess.run(command, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError) as error:
        status = (
            error.strerror if isinstance(error, OSError) else f"exit status {error.returncode}, see its message above"
        )
        raise BuildError(f"the C compiler '{command[0]}' could not build the delegate ({status})") from None


def check_machine(platform, library):
    """CC may name a compiler for another machine."""
    header = library.read_bytes()[:20]
    wanted = MACHINES.get(platform.partition("-")[2])
    if header[:4] == b"\x7fELF" and wanted is not None and int.from_bytes(header[18:20], "little") != wanted:
        library.unlink()
        raise BuildError(f"the C compiler '{compiler(platform)[0]}' compiles for another machine than {platform}")


def main():
    parser = argparse.ArgumentParser(description="Compiles the delegate.")
    parser.add_argument("platform", nargs="?", default=host_platform(), help="default: %(default)s, this machine")
    parser.add_argument("--output", type=Path, help="default: fbs_keras/lib/<platform>/libfbs_delegate.so")
    arguments = parser.parse_args()
    library = arguments.output or ROOT / "fbs_keras/lib" / arguments.platform / "libfbs_delegate.so"
    try:
        build(arguments.platform, library)
    except BuildError as error:
        raise SystemExit(f"build_delegate.py: {error}.") from None


if __name__ == "__main__":
    main()
