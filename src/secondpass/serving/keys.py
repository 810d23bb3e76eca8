"""Who may ask: keys by their digests, how often each may, and which share of the machine is theirs.

Knows: keys as they are sent, rates. Refuses to know: HTTP, what is asked for.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Key", "Keys", "key_digest"]

_BURST = 10.0  # seconds' worth of requests that may come at once


@dataclass(frozen=True, slots=True)
class Key:
    """A key by its SHA-256 in hex. `name` is who is served from its share, of `weight`; `per_minute` its requests."""

    digest: str
    name: str = ""
    per_minute: float | None = None
    weight: float = 1.0

    @property
    def caller(self) -> str:
        """Whose share it is: the name, else the beginning of the digest."""
        return self.name or self.digest[:16]


class Keys:
    """The keys that are known. Without any, everybody may ask, and nobody's rate is limited."""

    def __init__(self, keys: Iterable[Key] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys, self._clock = tuple(keys), clock
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}  # when the next request of each would be on time

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def known(self, given: str) -> Key | None:
        """Whose key was sent. Every key is compared, each in constant time, so that the answer's time tells nothing."""
        digest, found = key_digest(given), None
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def wait(self, key: Key) -> float:
        """Take one request of the key's rate: 0, or, where there is none left, the seconds until there is.

        The generic cell rate algorithm (ITU-T I.371): requests are due at even times, and may come early by ten
        seconds' worth, one at least.
        """
        if key.per_minute is None:
            return 0.0
        each = 60.0 / key.per_minute
        with self._lock:
            now = self._clock()
            due = max(self._due.get(key.digest, now), now)
            early = due - now - max(_BURST - each, 0.0)
            if early > 0:
                return early
            self._due[key.digest] = due + each
            return 0.0


def key_digest(key: str) -> str:
    """As keys are kept: SHA-256, in hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
