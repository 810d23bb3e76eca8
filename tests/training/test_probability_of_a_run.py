"""What a training run fits its calibration on, and what it says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from secondpass.evaluation.calibration import reliability
from secondpass.scoring.probability import fit_calibration, standardised
from secondpass.training.data import Group
from secondpass.training.probability import Parent, calibrated, fused, in_words

SIZE = 12


def pools(name: str, count: int, seed: int = 0) -> list[Group]:
    """Queries whose passages tell their own logits; the first stage's scores are random."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        logits = np.round(draw.normal(0, 2, SIZE), 3)
        first = np.sort(draw.gamma(2, 3, SIZE))[::-1]
        p = np.exp(logits + np.asarray(standardised(first.tolist())))
        positive = int(draw.choice(SIZE, p=p / p.sum()))
        texts = tuple(f"{name} {number} {place}: {logit}" for place, logit in enumerate(logits))
        made.append(Group(name, f"{name} {number}", texts, (), positive, tuple(first.tolist())))
    return made


def score(_: str, texts: tuple[str, ...]) -> Sequence[float]:
    return [float(text.rpartition(" ")[2]) for text in texts]


TRAINED, OTHER = pools("trained", 120), pools("other", 50, seed=1)


def test_one_half_is_fitted_on_and_the_rest_measured() -> None:
    asked: set[str] = set()

    def watched(query: str, texts: tuple[str, ...]) -> Sequence[float]:
        asked.add(query)
        return score(query, texts)

    calibration, report = calibrated([*TRAINED, *OTHER], {"trained"}, watched, seed=5)
    assert calibration is not None
    assert report["fitted_on"] == {"queries": 60, "sets": ["trained"]}
    assert [(row["where"], row["map"], row["queries"]) for row in report["measured"]] == [
        ("in domain", "alone", 60),
        ("in domain", "with_first", 60),
        ("out of domain: other", "alone", 50),
        ("out of domain: other", "with_first", 50),
    ]
    # independently: the numbers of the last row
    p, y = [], []
    for pool in OTHER:
        z = standardised(pool.first_scores)
        both = calibration.with_first
        p += expit(
            both.logit * np.array(score("", pool.passages)) + both.first * np.asarray(z) + both.intercept
        ).tolist()
        y += [place == pool.positive for place in range(SIZE)]
    row, expected = report["measured"][-1], reliability(p, y)
    assert (row["pairs"], row["ece"], row["brier"]) == (600, round(expected.ece, 5), round(expected.brier, 5))
    assert sum(one["count"] for one in row["table"]) == 600
    assert report["weight"] == round(calibration.weight, 4) > 0.3


def test_what_is_held_out_does_not_move_the_fit() -> None:
    calibration, _ = calibrated([*TRAINED, *OTHER], {"trained"}, score, seed=5)
    turned = [Group(p.set, p.query, p.passages, (), SIZE - 1 - p.positive, p.first_scores) for p in OTHER]
    assert calibrated([*TRAINED, *turned], {"trained"}, score, seed=5)[0] == calibration
    assert calibrated(TRAINED, {"trained"}, score, seed=5)[0] == calibration
    assert calibrated(TRAINED, {"trained"}, score, seed=6)[0] != calibration  # another half
    # the half that is measured on does not either: found by leaving queries out one at a time
    moved = sum(
        calibrated([q if q is not pool else turn(q) for q in TRAINED], {"trained"}, score, seed=5)[0] != calibration
        for pool in TRAINED[:20]
    )
    assert 3 <= moved <= 17


def turn(pool: Group) -> Group:
    return Group(pool.set, pool.query, pool.passages, (), (pool.positive + 1) % SIZE, pool.first_scores)


def test_a_query_of_two_sets_is_on_one_side_only() -> None:
    twins = [Group("twin", pool.query.upper(), pool.passages, (), pool.positive, pool.first_scores) for pool in TRAINED]
    calibration, report = calibrated([*TRAINED, *twins], {"trained", "twin"}, score, seed=5)
    assert report["fitted_on"] == {"queries": 120, "sets": ["trained", "twin"]}
    assert calibration is not None
    alone = calibrated(TRAINED, {"trained"}, score, seed=5)[0]
    assert alone is not None
    assert calibration.weight == pytest.approx(alone.weight, rel=0.01)  # the same queries, twice; less penalty each


def test_every_labelled_answer_of_a_pool_counts_as_relevant() -> None:
    graded = [replace(one, labels=tuple(2.0 * (i in (one.positive, 0)) for i in range(SIZE))) for one in TRAINED]
    report = calibrated(graded, {"trained"}, score, seed=5)[1]
    assert 1 / SIZE < report["measured"][0]["relevant"] <= 2 / SIZE


def test_passages_that_could_not_be_scored_do_not_enter() -> None:
    def gaps(query: str, texts: tuple[str, ...]) -> Sequence[float]:
        return [-math.inf if place == 3 else logit for place, logit in enumerate(score(query, texts))]

    _, report = calibrated([*TRAINED, *OTHER], {"trained"}, gaps, seed=5)
    assert {row["pairs"] / row["queries"] for row in report["measured"]} == {SIZE - 1}


def test_a_run_that_cannot_be_calibrated_says_why() -> None:
    for dev, trained in ((TRAINED[:10], {"trained"}), (OTHER, {"trained"}), ([], set())):
        calibration, report = calibrated(dev, trained, score, seed=5)
        assert calibration is None
        assert "at least 20" in report["refused"]
    old = [Group(pool.set, pool.query, pool.passages, (), pool.positive) for pool in TRAINED]
    calibration, report = calibrated(old, {"trained"}, score, seed=5)
    assert calibration is None
    assert "without a first stage's scores" in report["refused"]
    assert "without a first stage's scores" in in_words(report)
    blind = calibrated(TRAINED, {"trained"}, lambda q, texts: [-x for x in score(q, texts)], seed=5)
    assert "does not rise" in blind[1]["refused"]


def bent(query: str, texts: tuple[str, ...]) -> Sequence[float]:
    """Logits on another scale, a little off, and one that could not be scored."""
    noise = np.random.default_rng(len(query)).normal(0, 0.05, len(texts))
    values = 3 * np.array(score(query, texts)) - 1 + noise
    return [-math.inf, *values[1:].tolist()]


def test_with_too_few_queries_the_parent_s_calibration_is_carried_over() -> None:
    theirs = calibrated(TRAINED, {"trained"}, score, seed=5)[0]
    assert theirs is not None
    parent, few = Parent("parent", score, theirs), TRAINED[:30]
    same, report = calibrated(few, {"trained"}, score, seed=5, parent=parent)
    assert same is not None
    assert same.weight == pytest.approx(theirs.weight)
    assert same.alone(2.0) == pytest.approx(theirs.alone(2.0))
    assert report["inherited"] == {"from": "parent", "scale": 1.0, "shift": 0.0}
    assert "at least 20" in report["refused"]
    assert [(row["where"], row["queries"]) for row in report["measured"]] == [
        ("in domain", 30)
    ] * 2  # none was fitted on

    found, report = calibrated([*few, *OTHER], {"trained"}, bent, seed=5, parent=parent)
    assert found is not None
    assert found.weight == pytest.approx(3 * theirs.weight, rel=0.02)  # in logits that are three times as large
    for logit, z in ((-1.0, 0.5), (0.0, 0.0), (2.0, -1.0)):
        assert found.alone(3 * logit - 1) == pytest.approx(theirs.alone(logit), abs=0.01)
        assert found.with_first(3 * logit - 1, z) == pytest.approx(theirs.with_first(logit, z), abs=0.01)
    assert {row["where"] for row in report["measured"]} == {"in domain", "out of domain: other"}
    words = in_words(report)
    assert "inherited from parent" in words
    assert f"counts as {found.weight:.2f} logits" in words


def test_nothing_is_carried_over_where_it_would_mean_nothing() -> None:
    theirs = calibrated(TRAINED, {"trained"}, score, seed=5)[0]
    parent = Parent("parent", score, theirs)
    own = calibrated(TRAINED, {"trained"}, bent, seed=5, parent=parent)[1]
    assert "inherited" not in own  # it has enough of its own
    turned = calibrated(TRAINED, {"trained"}, lambda q, t: [-x for x in score(q, t)], seed=5, parent=parent)
    assert turned[0] is None  # it was told not to rank
    few = TRAINED[:10]
    for dev, mine, of in (
        (few, score, replace(parent, calibration=None)),
        (few, lambda q, texts: [1.0] * len(texts), parent),  # all the same: on no scale
        (few, score, replace(parent, score=lambda q, texts: [1.0] * len(texts))),
        (few, lambda q, texts: [-math.inf] * len(texts), parent),
        ([], score, parent),
    ):
        calibration, report = calibrated(dev, {"trained"}, mine, seed=5, parent=of)
        assert calibration is None
        assert "Not calibrated" in in_words(report)


def test_fused_scores_are_those_of_the_calibration() -> None:
    calibration = fit_calibration([(score("", p.passages), p.first_scores, one_hot(p)) for p in TRAINED])
    pool = TRAINED[0]
    z = np.asarray(standardised(pool.first_scores))
    expected = np.array(score("", pool.passages)) + calibration.with_first.first / calibration.with_first.logit * z
    assert fused(calibration, score("", pool.passages), pool.first_scores) == pytest.approx(expected)
    assert fused(calibration, [1.0, -math.inf], [2.0, 1.0]) == [1.0, -math.inf]


def one_hot(pool: Group) -> list[float]:
    return [float(place == pool.positive) for place in range(SIZE)]


def test_the_card_shows_every_measurement() -> None:
    _, report = calibrated([*TRAINED, *OTHER], {"trained"}, score, seed=5)
    words = in_words(report)
    for row in report["measured"]:
        place = "logit and first stage" if row["map"] == "with_first" else "logit"
        assert f"| {row['where']} | {place} | {row['queries']} | {row['pairs']} | " in words
        assert f"| {row['ece']:.3f} | {row['brier']:.4f} |" in words
    assert "fitted on 60 dev queries" in words
