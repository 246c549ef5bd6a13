"""Callbacks of FBS training: the density's schedule and the gates' regularisation and statistics."""

import dataclasses
import math
import statistics
import warnings
from collections.abc import Callable

import keras
from keras import ops

from fbs_keras.graph.observing import always_and_never
from fbs_keras.layers import gating
from fbs_keras.layers.densities import fbs_layers, fbs_paths, set_density
from fbs_keras.layers.fbs_conv2d import current_density
from fbs_keras.training import schedules

UNITS = ("epoch", "step")

# The share of batch norm's averages from before a change of density below which they no longer mislead.
OUTDATED = 0.05


def _require_fbs_layers(model, callback):
    layers = fbs_layers(model)
    if not layers:
        raise ValueError(
            f"{type(callback).__name__} found no FBSConv2D layer in model {model.name!r}; "
            "make them with fbs_keras.wrap(model)"
        )
    return layers


class DensityScheduler(keras.callbacks.Callback):
    """Sets the density of the FBS layers as training goes on, and logs their mean density as `density`.

    A schedule may give a density for all layers, or a dict of them as `fbs_keras.set_density` takes: with
    `schedules.StepDown({"stage1_*": 0.8, "stage4_*": 0.3})` each layer falls from 1 to its own density.

    The density is a variable of each layer: nothing is recompiled, and it is saved with the model. In a custom loop,
    call `set_model(model)` once and `on_epoch_begin(epoch)` or `on_train_batch_begin(step)` where `fit` would.

    Batch norm's moving averages, which validation uses, follow a change of density slowly: with a momentum of 0.99,
    5 % of them are from before after 300 steps. Where `fit` validates earlier, a warning says so.

    Args:
        schedule: A function from epoch or step to a density or a dict of them, such as
            `fbs_keras.schedules.StepDown(0.5)`, or a tfmot `PruningSchedule`, whose sparsity s means density 1 - s.
        unit: What `schedule` counts: `"epoch"`, or `"step"`, the optimizer's steps since the model was compiled.
            Defaults to `"step"` for a tfmot `PruningSchedule`, else to `"epoch"`.

    Raises:
        TypeError: If `schedule` is not callable.
        ValueError: If `unit` is unknown; at the start of training, if the model has no FBS layer; in training, if a
            name in the schedule's dict matches none.

    Example:

    >>> model.fit(x, y, epochs=60, callbacks=[fbs_keras.DensityScheduler(fbs_keras.schedules.StepDown(0.5, every=10))])

    Half of the MACs, layer by layer:

    >>> densities = fbs_keras.density_for_macs(model, 2.0, per_layer=True)
    >>> scheduler = fbs_keras.DensityScheduler(fbs_keras.schedules.StepDown(densities, every=10))

    Source: paper, section 4.1.
    """

    def __init__(self, schedule: Callable, unit: str | None = None):
        super().__init__()
        if not callable(schedule):
            raise TypeError(
                f"schedule must be a function from time to density, got {schedule!r}; "
                "for a fixed density use fbs_keras.set_density(model, density)"
            )
        if unit is None:
            unit = "step" if hasattr(schedule, "begin_step") else "epoch"
        if unit not in UNITS:
            raise ValueError(f"unit must be 'epoch' or 'step', got {unit!r}")
        self.schedule = schedule
        self.unit = unit
        self.density: float | dict[str, float] | None = None
        self._first_step: int | None = None
        self._steps = 0  # of training at the present density
        self._warned = False

    def on_train_begin(self, logs=None):
        _require_fbs_layers(self.model, self)
        self.density = None  # the layers may have another one by now
        self._first_step = 0
        self._steps = int(self.model.optimizer.iterations.numpy())
        self._warned = False

    def on_epoch_begin(self, epoch, logs=None):
        if self.unit == "epoch":
            self._set(epoch)
        elif self._first_step is not None:
            # fit numbers an epoch's batches from 0; the optimizer's count goes on, also in a resumed run.
            self._first_step = int(self.model.optimizer.iterations.numpy())  # a MirroredVariable is no int

    def on_train_batch_begin(self, batch, logs=None):
        if self.unit == "step":
            self._set(batch + (self._first_step or 0))

    def on_train_batch_end(self, batch, logs=None):
        self._steps += self.model.steps_per_execution

    def on_train_end(self, logs=None):
        self._first_step = None  # a custom loop passes the step itself

    def on_epoch_end(self, epoch, logs=None):
        if any(name.startswith("val_") for name in logs or ()):
            self._warn_of_averages(epoch)
        if logs is not None and self.density is not None:
            logs["density"] = statistics.mean(current_density(layer) for layer in fbs_layers(self.model))

    def _set(self, time):
        density = schedules.density_at(self.schedule, time)
        if density is None or density == self.density:
            return
        layers = _require_fbs_layers(self.model, self)
        before = [layer.active_channels for layer in layers]
        set_density(self.model, density)
        self.density = density
        if before != [layer.active_channels for layer in layers]:
            self._steps = 0

    def _warn_of_averages(self, epoch):
        norms = [layer.norm for layer in fbs_layers(self.model) if layer.norm is not None and layer.norm.trainable]
        momentum = max((norm.momentum for norm in norms), default=0.0)
        if self._warned or momentum**self._steps < OUTDATED or momentum >= 1:
            return
        self._warned = True
        enough = math.ceil(math.log(OUTDATED) / math.log(momentum))
        warnings.warn(
            f"epoch {epoch + 1} was validated after {self._steps} steps at its density, when batch norm's moving "
            f"averages (momentum {momentum:g}) were {momentum**self._steps:.0%} from before, so val_* may say little "
            f"of the model; train for {enough} steps at a density, or wrap a model with a smaller momentum",
            stacklevel=2,
        )


@dataclasses.dataclass(frozen=True)
class GateStatistics:
    """What one layer's gates did, as moving averages over training batches.

    How often channels win is averaged from the first batch at the layer's density; the saliency's average starts at 0.

    Attributes:
        name: The layer's name, after those of the nested models it is in.
        density: The layer's density.
        saliency: Mean predicted saliency of a channel, before winner-take-all.
        never: Share of channels that win for less than 1 % of the inputs.
        always: Share of channels that win for more than 99 % of the inputs.
    """

    name: str
    density: float
    saliency: float
    never: float
    always: float

    @property
    def dynamic(self):
        """Share of channels that win for some inputs and not for others."""
        return 1.0 - self.never - self.always


def gate_statistics(model: keras.Model) -> list[GateStatistics]:
    """Reads what the gates of each FBS layer did lately in training.

    Args:
        model: A Keras model with FBS layers.

    Returns:
        A list with a `GateStatistics` for each layer.

    Example:

    >>> for row in fbs_keras.gate_statistics(model):
    ...     print(row.name, row.dynamic)
    """
    rows = []
    for path, layer in fbs_paths(model):
        always, never = always_and_never(ops.convert_to_numpy(layer.usage))
        rows.append(
            GateStatistics(
                name=path,
                density=current_density(layer),
                saliency=float(ops.convert_to_numpy(layer.saliency).mean()),
                never=float(never.mean()),
                always=float(always.mean()),
            )
        )
    return rows


class SaliencyRegularizer(keras.callbacks.Callback):
    """Sets the weight of the gates' L1 regularisation and reports the gates' statistics.

    Adds to the loss `lambda * sum_l mean_x ||g_l(x)||_1`, g before winner-take-all. Logs, at each epoch's end, the
    means over layers `gate_saliency`, `gate_never` and `gate_always` (see `GateStatistics`).

    In a custom loop, call `set_model(model)` once and `on_epoch_begin(epoch)` where `fit` would, and add
    `sum(model.losses)` to the loss.

    Args:
        weight: lambda, a number not below 0, or a function from epoch to such a number. Defaults to 1e-8, the paper's.
        print_fn: Called with a line for each layer at each epoch's end. Defaults to no report.

    Raises:
        TypeError: If `weight` is neither a number nor callable.
        ValueError: If a weight is negative or not finite; at the start of training, if the model has no FBS layer.

    Example:

    >>> model.fit(x, y, callbacks=[fbs_keras.SaliencyRegularizer(1e-8, print_fn=print)])

    Source: paper, section 3.4, equation 9.
    """

    def __init__(self, weight: float | Callable[[int], float] = 1e-8, print_fn: Callable[[str], object] | None = None):
        super().__init__()
        if not callable(weight):
            _check_weight(weight)
        self.weight = weight
        self.print_fn = print_fn

    def on_train_begin(self, logs=None):
        _require_fbs_layers(self.model, self)

    def on_epoch_begin(self, epoch, logs=None):
        weight = _check_weight(self.weight(epoch) if callable(self.weight) else self.weight)
        for layer in _require_fbs_layers(self.model, self):
            layer.saliency_weight.assign(weight)

    def on_epoch_end(self, epoch, logs=None):
        rows = gate_statistics(self.model)
        if logs is not None:
            for name in ("saliency", "never", "always"):
                logs[f"gate_{name}"] = sum(getattr(row, name) for row in rows) / len(rows)
        if self.print_fn is not None:
            for row in rows:
                self.print_fn(
                    f"{row.name}: density {row.density:g}, saliency {row.saliency:.3g}, "
                    f"channels never {row.never:.0%}, always {row.always:.0%}, by input {row.dynamic:.0%}"
                )


def _check_weight(weight):
    if not gating.is_number(weight):
        raise TypeError(f"weight must be a number not below 0 or a function of the epoch, got {weight!r}")
    weight = float(weight)
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"weight must be finite and not below 0, got {weight}")
    return weight
