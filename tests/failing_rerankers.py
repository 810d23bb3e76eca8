"""Rerankers that fail in one way each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from secondpass.cascade import unscored
from secondpass.testing import OverlapReranker
from secondpass.types import NEVER, Deadline, Document, Hit, Ranking, StageTrace, Status


class Raises:
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        raise ValueError("no such weights")


class Changes:
    """Reranks, and changes the result."""

    def __init__(self, change: Callable[[Ranking], object]) -> None:
        self.change = change

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return self.change(OverlapReranker().rerank(ranking, deadline=deadline))  # type: ignore[return-value]


def loses(result: Ranking) -> Ranking:
    return replace(result, hits=result.hits[1:])


def invents(result: Ranking) -> Ranking:
    return replace(result, hits=(*result.hits, Hit(Document("new", "text"))))


def doubles(result: Ranking) -> Ranking:
    return replace(result, hits=result.hits + result.hits[:1])


def forgets(result: Ranking) -> Ranking:
    return replace(result, trace=())


def nothing(result: Ranking) -> None:
    return None


class Leaves:
    """Scores nothing: all hits get one status; the trace may say that it failed."""

    def __init__(self, status: Status, failed: str = "") -> None:
        self.status, self.failed = status, failed

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        detail = {"failed": self.failed} if self.failed else {}
        entry = StageTrace(
            "leaves", skipped={str(self.status): len(ranking)}, skipped_because="so be it", detail=detail
        )
        hits = tuple(unscored(hit, self.status) for hit in ranking.hits)
        return replace(ranking, hits=hits, trace=(*ranking.trace, entry))


class Hangs:
    """Does not come back before it is let go, whatever its deadline says."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.asked = 0

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        self.asked += 1
        assert self.free.wait(30)
        return OverlapReranker().rerank(ranking)


class Watched(OverlapReranker):
    """Remembers the deadlines that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Deadline] = []

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        self.given.append(deadline)
        return super().rerank(ranking, deadline=deadline)


class Slow:
    """Takes all the time that it has, then scores nothing; on a clock that a test moves."""

    def __init__(self, wait: Callable[[float], object]) -> None:
        self.wait = wait
        self.given: list[Deadline] = []

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        self.given.append(deadline)
        self.wait(deadline.remaining())
        return OverlapReranker().rerank(ranking, deadline=deadline)
