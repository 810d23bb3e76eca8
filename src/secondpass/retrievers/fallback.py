"""When a first stage fails, the next one is asked: a search does not depend on one database.

Knows: what a failure is, how much time each one gets, and what the trace says of each attempt. Refuses to know: who the
retrievers are, and why they fail.

    Fallback(Postgres("postgresql://me@host/docs"), BM25.open("my-index"), budget_ms=200)
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

from secondpass.cascade import retrieve_by, stage_name
from secondpass.errors import InputError, RetrieverError, SecondpassError
from secondpass.retrievers.ranked import check_question
from secondpass.types import NEVER, Deadline, Ranking, Retriever, StageTrace
from secondpass.waiting import Waiting

__all__ = ["Fallback"]


class Fallback:
    """Asks `first`; where it fails the next one, and so on. To find nothing is no failure.

    A retriever fails when it raises, gives anything but a ranking, or is not back in time. None gets more than
    `budget_ms` (None: no limit). Of what is left until the deadline each gets an equal share, but for the last one,
    which runs to its end, since without candidates there is no answer. An attempt with a limit runs on a thread of its
    own, and is left alone when it is not back. A retriever of which four attempts are left alone and not back is not
    asked until one of them is.

    The trace has an entry for each that failed, with `detail["failed"]`, then those of the one that answered, the last
    of them with `detail["fallback"]`: which attempt it is, of how many, and why the one before failed.

    Raises InputError for what is no retriever, and for a budget that is negative, NaN or no number.
    """

    def __init__(self, first: Retriever, *others: Retriever, budget_ms: float | None = None) -> None:
        self.retrievers = (first, *others)
        for retriever in self.retrievers:
            if not callable(getattr(retriever, "retrieve", None)):
                raise InputError(f"{retriever!r} cannot be a part of a fallback: it has no retrieve(query, k)")
        if budget_ms is not None and (isinstance(budget_ms, bool) or not budget_ms >= 0):
            raise InputError(f"budget_ms is {budget_ms!r}; give milliseconds from 0 up, or None")
        self._budget = math.inf if budget_ms is None else budget_ms / 1000.0
        self._waiting = [Waiting() for _ in self.retrievers]

    def __repr__(self) -> str:
        return f"Fallback({', '.join(map(repr, self.retrievers))})"

    def retrieve(self, query: str, k: int, *, deadline: Deadline = NEVER) -> Ranking:
        """What the first one finds that does not fail.

        Raises InputError for a query that is no string or a k below 1, RetrieverError where all fail.
        """
        check_question(query, k)
        entries: list[StageTrace] = []
        why, count = "", len(self.retrievers)
        for number, retriever in enumerate(self.retrievers, 1):
            told: dict[str, Any] = {"attempt": number, "of": count} | ({"because": why} if why else {})
            begun = time.perf_counter()
            try:
                found = self._ask(number, query, k, deadline)
            except Exception as error:  # whatever it is: the others are there for it
                why = str(error) if isinstance(error, SecondpassError) else f"{type(error).__name__}: {error}"
                seconds = time.perf_counter() - begun
                detail = {"fallback": told, "failed": why}
                entries.append(StageTrace(stage_name(retriever), seconds, skipped_because=why, detail=detail))
                continue
            *earlier, last = found.trace or (StageTrace(stage_name(retriever), time.perf_counter() - begun),)
            inner = last.detail.get("fallback")  # one inside this one has its say, too
            told |= {"inside": inner} if inner else {}
            last = replace(last, detail={**last.detail, "fallback": told})
            return replace(found, trace=(*entries, *earlier, last))
        every = "; ".join(f"{entry.name}: {entry.skipped_because}" for entry in entries)
        raise RetrieverError(f"no first stage answers: {every}", kind="connection")

    def _ask(self, number: int, query: str, k: int, deadline: Deadline) -> Ranking:
        retriever, behind = self.retrievers[number - 1], len(self.retrievers) - number
        seconds = min(self._budget, deadline.remaining() / (behind + 1) if behind else math.inf)
        until = deadline.sooner(None if seconds == math.inf else seconds)

        def work() -> Ranking:
            found = retrieve_by(retriever, query, k, until if behind else deadline)
            if not isinstance(found, Ranking):
                raise TypeError(f"it gave a {type(found).__name__}, not a Ranking")
            return found

        if seconds == math.inf:
            return work()
        return self._waiting[number - 1].run(work, seconds, f"it was not back after {1000 * seconds:.0f} ms")
