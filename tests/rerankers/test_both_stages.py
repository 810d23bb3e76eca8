"""Both stages together: what fusing changes, what it never changes, and what it says of itself."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import zscore

from secondpass.cascade import Cascade, Stage
from secondpass.errors import InputError, ModelError
from secondpass.rerankers.both_stages import BothStages
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.probability import Calibration, Logistic, write_calibration
from secondpass.testing import check_pointwise, check_reranker
from secondpass.types import Deadline, Hit, Ranking, Scores, StageTrace, Status, as_ranking
from tiny import tiny_checkpoint

WEIGHT = 1.5
CALIBRATION = Calibration(Logistic(0.9, -2.0), Logistic(0.8, -1.0, first=0.8 * WEIGHT))
QUERY = "sort a list"
TEXTS = ["sort a list in place", "a snake on the river bank", "file date", "the python language", "query of a string"]
FIRST = [9.0, 7.5, 7.0, 4.0, 1.0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny cross-encoder with a calibration."""
    made = tiny_checkpoint(tmp_path_factory.mktemp("calibrated") / "model", seed=3)
    write_calibration(open_checkpoint(made), CALIBRATION)
    return made


def opened(folder: Path, graphs: Path, **options: Any) -> CrossEncoder:
    return CrossEncoder(folder, engine="onnxruntime", profile="exact", threads=1, cache_dir=graphs, **options)


@pytest.fixture(scope="module")
def encoder(folder: Path, cache: Path) -> CrossEncoder:
    return opened(folder, cache)


def found(first: list[float | None] | None = None) -> Ranking:
    """A first-stage ranking of TEXTS with these scores."""
    scores = FIRST if first is None else first
    documents = [
        {"id": str(i), "text": text, "score": score} for i, (text, score) in enumerate(zip(TEXTS, scores, strict=True))
    ]
    return as_ranking(QUERY, documents)


def by_id(ranking: Ranking) -> dict[str, Hit]:
    return {hit.document.id: hit for hit in ranking.hits}


def logits_of(encoder: CrossEncoder) -> list[float]:
    values = encoder.score(QUERY, TEXTS).values
    return [value for value in values if value is not None]


def test_order_score_and_probability_follow_both(encoder: CrossEncoder) -> None:
    logits, z = np.array(logits_of(encoder)), zscore(FIRST)
    ranking = encoder.rerank(found())
    fused = logits + WEIGHT * z
    assert ranking.ids == tuple(str(i) for i in np.argsort(-fused))
    assert ranking.ids != tuple(str(i) for i in np.argsort(-logits))
    hits = by_id(ranking)
    assert [hits[str(i)].score for i in range(5)] == pytest.approx(fused, abs=1e-4)
    expected = expit(0.8 * logits + 0.8 * WEIGHT * z - 1.0)
    assert [hits[str(i)].probability for i in range(5)] == pytest.approx(expected, abs=1e-4)
    assert [hits[str(i)].first_score for i in range(5)] == FIRST
    chances = [hit.probability for hit in ranking.hits]
    assert chances == sorted(chances, reverse=True)  # type: ignore[type-var]
    assert ranking.trace[-1].detail["fused"] == {"weight": WEIGHT, "first_scores": 5}


def test_the_first_stages_unit_does_not_matter(encoder: CrossEncoder) -> None:
    one, other = encoder.rerank(found()), encoder.rerank(found([0.001 * score + 30 for score in FIRST]))
    assert one.ids == other.ids
    assert [hit.score for hit in one.hits] == pytest.approx([hit.score for hit in other.hits], abs=1e-4)


@pytest.mark.parametrize(
    ("first", "why", "count"),
    [
        ([None] * 5, "no first-stage scores", 0),
        ([3.0, None, 1.0, None, None], "fewer than 3 first-stage scores", 2),
        ([2.0] * 5, "the first-stage scores are all the same", 5),
        ([math.nan, math.inf, 1.0, None, 2.0], "fewer than 3 first-stage scores", 2),
    ],
)
def test_without_scores_to_go_by_the_logits_stand_alone(
    encoder: CrossEncoder, first: list[float | None], why: str, count: int
) -> None:
    logits = logits_of(encoder)
    ranking = encoder.rerank(found(first))
    hits = by_id(ranking)
    assert [hits[str(i)].score for i in range(5)] == pytest.approx(logits, abs=1e-4)
    assert [hits[str(i)].probability for i in range(5)] == pytest.approx(expit(0.9 * np.array(logits) - 2), abs=1e-4)
    assert ranking.trace[-1].detail["fused"] == {"weight": 0.0, "first_scores": count, "why": why}


def test_a_document_that_the_first_stage_did_not_score_is_neither_raised_nor_lowered(encoder: CrossEncoder) -> None:
    first: list[float | None] = [9.0, None, 7.0, 4.0, 1.0]
    logits = logits_of(encoder)
    ranking = encoder.rerank(found(first))
    hits = by_id(ranking)
    z = zscore([9.0, 7.0, 4.0, 1.0])
    assert hits["1"].score == pytest.approx(logits[1], abs=1e-4)
    assert hits["1"].probability == pytest.approx(expit(0.8 * logits[1] - 1.0), abs=1e-4)
    others = [hits[name].score for name in ("0", "2", "3", "4")]
    assert others == pytest.approx(np.delete(logits, 1) + WEIGHT * z, abs=1e-4)
    chances = [hit.probability for hit in ranking.hits]
    assert chances == sorted(chances, reverse=True)  # type: ignore[type-var]
    assert ranking.trace[-1].detail["fused"]["first_scores"] == 4


def test_fuse_false_is_the_model_alone(folder: Path, cache: Path, encoder: CrossEncoder) -> None:
    ranking = opened(folder, cache, fuse=False).rerank(found())
    logits = logits_of(encoder)
    hits = by_id(ranking)
    assert [hits[str(i)].score for i in range(5)] == pytest.approx(logits, abs=1e-4)
    assert [hits[str(i)].probability for i in range(5)] == pytest.approx(expit(0.9 * np.array(logits) - 2), abs=1e-4)
    assert ranking.trace[-1].detail["fused"]["why"] == "fuse=False"


@pytest.mark.parametrize("weight", [0, 0.25, 40.0])
def test_a_weight_of_the_callers_own(folder: Path, cache: Path, encoder: CrossEncoder, weight: float) -> None:
    logits, z = np.array(logits_of(encoder)), zscore(FIRST)
    hits = by_id(opened(folder, cache, fuse=weight).rerank(found()))
    assert [hits[str(i)].score for i in range(5)] == pytest.approx(logits + weight * z, abs=1e-4)
    chances = [hits[str(i)].probability for i in range(5)]  # what both say of relevance is not a matter of taste
    assert chances == pytest.approx(expit(0.8 * logits + 0.8 * WEIGHT * z - 1.0), abs=1e-4)
    if weight == 40.0:
        assert opened(folder, cache, fuse=weight).rerank(found()).ids == ("0", "1", "2", "3", "4")


def test_a_folder_without_calibration(tiny: Path, cache: Path) -> None:
    plain = opened(tiny, cache)
    ranking = plain.rerank(found())
    logits = dict(zip("01234", logits_of(plain), strict=True))
    assert [hit.score for hit in ranking.hits] == sorted(logits.values(), reverse=True)
    assert {hit.probability for hit in ranking.hits} == {None}
    why = "the model folder has no calibration"
    assert ranking.trace[-1].detail["fused"] == {"weight": 0.0, "first_scores": 5, "why": why}
    weighed = opened(tiny, cache, fuse=2.0).rerank(found())
    scores = [hit.score for hit in by_id(weighed).values()]
    assert sorted(scores) == pytest.approx(sorted(np.array([*logits.values()]) + 2 * zscore(FIRST)), abs=1e-4)  # type: ignore[type-var]
    assert {hit.probability for hit in weighed.hits} == {None}
    assert weighed.trace[-1].detail["fused"] == {"weight": 2.0, "first_scores": 5}


def test_logits_stay_logits_for_whoever_asks_for_them(encoder: CrossEncoder, folder: Path, cache: Path) -> None:
    plain = opened(folder, cache, fuse=False)
    pairs = [(QUERY, text) for text in TEXTS]
    np.testing.assert_array_equal(encoder.predict(pairs), plain.predict(pairs))
    assert encoder.rank(QUERY, TEXTS) == plain.rank(QUERY, TEXTS)
    assert encoder.score(QUERY, TEXTS).values == plain.score(QUERY, TEXTS).values


def test_what_cannot_be_scored_keeps_place_and_status_and_has_no_probability(encoder: CrossEncoder) -> None:
    ranking = found()
    empty = replace(ranking.hits[0], document=replace(ranking.hits[0].document, text=""), probability=0.5)
    given = replace(ranking, hits=(empty, *ranking.hits[1:]))
    last = encoder.rerank(given).hits[-1]
    assert (last.document.id, last.status, last.score, last.probability) == ("0", Status.EMPTY, None, None)
    # it is the first stage's best all the same, and counts for what the others are compared with
    scores = [hit.score for hit in sorted(encoder.rerank(given).hits, key=lambda hit: hit.document.id)[1:]]
    assert scores == pytest.approx((np.array(logits_of(encoder)) + WEIGHT * zscore(FIRST))[1:], abs=1e-4)


def test_a_deadline_decides_what_is_scored_and_never_a_score(encoder: CrossEncoder) -> None:
    both = BothStages(CALIBRATION)
    logits, scored = (3.0, 0.5, -1.0, 2.0, 0.0), (Status.SCORED,) * 5
    full, chances = both(found(), Scores(logits, scored, (None,) * 5, StageTrace("x")))
    for count in range(5):
        cut = Scores(
            logits[:count] + (None,) * (5 - count),
            scored[:count] + (Status.DEADLINE,) * (5 - count),
            (None,) * 5,
            StageTrace("x"),
        )
        partial, some = both(found(), cut)
        assert partial.values == full.values[:count] + (None,) * (5 - count)
        assert some == [*chances[:count], *[None] * (5 - count)]
        assert partial.statuses == cut.statuses
    assert encoder.rerank(found(), deadline=Deadline.after_ms(0)).ids == found().ids


def test_each_of_two_stages_goes_by_the_first_stages_scores(folder: Path, cache: Path, encoder: CrossEncoder) -> None:
    second = opened(folder, cache, fuse=0.5)
    both = Cascade(None, Stage(encoder, depth=5), Stage(second, depth=4)).rerank(found())
    kept = encoder.rerank(found()).ids[:4]
    z = dict(zip(kept, zscore([FIRST[int(name)] for name in kept]), strict=True))
    logits = logits_of(encoder)
    hits = by_id(both)
    assert {name: hits[name].score for name in kept} == pytest.approx(
        {name: logits[int(name)] + 0.5 * z[name] for name in kept}, abs=1e-4
    )
    assert [hits[str(i)].first_score for i in range(5)] == FIRST
    (beyond,) = set(hits) - set(kept)
    assert (hits[beyond].status, hits[beyond].probability) == (Status.BEYOND_DEPTH, None)
    assert [step.detail["fused"]["weight"] for step in both.trace] == [WEIGHT, 0.5]


@pytest.mark.parametrize("options", [{}, {"fuse": 3.0}, {"cache": 1_000_000}, {"windows": 2}], ids=str)
def test_it_keeps_the_promises_of_every_reranker(folder: Path, cache: Path, options: dict[str, Any]) -> None:
    encoder = opened(folder, cache, **options)
    check_reranker(lambda: encoder)
    ranking = encoder.rerank(found())
    hits = by_id(ranking)
    weight = options.get("fuse", WEIGHT)
    expected = np.array(logits_of(encoder)) + weight * zscore(FIRST)
    assert [hits[str(i)].score for i in range(5)] == pytest.approx(expected, abs=1e-4)
    again = encoder.rerank(found())
    assert [hit.score for hit in again.hits] == [hit.score for hit in ranking.hits]  # nothing fused was kept as a logit


def test_alone_it_is_pointwise_with_a_calibration_too(folder: Path, cache: Path) -> None:
    encoder = opened(folder, cache, fuse=False)
    check_pointwise(lambda: encoder)


@pytest.mark.parametrize("fuse", [-0.1, math.nan, math.inf, "yes", None])
def test_a_weight_that_cannot_be_meant_is_refused(tiny: Path, fuse: Any) -> None:
    with pytest.raises(InputError, match="give True, False, or a weight from 0 up"):
        CrossEncoder(tiny, fuse=fuse)


def test_a_foreign_calibration_is_refused_at_once(tmp_path: Path, cache: Path) -> None:
    made = tiny_checkpoint(tmp_path / "m")
    write_calibration(open_checkpoint(made), CALIBRATION)
    tiny_checkpoint(made, seed=1)  # other weights, the old file
    for fuse in (True, False):
        with pytest.raises(ModelError, match="made for another model"):
            opened(made, cache, fuse=fuse)


def test_a_score_that_is_no_number_stays_without_probability() -> None:
    scores = Scores((math.nan, 1.0), (Status.SCORED, Status.SCORED), (None, None), StageTrace("x"))
    values, probabilities = BothStages(CALIBRATION)(as_ranking("q", ["a", "b"]), scores)
    assert math.isnan(values.values[0] or 0)
    assert probabilities[0] is None
    assert probabilities[1] == pytest.approx(expit(0.9 - 2))
