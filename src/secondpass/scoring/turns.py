"""Who is next: workers that take turns for many callers at once, a batch at a time.

Knows: callers, how much was asked for and since when, and how long turns took. Refuses to know: what a turn computes.

Among callers the one that has used least time, for its weight, is next (start-time fair queueing: Goyal, Vin and Cheng
1996), so many requests of one do not starve another's; one that comes back after a pause has saved nothing up. Among
the requests of one caller the one that has waited longest for its size is next (highest response ratio: Brinch Hansen
1971). So a short one waits for a few times its own size at most, however much is there, and a long one not for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from secondpass.types import Caller

__all__ = ["Turns"]

_T = TypeVar("_T")
_ANYONE = Caller()
_LEAST = 1e-3  # seconds: below, requests are of one size
_LINES = 1000  # of callers that are remembered though they have nothing to do, at least


@dataclass(slots=True, eq=False)
class _Turn:
    since: float
    size: float
    future: Future[Any]
    call: Callable[[], Any]


@dataclass(slots=True)
class _Line:
    """One caller's turns that wait, and the seconds it has used, divided by its weight."""

    used: float
    weight: float
    waiting: list[_Turn] = field(default_factory=list)
    running: int = 0


class Turns:
    """So many threads, started when they are needed. `clock` is what turns are timed by."""

    def __init__(self, workers: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="secondpass")
        self._clock = clock
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._now = 0.0  # the used time of whose turn came last: where a new line begins

    def submit(self, call: Callable[[], _T], *, since: float, size: float, caller: Caller | None = None) -> Future[_T]:
        """Run it when its turn comes: one of a request that was there `since` then, by the clock, and will take about
        `size` seconds in all."""
        someone = caller or _ANYONE
        future: Future[_T] = Future()
        with self._lock:
            line = self._lines.setdefault(someone.name, _Line(self._now, someone.weight))
            if not line.waiting and not line.running:
                line.used = max(line.used, self._now)
            line.waiting.append(_Turn(since, max(size, _LEAST), future, call))
            self._forget()
        self._pool.submit(self._take)
        return future

    def _forget(self) -> None:
        """Lines that a new one would be equal to need not be kept."""
        if len(self._lines) > _LINES:
            idle = (name for name, line in self._lines.items() if not (line.waiting or line.running))
            for name in [name for name in idle if self._lines[name].used <= self._now]:
                del self._lines[name]

    def _take(self) -> None:
        """One turn, whoever is next: as many of these were submitted as there are turns."""
        with self._lock:
            line = min((line for line in self._lines.values() if line.waiting), key=lambda one: (one.used, one.running))
            now = self._clock()
            turn = max(line.waiting, key=lambda one: (now - one.since) / one.size)  # the first of those that are equal
            line.waiting.remove(turn)
            self._now = line.used
            line.running += 1
        began = self._clock()
        try:
            if turn.future.set_running_or_notify_cancel():
                try:
                    turn.future.set_result(turn.call())
                except BaseException as error:
                    turn.future.set_exception(error)
        finally:
            with self._lock:
                line.used += (self._clock() - began) / line.weight
                line.running -= 1

    def close(self) -> None:
        """Finish what was submitted and stop the threads."""
        self._pool.shutdown(wait=True)
