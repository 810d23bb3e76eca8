"""What retrieval lost, what reordering could gain at most, and what it gained.

    1 − N0 = (1 − N*) + (N* − N0) = recall loss + ordering headroom

N0 is the metric of the first stage, N* that of the best order of its pool, NC that of the
reranked order; the ideal is over all judged documents, so 1 means nothing was missed.
Knows: two runs, judgments, a metric. Refuses to know: statistics, verdicts. Never adds a
missed document to a pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from secondpass.errors import InputError
from secondpass.evaluation.metrics import SAME, Metric, parse_metric
from secondpass.evaluation.trec import Qrels, Results, Run

__all__ = ["Headroom", "Orders", "QueryHeadroom", "decompose", "decompose_orders", "orders", "top"]

Orders = Mapping[str, Sequence[str]]
"""Query id -> document ids, best first."""


@dataclass(frozen=True, slots=True)
class QueryHeadroom:
    """One query: N0, N* and NC, each in [0, 1]."""

    query_id: str
    first: float
    best: float
    reranked: float


@dataclass(frozen=True, slots=True)
class Headroom:
    """The decomposition over at least one query; every number is a mean over the queries."""

    queries: tuple[QueryHeadroom, ...]

    @property
    def first(self) -> float:
        """N0, the first stage as it is."""
        return fmean(query.first for query in self.queries)

    @property
    def best(self) -> float:
        """N*, the best order of the first stage's pool: what a perfect reranker would reach."""
        return fmean(query.best for query in self.queries)

    @property
    def reranked(self) -> float:
        """NC, the reranked order."""
        return fmean(query.reranked for query in self.queries)

    @property
    def recall_loss(self) -> float:
        """1 − N*, lost because the pool lacks documents."""
        return 1.0 - self.best

    @property
    def ordering_headroom(self) -> float:
        """N* − N0, lost by the order of the pool: the most that a reranker can gain."""
        return self.best - self.first

    @property
    def capture(self) -> float | None:
        """κ = (NC − N0) / (N* − N0), a ratio of means; None where there is no headroom."""
        return _ratio(self.reranked - self.first, self.ordering_headroom)

    @property
    def unfixable(self) -> float | None:
        """ρ = (1 − N*) / (1 − N0), the share of the loss that no reranker can fix; None where nothing is lost."""
        return _ratio(self.recall_loss, 1.0 - self.first)


def decompose(baseline: Run, reranked: Run, qrels: Qrels, *, metric: str | Metric = "ndcg@10", depth: int) -> Headroom:
    """The decomposition per query of `qrels`; the pool is the first `depth` documents of `baseline`.

    `reranked` is cut to `depth` as well. A query without results scores 0.

    Raises InputError where there are no queries, a document occurs twice for one query, or a
    query's NC exceeds its N* (the reranked run then holds documents that the pool lacks).
    """
    if not qrels:
        raise InputError("there are no judged queries to compare on")
    return decompose_orders(orders(baseline, qrels, depth), orders(reranked, qrels, depth), qrels, parse_metric(metric))


def decompose_orders(before: Orders, after: Orders, qrels: Qrels, metric: Metric) -> Headroom:
    """`decompose` for what `orders` gave of both runs."""
    return Headroom(
        tuple(
            _one_query(query_id, before[query_id], after[query_id], grades, metric)
            for query_id, grades in qrels.items()
        )
    )


def orders(run: Run, qrels: Qrels, depth: int) -> dict[str, list[str]]:
    """The first `depth` document ids of every judged query, none for one without results.

    Raises InputError for a document that occurs twice in one ranking, and for a depth below 1.
    """
    if depth < 1:
        raise InputError(f"depth is {depth}; give the number of documents that were reranked, at least 1")
    return {query_id: top(run, query_id, depth) for query_id in qrels}


def top(run: Run, query_id: str, depth: int) -> list[str]:
    """The first `depth` document ids of a query, none where it has no results. Raises InputError for a duplicate."""
    results = run.get(query_id, ())[:depth]
    ids = list(results.ids) if isinstance(results, Results) else [doc_id for doc_id, _ in results]
    if len(set(ids)) < len(ids):
        twice = next(doc_id for position, doc_id in enumerate(ids) if doc_id in ids[:position])
        raise InputError(f"query {query_id!r}: document {twice!r} occurs twice in one ranking; keep the first")
    return ids


def _one_query(
    query_id: str, pool: Sequence[str], after: Sequence[str], grades: Mapping[str, int], metric: Metric
) -> QueryHeadroom:
    # unjudged documents gain nothing wherever they stand, so the best order needs the judged ones only
    best_order = sorted((doc_id for doc_id in pool if doc_id in grades), key=lambda doc_id: -grades[doc_id])
    result = QueryHeadroom(query_id, metric(pool, grades), metric(best_order, grades), metric(after, grades))
    if result.reranked > result.best + SAME:
        foreign = [doc_id for doc_id in after if doc_id not in set(pool)]
        raise InputError(
            f"query {query_id!r}: {metric.label} after reranking is {result.reranked:.4f}, but no order of the "
            f"baseline's first {len(pool)} documents exceeds {result.best:.4f}; the reranked run holds "
            f"{len(foreign)} document(s) that this pool lacks (such as {foreign[0]!r}). Give the run that was "
            "reranked as the baseline, or a depth that covers all of what was reranked"
        )
    return result


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if abs(whole) > SAME else None
