"""Dense retrieval: every live vector of an index compared with the query's, none left out.

Knows: vectors as int8, the exact scan, cosines. Refuses to know: how a text becomes a vector
(embedding.py), and what becomes of the candidates.

    index = Dense.build(documents)
    index.save("my-index")
    Dense.open("my-index").retrieve("who wrote it", k=100)

A document is kept as int8 with one float32 scale: value = int8 · scale, scale = largest component / 127. That is off by
at most half a scale per component; of random unit vectors in 256 dimensions the cosine is then off by about 0.0004.
(float16 would be finer, but numpy converts it 5 to 10 times slower than int8, which it does with SIMD.)

The score is the cosine of the query and the kept document, from −1 to 1. The query is rounded to whole numbers too: so
finely (about 13 bits) that it hardly adds to the error, and such that every sum of products is a whole number below
2²⁴. float32 holds those exactly, in whatever order a BLAS adds them up. So a score does not depend on threads,
on neighbours or on the place in the index, and equal vectors have equal scores.

A text of which the encoder knows nothing has a vector of zeros: as a document it is never found, as a query (an empty
one, say) it finds nothing. Any other query finds k documents, however unlike they are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.embedding import Encoder, open_encoder
from secondpass.errors import IndexFolderError, InputError, ModelError
from secondpass.retrievers.index import Arrays, Index, Segment, Snapshot
from secondpass.retrievers.ranked import best, check_question, hits_of, retrieve_many
from secondpass.scoring.engines import cores
from secondpass.types import Document, Ranking, StageTrace

__all__ = ["Dense", "Vectors"]

_ENCODE = 1024  # texts at a time
_BLOCK = (
    400_000  # numbers converted at a time; from 460,800 on OpenBLAS 0.3.31 starts threads, which only get in the way
)
_PER_THREAD = 100_000  # documents; fewer are scanned before a second thread is of use
_EXACT = 2**24  # float32 holds every whole number up to here


class Vectors:
    """The part of an index that keeps one vector per document. `encoder` is opened when it is first needed."""

    name = "dense"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder: Encoder | None = encoder
        self._settings = _settings(encoder)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Vectors:
        """The part of an index that was made with these settings."""
        part = cls.__new__(cls)
        part._encoder = None
        part._settings = {name: settings[name] for name in ("encoder", "digest", "dimensions")}
        return part

    def settings(self) -> dict[str, Any]:
        """Name, digest and dimensions of the encoder."""
        return dict(self._settings)

    @property
    def encoder(self) -> Encoder:
        """The encoder that made the vectors.

        Raises IndexFolderError where the one of that name is another by now, and what opening it raises.
        """
        return self._encoder or self.use(open_encoder(self._settings["encoder"]))

    def use(self, encoder: Encoder) -> Encoder:
        """Encode with this one from now on. Raises IndexFolderError where it is not the one that made the vectors."""
        offered = _settings(encoder)
        if offered["digest"] != self._settings["digest"] or offered["dimensions"] != self._settings["dimensions"]:
            raise IndexFolderError(
                f"the vectors of this index are by the encoder {_describe(self._settings)}, not by "
                f"{_describe(offered)}; open it with that encoder, or build the index again"
            )
        self._encoder = encoder
        return encoder

    def encode(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """float32[texts, dimensions]. Raises ModelError where the encoder gives anything else."""
        rows = self.encoder.encode(texts, query=query)
        if rows.shape != (len(texts), self._settings["dimensions"]) or not np.isfinite(rows).all():
            raise ModelError(
                f"the encoder {_describe(self._settings)} gave an array of shape {rows.shape} for {len(texts)} texts, "
                "or numbers that are not finite; an encoder gives one row of finite numbers per text"
            )
        return rows

    def build(self, texts: Sequence[str]) -> Arrays:
        """`vectors` int8[texts, dimensions] and `scales` float32[texts]."""
        vectors = np.zeros((len(texts), self._settings["dimensions"]), np.int8)
        scales = np.zeros(len(texts), np.float32)
        for begin in range(0, len(texts), _ENCODE):
            rows = slice(begin, begin + _ENCODE)
            vectors[rows], scales[rows] = _as_int8(self.encode(texts[rows]))
        return {"vectors": vectors, "scales": scales}

    def merge(self, pieces: Sequence[tuple[Arrays, NDArray[np.bool_]]]) -> Arrays:
        """The live rows of all pieces, in their order."""
        return {
            name: np.concatenate([arrays[name][alive] for arrays, alive in pieces]) for name in ("vectors", "scales")
        }


class Dense:
    """A retriever over the vectors of an index. Make one with `build` or `open`, or over an Index that has them.

    `threads` is how many may scan at once (None: the processor's cores, at most 4); a small index needs but one.
    """

    lowest_score = -1.0  # for fusion by score

    def __init__(self, index: Index, *, threads: int | None = None) -> None:
        part = index.parts.get(Vectors.name)
        if not isinstance(part, Vectors):
            raise InputError(f"{index!r} has no vectors; build one that has (Dense.build or Hybrid.build)")
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise InputError(f"threads is {threads!r}; give a whole number from 1 up, or None")
        self.index = index
        self.vectors = part
        self.threads = min(cores(), 4) if threads is None else threads

    @classmethod
    def build(
        cls,
        documents: Iterable[Document],
        encoder: Encoder | None = None,
        *,
        fields: Sequence[str] = ("title", "text"),
        folder: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Dense:
        """Index `documents`, by the `encoder` (None: the shipped one), in memory or in a `folder`: see Index.build."""
        part = Vectors(open_encoder() if encoder is None else encoder)
        index = Index.build(documents, [part], fields=fields, folder=folder, on_progress=on_progress)
        return cls(index, threads=threads)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        encoder: Encoder | None = None,
        verify: bool = True,
        threads: int | None = None,
    ) -> Dense:
        """Open an index folder: see Index.open. Without an `encoder` the index opens the one it was made with, by its
        name, at the first query.

        Raises IndexFolderError as Index.open does, and where the encoder is not the one of the index.
        """
        dense = cls(Index.open(folder, verify=verify), threads=threads)
        if encoder is not None:
            dense.vectors.use(encoder)
        return dense

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a copy of the index to `folder`: see Index.save."""
        self.index.save(folder)

    def retrieve(self, query: str, k: int) -> Ranking:
        """The k documents nearest to the query by cosine, all of them where there are fewer.

        Best first; equal scores in the order of the index. Nothing where the encoder knows nothing of the query.

        Raises InputError for a query that is no string or a k below 1, and what `Vectors.encoder` raises.
        """
        check_question(query, k)
        begun = time.perf_counter()
        snapshot = self.index.snapshot
        numbers, step = _as_whole_numbers(self.vectors.encode([query], query=True)[0])
        found = best(self._products(snapshot, numbers), k, -np.inf) if step else []
        hits = hits_of(snapshot, [(position, max(-1.0, min(1.0, value * step))) for position, value in found])
        settings = self.vectors.settings()
        detail = {
            "documents": len(snapshot),
            "encoder": settings["encoder"],
            "dimensions": settings["dimensions"],
            "unknown_query": not step,
        }
        return Ranking(query, hits, (StageTrace("dense", time.perf_counter() - begun, detail=detail),))

    def retrieve_many(self, queries: Mapping[str, str], k: int) -> Iterator[Ranking]:
        """One ranking per query, in order; `queries` maps query ids to texts."""
        return retrieve_many(self, queries, k)

    def _products(self, snapshot: Snapshot, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """The product of each document with the query, by position; −infinity for the dead and the unknown."""
        out = np.empty(snapshot.starts[-1], np.float32)
        threads = min(self.threads, max(1, len(out) // _PER_THREAD))
        bounds = [len(out) * number // threads for number in range(threads + 1)]

        def scan(part: int) -> None:
            """The share of one thread: positions bounds[part] up to the next bound."""
            for segment, start in zip(snapshot.segments, snapshot.starts, strict=False):
                first, end = max(bounds[part] - start, 0), min(bounds[part + 1] - start, len(segment.documents))
                if first < end:
                    _scan(segment, first, end, query, out[start + first : start + end])

        if threads == 1:
            scan(0)
        else:  # threads of this query alone: they start within a fraction of a millisecond and survive no fork
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(scan, range(threads)))
        return out

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"Dense({len(self)} documents, {self.vectors.settings()['encoder']})"


# Numbers


def _as_int8(rows: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Vectors and their scales; halves are rounded to the even neighbour, zeros have the scale 0."""
    scales = (np.abs(rows).max(axis=1, initial=0) / np.float32(127)).astype(np.float32)
    divisors = np.where(scales > 0, scales, np.float32(1))
    return np.rint(rows / divisors[:, None]).astype(np.int8), scales


def _as_whole_numbers(vector: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Whole numbers and their step: vector ≈ numbers · step; for zeros the step is 0.

    Their magnitudes add up to at most 2²⁴ / 127, so any sum of products with int8 is below 2²⁴.
    """
    exact = vector.astype(np.float64)
    step = float(np.abs(exact).sum()) / (_EXACT / 127 - len(exact) / 2)  # rounding adds at most ½ to each
    if not step:
        return vector, 0.0
    return np.rint(exact / step).astype(np.float32), step


def _scan(segment: Segment, first: int, end: int, query: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write the products of documents first..end of a segment to `out`."""
    arrays = segment.parts[Vectors.name]
    vectors, scales = np.asarray(arrays["vectors"]), np.asarray(arrays["scales"])[first:end]
    size = max(1, _BLOCK // vectors.shape[1])
    buffer = np.empty((min(size, end - first), vectors.shape[1]), np.float32)
    for begin in range(first, end, size):
        rows = vectors[begin : min(begin + size, end)]
        block = buffer[: len(rows)]
        np.copyto(block, rows)
        np.dot(block, query, out=out[begin - first : begin - first + len(rows)])
    out *= scales
    out[(scales == 0) | ~segment.alive[first:end]] = -np.inf


def _settings(encoder: Encoder) -> dict[str, Any]:
    return {"encoder": encoder.name, "digest": encoder.digest, "dimensions": encoder.dimensions}


def _describe(settings: Mapping[str, Any]) -> str:
    return f"{settings['encoder']!r} ({settings['dimensions']} dimensions, digest {settings['digest'][:12]})"
