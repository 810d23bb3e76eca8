"""Several rerankers' rankings of the same candidates put together into one.

Knows: how much time each reranker gets, and what becomes of a document that only some of them scored. Refuses to know:
the arithmetic (`fusion`), and how the rerankers rank.

    Fused(CrossEncoder(), CrossEncoder("my-model"), method="convex", weights=[1, 2], first_stage=0.5)
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from secondpass.cascade import Stage, reorder, stage_name
from secondpass.errors import InputError
from secondpass.fusion import combined, normalised, reciprocal_ranks, shares
from secondpass.types import NEVER, Deadline, Hit, Ranking, Reranker, Scores, StageTrace, Status

__all__ = ["Fused", "Method"]

Method = Literal["rrf", "convex"]


class Fused:
    """Asks every reranker for its ranking of the candidates, and goes by the fused score.

    `method`: "rrf", by reciprocal ranks (k = 60), or "convex", by min-max normalised scores; see `fusion`. `weights`
    are one per reranker (None: 1 each); `first_stage` is what the first stage's own ranking counts beside them, by its
    ranks or its scores. All are divided by their sum.

    A document is scored when some reranker scored it; for those that did not, it counts 0. Where none did, it has the
    status that the first reranker gave it, and keeps its order behind. Its span is that of the first reranker that
    scored it; it has no probability. Fused scores compare within their ranking only. A reranker that scores nothing has
    no say, and one that raises raises here: put it into a `Fallback`.

    Time: one after the other, each with an equal share of the time that is left, so that what one does not need goes to
    those behind it. The trace keeps the entries of all, then has one entry `fused`, of the seconds of the fusing alone.

    Raises InputError for what is no reranker, an unknown method, and weights that are not one per reranker, or no
    finite numbers above 0 (`first_stage`: from 0 up).
    """

    def __init__(
        self,
        first: Reranker,
        *others: Reranker,
        method: Method = "rrf",
        weights: Sequence[float] | None = None,
        first_stage: float = 0.0,
    ) -> None:
        self._rerankers, self._method = (first, *others), method
        for reranker in self._rerankers:
            Stage(reranker)  # what is no reranker is told at once
        if method not in get_args(Method):
            raise InputError(f"method is {method!r}; known are {' and '.join(map(repr, get_args(Method)))}")
        own = [1.0] * len(self._rerankers) if weights is None else list(weights)
        if len(own) != len(self._rerankers):
            raise InputError(
                f"there are {len(self._rerankers)} rerankers but {len(own)} weights; give one per reranker"
            )
        if not all(_number(weight) and weight > 0 for weight in own):
            raise InputError(f"the weights are {own!r}; give numbers above 0, and leave out what should not count")
        if not (_number(first_stage) and first_stage >= 0):
            raise InputError(f"first_stage is {first_stage!r}; give what the first stage counts, a number from 0 up")
        self._shares = shares([*own, first_stage], len(own) + 1)

    def __repr__(self) -> str:
        return f"Fused({', '.join(map(repr, self._rerankers))})"

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        """The candidates by falling fused score; what nobody scored follows in the order given."""
        bare = replace(ranking, trace=())  # what a reranker adds to the trace is then its own
        results = [self._ask(number, bare, deadline) for number in range(len(self._rerankers))]
        begun = time.perf_counter()
        ids = ranking.ids
        columns = [*(self._column(ids, result.hits) for result in results), self._first_stage(ranking.hits)]
        fused = combined(columns, self._shares)
        said = [{hit.document.id: hit for hit in result.hits} for result in results]
        rows = [[by_id[name] for by_id in said] for name in ids]
        telling = [next(filter(_scored, row), row[0]) for row in rows]  # of each document the hit that others follow
        values = tuple(score if _scored(hit) else None for score, hit in zip(fused, telling, strict=True))
        statuses = tuple(hit.status for hit in telling)
        hits = reorder(ranking, Scores(values, statuses, tuple(hit.span for hit in telling), StageTrace("")))
        why = "; ".join(dict.fromkeys(filter(None, map(_because, results))))
        entry = StageTrace(
            "fused",
            time.perf_counter() - begun,
            skipped=dict(Counter(str(hit.status) for hit in hits if hit.status is not Status.SCORED)),
            skipped_because=why if None in values else "",
            detail=self._detail(results, any(value is not None for value in values)),
        )
        added = (entry for result in results for entry in result.trace)
        return Ranking(ranking.query, hits, (*ranking.trace, *added, entry), ranking.query_id)

    def _ask(self, number: int, ranking: Ranking, deadline: Deadline) -> Ranking:
        left = deadline.remaining()
        share = None if left == math.inf else left / (len(self._rerankers) - number)
        return Stage(self._rerankers[number], max(len(ranking), 1)).run(ranking, deadline.sooner(share))

    def _column(self, ids: Sequence[str], hits: Sequence[Hit]) -> list[float]:
        """What a reranker's ranking counts for each document."""
        scored = {hit.document.id: hit.score for hit in hits if _scored(hit)}
        if self._method == "convex":
            return normalised([scored.get(name) for name in ids])
        places = {name: place for place, name in enumerate(scored, 1)}
        return reciprocal_ranks([places.get(name) for name in ids])

    def _first_stage(self, hits: Sequence[Hit]) -> list[float]:
        if self._method == "convex":
            return normalised([hit.first_score if _number(hit.first_score) else None for hit in hits])
        return reciprocal_ranks([hit.first_rank for hit in hits])

    def _detail(self, results: Sequence[Ranking], any_scored: bool) -> dict[str, Any]:
        """The weights as they count, how many documents each reranker scored, and why none did if one says why."""
        *own, first = self._shares
        names = [stage_name(reranker) for reranker in self._rerankers]
        scored = [sum(map(_scored, result.hits)) for result in results]
        detail: dict[str, Any] = {
            "method": self._method,
            "of": [{"name": n, "weight": w, "scored": s} for n, w, s in zip(names, own, scored, strict=True)],
            "first_stage": first,
        }
        told = [str(why) for result in results if result.trace and (why := result.trace[-1].detail.get("failed"))]
        return detail if any_scored or not told else {**detail, "failed": "; ".join(told)}


def _scored(hit: Hit) -> bool:
    return hit.status is Status.SCORED and _number(hit.score)


def _because(result: Ranking) -> str:
    return result.trace[-1].skipped_because if result.trace else ""


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
