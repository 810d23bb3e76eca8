"""Work that is waited for only so long, and left alone in its thread when it is not back.

Knows: threads, seconds, how many are left alone. Refuses to know: what the work is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from secondpass.errors import SecondpassError

__all__ = ["NotBack", "Waiting"]

_LEFT_ALONE = 4  # pieces of work that are left alone and not back; beyond that no more is begun
_T = TypeVar("_T")


class NotBack(SecondpassError):
    """Work is left alone."""


class Waiting:
    """Waits for work of one kind. Threads may share one."""

    def __init__(self) -> None:
        self._lock, self._not_back = threading.Lock(), 0

    def run(self, work: Callable[[], _T], seconds: float, late: str) -> _T:
        """What `work` gives, in a thread of its own.

        Raises NotBack, saying `late`, where that takes more than so many seconds, NotBack too where four of its kind
        are not back yet, and whatever the work raises.
        """
        if self._not_back >= _LEFT_ALONE:
            raise NotBack(f"{self._not_back} earlier attempts are not back, so it was not asked")
        answer: Future[_T] = Future()

        def run() -> None:
            try:
                answer.set_result(work())
            except BaseException as error:  # raised again where it is waited for
                answer.set_exception(error)

        # no thread of a pool: the interpreter waits for those at its end, and this one may never be back
        threading.Thread(target=run, name="secondpass-fallback", daemon=True).start()
        if wait([answer], timeout=seconds).not_done:
            self._count(1)
            answer.add_done_callback(lambda _: self._count(-1))
            raise NotBack(late)
        return answer.result()

    def _count(self, more: int) -> None:
        with self._lock:
            self._not_back += more
