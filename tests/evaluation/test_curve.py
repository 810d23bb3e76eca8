"""The depth curve is what a pointwise reranker gives at each depth; the front holds what nothing outdoes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.evaluation.audit import audit
from secondpass.evaluation.curve import depth_curve, front
from secondpass.evaluation.headroom import decompose
from secondpass.evaluation.metrics import parse_metric

Ranked = dict[str, list[str]]


def pointwise(
    seed: int, queries: int = 12, pool: int = 30
) -> tuple[dict[str, dict[str, int]], Ranked, dict[str, dict[str, float]]]:
    """Judgments, a first order, and a score a document, for pools of up to `pool` documents."""
    rng = np.random.default_rng(seed)
    qrels: dict[str, dict[str, int]] = {}
    before: Ranked = {}
    scores: dict[str, dict[str, float]] = {}
    for i in range(queries):
        ids = [f"d{j}" for j in range(int(rng.integers(0, pool + 1)))]
        qrels[f"q{i}"] = {"missed": 1} | {str(d): int(rng.integers(0, 4)) for d in rng.permutation(ids)[:6]}
        before[f"q{i}"] = [str(d) for d in rng.permutation(ids)]
        scores[f"q{i}"] = {d: float(rng.normal()) for d in ids}
    return qrels, before, scores


def reranked(before: Ranked, scores: dict[str, dict[str, float]], depth: int) -> Ranked:
    return {q: sorted(ids[:depth], key=lambda d: -scores[q][d]) + ids[depth:] for q, ids in before.items()}


@pytest.mark.parametrize("metric", ["ndcg@10", "ndcg@3", "mrr@5", "map", "recall@4", "precision@10"])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_depth_is_what_reranking_so_many_gives(metric: str, seed: int) -> None:
    qrels, before, scores = pointwise(seed)
    compute, depths = parse_metric(metric), [1, 2, 5, 10, 17, 30, 500]
    curve = depth_curve(before, reranked(before, scores, 10_000), qrels, compute, depths, resamples=200)
    assert [point.depth for point in curve] == [1, 2, 5, 10, 17, 30][: len(curve)]
    for point in curve:
        run = {
            q: [(d, -float(i)) for i, d in enumerate(ids)] for q, ids in reranked(before, scores, point.depth).items()
        }
        value = np.mean([compute([d for d, _ in run[q]], grades) for q, grades in qrels.items()])
        assert point.value == pytest.approx(value, abs=1e-12)
        cut = {q: [(d, -float(i)) for i, d in enumerate(ids[: point.depth])] for q, ids in before.items()}
        assert point.best == pytest.approx(
            decompose(cut, cut, qrels, metric=compute, depth=point.depth).best, abs=1e-12
        )
        assert point.interval[0] - 1e-9 <= point.difference <= point.interval[1] + 1e-9
    if metric == "ndcg@10":
        found = [
            sum(d in before[q] and g > 0 for d, g in grades.items()) / sum(g > 0 for g in grades.values())
            for q, grades in qrels.items()
        ]
        assert curve[-1].recall == pytest.approx(np.mean(found))


def test_there_is_no_curve_where_the_order_of_some_is_unknown() -> None:
    qrels, before, scores = pointwise(0)
    after = reranked(before, scores, 100)
    longest = max(after, key=lambda q: len(after[q]))
    after[longest] = after[longest][:-1]
    assert depth_curve(before, after, qrels, parse_metric("ndcg@10"), [10]) == ()


def test_the_audit_has_the_curve_its_peak_and_where_there_is_none_says_so() -> None:
    # the relevant document stands at rank 3; a wrong one that the reranker loves at rank 15
    qrels = {f"q{i}": {"d2": 1} for i in range(30)}
    ids = [f"d{j}" for j in range(20)]
    before = {q: [(d, -float(i)) for i, d in enumerate(ids)] for q in qrels}
    scores = {d: (2.0 if d == "d14" else 1.0 if d == "d2" else 0.0) for d in ids}
    after = {q: sorted(((d, scores[d]) for d in ids), key=lambda pair: -pair[1]) for q in qrels}
    verdict = audit(before, after, qrels, depth=20, metric="mrr@10", depths=(5, 10, 15))
    assert [(point.depth, point.value) for point in verdict.curve] == [(5, 1.0), (10, 1.0), (15, 0.5), (20, 0.5)]
    assert verdict.peak is not None
    assert verdict.peak.depth == 5
    assert verdict.to_dict()["peak_depth"] == 5
    cut = audit(before, {q: run[:10] for q, run in after.items()}, qrels, depth=20)
    assert cut.curve == ()
    assert cut.peak is None
    assert any("no depth curve" in note for note in cut.notes)


points = st.lists(st.tuples(st.none() | st.integers(0, 5).map(float), st.integers(0, 5).map(float)), max_size=12)


@given(points)
def test_the_front_is_what_nothing_outdoes(some: list[tuple[float | None, float]]) -> None:
    kept = front(some)
    assert len(kept) == len(some)
    known = [(cost, value) for cost, value in some if cost is not None]
    assert any(kept) == bool(known)
    for (cost, value), on in zip(some, kept, strict=True):
        if cost is None:
            assert not on
            continue
        outdone = [p for p in known if p != (cost, value) and p[0] <= cost and p[1] >= value]
        assert on == (not outdone)
