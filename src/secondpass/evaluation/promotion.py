"""Whether a model takes the place of another: by what both do on judged queries, in their domain and outside it.

Knows: two orders of the same candidates, judgments, seconds; the rule. Refuses to know: models, folders, where runs
come from. A `Promotion` is made from judgments alone: clicks do not come in here.

With Δ = model − incumbent and its 95% interval [lo, hi], ε the `forget` and δ the `delta` of the rule, in this order:

    Δ < −ε or hi < −ε on one of the general collections     FORGETS, refused
    Δ > 0, p < .05 and lo > 0 in the domain                 GAIN, promoted
    at least a tenth faster, and lo > −δ in the domain      CHEAPER, promoted
    hi < 0 in the domain                                    WORSE, refused
    else                                                    NOT SHOWN, refused

"A tenth faster" is that the whole 95% interval of the time that it takes is at or below .9 of the incumbent's: two
copies of one model are never equally fast on a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from statistics import fmean
from typing import Any

import numpy as np

from secondpass.errors import InputError
from secondpass.evaluation.audit import FEW_QUERIES
from secondpass.evaluation.control import differences_of
from secondpass.evaluation.difference import Change, changed
from secondpass.evaluation.metrics import SAME, Metric, evaluate, parse_metric
from secondpass.evaluation.significance import holm, minimum_detectable_effect, queries_needed
from secondpass.evaluation.systems import System
from secondpass.evaluation.trec import Qrels, Run
from secondpass.evaluation.verdict import plain
from secondpass.evaluation.wording import counted, roughly, signed, some

__all__ = ["FASTER", "Comparison", "Ground", "Promotion", "check_bounds", "compared", "decide", "judged_promotion"]

SCHEMA = 1
FASTER = 0.1
"""The share of the incumbent's time that a model has to save to be promoted without a gain."""
_LEVEL = 0.05


class Ground(StrEnum):
    """Why a model is promoted, or not."""

    GAIN = "GAIN"
    CHEAPER = "CHEAPER"
    FORGETS = "FORGETS"
    WORSE = "WORSE"
    NOT_SHOWN = "NOT SHOWN"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model against the incumbent over the candidates of one first stage, on one judged collection.

    `first` is the mean metric of the first stage, `change` leads from the incumbent's to the model's. `detectable` is
    the minimum detectable effect at 80 % power (None: fewer than two queries). `mean_ms` is what reranking a query took
    the incumbent and the model, `time` the change of it in parts of the incumbent's mean (so from 1); None: not timed.
    """

    collection: str
    queries: int
    first: float
    change: Change
    detectable: float | None
    needed: int | None
    mean_ms: tuple[float, float] | None
    time: Change | None

    @property
    def loss(self) -> float:
        """The largest loss that the interval does not exclude, 0 or more."""
        return max(-self.change.interval[0], 0.0)


@dataclass(frozen=True, slots=True)
class Promotion:
    """What was decided, by which rule and numbers. `names` are the incumbent and the model.

    `general_p` are the p-values of the changes on the `general` collections, corrected after Holm over them;
    `outside` says each of these changes in words.
    """

    ground: Ground
    reason: str
    outside: tuple[str, ...]
    names: tuple[str, str]
    metric: str
    delta: float
    forget: float
    in_domain: Comparison
    general: tuple[Comparison, ...]
    general_p: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def promoted(self) -> bool:
        """Whether the model takes the incumbent's place."""
        return self.ground in (Ground.GAIN, Ground.CHEAPER)

    def to_dict(self) -> dict[str, Any]:
        """The promotion as JSON-ready data, "schema": 1 (docs/promote.md). Numbers that are not finite become None."""
        return {"schema": SCHEMA, "promoted": self.promoted, **plain(self)}


def compared(
    collection: str,
    first: Run,
    incumbent: System,
    model: System,
    qrels: Qrels,
    *,
    metric: str | Metric = "ndcg@10",
    delta: float = 0.01,
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Two orders of the candidates that `first` found, by the paired statistics of an audit.

    A judged query without results counts 0. `needed` is how many more queries could show a change of `delta`.
    Raises InputError where a run shares no query id with the judgments, or not one relevant document was found: two
    orders of nothing are equally good.
    """
    compute = parse_metric(metric)
    for name, run in (("first stage", first), (incumbent.name, incumbent.run), (model.name, model.run)):
        if qrels.keys().isdisjoint(run):
            raise InputError(
                f"{collection}: {name}: run and judgments share no query id (run: {some(run, 1)}, judgments: "
                f"{some(qrels, 1)}); give the judgments of the same queries"
            )
    before, after = (list(evaluate(one.run, qrels, compute).values()) for one in (incumbent, model))
    if not any(before) and not any(after):
        raise InputError(
            f"{collection}: not one query has a relevant document where {compute.label} sees it, so nothing can be "
            "compared; do documents and judgments belong together?"
        )
    differences = differences_of(np.array(after), np.array(before))
    time, mean_ms = None, None
    if incumbent.seconds and model.seconds:
        timed = sorted(incumbent.seconds.keys() & model.seconds.keys())
        old, new = ([one[query_id] for query_id in timed] for one in (incumbent.seconds, model.seconds))
        if (unit := fmean(old)) > 0.0:
            mean_ms = 1000.0 * unit, 1000.0 * fmean(new)
            time = changed([s / unit for s in old], [s / unit for s in new], permutations=permutations, seed=seed)
    return Comparison(
        collection=collection,
        queries=len(qrels),
        first=fmean(evaluate(first, qrels, compute).values()),
        change=changed(before, after, permutations=permutations, seed=seed),
        detectable=minimum_detectable_effect(differences),
        needed=queries_needed(differences, delta) if delta > 0.0 else None,
        mean_ms=mean_ms,
        time=time,
    )


def check_bounds(delta: float, forget: float) -> None:
    """Raises InputError where a bound is negative or not finite."""
    for name, bound in (("delta", delta), ("forget", forget)):
        if not (isfinite(bound) and bound >= 0.0):
            raise InputError(f"{name} is {bound}; give a loss of the metric, 0 or more")


def decide(
    in_domain: Comparison, general: Sequence[Comparison], *, delta: float = 0.01, forget: float = 0.01
) -> Ground:
    """The rule (see above); total: exactly one ground for all comparisons.

    Raises InputError where there is no general collection, or a bound is negative or not finite.
    """
    check_bounds(delta, forget)
    if not general:
        raise InputError("there is no general collection; without one nobody knows what the model has forgotten")
    if any(min(one.change.difference, one.change.interval[1]) < -forget - SAME for one in general):
        return Ground.FORGETS
    change, time = in_domain.change, in_domain.time
    low, high = change.interval
    if change.difference > 0.0 and low > 0.0 and change.p_value < _LEVEL:
        return Ground.GAIN
    if time is not None and time.interval[1] <= -FASTER and low > -delta:
        return Ground.CHEAPER
    return Ground.WORSE if high < 0.0 else Ground.NOT_SHOWN


def judged_promotion(
    in_domain: Comparison,
    general: Sequence[Comparison],
    names: tuple[str, str],
    *,
    metric: str | Metric = "ndcg@10",
    delta: float = 0.01,
    forget: float = 0.01,
    notes: Sequence[str] = (),
) -> Promotion:
    """What the rule says of these comparisons, with its reason in words. Raises as `decide` does."""
    label = parse_metric(metric).label
    ground = decide(in_domain, general, delta=delta, forget=forget)
    corrected = holm([one.change.p_value for one in general])
    return Promotion(
        ground=ground,
        reason=_reason(ground, in_domain, general, label, delta, forget),
        outside=tuple(_outside(one, p, label, forget) for one, p in zip(general, corrected, strict=True)),
        names=names,
        metric=str(parse_metric(metric)),
        delta=delta,
        forget=forget,
        in_domain=in_domain,
        general=tuple(general),
        general_p=corrected,
        notes=(*_notes([in_domain, *general], names, label), *notes),
    )


def _reason(
    ground: Ground, domain: Comparison, general: Sequence[Comparison], label: str, delta: float, forget: float
) -> str:
    change, where = domain.change, f"on {domain.collection}"
    moved = f"{label} {where} changes by {signed(change.difference)} ({_between(change)}, {_p(change.p_value)})"
    match ground:
        case Ground.GAIN:
            return f"A significant gain: {moved}."
        case Ground.CHEAPER:
            assert domain.time is not None  # decide() says this only of what was timed
            return (
                f"Cheaper, and no worse than allowed: it takes {_percent(domain.time.difference)} time a query "
                f"({_percent(domain.time.interval[0])} to {_percent(domain.time.interval[1])}), and {moved}: a loss of "
                f"{delta:g} or more is excluded."
            )
        case Ground.FORGETS:
            worst = min(general, key=lambda one: one.change.difference)
            return (
                f"It forgets: {label} on {worst.collection} changes by {signed(worst.change.difference)} "
                f"({_between(worst.change)}), and {signed(-forget)} is the most that is allowed. In its domain {moved}."
            )
        case Ground.WORSE:
            return f"It is worse: {moved}{_unsaved(domain, delta)}."
        case Ground.NOT_SHOWN:
            return f"No significant gain: {moved}{_unsaved(domain, delta)}.{_power(domain, delta)}"


def _unsaved(domain: Comparison, delta: float) -> str:
    """Why the cost is no reason either."""
    if domain.time is None:
        return "; nothing was timed"
    if domain.time.interval[1] > -FASTER:
        return f"; nor does it save a tenth of the time ({_percent(domain.time.difference)})"
    return f"; it is faster ({_percent(domain.time.difference)}), but a loss of {delta:g} or more is not excluded"


def _power(one: Comparison, delta: float) -> str:
    """What so many queries can show at all."""
    if one.detectable is None:
        return f" One judged query shows nothing; judge at least {FEW_QUERIES}."
    if one.detectable == 0.0:
        return " Not one query's value changed, so nothing is known of how they vary."
    more = f"; for {delta:g} it takes about {roughly(one.needed)} more" if one.needed else ""
    return (
        f" {counted(one.queries, 'query', 'queries')} that vary like these show, 8 times out of 10, a change of "
        f"{one.detectable:.3f} or more{more}."
    )


def _outside(one: Comparison, p: float, label: str, forget: float) -> str:
    said = f"{label} on {one.collection} changes by {signed(one.change.difference)} ({_between(one.change)}"
    if not isfinite(one.loss):
        return f"{said}): one judged query shows nothing"
    left = f"a loss of more than {forget:g} is excluded" if one.loss <= forget else ""
    return f"{said}, corrected {_p(p)}): {left or f'a loss of up to {one.loss:.3f} is not excluded'}"


def _p(p: float) -> str:
    """Three decimals; below the last of them only that it is."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _notes(every: Sequence[Comparison], names: tuple[str, str], label: str) -> list[str]:
    notes = []
    for one in every:
        if one.queries < FEW_QUERIES:
            few = counted(one.queries, "judged query", "judged queries")
            notes.append(f"{one.collection}: only {few}: too few to decide much")
        if one.change.after < one.first - SAME:
            notes.append(
                f"{one.collection}: {names[1]} ranks worse than the first stage alone, {one.change.after:.3f} to "
                f"{one.first:.3f} {label}"
            )
    return notes


def _between(change: Change) -> str:
    low, high = change.interval
    return f"95% interval {signed(low)} to {signed(high)}" if isfinite(low) else "no interval"


def _percent(share: float) -> str:
    """A change in percent, such as "−12%"."""
    return f"{100.0 * share:+.0f}%".replace("-", "−")
