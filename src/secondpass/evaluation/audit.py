"""The audit: is the reranked order worth its cost?

Knows: two runs, judgments, timings, prices, other first stages as controls; it computes the `Verdict`. Refuses to
know: models, files, how a verdict looks on a page.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import ceil, isfinite, log, log1p

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.evaluation.control import Drawn, Spent, differences_of, measured_controls
from secondpass.evaluation.curve import DEPTHS, depth_curve
from secondpass.evaluation.diagnosis import diagnose, label
from secondpass.evaluation.headroom import Headroom, decompose_orders, orders
from secondpass.evaluation.metrics import SAME, Metric, judged, parse_metric
from secondpass.evaluation.segments import segments
from secondpass.evaluation.significance import (
    equivalence_p,
    minimum_detectable_effect,
    queries_needed,
    t_test_p,
    wilcoxon_p,
)
from secondpass.evaluation.systems import Latency, Price, System, latency
from secondpass.evaluation.trec import Qrels, Run
from secondpass.evaluation.verdict import (
    Control,
    Cost,
    Decision,
    DepthPoint,
    Fit,
    Outcome,
    Sensitivity,
    Shown,
    Verdict,
    decide,
)
from secondpass.evaluation.wording import counted, roughly, signed, some
from secondpass.types import Document

__all__ = ["FEW_QUERIES", "audit", "fitted"]

FEW_QUERIES = 25  # below, hardly any verdict but INCONCLUSIVE is reached (bench/verdicts.py)
_DAYS = 30


_Floats = NDArray[np.float64]


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
    p99_at: Mapping[int, float] | None = None,
    controls: Sequence[System] = (),
    price: Price = Price(),  # noqa: B008 - frozen
    queries_per_day: float | None = None,
    depths: Sequence[int] = DEPTHS,
    names: tuple[str, str] = ("baseline", "reranked"),
    licence: str = "",
    documents: Mapping[str, Document] | None = None,
    queries: Mapping[str, str] | None = None,
    truncated: Mapping[str, Collection[str]] | None = None,
    fields: Mapping[str, Mapping[str, str | float]] | None = None,
    permutations: int = 10_000,
    seed: int = 0,
) -> Verdict:
    """Compare the order of `reranked` with that of `baseline`, the run it was made from.

    Both are cut to `depth`. `delta` is the smallest gain that matters. `seconds_baseline` are the
    first stage's seconds per query, `seconds_reranked` those that reranking added; the p99 of
    the latter is held against `budget_ms`, and `p99_at` are p99s in ms that were measured at other depths.
    `controls` are other first stages on the same queries, cut to `depth` as well: what could be done instead, at
    equal or lower cost. `price` is that of the machine that does it all, and of each call of the reranker; a
    control's own price stands in its `System`. `depths` are those of the curve, `licence` is that of what reranks.
    `documents` and `queries` make the examples readable; these, and `truncated`, the ids of documents that were cut to
    the model's length, by query id, are what the diagnosis goes by. `fields` group the queries beside their length and
    question word: a value by query id for each field. Judged queries without results count as 0; queries
    without judgments are left out; both are said in the notes, as are pools that differ. Where 25 or more rankings
    are all as they were, the change is taken to be 0 for certain.

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
    before, after = orders(baseline, qrels, depth), orders(reranked, qrels, depth)
    headroom = decompose_orders(before, after, qrels, compute)
    first = np.array([query.first for query in headroom.queries])
    after_values = np.array([query.reranked for query in headroom.queries])
    drawn = Drawn(permutations, seed)
    differences = differences_of(after_values, first)
    # a metric that did not move may move elsewhere; orders that are the same throughout were not reranked at all
    untouched = len(qrels) >= FEW_QUERIES and before == after
    low, high = (0.0, 0.0) if untouched else drawn.interval(differences)
    added, before_latency = latency(seconds_reranked, "seconds_reranked"), latency(seconds_baseline, "seconds_baseline")
    cost = _cost(price, before_latency, added, headroom.reranked - headroom.first, queries_per_day)
    spent = Spent(
        before_latency.mean_ms + added.mean_ms if before_latency and added else None,
        cost.first_per_1000 + cost.added_per_1000
        if cost and cost.first_per_1000 is not None and cost.added_per_1000 is not None
        else None,
        price.currency,
    )
    tried = measured_controls(controls, qrels, compute, depth, first, after_values, delta, spent, price, drawn)
    better = [control for control in tried if control.better]
    decision = decide(low, high, delta, added.p99_ms if added else None, budget_ms, better_control=bool(better))
    needed = _queries_needed(differences, headroom.reranked - headroom.first, delta)
    curve = depth_curve(before, after, qrels, compute, [*depths, depth], resamples=permutations, seed=seed)
    verdict = Verdict(
        decision=decision,
        reason="",
        names=names,
        licence=licence,
        metric=str(compute),
        depth=depth,
        queries=len(headroom.queries),
        first=headroom.first,
        best=headroom.best,
        reranked=headroom.reranked,
        difference=headroom.reranked - headroom.first,
        interval=(low, high),
        p_value=drawn.p(differences),
        smallest_effect=delta,
        detectable=minimum_detectable_effect(differences),
        queries_needed=needed if decision is Decision.INCONCLUSIVE else None,
        recall=_mean([Metric("recall", depth)(before[query_id], grades) for query_id, grades in qrels.items()]),
        recall_loss=headroom.recall_loss,
        ordering_headroom=headroom.ordering_headroom,
        capture=headroom.capture,
        unfixable=headroom.unfixable,
        judged_at_10=(_judged_at_10(before, qrels), _judged_at_10(after, qrels)),
        first_latency=before_latency,
        added_latency=added,
        budget_ms=budget_ms,
        fits=None,
        cost=cost,
        sensitivity=Sensitivity(t_test_p(differences), wilcoxon_p(differences), equivalence_p(differences, delta)),
        controls=tried,
        curve=curve,
        sweeps=(),
        diagnosis=diagnose(
            headroom,
            before,
            after,
            qrels,
            metric=compute,
            documents=documents,
            queries=queries,
            truncated=truncated,
        ),
        segments=segments(
            {query.query_id: query.reranked - query.first for query in headroom.queries},
            queries,
            fields=fields,
            permutations=permutations,
            seed=seed,
        ),
        outcomes=_outcomes(headroom, before, after, qrels, documents or {}, queries or {}),
        notes=(
            *_query_notes(baseline, reranked, qrels, names),
            *_pool_notes(before, after, names),
            *_curve_notes(curve, before),
            *_other_notes(compute, depth, added, budget_ms),
            *_control_notes(decision, tried, compute),
        ),
    )
    return fitted(replace(verdict, reason=_reason(verdict)), p99_at or {})


def fitted(verdict: Verdict, p99_at: Mapping[int, float]) -> Verdict:
    """A TOO SLOW verdict with the largest depth that keeps the budget; any other as it is.

    `p99_at` are p99s in ms that were measured at other depths; without one the depth is estimated.
    """
    if verdict.decision is not Decision.TOO_SLOW:
        return verdict
    found = replace(verdict, fits=_fits(verdict, p99_at))
    return replace(found, reason=_reason(found))


def _cost(
    price: Price, first: Latency | None, added: Latency | None, gain: float, queries_per_day: float | None
) -> Cost | None:
    if queries_per_day is not None and not (isfinite(queries_per_day) and queries_per_day >= 0.0):
        raise InputError(f"queries_per_day is {queries_per_day}; give a number, 0 or more")
    own = Price(price.machine_hour, None, price.currency)  # the first stage is not called at the reranker's price
    before = own.per_1000(first.mean_ms if first else None)
    more = price.per_1000(added.mean_ms if added else None)
    if before is None and more is None:
        return None
    return Cost(
        currency=price.currency,
        first_per_1000=before,
        added_per_1000=more,
        added_per_gain=more * 0.01 / gain if more is not None and gain > SAME else None,
        added_per_month=more * queries_per_day * _DAYS / 1000.0 if more is not None and queries_per_day else None,
    )


def _fits(verdict: Verdict, p99_at: Mapping[int, float]) -> Fit | None:
    """The largest depth within the budget: of those that were measured, or where none was, estimated."""
    added, budget_ms, depth = verdict.added_latency, verdict.budget_ms, verdict.depth
    if added is None or budget_ms is None:
        return None
    gains = {point.depth: point.difference for point in verdict.curve}
    kept = [tried for tried, ms in p99_at.items() if ms <= budget_ms and tried < depth]
    if kept:
        return Fit(max(kept), p99_at[max(kept)], True, gains.get(max(kept)))
    if p99_at:
        return Fit(0, 0.0, True, 0.0)
    most = int(depth * budget_ms / added.p99_ms)
    within = max((tried for tried in gains if tried <= most), default=most)
    return Fit(within, added.p99_ms * within / depth, False, gains.get(within))


def _queries_needed(differences: _Floats, mean: float, delta: float) -> int | None:
    """Further queries until the effect, if it stays as measured, is told apart from δ.

    The gap |Δ − δ| can be next to nothing by chance, and would then ask for any number of
    queries; so nothing finer than δ is asked for while δ itself cannot be detected. Where no query differs from
    another, it takes as many as could not all miss a change that averages δ (1 − δ to the power n below .025).
    """
    detectable = minimum_detectable_effect(differences)
    if detectable == 0.0 and delta < 1.0:
        return max(ceil(log(0.025) / log1p(-delta)) - len(differences), 0) or None
    gap = abs(mean - delta)
    resolution = gap if detectable is None or detectable <= delta else max(gap, delta)
    return queries_needed(differences, resolution) if resolution > 0.0 else None


def _reason(verdict: Verdict) -> str:
    low, high = verdict.interval
    label = parse_metric(verdict.metric).label
    mean, delta = verdict.difference, verdict.smallest_effect
    if not (isfinite(low) and isfinite(high)):
        return f"One judged query cannot show how {label} varies; judge at least {FEW_QUERIES}."
    between = f"95% interval {signed(low)} to {signed(high)}"
    match verdict.decision:
        case Decision.HARMFUL:
            return f"Reranking makes {label} worse, by {-mean:.3f} ({between})."
        case Decision.NOT_WORTH_IT if low == high == 0.0:
            return f"Reranking changes nothing: all {verdict.queries:,} rankings are as they were."
        case Decision.NOT_WORTH_IT:
            return f"Reranking changes {label} by {signed(mean)} ({between}); even the upper end is below {delta:g}."
        case Decision.INCONCLUSIVE:
            needed = verdict.queries_needed
            more = f"; about {roughly(needed)} more judged queries would likely settle it" if needed else ""
            return f"The change of {label}, {signed(mean)} ({between}), may be more or less than {delta:g}{more}."
        case Decision.FIX_RETRIEVAL_FIRST:
            best = max((control for control in verdict.controls if control.better), key=lambda control: control.value)
            gain_low, gain_high = best.gain_interval
            return (
                f"{best.name} in place of {verdict.names[0]} raises {label} by {best.gain:.3f} (95% interval "
                f"{signed(gain_low)} to {signed(gain_high)}), {best.lead:.3f} more than reranking does, and costs no "
                f"more: {best.cost}."
            )
        case Decision.TOO_SLOW:
            assert verdict.added_latency is not None  # decide() gives this word only where there is a p99
            return (
                f"Reranking raises {label} by {mean:.3f} ({between}), but its p99 of "
                f"{verdict.added_latency.p99_ms:,.0f} ms exceeds the budget of {verdict.budget_ms:,.0f} ms. "
                f"{_largest(verdict.fits)}"
            )
        case Decision.WORTH_IT:
            kept = verdict.added_latency is not None and verdict.budget_ms is not None
            fits = f", within the budget of {verdict.budget_ms:,.0f} ms" if kept else ""
            return f"Reranking raises {label} by {mean:.3f} ({between}), more than the {delta:g} that matters{fits}."


def _largest(fits: Fit | None) -> str:
    if fits is None or fits.depth == 0:
        return "Not even the smallest depth that was tried keeps it."
    gain = "" if fits.difference is None else f", which would change the metric by {signed(fits.difference)}"
    how = "measured" if fits.measured else "estimated"
    return f"The largest depth that keeps it is {fits.depth:,} (p99 {fits.p99_ms:,.0f} ms, {how}){gain}."


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
        return Shown(ids[0], label(document) if document else "", grades.get(ids[0]))

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


def _query_notes(baseline: Run, reranked: Run, qrels: Qrels, names: tuple[str, str]) -> list[str]:
    notes = []
    if len(qrels) < FEW_QUERIES:
        notes.append(f"only {counted(len(qrels), 'judged query', 'judged queries')}: too few to decide much")
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


def _curve_notes(curve: Sequence[DepthPoint], before: Mapping[str, Sequence[str]]) -> list[str]:
    if curve or not any(before.values()):
        return []
    return ["no depth curve: the reranked run does not hold all of the pool, so that shallower orders are unknown"]


def _control_notes(decision: Decision, controls: Sequence[Control], metric: Metric) -> list[str]:
    notes = [f"control {control.name}: cost {control.cost}" for control in controls if control.mean_ms is None]
    if decision is Decision.INCONCLUSIVE:
        notes += [
            f"control {control.name} gains {control.gain:.3f} {metric.label}, more than reranking does, at no higher "
            "cost: settle it first"
            for control in controls
            if control.better
        ]
    return notes


def _judged_at_10(rankings: Mapping[str, Sequence[str]], qrels: Qrels) -> float:
    """The mean over queries with results: a query without any has nothing unjudged on top."""
    return _mean([judged(ids, qrels[query_id], 10) for query_id, ids in rankings.items() if ids])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
