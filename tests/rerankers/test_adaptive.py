"""Adaptive depth: what it leaves out, what it never changes, and what it says of itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from secondpass.errors import InputError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.probability import Calibration, Logistic, write_calibration
from secondpass.scoring.stopping import TOP
from secondpass.testing import ManualClock, check_pointwise, check_reranker
from secondpass.types import Deadline, Ranking, Status, as_ranking
from tiny import tiny_checkpoint, tiny_split

QUERY = "river in the list"
TEXTS = [f"{a} {b} {c}" for a in ("river", "list") for b in ("the", "of", "file", "date") for c in "abcdefgh"]
WEIGHT = 2.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny_checkpoint(tmp_path_factory.mktemp("adaptive") / "model", seed=3)
    write_calibration(open_checkpoint(made), Calibration(Logistic(0.9, -2.0), Logistic(0.8, -1.0, first=0.8 * WEIGHT)))
    return made


def opened(folder: Path, graphs: Path, **options: Any) -> CrossEncoder:
    return CrossEncoder(folder, engine="onnxruntime", profile="exact", threads=1, cache_dir=graphs, **options)


@pytest.fixture(scope="module")
def whole(folder: Path, cache: Path) -> Ranking:
    return opened(folder, cache).rerank(found())


def found(texts: list[Any] | None = None, lead: float = 1.0) -> Ranking:
    """A first-stage ranking with falling scores; the first is `lead` ahead of the second."""
    asked: list[Any] = TEXTS if texts is None else texts
    scores = [50.0 + lead, *(50.0 - i for i in range(len(asked) - 1))]
    return as_ranking(QUERY, [{"text": text, "score": score} for text, score in zip(asked, scores, strict=True)])


def expected_count(scores: list[float], patience: int) -> int:
    """Read word by word from the docstring: how many are scored of candidates with these final scores."""
    done = patience
    while done < len(scores):
        top = sorted(range(done), key=lambda i: (-scores[i], i))[:10]
        before = done - patience
        if before >= 10 and not any(i >= before for i in top):
            return done
        done += patience
    return len(scores)


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("patience", [1, 3, 7, 10, 16, 40])
def test_what_was_scored_has_its_full_score_and_the_rest_keeps_its_order(
    folder: Path, cache: Path, patience: int, fuse: bool
) -> None:
    full = {hit.document.id: hit for hit in opened(folder, cache, fuse=fuse).rerank(found()).hits}
    ranking = opened(folder, cache, fuse=fuse, patience=patience).rerank(found())
    scores = [full[str(i)].score or 0.0 for i in range(len(TEXTS))]
    count = expected_count(scores, patience)
    if patience <= 3:
        assert count < len(TEXTS)  # else this would test nothing
    scored, rest = ranking.hits[:count], ranking.hits[count:]
    assert sorted(hit.document.id for hit in scored) == sorted(map(str, range(count)))
    for hit in scored:
        same = full[hit.document.id]
        assert [hit.score, hit.probability] == pytest.approx([same.score, same.probability], abs=1e-4)
    assert [hit.score for hit in scored] == sorted((hit.score or 0.0 for hit in scored), reverse=True)
    assert [hit.document.id for hit in rest] == [str(i) for i in range(count, len(TEXTS))]
    assert all((hit.status, hit.score, hit.probability) == (Status.BEYOND_DEPTH, None, None) for hit in rest)
    trace = ranking.trace[-1]
    told = trace.detail["adaptive"]
    assert (told["asked"], told["of"], trace.pairs_scored) == (count, len(TEXTS), count)
    if count < len(TEXTS):
        assert told["why"] == f"none of the last {patience} came into the top 10"
        assert trace.skipped == {"beyond_depth": len(TEXTS) - count}
        assert trace.skipped_because == f"{len(TEXTS) - count}: {told['why']}"
    else:
        assert told["why"] == "all were asked for"


@pytest.mark.parametrize("patience", [len(TEXTS), 10_000])
def test_patience_of_the_depth_is_the_full_rerank(folder: Path, cache: Path, whole: Ranking, patience: int) -> None:
    ranking = opened(folder, cache, patience=patience).rerank(found())
    assert [(hit.document.id, hit.status, hit.span) for hit in ranking.hits] == [
        (hit.document.id, hit.status, hit.span) for hit in whole.hits
    ]
    assert [hit.score for hit in ranking.hits] == [hit.score for hit in whole.hits]
    assert ranking.trace[-1].detail["adaptive"] == {"asked": 64, "of": 64, "why": "all were asked for"}
    for name in ("tokens", "padded_tokens", "pairs_scored", "skipped", "skipped_because", "truncated"):
        assert getattr(ranking.trace[-1], name) == getattr(whole.trace[-1], name)


def test_off_unless_asked_for(whole: Ranking) -> None:
    assert "adaptive" not in whole.trace[-1].detail


@pytest.mark.parametrize("options", [{"patience": 4}, {"patience": 30, "sure": 50.0}, {"sure": 0.1}])
def test_it_keeps_the_promises_of_every_reranker(folder: Path, cache: Path, options: dict[str, Any]) -> None:
    encoder = opened(folder, cache, **options)
    check_reranker(lambda: encoder)


def test_with_more_patience_than_candidates_it_is_pointwise(folder: Path, cache: Path) -> None:
    encoder = opened(folder, cache, fuse=False, patience=500)
    check_pointwise(lambda: encoder)


def test_the_first_stage_may_be_sure(folder: Path, cache: Path, whole: Ranking) -> None:
    encoder = opened(folder, cache, sure=3.0)
    ranking = encoder.rerank(found(lead=1000.0))
    assert ranking.ids == tuple(map(str, range(len(TEXTS))))
    assert {hit.status for hit in ranking.hits} == {Status.BEYOND_DEPTH}
    trace = ranking.trace[-1]
    assert (trace.pairs_scored, trace.skipped) == (0, {"beyond_depth": 64})
    assert trace.skipped_because == "64: the first stage is sure"
    assert trace.detail["adaptive"]["asked"] == 0
    assert trace.detail["adaptive"]["lead"] > 3.0
    unsure = encoder.rerank(found())
    assert unsure.ids == whole.ids
    assert unsure.trace[-1].detail["adaptive"]["lead"] < 3.0


def test_an_order_that_is_not_the_first_stages_is_not_sure(folder: Path, cache: Path) -> None:
    """After an earlier stage the first stage's favourite may stand elsewhere: then the stages disagree."""
    ranking = found(lead=1000.0)
    turned = Ranking(ranking.query, ranking.hits[::-1])
    assert opened(folder, cache, sure=3.0).rerank(turned).trace[-1].pairs_scored == len(TEXTS)


@pytest.mark.parametrize(
    ("texts", "scores", "why"),
    [
        (TEXTS[:5], [None] * 5, "no first-stage scores"),
        (TEXTS[:2], [9.0, 1.0], "fewer than 3 first-stage scores"),
        (TEXTS[:4], [2.0] * 4, "the first-stage scores are all the same"),
        ([], [], "no first-stage scores"),
    ],
)
def test_without_scores_nothing_is_sure_and_that_is_said(
    folder: Path, cache: Path, texts: list[str], scores: list[float | None], why: str
) -> None:
    documents = [{"text": text, "score": score} for text, score in zip(texts, scores, strict=True)]
    trace = opened(folder, cache, sure=0.01).rerank(as_ranking(QUERY, documents)).trace[-1]
    assert trace.pairs_scored == len(texts)
    told = trace.detail["adaptive"]
    assert (told["asked"], told["lead"], told["unsure_because"]) == (len(texts), None, why)


def test_a_deadline_ends_it_too(folder: Path, cache: Path) -> None:
    encoder = opened(folder, cache, patience=8)
    late = encoder.rerank(found(), deadline=Deadline.after_ms(0))
    assert {hit.status for hit in late.hits} == {Status.DEADLINE}
    assert late.ids == tuple(map(str, range(len(TEXTS))))
    assert late.trace[-1].skipped_because == "64: time was up"
    seen = set()
    for readings in range(1, 60, 3):
        ranking = encoder.rerank(found(), deadline=Deadline(float(readings), ManualClock(tick=1.0)))
        scored = [hit for hit in ranking.hits if hit.status is Status.SCORED]
        left = [hit for hit in ranking.hits if hit.status is not Status.SCORED]
        assert sorted(int(hit.document.id) for hit in scored) == list(range(len(scored)))
        assert list(ranking.hits) == [*scored, *left]
        assert len({hit.status for hit in left}) <= 1  # time was up, or the top had settled: not both
        seen |= {hit.status for hit in left}
    assert Status.DEADLINE in seen


def test_documents_that_cannot_be_scored_keep_their_reason_and_settle_nothing(folder: Path, cache: Path) -> None:
    texts: list[Any] = ["", *[None] * 30, *TEXTS]
    ranking = opened(folder, cache, patience=5).rerank(found(texts))
    trace = ranking.trace[-1]
    assert (trace.skipped["empty"], trace.skipped["not_text"]) == (1, 30)
    assert trace.pairs_scored >= TOP
    assert trace.skipped_because.startswith("1: nothing to score in the document; 30: the document is not text; ")
    long = opened(folder, cache, patience=5).rerank(as_ranking("river " * 200, TEXTS))
    assert {hit.status for hit in long.hits} == {Status.QUERY_TOO_LONG}


def test_counts_of_all_pieces_are_added_up(folder: Path, cache: Path) -> None:
    encoder = opened(folder, cache, patience=8, fuse=False, cache=1_000_000)
    for hits, misses in ((0, 1), (1, 0)):
        trace = encoder.rerank(found()).trace[-1]
        asked = trace.detail["adaptive"]["asked"]
        assert asked > 8
        told = trace.detail["cache"]
        assert (told["hits"], told["misses"], told["hit_rate"]) == (asked * hits, asked * misses, float(hits))
        kept = trace.detail["tokens_kept"]
        assert kept["hits"] + kept["misses"] == asked * misses
    windowed = opened(folder, cache, patience=8, windows=2).rerank(found(["river of the list " * 60, *TEXTS]))
    assert windowed.trace[-1].detail["windows"]["documents"] == 1


@pytest.mark.parametrize("options", [{"patience": 5}, {"sure": 1.0}])
def test_it_does_not_go_with_early_exits(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="neither patience nor sure"):
        CrossEncoder(tiny_split(tmp_path / "split"), cache_dir=tmp_path, go_on=0.5, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"patience": value}, "patience is") for value in (0, -1, 2.5, True, "3")]
    + [({"sure": value}, "sure is") for value in (0, -1.0, math.nan, math.inf, "1")],
)
def test_what_cannot_be_meant_is_refused(folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        CrossEncoder(folder, **options)
