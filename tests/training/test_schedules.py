import pytest

from fbs_keras.training import schedules


def test_step_down():
    schedule = schedules.StepDown(0.5, every=2)
    assert [schedule(epoch) for epoch in range(12)] == [1, 1, 0.9, 0.9, 0.8, 0.8, 0.7, 0.7, 0.6, 0.6, 0.5, 0.5]
    assert schedule(1000) == 0.5
    schedule = schedules.StepDown(0.5, start=0.8, drop=0.2, every=3, begin=1)
    assert [schedule(epoch) for epoch in range(6)] == [0.8, 0.6, 0.6, 0.6, 0.5, 0.5]


def test_polynomial():
    schedule = schedules.Polynomial(0.5, finish=10, begin=2, power=1)
    assert [schedule(time) for time in (0, 2, 6, 10, 99)] == [1, 1, 0.75, 0.5, 0.5]
    cubic = schedules.Polynomial(0.2, finish=100)
    values = [cubic(time) for time in range(101)]
    assert values == sorted(values, reverse=True)
    assert cubic(50) == pytest.approx(0.2 + 0.8 / 8)


def test_constant():
    assert schedules.Constant(0.25)(7) == 0.25


@pytest.mark.parametrize(
    ("schedule", "time", "expected"),
    [
        (schedules.Constant({"a": 0.25, "b*": 0.5}), 7, {"a": 0.25, "b*": 0.5}),
        (schedules.StepDown({"a": 0.9, "b*": 0.5}, every=2), 1, {"a": 1.0, "b*": 1.0}),
        (schedules.StepDown({"a": 0.9, "b*": 0.5}, every=2), 5, {"a": 0.9, "b*": 0.8}),
        (schedules.StepDown({"a": 0.9, "b*": 0.5}, every=2), 99, {"a": 0.9, "b*": 0.5}),
        (schedules.Polynomial({"a": 0.8, "b*": 0.4}, finish=10, power=1), 5, {"a": 0.9, "b*": 0.7}),
        (schedules.Polynomial({"a": 0.8, "b*": 0.4}, finish=10), 10, {"a": 0.8, "b*": 0.4}),
    ],
)
def test_each_layer_falls_to_its_own_density(schedule, time, expected):
    assert schedules.density_at(schedule, time) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.Constant(0), ValueError, r"density must be in \(0, 1\], got 0"),
        (lambda: schedules.Constant("half"), TypeError, "density must be a number"),
        (lambda: schedules.StepDown(1.5), ValueError, r"density must be in \(0, 1\], got 1.5"),
        (lambda: schedules.StepDown(0.9, start=0.5), ValueError, "end must not be above start = 0.5, got 0.9"),
        (lambda: schedules.StepDown({"a": 0.9}, start=0.5), ValueError, "end must not be above start = 0.5, got 0.9"),
        (lambda: schedules.Constant({"a": 2}), ValueError, r"density must be in \(0, 1\], got 2"),
        (lambda: schedules.StepDown(0.5, drop=0), ValueError, r"drop must be in \(0, 1\), got 0"),
        (lambda: schedules.StepDown(0.5, every=0), ValueError, "every must be at least 1, got 0"),
        (lambda: schedules.Polynomial(0.5, finish=0), ValueError, "finish must be after begin = 0, got 0"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("value", "expected"), [(0.5, 0.5), ((True, 0.75), 0.25), ((False, 0.75), None), ((True, 0.0), 1.0)]
)
def test_density_at(value, expected):
    assert schedules.density_at(lambda time: value, 3) == expected


@pytest.mark.parametrize("value", ["half", None, [0.5], {"a": None}])
def test_density_at_refuses_what_is_no_density(value):
    with pytest.raises(TypeError, match=r"a schedule must return a density .*, got"):
        schedules.density_at(lambda time: value, 0)


def test_density_at_refuses_full_sparsity():
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\], got 0"):
        schedules.density_at(lambda time: (True, 1.0), 0)
