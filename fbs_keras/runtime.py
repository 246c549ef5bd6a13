"""Runs exported files in LiteRT, with the FBS delegate loaded."""

import os
import platform as host
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fbs_keras.compact.ops import OPS

# Of portable files; custom ones hold `OPS` by their names.
FBS_COMPOSITE = b"fbs."

# Of what a gate consists where an FBS model was exported to built-in ops alone: the mean of |x|, and who wins.
BUILTIN_GATE = {"ABS", "MEAN", "TOPK_V2"}

MOST_THREADS = 4096


class DelegateWarning(UserWarning):
    """A file runs without the FBS delegate, or it holds nothing for it, and so it is slow."""


def platform_name() -> str:
    """This machine in the names that `delegate_path` takes, such as "linux-x86_64"."""
    system = {"Darwin": "macos"}.get(host.system(), host.system().lower())
    machine = {"AMD64": "x86_64"}.get(host.machine(), host.machine())
    return f"{system}-{machine}"


def delegate_path(platform: str | None = None) -> str:
    """The path of the LiteRT external delegate that runs FBS convolutions fast.

    `Interpreter` loads it by itself. The path is for other programs: `ai_edge_litert.interpreter.load_delegate(path)`,
    `benchmark_model --external_delegate_path=...`, or the C and C++ interfaces' external delegate.

    Args:
        platform: Which build, such as `"linux-x86_64"`, `"linux-aarch64"`, `"macos-arm64"` or `"android-arm64"`.
            Defaults to this machine's.

    Returns:
        The path, which exists.

    Raises:
        FileNotFoundError: If there is no build for the platform.

    Example:

    >>> from ai_edge_litert.interpreter import Interpreter, load_delegate
    >>> delegate = load_delegate(fbs_keras.delegate_path(), options={"verbose": 1})
    >>> interpreter = Interpreter("model.tflite", experimental_delegates=[delegate])
    """
    name = platform_name() if platform is None else platform
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")
    path = os.path.join(folder, name, "libfbs_delegate.so")
    if os.path.isfile(path):
        return path
    builds = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    remedies = {
        "android-arm64": "It is in the wheels, and built from source by: make android (with clang and lld, or an NDK)",
        "linux-aarch64": "It is in the wheel for that platform, and built from source by: make linux-aarch64",
    }
    remedy = (
        "It is compiled when fbs_keras is installed from source on that platform with a C compiler present: "
        "pip install <its folder>"
    )
    raise FileNotFoundError(
        f"no delegate for {name!r} at {path}; the builds there are {', '.join(builds) or 'none'}. "
        f"{remedies.get(name, remedy) if name != platform_name() else remedy}"
    )


class Partitions(NamedTuple):
    """How the runtime has divided a graph.

    Attributes:
        fbs_ops: FBS ops in the file: convolutions, and sums of compact tensors.
        claimed: How many of them the FBS delegate runs; it is all of them or, without the delegate, none.
        others: Parts of the rest that another delegate, such as XNNPACK, runs.
    """

    fbs_ops: int
    claimed: int
    others: int


class Interpreter:
    """Runs an exported `.tflite` file on NumPy arrays.

    It is `ai_edge_litert.interpreter.Interpreter`, the stock LiteRT runtime, with the FBS delegate loaded and a
    Keras-like `predict`. XNNPACK runs whatever the delegate does not, as always in LiteRT.

    Args:
        model: The path of a `.tflite` file, or its content as `bytes`, a `bytearray` or a `memoryview`.
        num_threads: Threads for each of the delegate and XNNPACK, from 1 to 4096; no more are used than this process
            has cores. Defaults to 1.
        use_delegate: Whether to load the delegate. A portable file also runs without, slower; a file converted with
            `target="custom"` does not. Defaults to `True`, which warns (`DelegateWarning`) where a file seems to hold
            an FBS model in built-in ops alone, of which the delegate can run none.
        delegate_options: A dict of the delegate's options. Defaults to none.
            `"path"`: which kernels to use, `"auto"` (default, the fastest of this CPU), `"reference"`, `"plain"`,
            `"avx2"`, `"avx512"` or `"neon"`. The environment variable `FBS_PATH` gives another default.
            `"method"`: how to convolve, `"auto"` (default, what measured fastest for each shape), or, where it can
            compute the shape, `"gemm"`, `"inplace"`, `"grouped"`, `"winograd2"` or `"winograd4"`. The environment
            variable `FBS_METHOD` gives another default.
            `"winograd"`: the largest Winograd tile that `"auto"` may choose, 4 (default), 2, which rounds no worse than
            the direct methods, or 0, none.
            `"verbose"`: 1 prints what runs how to stderr. Defaults to 0.
            `"profile"`: a file that gets the times of each op when the interpreter is deleted, `"-"` for stderr.
        fallback: Whether a portable file may run without the delegate where that cannot run its ops, slower and with
            a `DelegateWarning`, instead of an error. Defaults to `False`.

    Raises:
        ValueError: If `model` is no TFLite model or one that cannot be run, or an argument is out of range; the message
            says which.
        RuntimeError: If LiteRT has dropped the delegate, as it does when XNNPACK fails after it.
        FileNotFoundError: If the delegate was not built (see `delegate_path`).

    Several threads may call `predict` at the same time: it runs them one after another.

    `interpreter.litert` is LiteRT's own interpreter, for all that goes beyond `predict`. To run another size, resize
    its inputs and allocate its tensors; then, too, an error says if the delegate does not run every FBS op.

    Example:

    >>> interpreter = fbs_keras.Interpreter("model.tflite", num_threads=2)
    >>> probabilities = interpreter.predict(images)  # float32 [N, 32, 32, 3]
    """

    def __init__(
        self,
        model: str | os.PathLike | bytes | bytearray | memoryview,
        num_threads: int = 1,
        use_delegate: bool = True,
        delegate_options: Mapping[str, Any] | None = None,
        fallback: bool = False,
    ):
        from ai_edge_litert import interpreter as litert

        check_threads(num_threads)
        if isinstance(model, (bytearray, memoryview)):
            model = bytes(model)
        source = {"model_path": model} if is_path(model) else {"model_content": model}
        arguments = {**source, "num_threads": min(num_threads, usable_cores())}
        options = checked_options(delegate_options, use_delegate)
        # The runtime does not own its delegates: self.litert keeps this one alive, and drops it after the graph.
        delegates = [litert.load_delegate(delegate_path(), options)] if use_delegate else []
        self._use_delegate, self._fallback = use_delegate, fallback
        self._lock = threading.RLock()  # guards self.litert, which several threads cannot use at the same time
        try:
            self.litert = open_model(delegates, arguments)
        except ValueError as refused:
            if not (use_delegate and fallback):
                raise
            self._use_delegate = False
            try:
                self.litert = open_model([], arguments)
            except ValueError:
                raise refused from None  # a file that runs with the delegate only: what that says of it
            warnings.warn(f"the file runs without the FBS delegate: {refused}", DelegateWarning, stacklevel=2)
        self._composites = fbs_composites(model)
        self._allocated()
        allocated = weakref.WeakMethod(self._allocated)  # weak: a cycle would keep both until a garbage collection
        self.litert.allocated = lambda: (call := allocated()) and call()

    def _allocated(self):
        """Reads the shapes, and tells whether the delegate runs what is there for it."""
        with self._lock:
            self._inputs = self.litert.get_input_details()
            self._outputs = self.litert.get_output_details()
            self._signatures = list(self.litert.get_signature_list())
        if not self._use_delegate:
            return
        fbs_ops, claimed, _ = self.partitions
        if claimed < fbs_ops:
            message = (
                f"the FBS delegate runs {claimed} of the file's {fbs_ops} FBS ops: LiteRT has dropped it, as it does "
                "with all delegates when one of them, such as XNNPACK, fails; stderr says why"
            )
            if not self._fallback:
                raise RuntimeError(f"{message}. Pass fallback=True to run the file all the same, slower")
            warnings.warn(message, DelegateWarning, stacklevel=3)
        elif fbs_ops == 0 and {node["op_name"] for node in self._nodes()} >= BUILTIN_GATE:
            warnings.warn(
                "the file holds nothing for the FBS delegate, and yet gates such as an FBS model's: exported to "
                "built-in ops, it is slower than a dense model. Export it with fbs_keras.convert(model), or pass "
                "use_delegate=False if that is what you want",
                DelegateWarning,
                stacklevel=3,
            )

    def predict(self, x: Any) -> Any:
        """Computes the model's outputs, one batch after another.

        A file has a fixed batch size N. Examples are run N at a time, the last batch filled up with zeros, so any
        number will do.

        Args:
            x: An array of shape `[examples, ...]`, or a list of arrays for a model of several inputs. Other number
                types than the model's are converted where that keeps their meaning (float64 or integers to float32, not
                floats to integers).

        Returns:
            An array of shape `[examples, ...]`, or a list of arrays for a model of several outputs.

        Raises:
            ValueError: If the arrays do not fit the model's inputs, or the file holds several signatures, of which
                `interpreter.litert.get_signature_runner(name)` runs any.
        """
        with self._lock:
            return self._predict(x)

    def _predict(self, x):
        self._check_signatures()
        arrays = [self._checked(array, details) for array, details in zip(self._listed(x), self._inputs, strict=True)]
        examples = {len(array) for array in arrays}
        if len(examples) != 1:
            raise ValueError(f"all inputs must hold as many examples, got {[len(array) for array in arrays]}")
        (count,) = examples
        batch = self._batch_size()
        outputs: list[list[np.ndarray]] = [[] for _ in self._outputs]
        for start in range(0, max(count, 1), batch):
            for array, details in zip(arrays, self._inputs, strict=True):
                piece = array[start : start + batch]
                missing = batch - len(piece)
                if missing:
                    piece = np.concatenate([piece, np.zeros((missing, *piece.shape[1:]), piece.dtype)])
                self.litert.set_tensor(details["index"], piece)
            self.litert.invoke()
            for pieces, details in zip(outputs, self._outputs, strict=True):
                piece = self.litert.get_tensor(details["index"])
                if len(piece) != batch:
                    raise ValueError(
                        f"predict needs outputs whose first dimension is the batch, {batch}; {details['name']!r} came "
                        f"out in the shape {list(piece.shape)}. Use interpreter.litert for this file"
                    )
                pieces.append(piece[: count - start])
        results = [np.concatenate(pieces) for pieces in outputs]
        return results if len(results) > 1 else results[0]

    @property
    def partitions(self) -> Partitions:
        """How the runtime has divided the graph (`Partitions`)."""
        # The list holds the file's nodes and, after them, those that delegates put in their place: ours one for each
        # op.
        nodes = self._nodes()
        ops = {tuple(node["outputs"]) for node in nodes if node["op_name"] in OPS} | self._composites
        delegated = [tuple(node["outputs"]) for node in nodes if node["op_name"] == "DELEGATE"]
        claimed = sum(outputs in ops for outputs in delegated)
        return Partitions(len(ops), claimed, len(delegated) - claimed)

    def _nodes(self):
        with self._lock:
            return self.litert._get_ops_details()

    def _check_signatures(self):
        if len(self._signatures) > 1:
            raise ValueError(
                f"predict runs a file of one signature, got {', '.join(map(repr, self._signatures))}; "
                "interpreter.litert.get_signature_runner(name) runs any of them"
            )

    def _listed(self, x: Any) -> Sequence[Any]:
        arrays = x if isinstance(x, (list, tuple)) else [x]
        if len(arrays) != len(self._inputs):
            raise ValueError(f"the model has {len(self._inputs)} inputs, got {len(arrays)}")
        return arrays

    def _batch_size(self) -> int:
        shapes = [tuple(details["shape"]) for details in (*self._inputs, *self._outputs)]
        sizes = {int(shape[0]) if shape else 0 for shape in shapes}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"predict needs inputs and outputs that share their first dimension, the batch, got shapes {shapes}"
            )
        return sizes.pop()

    @staticmethod
    def _checked(x: Any, details: Mapping[str, Any]) -> np.ndarray:
        array = np.asarray(x)
        shape, dtype = tuple(int(size) for size in details["shape"]), np.dtype(details["dtype"])
        if array.ndim != len(shape) or array.shape[1:] != shape[1:]:
            wanted = ", ".join(["examples", *map(str, shape[1:])])
            remedy, signature = "", [int(size) for size in details["shape_signature"]]
            if -1 in signature[1:]:
                remedy = (
                    f"; the file leaves sizes open, {signature}: choose them with interpreter.litert."
                    f"resize_tensor_input({details['index']}, shape) and interpreter.litert.allocate_tensors()"
                )
            raise ValueError(f"expected an input of shape [{wanted}], got {list(array.shape)}{remedy}")
        if array.dtype != dtype and not (array.dtype.kind in "fiu" and np.can_cast(array.dtype, dtype, "same_kind")):
            raise ValueError(f"expected an input of {dtype}, got {array.dtype}")
        converted = np.ascontiguousarray(array, dtype)
        if array.dtype.kind in "iu" and dtype.kind in "iu" and not np.array_equal(converted, array):
            raise ValueError(f"expected an input of {dtype}, got {array.dtype} with values outside its range")
        return converted


def open_model(delegates: Sequence[Any], arguments: Mapping[str, Any]) -> Any:
    """A LiteRT interpreter with its tensors allocated, which calls its `allocated` when they are so again."""
    from ai_edge_litert import interpreter as litert

    class Watched(litert.Interpreter):
        allocated: Callable[[], Any] | None = None

        def allocate_tensors(self):
            super().allocate_tensors()
            if self.allocated is not None:
                self.allocated()

    try:
        interpreter = Watched(**arguments, experimental_delegates=delegates)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        remedy = ""
        if "op: Fbs" in str(error) and not delegates:
            remedy = " The file holds FBS custom ops: use the delegate, or convert with target='portable'."
        raise ValueError(f"LiteRT cannot run this model: {error}{remedy}") from error
    return interpreter


def fbs_composites(model: Any) -> set[tuple[int, ...]]:
    """The outputs of each composite of ours in a file that LiteRT has accepted; others make composites, too."""
    from ai_edge_litert import schema_py_generated as schema

    if not isinstance(model, bytes):
        with open(model, "rb") as file:
            return fbs_composites(file.read())
    graph = schema.Model.GetRootAs(model, 0).Subgraphs(0)
    found = set()
    for number in range(graph.OperatorsLength()):
        op = graph.Operators(number)
        if op.BuiltinOptions2Type() == schema.BuiltinOptions2.StableHLOCompositeOptions:
            options, table = schema.StableHLOCompositeOptions(), op.BuiltinOptions2()
            options.Init(table.Bytes, table.Pos)
            if (options.Name() or b"").startswith(FBS_COMPOSITE):
                found.add(tuple(op.OutputsAsNumpy().tolist()))
    return found


def usable_cores() -> int:
    """The cores that this process may use; fewer than the machine's, perhaps."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(num_threads: Any) -> None:
    """Raises ValueError unless it is a number of threads."""
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or not 1 <= num_threads <= MOST_THREADS:
        raise ValueError(f"num_threads must be an integer from 1 to {MOST_THREADS}, got {num_threads!r}")


def checked_options(delegate_options: Any, use_delegate: bool) -> dict[str, str]:
    """The delegate's options as text, as it takes them and checks their values."""
    if delegate_options is None:
        return {}
    if not isinstance(delegate_options, Mapping):
        raise ValueError(f"delegate_options must be a dict, got {type(delegate_options).__name__}")
    if not use_delegate:
        raise ValueError("delegate_options have no effect with use_delegate=False")
    options = {str(name): str(value) for name, value in delegate_options.items()}
    for name, value in options.items():
        if "\0" in name + value:  # where the delegate would take it to end
            raise ValueError(f"delegate_options must hold no zero bytes, got {name!r}: {value!r}")
    return options


def is_path(model: Any) -> bool:
    """False for a model's `bytes`; raises ValueError for what is neither a model nor the path of one."""
    if isinstance(model, bytes):
        what, head = f"{len(model)} bytes", model[:8]
    elif isinstance(model, (str, os.PathLike)):
        if not os.path.isfile(model):
            raise ValueError(
                f"model must be the path of a .tflite file or its bytes; there is no file {os.fspath(model)!r}"
            )
        with open(model, "rb") as file:
            what, head = repr(os.fspath(model)), file.read(8)
    else:
        raise ValueError(f"model must be the path of a .tflite file or its bytes, got {type(model).__name__}")
    if head[4:] != b"TFL3":
        raise ValueError(
            f"model must be a TFLite model, which {what} is not; a Keras model is converted by fbs_keras.convert()"
        )
    return not isinstance(model, bytes)
