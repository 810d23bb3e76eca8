"""Hybrid retrieval: several retrievers asked the same, their rankings fused.

Knows: whom to ask, and for how many. Refuses to know: how each of them finds, and how
rankings are fused (fusion.py).

    hybrid = Hybrid.build(documents)              # one index with words and vectors
    Hybrid([BM25.open("one"), Dense.open("other")], fusion="convex", weights=[1, 4])
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from secondpass.embedding import Encoder, open_encoder
from secondpass.errors import InputError
from secondpass.fusion import convex, reciprocal_rank
from secondpass.retrievers.bm25 import BM25, Postings
from secondpass.retrievers.dense import Dense, Vectors
from secondpass.retrievers.index import Index, Part
from secondpass.retrievers.ranked import check_question, retrieve_many
from secondpass.types import Document, Ranking, Retriever

__all__ = ["Fusion", "Hybrid"]

Fusion = Literal["rrf", "convex"] | Callable[[Sequence[Ranking]], Ranking]


class Hybrid:
    """Asks each of the `retrievers` for `depth` candidates (for k where that is more), fuses, and keeps the best k.

    `fusion` is `rrf` (reciprocal rank, k = 60), which needs nothing of the scores; `convex` (min-max, from
    the retriever's `lowest_score` up where it has such an attribute: 0 for BM25, −1 for Dense); or any function of
    the rankings, such as `partial(reciprocal_rank, k=10)`. `weights` are one per retriever and go with the first two.

    Over one Index each retriever takes its own snapshot: where another thread commits between two of them, one may
    still find a document that the other no longer has, or the copy of it that was replaced.

    Raises InputError for no retrievers, what is none, an unknown fusion, weights that do not fit, or a depth below 1.
    """

    def __init__(
        self,
        retrievers: Sequence[Retriever],
        *,
        fusion: Fusion = "rrf",
        weights: Sequence[float] | None = None,
        depth: int = 100,
    ) -> None:
        if not retrievers:
            raise InputError("there are no retrievers; give at least one")
        for retriever in retrievers:
            if not callable(getattr(retriever, "retrieve", None)):
                raise InputError(f"{retriever!r} cannot be a part of a hybrid: it has no retrieve(query, k)")
        if not isinstance(depth, int) or depth < 1:
            raise InputError(f"depth is {depth!r}; give the number of candidates to ask each retriever for, from 1 up")
        self.retrievers = tuple(retrievers)
        self.fusion = fusion
        self.depth = depth
        self._fuse = _function(fusion, weights, self.retrievers)
        self._fuse([Ranking("")] * len(self.retrievers))  # what cannot be fused is said now, not at the first query

    @classmethod
    def build(
        cls,
        documents: Iterable[Document],
        encoder: Encoder | None = None,
        *,
        fields: Sequence[str] = ("title", "text"),
        folder: str | os.PathLike[str] | None = None,
        fusion: Fusion = "rrf",
        weights: Sequence[float] | None = None,
        depth: int = 100,
        on_progress: Callable[[int], None] | None = None,
    ) -> Hybrid:
        """BM25 and Dense over one new index of `documents`: see Index.build. (For other settings of either build the
        Index with its parts, and put the retrievers together yourself.)
        """
        parts: list[Part] = [Postings(), Vectors(open_encoder() if encoder is None else encoder)]
        index = Index.build(documents, parts, fields=fields, folder=folder, on_progress=on_progress)
        return cls([BM25(index), Dense(index)], fusion=fusion, weights=weights, depth=depth)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        encoder: Encoder | None = None,
        verify: bool = True,
        fusion: Fusion = "rrf",
        weights: Sequence[float] | None = None,
        depth: int = 100,
    ) -> Hybrid:
        """BM25 and Dense over an index folder that has both: see Index.open and Dense.open."""
        dense = Dense.open(folder, encoder=encoder, verify=verify)
        return cls([BM25(dense.index), dense], fusion=fusion, weights=weights, depth=depth)

    @property
    def index(self) -> Index:
        """The one index that all retrievers are over; it takes the edits.

        Raises InputError where there is no such index.
        """
        first = getattr(self.retrievers[0], "index", None)
        if not isinstance(first, Index) or any(getattr(other, "index", None) is not first for other in self.retrievers):
            raise InputError("the retrievers of this hybrid are not all over one index; save and edit each by itself")
        return first

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a copy of the one index to `folder`: see Index.save."""
        self.index.save(folder)

    def retrieve(self, query: str, k: int) -> Ranking:
        """The k best of what the retrievers find; the trace has an entry of each, then one of the fusion.

        Raises InputError for a query that is no string or a k below 1, and what the retrievers raise.
        """
        check_question(query, k)
        return self._fuse([retriever.retrieve(query, max(k, self.depth)) for retriever in self.retrievers]).top(k)

    def retrieve_many(self, queries: Mapping[str, str], k: int) -> Iterator[Ranking]:
        """One ranking per query, in order; `queries` maps query ids to texts."""
        return retrieve_many(self, queries, k)

    def __repr__(self) -> str:
        how = self.fusion if isinstance(self.fusion, str) else "own fusion"
        return f"Hybrid({' + '.join(map(repr, self.retrievers))}, {how})"


def _function(
    fusion: Fusion, weights: Sequence[float] | None, retrievers: Sequence[Retriever]
) -> Callable[[Sequence[Ranking]], Ranking]:
    if fusion == "rrf":
        return partial(reciprocal_rank, weights=weights)
    if fusion == "convex":
        minima = [getattr(retriever, "lowest_score", None) for retriever in retrievers]
        return partial(convex, weights=weights, minima=minima)
    if not callable(fusion):
        raise InputError(f"fusion is {fusion!r}; give 'rrf', 'convex' or a function of the rankings")
    if weights is not None:
        raise InputError("weights go with 'rrf' and 'convex'; a function of your own knows its weights")
    return fusion
