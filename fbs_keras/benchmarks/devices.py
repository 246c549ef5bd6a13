"""Where `benchmark_model` runs: a phone, by adb, or this machine; both take files and commands in the same way."""

import abc
import contextlib
import os
import re
import shlex
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from fbs_keras.benchmarks import measurement

FOLDER = "/data/local/tmp/fbs_keras"  # Android lets a shell write and execute below /data/local/tmp
LIMIT = 600  # s; a command that takes longer hangs

NO_ADB = (
    "adb was not found; install Android's platform tools (Debian and Ubuntu: apt-get install adb), or use --local to "
    "run on this machine"
)
NO_DEVICE = (
    "adb sees no device; connect a phone by USB, turn on 'USB debugging' in its developer options (seven taps on the "
    "build number, in its settings, make them appear), and allow this computer when the phone asks; `adb devices` "
    "must then list it"
)
STATES = {
    "unauthorized": "it has not allowed this computer yet: unlock it and answer its question, or reconnect it",
    "offline": "reconnect it, or run `adb kill-server` first",
    "no permissions": "the system does not let this user open it: install the udev rules (Debian and Ubuntu: apt-get "
    "install android-sdk-platform-tools-common) and reconnect it",
}


class Device(abc.ABC):
    """A machine with a folder for what is to be run, which is removed in the end: to be used in a `with` statement."""

    @abc.abstractmethod
    def put(self, content: bytes, name: str, executable: bool = False) -> str:
        """Writes a file into the folder; returns its path on the device."""

    @abc.abstractmethod
    def run(self, command: list[str]) -> str:
        """Runs a command; returns all that it printed. Raises ValueError, with the last of it, if it fails."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """CPU, vector instructions, cores and system, as in `measurement.environment()`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Removes the folder."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def fast_cores(self, threads: int) -> str:
        """The mask, in hexadecimal, of the fastest cores: all that are as fast, down to as many as there are threads.

        Raises:
            ValueError: If the device does not tell how fast its cores are.
        """
        files = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq"
        lines = self.run(["sh", "-c", f"grep -Hs . {files}; true"])
        speeds = {int(core): int(speed) for core, speed in re.findall(r"/cpu(\d+)/cpufreq/\w+:(\d+)", lines)}
        if not speeds:
            raise ValueError("this device does not tell how fast its cores are; give the mask of them instead")
        chosen: list[int] = []
        for speed in sorted(set(speeds.values()), reverse=True):
            if len(chosen) < threads:
                chosen += [core for core, value in speeds.items() if value == speed]
        return f"{sum(1 << core for core in chosen):x}"


class Local(Device):
    """This machine."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="fbs_keras")

    def put(self, content, name, executable=False):
        path = Path(self._folder.name, name)
        path.write_bytes(content)
        if executable:
            path.chmod(0o755)
        return str(path)

    def run(self, command):
        return _output(command, command)

    def describe(self):
        return measurement.environment()["device"]

    def close(self):
        self._folder.cleanup()


class Phone(Device):
    """An Android device of the arm64-v8a kind, by adb.

    Args:
        serial: Which one, as `adb devices` lists it; needed where it lists several.

    Raises:
        FileNotFoundError: If there is no adb.
        ValueError: If there is no such device, or it cannot be used; the message says what to do.
    """

    def __init__(self, serial: str | None = None):
        if shutil.which("adb") is None:
            raise FileNotFoundError(NO_ADB)
        self.serial = choose(_output(["adb", "devices"], ["adb", "devices"]), serial)
        kinds = self._property("ro.product.cpu.abilist") or self._property("ro.product.cpu.abi")
        if "arm64-v8a" not in kinds:
            raise ValueError(f"the delegate is built for arm64-v8a, and this device runs {kinds or 'nothing known'}")
        self.run(["mkdir", "-p", FOLDER])

    def put(self, content, name, executable=False):
        if executable:
            check_executable(content, name)
        path = f"{FOLDER}/{name}"
        with tempfile.NamedTemporaryFile(prefix=name) as file:
            file.write(content)
            file.flush()
            self._adb("push", file.name, path)
        if executable:
            self.run(["chmod", "755", path])
        return path

    def run(self, command):
        # adb joins its arguments by spaces and hands them to the phone's shell.
        return self._adb("shell", shlex.join(command), shown=command)

    def describe(self):
        cpu, isa = measurement.cpu_and_isa(self.run(["cat", "/proc/cpuinfo"]))
        model = " ".join(filter(None, map(self._property, ("ro.product.manufacturer", "ro.product.model"))))
        chip = " ".join(filter(None, map(self._property, ("ro.soc.manufacturer", "ro.soc.model"))))
        return {
            "cpu": f"{model}, {chip or cpu or self._property('ro.board.platform')}",
            "isa": isa,
            "cores": int(self.run(["nproc", "--all"])),
            "system": f"Android {self._property('ro.build.version.release')} {self.run(['uname', '-m']).strip()}",
        }

    def close(self):
        with contextlib.suppress(ValueError):  # it was unplugged: what happened before tells
            self.run(["rm", "-rf", FOLDER])

    def _property(self, name):
        return self.run(["getprop", name]).strip()

    def _adb(self, *arguments, shown=None):
        command = ["adb", "-s", self.serial, *arguments]
        return _output(command, shown or command)


def choose(devices: str, serial: str | None) -> str:
    """The serial number of the device to use.

    Args:
        devices: What `adb devices` printed.
        serial: The wanted one, or `None` for the only one.

    Raises:
        ValueError: If it is not there, not the only one, or not ready; the message says what to do.
    """
    rows = [line.split(maxsplit=1) for line in devices.splitlines() if "\t" in line]
    states = {row[0]: row[1].strip() for row in rows if len(row) == 2}
    if not states:
        raise ValueError(NO_DEVICE)
    if serial is None and len(states) > 1:
        raise ValueError(f"adb sees {len(states)} devices, {', '.join(states)}; choose one with --serial")
    serial = serial or next(iter(states))
    if serial not in states:
        raise ValueError(f"adb sees no device {serial!r}; it sees {', '.join(states)}")
    state = states[serial]
    if state != "device":
        remedy = next((text for name, text in STATES.items() if state.startswith(name)), "reconnect it")
        raise ValueError(f"the device {serial} is {state!r}: {remedy}")
    return serial


def check_executable(content: bytes, name: str) -> None:
    """Raises ValueError if a program is not one for 64-bit ARM."""
    machine = struct.unpack("<H", content[18:20])[0] if content[:5] == b"\x7fELF\x02" and len(content) > 20 else None
    if machine != 183:  # EM_AARCH64
        kind = {None: "no 64-bit ELF program", 62: "one for x86-64"}.get(machine, f"one for ELF machine {machine}")
        raise ValueError(f"{name} must be a program for Android on arm64, and the given file is {kind}")


def _output(command, shown):
    """What a command prints, to stdout and stderr; `shown` is what an error calls it."""
    options: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "errors": "replace",
    }
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=LIMIT, **options)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{shlex.join(shown)} did not end within {LIMIT} s") from None
    except OSError as error:
        raise ValueError(f"{shlex.join(shown)} cannot be run: {os.strerror(error.errno or 0)}") from None
    if result.returncode:
        tail = "\n".join(result.stdout.strip().splitlines()[-8:])
        raise ValueError(f"{shlex.join(shown)} ended with status {result.returncode}: {tail}")
    return result.stdout
