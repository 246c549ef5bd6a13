"""Plots of the suites' results."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from fbs_keras import files
from fbs_keras.benchmarks.suites.kernels import KernelRow
from fbs_keras.benchmarks.suites.networks import NetworkResult
from fbs_keras.benchmarks.suites.zoo import ZooResult


def plot_kernels(rows: Sequence[KernelRow], path: str | os.PathLike | None = None) -> Any:
    """Draws R of each convolution and density: a panel for each method.

    Args:
        rows: From `kernels.measure`.
        path: Where to write the figure; the suffix says the format, such as `.png`. Defaults to no file.

    Returns:
        The `matplotlib` figure.

    Example:

    >>> plot_kernels(kernels.measure(shapes.shapes("resnet18")), "kernels.png")
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.shape for row in rows))
    densities = sorted({row.density for row in rows})
    methods = [result.method for result in rows[0].methods]
    figure = Figure(figsize=(3 + 5 * len(methods), 1.6 + 0.24 * len(names)), layout="constrained", facecolor="white")
    figure.suptitle("R: saved time over saved MACs, against XNNPACK's dense convolution", fontsize=13)
    panels = figure.subplots(1, len(methods), squeeze=False, sharex=True, sharey=True)[0]
    for position, (axes, method) in enumerate(zip(panels, methods, strict=True)):
        for density in densities:
            same = [row for row in rows if row.density == density]
            axes.plot(
                [row.methods[position].r for row in same],
                [names.index(row.shape) for row in same],
                "o",
                markersize=5,
                label=f"{density:g}",
            )
        axes.axvline(1, color="black", linewidth=1)
        axes.set_title(method, fontsize=11)
        axes.set_xlim(left=0)
        axes.grid(axis="both", color="0.9")
        axes.set_axisbelow(True)
        _plain(axes)
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="density", fontsize=8, loc="outside right upper")
    figure.supxlabel("R (1: every saved MAC became saved time)", fontsize=10)
    return _saved(figure, path)


def plot_networks(results: Sequence[NetworkResult], path: str | os.PathLike | None = None) -> Any:
    """Draws the speed-up of each network's candidates as bars, beside how many times fewer MACs they need.

    Args:
        results: From `networks.measure`.
        path: Where to write the figure; the suffix says the format, such as `.png`. Defaults to no file.

    Returns:
        The `matplotlib` figure.

    Example:

    >>> plot_networks([networks.measure(network) for network in networks.networks()], "networks.png")
    """
    from matplotlib.figure import Figure

    columns = min(len(results), 2)
    lines = -(-len(results) // columns)
    figure = Figure(figsize=(3 + 4 * columns, 0.6 + 3 * lines), layout="constrained", facecolor="white")
    figure.suptitle("Speed-up over the dense network in XNNPACK", fontsize=13)
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for axes in panels[len(results) :]:
        axes.set_axis_off()
    for axes, result in zip(panels, results, strict=False):
        rows = result.rows[1:]
        places = np.arange(len(rows))
        bars = axes.barh(places - 0.2, [row.timing.speedup for row in rows], 0.4, color="C0", label="speed-up")
        axes.barh(places + 0.2, [row.mac_ratio for row in rows], 0.4, color="0.8", label="fewer MACs")
        axes.bar_label(bars, [f" {row.timing.speedup:.2f}x, R {row.r:.2f}" for row in rows], fontsize=8)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_title(f"{result.title}, density {result.density:g}", fontsize=10)
        axes.margins(x=0.35)
        _plain(axes)
    panels[0].set_yticks(np.arange(len(results[0].rows) - 1), [row.timing.name for row in results[0].rows[1:]])
    panels[0].invert_yaxis()
    panels[0].legend(fontsize=8, loc="lower right")
    return _saved(figure, path)


def plot_zoo(results: Sequence[ZooResult], path: str | os.PathLike | None = None) -> Any:
    """Draws the speed-up of each classifier of keras.applications as bars, beside how many times fewer MACs it needs.

    Args:
        results: From `zoo.measure`; those with an error are left out.
        path: Where to write the figure; the suffix says the format, such as `.png`. Defaults to no file.

    Returns:
        The `matplotlib` figure.

    Example:

    >>> plot_zoo([zoo.measure("MobileNetV2"), zoo.measure("ResNet50")], "zoo.png")
    """
    from matplotlib.figure import Figure

    shown = [result for result in results if not result.error]
    figure = Figure(figsize=(8, 1.4 + 0.3 * len(shown)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    places = np.arange(len(shown))
    speedups = [result.timings[-1].speedup for result in shown]
    axes.barh(places - 0.2, speedups, 0.4, color="C0", label="speed-up")
    axes.barh(places + 0.2, [result.saving for result in shown], 0.4, color="0.8", label="fewer MACs")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_title("Speed-up over the dense network in XNNPACK, density 0.5", fontsize=11)
    axes.set_yticks(places, [result.name for result in shown], fontsize=8)
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    _plain(axes)
    return _saved(figure, path)


def _plain(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)


def _saved(figure, path):
    if path is not None:
        files.save_figure(figure, path)
    return figure
