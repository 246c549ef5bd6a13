"""Times every convolution of the usual networks by itself, at several densities, against XNNPACK's."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from fbs_keras.benchmarks.measurement import aligned, interleave, plan_runs, profile
from fbs_keras.benchmarks.suites.shapes import Shape
from fbs_keras.compact.ops.conv2d import op_of
from fbs_keras.layers.densities import set_density
from fbs_keras.layers.fbs_conv2d import FBSConv2D
from fbs_keras.layers.gating import active_channels, check_density
from fbs_keras.runtime import Interpreter

DENSITIES = (0.25, 0.5, 0.75, 1.0)
METHODS = ("auto", "direct")
INT8_METHODS = ("auto",)  # there is no Winograd's algorithm for int8


@dataclasses.dataclass(frozen=True)
class MethodTime:
    """How long one method of the delegate took for a convolution.

    Attributes:
        method: The method that was asked for.
        kernel: What ran, as the delegate's profile calls it.
        ms: Median of its runs.
        r: `(dense XNNPACK time / this time) / (dense MACs / FBS MACs)`.
        r_own: `(this method's time at density 1 / this time) / (dense MACs / FBS MACs)`.
        of_static: Share of the speed of a plain convolution with as many channels, in XNNPACK.
    """

    method: str
    kernel: str
    ms: float
    r: float
    r_own: float
    of_static: float


@dataclasses.dataclass(frozen=True)
class KernelRow:
    """A convolution at one density.

    Attributes:
        shape: The shape's name.
        networks: The networks that have it.
        density: Of its input's and its output's channels; an image's three channels are always all there.
        active_in, active_out: The active channels.
        dense_macs, fbs_macs: MACs of the convolution with all channels and with the active ones.
        dense_ms, static_ms: Median times of a plain convolution in XNNPACK, with all channels and with so many.
        methods: A `MethodTime` for each method.
    """

    shape: str
    networks: tuple[str, ...]
    density: float
    active_in: int
    active_out: int
    dense_macs: int
    fbs_macs: int
    dense_ms: float
    static_ms: float
    methods: list[MethodTime]

    @property
    def mac_ratio(self) -> float:
        """How many times fewer MACs the active channels need."""
        return self.dense_macs / self.fbs_macs


def method_options(method: str, path: str = "auto") -> dict[str, Any]:
    """The delegate's options for `"auto"`, `"direct"` (the best method but Winograd's), or a method that it names."""
    chosen: dict[str, dict[str, Any]] = {"auto": {}, "direct": {"winograd": 0}}
    return {"path": path, **chosen.get(method, {"method": method})}


def measure(
    shapes: Sequence[Shape],
    densities: Sequence[float] = DENSITIES,
    methods: Sequence[str] | None = None,
    path: str = "auto",
    threads: int = 1,
    seconds: float = 0.15,
    progress: bool = False,
    quantize: str | None = None,
) -> list[KernelRow]:
    """Times convolutions: all densities and methods of a shape in turns, in one process.

    Args:
        shapes: What to time, as from `shapes.shapes`.
        densities: Each in (0, 1]; 1 is measured in any case.
        methods: Methods of the delegate, `"auto"`, `"direct"`, `"gemm"`, `"winograd4"` and so on. Defaults to `"auto"`
            and, but for int8, `"direct"`.
        path: The delegate's option: which instruction set to use. Defaults to the best.
        threads: Threads of each. Defaults to 1.
        seconds: The average time to spend on each of a shape's candidates. Defaults to 0.15.
        progress: Whether to show a progress bar. Defaults to `False`.
        quantize: How all weights are stored, XNNPACK's too; see `fbs_keras.convert`. Defaults to `None`, float32.

    Returns:
        A `KernelRow` for each shape and density.
    """
    rows = []
    methods = methods or (INT8_METHODS if quantize == "dynamic_int8" else METHODS)
    densities = sorted({*map(check_density, densities), 1.0})
    for shape in tqdm(shapes, desc="convolutions", unit="shape", disable=not progress):
        rows += _measure(shape, densities, methods, path, threads, seconds, quantize)
    return rows


def _measure(shape, densities, methods, path, threads, seconds, quantize):
    layer = make_layer(shape)
    files = {density: convolutions(layer, shape, density, quantize) for density in densities}
    interpreters, kernels = {}, {}
    for density, (fbs, static) in files.items():
        interpreters[f"static {density}"] = Interpreter(static, threads, use_delegate=False)
        for method in methods:
            options, name = method_options(method, path), f"{method} {density}"
            interpreters[name] = Interpreter(fbs, threads, delegate_options=options)
            kernels[name] = profile(fbs, threads, 1, options, partial(feed, shape=shape))[0]["kernel"]
    for interpreter in interpreters.values():
        feed(interpreter, shape)
    functions = {name: interpreter.litert.invoke for name, interpreter in interpreters.items()}
    runs, block = plan_runs(functions, seconds)
    times = interleave(functions, runs, block=block)
    ms = {name: float(np.median(values)) * 1e3 for name, values in times.items()}
    return [_row(shape, density, methods, ms, kernels) for density in densities]


def _row(shape, density, methods, ms, kernels):
    active_in, active_out = active(shape, density)
    dense_macs, fbs_macs = macs(shape, shape.channels, shape.filters), macs(shape, active_in, active_out)
    dense_ms, static_ms = ms[f"static {1.0}"], ms[f"static {density}"]
    results = []
    for method in methods:
        ours = ms[f"{method} {density}"]
        results.append(
            MethodTime(
                method=method,
                kernel=kernels[f"{method} {density}"],
                ms=ours,
                r=dense_ms / ours * fbs_macs / dense_macs,
                r_own=ms[f"{method} {1.0}"] / ours * fbs_macs / dense_macs,
                of_static=static_ms / ours,
            )
        )
    return KernelRow(
        shape=shape.name,
        networks=shape.networks,
        density=density,
        active_in=active_in,
        active_out=active_out,
        dense_macs=dense_macs,
        fbs_macs=fbs_macs,
        dense_ms=dense_ms,
        static_ms=static_ms,
        methods=results,
    )


def active(shape: Shape, density: float) -> tuple[int, int]:
    """The active input and output channels of a convolution at a density; those of an image are all active."""
    active_in = shape.channels if shape.channels <= 3 else active_channels(density, shape.channels)
    return active_in, active_channels(density, shape.filters)


def macs(shape: Shape, channels: int, filters: int) -> int:
    """MACs of a convolution with so many input and output channels."""
    outputs = -(-shape.size // shape.stride)
    if shape.padding == "valid":
        outputs = (shape.size - shape.kernel) // shape.stride + 1
    return shape.kernel**2 * outputs**2 * channels * filters


def make_layer(shape: Shape, seed: int = 0) -> FBSConv2D:
    """An FBS layer of a shape, whose random gates choose channels from anywhere."""
    initializers = keras.initializers
    layer = FBSConv2D(
        shape.filters,
        shape.kernel,
        strides=shape.stride,
        padding=shape.padding,
        kernel_initializer=initializers.HeNormal(seed=seed),
        gate_kernel_initializer=initializers.RandomNormal(stddev=0.5 * shape.channels**-0.5, seed=seed),
        gate_bias_initializer=initializers.RandomUniform(0.5, 1.5, seed=seed),
    )
    layer.build((1, shape.size, shape.size, shape.channels))
    return layer


def convolutions(layer: FBSConv2D, shape: Shape, density: float, quantize: str | None = None) -> tuple[bytes, bytes]:
    """Files of one convolution: what `convert` writes for a layer amid FBS layers, without the others.

    Args:
        layer: From `make_layer`.
        shape: Its shape.
        density: Its density, and that of its input.
        quantize: How the weights of both are stored. Defaults to `None`, float32.

    Returns:
        `(fbs, static)`: the FBS op, whose inputs are `x` and, where x is compact, `in_indices`; and a plain convolution
        of as many channels as are active, which at density 1 is the dense one.
    """
    import tensorflow as tf

    from fbs_keras.export import composite, converter, tracing

    set_density(layer, density)
    active_in, _ = active(shape, density)
    compact = active_in < shape.channels
    op = op_of(layer, compact, quantize)
    specs = [
        tf.TensorSpec((1, shape.size, shape.size, active_in), tf.float32, "x"),
        *([tf.TensorSpec((1, active_in), tf.int32, "in_indices")] if compact else []),
    ]

    def convert(tracer, specs):
        def function(x, *in_indices):
            x = tracing.Compact(x, in_indices[0] if in_indices else None, shape.channels) if compact else x
            y = tracer.fbs(layer, op, x, layer.name)
            outputs = [y.values, y.indices] if isinstance(y, tracing.Compact) else [y]
            return [output for output in outputs if output is not None]

        traced = tf.function(function, input_signature=specs, autograph=False).get_concrete_function()
        return composite.restore_ops(converter.to_tflite(traced, quantize=quantize), tracer.names)

    return convert(tracing.Tracer(quantize), specs), convert(tracing.PlainTracer(static=True), specs[:1])


def feed(interpreter: Interpreter, shape: Shape) -> None:
    """Gives a file of one convolution random pixels, and a random choice of channels where it asks for one."""
    random = np.random.default_rng(0)
    for details in interpreter.litert.get_input_details():
        size, dtype = details["shape"], details["dtype"]
        chosen = dtype == np.int32
        value = np.sort(random.permutation(shape.channels)[: size[1]])[None] if chosen else random.normal(size=size)
        interpreter.litert.set_tensor(details["index"], value.astype(dtype))


def table(rows: Sequence[KernelRow]) -> str:
    """The rows as text, and below them the geometric means of each method by density."""
    methods = [result.method for result in rows[0].methods]
    head = ["convolution", "density", "M MACs", "fewer", "dense ms", "static ms"]
    for method in methods:
        head += [f"{method} ms", "R", "R own", "of static"]
    lines = [head]
    for row in rows:
        line = [row.shape, f"{row.density:g}", f"{row.fbs_macs / 1e6:.2f}", f"{row.mac_ratio:.2f}x"]
        line += [f"{row.dense_ms:.3f}", f"{row.static_ms:.3f}"]
        for result in row.methods:
            line += [f"{result.ms:.3f}", *_ratios([result])]
        lines.append(line)
    for density in sorted({row.density for row in rows}):
        same = [row for row in rows if row.density == density]
        line = [f"geometric mean of {len(same)}", f"{density:g}", "", "", "", ""]
        for i in range(len(methods)):
            line += ["", *_ratios([row.methods[i] for row in same])]
        lines.append(line)
    return aligned(lines, left=1)


def _ratios(results):
    """R, R own and the share of static speed: their geometric means over results."""
    columns = [[result.r for result in results], [result.r_own for result in results]]
    r, r_own = (np.exp(np.mean(np.log(column))) for column in columns)
    share = np.exp(np.mean(np.log([result.of_static for result in results])))
    return [f"{r:.2f}", f"{r_own:.2f}", f"{share:.0%}"]
