from matplotlib.figure import Figure
from PIL import Image

from fbs_keras.benchmarks.measurement import Timing
from fbs_keras.benchmarks.suites import figures
from fbs_keras.benchmarks.suites.kernels import KernelRow, MethodTime
from fbs_keras.benchmarks.suites.networks import NetworkResult, NetworkRow


def kernel_row(shape, density, *rs):
    methods = [MethodTime(method, "k", 1.0, r, r, r) for method, r in zip(("auto", "direct"), rs, strict=True)]
    return KernelRow(shape, ("net",), density, 4, 4, 100, 25, 1.0, 1.0, methods)


def test_plot_kernels(tmp_path):
    rows = [kernel_row("a", 0.5, 1.5, 0.9), kernel_row("a", 1.0, 1.2, 0.8), kernel_row("b", 0.5, 0.7, 0.6)]
    figure = figures.plot_kernels(rows, tmp_path / "kernels.png")
    assert isinstance(figure, Figure)
    assert Image.open(tmp_path / "kernels.png").width > 600
    auto, direct = figure.axes
    assert [label.get_text() for label in auto.get_yticklabels()] == ["a", "b"]
    assert [line.get_xydata().tolist() for line in auto.lines[:2]] == [[[1.5, 0], [0.7, 1]], [[1.2, 0]]]
    assert direct.lines[0].get_xdata().tolist() == [0.9, 0.6]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0.5", "1"]


def test_plot_networks(tmp_path):
    rows = [
        NetworkRow(Timing(name, 1.0, 1.0, 1.0, speedup, 9, 1, 1), ratio, ratio, speedup / ratio, None, None)
        for name, speedup, ratio in (("dense", 1.0, 1.0), ("static", 3.0, 4.0), ("FBS", 2.0, 2.5))
    ]
    result = NetworkResult("net", "Net", 0.5, 4, 2, rows)
    figure = figures.plot_networks([result, result], tmp_path / "networks.png")
    assert Image.open(tmp_path / "networks.png").width > 600
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["static", "FBS"]
    assert [bar.get_width() for bar in axes.patches] == [3.0, 2.0, 4.0, 2.5]
    assert [text.get_text() for text in axes.texts] == [" 3.00x, R 0.75", " 2.00x, R 0.80"]
