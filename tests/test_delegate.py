"""The delegate in the stock LiteRT runtime: right results, and a refusal for every wrong file."""

import ctypes
import json
import os
import re
import subprocess
import sys
import threading

import builds
import hostile_files
import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from budget import budget
from op_files import Add, Depthwise, Op, Writer, op_file

# What the library may call. The last line is the compiler's doing.
C_LIBRARY = """
    malloc calloc free posix_memalign memcmp memcpy memmove memset bcmp strcmp strcpy strlen strncmp strerror qsort
    getenv getauxval snprintf vsnprintf open close read write getpid clock_gettime sched_yield sched_getaffinity
    pthread_create pthread_join pthread_mutex_init pthread_mutex_destroy pthread_mutex_lock pthread_mutex_trylock
    pthread_mutex_unlock pthread_cond_init pthread_cond_destroy pthread_cond_wait pthread_cond_signal
    pthread_cond_broadcast pthread_once pthread_atfork __register_atfork
    __errno_location __errno __getauxval __stack_chk_fail
"""
PATHS = builds.PATHS[1:]  # without "auto"
OPS = {
    "plain": Op(),
    "density 1/16": Op(k=1),
    "density 15/16": Op(k=15),
    "density 1, dense out": Op(k=16),
    "sparse in": Op(active=5),
    "sparse in, one channel": Op(active=1),
    "sparse in, all channels": Op(active=8),
    "sparse in, dense out": Op(active=5, k=16),
    "1x1": Op(kernel=(1, 1), active=5),
    "5x3": Op(kernel=(5, 3)),
    "2x4": Op(kernel=(2, 4)),
    "kernel larger than the image": Op(kernel=(9, 11)),
    "stride 2": Op(strides=(2, 2)),
    "stride 2, odd size": Op(strides=(2, 2), height=7, width=9, active=5),
    "stride 3x1": Op(strides=(3, 1), height=8),
    "stride larger than the kernel": Op(kernel=(1, 2), strides=(3, 4), height=8, width=10),
    "dilation 2": Op(dilation=(2, 2), height=9, width=8),
    "dilation 1x3": Op(dilation=(1, 3), height=9, width=8, active=3),
    "valid": Op(padding="VALID"),
    "valid, one pixel": Op(padding="VALID", height=3, width=3),
    "valid, stride 2": Op(padding="VALID", strides=(2, 2), height=8, width=7, active=5),
    "valid, dilation 2": Op(padding="VALID", dilation=(2, 2), height=9, width=8),
    "batch 3": Op(batch=3),
    "batch 3, sparse in": Op(batch=3, active=5, strides=(2, 1)),
    "groups of 4": Op(group_size=4, k=8),
    "groups of 16": Op(group_size=16, filters=64, k=32, active=7),
    "no activation": Op(activation="NONE"),
    "relu6": Op(activation="RELU6", seed=3),
    "one pixel": Op(height=1, width=1),
    "one channel": Op(in_channels=1, filters=1, k=1),
    "more than a tile": Op(height=13, width=11, in_channels=48, active=29, filters=96, k=71),
    "groups of 16, more than a tile": Op(height=9, width=9, in_channels=64, active=32, filters=96, k=48, group_size=16),
}
QUANTIZED = {
    "density 1, dense out": Op(k=16, quantize="int8"),
    "sparse in": Op(active=5, quantize="int8"),
    "1x1": Op(kernel=(1, 1), active=5, quantize="int8"),
    "batch 3": Op(batch=3, active=5, strides=(2, 1), quantize="int8"),
    "valid, dilation 2": Op(padding="VALID", dilation=(2, 2), height=9, width=8, quantize="int8"),
    "groups of 4, relu6": Op(group_size=4, k=8, activation="RELU6", quantize="int8"),
    "more than a tile": Op(height=13, width=11, in_channels=48, active=29, filters=96, k=71, quantize="int8"),
    "pooled": Op(pool=2, quantize="int8"),
    "pooled, 2x2": Op(height=2, width=2, pool=2, activation="NONE", quantize="int8"),
    "pooled, dense out, batch 3": Op(batch=3, k=16, active=5, pool=2, activation="RELU6", quantize="int8"),
    "pooled, groups, odd size": Op(height=9, width=7, group_size=4, k=8, pool=2, activation="NONE", quantize="int8"),
    "pooled, more than a tile": Op(
        height=13, width=12, in_channels=48, active=29, filters=96, k=71, pool=2, quantize="int8"
    ),
    "float16": Op(quantize="float16"),
    "float16, sparse in": Op(active=5, quantize="float16"),
    "float16, density 1": Op(k=16, quantize="float16"),
}
GATED = {
    "g": Op(gated=True),
    "g, sparse in": Op(active=5, gated=True),
    "g, dense out": Op(k=16, gated=True),
    "g, groups, batch 3, stride 2": Op(batch=3, active=5, strides=(2, 1), group_size=4, k=8, gated=True),
    "g, one channel": Op(in_channels=1, filters=1, k=1, gated=True),
    "g, more than a tile": Op(height=13, width=11, in_channels=48, active=29, filters=96, k=71, gated=True),
    "g, float16": Op(active=5, quantize="float16", gated=True),
    "g, int8": Op(active=5, quantize="int8", gated=True),
    "g, int8, batch 3": Op(batch=3, quantize="int8", gated=True),
    "g, pooled": Op(k=16, active=5, pool=2, activation="RELU6", quantize="int8", gated=True),
}
ADDS = {
    "dense + compact": Add(),
    "compact + dense": Add(active=(10, None)),
    "compact + compact": Add(active=(7, 24)),
    "expand": Add(active=(10,), activation="NONE"),
    "dense only": Add(active=(None, None)),
    "three": Add(active=(3, None, 20), activation="RELU6"),
    "eight": Add(active=(1, None, 2, None, 3, None, 4, 5)),
    "batch 3": Add(batch=3, active=(10, 5)),
    "one pixel": Add(pixels=(1, 1)),
    "rank 2": Add(pixels=(), active=(10, None)),
    "rank 5": Add(pixels=(2, 3, 4)),
    "one channel": Add(channels=1, active=(1, None)),
    "whole vectors": Add(channels=64, active=(32, 48)),
    "shared by threads": Add(pixels=(30, 31), channels=75, active=(37, None, 40)),
}
DEPTHWISE = {
    "some of the channels": Depthwise(),
    "one channel": Depthwise(active=1),
    "all channels": Depthwise(active=24),
    "more than a vector": Depthwise(channels=100, active=50, height=9, width=21, activation="RELU6"),
    "stride 2": Depthwise(strides=(2, 2), channels=64, active=33, width=20),
    "5x5": Depthwise(kernel=(5, 5), channels=40, active=20, width=17),
    "5x5, stride 2, odd size": Depthwise(kernel=(5, 5), strides=(2, 2), active=16, height=7, width=19),
    "valid": Depthwise(padding="VALID", active=17),
    "valid, one pixel": Depthwise(padding="VALID", height=3, width=3),
    "2x4, stride 3x1": Depthwise(kernel=(2, 4), strides=(3, 1), height=8, activation="NONE"),
    "dilation 2x3": Depthwise(dilation=(2, 3), height=9, width=8, active=18),
    "kernel larger than the image": Depthwise(kernel=(9, 11)),
    "stride larger than the kernel": Depthwise(kernel=(1, 2), strides=(3, 4), height=8, width=10),
    "batch 3": Depthwise(batch=3, activation="NONE"),
    "one pixel": Depthwise(height=1, width=1, active=20),
    "float16": Depthwise(quantize="float16", batch=2, activation="NONE"),
}


@pytest.fixture(scope="session")
def library():
    return builds.shipped_delegate()


def load(library, **options):
    return litert.load_delegate(library, options)


def interpret(content, delegate, num_threads=1):
    interpreter = litert.Interpreter(model_content=content, experimental_delegates=[delegate], num_threads=num_threads)
    interpreter.allocate_tensors()
    return interpreter


def run(interpreter, inputs):
    for details, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(details["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(details["index"]) for details in interpreter.get_output_details()]


def check(outputs, expected):
    """y close in units of its largest value; the same channels chosen."""
    y, out_indices = expected
    np.testing.assert_allclose(outputs[0], y, rtol=0, atol=1e-4 * np.abs(y).max())
    assert len(outputs) == (1 if out_indices is None else 2)
    if out_indices is not None:
        np.testing.assert_array_equal(outputs[1], out_indices)


class TestResults:
    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("path", PATHS)
    def test_one_op(self, library, path, threads):
        try:
            delegate = load(library, path=path)
        except ValueError as error:
            assert f"'{path}' is not available on this CPU" in str(error)
            pytest.skip(f"{path} is not available on this CPU")
        for name, op in (OPS | QUANTIZED | GATED).items():
            interpreter = interpret(op_file(op), delegate, threads)
            for seed in (1, 2):
                inputs = op.inputs(seed)
                try:
                    check(run(interpreter, inputs), op.reference(*inputs))
                except AssertionError as error:
                    raise AssertionError(f"{name}: {op}\n{error}") from error

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("path", PATHS)
    def test_sum(self, library, path, threads):
        try:
            delegate = load(library, path=path)
        except ValueError:
            pytest.skip(f"{path} is not available on this CPU")
        for name, op in ADDS.items():
            interpreter = interpret(op_file(op), delegate, threads)
            for seed in (1, 2):
                inputs = op.inputs(seed)
                np.testing.assert_array_equal(run(interpreter, inputs)[0], op.reference(*inputs), name)

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("path", PATHS)
    def test_depthwise(self, library, path, threads):
        try:
            delegate = load(library, path=path)
        except ValueError:
            pytest.skip(f"{path} is not available on this CPU")
        for name, op in DEPTHWISE.items():
            interpreter = interpret(op_file(op), delegate, threads)
            for seed in (1, 2):
                inputs = op.inputs(seed)
                (y,) = run(interpreter, inputs)
                np.testing.assert_allclose(y, op.reference(*inputs), rtol=0, atol=1e-4, err_msg=name)

    def test_depthwise_as_composite(self, library):
        op = DEPTHWISE["5x5"]
        inputs = op.inputs()
        (y,) = run(interpret(op_file(op, form="composite"), load(library)), inputs)
        np.testing.assert_allclose(y, op.reference(*inputs), rtol=0, atol=1e-4)

    def test_depthwise_resized(self, library):
        interpreter = interpret(op_file(Depthwise()), load(library))
        x, indices = (details["index"] for details in interpreter.get_input_details())
        for op in (Depthwise(), Depthwise(height=20, width=31), Depthwise(batch=3), Depthwise(active=24), Depthwise()):
            interpreter.resize_tensor_input(x, op.x_shape)
            interpreter.resize_tensor_input(indices, (op.batch, op.active))
            interpreter.allocate_tensors()
            inputs = op.inputs()
            np.testing.assert_allclose(run(interpreter, inputs)[0], op.reference(*inputs), rtol=0, atol=1e-4)

    def test_sum_as_composite_of_one_tensor_twice(self, library):
        op = Add(active=(10, 10))
        writer = Writer([op], "composite")
        node = writer.nodes[0]
        node.inputs = writer.graph.inputs = node.inputs[:2]
        node.inputs = node.inputs * 2
        inputs = op.inputs()[:2]
        (y,) = run(interpret(writer.pack(), load(library)), inputs)
        np.testing.assert_array_equal(y, op.reference(*inputs * 2))

    def test_sum_resized(self, library):
        interpreter = interpret(op_file(Add(active=(None,))), load(library))
        for pixels in ((6, 5), (90, 91), (2, 1)):
            op = Add(pixels=pixels, active=(None,))
            interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], op.shape())
            interpreter.allocate_tensors()
            inputs = op.inputs()
            np.testing.assert_array_equal(run(interpreter, inputs)[0], op.reference(*inputs))

    def test_sum_of_special_values(self, library):
        op = Add(active=(None, 20), activation="NONE")
        x, values, indices = op.inputs()
        values[..., :3] = np.nan, np.inf, -np.inf
        np.testing.assert_array_equal(
            run(interpret(op_file(op), load(library)), [x, values, indices])[0], op.reference(x, values, indices)
        )

    @pytest.mark.parametrize("form", ["custom", "composite"])
    def test_two_ops_share_the_indices(self, library, form):
        first = Op(active=5, filters=24, k=10, seed=5)
        second = Op(in_channels=24, active=10, filters=12, k=7, strides=(2, 2), seed=6)
        inputs = first.inputs()
        outputs = run(interpret(op_file(first, second, form=form), load(library)), inputs)
        check(outputs, second.reference(*first.reference(*inputs)))

    @pytest.mark.parametrize(
        "op",
        [
            *(Op(), Op(k=16), Op(active=4), Op(active=4, quantize="int8"), Op(active=4, quantize="int8", pool=2)),
            *(Op(quantize="float16"), Op(active=4, gated=True), Op(active=4, quantize="int8", gated=True)),
        ],
    )
    def test_composite(self, library, op):
        inputs = op.inputs()
        check(run(interpret(op_file(op, form="composite"), load(library)), inputs), op.reference(*inputs))

    def test_large_values_do_not_spoil_the_next_run(self, library):
        op = Op(active=5)
        interpreter = interpret(op_file(op), load(library))
        x, indices = op.inputs()
        for spoiler in (np.nan, np.inf, 3e38):
            _, chosen = run(interpreter, [np.full_like(x, spoiler), indices])
            assert sorted(set(chosen[0])) == sorted(chosen[0]) and set(chosen[0]) <= set(range(op.filters))
        check(run(interpreter, [x, indices]), op.reference(x, indices))

    @pytest.mark.parametrize(
        "settings",
        [{}, {"quantize": "float16"}, {"quantize": "int8"}, {"quantize": "int8", "pool": 2}, {"gated": True}],
        ids=str,
    )
    def test_resize(self, library, settings):
        """Another batch, another size, and back: Prepare runs again."""
        interpreter = interpret(op_file(Op(**settings)), load(library))
        for sizes in ({}, {"batch": 3}, {"height": 9, "width": 12}, {}):
            op = Op(**settings, **sizes)
            inputs = op.inputs()
            for details, value in zip(interpreter.get_input_details(), inputs, strict=True):
                interpreter.resize_tensor_input(details["index"], value.shape)
            interpreter.allocate_tensors()
            check(run(interpreter, inputs), op.reference(*inputs))

    def test_preserve_all_tensors(self, library):
        op = Op(active=5)
        with pytest.warns(UserWarning, match="preserve_all_tensors"):
            interpreter = litert.Interpreter(
                model_content=op_file(op),
                experimental_delegates=[load(library)],
                experimental_preserve_all_tensors=True,
            )
        interpreter.allocate_tensors()
        inputs = op.inputs()
        check(run(interpreter, inputs), op.reference(*inputs))

    def test_one_delegate_for_interpreters_in_threads(self, library):
        delegate = load(library)
        ops = [Op(seed=seed, active=5, height=20, width=20) for seed in range(4)]
        results = {}

        def work(op):
            interpreter = interpret(op_file(op), delegate, 2)
            inputs = op.inputs()
            results[op.seed] = [run(interpreter, inputs) for _ in range(20)]

        threads = [threading.Thread(target=work, args=[op]) for op in ops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for op in ops:
            expected = op.reference(*op.inputs())
            for outputs in results[op.seed]:
                check(outputs, expected)


class TestFloat16:
    def test_every_value(self, tmp_path):
        """NumPy's conversion of all 65,536, bit for bit; a NaN is a NaN."""
        path = tmp_path / "libfloat16.so"
        source = builds.ROOT / "tflite" / "delegate" / "float16.c"
        builds.compile_c(path, *builds.WARNINGS, "-O2", "-fPIC", "-shared", str(source))
        halves = np.arange(2**16, dtype=np.uint16)
        values = np.zeros(2**16, np.float32)
        ctypes.CDLL(str(path)).fbs_float16_expand(
            ctypes.c_void_p(halves.ctypes.data), ctypes.c_size_t(halves.size), ctypes.c_void_p(values.ctypes.data)
        )
        expected = halves.view(np.float16).astype(np.float32)
        np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(values.view(np.uint32)[number], expected.view(np.uint32)[number])


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"pth": "auto"}, "option 'pth' is unknown; the options are path, method, winograd, verbose and profile"),
            ({"path": "sse"}, "option 'path' must be auto, reference, plain, avx2, avx512 or neon, got 'sse'"),
            ({"path": ""}, "option 'path' must be auto"),
            ({"method": "fft"}, "option 'method' must be auto, gemm, inplace, grouped, winograd2 or winograd4, got"),
            ({"winograd": "3"}, "option 'winograd' must be 0, 2 or 4, got '3'"),
            ({"verbose": "yes"}, "option 'verbose' must be 0 or 1, got 'yes'"),
            ({"profile": "/nonexistent/folder/file"}, "option 'profile' must be a file that can be written"),
            ({"profile": "x" * 600}, "option 'profile' must be a path shorter than 512 bytes"),
        ],
    )
    def test_refused(self, library, options, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            load(library, **options)

    def test_environment(self, library, monkeypatch):
        monkeypatch.setenv("FBS_PATH", "sse")
        with pytest.raises(ValueError, match=r"FBS_PATH must be auto, reference, .*, got 'sse'"):
            load(library)
        monkeypatch.setenv("FBS_PATH", "reference")
        load(library)
        monkeypatch.setenv("FBS_METHOD", "fft")
        with pytest.raises(ValueError, match=r"FBS_METHOD must be auto, gemm, .*, got 'fft'"):
            load(library)

    def test_option_goes_before_environment(self, library, monkeypatch, tmp_path):
        monkeypatch.setenv("FBS_PATH", "reference")
        assert profile(library, tmp_path)[0]["kernel"] == "reference"
        assert profile(library, tmp_path, path="plain")[0]["kernel"] == "gemm_plain"
        monkeypatch.setenv("FBS_METHOD", "inplace")
        assert profile(library, tmp_path, path="plain")[0]["kernel"] == "inplace_plain"
        assert profile(library, tmp_path, path="plain", method="winograd2")[0]["kernel"] == "winograd2_plain"

    def test_profile(self, library, tmp_path):
        first, second = profile(library, tmp_path)
        assert [first["op"], second["op"]] == ["conv0", "conv1"]
        assert first["shape"] == "1x6x5x8/8 -> 6x5x8/16, 3x3 stride 1x1 dilation 1x1"
        assert int(first["macs"]) == 6 * 5 * 9 * 8 * 8 + 8 * 16
        assert int(second["macs"]) == 6 * 5 * 9 * 8 * 3 + 8 * 12
        offsets = 4 * 9 * 6 * 5  # of each tap at each pixel, in both plans
        for row in (first, second):
            assert int(row["workspace_bytes"]) > 0 and int(row["plan_bytes"]) > offsets
            assert row["runs"] == "7" and 0 < float(row["min_us"]) <= float(row["median_us"]) < 1e6

    def test_profile_of_a_sum(self, library, tmp_path):
        path = tmp_path / "profile.tsv"
        op = Add(active=(None, 10))
        interpreter = interpret(op_file(op), load(library, profile=path, path="plain"))
        run(interpreter, op.inputs())
        del interpreter
        (row,) = read_profile(path)
        assert [row[key] for key in ("op", "kernel", "shape", "macs", "runs")] == [
            *("sum", "add_plain", "1x6x5x(24 + 10/24)", "0", "1")
        ]

    def test_profile_of_a_depthwise_convolution(self, library, tmp_path):
        path = tmp_path / "profile.tsv"
        op = Depthwise(strides=(2, 1))
        interpreter = interpret(op_file(op), load(library, profile=path, path="plain"))
        run(interpreter, op.inputs())
        del interpreter
        (row,) = read_profile(path)
        assert [row[key] for key in ("op", "kernel", "shape", "macs")] == [
            *("depthwise", "depthwise_plain"),
            *("1x6x5x10/24 -> 3x5x10/24, 3x3 stride 2x1 dilation 1x1", str(3 * 5 * 9 * 10)),
        ]

    def test_profile_of_float16_weights(self, library, tmp_path):
        """The plan's bytes count the float32 copies."""
        sizes = {}
        for op in (Op(), Op(quantize="float16"), Depthwise(), Depthwise(quantize="float16")):
            path = tmp_path / "profile.tsv"
            interpreter = interpret(op_file(op), load(library, profile=path, path="plain"))
            run(interpreter, op.inputs())
            del interpreter
            sizes[type(op), op.quantize] = int(read_profile(path)[-1]["plan_bytes"])
            path.unlink()
        copies = 4 * (Op().weights.size + Op().gate_kernel.size)
        assert sizes[Op, "float16"] == sizes[Op, None] + copies
        assert sizes[Depthwise, "float16"] == sizes[Depthwise, None] + 4 * Depthwise().weights.size

    @pytest.mark.parametrize(
        ("pool", "y", "more"), [(1, "6x5x8/16", ""), (2, "3x2x8/16", ", max pool 2x2")], ids=["plain", "pooled"]
    )
    def test_profile_of_int8(self, library, tmp_path, pool, y, more):
        path = tmp_path / "profile.tsv"
        op = Op(quantize="int8", pool=pool)
        interpreter = interpret(op_file(op), load(library, profile=path, path="plain"))
        run(interpreter, op.inputs())
        del interpreter
        (row,) = read_profile(path)
        assert [row[key] for key in ("op", "kernel", "shape", "macs")] == [
            *("conv0", "int8_plain", f"1x6x5x8/8 -> {y}, 3x3 stride 1x1 dilation 1x1{more}"),
            str(6 * 5 * 9 * 8 * 8 + 8 * 16),
        ]
        assert int(row["workspace_bytes"]) > 0 and int(row["plan_bytes"]) >= 4 * op.gate_kernel.size

    def test_profile_of_several_shapes(self, library, tmp_path):
        path = tmp_path / "profile.tsv"
        interpreter = interpret(op_file(Op()), load(library, profile=path))
        for runs, op in ((3, Op()), (2, Op(height=9)), (0, Op(height=8)), (1, Op())):
            interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], op.x_shape)
            interpreter.allocate_tensors()
            for _ in range(runs):
                run(interpreter, op.inputs())
        del interpreter
        rows = read_profile(path)
        assert [(row["shape"].partition(" ")[0], row["runs"]) for row in rows] == [
            ("1x6x5x8/8", "3"),
            ("1x9x5x8/8", "2"),
            ("1x6x5x8/8", "1"),
        ]

    def test_profile_of_an_op_with_an_odd_name(self, library, tmp_path):
        path = tmp_path / "profile.tsv"
        writer = Writer([Op()])
        writer.named("conv0").name = b"a\tb\nc"
        interpreter = interpret(writer.pack(), load(library, profile=path))
        run(interpreter, Op().inputs())
        del interpreter
        assert [row["op"] for row in read_profile(path)] == ["a b c"]

    def test_verbose(self, library):
        code = (
            "import sys, op_files, test_delegate as t\n"
            "t.interpret(op_files.op_file(op_files.Op()), t.load(sys.argv[1], verbose=1, path='reference'))"
        )
        result = subprocess.run(
            [sys.executable, "-c", code, library],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert "FBS: conv0: 1x6x5x8/8 -> 6x5x8/16, 3x3 stride 1x1 dilation 1x1, reference, 1 thread(s)" in result.stderr


def profile(library, folder, **options):
    """The rows of the profile of two ops after seven runs."""
    ops = Op(), Op(in_channels=16, active=8, filters=12, k=3)
    path = folder / "profile.tsv"
    interpreter = interpret(op_file(*ops), load(library, profile=path, **options))
    for _ in range(7):
        run(interpreter, ops[0].inputs())
    del interpreter
    return read_profile(path)


def read_profile(path):
    header, *rows = (line.split("\t") for line in path.read_text().splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def messages():
    """What the delegate, built with sanitizers, says of each file. A report of theirs ends the process."""
    result = subprocess.run(
        [sys.executable, hostile_files.__file__, builds.delegate(*builds.SANITIZERS)],
        env={
            **os.environ,
            "LD_PRELOAD": builds.sanitizer_preload(),
            "ASAN_OPTIONS": "detect_leaks=0:redzone=512",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-5000:]
    return json.loads(result.stdout)


class TestHostileFiles:
    @pytest.mark.parametrize("name", hostile_files.ROWS)
    def test_refused(self, messages, name):
        _, expected, *_ = hostile_files.ROWS[name]
        assert messages[name] is not None, "the file was run"
        assert re.search(expected, messages[name])

    def test_random_damage(self):
        """The delegate in a host of our own (native/delegate_host.c), its ops spoilt thousands of times."""
        wraps = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc", "posix_memalign")]
        compiled = builds.objects([builds.NATIVE / "delegate_host.c", *builds.sources()], builds.SANITIZERS)
        host = builds.link("delegate_host", compiled, [*builds.SANITIZERS, *wraps])
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:redzone=512"}
        rounds = budget(4000)
        result = subprocess.run([host, str(rounds)], env=environment, capture_output=True, text=True)
        assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
        refused, tried = map(int, re.match("(.*) of (.*) refused", result.stdout).groups())
        assert tried - rounds > 60000 and 0.5 * tried < refused < tried


class TestLibrary:
    def test_needs_only_the_c_library(self, library):
        dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
        needed = set(re.findall(r"NEEDED.*\[(.*?)\.so", dynamic))
        assert needed <= {"libc", "libm", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}

    def test_calls_only_these_functions(self, library):
        """Nothing that Android's older C libraries lack, such as aligned_alloc, which has been there since API 28."""
        symbols = subprocess.run(
            ["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True
        ).stdout
        lines = (line.split() for line in symbols.splitlines())
        names = {name.partition("@")[0] for kind, name in lines if kind == "U"}
        assert {"malloc", "pthread_create"} <= names
        assert {re.sub("^__(.*)_chk$", r"\1", name) for name in names} <= set(C_LIBRARY.split())

    def test_exports_only_the_entry_points(self, library):
        symbols = subprocess.run(
            ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
        ).stdout
        names = {line.split()[-1] for line in symbols.splitlines()}
        assert names == {"tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"}
