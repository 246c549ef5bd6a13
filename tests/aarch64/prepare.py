"""Makes a folder with Debian's Python for 64-bit ARM and the LiteRT wheel, in which qemu-user runs what is compiled.

    python tests/aarch64/prepare.py            # or `make test-aarch64`, which runs the tests then

Takes a few minutes of downloads once, and 400 MB in .aarch64, or the folder that the environment variable
FBS_AARCH64_ROOT names; what is there and up to date is kept. debootstrap must be run by root; the tests need not.
"""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys

FOLDER = pathlib.Path(os.environ.get("FBS_AARCH64_ROOT") or pathlib.Path(__file__).parents[2] / ".aarch64")
# The commands, and Debian's and Ubuntu's packages that have them.
TOOLS = {"qemu-aarch64": "qemu-user", "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"}
TO_PREPARE = TOOLS | {"debootstrap": "debootstrap debian-archive-keyring", "dpkg-deb": "dpkg"}

SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = (
    f"python{PYTHON} libstdc++6 libexpat1 zlib1g libffi8 libbz2-1.0 liblzma5 libssl3 libsqlite3-0 libgomp1".split()
)
# LiteRT asks this file what the CPU can do, and crashes where it is a file of another architecture.
CPUINFO = """processor\t: 0
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1
"""


def missing(tools=TOOLS):
    """What to install, as a sentence; empty if nothing."""
    packages = [package for tool, package in tools.items() if shutil.which(tool, path=search_path()) is None]
    return f"Debian and Ubuntu: apt-get install {' '.join(packages)}" if packages else ""


def search_path():
    """PATH, and where the system's own tools are, which is not on every user's."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def wheels():
    """The wheels of this environment that are needed there, too, in the same versions."""
    return [f"{name}=={importlib.metadata.version(name)}" for name in ("ai-edge-litert", "numpy")]


def contents():
    """What the folder is made of; it is made anew if this differs from what it was made of."""
    return "\n".join([SUITE, *PACKAGES, *wheels()])


def prepared():
    """Whether the folder is there and up to date."""
    mark = FOLDER / "contents"
    return mark.exists() and mark.read_text() == contents()


def command(program, *arguments):
    """The command that runs Python there, and its environment."""
    emulator = ["qemu-aarch64", "-cpu", "cortex-a76", "-L", FOLDER / "root", FOLDER / f"root/usr/bin/python{PYTHON}"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(FOLDER / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    return [*map(str, emulator), str(program), *map(str, arguments)], environment


def prepare():
    """Makes the folder."""
    if remedy := missing(TO_PREPARE):
        sys.exit(f"prepare: tools are missing. {remedy}")
    if prepared():
        return
    if os.geteuid() != 0:
        sys.exit(f"prepare: debootstrap must be run by root, once: sudo {sys.executable} {__file__}")
    root, site = FOLDER / "root", FOLDER / "site"
    for each in (root, site):
        shutil.rmtree(each, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)

    print(f"Fetching Debian's Python for ARM into {root} ...", flush=True)
    # --foreign: only unpacked. Nothing of it runs but Python, so the packages' own set-up is left out, too.
    options = ["--foreign", "--arch=arm64", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    bootstrap = [shutil.which("debootstrap", path=search_path()), *options, SUITE, root]
    log = FOLDER / "debootstrap.log"
    with open(log, "w") as file:
        if subprocess.run(bootstrap, stdout=file, stderr=subprocess.STDOUT).returncode:
            sys.exit(f"prepare: debootstrap failed; {log} ends with: {log.read_text()[-500:]}")
    archives = root / "var/cache/apt/archives"
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", archive, root], check=True)
    shutil.rmtree(archives)
    (root / "proc/cpuinfo").write_text(CPUINFO)

    print(f"Fetching {' and '.join(wheels())} into {site} ...", flush=True)
    options = ["--quiet", "--target", site, "--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
    options += [f"--abi={abi}" for abi in (f"cp{PYTHON.replace('.', '')}", "abi3", "none")]
    options += [f"--platform=manylinux_2_{minor}_aarch64" for minor in (28, 27, 17)] + [
        "--platform=manylinux2014_aarch64"
    ]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *wheels()], check=True)
    (FOLDER / "contents").write_text(contents())


if __name__ == "__main__":
    prepare()
