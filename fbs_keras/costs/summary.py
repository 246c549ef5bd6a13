"""summary(): the printed table of a model's layers, MACs, channels, parameters and memory."""

from collections.abc import Callable

import keras

from fbs_keras.costs.macs import count_macs

_HEADER = ("layer", "output", "channels", "dense MACs", "FBS MACs", "saving", "parameters")


def summary(model: keras.Model, print_fn: Callable[[str], object] = print) -> None:
    """Prints what each layer of a model costs, dense and with channels skipped.

    A row shows the output's shape, the active and all channels, dense MACs, FBS MACs (gate included), their ratio and
    the parameters; the last rows are totals and the peak activation memory for one image.

    Args:
        model: A built Sequential or Functional Keras model with fixed spatial dimensions.
        print_fn: Called once with the whole text. Defaults to `print`.

    Raises:
        TypeError, ValueError: As `fbs_keras.count_macs`.

    Example:

    >>> fbs_keras.summary(fbs_keras.wrap(fbs_keras.models.MCifarNet(), density=0.5))
    """
    report = count_macs(model)
    rows = [
        (
            row.name,
            "x".join(map(str, row.output_shape)),
            f"{row.active_out}/{row.channels_out}" if row.density is not None else str(row.channels_out),
            millions(row.dense),
            millions(row.fbs),
            f"{row.dense / row.fbs:.2f}x",
            f"{row.parameters:,}",
        )
        for row in report.rows
    ]
    total = (
        "total",
        "",
        "",
        millions(report.dense),
        millions(report.fbs),
        f"{report.saving:.2f}x",
        f"{report.parameters:,}",
    )
    lines = [f"Model {model.name!r}", *_table(_HEADER, rows, total)]
    lines.append(
        f"Peak activation memory, one image: dense {mebibytes(report.peak_dense)}, FBS {mebibytes(report.peak_fbs)} "
        f"({report.peak_dense / report.peak_fbs:.2f}x less)"
    )
    if report.uncounted:
        lines.append(f"Not counted: {', '.join(report.uncounted)}")
    print_fn("\n".join(lines))


def millions(count):
    """Formats a count in millions."""
    return f"{count / 1e6:,.2f} M"


def mebibytes(size):
    """Formats a size in bytes in MiB."""
    return f"{size / 2**20:.2f} MiB"


def _table(header, rows, total):
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (header, total, *rows)) for column in range(len(header))]

    def line(row):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return [rule, line(header), rule, *map(line, rows), rule, line(total), rule]
