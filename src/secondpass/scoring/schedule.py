"""Which rows are scored next, in the time that is left.

Knows: texts in first-stage order, prepared a piece at a time, and what batches will cost. Refuses to
know: engines, threads and scores.

Without a deadline all rows (a piece of them, where the engine asks for pieces) are sorted by length and cut into
batches at the token budget. With one, documents are taken in first-stage order, in windows that shrink with the time
left, so that whenever it ends the first ones have been scored; inside a window the longest come first. A batch starts
only if it can end in time, and takes at most half of what is left unless it is a single row: should the machine become
twice as slow meanwhile, it still ends in time.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from secondpass.scoring.batching import padded_width, plan
from secondpass.scoring.cost_model import CostModel
from secondpass.scoring.prepare import Prepared, Row
from secondpass.types import Deadline, Status

__all__ = ["Schedule", "about_tokens"]

_SHARE = 0.5  # of the time left: the most that a window, or a batch of several rows, may take
# Texts tokenized at a time under a deadline: few at first, so that the first batch starts at once; the rest while
# batches run, at most so many characters (some milliseconds) between two looks at the clock.
_FIRST, _NEXT, _CHARACTERS = 8, 32, 32_000
_READ = 20_000  # characters of one text that are usually read, see prepare.py


class Schedule:
    """The work of one request. `next` may be called from several threads.

    `prepare` turns texts into rows. `rows` and `statuses` are by position in `texts`: SCORED stands
    for what was handed out, DEADLINE for what was not (yet).
    """

    def __init__(
        self,
        texts: Sequence[object],
        prepare: Callable[[Sequence[object]], Prepared],
        cost: CostModel,
        deadline: Deadline,
        *,
        budget: int,
        workers: int,
        reserve: float,
        piece: int | None = None,
    ) -> None:
        self.rows: dict[int, Row] = {}
        self.statuses = [Status.DEADLINE] * len(texts)
        self._texts, self._prepare, self._cost = texts, prepare, cost
        self._deadline, self._budget, self._workers, self._reserve = deadline, budget, workers, reserve
        self._endless = deadline.at is None or deadline.at == math.inf
        self._piece = piece or len(texts)  # texts prepared at a time without a deadline
        self._sides = 1 if piece else workers  # where texts come in pieces, the workers share one device
        self._lock = threading.Lock()
        self._read = 0  # texts before this position have been prepared
        self._waiting: deque[int] = deque()  # prepared, in no window yet
        self._batches: deque[tuple[int, ...]] = deque()  # what is left of the window
        self._started = self._stopped = False
        self.first_turn: float | None = None  # when a worker first came for a batch, by time.perf_counter

    def remaining(self) -> float:
        """Seconds left for batches; below 0 when time is up."""
        return math.inf if self._endless else self._deadline.remaining() - self._reserve

    def size(self, longest: int) -> int:
        """About how many tokens there are to score."""
        return about_tokens(self._texts, longest)

    def stop(self) -> None:
        """Hand out nothing more."""
        self._stopped = True

    def next(self) -> tuple[int, ...]:
        """Positions of the next batch, longest first; empty when there is nothing more to start."""
        with self._lock:
            self.first_turn = self.first_turn or time.perf_counter()
            self._stopped |= self._deadline.left
            while not self._stopped and not self._batches and not self._waiting and self._read < len(self._texts):
                self._prepare_more()
            if self._stopped or not (self._batches or self._waiting):
                return ()
            positions = self._choose(self.remaining())
            if not positions or self._stopped:
                self._stopped = True
                return ()
            self._started = True
            for i in positions:
                self.statuses[i] = Status.SCORED
            return positions

    def _prepare_more(self) -> None:
        begin = self._read
        end = min(begin + self._piece, len(self._texts))
        if not self._endless:
            end = begin + 1
            characters = _characters(self._texts[begin])
            most = min(begin + max(_NEXT if begin else _FIRST, self._workers), len(self._texts))
            while end < most and characters + _characters(self._texts[end]) <= _CHARACTERS:
                characters += _characters(self._texts[end])
                end += 1
        prepared = self._prepare(self._texts[begin:end])
        if prepared.statuses[0] is Status.QUERY_TOO_LONG:  # then for every text
            self.statuses = [Status.QUERY_TOO_LONG] * len(self._texts)
            end = len(self._texts)
        for i, (row, status) in enumerate(zip(prepared.rows, prepared.statuses, strict=True), begin):
            if row is None:
                self.statuses[i] = status
            else:
                self.rows[i] = row
                self._waiting.append(i)
        self._read = end

    def _choose(self, remaining: float) -> tuple[int, ...]:
        while self._batches or self._waiting:
            if not self._batches:
                window = self._window(remaining)
                lengths = [len(self.rows[i].ids) for i in window]
                self._batches.extend(
                    tuple(window[k] for k in batch) for batch in plan(lengths, self._budget, self._sides)
                )
            batch = self._batches.popleft()
            count = self._fitting(batch, remaining)
            if count:
                if count < len(batch):
                    self._batches.appendleft(batch[count:])
                return batch[:count]
            # the longest does not fit: the first in order may. None is passed over for one behind it, since a scored
            # document comes before all unscored ones
            left = [batch, *self._batches]
            first = min(i for rows in left for i in rows)
            if not self._fitting((first,), remaining):
                break
            pruned = (tuple(i for i in rows if i != first) for rows in left)
            self._batches = deque(rows for rows in pruned if rows)
            return (first,)
        if not self._started and remaining > 0:
            self._cost.relax()
        return ()

    def _window(self, remaining: float) -> list[int]:
        """The next waiting rows that fit into a share of the time left, all workers together; at least one."""
        window: list[int] = []
        seconds = remaining * self._workers * _SHARE
        while self._waiting and (self._endless or seconds > 0 or not window):
            window.append(self._waiting.popleft())
            if not self._endless:
                seconds -= self._cost.bound(1, padded_width(len(self.rows[window[-1]].ids)))
        return window

    def _fitting(self, rows: Sequence[int], remaining: float) -> int:
        """How many of these rows, from the first, make a batch that ends in time."""
        if self._endless:
            return len(rows)
        width = padded_width(len(self.rows[rows[0]].ids))
        for count in range(len(rows), 0, -1):
            if self._cost.bound(count, width) <= (remaining * _SHARE if count > 1 else remaining):
                return count
        return 0


def about_tokens(texts: Sequence[object], longest: int) -> int:
    """About how many tokens texts have, by their characters: up to `longest` each."""
    return sum(min(_characters(text) // 4, longest) for text in texts)


def _characters(text: object) -> int:
    return min(len(text), _READ) if isinstance(text, str) else 0
