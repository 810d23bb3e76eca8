"""Fitted costs: coefficients are recovered, numbers agree with numpy and scipy, depths never promise too much."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from secondpass.errors import InputError
from secondpass.evaluation.cost import (
    CostFit,
    fit_candidates,
    fit_tokens,
    largest_depth,
    margin,
    median_interval,
)

COUNTS = [10.0, 25.0, 50.0, 100.0, 200.0]
LENGTHS = [32.0, 64.0, 128.0, 256.0]
some_sizes = st.lists(st.integers(1, 2000).map(float), min_size=4, max_size=9, unique=True)


def part(largest: float) -> st.SearchStrategy[float]:
    return st.one_of(st.just(0.0), st.floats(largest / 1000, largest))


@settings(deadline=None)  # a busy machine is no failure
@given(some_sizes, part(0.1), st.floats(1e-6, 0.1))
def test_the_linear_coefficients_come_back(sizes: list[float], a: float, b: float) -> None:
    fit = fit_candidates(sizes, [a + b * n for n in sizes])
    assert [fit.a, fit.b] == pytest.approx([a, b], rel=1e-6, abs=1e-9 * max(b, a))
    assert (fit.c, fit.crossover) == (0.0, None)
    assert fit.r2 == pytest.approx(1.0)
    assert fit.largest_error < 1e-9
    assert (fit.smallest, fit.largest) == (min(sizes), max(sizes))


@settings(deadline=None)
@given(part(0.1), part(1e-3), part(1e-5))
def test_the_quadratic_coefficients_come_back(a: float, b: float, c: float) -> None:
    assume(a + b + c > 0)
    times = [a + b * length + c * length**2 for length in LENGTHS]
    fit = fit_tokens(LENGTHS, times)
    close = pytest.approx([a, b * 256, c * 256**2], abs=1e-8 * max(times))  # what each adds at the longest
    assert [fit.a, fit.b * 256, fit.c * 256**2] == close
    assert fit.seconds(100) == pytest.approx(a + b * 100 + c * 100**2)
    if b > 0 and c > 0:
        assert fit.crossover == pytest.approx(b / c, rel=1e-3)


noisy = st.lists(st.floats(0.5, 2.0), min_size=5, max_size=5)


@settings(deadline=None)
@given(noisy)
def test_the_linear_fit_and_its_r2_are_numpy_s(noise: list[float]) -> None:
    times = np.array([(0.01 + 0.005 * n) * factor for n, factor in zip(COUNTS, noise, strict=True)])
    slope, intercept = np.polyfit(COUNTS, times, 1, w=1 / times)
    assume(slope > 0 and intercept > 0)
    fit = fit_candidates(COUNTS, times.tolist())
    assert [fit.a, fit.b] == pytest.approx([intercept, slope])
    left = times - np.polyval([slope, intercept], COUNTS)
    assert fit.r2 == pytest.approx(1 - np.sum(left**2) / np.sum((times - times.mean()) ** 2))
    assert fit.largest_error == pytest.approx(np.max(np.abs(left / times)))


@settings(deadline=None)
@given(noisy)
def test_the_fit_is_the_non_negative_one_of_scipy(noise: list[float]) -> None:
    lengths = np.array([16.0, *LENGTHS])
    times = 0.2 * np.array(noise)  # in no order: negative coefficients would fit best
    fit = fit_tokens(lengths.tolist(), times.tolist())
    columns = np.stack([np.ones(5), lengths / 256, (lengths / 256) ** 2], axis=1) / times[:, None]
    _, least = optimize.nnls(columns, np.ones(5))
    found = [fit.a, fit.b * 256, fit.c * 256**2]
    assert min(found) >= 0
    assert math.dist(columns @ found, np.ones(5)) == pytest.approx(least, abs=1e-9)


@settings(deadline=None)
@given(some_sizes, st.floats(0.0, 3.0), st.floats(1e-6, 1.0))
def test_the_exponents_of_a_power_law_are_its_power(sizes: list[float], power: float, factor: float) -> None:
    for fit in (fit_candidates, fit_tokens):
        found = fit(sizes, [factor * size**power for size in sizes])
        assert [found.exponent, found.exponent_end] == pytest.approx([power, power], abs=1e-6)


def test_the_exponent_at_the_end_sees_what_comes_last() -> None:
    times = [1.0, 1.0, 1.0, 2.0, 4.0]  # flat, then linear
    fit = fit_candidates([1, 2, 4, 8, 16], times)
    assert fit.exponent == pytest.approx(stats.linregress(np.log([1, 2, 4, 8, 16]), np.log(times)).slope)
    assert fit.exponent_end == pytest.approx(1.0)
    assert fit_candidates([10, 20], [1.0, 2.0]).exponent_end == pytest.approx(1.0)


def test_equal_times_have_no_slope_and_no_r2() -> None:
    for fit in (fit_candidates, fit_tokens):
        found = fit(COUNTS, [0.1] * 5)
        assert (found.a, found.b, found.c) == pytest.approx((0.1, 0.0, 0.0), abs=1e-9)
        assert found.r2 is None
        assert found.exponent == pytest.approx(0.0)


def line(a: float, b: float, smallest: float = 10, largest: float = 200) -> CostFit:
    return CostFit(a, b, 0.0, 1.0, 0.0, 1.0, 1.0, smallest, largest)


@settings(deadline=None)
@given(part(0.2), part(0.01), st.floats(0.0, 3.0), st.floats(1.0, 2.0))
def test_a_depth_is_the_largest_that_fits(a: float, b: float, budget: float, factor: float) -> None:
    fit = line(a, b)
    depth = largest_depth(fit, budget, factor)
    if depth.candidates:
        assert factor * fit.seconds(depth.candidates) <= budget
        assert depth.seconds == factor * fit.seconds(depth.candidates)
    if depth.candidates < 200:
        assert factor * fit.seconds(depth.candidates + 1) > budget
    assert depth.at_least == (factor * fit.seconds(201) <= budget)
    assert depth.by_fit_alone == (depth.candidates < 10)


@settings(deadline=None)
@given(part(0.2), part(0.01), st.floats(0.0, 3.0), st.floats(0.0, 1.0), st.floats(1.0, 2.0), st.floats(0.0, 1.0))
def test_more_time_never_means_fewer_and_more_margin_never_more(
    a: float, b: float, budget: float, more: float, factor: float, wider: float
) -> None:
    depth = largest_depth(line(a, b), budget, factor).candidates
    assert largest_depth(line(a, b), budget + more, factor).candidates >= depth
    assert largest_depth(line(a, b), budget, factor + wider).candidates <= depth


def test_a_depth_below_all_that_was_measured_is_marked() -> None:
    fit = line(0.0, 0.01, smallest=10)
    found = [largest_depth(fit, budget) for budget in (0.0999, 0.1001)]
    assert [(one.candidates, one.by_fit_alone) for one in found] == [(9, True), (10, False)]


def test_a_depth_never_goes_beyond_what_was_measured() -> None:
    assert largest_depth(line(0.01, 0.005), 1e9).candidates == 200
    assert largest_depth(line(0.01, 0.005), 1e9).at_least
    exact = largest_depth(line(0.0, 0.005), 1.001)  # 200 fit, 201 would not
    assert (exact.candidates, exact.at_least) == (200, False)
    assert largest_depth(line(0.01, 0.0), 0.02).candidates == 200  # no slope: all or none
    none = largest_depth(line(0.01, 0.005), 0.014)
    assert (none.candidates, none.by_fit_alone) == (0, True)


@settings(deadline=None)
@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=60), st.sampled_from([0.5, 0.8, 0.95]))
def test_a_margin_is_an_order_statistic(ratios: list[float], share: float) -> None:
    fit = line(0.01, 0.005)
    sizes = [float(10 + place) for place in range(len(ratios))]
    found = margin(fit, sizes, [fit.seconds(n) * ratio for n, ratio in zip(sizes, ratios, strict=True)], share)
    held = sum(ratio <= found.factor * (1 + 1e-12) for ratio in ratios)
    assert found.factor >= 1.0
    assert found.share <= share
    assert held >= found.share * (len(ratios) + 1) - 1e-9  # Wilks: of N, ⌈share·(N + 1)⌉ must lie within
    if found.share < share:
        assert found.factor == pytest.approx(max(1.0, *ratios))
        assert found.share == len(ratios) / (len(ratios) + 1)
        assert found.share > share - 1 / (len(ratios) + 1)  # no request more would have been enough


@pytest.mark.parametrize(
    ("count", "asked", "factor", "share"),
    [(19, 0.95, 1.18, 0.95), (19, 0.5, 1.09, 0.5), (3, 0.95, 1.02, 0.75), (39, 0.95, 1.37, 0.95)],
)
def test_margins_by_hand(count: int, asked: float, factor: float, share: float) -> None:
    found = margin(line(0.0, 1.0), [1.0] * count, [1 + place / 100 for place in range(count)], asked)
    assert found.factor == pytest.approx(factor)
    assert found.share == share
    assert margin(line(0.0, 1.0), [1.0] * count, [0.5] * count).factor == 1.0


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_of_a_median_is_the_narrowest_that_covers(values: list[float], level: float) -> None:
    low, high = median_interval(values, level)
    ordered, n = sorted(values), len(values)
    covering = [k for k in range(1, (n + 1) // 2 + 1) if 1 - 2 * stats.binom.cdf(k - 1, n, 0.5) >= level - 1e-12]
    k = max(covering, default=1)
    assert (low, high) == (ordered[k - 1], ordered[n - k])
    assert low <= np.median(values) <= high


def test_seven_rounds_give_their_extremes() -> None:
    assert median_interval([5, 1, 4, 2, 3, 7, 6]) == (1, 7)
    assert median_interval([*range(1, 21)]) == (6, 15)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fit_candidates([10], [0.1]), "1 size measured; this fit needs 2 different ones"),
        (lambda: fit_candidates([10, 10], [0.1, 0.2]), "1 size measured"),
        (lambda: fit_candidates([], []), "0 sizes measured"),
        (lambda: fit_tokens([32, 64], [0.1, 0.2]), "2 sizes measured; this fit needs 3"),
        (lambda: fit_candidates([10, 20], [0.1]), "2 sizes and 1 times"),
        (lambda: fit_candidates([10, 20], [0.1, 0.0]), "a time is 0; every one must be a number above 0"),
        (lambda: fit_candidates([0, 20], [0.1, 0.2]), "a size is 0"),
        (lambda: fit_candidates([10, 20], [0.1, math.nan]), "a time is nan"),
        (lambda: fit_candidates([10, math.inf], [0.1, 0.2]), "a size is inf"),
        (lambda: largest_depth(line(0, 1), -0.1), "the budget is -0.1 s"),
        (lambda: largest_depth(line(0, 1), math.nan), "the budget is nan s"),
        (lambda: largest_depth(line(0, 1), 1, 0.9), "factor is 0.9; give 1 or more"),
        (lambda: margin(line(0, 1), [], []), "0 sizes measured"),
        (lambda: margin(line(0, 1), [1], [1], 1.0), "share is 1.0"),
        (lambda: median_interval([]), "0 values"),
        (lambda: median_interval([1.0], 0.0), "1 value and level 0.0"),
    ],
)
def test_what_cannot_be_fitted_is_said(call: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()
