"""A verdict in plain sentences and short rows: the words that every view of it shares.

Knows: what to say, and in which order (what retrieval lost comes first). Refuses to know:
terminals, HTML, colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from secondpass.evaluation.audit import Decision, Latency, Outcome, Verdict
from secondpass.evaluation.metrics import parse_metric
from secondpass.evaluation.wording import counted, roughly, signed

__all__ = ["Part", "decomposition", "headline", "loss_and_gain", "ranks", "statistics"]


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the metric's range 0..1. `kind` is one of kept, gained, lost, left and missing."""

    kind: str
    label: str
    value: float


def headline(verdict: Verdict) -> str:
    """What was compared, on what."""
    first, second = verdict.names
    return f"{first} → {second} · {counted(verdict.queries, 'query', 'queries')} · depth {verdict.depth:,}"


def decomposition(verdict: Verdict) -> tuple[Part, ...]:
    """The range 0..1 of the metric in the parts that the audit tells apart, from the left; their sum is 1."""
    first, best, reranked = verdict.first, verdict.best, verdict.reranked
    missing = Part("missing", f"not in the first {verdict.depth:,}", 1.0 - best)
    if reranked >= first:
        return (
            Part("kept", f"had by {verdict.names[0]}", first),
            Part("gained", "gained by reranking", reranked - first),
            Part("left", "headroom left", max(best - reranked, 0.0)),
            missing,
        )
    return (
        Part("kept", "kept by reranking", reranked),
        Part("lost", "lost by reranking", first - reranked),
        Part("left", "headroom left", best - first),
        missing,
    )


def loss_and_gain(verdict: Verdict) -> tuple[str, ...]:
    """Sentences in the order in which a search team should read them: retrieval, the ceiling, the gain."""
    first, second = verdict.names
    label = parse_metric(verdict.metric).label
    sentences = [
        f"The first {verdict.depth:,} results of {first} hold {verdict.recall:.1%} of the relevant documents; "
        f"as they stand, they reach {label} {verdict.first:.3f}."
    ]
    if verdict.unfixable is None:
        sentences.append("That is all there is to reach: nothing is lost, and no reranker can add to it.")
        return tuple(sentences)
    sentences.append(
        f"{verdict.unfixable:.0%} of the loss is documents the pool lacks ({verdict.recall_loss:.3f} of "
        f"{1.0 - verdict.first:.3f}); no reranker can fix that, only better or deeper retrieval."
    )
    if verdict.capture is None:
        sentences.append("The pool is in its best order already, so that no reranker can gain anything.")
        return tuple(sentences)
    sentences.append(f"The best possible order of the same pool would gain {verdict.ordering_headroom:.3f}.")
    if verdict.helped == verdict.hurt == 0:
        sentences.append(f"{second} changes nothing of it for any query.")
    elif verdict.difference >= 0.0:
        sentences.append(f"{second} gains {verdict.difference:.3f}, {verdict.capture:.0%} of that.")
    else:
        sentences.append(f"{second} gains none of it and loses {-verdict.difference:.3f}.")
    return tuple(sentences)


def statistics(verdict: Verdict) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Groups of rows, each a title with names and values: is the change real, whom it serves, what it costs."""
    low, high = verdict.interval
    known = isfinite(low) and isfinite(high)
    change = [
        ("95% interval", f"{signed(low)} to {signed(high)}" if known else "unknown"),
        ("p of the paired randomisation test", f"{verdict.p_value:.2g}"),
        ("smallest effect that matters", f"{verdict.smallest_effect:g}"),
        ("smallest effect these queries can show", _number(verdict.detectable)),
    ]
    if verdict.decision is Decision.INCONCLUSIVE:
        needed = verdict.queries_needed
        change.append(("judged queries still needed", "unknown" if needed is None else f"about {roughly(needed)}"))
    queries = [
        ("helped / hurt / unchanged", f"{verdict.helped:,} / {verdict.hurt:,} / {verdict.unchanged:,}"),
        ("judged among the top 10, before / after", " / ".join(f"{share:.0%}" for share in verdict.judged_at_10)),
    ]
    pool = [
        (f"recall@{verdict.depth}", f"{verdict.recall:.3f}"),
        ("best order of the pool, N*", f"{verdict.best:.3f}"),
        ("share of the headroom captured, κ", _share(verdict.capture)),
        ("share of the loss that is unfixable, ρ", _share(verdict.unfixable)),
    ]
    cost = [("added by reranking, p50 / p95 / p99", _latency(verdict.added_latency))]
    if verdict.budget_ms is not None:
        cost.append(("budget for that p99", f"{verdict.budget_ms:,.0f} ms"))
    if verdict.first_latency is not None:
        cost.append(("first stage, p50 / p95 / p99", _latency(verdict.first_latency)))
    return (
        ("The change", tuple(change)),
        ("The queries", tuple(queries)),
        ("The pool", tuple(pool)),
        ("The time per query", tuple(cost)),
    )


def ranks(outcome: Outcome) -> str:
    """The rank of the first relevant document, before → after."""
    return f"{outcome.rank_before or '–'} → {outcome.rank_after or '–'}"


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return "not timed"
    times = (latency.p50_ms, latency.p95_ms, latency.p99_ms)
    return " / ".join(f"{ms:,.0f}" if ms >= 10 else f"{ms:.1f}" for ms in times) + " ms"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "nothing to share" if value is None else f"{value:.0%}".replace("-", "−")
