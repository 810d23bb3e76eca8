"""Which rows go into an engine together.

Knows: lengths. Refuses to know: what the rows mean. Sorting by true length and bounding the
padded tokens of a batch is what removes most of the waste of padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondpass.scoring.prepare import Row

__all__ = ["Batch", "plan", "stack"]

_STEP = 8  # widths are rounded up to this: fewer distinct shapes, each of which an engine has to set up once


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays of int64, shape [rows, width]; `rows` are positions in the request."""

    rows: tuple[int, ...]
    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    types: NDArray[np.int64]

    @property
    def padded_tokens(self) -> int:
        """Tokens the engine computes on."""
        return int(self.ids.size)


def _width(length: int) -> int:
    return -(-length // _STEP) * _STEP


def plan(lengths: Sequence[int], budget: int, window: int | None = None) -> Iterator[tuple[int, ...]]:
    """Positions in batches of at most `budget` padded tokens (one row may exceed it alone).

    Rows are sorted by length, longest first, within windows of `window` consecutive rows (None:
    one window). Windows keep their order, so an early stop has scored the first candidates.
    """
    size = len(lengths) if window is None else window
    for begin in range(0, len(lengths), max(size, 1)):
        order = sorted(range(begin, min(begin + size, len(lengths))), key=lambda i: (-lengths[i], i))
        batch: list[int] = []
        for i in order:
            if batch and (len(batch) + 1) * _width(lengths[batch[0]]) > budget:
                yield tuple(batch)
                batch = []
            batch.append(i)
        if batch:
            yield tuple(batch)


def stack(positions: Sequence[int], rows: Sequence[Row], pad: int, limit: int) -> Batch:
    """The arrays of one batch; `rows[k]` belongs to `positions[k]`, `limit` is the engine's longest width."""
    width = min(_width(max(len(row.ids) for row in rows)), limit)
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    types = np.zeros((len(rows), width), dtype=np.int64)
    for k, row in enumerate(rows):
        n = len(row.ids)
        ids[k, :n] = row.ids
        mask[k, :n] = 1
        types[k, row.query_tokens : n] = 1
    return Batch(tuple(positions), ids, mask, types)
