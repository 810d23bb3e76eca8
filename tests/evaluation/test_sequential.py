"""Intervals and p that hold at all times: exactly, against scipy, and under continuous peeking by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secondpass.errors import InputError
from secondpass.evaluation.sequential import BoundedMean


def after(values: list[float], low: float = -1.0, high: float = 1.0) -> BoundedMean:
    found = BoundedMean(low, high)
    for value in values:
        found.add(value)
    return found


def capital(found: BoundedMean, mean: float) -> float:
    """What the bets against this mean have by now."""
    row = int(np.searchsorted(found._means, mean))
    return float(np.exp(found._logs[row]).mean())


@pytest.mark.parametrize("mean", [-0.5, 0.0, 0.3])
def test_the_capital_is_a_martingale(mean: float) -> None:
    """Its mean over all paths of six numbers of that mean is exactly 1."""
    found = BoundedMean(-1.0, 1.0)
    mean = float(found._means[np.searchsorted(found._means, mean)])
    up = (1.0 + mean) / 2.0
    total = sum(
        np.prod([up if value > 0 else 1.0 - up for value in path]) * capital(after(list(path)), mean)
        for path in itertools.product((-1.0, 1.0), repeat=6)
    )
    assert total == pytest.approx(1.0, abs=1e-9)


def test_the_interval_holds_at_all_times_however_often_one_looks() -> None:
    """200 streams of 150 numbers of mean 0.2: the interval leaves it in 5 % of them at most; 3 standard errors."""
    rng, left = np.random.default_rng(1), 0
    for _ in range(200):
        found = BoundedMean(-1.0, 1.0)
        for value in rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.4, 0.4], size=150):
            found.add(float(value))
        low, high = found.interval  # the running intersection: whenever it left, it stays outside
        left += not low <= 0.2 <= high
    assert left <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=80), st.sampled_from([0.5, 0.9, 0.95]))
@settings(max_examples=40, deadline=None)
def test_intervals_lie_in_each_other_and_agree_with_p(values: list[float], level: float) -> None:
    """What was excluded once stays so, and 0 is excluded where p is at most 1 − level."""
    found = BoundedMean(-1.0, 1.0, level=level)
    before, least = (-1.0, 1.0), 1.0
    for value in values + [1.0] * 40 + [-1.0] * 80:
        found.add(value)
        low, high = found.interval
        if low < high:  # while any mean is possible
            assert before[0] <= low < high <= before[1]
            before = (low, high)
            assert (low < 0.0 < high) is (found.p_value > 1.0 - level)
        assert found.p_value <= least
        least = found.p_value
    assert least < 0.5


def test_a_t_test_looked_at_each_time_would_err_far_more_often() -> None:
    """So the test above can fail: the same streams with mean 0, p below 5 % at some time."""
    rng, ours, theirs = np.random.default_rng(2), 0, 0
    for _ in range(100):
        values = rng.choice([-1.0, 1.0], size=200)
        ours += after(list(map(float, values))).p_value < 0.05
        sums = values.cumsum()
        wins = (sums + np.arange(1, 201)) / 2
        looks = range(20, 201, 5)
        theirs += any(stats.binomtest(int(wins[n - 1]), n).pvalue < 0.05 for n in looks)
    assert ours <= 5 + 3 * (100 * 0.05 * 0.95) ** 0.5
    assert theirs > 12


def test_a_difference_is_found() -> None:
    rng = np.random.default_rng(3)
    found = after(list(map(float, rng.choice([-1.0, 1.0], p=[0.35, 0.65], size=600))))
    low, high = found.interval
    assert 0.0 < low < 0.3 < high
    assert found.p_value < 0.001
    assert found.mean == pytest.approx(0.3, abs=0.12)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0, 0.5]), max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_does_not_matter_to_the_capital(values: list[float], random: object) -> None:
    mixed = list(values)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert capital(after(values), 0.0) == pytest.approx(capital(after(mixed), 0.0), rel=1e-9)


def test_nothing_yet() -> None:
    found = BoundedMean(-2.0, 2.0)
    assert found.interval == (-2.0, 2.0)
    assert found.p_value == 1.0
    assert found.mean != found.mean


@pytest.mark.parametrize("value", [1.1, -1.1, float("nan")])
def test_numbers_outside_of_the_limits_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="outside"):
        BoundedMean(-1.0, 1.0).add(value)


@pytest.mark.parametrize(("low", "high", "level"), [(0.0, 1.0, 0.95), (-1.0, float("inf"), 0.95), (-1.0, 1.0, 1.0)])
def test_limits_that_are_none(low: float, high: float, level: float) -> None:
    with pytest.raises(InputError, match="give limits"):
        BoundedMean(low, high, level=level)
