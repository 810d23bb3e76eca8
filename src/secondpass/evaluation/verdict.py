"""The verdict of an audit: its word, the numbers behind it, and the table that picks the word.

Knows: the decision table and what a report may show. Refuses to know: how anything was computed, how it looks on a
page.

The decision goes by the 95% interval [lo, hi] of Δ = NC − N0 and the smallest effect that matters, δ:

    lo < δ ≤ hi    INCONCLUSIVE
    else           FIX RETRIEVAL FIRST where a measured control is better (see `Control`), otherwise
    hi < 0         HARMFUL
    hi < δ         NOT WORTH IT
    lo ≥ δ         TOO SLOW where the p99 exceeds the budget, else WORTH IT
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from math import isfinite, isnan
from typing import Any

from secondpass.errors import InputError
from secondpass.evaluation.diagnosis import Diagnosis
from secondpass.evaluation.metrics import SAME
from secondpass.evaluation.segments import Segment
from secondpass.evaluation.systems import Latency

__all__ = [
    "Control",
    "Cost",
    "Decision",
    "DepthPoint",
    "Fit",
    "Outcome",
    "Sensitivity",
    "Shown",
    "Sweep",
    "SweepPoint",
    "Verdict",
    "decide",
    "plain",
]

SCHEMA = 1


class Decision(StrEnum):
    """The word on top."""

    HARMFUL = "HARMFUL"
    NOT_WORTH_IT = "NOT WORTH IT"
    INCONCLUSIVE = "INCONCLUSIVE"
    FIX_RETRIEVAL_FIRST = "FIX RETRIEVAL FIRST"
    TOO_SLOW = "TOO SLOW"
    WORTH_IT = "WORTH IT"


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
class Control:
    """Another first stage, measured on the same queries: what the cross-encoder's cost would buy elsewhere.

    `value` is its metric, `gain` its difference to the first stage, `lead` that to the reranked order, each with a 95%
    interval; `p_value` is of the lead, corrected after Holm over the controls that are `affordable`: measured to cost
    no more per query than first stage and reranking together (None: not compared). `cost` says what was compared, or
    why it could not be. It is `better` where it is affordable, the whole interval of its gain is at least δ, and it
    leads with a corrected p below .05.
    """

    name: str
    value: float
    gain: float
    gain_interval: tuple[float, float]
    lead: float
    lead_interval: tuple[float, float]
    p_value: float | None
    recall: float
    mean_ms: float | None
    per_1000: float | None
    affordable: bool | None
    cost: str
    better: bool


@dataclass(frozen=True, slots=True)
class DepthPoint:
    """What reranking only the first `depth` candidates would have given, the others behind in their first order.

    `value` is the metric, `difference` that to the first stage with its 95% interval, `best` and `recall` are N* and
    recall of the first `depth`.
    """

    depth: int
    value: float
    difference: float
    interval: tuple[float, float]
    best: float
    recall: float


@dataclass(frozen=True, slots=True)
class Fit:
    """The largest depth whose p99 keeps the budget: `measured`, or else estimated from cost linear in candidates."""

    depth: int
    p99_ms: float
    measured: bool
    difference: float | None


@dataclass(frozen=True, slots=True)
class Cost:
    """Money, in `currency`: 1,000 queries of the first stage, what reranking adds to them, and what it adds to each
    .01 of the metric (None: it gains nothing) and to 30 days of traffic. None: unknown."""

    currency: str
    first_per_1000: float | None
    added_per_1000: float | None
    added_per_gain: float | None
    added_per_month: float | None


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Other tests of the same differences, for comparison; no verdict goes by them.

    `t_p` and `wilcoxon_p` are two-sided; `equivalence_p` is of two one-sided tests that Δ lies within ±δ (None: too few
    queries)."""

    t_p: float | None
    wilcoxon_p: float | None
    equivalence_p: float | None


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One setting that was really run on the same candidates. `on_front`: no other setting is worth as much for less
    time (against p99) or less money; `value` and `difference` are as in the verdict."""

    setting: str
    value: float
    difference: float
    interval: tuple[float, float]
    latency: Latency | None
    per_1000: float | None
    on_time_front: bool
    on_cost_front: bool


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one key of the pipeline does, all else being equal: a curve, in the order the settings were given."""

    key: str
    points: tuple[SweepPoint, ...]


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
    where nothing was timed; the budget is for `added_latency`, and `fits` is set where that is TOO SLOW.
    `cost` is None where no price is known. `controls` are the other first stages that were measured, `curve` the
    depths (none where the reranked run does not hold all of the pool), `sweeps` other settings that were asked for.
    `diagnosis` says what each query shows, `segments` where reranking helps and hurts. `outcomes` has every judged
    query. `licence` is that of the model that reranks ("unstated": its folder names none; "": not known).
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
    fits: Fit | None
    cost: Cost | None
    sensitivity: Sensitivity
    controls: tuple[Control, ...]
    curve: tuple[DepthPoint, ...]
    sweeps: tuple[Sweep, ...]
    diagnosis: Diagnosis
    segments: tuple[Segment, ...]
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...]
    licence: str = ""

    @property
    def peak(self) -> DepthPoint | None:
        """The depth with the highest metric, the smallest of equals; None without a curve."""
        return max(self.curve, key=lambda point: (round(point.value, 9), -point.depth), default=None)

    @property
    def helped(self) -> int:
        """Queries that the reranked order serves better."""
        return sum(outcome.difference > SAME for outcome in self.outcomes)

    @property
    def hurt(self) -> int:
        """Queries that the reranked order serves worse."""
        return sum(outcome.difference < -SAME for outcome in self.outcomes)

    @property
    def unchanged(self) -> int:
        """Queries with the same metric before and after."""
        return self.queries - self.helped - self.hurt

    def most_helped(self, most: int = 5) -> tuple[Outcome, ...]:
        """The queries that gained most, best first; only such that gained."""
        ordered = sorted(self.outcomes, key=lambda outcome: -outcome.difference)
        return tuple(outcome for outcome in ordered[:most] if outcome.difference > SAME)

    def most_hurt(self, most: int = 5) -> tuple[Outcome, ...]:
        """The queries that lost most, worst first; only such that lost."""
        ordered = sorted(self.outcomes, key=lambda outcome: outcome.difference)
        return tuple(outcome for outcome in ordered[:most] if outcome.difference < -SAME)

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON-ready data, "schema": 1 (docs/audit-json.md). Numbers that are not finite become None."""
        return {
            "schema": SCHEMA,
            **plain(self),
            "helped": self.helped,
            "hurt": self.hurt,
            "unchanged": self.unchanged,
            "peak_depth": self.peak.depth if self.peak else None,
            "diagnosis": plain(self.diagnosis.to_dict()),
            "segments": [plain(segment.to_dict()) for segment in self.segments],
            "most_helped": [outcome.query_id for outcome in self.most_helped()],
            "most_hurt": [outcome.query_id for outcome in self.most_hurt()],
            "outcomes": [plain(outcome) | {"difference": outcome.difference} for outcome in self.outcomes],
        }


def plain(value: Any) -> Any:
    """Dataclasses, tuples and words as JSON has them; numbers that are not finite become None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def decide(
    low: float,
    high: float,
    smallest_effect: float,
    p99_ms: float | None,
    budget_ms: float | None,
    *,
    better_control: bool = False,
) -> Decision:
    """The word for an interval [low, high] of Δ; total: exactly one for every input without NaN.

    A p99 that is None (not timed) or a budget that is None is never exceeded. `better_control`: whether a `Control`
    that was measured is better.
    """
    if isnan(low) or isnan(high) or low > high:
        raise InputError(f"[{low}, {high}] is no interval")
    if low < smallest_effect <= high:
        return Decision.INCONCLUSIVE
    if better_control:
        return Decision.FIX_RETRIEVAL_FIRST
    if high < 0.0:
        return Decision.HARMFUL
    if high < smallest_effect:
        return Decision.NOT_WORTH_IT
    if p99_ms is not None and budget_ms is not None and p99_ms > budget_ms:
        return Decision.TOO_SLOW
    return Decision.WORTH_IT
