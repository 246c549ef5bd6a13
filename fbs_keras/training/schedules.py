"""Density schedules: functions of time, in epochs or steps, for `fbs_keras.DensityScheduler`.

Where a schedule takes a density to end at, it also takes a dict of them, as `fbs_keras.set_density` does: each layer
then falls to its own.
"""

import dataclasses
from collections.abc import Callable

from fbs_keras.layers.gating import check_density


@dataclasses.dataclass(frozen=True)
class Constant:
    """Always the same density.

    Args:
        density: In (0, 1], or `{name, path or pattern: density}`.

    Example:

    >>> Constant(0.5)(10)
    0.5
    """

    density: float | dict

    def __post_init__(self):
        _each(check_density, self.density)

    def __call__(self, time: int) -> float | dict[str, float]:
        return self.density


@dataclasses.dataclass(frozen=True)
class StepDown:
    """Lowers the density by a fixed amount at a time: `max(end, start - drop * floor((time - begin) / every + 1))`.

    Args:
        end: The last density, in (0, 1], or `{name, path or pattern: density}`.
        start: The first density. Defaults to 1.
        drop: How much the density falls at a time. Defaults to 0.1, the paper's.
        every: How long each density lasts, in the scheduler's unit. Defaults to 1.
        begin: When the density first falls. Defaults to `every`.

    Example:

    >>> [StepDown(0.7, every=2)(epoch) for epoch in range(8)]
    [1.0, 1.0, 0.9, 0.9, 0.8, 0.8, 0.7, 0.7]
    >>> StepDown({"stage1_*": 0.9, "stage4_*": 0.5})(3)
    {'stage1_*': 0.9, 'stage4_*': 0.7}

    Source: paper, section 4.1: lower the density by 10 % a step, each from the last model.
    """

    end: float | dict
    start: float = 1.0
    drop: float = 0.1
    every: int = 1
    begin: int | None = None

    def __post_init__(self):
        _check_range(self.start, self.end)
        if not 0 < self.drop < 1:
            raise ValueError(f"drop must be in (0, 1), got {self.drop}")
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")

    def __call__(self, time: int) -> float | dict[str, float]:
        begin = self.every if self.begin is None else self.begin
        drops = max(0, (time - begin) // self.every + 1)
        density = round(self.start - self.drop * drops, 6)
        return _each(lambda end: max(end, density), self.end)


@dataclasses.dataclass(frozen=True)
class Polynomial:
    """Falls from `start` to `end`: `end + (start - end) * (1 - (time - begin) / (finish - begin)) ** power`.

    Args:
        end: The last density, in (0, 1], or `{name, path or pattern: density}`.
        finish: When it is reached, in the scheduler's unit.
        start: The first density. Defaults to 1.
        begin: When the density starts to fall. Defaults to 0.
        power: Defaults to 3: fast while channels are many, slow towards the end.

    Example:

    >>> Polynomial(0.5, finish=10)(10)
    0.5

    Source: Zhu and Gupta, "To prune, or not to prune", 2017, as tfmot's PolynomialDecay.
    """

    end: float | dict
    finish: int
    start: float = 1.0
    begin: int = 0
    power: float = 3.0

    def __post_init__(self):
        _check_range(self.start, self.end)
        if self.finish <= self.begin:
            raise ValueError(f"finish must be after begin = {self.begin}, got {self.finish}")

    def __call__(self, time: int) -> float | dict[str, float]:
        progress = min(1.0, max(0.0, (time - self.begin) / (self.finish - self.begin)))
        left = (1 - progress) ** self.power
        return _each(lambda end: end + (self.start - end) * left, self.end)


def _each(function, density):
    """Applies a function to a density, or to each one in a dict."""
    if isinstance(density, dict):
        return {key: function(value) for key, value in density.items()}
    return function(density)


def _check_range(start, end):
    def check(value):
        if check_density(value) > check_density(start):
            raise ValueError(f"a schedule lowers the density: end must not be above start = {start}, got {value}")

    _each(check, end)


def density_at(schedule: Callable, time: int) -> float | dict[str, float] | None:
    """The density that a schedule asks for at a time, or `None` where it leaves it as it is.

    Args:
        schedule: A function of time that returns a density or a dict of them, or a tfmot `PruningSchedule`, which
            returns `(should_prune, sparsity)` and means the density `1 - sparsity`.
        time: Epoch or step, an integer.

    Returns:
        A float in (0, 1], a dict of them, or `None`.

    Raises:
        TypeError, ValueError: If the schedule returns no density.
    """
    value = schedule(time)
    try:
        return _density_of(value)
    except TypeError:
        raise TypeError(f"a schedule must return a density in (0, 1], got {value!r} at {time}") from None


def _density_of(value):
    if isinstance(value, tuple | list) and len(value) == 2:
        should_prune, sparsity = value
        return check_density(1.0 - float(sparsity)) if bool(should_prune) else None
    return _each(lambda density: check_density(density if isinstance(density, str) else float(density)), value)
