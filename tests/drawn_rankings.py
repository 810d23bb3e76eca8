"""Rankings for the tests of selectors: written down, or drawn by hypothesis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from secondpass.types import Document, Hit, Ranking, StageTrace, Status

RANKER = {"model": "tiny", "digest": "d" * 32, "template": "t" * 16, "calibration": "c" * 16}
WORDS = ("bee", "hive", "sun", "rain", "bank", "list", "sort", "file")


def ranking(
    texts: Sequence[object],
    *,
    scores: Sequence[float | None] | None = None,
    probabilities: Sequence[float | None] | None = None,
    metadata: Sequence[Mapping[str, Any]] | None = None,
    query_id: str = "q",
    ranker: Mapping[str, str] = RANKER,
) -> Ranking:
    """Documents "0", "1", … with these texts, as one reranker left them; without scores as a first stage found them."""
    count = len(texts)
    hits = []
    for i, (text, score, probability, about) in enumerate(
        zip(
            texts,
            scores or [None] * count,
            probabilities or [None] * count,
            metadata or [{}] * count,
            strict=True,
        )
    ):
        status = Status.RETRIEVED if scores is None else Status.DEADLINE if score is None else Status.SCORED
        document = Document(str(i), text, metadata=about)  # type: ignore[arg-type]
        hits.append(Hit(document, score, status, float(-i), i + 1, probability))
    return Ranking("a query", tuple(hits), (StageTrace("reranker", detail=ranker),), query_id)


def judged(probabilities: Sequence[float | None], **more: Any) -> Ranking:
    """Documents that differ in their probabilities alone; the score is the logit."""
    logits = [None if p is None else math.log(max(p, 1e-9) / max(1 - p, 1e-9)) for p in probabilities]
    texts = [f"text number {i}" for i in range(len(probabilities))]
    return ranking(texts, scores=logits, probabilities=probabilities, **more)


def gone(chosen: Ranking) -> dict[str, str]:
    """What the last entry of the trace says was removed, and why."""
    removed: dict[str, str] = chosen.trace[-1].detail["removed"]
    return removed


texts_st = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
probabilities_st = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
