"""Runs exported files in LiteRT, with the FBS delegate loaded."""

import os
import platform as host
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# How LiteRT names ours in custom and portable files.
FBS_OPS = ("FbsConv2D", "FbsConv2DInt8", "FbsDepthwiseConv2D", "FbsAdd", "STABLEHLO_COMPOSITE")


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
        model: The path of a `.tflite` file, or its bytes.
        num_threads: Threads for each of the delegate and XNNPACK. Defaults to 1.
        use_delegate: Whether to load the delegate. A portable file also runs without, slower; a file converted with
            `target="custom"` does not. Defaults to `True`.
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

    Raises:
        ValueError: If `model` is no TFLite model or one that cannot be run, or an argument is out of range; the message
            says which.
        FileNotFoundError: If the delegate was not built (see `delegate_path`).

    Example:

    >>> interpreter = fbs_keras.Interpreter("model.tflite", num_threads=2)
    >>> probabilities = interpreter.predict(images)  # float32 [N, 32, 32, 3]
    """

    def __init__(
        self,
        model: str | os.PathLike | bytes,
        num_threads: int = 1,
        use_delegate: bool = True,
        delegate_options: Mapping[str, Any] | None = None,
    ):
        from ai_edge_litert import interpreter as litert

        if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
            raise ValueError(f"num_threads must be an integer of at least 1, got {num_threads!r}")
        if delegate_options is not None and not use_delegate:
            raise ValueError("delegate_options have no effect with use_delegate=False")
        source = {"model_path": model} if is_path(model) else {"model_content": model}
        # The runtime does not own its delegates: self.litert keeps this one alive, and drops it after the graph.
        delegates = [litert.load_delegate(delegate_path(), dict(delegate_options or {}))] if use_delegate else []
        try:
            self.litert = litert.Interpreter(**source, num_threads=num_threads, experimental_delegates=delegates)
            self.litert.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            remedy = ""
            if "op: Fbs" in str(error) and not use_delegate:
                remedy = " The file holds FBS custom ops: use the delegate, or convert with target='portable'."
            raise ValueError(f"LiteRT cannot run this model: {error}{remedy}") from error
        self._inputs = self.litert.get_input_details()
        self._outputs = self.litert.get_output_details()

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
            ValueError: If the arrays do not fit the model's inputs.
        """
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
                pieces.append(self.litert.get_tensor(details["index"])[: count - start])
        results = [np.concatenate(pieces) for pieces in outputs]
        return results if len(results) > 1 else results[0]

    @property
    def partitions(self) -> Partitions:
        """How the runtime has divided the graph (`Partitions`)."""
        # The list holds the file's nodes and, after them, those that delegates put in their place: ours one for each
        # op.
        nodes = self.litert._get_ops_details()
        ops = {tuple(node["outputs"]) for node in nodes if node["op_name"] in FBS_OPS}
        delegated = [tuple(node["outputs"]) for node in nodes if node["op_name"] == "DELEGATE"]
        claimed = sum(outputs in ops for outputs in delegated)
        return Partitions(len(ops), claimed, len(delegated) - claimed)

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
            raise ValueError(f"expected an input of shape [{wanted}], got {list(array.shape)}")
        if array.dtype != dtype and not (array.dtype.kind in "fiu" and np.can_cast(array.dtype, dtype, "same_kind")):
            raise ValueError(f"expected an input of {dtype}, got {array.dtype}")
        return np.ascontiguousarray(array, dtype)


def is_path(model: Any) -> bool:
    """False for a model's bytes; raises ValueError for what is neither a model nor the path of one."""
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
