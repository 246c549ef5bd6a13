"""The native kernels: the C test programs under the sanitizers, and the reference against NumPy."""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import builds
import numpy as np
import pytest
from budget import budget
from native import neon_mca

CORE = sorted(builds.CORE.rglob("*.c"))
OPTIMISED = ["-O3", "-fvisibility=default"]  # of which a library of its own is made, too
SEED = 20190506

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) on this machine")


def build(program, flags, caller_helps=True, compiler="cc"):
    """A test program linked with the core; returns the executable."""

    def own_flags(source):
        return [] if caller_helps or source.name != "threads.c" else ["-DFBS_CALLER_HELPS=0"]

    program = builds.NATIVE / program
    objects = builds.objects([program, *CORE], flags, own_flags, [compiler])
    return Path(builds.link(program.stem, objects, flags, [compiler]))


def run(*command):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr[-4000:]}"
    return result.stdout


def links(flags, directory):
    """Whether the compiler can build and run a program with these flags (sanitizer runtimes are optional packages)."""
    source = directory / "empty.c"
    source.write_text("int main(void) { return 0; }\n")
    executable = directory / "empty"
    built = subprocess.run(["cc", *flags, source, "-o", executable], capture_output=True)
    return built.returncode == 0 and subprocess.run([executable], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "program, arguments",
    [
        ("test_conv2d.c", [SEED, budget(500)]),
        ("test_conv2d_int8.c", [SEED, budget(200)]),
        ("test_add.c", [SEED, budget(500)]),
        ("test_depthwise.c", [SEED, budget(300)]),
        ("test_winners.c", [SEED, budget(2000)]),
        ("test_check.c", []),
        ("test_cores.c", []),
        ("test_threads.c", []),
    ],
)
def test_with_address_and_undefined_sanitizers(tmp_path, program, arguments):
    if not links(builds.SANITIZERS, tmp_path):
        pytest.skip("the C compiler has no AddressSanitizer or UndefinedBehaviorSanitizer")
    run(build(program, builds.SANITIZERS), *arguments)


@pytest.mark.parametrize(
    "program, arguments",
    [
        ("test_conv2d.c", [SEED + 1, budget(50)]),
        ("test_conv2d_int8.c", [SEED + 1, budget(10)]),
        ("test_add.c", [SEED + 1, budget(100)]),
        ("test_depthwise.c", [SEED + 1, budget(15)]),
        ("test_threads.c", []),
    ],
)
def test_with_thread_sanitizer(tmp_path, program, arguments):
    if not links(builds.THREAD_SANITIZER, tmp_path):
        pytest.skip("the C compiler has no ThreadSanitizer that runs here")
    # Where the caller helps, it may run all shares, and then there is no race to see.
    caller_helps = program == "test_threads.c"
    run(build(program, builds.THREAD_SANITIZER, caller_helps), *arguments)


@pytest.mark.parametrize(
    "program, arguments",
    [
        ("test_conv2d.c", [SEED + 2, budget(2500)]),
        ("test_conv2d_int8.c", [SEED + 2, budget(1000)]),
        ("test_add.c", [SEED + 2, budget(1000)]),
        ("test_depthwise.c", [SEED + 2, budget(1500)]),
    ],
)
def test_optimised(program, arguments):
    """As shipped: optimisation may break what the sanitizers' builds do not show."""
    run(build(program, OPTIMISED), *arguments)


@pytest.mark.parametrize(
    "program, arguments",
    [
        ("test_conv2d.c", [SEED + 3, 200]),
        ("test_conv2d_int8.c", [SEED + 3, 50]),
        ("test_add.c", [SEED + 3, 500]),
        ("test_depthwise.c", [SEED + 3, 200]),
        ("test_winners.c", [SEED, 300]),
    ],
)
def test_neon(program, arguments):
    """On an AArch64 machine the other tests cover NEON; elsewhere it runs in an emulator."""
    if platform.machine() in ("aarch64", "arm64"):
        pytest.skip("the other tests run NEON here")
    for tool in ("aarch64-linux-gnu-gcc", "qemu-aarch64"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    program = build(program, ["-O2", "-static"], compiler="aarch64-linux-gnu-gcc")
    out = run("qemu-aarch64", program, *arguments)
    assert program.stem != "test_conv2d" or " neon" in out
    assert program.stem != "test_conv2d_int8" or " neondot neon" in out
    if program.stem == "test_conv2d_int8":  # a core without SDOT
        out = run("qemu-aarch64", "-cpu", "cortex-a53", program, SEED, 0)
        assert " neon" in out and "neondot" not in out


# The largest error of a method's outputs, relative to their rms: three times that of docs/kernels_notebook.md.
ERRORS = {"gemm": 2.5e-5, "inplace": 2.5e-5, "grouped": 2.5e-5, "winograd2": 1e-5, "winograd4": 5e-5}


def test_errors():
    """Against double precision: on each path and method, within the method's bound for every depth and input."""
    rows = [line.split() for line in run(build("measure_errors.c", OPTIMISED)).splitlines()[1:]]
    assert len(rows) >= len(ERRORS)
    for path, method, *errors in rows:
        assert 0 < max(map(float, errors)) <= ERRORS[method], f"{path}, {method}: {errors}"


def test_neon_loops():
    """llvm-mca sees no more than 15 % of the multiply-adds' peak lost in the loops that do most of the work."""
    tool = neon_mca.missing_tool()
    if tool is not None:
        pytest.skip(f"{tool} is not installed")
    for compiler, cpu, instruction, function, *_, rate, peak in neon_mca.measure():
        assert rate >= 0.85 * peak, f"{compiler}, {cpu}, {function}: {rate:.2f} of {peak} {instruction} a cycle"


class Shape(ctypes.Structure):
    """FbsConv2dShape."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            *("batch", "in_height", "in_width", "in_channels", "in_active", "out_channels", "out_active", "group_size"),
            *("kernel_height", "kernel_width", "stride_height", "stride_width", "dilation_height", "dilation_width"),
            *("pad_top", "pad_left", "out_height", "out_width", "activation", "max_pool"),
        )
    ]


FLOATS = ctypes.POINTER(ctypes.c_float)
INTS = ctypes.POINTER(ctypes.c_int32)


class Weights(ctypes.Structure):
    """FbsConv2dWeights."""

    _fields_ = [(name, FLOATS) for name in ("weights", "bias", "gate_kernel", "gate_bias")]


@pytest.fixture(scope="session")
def core():
    objects = builds.objects(CORE, OPTIMISED, compiler=["cc"])
    core = ctypes.CDLL(builds.link("libcore.so", objects, ["-shared"], ["cc"]))
    core.fbs_conv2d_create.restype = core.fbs_threads_create.restype = ctypes.c_void_p
    core.fbs_conv2d_workspace_size.restype = ctypes.c_size_t
    core.fbs_conv2d_check.restype = core.fbs_path_name.restype = ctypes.c_char_p
    return core


class Options(ctypes.Structure):
    """FbsConv2dOptions."""

    _fields_ = [(name, ctypes.c_int32) for name in ("path", "method", "winograd")]


PATHS = {name: value for value, name in enumerate(builds.PATHS)}


def run_core(core, path, shape, weights, x, in_indices, g=None):
    """One run of fbs_conv2d: (y, out_indices). With `g`, the weights lack the gate's."""
    message = ctypes.create_string_buffer(256)
    assert core.fbs_conv2d_check(ctypes.byref(shape), message, ctypes.c_size_t(256)) is None, message.value
    pointers = Weights(*(w.ctypes.data_as(FLOATS) for w in weights))
    threads = ctypes.c_void_p(core.fbs_threads_create(2))
    plan = ctypes.c_void_p(
        core.fbs_conv2d_create(ctypes.byref(shape), ctypes.byref(pointers), ctypes.byref(Options(path, 0, 4)))
    )
    workspace = np.empty(core.fbs_conv2d_workspace_size(plan, 2) + 64, np.uint8)
    y = np.full([shape.batch, shape.out_height, shape.out_width, shape.out_active], np.nan, np.float32)
    indices = np.full([shape.batch, shape.out_active], -1, np.int32)
    status = core.fbs_conv2d_run(
        plan,
        threads,
        x.ctypes.data_as(FLOATS),
        None if in_indices is None else in_indices.ctypes.data_as(INTS),
        None if g is None else g.ctypes.data_as(FLOATS),
        y.ctypes.data_as(FLOATS),
        indices.ctypes.data_as(INTS),
        ctypes.c_void_p(workspace.ctypes.data + -workspace.ctypes.data % 64),
    )
    core.fbs_conv2d_destroy(plan)
    core.fbs_threads_destroy(threads)
    assert status == 0
    return y, indices


def numpy_layer(shape, weights, x, in_indices, g=None):
    """The layer of docs/design.md on dense arrays in float64: channels that are not active are zeros."""
    kernel, bias, *gate = (w.astype(np.float64) for w in weights)
    dense = np.zeros([*x.shape[:3], shape.in_channels])
    for n in range(shape.batch):
        dense[n][..., np.arange(shape.in_channels) if in_indices is None else in_indices[n]] = x[n]
    g = np.maximum(np.abs(dense).mean((1, 2)) @ gate[0] + gate[1] if g is None else g.astype(np.float64), 0)
    order = g.reshape(shape.batch, -1, shape.group_size).mean(-1)
    groups = np.sort(np.argsort(-order, axis=-1, kind="stable")[:, : shape.out_active // shape.group_size])
    winners = (groups[:, :, None] * shape.group_size + np.arange(shape.group_size)).reshape(shape.batch, -1)

    reach_y = (shape.out_height - 1) * shape.stride_height + (shape.kernel_height - 1) * shape.dilation_height + 1
    reach_x = (shape.out_width - 1) * shape.stride_width + (shape.kernel_width - 1) * shape.dilation_width + 1
    padded = np.zeros([shape.batch, reach_y + shape.in_height, reach_x + shape.in_width, shape.in_channels])
    padded[:, shape.pad_top :, shape.pad_left :][:, : shape.in_height, : shape.in_width] = dense
    conv = np.zeros([shape.batch, shape.out_height, shape.out_width, shape.out_channels])
    for ky in range(shape.kernel_height):
        for kx in range(shape.kernel_width):
            rows = ky * shape.dilation_height + np.arange(shape.out_height) * shape.stride_height
            columns = kx * shape.dilation_width + np.arange(shape.out_width) * shape.stride_width
            conv += padded[:, rows][:, :, columns] @ kernel[:, ky * shape.kernel_width + kx]
    y = g[:, None, None] * (conv + bias)
    y = np.take_along_axis(y, winners[:, None, None], -1)
    return [y, np.maximum(y, 0), np.clip(y, 0, 6)][shape.activation], winners


LAYERS = {
    "same": dict(pad_top=1, pad_left=1, out_height=8, out_width=9),
    "valid": dict(out_height=6, out_width=7),
    "stride 2": dict(stride_height=2, stride_width=2, out_height=4, out_width=5),
    "uneven strides": dict(stride_height=2, stride_width=3, pad_left=1, out_height=4, out_width=3),
    "dilation": dict(dilation_height=2, dilation_width=3, pad_top=2, pad_left=3, out_height=8, out_width=9),
    "5x2": dict(kernel_height=5, kernel_width=2, pad_top=2, out_height=8, out_width=9),
    "1x1": dict(kernel_height=1, kernel_width=1, out_height=8, out_width=9),
    "window beyond the input": dict(pad_top=5, pad_left=7, out_height=16, out_width=20),
    "dense in and out": dict(in_active=10, out_active=24, pad_top=1, pad_left=1, out_height=8, out_width=9),
    "groups": dict(group_size=4, out_active=12, pad_top=1, pad_left=1, out_height=8, out_width=9),
    "relu": dict(activation=1, pad_top=1, pad_left=1, out_height=8, out_width=9),
    "relu6": dict(activation=2, pad_top=1, pad_left=1, out_height=8, out_width=9),
}


@pytest.mark.parametrize("given", [False, True], ids=["gate", "given g"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layer", LAYERS)
def test_against_numpy(core, path, layer, given):
    if not core.fbs_path_available(PATHS[path]):
        pytest.skip(f"this CPU has no {path}")
    assert core.fbs_path_name(PATHS[path]).decode() == path
    fields = dict(
        batch=2, in_height=8, in_width=9, in_channels=10, in_active=6, out_channels=24, out_active=9, group_size=1,
        kernel_height=3, kernel_width=3, stride_height=1, stride_width=1, dilation_height=1, dilation_width=1,
    )  # fmt: skip
    shape = Shape(**fields | LAYERS[layer])
    rng = np.random.default_rng(SEED)
    taps = shape.kernel_height * shape.kernel_width
    weights = [
        rng.standard_normal(size, np.float32)
        for size in (
            (shape.in_channels, taps, shape.out_channels),
            shape.out_channels,
            (shape.in_channels, shape.out_channels),
            shape.out_channels,
        )
    ]
    x = rng.standard_normal((shape.batch, shape.in_height, shape.in_width, shape.in_active), np.float32)
    dense = shape.in_active == shape.in_channels
    in_indices = (
        None
        if dense
        else np.stack([rng.permutation(shape.in_channels)[: shape.in_active] for _ in range(shape.batch)]).astype(
            np.int32
        )
    )
    g = None
    if given:
        weights, g = weights[:2], rng.standard_normal((shape.batch, shape.out_channels), np.float32)
    y, winners = run_core(core, PATHS[path], shape, weights, x, in_indices, g)
    expected_y, expected_winners = numpy_layer(shape, weights, x, in_indices, g)
    np.testing.assert_array_equal(winners, expected_winners)
    np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=1e-4)
