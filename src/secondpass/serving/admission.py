"""Who is let in: whole requests, by the seconds of work they bring, and when those that are not may come again.

Knows: sizes in seconds, how long each caller will wait, what was let in and is not done. Refuses to know: texts,
models, HTTP. A request that is let in and could not be answered well any more would cost others their answer, too; one
that is told at once when to come back costs nobody anything.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Admission", "Entry", "Refused"]

_LEAST = 0.05  # seconds: nobody is told to come back sooner


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A request that was let in: about how many seconds it takes, and by when, on the clock, it is answered whatever
    is done by then."""

    size: float
    until: float


@dataclass(frozen=True, slots=True)
class Refused:
    """Come back after so many seconds; `ahead` are the seconds of work that are there."""

    after: float
    ahead: float


class Admission:
    """The requests that are being worked on.

    `most`: how many seconds of work may be there at once, a new request's included; `sharing`: how many times over the
    time that a request has may be promised, so that in the worst case it gets this share of it; `requests`: how many
    there may be, whatever their size.
    """

    def __init__(
        self,
        *,
        most: float,
        sharing: float = 2.0,
        requests: int = 512,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._most, self._sharing, self._requests, self._clock = most, sharing, requests, clock
        self._lock = threading.Lock()
        self._entries: set[Entry] = set()

    def enter(self, size: float, patience: float = math.inf) -> Entry | Refused:
        """Let in what is expected to take `size` seconds, and is answered after `patience` seconds at the latest."""
        with self._lock:
            now = self._clock()
            mine = min(size, patience)
            ahead = self._ahead(now)
            room = min(self._most, self._sharing * patience)
            if len(self._entries) >= self._requests or (self._entries and ahead + mine > room):
                return Refused(max(ahead + mine - room, _LEAST), ahead)
            entry = Entry(size, now + patience)
            self._entries.add(entry)
            return entry

    def leave(self, entry: Entry) -> None:
        """It is answered, or nobody waits for it any more."""
        with self._lock:
            self._entries.discard(entry)

    @property
    def count(self) -> int:
        """Requests that are there."""
        with self._lock:
            return len(self._entries)

    @property
    def ahead(self) -> float:
        """Seconds of work that are there, at most."""
        with self._lock:
            return self._ahead(self._clock())

    def _ahead(self, now: float) -> float:
        return sum(min(entry.size, max(entry.until - now, 0.0)) for entry in self._entries)
