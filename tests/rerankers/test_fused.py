"""Several rerankers' rankings as one: the arithmetic is fusion's, and every document's fate is somebody's word."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failing_rerankers import Changes, Leaves, Raises, Slow, Watched, loses
from secondpass.cascade import reorder
from secondpass.errors import InputError, SecondpassError
from secondpass.fusion import convex, reciprocal_rank
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.rerankers.fallback import Fallback
from secondpass.rerankers.fused import Fused, Method
from secondpass.scoring.cache import MemoryStore
from secondpass.testing import ManualClock, OverlapReranker, check_reranker
from secondpass.types import NEVER, Deadline, Ranking, Scores, StageTrace, Status, as_ranking

IDS = "abcdef"
RANKING = as_ranking("q", [{"id": name, "text": f"text {name}", "score": -n} for n, name in enumerate(IDS)])


class Fixed:
    """Gives documents the scores that it was told, or a status where it was told one."""

    def __init__(self, says: Mapping[str, float | Status], name: str = "fixed") -> None:
        self.says, self.name = says, name

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        said = [self.says[name] for name in ranking.ids]
        values = tuple(None if isinstance(one, Status) else one for one in said)
        statuses = tuple(one if isinstance(one, Status) else Status.SCORED for one in said)
        spans = tuple((0, len(self.name)) if value is not None else None for value in values)
        trace = StageTrace(self.name, skipped_because=f"{self.name} left some out" if None in values else "")
        hits = reorder(ranking, Scores(values, statuses, spans, trace))
        return Ranking(ranking.query, hits, (*ranking.trace, trace), ranking.query_id)


class Lagging(OverlapReranker):
    """Sees time pass after each pair."""

    def __init__(self, pairs: int) -> None:
        super().__init__()
        self.pairs = pairs

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return super().rerank(ranking, deadline=Deadline(self.pairs + 0.5, ManualClock(tick=1.0)))


@pytest.mark.parametrize("method", ["rrf", "convex"])
@pytest.mark.parametrize("first_stage", [0.0, 0.5])
def test_it_keeps_the_promises(method: Method, first_stage: float) -> None:
    check_reranker(lambda: Fused(OverlapReranker(), method=method, first_stage=first_stage))
    check_reranker(lambda: Fused(OverlapReranker(), Lagging(4), method=method, first_stage=first_stage))
    check_reranker(lambda: Fused(Lagging(2), Fused(OverlapReranker(), OverlapReranker(), method=method)))


scores = st.lists(st.floats(-10, 10), min_size=6, max_size=6)


@settings(deadline=None)
@given(scores, scores, st.floats(0.1, 10), st.floats(0.1, 10))
def test_the_scores_are_those_of_fusion(one: list[float], two: list[float], left: float, right: float) -> None:
    rerankers = [Fixed(dict(zip(IDS, values, strict=True))) for values in (one, two)]
    rankings = [reranker.rerank(RANKING) for reranker in rerankers]
    ways: list[tuple[Method, Callable[..., Ranking]]] = [("rrf", reciprocal_rank), ("convex", convex)]
    for method, fused in ways:
        found = Fused(*rerankers, method=method, weights=[left, right]).rerank(RANKING)
        expected = {hit.document.id: hit.score for hit in fused(rankings, weights=[left, right]).hits}
        total = left + right if method == "rrf" else 1.0
        for hit in found.hits:
            assert hit.score is not None
            assert hit.score * total == pytest.approx(expected[hit.document.id])
        order = sorted(found.hits, key=lambda hit: (-(hit.score or 0.0), hit.first_rank))
        assert list(found.hits) == order
        assert {hit.status for hit in found.hits} == {Status.SCORED}


@pytest.mark.parametrize("method", ["rrf", "convex"])
def test_the_first_stage_counts_as_much_as_is_said(method: Method) -> None:
    backwards = Fixed({name: float(n) for n, name in enumerate(IDS)})
    assert Fused(backwards, method=method).rerank(RANKING).ids == tuple(reversed(IDS))
    assert Fused(backwards, method=method, first_stage=0.5).rerank(RANKING).ids == tuple(reversed(IDS))
    assert Fused(backwards, method=method, first_stage=2).rerank(RANKING).ids == tuple(IDS)
    found = Fused(backwards, method=method, first_stage=3).rerank(RANKING)
    assert found.trace[-1].detail["first_stage"] == 0.75
    nothing = as_ranking("q", ["a", "b"])  # without first-stage scores
    again = Fused(OverlapReranker(), method="convex", first_stage=3).rerank(nothing)
    assert {hit.status for hit in again.hits} == {Status.SCORED}


def test_what_became_of_each_document() -> None:
    one = Fixed({"a": 1.0, "b": Status.DEADLINE, "c": Status.BAD_SCORE, "d": 3.0, "e": Status.EMPTY, "f": 2.0}, "one")
    two = Fixed({"a": 9.0, "b": 8.0, "c": Status.DEADLINE, "d": Status.DEADLINE, "e": Status.EMPTY, "f": 7.0}, "second")
    found = Fused(one, two, method="convex").rerank(RANKING)
    assert [(hit.document.id, hit.status, hit.score) for hit in found.hits] == [
        ("a", Status.SCORED, 0.5),  # (0 + 1) / 2
        ("d", Status.SCORED, 0.5),  # (1 + nothing) / 2
        ("b", Status.SCORED, 0.25),
        ("f", Status.SCORED, 0.25),
        ("c", Status.BAD_SCORE, None),  # the first one's word
        ("e", Status.EMPTY, None),
    ]
    spans = {hit.document.id: hit.span for hit in found.hits}
    assert (spans["a"], spans["b"], spans["c"]) == ((0, 3), (0, 6), None)
    assert all(hit.probability is None for hit in found.hits)
    *entries, last = found.trace
    assert [entry.name for entry in entries] == ["one", "second"]
    assert last.name == "fused"
    assert last.skipped == {"bad_score": 1, "empty": 1}
    assert last.skipped_because == "one left some out; second left some out"
    assert last.detail["of"] == [
        {"name": "fixed", "weight": 0.5, "scored": 3},
        {"name": "fixed", "weight": 0.5, "scored": 3},
    ]


def test_a_score_that_is_no_number_is_none() -> None:
    class Odd(Fixed):
        def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
            found = super().rerank(ranking)
            hits = tuple(replace(hit, score=math.nan) if hit.document.id == "a" else hit for hit in found.hits)
            return replace(found, hits=hits)

    for method in ("rrf", "convex"):
        found = Fused(Odd(dict.fromkeys(IDS, 1.0)), method=method).rerank(RANKING)
        assert (found.hits[-1].document.id, found.hits[-1].status) == ("a", Status.BAD_SCORE)


def test_each_gets_an_equal_share_of_what_is_left() -> None:
    watched, clock = [Watched() for _ in range(3)], ManualClock()
    Fused(*watched).rerank(RANKING, deadline=Deadline(1.2, clock))
    assert [one.given[0].at for one in watched] == pytest.approx([0.4, 0.6, 1.2])  # the clock stood still
    slow, last = Slow(clock.advance), Watched()
    Fused(slow, last).rerank(RANKING, deadline=Deadline(1.2, clock))
    assert [one.given[0].at for one in (slow, last)] == pytest.approx([0.6, 1.2])
    Fused(*watched).rerank(RANKING)
    assert [one.given[1].at for one in watched] == [None] * 3


def test_one_that_scores_nothing_has_no_say_and_all_that_fail_are_a_failure() -> None:
    good, failing = OverlapReranker(), Leaves(Status.FAILED, "status 503")
    found = Fused(failing, good).rerank(as_ranking("the bee", ["a hive", "the bee"]))
    assert found.ids == ("1", "0")
    assert {hit.status for hit in found.hits} == {Status.SCORED}
    assert "failed" not in found.trace[-1].detail
    found = Fused(failing, Leaves(Status.FAILED, "cut")).rerank(RANKING)
    assert found.ids == tuple(IDS)
    assert found.trace[-1].detail["failed"] == "status 503; cut"
    assert Fallback(Fused(failing), good).rerank(RANKING).hits == good.rerank(RANKING).hits


def test_one_that_breaks_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="no such weights"):
        Fused(OverlapReranker(), Raises()).rerank(RANKING)
    with pytest.raises(SecondpassError, match="got 6 documents and gave back 5"):
        Fused(OverlapReranker(), Changes(loses)).rerank(RANKING)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sum"}, "method is 'sum'; known are 'rrf' and 'convex'"),
        ({"weights": [1]}, "there are 2 rerankers but 1 weights"),
        ({"weights": [1, 0]}, "the weights are .*above 0"),
        ({"weights": [1, float("inf")]}, "the weights are"),
        ({"weights": "ab"}, "the weights are"),
        ({"first_stage": -1}, "first_stage is -1"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Fused(OverlapReranker(), OverlapReranker(), **options)


def test_one_score_cache_serves_them_all(tiny: Path, cache: Path) -> None:
    store = MemoryStore(1_000_000)
    options: dict[str, Any] = {"engine": "onnxruntime", "threads": 1, "cache_dir": cache, "cache": store}
    short, long = (CrossEncoder(tiny, max_length=length, **options) for length in (32, 64))
    pipeline = Fallback(Raises(), Fused(short, long, method="convex"))
    ranking = as_ranking("sort list", ["a sorted list", "the bank of a river", "a file"])
    first, second = pipeline.rerank(ranking), pipeline.rerank(ranking)
    assert first.hits == second.hits

    def counts(found: Ranking) -> list[tuple[int, int]]:
        caches = [entry.detail["cache"] for entry in found.trace if "cache" in entry.detail]
        return [(one["hits"], one["misses"]) for one in caches]

    assert counts(first) == [(0, 3), (0, 3)]
    assert counts(second) == [(3, 0), (3, 0)]
    assert len(store) == 6
