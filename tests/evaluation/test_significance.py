"""Statistics agree with scipy, and are defined where there is little or nothing to go by."""

from __future__ import annotations

from math import inf, sqrt
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secondpass.errors import InputError
from secondpass.evaluation import significance
from secondpass.evaluation.significance import (
    bootstrap_interval,
    minimum_detectable_effect,
    queries_needed,
    randomisation_p,
)

# eighths add up without rounding; with others, scipy counts sums that tie as different
few = st.lists(st.sampled_from([-1.0, -0.5, -0.375, 0.0, 0.0, 0.125, 0.25, 0.75]), min_size=2, max_size=10)


def mean(values: list[float], axis: Any = -1) -> Any:
    return np.mean(values, axis=axis)


@settings(max_examples=60, deadline=None)
@given(few)
def test_exact_p_agrees_with_scipy(values: list[float]) -> None:
    theirs = stats.permutation_test(
        (np.array(values),), mean, permutation_type="samples", n_resamples=2**10, vectorized=True
    )
    assert randomisation_p(values) == pytest.approx(theirs.pvalue, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.1, -0.08])
def test_sampled_p_agrees_with_scipy(shift: float) -> None:
    values = np.random.default_rng(3).normal(shift, 0.25, size=60)
    theirs = stats.permutation_test(
        (values,), mean, permutation_type="samples", n_resamples=20_000, vectorized=True, rng=1
    )
    ours = randomisation_p(values, permutations=20_000)
    assert ours == pytest.approx(theirs.pvalue, abs=5 * sqrt(0.25 / 20_000))
    assert ours == randomisation_p(values, permutations=20_000)
    assert ours != randomisation_p(values, permutations=20_000, seed=1)


def test_p_is_never_zero_and_counts_the_observed_pattern() -> None:
    assert randomisation_p([1.0] * 40, permutations=999) == 1 / 1000
    assert randomisation_p([1.0] * 10) == 2 / 2**10


def test_exact_and_sampled_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(0.1, 0.3, size=14)
    exact = randomisation_p(values)
    monkeypatch.setattr(significance, "EXACT_UP_TO", 0)
    assert randomisation_p(values, permutations=50_000) == pytest.approx(exact, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), max_size=30), st.integers(0, 5))
def test_p_is_a_probability_without_a_direction(values: list[float], zeros: int) -> None:
    p = randomisation_p(values, permutations=500)
    assert 0.0 < p <= 1.0
    assert randomisation_p([-v for v in values], permutations=500) == p
    assert randomisation_p(values + [0.0] * zeros, permutations=500) == p


def test_the_null_is_rejected_as_often_as_it_should() -> None:
    rng = np.random.default_rng(5)
    rejected = np.mean([randomisation_p(rng.normal(0, 1, 30), permutations=400) <= 0.05 for _ in range(600)])
    assert 0.02 < rejected < 0.08


@pytest.mark.parametrize("n", [15, 40, 300])
@pytest.mark.parametrize("skewed", [False, True])
def test_interval_agrees_with_scipy(n: int, skewed: bool) -> None:
    rng = np.random.default_rng(n)
    values = np.where(rng.random(n) < 0.6, 0.0, rng.exponential(0.3, n)) if skewed else rng.normal(0.03, 0.25, n)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=2).confidence_interval
    ours = bootstrap_interval(values, resamples=20_000)
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)
    assert ours == bootstrap_interval(values, resamples=20_000)


def test_interval_formula_agrees_with_scipy_on_the_same_resamples() -> None:
    rng = np.random.default_rng(8)
    values = rng.exponential(0.3, 25) - 0.2
    means = values[rng.integers(0, 25, size=(3000, 25))].mean(axis=1)
    same = SimpleNamespace(bootstrap_distribution=means)
    for level in (0.5, 0.9, 0.95, 0.99):
        theirs = stats.bootstrap(
            (values,), np.mean, n_resamples=0, bootstrap_result=same, confidence_level=level, method="BCa"
        ).confidence_interval
        assert significance._bca(values, means, level) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    draws = [bootstrap_interval(rng.normal(0.1, 0.3, 60), resamples=500) for _ in range(400)]
    assert 0.90 < np.mean([low <= 0.1 <= high for low, high in draws]) < 0.99


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
def test_interval_lies_within_the_values(values: list[float]) -> None:
    low, high = bootstrap_interval(values, resamples=300)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


def test_little_or_nothing_to_go_by() -> None:
    assert randomisation_p([]) == randomisation_p([0.0]) == randomisation_p([0.0] * 50) == 1.0
    assert randomisation_p([0.5]) == 1.0
    assert bootstrap_interval([]) == bootstrap_interval([0.4]) == (-inf, inf)
    assert bootstrap_interval([0.0] * 30) == (0.0, 0.0)
    assert minimum_detectable_effect([]) is minimum_detectable_effect([0.3]) is None
    assert minimum_detectable_effect([0.0, 0.0]) == 0.0
    assert queries_needed([], 0.1) is queries_needed([0.1], 0.1) is None
    assert queries_needed([0.0] * 9, 0.01) == 0


def test_detectable_effect_and_queries_needed_belong_together() -> None:
    values = [0.25, -0.25] * 150  # sd .25, n 300: science's example
    assert minimum_detectable_effect(values) == pytest.approx(0.040, abs=5e-4)
    assert queries_needed(values, 0.01) == pytest.approx(4900 - 300, rel=0.01)
    now = minimum_detectable_effect(values) or 0.0
    assert queries_needed(values, now * 1.001) == 0
    assert (queries_needed(values, now * 0.99) or 0) > 0


@pytest.mark.parametrize("values", [[float("nan")], [inf], [[0.1, 0.2]]])
@pytest.mark.parametrize("function", [randomisation_p, bootstrap_interval, minimum_detectable_effect])
def test_what_is_no_difference_is_refused(function: Any, values: list[float]) -> None:
    with pytest.raises(InputError, match="one finite number per query"):
        function(values)


def test_arguments_out_of_range_are_refused() -> None:
    for call in (
        lambda: queries_needed([0.1, 0.2], 0.0),
        lambda: queries_needed([0.1, 0.2], float("nan")),
        lambda: bootstrap_interval([0.1, 0.2], level=1.0),
        lambda: bootstrap_interval([0.1, 0.2], resamples=0),
        lambda: randomisation_p([0.1] * 20, permutations=0),
    ):
        with pytest.raises(InputError):
            call()


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "_CELLS", 1000)
    sizes = list(significance._chunks(10_000, 300))
    assert sum(sizes) == 10_000
    assert max(sizes) * 300 <= 1000
    assert list(significance._chunks(3, 5000)) == [1, 1, 1]
