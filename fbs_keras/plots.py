"""Pictures of trained models: which channels fire for which class (the paper's figure 3), and what accuracy costs."""

import dataclasses

import numpy as np

from fbs_keras import files, graph
from fbs_keras.graph import observing
from fbs_keras.layers.fbs_conv2d import FBSConv2D


def gate_model(model):
    """Makes a model that returns, besides its outputs, what the gates predict: `g = relu(ss(x) @ phi + rho)`.

    Args:
        model: A built Sequential or Functional Keras model with FBS layers.

    Returns:
        A Keras model over the same layers, with outputs `(outputs, {layer name: g [N, filters]})`. The name of a layer
        in a nested model comes after that model's, as in `"backbone/conv"`. Of a layer that is called more than once,
        the last call.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If its graph cannot be read or it has no FBS layer.

    Example:

    >>> logits, gates = plots.gate_model(model).predict(images)
    """
    if not any(isinstance(node.layer, FBSConv2D) for node in graph.flatten(model).nodes):
        raise ValueError(f"model {model.name!r} has no FBSConv2D layer; make one with fbs_keras.wrap(model)")

    def outputs_and_gates(flat, values):
        gates = {node.name: g for node, g in observing.gates(flat, values)}
        return graph.replace_refs(flat.outputs, values.__getitem__), gates

    return observing.observe(model, outputs_and_gates)


def fired_channels(model, gates):
    """Tells which channels fire for which image: win, with a gate above 0.

    Args:
        model: The model that the gates are of.
        gates: `{layer name: g [N, filters]}`, from `gate_model`.

    Returns:
        `{layer name: fires [N, filters]}`, booleans, in the order of the model's layers.
    """
    layers = {node.name: node.layer for node in graph.flatten(model).nodes}
    # By the model's layers: JAX's `predict` returns dicts in the order of their keys.
    return {name: observing.fires(layers[name], gates[name]) for name in layers if name in gates}


def firing_rates(model, gates, labels, classes):
    """Counts for how many images of each class a channel fires: wins, with a gate above 0.

    Args:
        model: The model that the gates are of.
        gates: `{layer name: g [N, filters]}`, from `gate_model`.
        labels: The N images' classes, integers.
        classes: Number of classes.

    Returns:
        `{layer name: rates [classes, filters]}`, in the order of the model's layers, each rate in 0..1; NaN for a class
        without images.
    """
    labels = np.asarray(labels)
    rates = {}
    for name, fires in fired_channels(model, gates).items():
        rates[name] = np.full((classes, fires.shape[1]), np.nan)
        for i in np.unique(labels):
            rates[name][i] = fires[labels == i].mean(axis=0)
    return rates


def channel_order(rates):
    """Orders channels for the eye: those that always fire, those that favour class 0, 1, ..., and the silent ones.

    A channel favours the class of its highest rate when its rates differ by more than 0.1 between classes. Channels of
    a kind are sorted by their mean rate.

    Args:
        rates: `[classes, filters]`, from `firing_rates`.

    Returns:
        A permutation of the filters.
    """
    mean = np.nanmean(rates, axis=0)
    varies = np.nanmax(rates, axis=0) - np.nanmin(rates, axis=0) > 0.1
    block = np.where(varies, 1 + np.nanargmax(rates, axis=0), np.where(mean >= 0.5, 0, len(rates) + 1))
    return np.lexsort((-mean, block))


def class_examples(images, labels, classes):
    """The first image of each class, `[classes, ...]`; zeros for a class that has none."""
    first = {int(label): image for image, label in zip(images[::-1], labels[::-1], strict=True)}
    return np.stack([first.get(i, np.zeros_like(images[0])) for i in range(classes)])


def plot_channels(rates, class_names, examples, path=None, *, layers=None):
    """Draws which channels fire for which class: one heat map of classes x channels for each layer.

    Above each stands how many of its channels fire always, by the image and never, as `choices` counts them where
    there are as many images of each class.

    Args:
        rates: `{layer name: [classes, filters]}`, from `firing_rates`.
        class_names: A name for each class.
        examples: An RGB image of each class to show beside its name, `[classes, H, W, 3]`, uint8.
        path: Where to write the figure; the suffix says the format, such as `.png`. Defaults to no file.
        layers: Names of the layers to draw. Defaults to four, from the first to the last.

    Returns:
        The `matplotlib` figure.

    Raises:
        ValueError: If a name in `layers` is not in `rates`.

    Example:

    >>> _, gates = plots.gate_model(model).predict(images)
    >>> rates = plots.firing_rates(model, gates, labels, 10)
    >>> plots.plot_channels(rates, class_names, examples, "channels.png")

    Source: paper, figure 3.
    """
    from matplotlib.figure import Figure

    names = list(rates)
    if layers is None:
        layers = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(4, len(names))).round().astype(int))]
    unknown = [name for name in layers if name not in rates]
    if unknown:
        raise ValueError(f"layers must be among {names}, got {unknown[0]!r}")

    classes = len(class_names)
    figure = Figure(figsize=(13, 0.7 + 2.6 * len(layers)), layout="constrained", facecolor="white")
    figure.suptitle("How often each channel fires for images of each class", fontsize=14)
    rows = figure.subplots(len(layers), 2, squeeze=False, width_ratios=[0.022, 1])
    for (strip, axes), name in zip(rows, layers, strict=True):
        strip.imshow(np.concatenate(list(examples)), aspect="auto", extent=(0, 1, classes - 0.5, -0.5))
        strip.set_yticks(np.arange(classes), class_names, fontsize=8)
        strip.set_xticks([])
        table = rates[name][:, channel_order(rates[name])]
        heat = axes.imshow(table, aspect="auto", interpolation="nearest", cmap="magma", vmin=0, vmax=1)
        axes.set_title(f"{name}: {_describe(rates[name])}", loc="left", fontsize=10)
        axes.set_axis_off()
        strip.tick_params(length=0)
        strip.spines[:].set_visible(False)
        if name == layers[0]:
            figure.colorbar(heat, ax=rows[:, 1].tolist(), shrink=0.6, pad=0.01, label="share of the class's images")
    figure.supxlabel("channels: always firing, favouring the first class, the second, ..., never firing", fontsize=10)
    if path is not None:
        files.save_figure(figure, path)
    return figure


def _describe(rates):
    filters = rates.shape[1]
    fire = float(np.nanmean(rates)) * filters
    always, never = (int(mask.sum()) for mask in observing.always_and_never(np.nanmean(rates, axis=0)))
    depend = filters - always - never
    return f"{fire:.0f} of {filters} channels fire for an image: {always} always, {depend} by the image, {never} never"


@dataclasses.dataclass(frozen=True)
class Choices:
    """How the channels that fire in one layer differ from image to image.

    Attributes:
        always: Share of channels that fire for more than 99 % of the images.
        never: Share of channels that fire for less than 1 % of them.
        same: Mean overlap of two images of one class: channels that fire for both over those that fire for one.
        others: Mean overlap of two images of different classes.
        chance: The overlap that as many channels would have if they were drawn at random.
    """

    always: float
    never: float
    same: float
    others: float
    chance: float

    @property
    def by_input(self):
        """Share of channels that fire for some images and not for others."""
        return 1 - self.always - self.never


def choices(fires, labels):
    """Compares the channels that fire for each image of a set.

    Args:
        fires: `[N, filters]`, booleans, from `fired_channels`.
        labels: The N images' classes, integers; at least two images of a class, and two classes.

    Returns:
        A `Choices`.

    Example:

    >>> for name, fires in plots.fired_channels(model, gates).items():
    ...     print(name, plots.choices(fires, labels))
    """
    labels = np.asarray(labels)
    each = fires.sum(axis=1).mean()

    def pairs(rows):
        """Overlaps summed over all pairs of rows, and the number of pairs: n images of a channel are n(n-1) pairs."""
        n = rows.sum(axis=0, dtype=float)
        return (n * (n - 1)).sum() / each, len(rows) * (len(rows) - 1)

    same = np.sum([pairs(fires[labels == label]) for label in np.unique(labels)], axis=0)
    others = np.array(pairs(fires)) - same
    always, never = observing.always_and_never(fires.mean(axis=0))
    return Choices(
        always=float(always.mean()),
        never=float(never.mean()),
        same=float(same[0] / same[1]),
        others=float(others[0] / others[1]),
        chance=float(each / fires.shape[1]),
    )


def plot_choices(layers, path=None):
    """Draws for each layer how many channels fire always, by the input and never, and how much images' choices overlap.

    Args:
        layers: `{layer name: Choices}`.
        path: Where to write the figure; the suffix says the format, such as `.png`. Defaults to no file.

    Returns:
        The `matplotlib` figure.

    Example:

    >>> fired = plots.fired_channels(model, gates)
    >>> plots.plot_choices({name: plots.choices(fires, labels) for name, fires in fired.items()}, "choices.png")
    """
    from matplotlib.figure import Figure

    names, rows = list(layers), list(layers.values())
    figure = Figure(figsize=(12, 4.2), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    bottom = np.zeros(len(rows))
    for label, colour in {"always": "#3b1f5b", "by_input": "#e8734a", "never": "#e6e6e6"}.items():
        share = np.array([getattr(row, label) for row in rows])
        left.bar(names, share, bottom=bottom, color=colour, label=label.replace("_", " "))
        bottom += share
    left.set_title("channels that fire ...", loc="left", fontsize=11)
    for label, style in {"same": "o-", "others": "s-", "chance": "--"}.items():
        right.plot(names, [getattr(row, label) for row in rows], style, color="0.6" if label == "chance" else None)
    right.set_title("channels that two images share", loc="left", fontsize=11)
    right.set_ylim(0, 1)
    left.legend(fontsize=9, loc="lower right")
    right.legend(["of one class", "of different classes", "drawn at random"], fontsize=9, loc="lower right")
    for axes in (left, right):
        axes.tick_params(axis="x", rotation=45 if len(names) > 8 else 0)
        axes.spines[["top", "right"]].set_visible(False)
    if path is not None:
        files.save_figure(figure, path)
    return figure


def plot_tradeoff(rows, path=None):
    """Draws top-1 accuracy against fewer MACs and against shorter time, a line for each method.

    Args:
        rows: Dicts with `method`, `density`, `top1`, `saving`, and `speedup`, which may be `None`; the dense model's
            first. scripts/tradeoff.py makes them.
        path: Where to write the figure; the suffix says the format, such as `.png`. Defaults to no file.

    Returns:
        The `matplotlib` figure.

    Example:

    >>> plots.plot_tradeoff(json.load(open("docs/results/tradeoff.json"))["rows"], "tradeoff.png")
    """
    from matplotlib.figure import Figure

    dense, *others = rows
    figure = Figure(figsize=(12, 4.8), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2, sharey=True)
    labels = {"saving": "times fewer MACs", "speedup": "times as fast as the dense model"}
    for axes, (key, label) in zip(panels, labels.items(), strict=True):
        for n, method in enumerate(dict.fromkeys(row["method"] for row in others)):
            line = [row for row in others if row["method"] == method and row[key] is not None]
            if line:
                points = [row[key] for row in line], [100 * row["top1"] for row in line]
                axes.plot(*points, "o-", color=f"C{n}", markersize=4, linewidth=1.5, label=method)
        axes.axhline(100 * dense["top1"], color="black", linewidth=1, linestyle="--", label="dense")
        axes.set_xlabel(label)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("top-1 accuracy, %")
    panels[0].legend(fontsize=9)
    if path is not None:
        files.save_figure(figure, path)
    return figure
