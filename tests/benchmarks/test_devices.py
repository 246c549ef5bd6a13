"""Where benchmark_model runs: this machine, and a phone that a stand-in for adb makes of a folder."""

import os
import re
import stat
import sys

import pytest

from fbs_keras.benchmarks import devices

HEADER = "List of devices attached\n"
DAEMON = "* daemon not running; starting now at tcp:5037\n* daemon started successfully\n"


class TestChoose:
    @pytest.mark.parametrize(
        ("listed", "serial", "chosen"),
        [
            (f"{HEADER}abc\tdevice\n\n", None, "abc"),
            (f"{DAEMON}{HEADER}abc\tdevice\n", "abc", "abc"),
            (f"{HEADER}abc\tdevice\nemulator-5554\tdevice\n", "emulator-5554", "emulator-5554"),
            (f"{HEADER}abc\tunauthorized\nxyz:5555\tdevice\n", "xyz:5555", "xyz:5555"),
        ],
    )
    def test_chosen(self, listed, serial, chosen):
        assert devices.choose(listed, serial) == chosen

    @pytest.mark.parametrize(
        ("listed", "serial", "message"),
        [
            (HEADER, None, "adb sees no device; connect a phone by USB, turn on 'USB debugging'"),
            (f"{DAEMON}{HEADER}", "abc", "adb sees no device; connect"),
            (f"{HEADER}abc\tdevice\nxyz\tdevice\n", None, "adb sees 2 devices, abc, xyz; choose one with --serial"),
            (f"{HEADER}abc\tdevice\nxyz\tdevice\n", "ab", "adb sees no device 'ab'; it sees abc, xyz"),
            (
                f"{HEADER}abc\tunauthorized\n",
                None,
                "abc is 'unauthorized': it has not allowed this computer yet: unlock it",
            ),
            (f"{HEADER}abc\toffline\n", None, "abc is 'offline': reconnect it"),
            (f"{HEADER}abc\tno permissions (user is not in the plugdev group)\n", None, "install the udev rules"),
            (f"{HEADER}abc\trecovery\n", None, "abc is 'recovery': reconnect it"),
        ],
    )
    def test_refused(self, listed, serial, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            devices.choose(listed, serial)


def elf(machine, bits=2):
    return b"\x7fELF" + bytes([bits, 1, 1]) + bytes(11) + machine.to_bytes(2, "little") + bytes(44)


class TestCheckExecutable:
    def test_arm64(self):
        devices.check_executable(elf(183), "tool")

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (elf(62), "the given file is one for x86-64"),
            (elf(40, bits=1), "the given file is no 64-bit ELF program"),
            (elf(243), "the given file is one for ELF machine 243"),
            (b"#!/bin/sh\n", "the given file is no 64-bit ELF program"),
            (b"", "the given file is no 64-bit ELF program"),
        ],
    )
    def test_others(self, content, kind):
        with pytest.raises(ValueError, match=f"tool must be a program for Android on arm64, and {kind}"):
            devices.check_executable(content, "tool")


class TestLocal:
    def test_files_and_commands(self):
        with devices.Local() as device:
            path = device.put(b"#!/bin/sh\necho $1; echo error >&2\n", "program", executable=True)
            assert device.run([path, "a b;c"]) == "a b;c\nerror\n"
            other = device.put(b"x", "file")
            assert not os.stat(other).st_mode & stat.S_IXUSR
        assert not os.path.exists(path)

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            (["sh", "-c", "echo no memory; exit 3"], "sh -c 'echo no memory; exit 3' ended with status 3: no memory"),
            (["/no/such/program"], "/no/such/program cannot be run: No such file"),
        ],
    )
    def test_failure(self, command, message):
        with devices.Local() as device, pytest.raises(ValueError, match=re.escape(message)):
            device.run(command)

    def test_too_long(self, monkeypatch):
        monkeypatch.setattr(devices, "LIMIT", 0.05)
        with devices.Local() as device, pytest.raises(ValueError, match=r"sleep 5 did not end within 0\.05 s"):
            device.run(["sleep", "5"])

    def test_describe(self):
        with devices.Local() as device:
            assert device.describe()["cores"] == os.cpu_count()


class Cores(devices.Local):
    """A machine of cores of these speeds."""

    def __init__(self, speeds):
        super().__init__()
        self.speeds = speeds

    def run(self, command):
        path = "/sys/devices/system/cpu/cpu{}/cpufreq/cpuinfo_max_freq:{}\n"
        return "".join(path.format(core, speed) for core, speed in enumerate(self.speeds))


class TestFastCores:
    @pytest.mark.parametrize(
        ("speeds", "threads", "mask"),
        [
            ([1800, 1800, 1800, 1800, 2400, 2400, 2400, 2400], 1, "f0"),
            ([1800, 1800, 1800, 1800, 2400, 2400, 2400, 2400], 5, "ff"),
            ([1800, 1800, 1800, 1800, 2250, 2250, 2850, 2850], 2, "c0"),
            ([1800, 1800, 1800, 1800, 2250, 2250, 2250, 2850], 1, "80"),
            ([1800, 1800, 1800, 1800, 2250, 2250, 2250, 2850], 2, "f0"),
            ([2850] + [1000] * 11, 1, "1"),
            ([1000] * 11 + [2850], 1, "800"),
        ],
    )
    def test_mask(self, speeds, threads, mask):
        with Cores(speeds) as device:
            assert device.fast_cores(threads) == mask

    def test_unknown(self):
        with (
            Cores([]) as device,
            pytest.raises(ValueError, match="does not tell how fast its cores are; give the mask"),
        ):
            device.fast_cores(1)


# Does what adb does with a phone, whose folder is a folder here.
ADB = """#!{python}
import os, pathlib, shutil, subprocess, sys
there, arguments = "{folder}", sys.argv[1:]
with open("{log}", "a") as log:
    print(arguments, file=log)
if arguments == ["devices"]:
    sys.exit(print("List of devices attached\\nabc\\tdevice\\n"))
assert arguments[:2] == ["-s", "abc"]
if arguments[2] == "push":
    shutil.copy(arguments[3], arguments[4].replace("/data/local/tmp", there))
elif arguments[2] == "shell":
    command = " ".join(arguments[3:]).replace("/data/local/tmp", there)
    properties = {properties}
    if command.startswith("getprop"):
        sys.exit(print(properties.get(command.split()[1], "")))
    if command == "cat /proc/cpuinfo":
        sys.exit(print("processor : 0\\nFeatures : fp asimd asimddp\\nCPU part : 0xd44"))
    sys.exit(subprocess.run(command, shell=True).returncode)
"""
PROPERTIES = {
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a",
    "ro.product.manufacturer": "Maker",
    "ro.product.model": "Phone 9",
    "ro.soc.manufacturer": "Fab",
    "ro.soc.model": "Chip 3",
    "ro.build.version.release": "16",
}


@pytest.fixture
def connect(tmp_path, monkeypatch):
    """connect(properties): puts a phone of these Android properties behind `adb`; returns its folder."""
    folder = tmp_path / "phone"
    folder.mkdir()
    (tmp_path / "bin").mkdir()

    def connect(properties=PROPERTIES):
        adb = tmp_path / "bin" / "adb"
        text = ADB.format(python=sys.executable, folder=folder, log=tmp_path / "log", properties=properties)
        adb.write_text(text)
        adb.chmod(0o755)
        monkeypatch.setenv("PATH", f"{adb.parent}{os.pathsep}{os.environ['PATH']}")
        return folder

    return connect


class TestPhone:
    def test_files_and_commands(self, connect):
        folder = connect()
        with devices.Phone() as phone:
            assert phone.put(b"a model", "m.tflite") == "/data/local/tmp/fbs_keras/m.tflite"
            assert (folder / "fbs_keras" / "m.tflite").read_bytes() == b"a model"
            assert phone.run(["echo", "a  b;c", "$HOME", "'"]) == "a  b;c $HOME '\n"
            assert phone.put(elf(183), "tool", executable=True) == "/data/local/tmp/fbs_keras/tool"
            assert os.stat(folder / "fbs_keras" / "tool").st_mode & stat.S_IXUSR
        assert list(folder.iterdir()) == []

    def test_describe(self, connect):
        connect()
        with devices.Phone("abc") as phone:
            description = phone.describe()
        assert description["cpu"] == "Maker Phone 9, Fab Chip 3"
        assert description["isa"] == ["asimd", "asimddp"]
        assert description["cores"] >= 1 and description["system"].startswith("Android 16 ")

    def test_program_for_another_machine(self, connect):
        connect()
        with devices.Phone() as phone, pytest.raises(ValueError, match="must be a program for Android on arm64"):
            phone.put(elf(62), "benchmark_model", executable=True)

    def test_failing_command(self, connect):
        connect()
        with (
            devices.Phone() as phone,
            pytest.raises(ValueError, match=r"^sh -c 'echo out; exit 4' ended with status 4: out"),
        ):
            phone.run(["sh", "-c", "echo out; exit 4"])

    def test_other_machine(self, connect):
        connect({"ro.product.cpu.abi": "x86_64"})
        with pytest.raises(ValueError, match="the delegate is built for arm64-v8a, and this device runs x86_64"):
            devices.Phone()

    def test_other_serial(self, connect):
        connect()
        with pytest.raises(ValueError, match="adb sees no device 'xyz'; it sees abc"):
            devices.Phone("xyz")

    def test_no_adb(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(FileNotFoundError, match=r"adb was not found; install .* or use --local"):
            devices.Phone()
