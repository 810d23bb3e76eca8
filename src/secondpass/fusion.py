"""Several rankings of one query put together into one: the only place that knows how.

Knows: reciprocal ranks, scores made comparable, weighted sums, ties. Refuses to know: who
made the rankings, and what becomes of the result.

    reciprocal_rank([lexical, dense])                            # by position alone
    convex([lexical, dense], weights=[1, 4], minima=[0, -1])     # by score

Both give a new first stage: the union of the documents, each with its fused score as `score` and
`first_score`, its place as `first_rank` and the status RETRIEVED. What the rankings said of a
document (a reranker's status, its span, its probability) is not carried over, and of a document that
several rankings hold the first one's copy is kept. The trace is theirs, one after the other, then one entry
`fusion`.

Ties, and documents without a fused score, go by the best place in any ranking, then by the order of the rankings.
A ranking of weight 0 adds its documents and has no say in the order of the others.

The arithmetic works on columns: one list per ranking, with an entry per document, None where the ranking
says nothing of it. It serves whoever fuses other numbers, such as two scores of one ranking:

    combined([normalised(model_scores), normalised(first_scores)], shares([0.7, 0.3], 2))
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from secondpass.errors import InputError
from secondpass.types import Document, Hit, Ranking, StageTrace

__all__ = ["Normalise", "combined", "convex", "normalised", "reciprocal_rank", "reciprocal_ranks", "shares"]

Normalise = Literal["min-max", "z-score"]


# Rankings


def reciprocal_rank(rankings: Sequence[Ranking], *, weights: Sequence[float] | None = None, k: float = 60) -> Ranking:
    """Reciprocal rank fusion: score = Σ weight / (k + rank) over the rankings that hold the document.

    Ranks are places, 1 the best; scores are not looked at. A larger `k` makes the first places less
    special. `weights` are one per ranking (None: 1 each). Cormack, Clarke and Büttcher, SIGIR 2009.

    Raises InputError for no rankings, rankings of different queries, a document that occurs twice in one
    of them, a weight that is negative or not finite, only zeros as weights, or a negative k.
    """
    begun = time.perf_counter()
    if not (isinstance(k, int | float) and 0 <= k < math.inf):
        raise InputError(f"k is {k!r}; reciprocal rank fusion needs a number from 0 up (60 is usual)")
    factors = _weights(weights, len(rankings))
    documents, places = _union(rankings)
    columns = [reciprocal_ranks([place.get(name) for name in documents], k) for place in places]
    scores: list[float | None] = list(combined(columns, factors))
    detail = {"method": "reciprocal rank", "weights": factors, "k": k}
    return _ranking(rankings, documents, places, factors, scores, detail, begun)


def convex(
    rankings: Sequence[Ranking],
    *,
    weights: Sequence[float] | None = None,
    normalise: Normalise = "min-max",
    minima: Sequence[float | None] | None = None,
) -> Ranking:
    """Convex combination: score = Σ share · normalised score, the shares being the weights over their sum.

    `normalise` and what a document counts that a ranking lacks: see `normalised`. `minima` are the lowest scores
    possible, one per ranking (0 for BM25, −1 for cosine; None: not known): min-max then starts there instead of at
    the lowest score found, so that the last document found still counts for more than one not found. This is
    TM2C2 of Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023.

    A score that is None, NaN or infinite counts as lacking; a document without any other (in a ranking whose weight is
    not 0) comes behind all that have one, with no score.

    Raises InputError as `reciprocal_rank` does, for an unknown `normalise`, and for minima that are not one per
    ranking, not finite, above a score, or for another normalisation.
    """
    begun = time.perf_counter()
    parts = shares(weights, len(rankings))
    lowest = [None] * len(rankings) if minima is None else minima
    if len(lowest) != len(rankings):
        raise InputError(f"there are {len(rankings)} rankings but {len(lowest)} minima; give one per ranking")
    documents, places = _union(rankings)
    columns: list[list[float]] = []
    scored: set[str] = set()
    for ranking, part, low in zip(rankings, parts, lowest, strict=True):
        found = {hit.document.id: hit.score for hit in ranking.hits if _finite(hit.score)}
        columns.append(normalised([found.get(name) for name in documents], normalise, lowest=low))
        if part:
            scored |= found.keys()
    sums = combined(columns, parts)
    scores = [value if name in scored else None for name, value in zip(documents, sums, strict=True)]
    detail = {"method": "convex", "weights": parts, "normalise": normalise}
    if minima is not None:
        detail["minima"] = tuple(minima)
    return _ranking(rankings, documents, places, parts, scores, detail, begun)


def _union(rankings: Sequence[Ranking]) -> tuple[dict[str, Document], list[dict[str, int]]]:
    """Every document by id, and per ranking the places (from 1) of those it holds."""
    if not rankings:
        raise InputError("there are no rankings to fuse; give at least one")
    documents: dict[str, Document] = {}
    places: list[dict[str, int]] = []
    for number, ranking in enumerate(rankings):
        if ranking.query != rankings[0].query:
            raise InputError(
                f"ranking {number} answers {ranking.query[:60]!r}, ranking 0 {rankings[0].query[:60]!r}; "
                "only rankings of one query can be fused"
            )
        place: dict[str, int] = {}
        for rank, hit in enumerate(ranking.hits, start=1):
            if hit.document.id in place:
                raise InputError(f"ranking {number} holds the document {hit.document.id!r} twice; give it once")
            place[hit.document.id] = rank
            documents.setdefault(hit.document.id, hit.document)
        places.append(place)
    return documents, places


def _ranking(
    rankings: Sequence[Ranking],
    documents: Mapping[str, Document],
    places: Sequence[Mapping[str, int]],
    weights: Sequence[float],
    scores: Sequence[float | None],
    detail: Mapping[str, Any],
    begun: float,
) -> Ranking:
    """The documents by falling score, those without one last; ties as the module says."""

    def best_place(name: str) -> tuple[bool, int, int]:
        return min(
            (not weight, place[name], number)
            for number, (weight, place) in enumerate(zip(weights, places, strict=True))
            if name in place
        )

    value = dict(zip(documents, scores, strict=True))

    def order(name: str) -> tuple[float, tuple[bool, int, int]]:
        score = value[name]
        return (math.inf if score is None else -score, best_place(name))

    hits = tuple(
        Hit(documents[name], value[name], first_score=value[name], first_rank=rank)
        for rank, name in enumerate(sorted(documents, key=order), start=1)
    )
    trace = [entry for ranking in rankings for entry in ranking.trace]
    trace.append(StageTrace("fusion", time.perf_counter() - begun, detail=detail))
    query_id = next((ranking.query_id for ranking in rankings if ranking.query_id), "")
    return Ranking(rankings[0].query, hits, tuple(trace), query_id)


# Columns of numbers


def reciprocal_ranks(ranks: Sequence[int | None], k: float = 60) -> list[float]:
    """1 / (k + rank) for each rank, counted from 1; 0 where there is none."""
    return [0.0 if rank is None else 1.0 / (k + rank) for rank in ranks]


def normalised(
    scores: Sequence[float | None], method: Normalise = "min-max", *, lowest: float | None = None
) -> list[float]:
    """Scores on a common scale; adding a number to all of them, or multiplying all by a positive one, changes nothing.

    - min-max: (score − minimum) / (maximum − minimum), from 0 to 1. The minimum is `lowest` where that is given (and
      then moves along with the scores). None counts as the minimum, 0.
    - z-score: (score − mean) / standard deviation (of the population). None counts as the lowest one given.

    Where all scores are equal, nothing is divided: under min-max each is 1 (0 where they equal `lowest`),
    under z-score each is 0 and None is −1, so that having a score is always worth at least as much as having none.

    Raises InputError for an unknown method, a score that is NaN or infinite, a `lowest` that is not finite or above a
    score, or a `lowest` with z-score.
    """
    if method not in get_args(Normalise):
        raise InputError(f"normalise is {method!r}; known are {' and '.join(map(repr, get_args(Normalise)))}")
    if lowest is not None and (method != "min-max" or not _finite(lowest)):
        raise InputError(f"the minimum is {lowest!r} with {method!r}; give a finite number, with 'min-max' only")
    known = [score for score in scores if score is not None]
    if not all(map(_finite, known)):
        raise InputError("a score is NaN or infinite; put None where there is no score")
    if not known:
        return [0.0] * len(scores)
    if method == "min-max":
        base = min(known) if lowest is None else lowest
        if base > min(known):
            raise InputError(f"the minimum is {base!r}, but there is a score of {min(known)!r}; give a lower one")
        span = max(known) - base
        equal, missing = float(lowest is None), 0.0
    else:
        base, span = statistics.fmean(known), statistics.pstdev(known)
        equal, missing = 0.0, (min(known) - base) / span if span else -1.0
    if not span:
        return [missing if score is None else equal for score in scores]
    return [missing if score is None else (score - base) / span for score in scores]


def combined(columns: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """The weighted sum of the columns, row by row; exactly rounded, so the order of the columns does not matter."""
    return [
        math.fsum(weight * value for weight, value in zip(weights, row, strict=True))
        for row in zip(*columns, strict=True)
    ]


def shares(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """`count` weights divided by their sum (None: equal ones).

    Raises InputError for another number of weights, one that is negative or not finite, or only zeros.
    """
    checked = _weights(weights, count)
    total = math.fsum(checked)
    return tuple(weight / total for weight in checked)


def _weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1.0,) * count
    if len(weights) != count:
        raise InputError(f"there are {count} rankings but {len(weights)} weights; give one per ranking")
    if not all(_finite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise InputError(f"the weights are {list(weights)!r}; give finite numbers from 0 up, at least one above 0")
    return tuple(map(float, weights))


def _finite(number: float | None) -> bool:
    return number is not None and math.isfinite(number)
