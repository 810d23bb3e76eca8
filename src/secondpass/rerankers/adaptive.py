"""Adaptive depth: score until the top 10 has settled, or nothing where the first stage is sure.

Knows: how many candidates to ask for next, when to stop, and what the trace says of it. Refuses to know: models, and
how a score comes about. The rules themselves are in `scoring.stopping`.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from secondpass.errors import InputError
from secondpass.scoring.pair_scorer import because
from secondpass.scoring.probability import FEWEST_SCORES, standardised
from secondpass.scoring.stopping import TOP, lead, settled
from secondpass.scoring.traces import spent_by
from secondpass.types import Scores, StageTrace, Status

__all__ = ["AdaptiveDepth"]

_COUNTED = ("tokens_kept", "cache", "windows")  # what of a trace's detail counts


@dataclass(frozen=True, slots=True)
class AdaptiveDepth:
    """`patience`: candidates scored at a time; once so many in a row brought none into the top 10, no more are.

    `sure`: where the first candidate's first-stage score leads all others' by at least so many standard deviations
    of these scores, nothing is scored. None: off. What is left out has the status BEYOND_DEPTH and keeps its order.

    Raises InputError for a number that cannot be meant.
    """

    patience: int | None = None
    sure: float | None = None

    def __post_init__(self) -> None:
        patience, sure = self.patience, self.sure
        if patience is not None and (not isinstance(patience, int) or isinstance(patience, bool) or patience < 1):
            raise InputError(f"patience is {patience!r}; give a whole number of candidates from 1 up, or None")
        if sure is not None and not (isinstance(sure, int | float) and math.isfinite(sure) and sure > 0):
            raise InputError(f"sure is {sure!r}; give standard deviations above 0, or None")

    @property
    def off(self) -> bool:
        """Whether everything is scored."""
        return self.patience is None and self.sure is None

    def __call__(
        self,
        ask: Callable[[Sequence[object]], Scores],
        texts: Sequence[object],
        first: Sequence[float | None],
        worth: Callable[[Scores], Scores],
    ) -> Scores:
        """Scores for all texts, asked for piece by piece with `ask`.

        `first` are the first stage's scores, parallel to the texts. `worth` makes of the texts' scores those that they
        are ordered by. A piece that time cut short is the last one.
        """
        began = time.perf_counter()
        ahead, unknown = self._ahead(first)
        if self.sure is not None and ahead is not None and ahead >= self.sure:
            parts, rest, why = [ask(())], Status.BEYOND_DEPTH, "the first stage is sure"
        else:
            parts, rest, why = self._until_settled(ask, texts, worth)
        scores = _joined(parts, len(texts), rest, why, time.perf_counter() - began)
        detail: dict[str, Any] = {"asked": sum(len(part.values) for part in parts), "of": len(texts), "why": why}
        if self.sure is not None:
            detail |= {"lead": None if ahead is None else float(f"{ahead:.4g}")}
            detail |= {"unsure_because": unknown} if unknown else {}
        trace = replace(scores.trace, detail={**scores.trace.detail, "adaptive": detail})
        return replace(scores, trace=trace)

    def _ahead(self, first: Sequence[float | None]) -> tuple[float | None, str]:
        """The first candidate's lead, or why there is none."""
        if self.sure is None:
            return None, ""
        z = standardised(first)
        if z is not None:
            return lead(z), ""
        count = sum(score is not None and math.isfinite(score) for score in first)
        if not count:
            return None, "no first-stage scores"
        few = f"fewer than {FEWEST_SCORES} first-stage scores"
        return None, few if count < FEWEST_SCORES else "the first-stage scores are all the same"

    def _until_settled(
        self, ask: Callable[[Sequence[object]], Scores], texts: Sequence[object], worth: Callable[[Scores], Scores]
    ) -> tuple[list[Scores], Status, str]:
        """The answers, what became of the texts not asked for, and why it ended there."""
        step = self.patience or max(len(texts), 1)
        parts: list[Scores] = []
        for begin in range(0, max(len(texts), 1), step):
            parts.append(ask(texts[begin : begin + step]))
            if begin + step >= len(texts):
                break
            if Status.DEADLINE in parts[-1].statuses:
                return parts, Status.DEADLINE, "time was up"
            so_far = worth(_joined(parts, len(texts), Status.BEYOND_DEPTH, "", 0.0)).values[: begin + step]
            if settled(so_far, step):
                return parts, Status.BEYOND_DEPTH, f"none of the last {step} came into the top {TOP}"
        return parts, Status.SCORED, "all were asked for"


def _joined(parts: Sequence[Scores], count: int, rest: Status, why: str, seconds: float) -> Scores:
    """The answers as one over `count` texts; those not asked for have the status `rest`."""
    left = count - sum(len(part.values) for part in parts)
    values = (*(value for part in parts for value in part.values), *[None] * left)
    statuses = (*(status for part in parts for status in part.statuses), *[rest] * left)
    spans = (*(span for part in parts for span in part.spans), *[None] * left)
    return Scores(values, statuses, spans, _trace([part.trace for part in parts], statuses, why, seconds))


def _trace(traces: Sequence[StageTrace], statuses: Sequence[Status], why: str, seconds: float) -> StageTrace:
    skipped = Counter(str(status) for status in statuses if status is not Status.SCORED)
    beyond = skipped.get(Status.BEYOND_DEPTH, 0)
    scorable = {status: n for status, n in skipped.items() if status != Status.BEYOND_DEPTH}
    told = because(scorable, traces[-1].detail["query_limit"])
    return StageTrace(
        name=traces[-1].name,
        seconds=seconds,
        pairs_scored=sum(trace.pairs_scored for trace in traces),
        tokens=sum(trace.tokens for trace in traces),
        padded_tokens=sum(trace.padded_tokens for trace in traces),
        truncated=sum(trace.truncated for trace in traces),
        cut_tokens=sum(trace.cut_tokens for trace in traces),
        skipped=dict(skipped),
        skipped_because="; ".join(filter(None, (told, f"{beyond}: {why}" if beyond else ""))),
        detail=_detail(traces),
    )


def _detail(traces: Sequence[StageTrace]) -> dict[str, Any]:
    """That of the last answer, with what it counts added up over all of them."""
    detail = dict(traces[-1].detail)
    groups = {name: [trace.detail[name] for trace in traces if name in trace.detail] for name in _COUNTED}
    for name, some in groups.items():
        if some:
            counts = {key: sum(one[key] for one in some) for key, value in some[-1].items() if isinstance(value, int)}
            detail[name] = {**some[-1], **counts}
    if cache := detail.get("cache"):
        looked_up = cache["hits"] + cache["misses"] + cache["waited"]
        detail["cache"] = {**cache, "hit_rate": cache["hits"] / looked_up if looked_up else 0.0}
    return {**detail, **spent_by(traces)}
