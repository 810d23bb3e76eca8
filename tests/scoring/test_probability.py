"""From logits to P(relevant): the fit is the maximum it claims to be, and the file goes with its model only."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, softmax
from scipy.stats import zscore

from secondpass.errors import InputError, ModelError
from secondpass.scoring.checkpoint import Checkpoint, open_checkpoint
from secondpass.scoring.probability import (
    CALIBRATION,
    Calibration,
    JudgedQuery,
    Logistic,
    fit_calibration,
    fit_order,
    read_calibration,
    standardised,
    write_calibration,
)
from tiny import tiny_checkpoint

SOME = Calibration(Logistic(1.2, -2.0), Logistic(1.0, -2.5, first=0.7))


def judged(
    count: int = 60, *, seed: int = 0, slope: float = 1.3, weight: float = 0.8, intercept: float = -1.5
) -> list[JudgedQuery]:
    """Queries of unequal length whose labels are drawn from a known map of logit and z."""
    draw = np.random.default_rng(seed)
    queries: list[JudgedQuery] = []
    for _ in range(count):
        size = int(draw.integers(8, 40))
        first = draw.gamma(2.0, 3.0, size)
        logits = draw.normal(-1, 2, size)
        labels = draw.random(size) < expit(slope * logits + weight * zscore(first) + intercept)
        queries.append((logits.tolist(), first.tolist(), labels.astype(float).tolist()))
    return queries


def reference(queries: list[JudgedQuery], weight: float = 0.0) -> NDArray[np.float64]:
    """[a, c] of σ(a · (logit + weight · z) + c) by scipy, over the objective as its docstring says."""
    parts = []
    for logits, first, labels in queries:
        scores = np.array(logits, float) + weight * zscore(np.array(first, float))
        parts.append(np.column_stack([scores, np.array(labels), np.full(len(logits), 1 / len(logits))]).astype(float))
    x, y, share = np.concatenate(parts).T
    center = np.average(x, weights=share)
    spread = np.sqrt(np.average((x - center) ** 2, weights=share))

    def objective(beta: NDArray[np.float64]) -> float:
        p = np.clip(expit(x * beta[0] + beta[1]), 1e-300, 1 - 1e-16)
        likelihood = share @ (y * np.log(p) + (1 - y) * np.log1p(-p))
        return float(-likelihood + 0.01 / 2 * (beta[0] * spread) ** 2)

    found = minimize(objective, np.zeros(2), method="Nelder-Mead", options={"fatol": 1e-14, "xatol": 1e-9})
    return np.asarray(found.x, np.float64)


def order_by_scipy(queries: list[JudgedQuery]) -> NDArray[np.float64]:
    """The slopes of logit and z that make each relevant candidate the likeliest beside those that are not."""
    tables = [np.column_stack([np.array(q[0], float), zscore(np.array(q[1], float))]) for q in queries]
    labels = [np.array(q[2], float) > 0 for q in queries]
    spread = np.sqrt(np.mean([table.var(axis=0) for table in tables], axis=0))

    def objective(beta: NDArray[np.float64]) -> float:
        total = 0.01 / 2 * float(np.sum((beta * spread) ** 2))
        for table, relevant in zip(tables, labels, strict=True):
            sums = table @ beta
            chances = [softmax([one, *sums[~relevant]])[0] for one in sums[relevant]]
            total -= float(np.mean(np.log(chances))) if chances and not relevant.all() else 0.0
        return total

    found = minimize(objective, np.zeros(2), method="Nelder-Mead", options={"fatol": 1e-13, "xatol": 1e-9})
    return np.asarray(found.x, np.float64)


@pytest.mark.parametrize("seed", range(3))
def test_the_maximum_is_the_one_that_scipy_finds(seed: int) -> None:
    queries = judged(seed=seed)
    fitted = fit_calibration(queries)
    alone, both = fitted.alone, fitted.with_first
    np.testing.assert_allclose([alone.logit, alone.intercept], reference(queries), atol=1e-5)
    slopes = order_by_scipy(queries)
    assert fitted.weight == pytest.approx(slopes[1] / slopes[0], abs=1e-5)
    np.testing.assert_allclose([both.logit, both.intercept], reference(queries, fitted.weight), atol=1e-5)


def test_what_labels_were_drawn_from_is_found_again() -> None:
    fitted = fit_calibration(judged(800, slope=1.3, weight=0.8, intercept=-1.5))
    both = fitted.with_first
    assert (both.logit, both.first, both.intercept) == pytest.approx((1.3, 0.8, -1.5), rel=0.1)
    assert fitted.weight == pytest.approx(0.8 / 1.3, rel=0.1)
    assert 0 < fitted.alone.logit < both.logit  # what is not told of blurs what is


def test_how_well_a_query_can_be_answered_is_not_counted_for_the_first_stage() -> None:
    """Each query has a level of its own that its logits show and its labels do not: a ranking knows nothing of it."""
    draw = np.random.default_rng(5)
    queries: list[JudgedQuery] = []
    for logits, first, labels in judged(800, slope=1.3, weight=0.8, intercept=-1.5):
        level = float(draw.normal(0, 4))
        queries.append(([(logit or 0) + level for logit in logits], first, labels))
    assert fit_calibration(queries).weight == pytest.approx(0.8 / 1.3, rel=0.1)


def test_each_query_weighs_the_same() -> None:
    queries = judged()
    # one query's candidates five times over: the same mean, five times the rows
    longer = [tuple(list(column) * 5 for column in queries[0]), *queries[1:]]
    one, other = (fit_calibration(some).alone for some in (queries, longer))  # type: ignore[arg-type]
    assert (one.logit, one.intercept) == pytest.approx((other.logit, other.intercept), abs=1e-8)
    # one query's relevant candidates five times over: each is compared with those that are not
    lists = [(np.column_stack([np.array(q[0], float), np.array(q[1], float)]), np.array(q[2], float)) for q in queries]
    scores, labels = lists[0]
    more = np.repeat(scores[labels > 0], 4, axis=0)
    longer_lists = [(np.concatenate([scores, more]), np.append(labels, np.ones(len(more)))), *lists[1:]]
    assert fit_order(longer_lists) == pytest.approx(fit_order(lists), rel=1e-3)  # the penalty's unit moves a little
    assert fit_order([*lists, *lists]) == pytest.approx(fit_order(lists), rel=1e-2)
    assert not np.allclose(fit_order([*lists, *[lists[0]] * 60]), fit_order(lists), rtol=1e-2)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_the_unit_of_the_logits_does_not_matter(factor: float) -> None:
    queries = judged()
    scaled = [([factor * (logit or 0) for logit in logits], first, labels) for logits, first, labels in queries]
    one, other = fit_calibration(queries), fit_calibration(scaled)
    assert other.alone.logit * factor == pytest.approx(one.alone.logit)
    assert other.alone.intercept == pytest.approx(one.alone.intercept)
    assert other.weight == pytest.approx(one.weight * factor)


def with_rows(rows: list[tuple[float | None, float | None, float | None]]) -> list[JudgedQuery]:
    """The queries of `judged`, each with more candidates: (logit, first-stage score, label)."""
    more = list(zip(*rows, strict=True))
    return [
        tuple([*column, *extra] for column, extra in zip(query, more, strict=True))  # type: ignore[misc]
        for query in judged()
    ]


def test_bad_rows_never_enter() -> None:
    # labelled 1 at a low logit, so that one that slipped in would move the fit
    bad = [(None, None, 1.0), (math.nan, None, 1.0), (-math.inf, math.nan, 1.0), (-9.0, None, None)]
    assert fit_calibration(with_rows([*bad, (-9.0, math.inf, math.nan)])) == fit_calibration(judged())


def test_what_the_first_stage_did_not_score_counts_for_the_logit_alone() -> None:
    one, other = fit_calibration(with_rows([(-9.0, None, 1.0)])), fit_calibration(judged())
    assert one.with_first == other.with_first
    assert one.alone.logit < other.alone.logit
    # a query that has no z at all, too
    without: list[JudgedQuery] = [([2.0] * 3, [1.0] * 3, [0.0] * 3)] * 5
    assert fit_calibration([*judged(), *without]).with_first == other.with_first
    assert fit_calibration([*judged(), *without]).alone != other.alone


def test_where_the_first_stage_speaks_against_relevance_it_has_no_say() -> None:
    queries = judged(weight=-0.8)
    fitted = fit_calibration(queries)
    assert fitted.weight == fitted.with_first.first == 0.0
    assert fitted.with_first == fitted.alone  # every candidate of these queries has both scores


def test_data_that_a_threshold_separates_gives_finite_maps() -> None:
    queries: list[JudgedQuery] = [([5.0, 4.0, -4.0, -5.0], [9.0, 8.0, 2.0, 1.0], [1, 1, 0, 0])] * 30
    fitted = fit_calibration(queries)
    assert all(map(math.isfinite, (fitted.alone.logit, fitted.weight, fitted.with_first.intercept)))
    assert fitted.alone([5.0, -5.0]) == pytest.approx([1, 0], abs=0.05)


def test_absurd_scores_do_not_break_the_fit() -> None:
    queries = [
        ([1e6 * (x or 0) for x in logits], [1e300 * (x or 0) for x in first], y) for logits, first, y in judged()
    ]
    expected = fit_calibration(judged())
    fitted = fit_calibration(queries)
    assert fitted.alone.logit * 1e6 == pytest.approx(expected.alone.logit)
    assert fitted.with_first.first == pytest.approx(expected.with_first.first)


@pytest.mark.parametrize(
    ("queries", "reason"),
    [
        ([], "0 queries have judged candidates that are relevant; .* at least 20"),
        (judged(19), "1[0-9] queries have judged candidates that are relevant; .* at least 20"),
        (
            [(x, first, [0.0] * len(x)) for x, first, _ in judged()],
            "0 queries have judged candidates that are relevant",
        ),
        ([(x, first, [1.0] * len(x)) for x, first, _ in judged()], "0 queries have .* that are not relevant"),
        ([(x, [None] * len(x), y) for x, _, y in judged()], "0 queries have .* with first-stage scores that are"),
        (judged(slope=-1.3), "does not rise with the logit"),
    ],
)
def test_what_cannot_be_fitted_is_said(queries: list[JudgedQuery], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        fit_calibration(queries)


def test_columns_must_be_parallel() -> None:
    with pytest.raises(InputError, match="query 1: 2 logits, 1 first-stage scores and 2 labels"):
        fit_calibration([([1.0], [1.0], [1.0]), ([1.0, 2.0], [1.0], [1.0, 0.0])])


# z

finite = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))


@given(st.lists(st.one_of(finite, st.sampled_from([None, math.nan, math.inf])), max_size=12))
@settings(max_examples=60, deadline=None)
def test_z_is_of_the_scores_there_are_and_neutral_elsewhere(scores: list[float | None]) -> None:
    known = [score for score in scores if score is not None and math.isfinite(score)]
    z = standardised(scores)
    if len(known) < 3 or max(known) == min(known):
        assert z is None
        return
    if z is None:  # a difference that rounding of the mean could have made
        assert max(known) - min(known) < 1e-8 * max(map(abs, known))
        return
    missing = [i for i, score in enumerate(scores) if score is None or not math.isfinite(score)]
    assert [z[i] for i in missing] == [0.0] * len(missing)
    np.testing.assert_allclose(np.delete(z, missing), zscore(known), atol=1e-4)


@pytest.mark.parametrize("scores", [[], [1.0, 2.0], [1.0, 2.0, None], [0.1, 0.1, 0.1], [0.0, 0.0, 0.0]])
def test_z_needs_three_scores_that_differ(scores: list[float | None]) -> None:
    assert standardised(scores) is None


@given(
    st.lists(st.floats(0, 100), min_size=3, max_size=9, unique_by=lambda x: round(x, 2)),
    st.floats(0.01, 1e5),
    st.floats(-1e3, 1e3),
)
@settings(max_examples=60, deadline=None)
def test_z_does_not_depend_on_unit_and_zero_of_the_first_stage(scores: list[float], unit: float, zero: float) -> None:
    one, other = standardised(scores), standardised([unit * score + zero for score in scores])
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one, other, atol=1e-4)


# The maps


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=9), st.floats(-3, 3))
@settings(max_examples=60, deadline=None)
def test_a_probability_is_one_and_rises_with_the_logit(logits: list[float], z: float) -> None:
    for chance in (SOME.alone, SOME.with_first):
        p = chance(sorted(logits), np.full(len(logits), z))
        assert ((p >= 0) & (p <= 1)).all()
        assert (np.diff(p) >= 0).all()
        np.testing.assert_allclose(p, expit(chance.logit * np.sort(logits) + chance.first * z + chance.intercept))


def test_absurd_logits_are_no_failure() -> None:
    assert SOME.alone([-1e300, -1e4, 1e4, 1e300]).tolist() == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((0.0, 1.0), "does not rise"),
        ((-1.0, 1.0), "does not rise"),
        ((1.0, 1.0, -0.1), "falls as the first"),
        ((math.nan, 1.0), "not finite"),
        ((1.0, math.inf), "not finite"),
        ((1.0, 1.0, math.nan), "not finite"),
    ],
)
def test_a_map_that_turns_the_order_around_is_refused(values: tuple[float, ...], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        Logistic(*values)


def test_the_map_alone_knows_no_first_stage() -> None:
    with pytest.raises(ModelError, match="alone"):
        Calibration(Logistic(1.0, 0.0, first=0.5), Logistic(1.0, 0.0))


# The file


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint(tmp_path / "m"))


def test_what_is_written_is_read_and_the_model_is_the_same(checkpoint: Checkpoint) -> None:
    assert read_calibration(checkpoint) is None
    fitted = fit_calibration(judged())
    write_calibration(checkpoint, fitted)
    assert read_calibration(checkpoint) == fitted
    assert open_checkpoint(checkpoint.folder).digest == checkpoint.digest


def test_another_models_file_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    other = open_checkpoint(tiny_checkpoint(tmp_path / "other", seed=1))
    write_calibration(other, SOME)
    shutil.copy(other.folder / CALIBRATION, checkpoint.folder / CALIBRATION)
    with pytest.raises(ModelError, match=rf"{CALIBRATION}: .*another model.*fit it again"):
        read_calibration(checkpoint)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda value: "{", "damaged"),
        (lambda value: "[]", "damaged"),
        (lambda value: value | {"alone": None}, "damaged"),
        (lambda value: value | {"alone": {"logit": 1.0}}, "damaged .*intercept"),
        (lambda value: value | {"alone": {"logit": "steep", "intercept": 0}}, "damaged"),
        (lambda value: {"alone": value["alone"], "with_first": value["with_first"]}, "damaged .*model"),
        (lambda value: value | {"alone": {"logit": -1, "intercept": 0}}, "does not rise"),
        (lambda value: value | {"with_first": {"logit": 1, "first": -1, "intercept": 0}}, "falls"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name(checkpoint: Checkpoint, change: Any, reason: str) -> None:
    write_calibration(checkpoint, SOME)
    path = checkpoint.folder / CALIBRATION
    changed = change(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed), encoding="utf-8")
    with pytest.raises(ModelError, match=rf"{CALIBRATION}: .*{reason}"):
        read_calibration(checkpoint)
