"""Two orders without judgments: how much reranking changes, from how deep, at what cost, and what that cannot tell.

Knows: two runs, positions, seconds, a price. Refuses to know: relevance. Nothing here says whether a change is for
the better, and `limits` says so in words.
"""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite, nan, sqrt
from statistics import NormalDist, fmean, median
from typing import Any

import numpy as np

from secondpass.errors import InputError
from secondpass.evaluation.headroom import top
from secondpass.evaluation.significance import bootstrap_intervals, minimum_detectable_effect, queries_needed
from secondpass.evaluation.systems import Latency, Price, latency
from secondpass.evaluation.trec import Run
from secondpass.evaluation.verdict import plain
from secondpass.evaluation.wording import counted, money, roughly

__all__ = ["Change", "Estimate", "Unjudged", "findings", "kendall_tau", "limits", "rbo", "without_judgments"]

ASSUMED_SD = 0.25  # of the differences in nDCG@10 between queries: a guess, and said to be one wherever it is used
SAMPLE = 50  # the queries that a first pool holds
SHARES = (0.5, 0.8, 0.9, 0.95, 0.99)  # of the queries that are to keep their top k, for the depth that does it
FROM_BEYOND = (10, 20, 50)  # ranks


@dataclass(frozen=True, slots=True)
class Change:
    """One query under both orders, over the same first `depth` documents of each.

    `overlap` is the share of the top k that both have; `rbo` and `tau` compare the whole pools (tau None: fewer than
    two documents in common). `came_from` are the first-stage ranks of the new top k in its order, None for a document
    from outside the pool. `union` counts the documents in either top k.
    """

    query_id: str
    overlap: float
    rbo: float
    tau: float | None
    first_changed: bool
    set_changed: bool
    order_changed: bool
    came_from: tuple[int | None, ...]
    union: int

    @property
    def needed_depth(self) -> float:
        """The first-stage rank of the deepest document of the new top k; infinite for one from outside the pool."""
        return max((inf if rank is None else rank for rank in self.came_from), default=0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over queries and its 95% interval; infinite ends: too few queries to know."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Unjudged:
    """What two orders tell without judgments. Shares and means are over `queries`, the queries with results in both.

    `first_changed`, `set_changed` and `order_changed` are the shares of queries with another first result, another set
    and another order of the top k. `from_beyond` holds, by rank, the share of the new top k that the first stage
    had further down. `median_rank` and `deepest_rank` are of the new top k in the first stage. `depths` holds, by
    share of the queries, the smallest depth that would have given them the same top k (None: some come from
    outside the pool). `union` is the mean number of documents in either top k: what there is to judge for a query.
    `margins` are the medians of the score difference between the first two documents, of both stages; None where
    scores only number the ranks. `added_per_1000` is the price of 1,000 rerankings, in `currency`.
    """

    names: tuple[str, str]
    queries: int
    depth: int
    k: int
    overlap: Estimate
    rbo: Estimate
    tau: Estimate | None
    first_changed: Estimate
    set_changed: Estimate
    order_changed: Estimate
    from_beyond: Mapping[int, Estimate]
    median_rank: float | None
    deepest_rank: int | None
    depths: Mapping[float, int | None]
    union: float
    margins: tuple[float | None, float | None]
    first_latency: Latency | None
    added_latency: Latency | None
    added_per_1000: float | None
    currency: str
    smallest_effect: float
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def detectable(self) -> float:
        """The smallest true gain that `SAMPLE` judged queries find 8 times out of 10, with the assumed deviation."""
        return minimum_detectable_effect(_assumed(SAMPLE)) or nan

    @property
    def judged_queries_needed(self) -> int:
        """How many judged queries find the smallest effect that matters 8 times out of 10, with the same."""
        return 2 + (queries_needed(_assumed(2), self.smallest_effect) or 0)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data, "schema": 1, sentences included. Numbers that are not finite become None."""
        return {
            "schema": 1,
            **plain(self),
            "assumed_sd": ASSUMED_SD,
            "judged_queries_needed": self.judged_queries_needed,
            "findings": findings(self),
            "limits": limits(self),
        }


def without_judgments(
    baseline: Run,
    reranked: Run,
    *,
    depth: int,
    k: int = 10,
    seconds_baseline: Mapping[str, float] | None = None,
    seconds_reranked: Mapping[str, float] | None = None,
    price: Price | None = None,
    delta: float = 0.01,
    names: tuple[str, str] = ("baseline", "reranked"),
    resamples: int = 10_000,
    seed: int = 0,
) -> Unjudged:
    """Compare the first `depth` of two runs by position, without judgments.

    `seconds_baseline` are of retrieving, `seconds_reranked` of reranking alone, by query id; `price` is of reranking.
    `delta` is the smallest gain that matters, for the number of judgments that would show it.

    Raises InputError where the runs share no query with results, for a duplicate document, or for a depth, k or
    delta that is no use.
    """
    if k < 1 or depth < k:
        raise InputError(f"k is {k} and depth is {depth}; give a k of at least 1 and a depth of at least k")
    if not (isfinite(delta) and delta > 0.0):
        raise InputError(f"delta is {delta}; give the smallest gain that matters, above 0, such as 0.01")
    pools = {query_id: (top(baseline, query_id, depth), top(reranked, query_id, depth)) for query_id in baseline}
    pools = {query_id: (before, after) for query_id, (before, after) in pools.items() if before and after}
    if not pools:
        raise InputError("the two runs share no query with results; give runs of the same queries")
    changes = tuple(_change(query_id, before, after, k) for query_id, (before, after) in pools.items())
    beyond = {rank: [_beyond(change, rank) for change in changes] for rank in FROM_BEYOND if rank < depth}
    means = [[change.overlap for change in changes], [change.rbo for change in changes], *beyond.values()]
    overlap, agreement, *from_beyond = _means(means, 0.0, resamples, seed)
    taus = [change.tau for change in changes if change.tau is not None]
    ranks = [rank for change in changes for rank in change.came_from if rank is not None]
    added = latency(seconds_reranked, "seconds_reranked")
    price = price or Price()
    return Unjudged(
        names=names,
        queries=len(changes),
        depth=depth,
        k=k,
        overlap=overlap,
        rbo=agreement,
        tau=_means([taus], -1.0, resamples, seed)[0] if taus else None,
        first_changed=_share([change.first_changed for change in changes]),
        set_changed=_share([change.set_changed for change in changes]),
        order_changed=_share([change.order_changed for change in changes]),
        from_beyond=dict(zip(beyond, from_beyond, strict=True)),
        median_rank=float(median(ranks)) if ranks else None,
        deepest_rank=max(ranks, default=None),
        depths=_depths(changes),
        union=fmean(change.union for change in changes),
        margins=(_margin(baseline, pools), _margin(reranked, pools)),
        first_latency=latency(seconds_baseline, "seconds_baseline"),
        added_latency=added,
        added_per_1000=price.per_1000(added.mean_ms if added else None),
        currency=price.currency,
        smallest_effect=delta,
        changes=changes,
        notes=_notes(baseline, reranked, pools, k, names),
    )


def rbo(first: Sequence[str], second: Sequence[str], p: float = 0.9) -> float:
    """Rank-biased overlap, extrapolated, in [0, 1] (Webber, Moffat & Zobel 2010, equation 32): 1 for the same order.

    The agreement at depth d weighs p^(d−1); what lies beyond the lists is taken to agree as at their ends. Lists may
    differ in length and in content. Two empty lists are the same, an empty and another one have nothing in common.
    """
    if not 0.0 < p < 1.0:
        raise InputError(f"p is {p}; give a share between 0 and 1, such as 0.9")
    shorter, longer = sorted((first, second), key=len)
    s, n = len(shorter), len(longer)
    if s == 0:
        return 1.0 if n == 0 else 0.0
    seen: set[str] = set()
    common = at_s = 0
    total = 0.0
    for d in range(1, n + 1):
        for doc_id in {longer[d - 1], *shorter[d - 1 : d]}:
            common += doc_id in seen
            seen.add(doc_id)
        common += d <= s and longer[d - 1] == shorter[d - 1]
        if d == s:
            at_s = common
        agreed = common + (at_s * (d - s) / s if d > s else 0.0)
        total += agreed / d * p**d
    return (1.0 - p) / p * total + ((common - at_s) / n + at_s / s) * p**n


def kendall_tau(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Kendall's τ over the documents that both lists hold: 1 for the same order, −1 for the reverse; None below two.

    Positions have no ties, so that τ-a and τ-b are the same.
    """
    place = {doc_id: rank for rank, doc_id in enumerate(first)}
    seen: list[int] = []
    swapped = 0
    for rank in (place[doc_id] for doc_id in second if doc_id in place):
        swapped += len(seen) - bisect(seen, rank)
        insort(seen, rank)
    n = len(seen)
    return 1.0 - 4.0 * swapped / (n * (n - 1)) if n > 1 else None


def findings(report: Unjudged) -> tuple[str, ...]:
    """What can be told without judgments, in sentences: how much changes, from how deep, at what cost."""
    k, (first, second) = report.k, report.names
    first_changed, set_changed, overlap = map(
        _percent, (report.first_changed.value, report.set_changed.value, report.overlap.value)
    )
    said = [
        f"{second} changes the first result of {first_changed} of the queries, and which documents are in the top {k} "
        f"of {set_changed}; both orders share {overlap} of the top {k}."
    ]
    most = report.order_changed.value
    if most == 0.0:
        said.append(f"The top {k} stays as it is for every query: as far as this shows, reranking can be left out.")
    elif most < 1.0:
        bound = f"; so whatever the judgments, nDCG@{k} cannot rise or fall by more than {most:.3f} in the mean"
        said.append(
            f"For {_percent(1.0 - most)} of the queries the top {k} stays as it is, and with it every metric of the "
            f"top {k}{bound if most <= 0.5 else ''}."
        )
    enough = {depth: _percent(share) for share, depth in report.depths.items() if share in (0.5, 0.9, 0.99)}
    if most and None not in list(enough)[:1]:
        parts = ", ".join(f"depth {depth:,} for {share}" for depth, share in enough.items() if depth is not None)
        said.append(
            f"The same top {k} would have come from {parts} of the queries (where documents are scored one by one)."
        )
    if report.added_latency:
        time = report.added_latency
        said.append(f"It adds {_ms(time.p50_ms)} at the median and {_ms(time.p99_ms)} at p99 to a query.")
    if report.added_per_1000 is not None:
        said.append(f"1,000 queries cost {money(report.added_per_1000, report.currency)} more than {first} alone.")
    return tuple(said)


def limits(report: Unjudged) -> tuple[str, ...]:
    """What cannot be told without judgments, and how many of them would tell."""
    documents = ceil(SAMPLE * report.union)
    return (
        "Whether any change is for the better. A large change may be a large loss; agreement of both stages is no "
        "quality either: they can be wrong together.",
        "Whether a lesser depth is as good, only that it gives the same; nor what retrieval has missed.",
        f"That needs judgments. {SAMPLE} queries drawn at random (about {roughly(documents)} documents to judge) would "
        f"show a true gain of {report.detectable:.2f} or more, 8 times out of 10; a gain of {report.smallest_effect:g} "
        f"takes about {roughly(report.judged_queries_needed)} queries. Assumed for both: differences between queries "
        f"with a standard deviation of {ASSUMED_SD:g}, which only judgments can show.",
    )


def _change(query_id: str, before: Sequence[str], after: Sequence[str], k: int) -> Change:
    old, new = before[:k], after[:k]
    place = {doc_id: rank for rank, doc_id in enumerate(before, 1)}
    return Change(
        query_id=query_id,
        overlap=len(set(old) & set(new)) / max(len(old), len(new)),
        rbo=rbo(before, after),
        tau=kendall_tau(before, after),
        first_changed=old[0] != new[0],
        set_changed=set(old) != set(new),
        order_changed=old != new,
        came_from=tuple(place.get(doc_id) for doc_id in new),
        union=len(set(old) | set(new)),
    )


def _beyond(change: Change, rank: int) -> float:
    return fmean(came_from is None or came_from > rank for came_from in change.came_from)


def _means(rows: Sequence[Sequence[float]], least: float, resamples: int, seed: int) -> list[Estimate]:
    """The mean of each row with its interval, within `least` and 1, which no mean of such values leaves."""
    intervals = bootstrap_intervals(rows, resamples=resamples, seed=seed)
    return [
        Estimate(fmean(row), max(low, least) if isfinite(low) else low, min(high, 1.0) if isfinite(high) else high)
        for row, (low, high) in zip(rows, intervals, strict=True)
    ]


def _share(values: Sequence[bool]) -> Estimate:
    """A share of queries with its score interval (Wilson 1927): a bootstrap knows no doubt where all are the same."""
    n, share, z = len(values), fmean(values), NormalDist().inv_cdf(0.975)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    # at 0 and 1 the two ends meet, but for rounding
    return Estimate(share, middle - half if share > 0.0 else 0.0, middle + half if share < 1.0 else 1.0)


def _depths(changes: Sequence[Change]) -> dict[float, int | None]:
    needed = sorted(change.needed_depth for change in changes)
    of = {share: needed[ceil(share * len(needed) - 1e-9) - 1] for share in SHARES}
    return {share: int(depth) if isfinite(depth) else None for share, depth in of.items()}


def _margin(run: Run, pools: Mapping[str, object]) -> float | None:
    scores = [[score for _, score in run[query_id][:2]] for query_id in pools]
    margins = [pair[0] - pair[1] for pair in scores if len(pair) == 2 and all(map(isfinite, pair))]
    if not margins or (len(margins) > 1 and min(margins) == max(margins)):
        return None  # the same for every query: places, not scores
    return float(np.median(margins))


def _notes(
    baseline: Run, reranked: Run, pools: Mapping[str, tuple[list[str], list[str]]], k: int, names: tuple[str, str]
) -> tuple[str, ...]:
    notes = []
    if left_out := len((baseline.keys() | reranked.keys()) - pools.keys()):
        notes.append(f"{counted(left_out, 'query', 'queries')} without results in one of the runs left out")
    if short := sum(len(before) < k for before, _ in pools.values()):
        notes.append(
            f"{counted(short, 'query', 'queries')} with fewer than {k} candidates: the top {k} is all there is"
        )
    if foreign := sum(not set(after) <= set(before) for before, after in pools.values()):
        notes.append(
            f"{names[1]} has documents from outside the pool of {names[0]} for {counted(foreign, 'query', 'queries')}: "
            "they count as from beyond any rank"
        )
    if lacking := sum(not set(before) <= set(after) for before, after in pools.values()):
        notes.append(f"{names[1]} lacks documents of the pool for {counted(lacking, 'query', 'queries')}")
    return tuple(notes)


def _assumed(n: int) -> list[float]:
    """`n` (even) differences whose standard deviation is the assumed one."""
    size = ASSUMED_SD * sqrt((n - 1) / n)
    return [size, -size] * (n // 2)


def _percent(share: float) -> str:
    """A share in percent: not 0 % or 100 % where it is only close to it."""
    text = f"{share:.0%}"
    if (text == "0%" and share > 0.0) or (text == "100%" and share < 1.0):
        return "under 1%" if share < 0.5 else "over 99%"
    return text


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"
