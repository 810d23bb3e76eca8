"""BM25: the first stage that needs no model.

Knows: postings and the formula. Refuses to know: files and commits (index.py), what becomes of the candidates.

    index = BM25.build(documents)
    index.save("my-index")
    BM25.open("my-index").retrieve("who wrote it", k=100)

The postings are our own: bm25s, which the tests hold them against, bakes idf and mean length into its matrix, so
one more document would mean to build everything anew. Here a segment keeps bare counts, and the statistics of the
whole collection, of its live documents alone, come in when a query is asked.

Score of a document for a query (Lucene's variant: Kamphuis et al., "Which BM25 Do You Mean?",
ECIR 2020), summed over the query's words, a word asked twice counting twice:
ln(1 + (N − df + .5) / (df + .5)) · tf / (tf + k1 · (1 − b + b · length / mean length))
"""

from __future__ import annotations

import math
import os
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.retrievers.index import Arrays, Index, Segment, Snapshot
from secondpass.retrievers.ranked import best, check_question, hits_of, retrieve_many
from secondpass.types import Document, Ranking, StageTrace
from secondpass.words import SortedTerms, encoded, stemmer_of, stop_words_of, words

__all__ = ["BM25", "Postings"]

_BLOCK = 1 << 22  # words that are counted at a time, which bounds the memory that long documents take


class BM25:
    """Retrieves by BM25 from the postings of an index. `index` takes the edits."""

    lowest_score = 0.0  # for fusion by score

    def __init__(self, index: Index) -> None:
        part = index.parts.get("bm25")
        if not isinstance(part, Postings):
            raise InputError(f"the index has no BM25 postings (only {', '.join(index.parts)}); build it with Postings")
        self.index = index
        self._part = part
        self._prepared = _Statistics(part, index.snapshot)

    @classmethod
    def build(
        cls,
        documents: Iterable[Document],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        language: str | None = "english",
        fields: Sequence[str] = ("title", "text"),
        folder: str | os.PathLike[str] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> BM25:
        """Index `documents`, in memory or in a `folder`: see Index.build, also for the other errors.

        `language` is one that PyStemmer knows, None for neither stemming nor stop words.

        Raises InputError for an unknown language, k1 < 0, or b outside 0..1.
        """
        part = Postings(k1, b, language)
        return cls(Index.build(documents, [part], fields=fields, folder=folder, on_progress=on_progress))

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, verify: bool = True) -> BM25:
        """Open an index folder; see Index.open, also for the errors."""
        return cls(Index.open(folder, verify=verify))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a copy of the index to `folder`; see Index.save, also for the errors."""
        self.index.save(folder)

    @property
    def language(self) -> str | None:
        """The language of stemmer and stop words."""
        return self._part.language

    @property
    def fields(self) -> tuple[str, ...]:
        """What of a document is indexed."""
        return self.index.fields

    def retrieve(self, query: str, k: int) -> Ranking:
        """The at most `k` best documents that share a word with `query`.

        Best first; equal scores in the order the documents were added. A document without
        any of the query's words is no hit, so a query without known words finds nothing.

        Raises InputError for a query that is no string or a k below 1.
        """
        check_question(query, k)
        begun = time.perf_counter()
        statistics = self._prepared
        if statistics.snapshot is not self.index.snapshot:  # two threads may both prepare: the same
            self._prepared = statistics = _Statistics(self._part, self.index.snapshot)
        terms = self._part.terms(query)
        scores, unknown = statistics.score(terms)
        hits = hits_of(statistics.snapshot, best(scores, k, 0.0))
        detail = {"documents": len(statistics.snapshot), "query_words": len(terms), "unknown_words": unknown}
        return Ranking(query, hits, (StageTrace("bm25", time.perf_counter() - begun, detail=detail),))

    def retrieve_many(self, queries: Mapping[str, str], k: int) -> Iterator[Ranking]:
        """One ranking per query, in order; `queries` maps query ids to texts."""
        return retrieve_many(self, queries, k)

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"BM25({len(self)} documents)"


# Postings


@dataclass(frozen=True, slots=True)
class Postings:
    """The part of an index that BM25 reads. Arrays of a segment of n documents, t terms and p postings:

    terms uint8[…] (UTF-8, in sorted order) and term_offsets int64[t + 1]; indptr int64[t + 1] into
    docs int32[p] (ascending for a term) and tf int32[p]; lengths int32[n], in words that are no stop words.

    Raises InputError for k1 < 0, b outside 0..1 or an unknown language.
    """

    k1: float = 0.9
    b: float = 0.4
    language: str | None = "english"

    name = "bm25"

    def __post_init__(self) -> None:
        if not (0 <= self.k1 < math.inf and 0 <= self.b <= 1):
            raise InputError(f"k1 is {self.k1} and b is {self.b}; BM25 needs a k1 from 0 up and a b between 0 and 1")
        stemmer_of(self.language)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Postings:
        """The part that said these settings."""
        return cls(settings["k1"], settings["b"], settings["language"])

    def settings(self) -> dict[str, Any]:
        """k1, b and language."""
        return {"k1": self.k1, "b": self.b, "language": self.language}

    def terms(self, text: str) -> list[str]:
        """The terms of a text in their order: words less stop words, stemmed."""
        stop_words, stem = stop_words_of(self.language), stemmer_of(self.language)
        return [stem(word) for word in words(text) if word not in stop_words]

    def build(self, texts: Sequence[str]) -> Arrays:
        """The postings of one segment."""
        known = _Terms(self.language)
        lengths = np.zeros(len(texts), np.int32)
        pieces: list[_Piece] = []
        block, counts = array("i"), array("q")  # term numbers of some documents, and how many each has
        for number, text in enumerate(texts, 1):
            before = len(block)
            block.extend(map(known.__getitem__, words(text)))
            counts.append(len(block) - before)
            if len(block) >= _BLOCK or number == len(texts):
                docs = np.repeat(np.arange(number - len(counts), number), counts)
                numbers = np.frombuffer(block, np.int32) if block else np.zeros(0, np.int32)
                docs, numbers = docs[numbers >= 0], numbers[numbers >= 0]
                lengths += np.bincount(docs, minlength=len(texts)).astype(np.int32)
                pairs, tf = np.unique(numbers.astype(np.int64) << 32 | docs, return_counts=True)
                df = np.bincount(pairs >> 32, minlength=len(known.numbers))
                pieces.append(_Piece(df, (pairs & 0xFFFFFFFF).astype(np.int32), tf.astype(np.int32)))
                block, counts = array("i"), array("q")
        terms = [encoded(term) for term in known.numbers]
        place = {term: at for at, term in enumerate(sorted(terms))}
        rank = np.fromiter(map(place.__getitem__, terms), np.int64, len(terms))
        return _arrays(list(place), [(piece, rank[: len(piece.df)]) for piece in pieces], lengths)

    def merge(self, pieces: Sequence[tuple[Arrays, NDArray[np.bool_]]]) -> Arrays:
        """The postings of the live documents of some segments, as `build` would make them."""
        found: list[tuple[_Piece, list[bytes]]] = []
        lengths: list[NDArray[np.int32]] = []
        begin = 0
        for arrays, alive in pieces:
            keep = alive[arrays["docs"]]
            before = np.concatenate([[0], np.cumsum(keep)])  # postings that stay, before each
            df = np.diff(before[arrays["indptr"]])
            renumbered = (np.cumsum(alive) + (begin - 1)).astype(np.int32)
            piece = _Piece(df[df > 0], renumbered[arrays["docs"][keep]], arrays["tf"][keep])
            table = SortedTerms(arrays["terms"], arrays["term_offsets"])
            found.append((piece, [table[at] for at in np.flatnonzero(df).tolist()]))
            lengths.append(arrays["lengths"][alive])
            begin += len(lengths[-1])
        terms = sorted(set().union(*(own for _, own in found)))
        place = {term: at for at, term in enumerate(terms)}
        ranked = [(piece, np.fromiter(map(place.__getitem__, own), np.int64, len(own))) for piece, own in found]
        return _arrays(terms, ranked, np.concatenate(lengths) if lengths else np.zeros(0, np.int32))


class _Terms(dict[str, int]):
    """Word -> number of its term, −1 for a stop word. Most words come again, and are stemmed once."""

    def __init__(self, language: str | None) -> None:
        self._stem, self._stop_words = stemmer_of(language), stop_words_of(language)
        self.numbers: dict[str, int] = {}  # term -> number

    def __missing__(self, word: str) -> int:
        number = -1 if word in self._stop_words else self.numbers.setdefault(self._stem(word), len(self.numbers))
        self[word] = number
        return number


@dataclass(frozen=True, slots=True)
class _Piece:
    """Postings of some documents, term after term in an order of their own: df of each term, then docs and tf."""

    df: NDArray[np.int64]
    docs: NDArray[np.int32]
    tf: NDArray[np.int32]


def _arrays(
    terms: Sequence[bytes], pieces: Sequence[tuple[_Piece, NDArray[np.int64]]], lengths: NDArray[np.int32]
) -> dict[str, NDArray[Any]]:
    """Put pieces, each with the place in `terms` of each of its terms, together; documents must ascend over them."""
    df = np.zeros(len(terms), np.int64)
    for piece, rank in pieces:
        df[rank] += piece.df
    indptr = np.concatenate([[0], np.cumsum(df)])
    docs, tf = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.int32)
    free = indptr[:-1].copy()  # where the next posting of a term goes
    for piece, rank in pieces:
        own = np.cumsum(piece.df) - piece.df
        goes_to = np.repeat(free[rank] - own, piece.df) + np.arange(len(piece.docs))
        docs[goes_to], tf[goes_to] = piece.docs, piece.tf
        free[rank] += piece.df
    table = SortedTerms.of(terms)
    return {
        "terms": table.blob,
        "term_offsets": table.offsets,
        "indptr": indptr,
        "docs": docs,
        "tf": tf,
        "lengths": lengths,
    }


# Scores


class _Statistics:
    """What the formula needs of a snapshot: exact integers over its live documents, and a norm per document."""

    def __init__(self, part: Postings, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        length = sum(int(s.parts["bm25"]["lengths"][s.alive].sum(dtype=np.int64)) for s in snapshot.segments)
        mean = length / max(len(snapshot), 1) or 1.0  # no words at all: any will do
        self._segments = [
            _Searchable(segment, start, part, mean)
            for segment, start in zip(snapshot.segments, snapshot.starts, strict=False)
        ]

    def score(self, terms: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """A score per position, 0 where no term is met or the document is dead; and how many terms nobody has."""
        scores = np.zeros(self.snapshot.starts[-1], np.float32)
        unknown = 0
        for term, times in Counter(terms).items():
            wanted = encoded(term)
            met = [(segment, *found) for segment in self._segments if (found := segment.find(wanted)) is not None]
            df = sum(live for _, _, live in met)
            if not df:
                unknown += times
                continue
            weight = np.float32(times * math.log(1 + (len(self.snapshot) - df + 0.5) / (df + 0.5)))
            for segment, where, _ in met:
                docs, tf = segment.docs[where], segment.tf[where].astype(np.float32)
                scores[segment.start :][docs] += weight * (tf / (tf + segment.norms[docs]))
        return scores, unknown


class _Searchable:
    """A segment's postings, ready for a query."""

    def __init__(self, segment: Segment, start: int, part: Postings, mean: float) -> None:
        arrays = segment.parts["bm25"]
        self.start = start
        self.docs, self.tf, self._indptr = arrays["docs"], arrays["tf"], arrays["indptr"]
        # k1 · (1 − b + b · length / mean length); infinite for the dead, so that their score is 0
        norms = part.k1 * (1 - part.b + part.b * arrays["lengths"] / mean)
        self.norms = np.where(segment.alive, norms, np.inf).astype(np.float32)
        self._alive = None if segment.alive.all() else segment.alive
        self._terms = SortedTerms(arrays["terms"], arrays["term_offsets"])

    def find(self, term: bytes) -> tuple[slice, int] | None:
        """Where the postings of a term lie, and how many are of live documents; None where there are none."""
        at = self._terms.find(term)
        if at is None:
            return None
        where = slice(int(self._indptr[at]), int(self._indptr[at + 1]))
        if self._alive is None:
            return where, where.stop - where.start
        return where, int(np.count_nonzero(self._alive[self.docs[where]]))
