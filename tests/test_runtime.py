"""Interpreter and delegate_path, with the delegate that the installation has built."""

import contextlib
import itertools
import os
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import builds
import flatbuffers
import numpy as np
import pytest
import small_models
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from op_files import Op, Writer, op_file

import fbs_keras
from fbs_keras import runtime
from fbs_keras.runtime import DelegateWarning, Interpreter, Partitions, delegate_path


def add_file(dtype=schema.TensorType.FLOAT32, shapes=((2, 3), (2, 3)), outputs=1):
    """A model that adds its two inputs: several inputs and outputs, and no FBS op."""
    writer = Writer([Op()])
    graph, model = writer.graph, writer.model
    graph.tensors, graph.operators = [], []
    graph.inputs = [writer.tensor(f"input{i}", shape, dtype) for i, shape in enumerate(shapes)]
    code = schema.OperatorCodeT()
    code.builtinCode = schema.BuiltinOperator.ADD
    model.operatorCodes = [code]
    graph.outputs = []
    for number in range(outputs):
        node = schema.OperatorT()
        node.opcodeIndex, node.inputs = 0, list(graph.inputs)
        node.outputs = [writer.tensor(f"sum{number}", shapes[0], dtype)]
        node.builtinOptionsType = schema.BuiltinOptions.AddOptions
        node.builtinOptions = schema.AddOptionsT()
        graph.operators.append(node)
        graph.outputs += node.outputs
    return writer.pack()


def signatures_file(*names):
    """add_file() with these signatures."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(add_file(), 0))
    model.signatureDefs = []
    for name in names:
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = name.encode(), 0
        signature.inputs, signature.outputs = [], []
        for maps, tensors in ((signature.inputs, "inputs"), (signature.outputs, "outputs")):
            for number in getattr(model.subgraphs[0], tensors):
                item = schema.TensorMapT()
                item.name, item.tensorIndex = f"{tensors}{number}".encode(), number
                maps.append(item)
        model.signatureDefs.append(signature)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.fixture(scope="module")
def failing():
    """A delegate that fails when it is applied, upon which LiteRT undoes all delegates."""
    return litert.load_delegate(builds.failing_delegate())


@pytest.fixture
def fail_at(failing, monkeypatch):
    """fail_at(n): the n-th allocation of tensors silently drops all delegates, as a failing XNNPACK does."""
    allocate, calls = litert.Interpreter.allocate_tensors, itertools.count(1)

    def fail_at(number):
        def allocate_tensors(self):
            if next(calls) == number:
                with contextlib.suppress(RuntimeError):
                    self._interpreter.ModifyGraphWithDelegate(failing._get_native_delegate_pointer())
            allocate(self)

        monkeypatch.setattr(litert.Interpreter, "allocate_tensors", allocate_tensors)

    return fail_at


def portable_file(**settings):
    """The bytes of a file whose FBS ops also run without the delegate."""
    model = small_models.make("sequential")
    return fbs_keras.convert(model, **settings)


class TestDelegatePath:
    def test_this_machine(self):
        path = Path(delegate_path())
        assert path.is_file() and path.name == "libfbs_delegate.so"
        assert path == Path(delegate_path(runtime.platform_name()))

    def test_other_platform(self):
        with pytest.raises(FileNotFoundError, match=r"no delegate for 'plan9-vax' at .*installed from source"):
            delegate_path("plan9-vax")

    @pytest.mark.parametrize("name", ["android-arm64", "linux-aarch64"])
    def test_cross_compiled(self, tmp_path, monkeypatch, name):
        monkeypatch.setattr(runtime, "__file__", str(tmp_path / "runtime.py"))
        target = name.removesuffix("-arm64")
        with pytest.raises(FileNotFoundError, match=rf"no delegate for '{name}' .*by: make {target}"):
            delegate_path(name)
        library = tmp_path / "lib" / name / "libfbs_delegate.so"
        library.parent.mkdir(parents=True)
        library.touch()
        assert delegate_path(name) == str(library)

    def test_import_needs_no_litert(self):
        code = (
            "import sys; sys.modules['ai_edge_litert'] = None; import fbs_keras.runtime as r; print(r.delegate_path())"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.stdout.strip() == delegate_path(), result.stderr


class TestPredict:
    @pytest.mark.parametrize("examples", [0, 1, 2, 3, 4, 7])
    def test_any_number_of_examples(self, examples):
        op = Op(batch=2, k=16)
        interpreter = Interpreter(op_file(op))
        x = np.random.default_rng(0).normal(size=(examples, 6, 5, 8)).astype(np.float32)
        y = interpreter.predict(x)
        assert y.shape == (examples, 6, 5, 16) and y.dtype == np.float32
        for image, result in zip(x, y, strict=True):
            np.testing.assert_allclose(result, op.reference(image[None])[0][0], atol=1e-4)

    def test_several_inputs_and_outputs(self):
        op = Op(active=5)
        x, indices = op.inputs()
        y, out_indices = Interpreter(op_file(op)).predict([x, indices])
        np.testing.assert_allclose(y, op.reference(x, indices)[0], atol=1e-4)
        np.testing.assert_array_equal(out_indices, op.reference(x, indices)[1])

    def test_path_and_bytes(self, tmp_path):
        op = Op(k=16)
        path = tmp_path / "op.tflite"
        path.write_bytes(op_file(op))
        (x,) = op.inputs()
        expected = Interpreter(op_file(op)).predict(x)
        content = op_file(op)
        for model in (
            path,
            str(path),
            bytearray(content),
            memoryview(content),
            memoryview(content * 2)[: len(content)],
        ):
            np.testing.assert_array_equal(Interpreter(model).predict(x), expected)

    @pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8])
    def test_converts_numbers(self, dtype):
        interpreter = Interpreter(op_file(Op(k=16)))
        x = np.arange(240).reshape(1, 6, 5, 8) % 7
        np.testing.assert_array_equal(interpreter.predict(x.astype(dtype)), interpreter.predict(x.astype(np.float32)))

    def test_results_are_copies(self):
        interpreter = Interpreter(op_file(Op(k=16)))
        (x,) = Op().inputs()
        first = interpreter.predict(x)
        before = first.copy()
        interpreter.predict(x * 0)
        np.testing.assert_array_equal(first, before)

    @pytest.mark.parametrize("use_delegate", [True, False])
    def test_model_without_fbs(self, use_delegate):
        interpreter = Interpreter(add_file(outputs=2), use_delegate=use_delegate)
        a, b = np.arange(12.0).reshape(4, 3), np.ones((4, 3))
        for result in interpreter.predict([a, b]):
            np.testing.assert_array_equal(result, a + b)
        assert interpreter.partitions[:2] == (0, 0)

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (np.zeros((6, 5, 8)), r"expected an input of shape \[examples, 6, 5, 8\], got \[6, 5, 8\]"),
            (np.zeros((1, 6, 5, 7)), r"expected an input of shape \[examples, 6, 5, 8\], got \[1, 6, 5, 7\]"),
            (np.zeros((1, 6, 5, 8), complex), "expected an input of float32, got complex128"),
            (np.full((1, 6, 5, 8), "a"), "expected an input of float32, got <U1"),
            ([np.zeros((1, 6, 5, 8))] * 2, "the model has 1 inputs, got 2"),
            ([], "the model has 1 inputs, got 0"),
        ],
    )
    def test_bad_input(self, x, message):
        with pytest.raises(ValueError, match=message):
            Interpreter(op_file(Op())).predict(x)

    def test_bad_inputs(self):
        interpreter = Interpreter(add_file(schema.TensorType.INT32))
        for value in (2**31, -(2**31) - 1, 2**40):  # which int32 would take for other numbers
            with pytest.raises(ValueError, match="expected an input of int32, got int64 with values outside its range"):
                interpreter.predict([np.full((2, 3), value), np.zeros((2, 3), int)])
        with pytest.raises(ValueError, match="expected an input of int32, got float64"):
            interpreter.predict([np.zeros((2, 3)), np.zeros((2, 3), int)])
        with pytest.raises(ValueError, match=r"all inputs must hold as many examples, got \[2, 4\]"):
            interpreter.predict([np.zeros((2, 3), int), np.zeros((4, 3), int)])
        with pytest.raises(ValueError, match="share their first dimension"):
            Interpreter(add_file(shapes=((2, 3), (1, 3)))).predict([np.zeros((2, 3)), np.zeros((2, 3))])

    def test_index_out_of_range(self):
        op = Op(active=4)
        interpreter = Interpreter(op_file(op))
        with pytest.raises(RuntimeError, match=r"in_indices holds a value outside \[0, 8\)"):
            interpreter.predict([np.zeros(op.x_shape), np.full((1, 4), 8)])

    def test_threads(self):
        """Each call gets its own result, whoever else calls."""
        op = Op(k=16, batch=2)
        interpreter = Interpreter(op_file(op), num_threads=2)
        x = np.random.default_rng(0).normal(size=(16, *op.x_shape[1:])).astype(np.float32)
        expected = interpreter.predict(x)

        def work(number):
            for _ in range(50):
                np.testing.assert_array_equal(
                    interpreter.predict(x[number : number + 5]), expected[number : number + 5]
                )
                assert interpreter.partitions.claimed == 1

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))

    def test_several_signatures(self):
        interpreter = Interpreter(signatures_file("first", "second"))
        with pytest.raises(ValueError, match="a file of one signature, got 'first', 'second'"):
            interpreter.predict([np.zeros((2, 3))] * 2)
        np.testing.assert_array_equal(
            Interpreter(signatures_file("only")).predict([np.ones((4, 3))] * 2), np.full((4, 3), 2)
        )

    def test_open_sizes(self):
        writer = Writer([Op()])
        writer.graph.tensors[writer.graph.inputs[0]].shapeSignature = [1, -1, -1, 8]
        interpreter = Interpreter(writer.pack())
        op = Op(height=9, width=7)
        (x,) = op.inputs()
        with pytest.raises(ValueError, match=r"the file leaves sizes open, \[1, -1, -1, 8\]: choose them with"):
            interpreter.predict(x)
        interpreter.litert.resize_tensor_input(interpreter.litert.get_input_details()[0]["index"], op.x_shape)
        interpreter.litert.allocate_tensors()
        np.testing.assert_allclose(interpreter.predict(x)[0], op.reference(x)[0], atol=1e-4)


class TestModel:
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            ("nothing.tflite", r"there is no file 'nothing\.tflite'"),
            (os.curdir, r"there is no file '\.'"),
            (__file__, "model must be a TFLite model, which '.*test_runtime.py' is not"),
            (b"", "model must be a TFLite model, which 0 bytes is not"),
            (b"PK\3\4TFL4" + bytes(100), "model must be a TFLite model, which 108 bytes is not"),
            (b"\0\0\0\0TFL3" + bytes(100), "LiteRT cannot run this model"),
            (op_file(Op())[:3000], "LiteRT cannot run this model"),
            (bytearray(10), "model must be a TFLite model, which 10 bytes is not"),
            (None, "model must be the path of a .tflite file or its bytes, got NoneType"),
            (3, "model must be the path of a .tflite file or its bytes, got int"),
        ],
    )
    def test_no_model(self, model, message):
        with pytest.raises(ValueError, match=message):
            Interpreter(model)

    @pytest.mark.parametrize("count", [0, -1, 1.0, "2", True, None, 4097, 2**31, 2**64])
    def test_num_threads(self, count):
        with pytest.raises(ValueError, match="num_threads must be an integer from 1 to 4096, got"):
            Interpreter(op_file(Op()), num_threads=count)

    def test_more_threads_than_cores(self, capfd):
        Interpreter(op_file(Op()), num_threads=4096, delegate_options={"verbose": 1})
        (count,) = re.findall(r"(\d+) thread\(s\)", capfd.readouterr().err)
        assert 1 <= int(count) <= runtime.usable_cores()

    def test_custom_op_without_delegate(self):
        with pytest.raises(ValueError, match="use the delegate, or convert with target='portable'"):
            Interpreter(op_file(Op()), use_delegate=False)

    def test_refused_by_the_delegate(self):
        with pytest.raises(
            ValueError, match=r"LiteRT cannot run this model: FbsConv2D 'conv0': k must be in \[1, 16\]"
        ):
            Interpreter(op_file(Op(k=17)))

    def test_options(self):
        Interpreter(op_file(Op()), delegate_options={"path": "reference"})
        with pytest.raises(ValueError, match="option 'speed' is unknown"):
            Interpreter(op_file(Op()), delegate_options={"speed": "high"})
        with pytest.raises(ValueError, match="delegate_options have no effect with use_delegate=False"):
            Interpreter(op_file(Op()), use_delegate=False, delegate_options={"path": "reference"})
        with pytest.raises(ValueError, match="delegate_options must be a dict, got list"):
            Interpreter(op_file(Op()), delegate_options=["path"])
        with pytest.raises(ValueError, match="delegate_options must hold no zero bytes, got 'path'"):
            Interpreter(op_file(Op()), delegate_options={"path": "auto\0x"})
        with pytest.raises(ValueError, match="option 'speed' is unknown"):  # what fallback does not forgive
            Interpreter(op_file(Op()), delegate_options={"speed": "high"}, fallback=True)

    @pytest.mark.parametrize("form", ["custom", "composite"])
    def test_partitions(self, form):
        ops = Op(), Op(in_channels=16, active=8, filters=12, k=5)
        assert Interpreter(op_file(*ops, form=form)).partitions == Partitions(fbs_ops=2, claimed=2, others=0)

    def test_delegate_lives_as_long_as_the_interpreter(self):
        """Many interpreters, made and dropped in any order."""
        op = Op(k=16)
        (x,) = op.inputs()
        expected = op.reference(x)[0]
        interpreters = [Interpreter(op_file(op), num_threads=2) for _ in range(10)]
        while interpreters:
            np.testing.assert_allclose(interpreters[0].predict(x), expected, atol=1e-4)
            del interpreters[len(interpreters) // 2]


class TestFallback:
    """What the delegate does not run is no secret."""

    @pytest.fixture(scope="class")
    def portable(self):
        return portable_file()

    DROPPED = r"the FBS delegate runs 0 of the file's \d+ FBS ops: LiteRT has dropped it"

    def test_dropped(self, portable, fail_at):
        fail_at(1)
        with pytest.raises(RuntimeError, match=self.DROPPED):
            Interpreter(portable)

    def test_dropped_and_allowed(self, portable, fail_at):
        x = np.random.default_rng(0).normal(size=(1, 10, 11, 3)).astype(np.float32)
        expected = Interpreter(portable).predict(x)
        fail_at(1)
        with pytest.warns(DelegateWarning, match=self.DROPPED):
            interpreter = Interpreter(portable, fallback=True)
        np.testing.assert_allclose(interpreter.predict(x), expected, atol=1e-4)
        assert interpreter.partitions.claimed == 0

    @pytest.mark.parametrize("fallback", [False, True])
    def test_dropped_later(self, portable, fail_at, fallback):
        """As after a resize."""
        fail_at(2)
        interpreter = Interpreter(portable, fallback=fallback)
        assert interpreter.partitions.claimed == interpreter.partitions.fbs_ops > 0
        expectation = pytest.warns(DelegateWarning, match=self.DROPPED)
        with expectation if fallback else pytest.raises(RuntimeError, match=self.DROPPED):
            interpreter.litert.allocate_tensors()

    def test_refused(self, portable):
        """An op that the delegate refuses, in a file that runs without."""
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(portable, 0))
        op = next(op for op in model.subgraphs[0].operators if op.builtinOptions2 is not None)
        op.builtinOptions2.compositeAttributes = np.zeros(8, np.uint8)
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        content = bytes(builder.Output())
        with pytest.raises(ValueError, match="LiteRT cannot run this model: Fbs"):
            Interpreter(content)
        with pytest.warns(DelegateWarning, match="the file runs without the FBS delegate: LiteRT cannot run this"):
            interpreter = Interpreter(content, fallback=True)
        x = np.random.default_rng(0).normal(size=(1, 10, 11, 3)).astype(np.float32)
        np.testing.assert_allclose(interpreter.predict(x), Interpreter(portable).predict(x), atol=1e-4)

    def test_refused_without_a_way_back(self):
        with pytest.raises(ValueError, match=r"FbsConv2D 'conv0': k must be in \[1, 16\]"):
            Interpreter(op_file(Op(k=17)), fallback=True)

    def test_composites_of_others(self):
        """They are none of the delegate's, and no reason for an error."""
        writer = Writer([Op()], "composite")
        assert len(runtime.fbs_composites(writer.pack())) == 1
        writer.nodes[0].builtinOptions2.name = "odml.scaled"
        assert runtime.fbs_composites(writer.pack()) == set()

    def test_exported_to_builtin_ops(self):
        content = portable_file(target="builtin")
        with pytest.warns(DelegateWarning, match=r"holds nothing for the FBS delegate, .* fbs_keras\.convert\(model\)"):
            Interpreter(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Interpreter(content, use_delegate=False)
            Interpreter(add_file())
