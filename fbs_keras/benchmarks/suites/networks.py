"""Times whole networks: dense, as narrow as the FBS one, and FBS with and without the delegate."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from fbs_keras import export, models
from fbs_keras.benchmarks import measurement
from fbs_keras.benchmarks.measurement import Candidate, aligned
from fbs_keras.benchmarks.suites import memory
from fbs_keras.benchmarks.suites.kernels import method_options
from fbs_keras.costs.macs import count_macs
from fbs_keras.export import converter
from fbs_keras.layers.densities import fbs_layers, set_density
from fbs_keras.runtime import delegate_path
from fbs_keras.wrapping import wrap


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to time.

    Attributes:
        name: What `--filter` calls it.
        title: What the table calls it.
        make: A function that makes its Keras model.
        density: The density to time it at.
        group_size: Winners are whole groups of this many channels, where the filters divide. Defaults to 1.
    """

    name: str
    title: str
    make: Callable[[], keras.Model]
    density: float
    group_size: int = 1


NETWORKS = (
    # Convolutions only: without the classifier's 124 M weights, which take as long dense as gated.
    Network("vgg16", "VGG-16 without top, 224x224", lambda: models.VGG16(include_top=False), 0.6),
    Network("resnet18", "ResNet-18, 224x224", models.ResNet18, 0.5),
    Network("resnet18_groups", "ResNet-18, 224x224, groups of 16", models.ResNet18, 0.5, group_size=16),
    Network("mcifarnet", "M-CifarNet, 32x32", models.MCifarNet, 0.5),
)

# Our candidates, and those with open gates whose time they are compared with. int8 has direct methods only.
OURS = {
    "FBS delegate": "density 1, delegate",
    "FBS delegate, direct": "density 1, delegate, direct",
}


@dataclasses.dataclass(frozen=True)
class NetworkRow:
    """A candidate's result.

    Attributes:
        timing: Its `measurement.Timing`; speed-ups are to the dense network in XNNPACK.
        mac_ratio: How many times fewer MACs than the dense network's it has, in all layers, without gates.
        mac_ratio_with_gates: The same with the gates' MACs.
        r: Speed-up over `mac_ratio`.
        r_own: The same, with our own time at density 1 for the dense network's; `None` for other rows than ours.
        memory: What it takes to run, a `memory.Memory`, or `None` where that is not known.
    """

    timing: measurement.Timing
    mac_ratio: float
    mac_ratio_with_gates: float
    r: float
    r_own: float | None
    memory: memory.Memory | None


@dataclasses.dataclass(frozen=True)
class NetworkResult:
    """All results of a network.

    Attributes:
        name, title, density: The network's.
        quantize: How the weights of all candidates are stored; see `fbs_keras.convert`.
        peak_dense, peak_fbs: Peak memory of the activations of one image in bytes, by `fbs_keras.count_macs`.
        rows: A `NetworkRow` for each candidate, the dense network first.
    """

    name: str
    title: str
    density: float
    peak_dense: int
    peak_fbs: int
    rows: list[NetworkRow]
    quantize: str | None = None


def networks(substring: str = "", known: Sequence[Network] = NETWORKS) -> list[Network]:
    """Lists the networks whose name contains `substring`; raises ValueError if there is none."""
    found = [network for network in known if substring in network.name]
    if not found:
        names = ", ".join(network.name for network in known)
        raise ValueError(f"no network is called {substring!r}; the networks are {names}")
    return found


def measure(
    network: Network,
    path: str = "auto",
    threads: int = 1,
    seconds: float = 2.0,
    progress: bool = False,
    quantize: str | None = None,
) -> NetworkResult:
    """Times a network of random weights: all candidates in turns, in one process.

    Args:
        network: What to time.
        path: The delegate's option: which instruction set to use. Defaults to the best.
        threads: Threads of each. Defaults to 1.
        seconds: The average time to spend on each candidate. Defaults to 2.
        progress: Whether to show a progress bar. Defaults to `False`.
        quantize: How the weights of all candidates are stored; see `fbs_keras.convert`. Defaults to `None`, float32.

    Returns:
        A `NetworkResult`.

    Raises:
        ValueError: If a candidate computes something that is not finite, or nothing but zeros.
    """
    candidates, macs, peaks = make_candidates(network, path, quantize)
    for candidate in candidates:
        check_outputs(candidate)
    timings = measurement.measure(candidates, threads, progress=progress, seconds=seconds)
    ms = {timing.name: timing.median for timing in timings}
    dense = macs[candidates[0].name][0]
    rows = []
    for candidate, timing in zip(candidates, timings, strict=True):
        conv, fbs = macs[candidate.name]
        open_ = OURS.get(candidate.name)
        delegate = delegate_path() if candidate.use_delegate else None
        rows.append(
            NetworkRow(
                timing=timing,
                mac_ratio=dense / conv,
                mac_ratio_with_gates=dense / fbs,
                r=timing.speedup * conv / dense,
                r_own=ms[open_] / timing.median * conv / dense if open_ else None,
                memory=memory.measure(candidate.model, delegate, candidate.delegate_options, threads),
            )
        )
    return NetworkResult(network.name, network.title, network.density, *peaks, rows, quantize)


def make_candidates(
    network: Network, path: str = "auto", quantize: str | None = None
) -> tuple[list[Candidate], dict[str, Any], tuple[int, int]]:
    """Makes the files of a network to time, with random weights.

    Args:
        network: The network.
        path: The delegate's option: which instruction set to use. Defaults to the best.
        quantize: How their weights are stored. Defaults to `None`, float32.

    Returns:
        The candidates, the dense network first; by their names the MACs without and with gates; and the peaks of
        the activations' memory, dense and FBS, as `fbs_keras.count_macs` gives them.
    """
    model = wrap(network.make(), group_size=network.group_size)
    randomise_gates(model)
    calibrate(model)
    open_ = export.convert(model, quantize=quantize)
    dense = export.baseline(model, "dense", quantize=quantize)
    open_macs = count_macs(model).fbs
    set_density(model, network.density)
    calibrate(model)
    gated = export.convert(model, quantize=quantize)
    static = export.baseline(model, "static", quantize=quantize)
    report, static_macs = count_macs(model), count_static_macs(model)
    auto, direct = method_options("auto", path), method_options("direct", path)
    candidates = [
        Candidate("dense", dense, False, report.dense),
        Candidate("static", static, False, static_macs),
        Candidate("FBS portable", gated, False, report.fbs),
        Candidate("FBS delegate", gated, True, report.fbs, auto),
        Candidate("FBS delegate, direct", gated, True, report.fbs, direct),
        Candidate("density 1, delegate", open_, True, open_macs, auto),
        Candidate("density 1, delegate, direct", open_, True, open_macs, direct),
    ]
    if quantize == "dynamic_int8":
        candidates = [each for each in candidates if not each.name.endswith("direct")]
    conv: dict[Any, int] = {dense: report.dense, open_: report.dense, static: static_macs, gated: report.conv}
    macs = {each.name: (conv[each.model], each.macs) for each in candidates}
    return candidates, macs, (report.peak_dense, report.peak_fbs)


def count_static_macs(model: keras.Model) -> int:
    """MACs of the static baseline; its additions stay narrow, since all its layers keep the same channels."""
    rows = {row.name: row for row in count_macs(model).rows}
    total = 0.0
    for step in converter.plan_model(model, 1, aligned=True).steps:
        if step.node.name in rows:
            row = rows[step.node.name]
            active_in = step.inputs[0].active or row.channels_in
            total += row.dense * active_in / row.channels_in * row.active_out / row.channels_out
    return round(total)


def randomise_gates(model: keras.Model, seed: int = 0) -> None:
    """Gives the gates weights with which channels from anywhere win, some always, some by the input.

    rho is uniform in 0.5..1.5, and phi such that ss(x) @ phi varies by about as much.
    """
    random = np.random.default_rng(seed)
    for layer in fbs_layers(model):
        layer.gate_bias.assign(random.uniform(0.5, 1.5, layer.gate_bias.shape))
        channels = layer.gate_kernel.shape[0]
        layer.gate_kernel.assign(random.normal(0, 0.5 * channels**-0.5, layer.gate_kernel.shape))


def calibrate(model: keras.Model, seed: int = 0) -> None:
    """Sets every norm's averages to those of two noise images, so that activations keep their scale at any depth."""
    noise = np.random.default_rng(seed).standard_normal((2, *model.input_shape[1:]), "float32")
    norms = [layer.norm for layer in fbs_layers(model) if layer.norm is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(noise, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def check_outputs(candidate):
    """Raises unless a candidate computes something: kernels are faster or slower on zeros, NaN and denormals."""
    interpreter = candidate.interpreter()
    interpreter.litert.invoke()
    output = interpreter.litert.get_tensor(interpreter.litert.get_output_details()[0]["index"])
    if not (np.isfinite(output).all() and 1e-3 < np.abs(output).max() < 1e3):
        raise ValueError(f"{candidate.name!r} computes values up to {np.abs(output).max()}, so its time means nothing")


def table(result: NetworkResult) -> str:
    """A network's results as text."""
    dense = result.rows[0]
    fewer = next(row for row in result.rows if row.timing.name == "FBS delegate")
    lines = [["", "median ms", "p10-p90", "speed-up", "R", "R own", "memory MB", "anonymous MB", "file MB"]]
    for row in result.rows:
        timing, taken = row.timing, row.memory
        line = [timing.name, f"{timing.median:.3f}", f"{timing.p10:.3f}-{timing.p90:.3f}", f"{timing.speedup:.2f}x"]
        line += ["-"] if row is dense else [f"{row.r:.2f}"]
        line += ["-"] if row.r_own is None else [f"{row.r_own:.2f}"]
        line += [f"{taken.resident / 1e6:.1f}", f"{taken.anonymous / 1e6:.1f}"] if taken else ["-", "-"]
        lines.append([*line, f"{timing.file_bytes / 1e6:.2f}"])
    title = (
        f"{result.title}, {result.quantize or 'float32'}, density {result.density:g}: {fewer.mac_ratio:.2f}x fewer "
        f"MACs ({fewer.mac_ratio_with_gates:.2f}x with the gates'), peak of one image's activations "
        f"{result.peak_dense / 1e6:.2f} -> {result.peak_fbs / 1e6:.2f} MB"
    )
    return f"{title}\n{aligned(lines, left=1)}"
