"""What the lower layers of a split encoder made of documents, kept from one query to the next, in bounded memory.

Knows: a batch's rows, and where what was made of them is kept. Refuses to know: layers, queries. A document is known
by the tokens that were read of it, since its side is read without the query (MacAvaney et al., "PreTTR", SIGIR 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.scoring.batching import Batch, padded_width
from secondpass.scoring.cache import MemoryStore

__all__ = ["DocumentStates", "most_tokens"]

_LEAST_BYTES = 1_000_000
_KEY_BYTES = 16
_ASKED = 32  # tokens that a query may have before the length of a long document depends on it

Read = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""ids and mask [rows, tokens] -> hidden [rows, tokens, hidden]."""


class DocumentStates:
    """Hidden states of documents, the most recently used ones, in at most `keep_bytes` bytes.

    They are kept as `kind`: 2 bytes a number lose nothing of what was computed in bf16; what is computed in fp32 needs
    4. What was kept and what is read now are rounded alike, so a score does not depend on which it was.

    Raises InputError for a number that cannot be meant.
    """

    def __init__(self, keep_bytes: int, kind: type[np.floating[Any]]) -> None:
        if isinstance(keep_bytes, bool) or not isinstance(keep_bytes, int) or keep_bytes < _LEAST_BYTES:
            raise InputError(
                f"keep_documents is {keep_bytes!r}; give bytes from {_LEAST_BYTES:,} up (a passage of 100 tokens takes "
                "some 77,000), or 0 to keep nothing"
            )
        self._store, self._kind = MemoryStore(keep_bytes), kind

    @property
    def used_bytes(self) -> int:
        """Bytes in use, never more than `keep_bytes`."""
        return self._store.used_bytes

    def known(self, batch: Batch) -> int:
        """How many of the batch's documents need not be read."""
        return sum(state is not None for state in self._store.get(_keys(batch)))

    def of(self, batch: Batch, read: Read) -> NDArray[np.float32]:
        """The batch's documents [rows, tokens, hidden], 0 where there is padding; read are those that are not kept."""
        keys = _keys(batch)
        found = dict(zip(keys, self._store.get(keys), strict=True))
        new = {key: row for row, key in enumerate(keys) if found[key] is None}
        if new:
            rows = list(new.values())
            counts = batch.mask[rows].sum(axis=1).tolist()
            width = min(padded_width(max(counts)), batch.ids.shape[1])
            made = read(np.ascontiguousarray(batch.ids[rows, :width]), np.ascontiguousarray(batch.mask[rows, :width]))
            states = {
                key: state[:count].astype(self._kind).tobytes()
                for key, state, count in zip(new, made, counts, strict=True)
            }
            found |= states
            self._store.put(states)
        return self._stacked([found[key] or b"" for key in keys], batch)

    def _stacked(self, states: Sequence[bytes], batch: Batch) -> NDArray[np.float32]:
        counts = batch.mask.sum(axis=1).tolist()
        rows = [np.frombuffer(s, self._kind).reshape(n, -1) for s, n in zip(states, counts, strict=True)]
        out = np.zeros((*batch.ids.shape, rows[0].shape[1]), np.float32)
        for at, state in enumerate(rows):
            out[at, : len(state)] = state
        return out


def most_tokens(max_length: int) -> int:
    """The tokens that are read of a document where documents are kept: as many as with a query of 32 tokens, so that a
    long one is the same document to all queries that are no longer; half of `max_length` at least."""
    return max(max_length - _ASKED, max_length // 2)


def _keys(batch: Batch) -> list[bytes]:
    counts = batch.mask.sum(axis=1).tolist()
    return [
        blake2b(row[:count].tobytes(), digest_size=_KEY_BYTES).digest()
        for row, count in zip(batch.ids, counts, strict=True)
    ]
