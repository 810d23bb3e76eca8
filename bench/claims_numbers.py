"""The statistics of claims.py: values per query, intervals over queries, and the rules that make words of them.

Knows: rankings, judgments, numbers. Refuses to know: what a claim says, where rankings and times come from.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise, permutations
from math import inf, isfinite, nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondpass.evaluation.metrics import evaluate
from secondpass.evaluation.significance import bootstrap_interval
from secondpass.fusion import combined, reciprocal_ranks

METRIC = "ndcg@10"
MOST = 0.5  # of the cells must be decided, all the same way, for a plain word
SURE = 0.05
EXACT = 7  # blocks up to which all orders are tried
DRAWN = 20_000  # orders tried where there are more

HOLDS, DOES_NOT, CONDITIONS, UNKNOWN = "holds", "does not hold", "holds under conditions", "cannot tell"
WORDS = (HOLDS, CONDITIONS, DOES_NOT, UNKNOWN)

Floats = NDArray[np.float64]
Qrels = Mapping[str, Mapping[str, int]]
Orders = Mapping[str, Sequence[str]]


class Values(NamedTuple):
    """Of one collection and first stage, per judged query: N0, N*, NC, and recall of the pool. float64[queries]."""

    first: Floats
    best: Floats
    reranked: Floats
    recall: Floats

    @property
    def gain(self) -> Floats:
        """NC − N0."""
        return self.reranked - self.first

    @property
    def headroom(self) -> Floats:
        """N* − N0."""
        return self.best - self.first


class Estimate(NamedTuple):
    """A number and its interval; NaN where it is 0 / 0."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one claim: the word, one sentence made of numbers, the rule the word follows from.

    `numbers` are JSON: single numbers by name, and under "rows" the table (a list of dicts with the same keys).
    """

    number: int
    claim: str
    word: str
    conditions: str
    rule: str
    numbers: dict[str, Any]

    def as_row(self) -> dict[str, Any]:
        """As claims.json has it."""
        return asdict(self)


# Orders


def by_score(pool: Sequence[str], scores: Mapping[str, float | None]) -> list[str]:
    """The pool by falling score; ties and what has no score in the pool's order, the latter behind."""
    return sorted(pool, key=lambda one: -inf if (score := scores[one]) is None else score, reverse=True)


def fused(pool: Sequence[str], rankings: Sequence[Sequence[str]]) -> list[str]:
    """The pool by reciprocal rank (k = 60) in the rankings, which need not hold all of it; ties in the pool's order."""
    places = [{one: rank for rank, one in enumerate(ranking, 1)} for ranking in rankings]
    columns = [reciprocal_ranks([place.get(one) for one in pool]) for place in places]
    return by_score(pool, dict(zip(pool, combined(columns, [1.0] * len(columns)), strict=True)))


def cascaded(cheap: Sequence[str], scores: Mapping[str, float | None], depth: int) -> list[str]:
    """The first `depth` of `cheap` by score, the others behind as they are."""
    return [*by_score(cheap[:depth], scores), *cheap[depth:]]


def thinned(pools: Orders, qrels: Qrels, share: float, seed: int) -> dict[str, list[str]]:
    """The pools without each relevant document with probability `share`.

    A document's fate hangs on query, document and seed alone, so a larger share takes out what a smaller one does, and
    from all first stages the same.
    """
    return {
        query_id: [
            one
            for one in pool
            if qrels[query_id].get(one, 0) <= 0 or random.Random(f"{seed} {query_id} {one}").random() >= share
        ]
        for query_id, pool in pools.items()
    }


def measured(orders: Orders, qrels: Qrels, metric: str = METRIC) -> Floats:
    """The metric per query of `qrels`, in its order."""
    runs = {query_id: [(one, 0.0) for one in order] for query_id, order in orders.items()}
    return np.array(list(evaluate(runs, qrels, metric).values()))


def values_of(pools: Orders, reranked: Orders, qrels: Qrels) -> Values:
    """N0, N*, NC and recall@100. N* is computed by sorting the pool by grade, and nothing is checked against it."""
    best = {
        query_id: sorted(pool, key=lambda one, grades=qrels[query_id]: -grades.get(one, 0))  # type: ignore[misc]
        for query_id, pool in pools.items()
    }
    first, ideal, after = (measured(one, qrels) for one in (pools, best, reranked))
    return Values(first, ideal, after, measured(pools, qrels, "recall@100"))


# Intervals


def estimated(
    columns: Floats,
    of: Callable[[Floats], Floats],
    *,
    strata: Sequence[int] | None = None,
    cells: int = 1,
    resamples: int = 10_000,
) -> Estimate:
    """`of` the column sums, with its percentile bootstrap interval over rows (queries).

    `columns` is float64[queries, k]; `of` takes sums [..., k] and gives [...], such as a ratio of two of them. Rows are
    drawn again within their stratum, so that collections keep their weights. `cells` intervals together hold with 95 %
    (Bonferroni). Infinite ends: fewer than two rows, or 0 / 0 in more than one of twenty resamples.
    """
    rows = np.zeros(len(columns), dtype=np.int64) if strata is None else np.asarray(strata)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(of(columns.sum(axis=0)))
        drawn = np.zeros((resamples, columns.shape[1]))
        for stratum in np.unique(rows):
            own = columns[rows == stratum]
            drawn += _counts(len(own), int(stratum), resamples) @ own
        found = of(drawn)
    found = found[np.isfinite(found)]
    if len(columns) < 2 or len(found) < 0.95 * resamples:
        return Estimate(value if isfinite(value) else nan, -inf, inf)
    low, high = np.quantile(found, [SURE / cells / 2, 1 - SURE / cells / 2])
    return Estimate(value, float(low), float(high))


@lru_cache(maxsize=16)
def _counts(rows: int, stratum: int, resamples: int) -> Floats:
    """How often each row is drawn in each resample. Every interval is from the same draws."""
    drawn = np.random.default_rng((stratum, rows)).integers(0, rows, size=(resamples, rows))
    drawn += rows * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(np.float64)


def ratio(sums: Floats) -> Floats:
    """The first column over the second: a mean where the second counts, κ where it is the headroom."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def mean(differences: Floats, *, cells: int = 1) -> Estimate:
    """The mean of differences between −1 and 1 with the audit's own interval, made for few queries that differ."""
    low, high = bootstrap_interval(differences, level=1 - SURE / cells)
    return Estimate(float(differences.mean()), low, high)


def over_rounds(
    times: Floats, of: Callable[[Floats], Sequence[float]], *, cells: int = 1, resamples: int = 1_000
) -> list[Estimate]:
    """Numbers `of` the medians of `times` [points, rounds], with intervals from rounds drawn again as a whole.

    `of` takes the points' medians and gives as many numbers each time; `cells` as for `estimated`.
    """
    rounds = times.shape[1]
    drawn = np.random.default_rng(0).integers(0, rounds, size=(resamples, rounds))
    found = np.array([of(medians) for medians in np.median(times[:, drawn], axis=2).T])
    low, high = np.quantile(found, [SURE / cells / 2, 1 - SURE / cells / 2], axis=0).tolist()
    return [Estimate(*three) for three in zip(of(np.median(times, axis=1)), low, high, strict=True)]


# Rules


def side(estimate: Estimate, low: float = 0.0, high: float = inf) -> bool | None:
    """True where the whole interval lies between low and high, False where it lies outside, None where that is open.

    An interval that touches an end is open: no change at all is neither a gain nor a loss.
    """
    if low < estimate.low and estimate.high < high:
        return True
    return False if estimate.high < low or estimate.low > high else None


def word(sides: Sequence[bool | None]) -> str:
    """One word for many cells.

    Decided both ways: holds under conditions. Else the way of those decided, where they are at least half of all; or
    it cannot be told.
    """
    yes, no = sum(one is True for one in sides), sum(one is False for one in sides)
    if yes and no:
        return CONDITIONS
    if not sides or yes + no < MOST * len(sides) or not yes + no:
        return UNKNOWN
    return HOLDS if yes else DOES_NOT


# Words


def untold(number: int, claim: str, why: str, rows: list[dict[str, Any]]) -> Finding:
    """What is said of a claim that could not be measured, and why."""
    return Finding(number, claim, UNKNOWN, why, "Without it there is nothing to judge by.", {"rows": rows})


def ends(estimate: Estimate) -> list[float]:
    """The interval, as JSON has it."""
    return [estimate.low, estimate.high]


def said_as(estimate: Estimate, how: str = "+.2f") -> str:
    """A number and its interval in a sentence."""
    return f"{estimate.value:{how}} ({estimate.low:{how}} to {estimate.high:{how}})"


# Prediction


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; 0 where all of one are alike."""
    a, b = _centred_ranks(one), _centred_ranks(other)
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length else 0.0


def _centred_ranks(values: Sequence[float]) -> Floats:
    _, inverse, sizes = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2.0)[inverse]
    return np.asarray(ranks - ranks.mean(), dtype=np.float64)


def block_p(predictor: Sequence[Sequence[float]], outcome: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Two-sided p of Spearman's correlation by exchanging whole blocks (collections), and how many orders were tried.

    Both are given by block, with as many rows in each. All orders where there are at most seven blocks, the observed
    one among them; else 20,000 drawn by a seed, with (b + 1) / (m + 1).
    """
    a = _centred_ranks([value for block in predictor for value in block]).reshape(len(predictor), -1)
    b = _centred_ranks([value for block in outcome for value in block])
    count, draw = len(predictor), random.Random(0)
    every = count <= EXACT
    orders = list(permutations(range(count))) if every else [draw.sample(range(count), count) for _ in range(DRAWN)]
    sums = np.abs(a[np.array(orders)].reshape(len(orders), -1) @ b)  # the correlation, times what is always the same
    extreme = int((sums >= abs(a.ravel() @ b) - 1e-9).sum())
    return (extreme / len(orders) if every else (extreme + 1) / (len(orders) + 1)), len(orders)


class Chosen(NamedTuple):
    """How a rule chose on blocks that it was not made from: how often right, and the mean that was lost to the best."""

    right: int
    of: int
    lost: float


def threshold(predictor: Sequence[float], advantage: Sequence[float]) -> float:
    """The t for which acting where predictor > t sums up to the most advantage; the largest such t.

    −inf acts always, inf never.
    """
    known = sorted(set(predictor))
    tried = [-inf, *((low + high) / 2 for low, high in pairwise(known)), inf]

    def worth(t: float) -> float:
        return sum(gain for value, gain in zip(predictor, advantage, strict=True) if value > t)

    return max(tried, key=lambda t: (worth(t), t))


def leave_one_out(predictor: Sequence[Sequence[float]], advantage: Sequence[Sequence[float]]) -> Chosen:
    """`threshold` of all other blocks, applied to each; a predictor without information leaves "always" or "never"."""
    right, lost, count = 0, 0.0, 0
    for left, (values, gains) in enumerate(zip(predictor, advantage, strict=True)):
        others = [at for at in range(len(predictor)) if at != left]
        t = threshold([x for at in others for x in predictor[at]], [x for at in others for x in advantage[at]])
        for value, gain in zip(values, gains, strict=True):
            act = value > t
            right += act == (gain > 0)
            lost += max(gain, 0.0) - (gain if act else 0.0)
            count += 1
    return Chosen(right, count, lost / count)
