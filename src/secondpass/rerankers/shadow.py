"""A second reranker beside the one that answers: it gets some of the same rankings afterwards, to be compared.

Knows: which rankings, that they wait their turn on one thread, and how many may wait. Refuses to know: what is done
with the comparison, and how either reranker ranks.

    shadow = Shadow(CrossEncoder(), CrossEncoder("my-model"), sample=0.05, on_compared=note)
    shadow.rerank(ranking)  # the first one's answer, as it is; note(answer, found) is called some time after

Nobody waits for the second reranker, and none is slowed by more than the turns that it takes at the processor.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from secondpass.cascade import Stage
from secondpass.errors import InputError
from secondpass.sampling import drawn
from secondpass.types import NEVER, Deadline, Ranking, Reranker

__all__ = ["Candidate", "Shadow"]

_WAITING = 8  # rankings, the one at work included; more would compare what is long gone


class Candidate:
    """`reranker` gets a `sample` of the rankings that it is offered, one at a time, on a thread of its own.

    Raises InputError for what is no reranker, or a sample that is no share.
    """

    def __init__(self, reranker: Reranker, sample: float) -> None:
        if not callable(getattr(reranker, "rerank", None)):
            raise InputError(f"{reranker!r} cannot be a shadow: it has no rerank(ranking, *, deadline)")
        if isinstance(sample, bool) or not isinstance(sample, int | float) or not 0 <= sample <= 1:
            raise InputError(f"the sample of a shadow is {sample!r}; give a share from 0 to 1")
        self._reranker, self._sample = reranker, sample
        self._room = threading.BoundedSemaphore(_WAITING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="secondpass-shadow")

    def offer(self, key: str, ranking: Ranking, done: Callable[[Ranking | Exception], object]) -> bool | None:
        """Rerank `ranking` some time and call `done` with the result, or with what went wrong; whether it will be.

        None: the `key` is not in the sample. False: so many wait already, or this is closed.
        """
        if not drawn(key, self._sample):
            return None
        if not self._room.acquire(blocking=False):
            return False
        try:
            self._thread.submit(self._compare, ranking, done)
        except RuntimeError:  # shut down, perhaps with the interpreter
            self._room.release()
            return False
        return True

    def _compare(self, ranking: Ranking, done: Callable[[Ranking | Exception], object]) -> None:
        found: Ranking | Exception
        try:
            found = Stage(self._reranker, max(len(ranking), 1)).run(ranking)
        except Exception as error:  # a candidate's fault is a finding, and nobody's answer waits for it
            found = error
        try:
            done(found)
        finally:
            self._room.release()

    def close(self) -> None:
        """What waits is left; what is at work is waited for."""
        self._thread.shutdown(wait=True, cancel_futures=True)


class Shadow:
    """`primary` answers. `candidate` reranks a `sample` of the same rankings afterwards, without a deadline.

    The answer is the primary's, unchanged: the trace does not speak of the shadow, either. `on_compared` gets that
    answer and the candidate's ranking, or the exception that it raised; what it raises itself is dropped. It is called
    in the thread of the shadow. Which rankings are in the sample is drawn by their `query_id`, or by their query where
    that is empty: always the same ones.

    A candidate that hangs keeps what waits, and the process from ending: where that may be, give
    `Fallback(candidate, budget_ms=…)`.

    Raises InputError for what is no reranker, or a sample that is no share.
    """

    def __init__(
        self,
        primary: Reranker,
        candidate: Reranker,
        sample: float = 0.05,
        on_compared: Callable[[Ranking, Ranking | Exception], object] | None = None,
    ) -> None:
        if not callable(getattr(primary, "rerank", None)):
            raise InputError(f"{primary!r} cannot answer: it has no rerank(ranking, *, deadline)")
        self.primary, self.candidate = primary, candidate
        self._told, self._trial = on_compared, Candidate(candidate, sample)
        self._lock, self._counts = threading.Lock(), Counter[str]()

    def __repr__(self) -> str:
        return f"Shadow({self.primary!r}, {self.candidate!r})"

    @property
    def counts(self) -> Mapping[str, int]:
        """How many rankings were `compared`, in how many the candidate `failed`, and how many were drawn but
        `left_out`, because too many waited or it is closed."""
        with self._lock:
            return {name: self._counts[name] for name in ("compared", "failed", "left_out")}

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        """The primary's answer."""
        answer = self.primary.rerank(ranking, deadline=deadline)
        if (
            self._trial.offer(ranking.query_id or ranking.query, ranking, lambda found: self._done(answer, found))
            is False
        ):
            self._count("left_out")
        return answer

    def close(self) -> None:
        """What waits to be compared is left."""
        self._trial.close()

    def _done(self, answer: Ranking, found: Ranking | Exception) -> None:
        self._count("failed" if isinstance(found, Exception) else "compared")
        if self._told is not None:
            self._told(answer, found)

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1
