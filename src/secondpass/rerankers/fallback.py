"""When a reranker fails, the next one is asked: an answer does not depend on one of them.

Knows: what a failure is, how much time each one gets, and what the trace says of each attempt. Refuses to know: who the
rerankers are, and why they fail.

    Fallback(hosted, CrossEncoder(), reserve_ms=80)
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import replace
from typing import Any

from secondpass.cascade import Stage, stage_name, unscored
from secondpass.errors import InputError, SecondpassError
from secondpass.rerankers.fields import obstacle, renderer
from secondpass.types import NEVER, Deadline, Ranking, Reranker, StageTrace, Status
from secondpass.waiting import NotBack, Waiting

__all__ = ["Fallback"]

_LATE = 0.1  # seconds that an attempt may come after its deadline: one that stops in time still has to sum up
_FAILURES = (
    Status.FAILED,
    Status.DEADLINE,
    Status.BAD_SCORE,
)  # what only a failure leaves behind where nothing at all is scored
_render = renderer()


class Fallback:
    """Asks `first`; where it fails the next one, and so on. With no others it only keeps `first` from doing harm.

    A reranker fails when it raises, when it gives back other documents than it got, when it is not back in time, or
    when it scores nothing and says why in the `detail["failed"]` of its trace, or leaves a document with the status
    `failed`, `deadline` or `bad_score`. Where all fail the order stays, and the last one's trace has
    `detail["failed"]`.

    Time: an attempt gets what is left of the request's time but for a reserve of `reserve_ms` for each reranker behind
    it, and never less than an equal share (None: that share), so that the next one can be reached. None gets more than
    `budget_ms`. An attempt with a deadline runs on a thread of its own, and is left alone when it is not back a tenth
    of a second after it (or half of the reserve, if that is less). A reranker of which four attempts are left alone and
    not back is not asked until one of them is. Without deadline and budget an attempt runs in the caller's thread and
    may take for ever.

    The trace keeps the entries of all attempts, the last of each with `detail["fallback"]`: which attempt it is, of how
    many, and why the one before failed.

    Raises InputError for what is no reranker, and for times that are negative, NaN or no numbers.
    """

    def __init__(
        self, first: Reranker, *others: Reranker, reserve_ms: float | None = None, budget_ms: float | None = None
    ) -> None:
        self._reserve, self._budget = _seconds("reserve_ms", reserve_ms), _seconds("budget_ms", budget_ms)
        self._members = [_Member(reranker) for reranker in (first, *others)]

    def __repr__(self) -> str:
        return f"Fallback({', '.join(repr(member.reranker) for member in self._members)})"

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        """The ranking as the first one orders it that does not fail."""
        bare = replace(ranking, trace=())  # what an attempt adds to the trace is then its own, whatever it does with it
        entries: list[StageTrace] = []
        statuses: dict[str, Status] = {}
        why = ""
        for number, member in enumerate(self._members, 1):
            told: dict[str, Any] = {"attempt": number, "of": len(self._members)}
            told |= {"because": why} if why else {}
            result, why = self._ask(member, bare, deadline, behind=len(self._members) - number)
            *earlier, last = result.trace
            inner = last.detail.get("fallback")  # one inside this one has its say, too
            told |= {"inside": inner} if inner else {}
            detail = {**last.detail, "fallback": told, **({"failed": why} if why else {})}
            entries += [*earlier, replace(last, detail=detail)]
            if not why:
                return Ranking(ranking.query, result.hits, (*ranking.trace, *entries), ranking.query_id)
            statuses = {hit.document.id: hit.status for hit in result.hits}
        hits = tuple(unscored(hit, statuses[hit.document.id]) for hit in ranking.hits)
        return Ranking(ranking.query, hits, (*ranking.trace, *entries), ranking.query_id)

    def _ask(self, member: _Member, ranking: Ranking, deadline: Deadline, behind: int) -> tuple[Ranking, str]:
        """What an attempt gives, with at least one entry in its trace, and why it failed, "" where it did not."""
        late, left = _LATE, deadline.remaining()
        if behind and left < math.inf:
            most = left * behind / (behind + 1)
            reserve = most if self._reserve is None else min(self._reserve * behind, most)
            deadline, late = deadline.sooner(left - reserve), min(late, reserve / 2)
        begun = time.perf_counter()
        try:
            result = member.ask(ranking, deadline.sooner(self._budget), late)
        except Exception as error:  # whatever it is: the others are there for it
            why = str(error) if isinstance(error, SecondpassError) else f"{type(error).__name__}: {error}"
            status = Status.DEADLINE if isinstance(error, NotBack) else Status.FAILED
            hits = tuple(unscored(hit, obstacle(_render(hit.document)) or status) for hit in ranking.hits)
            skipped = Counter(str(hit.status) for hit in hits)
            entry = StageTrace(member.name, time.perf_counter() - begun, skipped=dict(skipped), skipped_because=why)
            return replace(ranking, hits=hits, trace=(entry,)), why
        if not result.trace:  # it should have said something
            result = replace(result, trace=(StageTrace(member.name, time.perf_counter() - begun),))
        return result, _failure(result)


def _failure(result: Ranking) -> str:
    """Why a result is none, "" where it is one: some hit is scored, or none could be."""
    statuses = {hit.status for hit in result.hits}
    last = result.trace[-1]
    if not statuses or Status.SCORED in statuses:
        return ""
    if told := last.detail.get("failed"):
        return str(told)
    left = [status for status in _FAILURES if status in statuses]
    return (last.skipped_because or f"nothing was scored: {left[0]}") if left else ""


class _Member:
    """A reranker, and those of its attempts that are not back."""

    def __init__(self, reranker: Reranker) -> None:
        Stage(reranker)  # what is no reranker is told at once
        self.reranker, self.name = reranker, stage_name(reranker)
        self._waiting = Waiting()

    def ask(self, ranking: Ranking, deadline: Deadline, late: float) -> Ranking:
        """Rerank; what comes more than `late` seconds after the deadline is not waited for.

        Raises NotBack for that, and whatever the reranker raises.
        """
        stage = Stage(self.reranker, max(len(ranking), 1))
        seconds = deadline.remaining() + late
        if seconds == math.inf or deadline.passed:  # nothing to wait for, or a stage that does not begin
            return stage.run(ranking, deadline)
        why = f"it was not back {1000 * late:.0f} ms after its deadline"
        return self._waiting.run(lambda: stage.run(ranking, deadline), seconds, why)


def _seconds(name: str, milliseconds: float | None) -> float | None:
    if milliseconds is None:
        return None
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float) or not milliseconds >= 0:
        raise InputError(f"{name} is {milliseconds!r}; give milliseconds from 0 up, or None")
    return milliseconds / 1000.0
