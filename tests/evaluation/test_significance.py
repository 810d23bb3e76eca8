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
    bootstrap_intervals,
    equivalence_p,
    holm,
    minimum_detectable_effect,
    queries_needed,
    randomisation_p,
    t_test_p,
    wilcoxon_p,
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
    ours = bootstrap_interval(values, resamples=20_000, textbook=True)
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)
    assert ours == bootstrap_interval(values, resamples=20_000, textbook=True)
    raised = bootstrap_interval(values, resamples=20_000)
    assert raised[0] < ours[0] < ours[1] < raised[1]


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
    low, high = bootstrap_interval(values, resamples=300, textbook=True)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


def test_little_or_nothing_to_go_by() -> None:
    assert randomisation_p([]) == randomisation_p([0.0]) == randomisation_p([0.0] * 50) == 1.0
    assert randomisation_p([0.5]) == 1.0
    assert bootstrap_interval([]) == bootstrap_interval([0.4]) == (-inf, inf)
    assert bootstrap_interval([0.0] * 30, textbook=True) == (0.0, 0.0)
    assert t_test_p([]) is t_test_p([0.3]) is equivalence_p([], 0.1) is equivalence_p([0.0], 0.1) is None
    assert t_test_p([0.0] * 5) == 1.0
    assert t_test_p([0.1] * 5) == t_test_p([-0.1] * 5) == 0.0
    assert equivalence_p([0.05] * 5, 0.1) == 0.0
    assert equivalence_p([0.1] * 5, 0.1) == equivalence_p([-0.2] * 5, 0.1) == 1.0
    assert wilcoxon_p([]) == wilcoxon_p([0.0] * 60) == wilcoxon_p([0.2]) == 1.0
    assert holm([]) == ()
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
@pytest.mark.parametrize(
    "function", [randomisation_p, bootstrap_interval, minimum_detectable_effect, t_test_p, wilcoxon_p]
)
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
        lambda: bootstrap_intervals([0.1, 0.2]),
        lambda: bootstrap_interval([0.1, 0.2], bounds=(0.0, inf)),
        lambda: bootstrap_interval([0.1, 0.2], bounds=(1.0, 0.0)),
        lambda: bootstrap_intervals([[0.1, float("nan")]]),
        lambda: equivalence_p([0.1, 0.2], 0.0),
        lambda: equivalence_p([0.1, 0.2], float("nan")),
        lambda: holm([0.2, float("nan")]),
        lambda: holm([-0.1]),
        lambda: holm([1.1]),
    ):
        with pytest.raises(InputError):
            call()


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "_CELLS", 1000)
    sizes = list(significance._chunks(10_000, 300))
    assert sum(sizes) == 10_000
    assert max(sizes) * 300 <= 1000
    assert list(significance._chunks(3, 5000)) == [1, 1, 1]


continuous = st.lists(st.floats(-1, 1).map(lambda value: round(value, 3) or 0.001), min_size=3, max_size=60)


@settings(max_examples=60, deadline=None)
@given(continuous, st.floats(0.01, 0.5))
def test_t_and_equivalence_agree_with_scipy(values: list[float], margin: float) -> None:
    if len(set(values)) == 1:
        return  # what that gives is our own word: see test_little_or_nothing_to_go_by
    assert t_test_p(values) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, rel=1e-9, abs=1e-15)
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    assert equivalence_p(values, margin) == pytest.approx(max(above, below), rel=1e-9, abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(continuous, st.integers(0, 3), st.booleans())
def test_wilcoxon_agrees_with_scipy(values: list[float], zeros: int, tied: bool) -> None:
    if not tied:  # the same signs, each size once
        values = [np.copysign(0.01 * size, value) for size, value in enumerate(values, 1)]
    with_zeros = values + [0.0] * zeros
    exact = not zeros and len(values) <= 50 and len({abs(value) for value in values}) == len(values)
    theirs = stats.wilcoxon(with_zeros, correction=False, method="exact" if exact else "asymptotic")
    assert wilcoxon_p(with_zeros) == pytest.approx(theirs.pvalue, rel=1e-9, abs=1e-15)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_its_definition(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    ordered = sorted(p_values)
    m = len(ordered)
    # what is adjusted to at most α is what the step-down procedure rejects at α, where it can be told from rounding
    for alpha in (0.01, 0.05, 0.3, 0.77):
        rejected = next((k for k, p in enumerate(ordered) if p > alpha / (m - k)), m)
        limit = ordered[rejected] if rejected < m else 2.0
        for p, corrected in zip(p_values, adjusted, strict=True):
            if abs(corrected - alpha) > 1e-12:
                assert (corrected <= alpha) == (p < limit)
    assert all(p <= corrected <= 1.0 for p, corrected in zip(p_values, adjusted, strict=True))
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert [corrected for _, corrected in pairs] == sorted(adjusted)


def test_holm_as_published() -> None:
    # statsmodels: maximum.accumulate(p(k) · (m − k)), at most 1, back in the order given
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.4, 0.5, 0.001]) == pytest.approx((0.8, 0.8, 0.003))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.sampled_from([0.25, 4.0, -1.0, -0.5]), st.integers(0, 9))
def test_scale_and_sign_do_not_matter(n: int, factor: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.05, 0.2, n)
    for function in (lambda v: randomisation_p(v, permutations=400), t_test_p, wilcoxon_p):
        assert function(factor * values) == pytest.approx(function(values), rel=1e-9)
    assert equivalence_p(factor * values, 0.1 * abs(factor)) == pytest.approx(equivalence_p(values, 0.1), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.floats(0.1, 3.0), st.floats(-1.0, 1.0), st.booleans(), st.integers(0, 9))
def test_interval_moves_with_shift_and_scale(n: int, scale: float, shift: float, textbook: bool, seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.05, 0.2, n)

    def interval(moved: np.ndarray, bounds: tuple[float, float]) -> tuple[float, float]:
        return bootstrap_interval(moved, resamples=400, bounds=bounds, textbook=textbook)

    moved = interval(scale * values + shift, (shift - 2 * scale, shift + 2 * scale))
    assert moved == pytest.approx([scale * end + shift for end in interval(values, (-2.0, 2.0))], abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 9, 40, 300])
def test_many_rows_are_as_one_by_one(n: int) -> None:
    rng = np.random.default_rng(n)
    rows = rng.normal(0.02, 0.2, (6, n)) * (rng.random((6, n)) < [[1.0], [0.5], [0.1], [0.02], [0.0], [1.0]])
    together = bootstrap_intervals(rows, resamples=500, seed=3)
    for interval, row in zip(together, rows, strict=True):
        assert interval == pytest.approx(bootstrap_interval(row, resamples=500, seed=3), abs=1e-9)
    assert together == bootstrap_intervals(rows, resamples=500, seed=3)
    assert bootstrap_intervals(np.empty((0, n))) == ()


@pytest.mark.parametrize(("found", "n"), [(0, 20), (3, 20), (0, 300), (9, 300), (18, 20)])
def test_where_few_differ_the_interval_is_exact(found: int, n: int) -> None:
    values = [1.0] * found + [0.0] * (n - found)
    exact = stats.binomtest(found, n).proportion_ci(method="exact")
    tolerance = 0.02 * (exact.high - exact.low)
    assert bootstrap_interval(values, bounds=(0.0, 1.0)) == pytest.approx((exact.low, exact.high), abs=tolerance)
    low, high = bootstrap_interval(values)
    assert low < bootstrap_interval(values, bounds=(0.0, 1.0))[0] + tolerance
    assert high == pytest.approx(exact.high, abs=tolerance)


def test_few_queries_do_not_decide_what_resamples_cannot_know() -> None:
    low, high = bootstrap_interval([0.0] * 20)  # nothing changed, and a query in six may still be harmed
    assert (low, high) == pytest.approx((-0.168, 0.168), abs=0.005)
    rare = [0.01] * 4 + [0.0] * 16
    assert bootstrap_interval(rare, textbook=True)[1] < 0.01 < bootstrap_interval(rare)[1]
    many = [0.01, -0.01] * 20
    assert bootstrap_interval(many)[1] < 0.01


def test_small_samples_are_covered_as_often_as_said() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(0.1, 0.3, (2000, 12))
    missed = {
        textbook: sum(
            not low <= 0.1 <= high for low, high in bootstrap_intervals(rows, resamples=400, textbook=textbook)
        )
        for textbook in (True, False)
    }
    assert missed[False] <= stats.binom.ppf(0.999, 2000, 0.06) < missed[True]


def test_tiny_differences_keep_their_p() -> None:
    assert t_test_p([5e-324, 0.0]) == pytest.approx(t_test_p([1.0, 0.0]))
    assert t_test_p([3e-200, 1e-200, 2e-200]) == pytest.approx(t_test_p([3.0, 1.0, 2.0]))


def test_a_level_next_to_one_stays_an_interval() -> None:
    values = [1.0] + [0.01 * k for k in range(11)]
    for level in (1 - 1e-9, 1 - 1e-15):
        for textbook in (True, False):
            low, high = bootstrap_interval(values, resamples=500, level=level, textbook=textbook)
            assert low < np.mean(values) < high
