"""A shadow: a second model reranks some of the requests, after their answers are gone, and is compared with the first.

Knows: which requests, one at a time, and how many may wait. Refuses to know: HTTP, what is done with the comparison.
No request waits for it, and none is slowed by more than the turns that it takes at the processor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from secondpass.monitoring.logged import drawn
from secondpass.serving import logs
from secondpass.serving.models import Served
from secondpass.types import Ranking

__all__ = ["Shadow"]

_WAITING = 8  # requests; more would compare what is long gone


class Shadow:
    """`served` reranks a `sample` of the requests, drawn by their ids."""

    def __init__(self, served: Served, sample: float) -> None:
        self.served, self._sample = served, sample
        self._room = threading.BoundedSemaphore(_WAITING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="secondpass-shadow")

    def offer(self, request_id: str, asked: Ranking, done: Callable[[Ranking | None], None]) -> bool:
        """Rerank `asked` some time and call `done` with the ranking, None where that failed; whether it will be.

        Not where the request was not drawn, or so many wait already.
        """
        if not drawn(request_id, self._sample) or not self._room.acquire(blocking=False):
            return False

        def compare() -> None:
            try:
                done(self.served.rerank(asked))
            except Exception as error:  # a candidate's fault is a finding, and nobody's answer waits for it
                logs.happened("shadow failed", level="warning", error=error, model=self.served.name)
                done(None)
            finally:
                self._room.release()

        self._thread.submit(compare)
        return True

    def close(self) -> None:
        """What waits is left."""
        self._thread.shutdown(wait=True, cancel_futures=True)
