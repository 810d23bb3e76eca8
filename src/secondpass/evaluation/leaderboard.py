"""Any number of systems on the same judged queries: who is better, faster, cheaper, and who cannot be told apart.

Knows: runs, judgments, what is known of time, price and licence. Refuses to know: models, files, how a table looks.

A system's rank is 1 + the number of systems that are significantly better than it: a higher mean, and a p of the
paired randomisation test below .05 after Holm's correction over all pairs. So systems that the data cannot separate
from the best share rank 1 with it. "Not separated" is not transitive (a may be separated from c, and b from neither),
hence a rank is a count and not an order: a system with a lower mean that varies more can stand before one with a
higher mean, and a note says where that happens. What always holds: the highest mean has rank 1; nothing with rank 1
is significantly worse than anything; systems with the same values share a rank; the order of the input is no matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.evaluation.audit import FEW_QUERIES
from secondpass.evaluation.curve import front
from secondpass.evaluation.headroom import top
from secondpass.evaluation.metrics import SAME, Metric, judged, parse_metric
from secondpass.evaluation.significance import bootstrap_intervals, holm, randomisation_p
from secondpass.evaluation.systems import Latency, System, latency
from secondpass.evaluation.trec import Qrels
from secondpass.evaluation.verdict import plain
from secondpass.evaluation.wording import counted, some

__all__ = ["Leaderboard", "Pair", "Row", "leaderboard"]

SCHEMA = 1
_LEVEL = 0.05
_FOR_EACH_PAIR = 100  # permutations, so that a corrected p can come down to .01
_TAIL = 20  # with fewer queries timed, the p95 is the slowest of them or next to it


@dataclass(frozen=True, slots=True)
class Row:
    """One system.

    `mean` is that of the metric over all judged queries, with its 95% `interval` (see `bootstrap_interval`; infinite
    ends: too few queries to know). `recall` is that of the first `depth` results, `judged_at_10` the judged share of
    the top 10, over the queries with results. `missing` counts the judged queries without results, which count 0.
    `per_1000` is the cost of 1,000 queries in `currency` (None: unknown). `fastest` says whether no system that was
    timed has a mean as high in a shorter p95, or a higher mean in the same: the Pareto front. `cheapest` says so of
    the cost, among the systems of the same currency. Both are None where there is nothing to compare.
    """

    rank: int
    name: str
    mean: float
    interval: tuple[float, float]
    recall: float
    judged_at_10: float
    missing: int
    latency: Latency | None
    per_1000: float | None
    currency: str
    licence: str
    fastest: bool | None
    cheapest: bool | None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two systems: what `better`, the one with the higher mean, is ahead of `worse`.

    `difference` is of the means, with its 95% `interval` (see `bootstrap_interval`; not corrected); `p_value` is of
    the two-sided paired randomisation test, `corrected_p` after Holm over all pairs; `separated`: whether it is below
    .05. `other_candidates` counts the judged queries in which the two have different sets of documents within the
    depth; where it is 0, they differ in order only.
    """

    better: str
    worse: str
    difference: float
    interval: tuple[float, float]
    p_value: float
    corrected_p: float
    separated: bool
    other_candidates: int


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The systems by falling mean, all pairs of them, and what has to be said beside the numbers.

    `pools` groups the systems that have the same candidates within `depth` in all judged queries.
    """

    metric: str
    depth: int
    queries: int
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    pools: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def to_best(self) -> tuple[Pair, ...]:
        """What the system with the highest mean is ahead of each other one, by falling mean."""
        return tuple(pair for pair in self.pairs if pair.better == self.rows[0].name)

    def to_dict(self) -> dict[str, Any]:
        """The leaderboard as JSON-ready data, "schema": 1 (docs/cli.md). Infinite interval ends become None."""
        return {"schema": SCHEMA, **plain(self)}


def leaderboard(
    systems: Sequence[System],
    qrels: Qrels,
    *,
    metric: str | Metric = "ndcg@10",
    depth: int = 100,
    permutations: int = 10_000,
    seed: int = 0,
) -> Leaderboard:
    """Compare two or more systems on the queries of `qrels`, their runs cut to `depth`.

    A judged query without results counts 0; queries without judgments are left out. Both are said in the notes, as are
    candidates that differ, and times and prices that do not compare. Latencies are over all queries that were timed.
    Where there are so many pairs that no p could pass Holm's correction, more than `permutations` are drawn.

    Raises InputError for fewer than two systems, two of one name, a run without a judged query, a document twice in one
    ranking, and numbers out of range.
    """
    compute = parse_metric(metric)
    _check(systems, qrels, depth)
    measured = _measure(systems, qrels, compute, depth)
    # means of the same numbers in another order differ by rounding, and then the name decides
    order = sorted(range(len(systems)), key=lambda i: (-round(fmean(measured.values[i]), 9), systems[i].name))
    systems = [systems[i] for i in order]
    measured = measured.in_order(order)
    pairs = _pairs([system.name for system in systems], measured, permutations, seed)
    beaten = Counter(pair.worse for pair in pairs if pair.separated)
    means = [fmean(values) for values in measured.values]
    times = [latency(system.seconds, f"{system.name}: seconds") for system in systems]
    costs = [system.price.per_1000(time.mean_ms if time else None) for system, time in zip(systems, times, strict=True)]
    intervals = bootstrap_intervals(measured.values, resamples=permutations, seed=seed, bounds=(0.0, 1.0))
    fastest = _front([time.p95_ms if time else None for time in times], means)
    cheapest = _cheapest(costs, [system.price.currency for system in systems], means)
    rows = tuple(
        Row(
            rank=1 + beaten[system.name],
            name=system.name,
            mean=means[i],
            interval=intervals[i],
            recall=measured.recall[i],
            judged_at_10=measured.judged_at_10[i],
            missing=measured.missing[i],
            latency=times[i],
            per_1000=costs[i],
            currency=system.price.currency,
            licence=system.licence,
            fastest=fastest[i],
            cheapest=cheapest[i],
        )
        for i, system in enumerate(systems)
    )
    pools = _pools([row.name for row in rows], measured.differ)
    return Leaderboard(
        metric=str(compute),
        depth=depth,
        queries=len(qrels),
        rows=rows,
        pairs=pairs,
        pools=pools,
        notes=(
            *_rank_notes(rows),
            *_pool_notes(rows, pools, measured.differ),
            *_query_notes(systems, rows, qrels, compute, depth),
            *_time_notes(systems, qrels),
            *_price_notes(systems, rows),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Measured:
    """Per system: the metric of each query (systems, queries), means, counts; and of how many queries two differ."""

    values: NDArray[np.float64]
    recall: list[float]
    judged_at_10: list[float]
    missing: list[int]
    differ: NDArray[np.int64]  # (systems, systems): queries in which the sets of candidates are not the same

    def in_order(self, order: Sequence[int]) -> _Measured:
        return _Measured(
            self.values[order],
            [self.recall[i] for i in order],
            [self.judged_at_10[i] for i in order],
            [self.missing[i] for i in order],
            self.differ[np.ix_(order, order)],
        )


def _check(systems: Sequence[System], qrels: Qrels, depth: int) -> None:
    if len(systems) < 2:
        raise InputError(f"{counted(len(systems), 'system')} given; a comparison needs at least two")
    name, times = Counter(system.name for system in systems).most_common(1)[0]
    if times > 1:
        raise InputError(f"{times} systems are called {name!r}; give each its own name")
    if depth < 1:
        raise InputError(f"depth is {depth}; give how many results of each query count, at least 1")
    if not qrels:
        raise InputError("there are no judged queries to compare on")
    for system in systems:
        if qrels.keys().isdisjoint(system.run):
            raise InputError(
                f"{system.name}: run and judgments share no query id (run: {some(system.run, 1)}, judgments: "
                f"{some(qrels, 1)}); give the judgments of the same queries"
            )


def _measure(systems: Sequence[System], qrels: Qrels, metric: Metric, depth: int) -> _Measured:
    """One pass over the queries, so that of the candidates only one query's are held at once."""
    recall_at_depth = Metric("recall", depth)
    size = len(systems)
    values = np.empty((size, len(qrels)))
    recall, shares = np.empty((size, len(qrels))), np.full((size, len(qrels)), np.nan)
    differ = np.zeros((size, size), dtype=np.int64)
    for column, (query_id, grades) in enumerate(qrels.items()):
        numbers: dict[frozenset[str], int] = {}
        pools = np.empty(size, dtype=np.int64)
        for i, system in enumerate(systems):
            ids = top(system.run, query_id, depth)
            values[i, column] = metric(ids, grades)
            recall[i, column] = recall_at_depth(ids, grades)
            if ids:
                shares[i, column] = judged(ids, grades, 10)
            pools[i] = numbers.setdefault(frozenset(ids), len(numbers))
        differ += pools[:, None] != pools
    answered = ~np.isnan(shares)  # a query without results has nothing unjudged on top
    return _Measured(
        values,
        [fmean(row) for row in recall],
        [fmean(row[there]) if there.any() else 0.0 for row, there in zip(shares, answered, strict=True)],
        [int(count) for count in (~answered).sum(axis=1)],
        differ,
    )


def _pairs(names: Sequence[str], measured: _Measured, permutations: int, seed: int) -> tuple[Pair, ...]:
    both = list(combinations(range(len(names)), 2))
    differences = np.array([measured.values[i] - measured.values[j] for i, j in both])
    differences[np.abs(differences) <= SAME] = 0.0
    intervals = bootstrap_intervals(differences, resamples=permutations, seed=seed)
    # a p cannot fall below 1 / permutations, and Holm multiplies it by up to the number of pairs
    enough = max(permutations, _FOR_EACH_PAIR * len(both))
    p_values = [randomisation_p(row, permutations=enough, seed=seed) for row in differences]
    corrected = holm(p_values)
    means = [mean if abs(mean) > SAME else 0.0 for mean in map(fmean, differences)]
    return tuple(
        Pair(
            better=names[i],
            worse=names[j],
            difference=means[k],
            interval=intervals[k],
            p_value=p_values[k],
            corrected_p=corrected[k],
            separated=corrected[k] < _LEVEL and means[k] > 0.0,
            other_candidates=int(measured.differ[i, j]),
        )
        for k, (i, j) in enumerate(both)
    )


def _front(costs: Sequence[float | None], means: Sequence[float]) -> list[bool | None]:
    """Whether each is on the front of those whose cost is known; None for the others, and where it is the only one."""
    if sum(cost is not None for cost in costs) < 2:
        return [None] * len(costs)
    on = front(list(zip(costs, means, strict=True)))
    return [None if cost is None else is_on for cost, is_on in zip(costs, on, strict=True)]


def _cheapest(costs: Sequence[float | None], currencies: Sequence[str], means: Sequence[float]) -> list[bool | None]:
    """The fronts of the currencies: no rate of exchange is assumed."""
    result: list[bool | None] = [None] * len(costs)
    for currency in dict.fromkeys(currencies):
        own = [cost if which == currency else None for cost, which in zip(costs, currencies, strict=True)]
        result = [a if b is None else b for a, b in zip(result, _front(own, means), strict=True)]
    return result


def _pools(names: Sequence[str], differ: NDArray[np.int64]) -> tuple[tuple[str, ...], ...]:
    groups: dict[int, list[str]] = {}
    for i, name in enumerate(names):
        first = int(np.argmin(differ[i]))  # the first system with the same candidates everywhere: itself at the latest
        groups.setdefault(first, []).append(name)
    return tuple(map(tuple, groups.values()))


def _rank_notes(rows: Sequence[Row]) -> list[str]:
    for ahead, behind in combinations(rows, 2):
        if ahead.rank > behind.rank:
            return [
                f"{behind.name} ranks before {ahead.name} with a lower mean: a rank counts the systems that are "
                f"significantly better, and {behind.name} varies too much from query to query to tell"
            ]
    return []


def _pool_notes(rows: Sequence[Row], pools: Sequence[Sequence[str]], differ: NDArray[np.int64]) -> list[str]:
    notes = [f"{_listed(pool)} reorder the same candidates" for pool in pools if len(pool) > 1]
    others: dict[int, list[str]] = {}
    for row, queries in zip(rows, differ[0].tolist(), strict=True):
        if queries:
            others.setdefault(queries, []).append(row.name)
    for queries, names in others.items():
        has = "has" if len(names) == 1 else "have"
        notes.append(
            f"{_listed(names)} {has} other candidates than {rows[0].name} in {counted(queries, 'query', 'queries')}: "
            "this compares retrieval as well as order"
        )
    return notes


def _query_notes(systems: Sequence[System], rows: Sequence[Row], qrels: Qrels, metric: Metric, depth: int) -> list[str]:
    notes = []
    if len(qrels) < FEW_QUERIES:
        notes.append(f"only {counted(len(qrels), 'judged query', 'judged queries')}: too few to decide much")
    for row in rows:
        if row.missing:
            queries = counted(row.missing, "judged query", "judged queries")
            notes.append(f"{row.name}: {queries} without results, counted as 0")
    if unjudged := len({query_id for system in systems for query_id in system.run} - qrels.keys()):
        notes.append(f"{counted(unjudged, 'query', 'queries')} of the runs without judgments left out")
    if hopeless := sum(all(grade <= 0 for grade in grades.values()) for grades in qrels.values()):
        notes.append(
            f"{counted(hopeless, 'judged query', 'judged queries')} without a relevant document: 0 for every system"
        )
    if metric.cutoff is not None and metric.cutoff > depth:
        notes.append(f"{metric.label} sees only the first {depth} results, the depth of the comparison")
    return notes


def _time_notes(systems: Sequence[System], qrels: Qrels) -> list[str]:
    notes = []
    for system in systems:
        if not system.seconds:
            continue
        timed = system.seconds.keys()
        if timed != qrels.keys():
            notes.append(
                f"{system.name}: its times are of other queries than the judgments: {len(timed - qrels.keys()):,} "
                f"timed without judgments, {len(qrels.keys() - timed):,} judged without a time"
            )
        if len(timed) < _TAIL:
            notes.append(f"{system.name}: only {counted(len(timed), 'query', 'queries')} timed: the p95 says little")
    return notes


def _price_notes(systems: Sequence[System], rows: Sequence[Row]) -> list[str]:
    notes = []
    for system in systems:
        if system.price.machine_hour is not None and not system.seconds:
            what = "its cost is unknown" if system.price.call is None else "its cost is that of the calls alone"
            notes.append(f"{system.name}: not timed, so {what}")
    currencies = sorted({row.currency for row in rows if row.per_1000 is not None})
    if len(currencies) > 1:
        notes.append(f"costs in {_listed(currencies)} are not compared: no rate of exchange is assumed")
    return notes


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
