"""What retrievers over an index share: the question checked, the best kept, the hits made.

Knows: queries, k, ties. Refuses to know: where scores come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.retrievers.index import Snapshot
from secondpass.types import Hit, Ranking, Retriever, Status

__all__ = ["best", "check_question", "hits_of", "retrieve_many"]

_BLOCK = 256  # scores


def check_question(query: str, k: int) -> None:
    """Raise InputError for a query that is no string or a k below 1."""
    if not isinstance(query, str):
        raise InputError(f"the query is a {type(query).__name__}; give a str")
    if not isinstance(k, int) or k < 1:
        raise InputError(f"k is {k!r}; give the number of documents to find, from 1 up")


def best(scores: NDArray[np.float32], k: int, above: float) -> list[tuple[int, float]]:
    """(position, score) of the at most k best scores above a bound; best first, ties by position."""
    worth = scores > above
    blocks = len(scores) // _BLOCK
    if blocks > k:  # k blocks hold a score of the k-th best block or more, so nothing below it is among the k best
        tops = scores[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
        worth &= scores >= np.partition(tops, blocks - k)[blocks - k]
    found = np.flatnonzero(worth)  # ascending positions
    values = scores[found]
    if len(found) > k:
        last = np.partition(values, len(values) - k)[len(values) - k]  # the k-th best score
        ahead, ties = np.flatnonzero(values > last), np.flatnonzero(values == last)
        keep = np.concatenate([ahead, ties[: k - len(ahead)]])
        found, values = found[keep], values[keep]
    order = np.lexsort((found, -values))
    return list(zip(found[order].tolist(), values[order].tolist(), strict=True))


def hits_of(snapshot: Snapshot, found: Sequence[tuple[int, float]]) -> tuple[Hit, ...]:
    """The hits of a first stage for (position, score), best first."""
    return tuple(
        Hit(snapshot.document(position), score, Status.RETRIEVED, score, rank)
        for rank, (position, score) in enumerate(found, start=1)
    )


def retrieve_many(retriever: Retriever, queries: Mapping[str, str], k: int) -> Iterator[Ranking]:
    """One ranking per query, in order; `queries` maps query ids to texts."""
    for query_id, query in queries.items():
        yield replace(retriever.retrieve(query, k), query_id=query_id)
