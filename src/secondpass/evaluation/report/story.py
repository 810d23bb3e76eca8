"""A verdict in plain sentences and short rows: the words that every view of it shares.

Knows: what to say, and in which order (what retrieval lost comes first). Refuses to know:
terminals, HTML, colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from secondpass.evaluation.metrics import SAME, parse_metric
from secondpass.evaluation.systems import Latency
from secondpass.evaluation.verdict import Control, Decision, Outcome, Shown, Verdict
from secondpass.evaluation.wording import clean, counted, money, roughly, signed

__all__ = [
    "LICENCE",
    "Fact",
    "Part",
    "between",
    "control_word",
    "decomposition",
    "depths",
    "document",
    "headline",
    "loss_and_gain",
    "milliseconds",
    "money",
    "p_value",
    "ranks",
    "short",
    "statistics",
]

LICENCE = "The licence"  # the title of its facts


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the metric's range 0..1. `kind` is one of kept, gained, lost, left and missing."""

    kind: str
    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Fact:
    """A number with its name, and the name that a narrow view gives it."""

    name: str
    short: str
    value: str


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


def statistics(verdict: Verdict) -> tuple[tuple[str, tuple[Fact, ...]], ...]:
    """Groups of facts: is the change real, whom it serves, what the pool allows, what it takes and costs."""
    change = [
        Fact("95% interval", "95%", between(verdict.interval)),
        Fact("p of the paired randomisation test", "p", p_value(verdict.p_value)),
        Fact("smallest effect that matters, δ", "matters from", f"{verdict.smallest_effect:g}"),
        Fact("smallest effect these queries can show", "detectable from", _number(verdict.detectable)),
    ]
    if verdict.decision is Decision.INCONCLUSIVE:
        needed = verdict.queries_needed
        more = "unknown" if needed is None else f"about {roughly(needed)}"
        change.append(Fact("judged queries still needed", "queries still needed", more))
    queries = [
        Fact(
            "helped / hurt / unchanged",
            "helped / hurt / unchanged",
            f"{verdict.helped:,} / {verdict.hurt:,} / {verdict.unchanged:,}",
        ),
        Fact(
            "judged among the top 10, before / after",
            "judged@10",
            " / ".join(f"{share:.0%}" for share in verdict.judged_at_10),
        ),
    ]
    pool = [
        Fact(f"recall@{verdict.depth}", f"recall@{verdict.depth}", f"{verdict.recall:.3f}"),
        Fact("best order of the pool, N*", "best order N*", f"{verdict.best:.3f}"),
        Fact("share of the headroom captured, κ", "captured κ", _share(verdict.capture)),
        Fact("share of the loss that is unfixable, ρ", "unfixable ρ", _share(verdict.unfixable)),
    ]
    time = [Fact("added by reranking, p50 / p95 / p99", "added p50 / p95 / p99", _latency(verdict.added_latency))]
    if verdict.budget_ms is not None:
        time.append(Fact("budget for that p99", "budget", f"{verdict.budget_ms:,.0f} ms"))
    if verdict.fits is not None and verdict.fits.depth:
        how = "measured" if verdict.fits.measured else "estimated"
        within = f"{verdict.fits.depth:,} ({milliseconds(verdict.fits.p99_ms)}, {how})"
        time.append(Fact("largest depth within the budget", "depth within it", within))
    if verdict.first_latency is not None:
        time.append(Fact("first stage, p50 / p95 / p99", "first stage", _latency(verdict.first_latency)))
    groups = [("The change", change), ("The queries", queries), ("The pool", pool), ("The time per query", time)]
    if verdict.cost is not None:
        groups.append(("The money", _money_facts(verdict)))
    if verdict.licence:
        groups.append((LICENCE, [Fact("of the model that reranks", "licence", short(verdict.licence, 30))]))
    tests = [
        Fact("p of the t test", "t test p", p_value(verdict.sensitivity.t_p)),
        Fact("p of the Wilcoxon test", "Wilcoxon p", p_value(verdict.sensitivity.wilcoxon_p)),
        Fact("p of equivalence within ±δ", "equivalence p", p_value(verdict.sensitivity.equivalence_p)),
    ]
    groups.append(("Other tests, for comparison", tests))
    return tuple((title, tuple(facts)) for title, facts in groups)


def depths(verdict: Verdict) -> str:
    """Where the depth curve is highest, and what lies beyond; "" without a curve."""
    peak = verdict.peak
    if peak is None:
        return ""
    label, last = parse_metric(verdict.metric).label, verdict.curve[-1]
    if len(verdict.curve) == 1:
        return f"Reranked to depth {peak.depth:,}, {label} is {peak.value:.3f}."
    if peak.value <= verdict.first + SAME:
        return f"No depth gains anything: {label} is highest without reranking, {verdict.first:.3f}."
    if peak.depth == last.depth:
        return f"{label} is highest at the full depth of {peak.depth:,} ({peak.value:.3f}); deeper may gain more."
    lost = peak.value - last.value
    if lost < 0.0005:
        return f"{label} is highest at depth {peak.depth:,} ({peak.value:.3f}); going deeper gains nothing."
    return (
        f"{label} is highest at depth {peak.depth:,} ({peak.value:.3f}) and turns down from there: "
        f"{signed(-lost)} at {last.depth:,}."
    )


def control_word(control: Control) -> str:
    """What came of a control, in a word or two."""
    if control.better:
        return "better, and no dearer"
    if control.affordable:
        return "not shown to be better"
    return "cost not compared" if control.affordable is None else "dearer"


def ranks(outcome: Outcome) -> str:
    """The rank of the first relevant document, before → after."""
    return f"{outcome.rank_before or '–'} → {outcome.rank_after or '–'}"


def document(shown: Shown | None) -> str:
    """A document on top: its grade and what it is called."""
    if shown is None:
        return "nothing"
    grade = "unjudged" if shown.grade is None else f"grade {shown.grade}"
    return f"({grade}) {clean(shown.label) or clean(shown.id)}"


def short(words: str, most: int = 240) -> str:
    """At most `most` characters of a text on one line."""
    line = clean(words[: 4 * most])
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def between(interval: tuple[float, float] | None) -> str:
    """The two ends of an interval; "unknown" where there is none or an end is infinite."""
    if interval is None or not all(map(isfinite, interval)):
        return "unknown"
    return f"{signed(interval[0])} to {signed(interval[1])}"


def p_value(p: float | None) -> str:
    """Two digits; what is below 0.0001 only says so."""
    if p is None:
        return "unknown"
    return "below 0.0001" if p < 0.0001 else f"{p:.2g}" if p >= 0.001 else f"{p:.4f}"


def milliseconds(ms: float | None) -> str:
    """Whole milliseconds from 10 on."""
    return "not timed" if ms is None else f"{ms:,.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def _money_facts(verdict: Verdict) -> list[Fact]:
    cost = verdict.cost
    if cost is None:
        return []
    facts = [Fact("added to 1,000 queries", "added to 1,000 queries", money(cost.added_per_1000, cost.currency))]
    if cost.added_per_1000 is not None:
        gained = "gains nothing" if cost.added_per_gain is None else money(cost.added_per_gain, cost.currency)
        facts.append(Fact("that is, for each .01 gained", "per .01 gained", gained))
    if cost.added_per_month is not None:
        facts.append(Fact("added in 30 days", "30 days", money(cost.added_per_month, cost.currency)))
    facts.append(Fact("1,000 queries of the first stage", "first stage", money(cost.first_per_1000, cost.currency)))
    return facts


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return "not timed"
    times = (latency.p50_ms, latency.p95_ms, latency.p99_ms)
    return " / ".join(f"{ms:,.0f}" if ms >= 10 else f"{ms:.1f}" for ms in times) + " ms"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "nothing to share" if value is None else f"{value:.0%}".replace("-", "−")
