"""The audit: is the reranked order worth its cost? One frozen Verdict, of which reports are views.

Knows: two runs, judgments, timings, the decision table. Refuses to know: models, files,
how a verdict looks on a page.

The decision goes by the 95% interval [lo, hi] of Δ = NC − N0 and the smallest effect
that matters, δ:

    hi < 0         HARMFUL
    hi < δ         NOT WORTH IT
    lo < δ ≤ hi    INCONCLUSIVE
    lo ≥ δ         TOO SLOW where the p99 exceeds the budget, else WORTH IT
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import isfinite, isnan
from typing import Any

import numpy as np

from secondpass.errors import InputError
from secondpass.evaluation.headroom import Headroom, decompose, top
from secondpass.evaluation.metrics import Metric, judged, parse_metric
from secondpass.evaluation.significance import (
    bootstrap_interval,
    minimum_detectable_effect,
    queries_needed,
    randomisation_p,
)
from secondpass.evaluation.trec import Qrels, Run
from secondpass.evaluation.wording import counted, roughly, signed, some
from secondpass.types import Document

__all__ = ["Decision", "Latency", "Outcome", "Shown", "Verdict", "audit", "decide"]

SCHEMA = 1
FEW_QUERIES = 25  # below, a bootstrap interval is known to be too narrow
_SAME = 1e-9  # a difference this small is rounding, not an effect


class Decision(StrEnum):
    """The word on top."""

    HARMFUL = "HARMFUL"
    NOT_WORTH_IT = "NOT WORTH IT"
    INCONCLUSIVE = "INCONCLUSIVE"
    TOO_SLOW = "TOO SLOW"
    WORTH_IT = "WORTH IT"


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of seconds per query, in milliseconds, over `queries` timed queries."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    queries: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A document as a report shows it: its id, its title or first words, its grade (None: unjudged)."""

    id: str
    label: str
    grade: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One query before and after.

    `first`, `reranked` and `best` are its N0, NC and N*. `rank_before` and `rank_after` are the
    1-based ranks of its first relevant document (None: none within the depth); `top_before` and
    `top_after` the documents on top.
    """

    query_id: str
    query: str
    first: float
    reranked: float
    best: float
    rank_before: int | None
    rank_after: int | None
    top_before: Shown | None
    top_after: Shown | None

    @property
    def difference(self) -> float:
        """NC − N0."""
        return self.reranked - self.first


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit found.

    `first`, `best` and `reranked` are the means N0, N* and NC; `difference` is Δ = NC − N0 with
    its 95% `interval` (BCa bootstrap; infinite ends: too few queries to know) and two-sided
    `p_value` (paired randomisation). `smallest_effect` is δ. `detectable` is the minimum
    detectable effect at 80 % power, `queries_needed` the further judged queries that would
    settle an INCONCLUSIVE verdict (None for the others and where unknown). `capture` is κ,
    `unfixable` ρ, `recall` the share of relevant documents in the pool of `depth`.
    `judged_at_10` is the judged share of the top 10, before and after. Latencies are None
    where nothing was timed; the budget is for `added_latency`. `outcomes` has every judged query.
    """

    decision: Decision
    reason: str
    names: tuple[str, str]
    metric: str
    depth: int
    queries: int
    first: float
    best: float
    reranked: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    smallest_effect: float
    detectable: float | None
    queries_needed: int | None
    recall: float
    recall_loss: float
    ordering_headroom: float
    capture: float | None
    unfixable: float | None
    judged_at_10: tuple[float, float]
    first_latency: Latency | None
    added_latency: Latency | None
    budget_ms: float | None
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...]

    @property
    def helped(self) -> int:
        """Queries that the reranked order serves better."""
        return sum(outcome.difference > _SAME for outcome in self.outcomes)

    @property
    def hurt(self) -> int:
        """Queries that the reranked order serves worse."""
        return sum(outcome.difference < -_SAME for outcome in self.outcomes)

    @property
    def unchanged(self) -> int:
        """Queries with the same metric before and after."""
        return self.queries - self.helped - self.hurt

    def most_helped(self, most: int = 5) -> tuple[Outcome, ...]:
        """The queries that gained most, best first; only such that gained."""
        ordered = sorted(self.outcomes, key=lambda outcome: -outcome.difference)
        return tuple(outcome for outcome in ordered[:most] if outcome.difference > _SAME)

    def most_hurt(self, most: int = 5) -> tuple[Outcome, ...]:
        """The queries that lost most, worst first; only such that lost."""
        ordered = sorted(self.outcomes, key=lambda outcome: outcome.difference)
        return tuple(outcome for outcome in ordered[:most] if outcome.difference < -_SAME)

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON-ready data, "schema": 1. Infinite interval ends become None."""
        return {
            "schema": SCHEMA,
            **asdict(self),
            "decision": self.decision.value,
            "names": list(self.names),
            "interval": [end if isfinite(end) else None for end in self.interval],
            "judged_at_10": list(self.judged_at_10),
            "helped": self.helped,
            "hurt": self.hurt,
            "unchanged": self.unchanged,
            "most_helped": [outcome.query_id for outcome in self.most_helped()],
            "most_hurt": [outcome.query_id for outcome in self.most_hurt()],
            "outcomes": [asdict(outcome) | {"difference": outcome.difference} for outcome in self.outcomes],
            "notes": list(self.notes),
        }


def decide(low: float, high: float, smallest_effect: float, p99_ms: float | None, budget_ms: float | None) -> Decision:
    """The word for an interval [low, high] of Δ; total: exactly one for every input without NaN.

    A p99 that is None (not timed) or a budget that is None is never exceeded.
    """
    if isnan(low) or isnan(high) or low > high:
        raise InputError(f"[{low}, {high}] is no interval")
    if high < 0.0:
        return Decision.HARMFUL
    if high < smallest_effect:
        return Decision.NOT_WORTH_IT
    if low < smallest_effect:
        return Decision.INCONCLUSIVE
    if p99_ms is not None and budget_ms is not None and p99_ms > budget_ms:
        return Decision.TOO_SLOW
    return Decision.WORTH_IT


def audit(
    baseline: Run,
    reranked: Run,
    qrels: Qrels,
    *,
    metric: str | Metric = "ndcg@10",
    depth: int = 100,
    delta: float = 0.01,
    budget_ms: float | None = None,
    seconds_baseline: Mapping[str, float] | None = None,
    seconds_reranked: Mapping[str, float] | None = None,
    names: tuple[str, str] = ("baseline", "reranked"),
    documents: Mapping[str, Document] | None = None,
    queries: Mapping[str, str] | None = None,
    permutations: int = 10_000,
    seed: int = 0,
) -> Verdict:
    """Compare the order of `reranked` with that of `baseline`, the run it was made from.

    Both are cut to `depth`. `delta` is the smallest gain that matters. `seconds_baseline` are the
    first stage's seconds per query, `seconds_reranked` those that reranking added; the p99 of
    the latter is held against `budget_ms`. `documents` and `queries` only make the examples
    readable. Judged queries without results count as 0; queries without judgments are left
    out; both are said in the notes, as are pools that differ.

    Raises InputError for runs and judgments without a common query, for a metric after reranking
    that no order of the pool reaches, and for numbers out of range.
    """
    compute = parse_metric(metric)
    if not (isfinite(delta) and delta > 0.0):
        raise InputError(f"delta is {delta}; give the smallest gain that matters, above 0, such as 0.01")
    if budget_ms is not None and not budget_ms >= 0.0:
        raise InputError(f"budget_ms is {budget_ms}; give milliseconds, 0 or more, or None for no budget")
    if qrels.keys().isdisjoint(baseline.keys() | reranked.keys()):
        raise InputError(
            f"runs and judgments share no query id (runs: {some(baseline, 1)}, judgments: {some(qrels, 1)}); "
            "give the judgments of the same queries"
        )
    headroom = decompose(baseline, reranked, qrels, metric=compute, depth=depth)
    differences = np.array([query.reranked - query.first for query in headroom.queries])
    differences[np.abs(differences) <= _SAME] = 0.0
    low, high = bootstrap_interval(differences, resamples=permutations, seed=seed)
    added = _latency(seconds_reranked, "seconds_reranked")
    decision = decide(low, high, delta, added.p99_ms if added else None, budget_ms)
    mean = headroom.reranked - headroom.first
    detectable = minimum_detectable_effect(differences)
    needed = _queries_needed(differences, mean, delta) if decision is Decision.INCONCLUSIVE else None
    before = {query_id: top(baseline, query_id, depth) for query_id in qrels}
    after = {query_id: top(reranked, query_id, depth) for query_id in qrels}
    return Verdict(
        decision=decision,
        reason=_reason(decision, compute.label, mean, (low, high), delta, needed, added, budget_ms),
        names=names,
        metric=str(compute),
        depth=depth,
        queries=len(headroom.queries),
        first=headroom.first,
        best=headroom.best,
        reranked=headroom.reranked,
        difference=mean,
        interval=(low, high),
        p_value=randomisation_p(differences, permutations=permutations, seed=seed),
        smallest_effect=delta,
        detectable=detectable,
        queries_needed=needed,
        recall=_mean([Metric("recall", depth)(before[query_id], grades) for query_id, grades in qrels.items()]),
        recall_loss=headroom.recall_loss,
        ordering_headroom=headroom.ordering_headroom,
        capture=headroom.capture,
        unfixable=headroom.unfixable,
        judged_at_10=(_judged_at_10(before, qrels), _judged_at_10(after, qrels)),
        first_latency=_latency(seconds_baseline, "seconds_baseline"),
        added_latency=added,
        budget_ms=budget_ms,
        outcomes=_outcomes(headroom, before, after, qrels, documents or {}, queries or {}),
        notes=(
            *_query_notes(baseline, reranked, qrels, names),
            *_pool_notes(before, after, names),
            *_other_notes(compute, depth, added, budget_ms),
        ),
    )


def _queries_needed(differences: np.ndarray[Any, np.dtype[np.float64]], mean: float, delta: float) -> int | None:
    """Further queries until the effect, if it stays as measured, is told apart from δ.

    The gap |Δ − δ| can be next to nothing by chance, and would then ask for any number of
    queries; so nothing finer than δ is asked for while δ itself cannot be detected.
    """
    gap = abs(mean - delta)
    detectable = minimum_detectable_effect(differences)
    resolution = gap if detectable is None or detectable <= delta else max(gap, delta)
    return queries_needed(differences, resolution) if resolution > 0.0 else None


def _reason(
    decision: Decision,
    label: str,
    mean: float,
    interval: tuple[float, float],
    delta: float,
    needed: int | None,
    added: Latency | None,
    budget_ms: float | None,
) -> str:
    low, high = interval
    if not (isfinite(low) and isfinite(high)):
        return f"One judged query cannot show how {label} varies; judge at least {FEW_QUERIES}."
    between = f"95% interval {signed(low)} to {signed(high)}"
    match decision:
        case Decision.HARMFUL:
            return f"Reranking makes {label} worse, by {-mean:.3f} ({between})."
        case Decision.NOT_WORTH_IT:
            return f"Reranking changes {label} by {signed(mean)} ({between}); even the upper end is below {delta:g}."
        case Decision.INCONCLUSIVE:
            more = f"; about {roughly(needed)} more judged queries would likely settle it" if needed else ""
            return f"The change of {label}, {signed(mean)} ({between}), may be more or less than {delta:g}{more}."
        case Decision.TOO_SLOW:
            assert added is not None  # decide() gives this word only where there is a p99
            return (
                f"Reranking raises {label} by {mean:.3f} ({between}), but its p99 of {added.p99_ms:,.0f} ms "
                f"exceeds the budget of {budget_ms:,.0f} ms."
            )
        case Decision.WORTH_IT:
            fits = f", within the budget of {budget_ms:,.0f} ms" if added and budget_ms is not None else ""
            return f"Reranking raises {label} by {mean:.3f} ({between}), more than the {delta:g} that matters{fits}."


def _outcomes(
    headroom: Headroom,
    before: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
    qrels: Qrels,
    documents: Mapping[str, Document],
    queries: Mapping[str, str],
) -> tuple[Outcome, ...]:
    def shown(ids: Sequence[str], grades: Mapping[str, int]) -> Shown | None:
        if not ids:
            return None
        document = documents.get(ids[0])
        return Shown(ids[0], _label(document) if document else "", grades.get(ids[0]))

    def first_relevant(ids: Sequence[str], grades: Mapping[str, int]) -> int | None:
        return next((rank for rank, doc_id in enumerate(ids, 1) if grades.get(doc_id, 0) > 0), None)

    outcomes = []
    for query in headroom.queries:
        key = query.query_id
        old, new, grades = before[key], after[key], qrels[key]
        outcomes.append(
            Outcome(
                query_id=key,
                query=queries.get(key, ""),
                first=query.first,
                reranked=query.reranked,
                best=query.best,
                rank_before=first_relevant(old, grades),
                rank_after=first_relevant(new, grades),
                top_before=shown(old, grades),
                top_after=shown(new, grades),
            )
        )
    return tuple(outcomes)


def _label(document: Document, most: int = 120) -> str:
    words = " ".join(str(document.title or document.text)[: 4 * most].split())
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"


def _query_notes(baseline: Run, reranked: Run, qrels: Qrels, names: tuple[str, str]) -> list[str]:
    notes = []
    if len(qrels) < FEW_QUERIES:
        notes.append(f"only {counted(len(qrels), 'judged query', 'judged queries')}: the interval is likely too narrow")
    for name, run in zip(names, (baseline, reranked), strict=True):
        if missing := sum(not run.get(query_id) for query_id in qrels):
            notes.append(
                f"{counted(missing, 'judged query', 'judged queries')} without results in {name}, counted as 0"
            )
    if unjudged := len((baseline.keys() | reranked.keys()) - qrels.keys()):
        notes.append(f"{counted(unjudged, 'query', 'queries')} of the runs without judgments left out")
    if hopeless := sum(all(grade <= 0 for grade in grades.values()) for grades in qrels.values()):
        notes.append(
            f"{counted(hopeless, 'judged query', 'judged queries')} without a relevant document, counted as 0 "
            "throughout (and so as unfixable)"
        )
    return notes


def _pool_notes(
    before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]], names: tuple[str, str]
) -> list[str]:
    pools = [(set(old), set(after[query_id])) for query_id, old in before.items()]
    notes = []
    if lacking := sum(bool(old - new) for old, new in pools):
        notes.append(f"pools differ: {names[1]} lacks documents of the pool in {counted(lacking, 'query', 'queries')}")
    if foreign := sum(bool(new - old) for old, new in pools):
        notes.append(
            f"pools differ: {names[1]} has documents from outside the pool in {counted(foreign, 'query', 'queries')}; "
            "this is not only a change of order"
        )
    return notes


def _other_notes(metric: Metric, depth: int, added: Latency | None, budget_ms: float | None) -> list[str]:
    notes = []
    if metric.cutoff is not None and metric.cutoff > depth:
        notes.append(f"{metric.label} sees only the first {depth} results, the depth of the audit")
    if added is None and budget_ms is not None:
        notes.append(f"no timings were given, so the budget of {budget_ms:,.0f} ms was not checked")
    if added is not None and added.queries < 100:
        notes.append(f"only {counted(added.queries, 'query', 'queries')} timed: the p99 is next to the slowest of them")
    return notes


def _latency(seconds: Mapping[str, float] | None, name: str) -> Latency | None:
    if not seconds:
        return None
    for query_id, value in seconds.items():
        if not (isfinite(value) and value >= 0.0):
            raise InputError(f"{name}[{query_id!r}] is {value}; give seconds, 0 or more")
    p50, p95, p99 = (float(value) * 1000.0 for value in np.percentile(list(seconds.values()), (50, 95, 99)))
    return Latency(p50, p95, p99, len(seconds))


def _judged_at_10(rankings: Mapping[str, Sequence[str]], qrels: Qrels) -> float:
    """The mean over queries with results: a query without any has nothing unjudged on top."""
    return _mean([judged(ids, qrels[query_id], 10) for query_id, ids in rankings.items() if ids])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
