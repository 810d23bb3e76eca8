"""How the metric moves with a setting: the depth curve, read off two runs, and the front of what is not outdone.

Knows: two orders of one pool, judgments, points of cost and value. Refuses to know: models, how points were measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from secondpass.evaluation.control import differences_of, values_of
from secondpass.evaluation.headroom import orders
from secondpass.evaluation.metrics import Metric
from secondpass.evaluation.significance import bootstrap_interval, bootstrap_intervals
from secondpass.evaluation.systems import Price, latency
from secondpass.evaluation.trec import Qrels, Run
from secondpass.evaluation.verdict import DepthPoint, Sweep, SweepPoint

__all__ = ["DEPTHS", "depth_curve", "front", "sweep"]

DEPTHS = (10, 20, 50, 100, 200, 500, 1000)


def depth_curve(
    before: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
    qrels: Qrels,
    metric: Metric,
    depths: Sequence[int],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[DepthPoint, ...]:
    """The metric had only the first d of `before` been reranked, for every d of `depths` that the pools reach.

    It takes the order of `after` among these d documents and leaves the rest behind them as it was, which is what a
    reranker gives that scores each document by itself; one that looks at several at once may differ. The points are in
    order of depth. None at all where a query's `after` does not hold the same documents as `before`: the order of
    those it lacks is unknown.
    """
    if any(set(before[query_id]) != set(after[query_id]) for query_id in qrels):
        return ()
    longest = max((len(before[query_id]) for query_id in qrels), default=0)
    wanted = sorted({min(depth, longest) for depth in depths if depth > 0} - {0})
    first = values_of(before, qrels, metric)
    values = {depth: np.zeros(len(qrels)) for depth in wanted}
    best, recall = ({depth: np.zeros(len(qrels)) for depth in wanted} for _ in range(2))
    for row, (query_id, grades) in enumerate(qrels.items()):
        pool, reranked = before[query_id], after[query_id]
        place = {doc_id: i for i, doc_id in enumerate(pool)}
        places = np.array([place[doc_id] for doc_id in reranked], dtype=np.int64)
        judged = [doc_id for doc_id in pool if doc_id in grades]
        for depth in wanted:
            # what lies behind the metric's cutoff cannot count
            shown = np.flatnonzero(places < depth)[: metric.cutoff].tolist()
            order = [reranked[i] for i in shown]
            order += pool[depth : depth + (len(pool) if metric.cutoff is None else metric.cutoff - len(order))]
            found = [doc_id for doc_id in judged if place[doc_id] < depth]
            ideal = sorted(found, key=lambda doc_id: -grades[doc_id])
            values[depth][row], best[depth][row] = metric(order, grades), metric(ideal, grades)
            recall[depth][row] = Metric("recall", depth)(found, grades)
    differences = np.array([differences_of(values[depth], first) for depth in wanted]).reshape(-1, len(qrels))
    intervals = bootstrap_intervals(differences, resamples=resamples, seed=seed)
    return tuple(
        DepthPoint(
            depth=depth,
            value=float(values[depth].mean()),
            difference=float(row.mean()),
            interval=interval if depth > 1 else (0.0, 0.0),  # a single document has no other order
            best=float(best[depth].mean()),
            recall=float(recall[depth].mean()),
        )
        for depth, row, interval in zip(wanted, differences, intervals, strict=True)
    )


def sweep(
    key: str,
    tried: Sequence[tuple[str, Run, Mapping[str, float]]],
    baseline: Run,
    qrels: Qrels,
    metric: Metric,
    depth: int,
    price: Price,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Sweep:
    """What the values of `key` reach: of each the setting, the reranked run, and the seconds that reranking added.

    Differences are to `baseline`; all are cut to `depth`.
    """
    first = values_of(orders(baseline, qrels, depth), qrels, metric)
    points = []
    for setting, run, seconds in tried:
        values = values_of(orders(run, qrels, depth), qrels, metric)
        differences = differences_of(values, first)
        added = latency(seconds, f"{key} = {setting}: seconds")
        points.append(
            SweepPoint(
                setting=setting,
                value=float(values.mean()),
                difference=float(differences.mean()),
                interval=bootstrap_interval(differences, resamples=resamples, seed=seed),
                latency=added,
                per_1000=price.per_1000(added.mean_ms if added else None),
                on_time_front=False,
                on_cost_front=False,
            )
        )
    by_time = front([(one.latency.p99_ms if one.latency else None, one.value) for one in points])
    by_cost = front([(one.per_1000, one.value) for one in points])
    return Sweep(
        key,
        tuple(
            replace(one, on_time_front=time, on_cost_front=cost)
            for one, time, cost in zip(points, by_time, by_cost, strict=True)
        ),
    )


def front(points: Sequence[tuple[float | None, float]]) -> tuple[bool, ...]:
    """Of (cost, value) pairs, those that none outdoes: nothing costs as little and is worth more, or less and as much.

    The Pareto front, costs down and values up. A point of unknown cost (None) is never on it and outdoes none.
    """

    def outdone(cost: float, value: float) -> bool:
        return any(
            other is not None and other <= cost and worth >= value and (other < cost or worth > value)
            for other, worth in points
        )

    return tuple(cost is not None and not outdone(cost, value) for cost, value in points)
