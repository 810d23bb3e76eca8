"""Features of a query and its candidates, all candidates in one pass: what learning to rank goes by.

Knows: words and where they stand, counts, cosines, what the first stage said, numbers in the metadata. Refuses to know:
the model, where the statistics and the encoder come from.

Of each field (title, text, or metadata of one's own):

    bm25           by the collection's statistics of this field (see `retrievers.bm25` for the formula)
    coverage       share of the query's distinct terms that occur
    idf_coverage   the same, each term counting its idf
    phrase         share of the query's pairs of neighbouring terms that occur as neighbours
    exact          1 where all of the query's terms stand there in a row, as asked, else 0
    window         terms that occur, over the length of the shortest stretch with all of them; missing for fewer than 2
    pair           distance of the closest two different terms; missing for fewer than 2
    length         in terms

Of the query `query_terms`, distinct. Of both `cosine`, of the fields together. From the first stage `first_rank`,
`first_score`, and `first_z`: the score in standard deviations over the hits at hand, the only feature that depends on
the other candidates. Metadata numbers by their names. What is not there is NaN: missing, which trees know how to take.

Terms are words less stop words, stemmed, so neighbours are those of what is left.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from numbers import Real
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from secondpass.embedding import Encoder
from secondpass.errors import InputError
from secondpass.rerankers.term_statistics import TermStatistics, field_texts
from secondpass.scoring.cache import MemoryStore
from secondpass.scoring.probability import standardised
from secondpass.types import Document, Hit, Ranking
from secondpass.words import Terms

__all__ = ["FIRST_STAGE", "OF_A_FIELD", "Asked", "FeatureSpec", "Features"]

OF_A_FIELD = ("bm25", "coverage", "idf_coverage", "phrase", "exact", "window", "pair", "length")
FIRST_STAGE = ("first_rank", "first_score", "first_z")
_SIEVE = 4096  # slots of a table that most terms which nobody asked for fall through

Float = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """Which features there are, and all that decides what they mean.

    `fields` are read for words, `metadata` are keys of numbers; `encoder` is the shipped name, folder or hub name of an
    embedding model ("": no cosine, which for documents not seen before costs more than all the rest); `first`: what the
    first stage said; `language`, `k1` and `b` are BM25's. `absent` says what a metadata number that is not there counts
    as.

    Raises InputError for a spec with neither fields nor metadata, a name that occurs twice or that LightGBM cannot
    keep, or a number that cannot be meant.
    """

    fields: tuple[str, ...] = ("title", "text")
    metadata: tuple[str, ...] = ()
    encoder: str = ""
    first: bool = True
    language: str | None = "english"
    k1: float = 0.9
    b: float = 0.4
    absent: Literal["missing", "zero"] = "missing"

    def __post_init__(self) -> None:
        if not (self.fields or self.metadata):
            raise InputError("there is nothing to read of a document; name fields or metadata")
        if self.encoder and not self.fields:
            raise InputError("an encoder reads fields, and there are none; name fields, or leave the encoder out")
        for name, count in Counter(self.names).items():
            if count > 1:
                raise InputError(f"two features are called {name!r}; rename the metadata")
            if not re.fullmatch(r'[^\s\[\]{}",:]+', name):
                raise InputError(f"LightGBM cannot keep a feature called {name!r}: no blanks, quotes, brackets, , or :")
        if not (0 <= self.k1 < math.inf and 0 <= self.b <= 1):
            raise InputError(f"k1 is {self.k1} and b is {self.b}; BM25 needs a k1 from 0 up and a b between 0 and 1")

    @property
    def names(self) -> tuple[str, ...]:
        """The features in their order."""
        return (
            *(f"{field}_{one}" for field in self.fields for one in OF_A_FIELD),
            *(("query_terms",) if self.fields else ()),
            *(("cosine",) if self.encoder else ()),
            *(FIRST_STAGE if self.first else ()),
            *self.metadata,
        )


class Features:
    """Computes what a spec names. Threads may share one.

    Args:
        spec: what is computed.
        statistics: of the collection, over the spec's fields; None only where the spec has no fields.
        encoder: the one that the spec names; None only where it names none.
        keep_bytes: memory for the terms and vectors of documents seen before, from 65,536 up; 0: none.

    Raises InputError where the three do not fit.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        statistics: TermStatistics | None = None,
        encoder: Encoder | None = None,
        *,
        keep_bytes: int = 0,
    ) -> None:
        columns = 0 if statistics is None else statistics.df.shape[1]
        if columns != len(spec.fields):
            raise InputError(f"the statistics are of {columns} fields, the features of {len(spec.fields)}; count again")
        if bool(spec.encoder) != (encoder is not None):
            raise InputError(f"the features' encoder is {spec.encoder!r}, and {encoder!r} was given; give that one")
        self.spec, self.statistics, self.encoder = spec, statistics, encoder
        self._dimensions = 0 if encoder is None else encoder.dimensions
        self._terms = Terms(spec.language)
        self._store = MemoryStore(keep_bytes) if keep_bytes else None

    def __repr__(self) -> str:
        return f"Features({len(self.spec.names)})"

    def has_something(self, document: Document) -> bool:
        """Whether a document has a text in one of the fields, or without fields one of the numbers."""
        if self.spec.fields:
            return any(text.strip() for text in field_texts(document, self.spec.fields))
        return not all(math.isnan(_number(document.metadata.get(name))) for name in self.spec.metadata)

    def of(self, ranking: Ranking) -> Float:
        """float64[hits, features], in the order of `spec.names`."""
        return self.asked(ranking).rows(range(len(ranking)))

    def asked(self, ranking: Ranking) -> Asked:
        """What is computed once for a ranking; its rows are then to be had in pieces."""
        terms = self._terms.of(ranking.query)
        numbers = {term: number for number, term in enumerate(dict.fromkeys(terms))}
        vector = None if self.encoder is None else self.encoder.encode([ranking.query], query=True)[0]
        first = _first_stage(ranking.hits) if self.spec.first else np.empty((len(ranking), 0))
        return Asked(self, ranking, [numbers[term] for term in terms], list(numbers), vector, first)

    def read(self, documents: Sequence[Document]) -> tuple[Ints, Ints, NDArray[np.float32]]:
        """Terms of the documents' fields, one field behind the other, as int64 hashes; how many each field has,
        int64[documents, fields]; and float32[documents, dimensions]. What is kept is not read again."""
        texts = [field_texts(document, self.spec.fields) for document in documents]
        if self._store is None:
            entries = self._entries(texts)
        else:
            keys = list(map(_key, texts))
            known = {key: entry for key, entry in zip(keys, self._store.get(keys), strict=True) if entry is not None}
            new = {key: one for key, one in zip(keys, texts, strict=True) if key not in known}
            fresh = dict(zip(new, self._entries(list(new.values())), strict=True))
            self._store.put(fresh)
            entries = [fresh.get(key) or known[key] for key in keys]
        fields, bytes_of_vector = 8 * len(self.spec.fields), 4 * self._dimensions
        behind = fields + bytes_of_vector
        counts = b"".join(entry[:fields] for entry in entries)
        vectors = b"".join(entry[fields:behind] for entry in entries)
        hashes = b"".join(entry[behind:] for entry in entries)
        return (
            np.frombuffer(hashes, np.int64),
            np.frombuffer(counts, np.int64).reshape(len(documents), len(self.spec.fields)),
            np.frombuffer(vectors, np.float32).reshape(len(documents), self._dimensions),
        )

    def _entries(self, texts: Sequence[tuple[str, ...]]) -> list[bytes]:
        """Of each document one row of bytes: counts, vector, terms."""
        vectors = np.empty((len(texts), 0), np.float32)
        if self.encoder is not None:
            vectors = self.encoder.encode([" ".join(filter(None, fields)) for fields in texts])
        out = []
        for fields, vector in zip(texts, vectors, strict=True):
            terms = list(map(self._terms.of, fields))
            # Python's own hash: within a process equal for equal terms, and of 64 bits
            hashes = np.array([hash(term) for own in terms for term in own], np.int64)
            out.append(np.array(list(map(len, terms)), np.int64).tobytes() + vector.tobytes() + hashes.tobytes())
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A query, ready to be held against its candidates: `sequence` are its terms by their numbers, in order, `terms`
    the distinct ones; `vector` float32[dimensions]; `first` float64[hits, 3] or [hits, 0]."""

    features: Features
    ranking: Ranking
    sequence: Sequence[int]
    terms: Sequence[str]
    vector: NDArray[np.float32] | None
    first: Float

    def rows(self, places: Sequence[int]) -> Float:
        """float64[places, features] of the hits at these places."""
        spec, hits = self.features.spec, [self.ranking.hits[place] for place in places]
        columns: list[Float] = []
        if spec.fields:
            hashes, counts, vectors = self.features.read([hit.document for hit in hits])
            columns += [self._of_fields(hashes, counts), np.full((len(hits), 1), float(len(self.terms)))]
            if self.vector is not None:
                columns.append((vectors * self.vector).sum(axis=1, dtype=np.float64)[:, None])
        absent = math.nan if spec.absent == "missing" else 0.0
        numbers = [[_number(hit.document.metadata.get(name), absent) for name in spec.metadata] for hit in hits]
        columns += [self.first[list(places)], np.array(numbers, np.float64).reshape(len(hits), len(spec.metadata))]
        return np.concatenate(columns, axis=1)

    def _of_fields(self, hashes: Ints, counts: Ints) -> Float:
        """float64[documents, fields · 8]. A slot is a field of a document; a match is a place where a term of the query
        stands: `at` among all terms, in `slot`, being the query's term of this `number`."""
        documents, fields = counts.shape
        terms, slots = len(self.terms), counts.size
        at, number = _matches(hashes, np.array([hash(term) for term in self.terms], np.int64))
        slot = np.searchsorted(np.cumsum(counts.ravel()), at, "right")
        tf = np.bincount(slot * terms + number, minlength=slots * terms).reshape(documents, fields, terms)
        met = tf > 0
        found = met.sum(axis=2).astype(np.float64)
        idf, bm25 = self._bm25(tf.astype(np.float64), counts)
        window, pair = _closeness(at, slot, number, met.reshape(slots, terms))
        window[found.ravel() < 2] = pair[found.ravel() < 2] = math.nan
        with np.errstate(invalid="ignore"):  # of a query without terms nothing can be covered: 0 / 0
            parts = (
                bm25,
                found / terms if terms else np.full_like(found, math.nan),
                (met * idf).sum(axis=2) / idf.sum(axis=1),
                _phrases(at, slot, number, self.sequence, slots),
                _in_a_row(at, slot, number, self.sequence, slots),
                found.ravel() / window,
                pair,
                counts.astype(np.float64),
            )
        columns = np.stack([part.reshape(documents, fields) for part in parts], axis=2)
        return columns.reshape(documents, fields * len(parts))

    def _bm25(self, tf: Float, counts: Ints) -> tuple[Float, Float]:
        """idf float64[fields, terms], and BM25 float64[documents, fields]."""
        spec, statistics = self.features.spec, self.features.statistics
        assert statistics is not None  # where there are fields there are statistics
        idf = statistics.idf(self.terms)
        times = np.bincount(np.array(self.sequence, np.int64), minlength=len(self.terms))
        mean = np.array([length or 1.0 for length in statistics.mean_lengths])  # a field that is always empty: any
        norm = spec.k1 * (1 - spec.b + spec.b * counts / mean)
        with np.errstate(invalid="ignore"):  # k1 = 0: 0 / 0 where the term is not there
            share = np.where(tf > 0, tf / (tf + norm[:, :, None]), 0.0)
        return idf, (share * (idf * times)).sum(axis=2)


def _matches(hashes: Ints, asked: Ints) -> tuple[Ints, Ints]:
    """Where terms of the query stand, and the numbers of these."""
    sieve = np.zeros(_SIEVE, np.bool_)
    sieve[asked % _SIEVE] = True
    at = np.flatnonzero(sieve[hashes & (_SIEVE - 1)])
    order = np.argsort(asked)
    if not len(order):
        return at, at
    place = np.minimum(np.searchsorted(asked, hashes[at], sorter=order), len(asked) - 1)
    number = order[place]
    same = asked[number] == hashes[at]
    return at[same], number[same]


def _closeness(at: Ints, slot: Ints, number: Ints, met: NDArray[np.bool_]) -> tuple[Float, Float]:
    """Of each slot: the length of the shortest stretch with all terms that occur there, and the distance of the closest
    two different ones; infinite where there is nothing."""
    window, pair = np.full(len(met), math.inf), np.full(len(met), math.inf)
    if not len(at):
        return window, pair
    # a stretch that ends at a match begins at the earliest of all terms' latest places before it
    begin = at.copy()
    start = at[np.searchsorted(slot, slot, "left")]  # of the first match of the same slot
    for term in range(met.shape[1]):
        latest = np.maximum.accumulate(np.where(number == term, at, -1))
        needed = met[slot, term]
        latest[latest < start] = -len(at) - at[-1]  # not met yet in this slot: no stretch ends here
        begin = np.where(needed, np.minimum(begin, latest), begin)
    length = np.where(begin >= 0, at - begin + 1.0, math.inf)
    np.minimum.at(window, slot, length)
    # nearer than neighbours no two matches are: of three in a row the middle one differs from one of the others
    near = np.flatnonzero((slot[1:] == slot[:-1]) & (number[1:] != number[:-1]))
    np.minimum.at(pair, slot[near], (at[near + 1] - at[near]).astype(np.float64))
    return window, pair


def _phrases(at: Ints, slot: Ints, number: Ints, sequence: Sequence[int], slots: int) -> Float:
    """Of each slot: the share of the query's pairs of neighbours that are neighbours there; NaN for a single term."""
    base = max(sequence, default=0) + 1
    asked = np.unique(np.array([one * base + other for one, other in pairwise(sequence)], np.int64))
    if not len(asked):
        return np.full(slots, math.nan)
    here = np.flatnonzero((np.diff(at) == 1) & (slot[1:] == slot[:-1]))
    pairs = number[here] * base + number[here + 1]
    place = np.minimum(np.searchsorted(asked, pairs), len(asked) - 1)
    known = asked[place] == pairs
    found = np.zeros((slots, len(asked)), np.bool_)
    found[slot[here[known]], place[known]] = True
    return np.asarray(found.mean(axis=1), np.float64)


def _in_a_row(at: Ints, slot: Ints, number: Ints, sequence: Sequence[int], slots: int) -> Float:
    """Of each slot: 1 where the query's terms stand there as asked, one behind the other, else 0."""
    found = np.zeros(slots)
    last = len(sequence) - 1
    begin = np.flatnonzero(number[: len(number) - last] == sequence[0]) if 0 <= last < len(number) else at[:0]
    # every place of a query's term is a match, so terms in a row are matches in a row
    begin = begin[(at[begin + last] - at[begin] == last) & (slot[begin + last] == slot[begin])]
    for further, term in enumerate(sequence):
        begin = begin[number[begin + further] == term]
    found[slot[begin]] = 1.0
    return found


def _first_stage(hits: Sequence[Hit]) -> Float:
    """float64[hits, 3]: rank, score, z."""
    scores = np.array([_number(hit.first_score) for hit in hits], np.float64)
    z = standardised([hit.first_score for hit in hits])
    z = np.full(len(hits), math.nan) if z is None else np.where(np.isnan(scores), math.nan, z)
    return np.stack([np.array([_number(hit.first_rank) for hit in hits], np.float64), scores, z], axis=1)


def _number(value: object, absent: float = math.nan) -> float:
    """A finite number as it is (True is 1); anything else is absent."""
    return float(value) if isinstance(value, Real) and math.isfinite(value) else absent


def _key(texts: tuple[str, ...]) -> bytes:
    whole = "\0".join([*(str(len(text)) for text in texts), *texts])
    return blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=16).digest()
