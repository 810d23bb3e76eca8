"""Reliability of probabilities, against numbers worked out by hand and by other libraries."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binned_statistic

from secondpass.errors import InputError
from secondpass.evaluation.calibration import Bin, reliability


def test_an_example_by_hand() -> None:
    # two bins of two pairs: |0.5 - 0.15| = 0.35 and |0.5 - 0.8| = 0.3
    found = reliability([0.9, 0.1, 0.7, 0.2], [1, 1, 0, 0], bins=2)
    assert [(one.count, one.observed) for one in found.table] == [(2, 0.5), (2, 0.5)]
    assert [one.predicted for one in found.table] == pytest.approx([0.15, 0.8])
    assert found.ece == pytest.approx((2 * 0.35 + 2 * 0.3) / 4)
    assert found.brier == pytest.approx((0.01 + 0.81 + 0.49 + 0.04) / 4)
    assert (found.pairs, found.relevant, found.brier_of_base_rate, found.bins) == (4, 0.5, 0.25, 2)


def test_the_ends_of_the_scale() -> None:
    assert reliability([1.0, 0.0], [1, 0]).brier == reliability([1.0, 0.0], [1, 0]).ece == 0
    worst = reliability([0.0, 1.0], [1, 0])
    assert (worst.ece, worst.brier) == (1, 1)
    assert reliability([0.3], [1]).table == (Bin(1, 0.3, 1.0),)


def test_bins_against_scipy() -> None:
    draw = np.random.default_rng(4)
    p = draw.random(1000) ** 4  # most are near 0, as with candidates
    y = (draw.random(1000) < p).astype(float)
    found = reliability(p.tolist(), y.tolist(), bins=10)
    edges = np.quantile(p, np.linspace(0, 1, 11), method="lower")
    edges[-1] = 2
    observed, predicted = (binned_statistic(p, values, "mean", edges).statistic for values in (y, p))
    assert [one.count for one in found.table] == pytest.approx([100] * 10, abs=1)
    np.testing.assert_allclose([one.observed for one in found.table], observed, atol=0.011)  # an edge's own pair
    np.testing.assert_allclose([one.predicted for one in found.table], predicted, atol=0.011)
    assert found.ece == pytest.approx(np.abs(observed - predicted).mean(), abs=0.005)
    assert found.ece < 0.05  # labels were drawn from these very probabilities
    assert reliability((p / 2).tolist(), y.tolist()).ece > 0.08


def test_brier_and_the_curve_against_scikit_learn() -> None:
    library = pytest.importorskip("sklearn.calibration", reason="needs scikit-learn (comes with the extra 'train')")
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn (comes with the extra 'train')")
    draw = np.random.default_rng(5)
    p = draw.random(800)
    y = (draw.random(800) < p**2).astype(float)
    found = reliability(p.tolist(), y.tolist(), bins=8)
    assert found.brier == pytest.approx(metrics.brier_score_loss(y, p))
    observed, predicted = library.calibration_curve(y, p, n_bins=8, strategy="quantile")
    np.testing.assert_allclose([one.observed for one in found.table], observed, atol=0.011)
    np.testing.assert_allclose([one.predicted for one in found.table], predicted, atol=0.011)


pairs_st = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 1.0])), st.booleans()), min_size=1, max_size=60
)


@given(pairs_st, st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_order_of_pairs_does_not_matter_and_bins_hold_them_all(
    pairs: list[tuple[float, bool]], bins: int, seed: int
) -> None:
    found = reliability(*zip(*pairs, strict=True), bins=bins)
    shuffled = random.Random(seed).sample(pairs, len(pairs))
    other = reliability(*zip(*shuffled, strict=True), bins=bins)
    assert other.ece == pytest.approx(found.ece, abs=1e-12)
    assert [one.count for one in other.table] == [one.count for one in found.table]
    assert sum(one.count for one in found.table) == len(pairs)
    assert 1 <= len(found.table) <= bins
    assert sum(one.count * one.observed for one in found.table) == pytest.approx(sum(label for _, label in pairs))
    assert 0 <= found.ece <= 1
    predicted = [one.predicted for one in found.table]
    assert all(a < b or math.isclose(a, b) for a, b in itertools.pairwise(predicted))
    largest = max(sum(q == p for q, _ in pairs) for p, _ in pairs)  # pairs of one probability stay together
    assert max(one.count for one in found.table) <= math.ceil(len(pairs) / bins) + largest


def test_equal_probabilities_share_a_bin() -> None:
    found = reliability([0.5] * 10, [1] * 5 + [0] * 5, bins=5)  # parted, they would look wholly wrong
    assert found.table == (Bin(10, 0.5, 0.5),)
    assert found.ece == 0


@pytest.mark.parametrize(
    ("p", "y", "bins", "reason"),
    [
        ([], [], 10, "one pair at least"),
        ([0.5], [1, 0], 10, "1 probabilities and 2 labels"),
        ([1.5], [1], 10, "not between 0 and 1"),
        ([math.nan], [1], 10, "not between 0 and 1"),
        ([0.5], [1], 0, "bins is 0"),
    ],
)
def test_what_cannot_be_measured_is_said(p: list[float], y: list[float], bins: int, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        reliability(p, y, bins=bins)
