"""Documents into a first stage that keeps them elsewhere: in batches, and nothing that is there already once more.

Knows: batches, what is new and what has changed, who is told how far it is. Refuses to know: where documents go, and
how a text becomes a vector.

Each batch is written whole before the next one is looked at, so that a fill that was killed goes on where it was when
it is started again: what is there with the same digest is neither encoded nor written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from secondpass.errors import InputError
from secondpass.retrievers.documents import text_of
from secondpass.retrievers.rows import Row, row_of
from secondpass.types import Document

if TYPE_CHECKING:
    from secondpass.retrievers.dense import Vectors

__all__ = ["Fillable", "Filled", "Vector", "Written", "fill"]

_CHARACTERS = 4_000_000  # of a batch, one document more: what is in memory at a time
_FIELDS = ("title", "text")  # what is indexed

Vector = list[float]
Written = Callable[[Sequence[tuple[Row, Vector | None]]], object]
"""Adds rows, or replaces those of the same id; raises where it cannot, whatever became of the others."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What became of the documents handed in: `cut` counts those of which not all can be found by words."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    cut: int = 0


@runtime_checkable
class Fillable(Protocol):
    """A first stage that documents can be put into."""

    def fill(
        self, documents: Iterable[Document], *, batch: int = 256, on_progress: Callable[[int], None] | None = None
    ) -> Filled: ...


def fill(
    documents: Iterable[Document],
    known: Callable[[Sequence[str]], Mapping[str, str]],
    write: Written,
    *,
    vectors: Vectors | None = None,
    batch: int = 256,
    longest: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Filled:
    """Write `documents`, at most `batch` at a time, in their order; of one id the last one stays.

    `known` gives the digests, by id, of those of the given ids that are there. With `vectors` each text comes with its
    vector, None where the encoder knows nothing of it. `longest` is how many characters the engine indexes of one.
    `on_progress` is called after each batch with the number of documents done so far.

    Raises InputError for a batch below 1, for what is no Document, and for a document that cannot be kept.
    """
    if not isinstance(batch, int) or batch < 1:
        raise InputError(f"batch is {batch!r}; give the number of documents to write at a time, from 1 up")
    added = replaced = unchanged = cut = 0
    for rows in _batches(documents, batch):
        there = known(list(rows))
        new = {id: one for id, one in rows.items() if there.get(id) != one[0].digest}
        texts = [text for _, text in new.values()]
        if new:
            encoded = [None] * len(new) if vectors is None else _encoded(vectors, texts)
            write([(row, vector) for (row, _), vector in zip(new.values(), encoded, strict=True)])
        replaced += len(new.keys() & there.keys())
        added += len(new.keys() - there.keys())
        unchanged += len(rows) - len(new)
        cut += 0 if longest is None else sum(len(text) > longest for text in texts)
        if on_progress is not None:
            on_progress(added + replaced + unchanged)
    return Filled(added, replaced, unchanged, cut)


def _encoded(vectors: Vectors, texts: Sequence[str]) -> list[Vector | None]:
    rows = vectors.encode(texts)
    return [row if any(row) else None for row in rows.tolist()]


def _batches(documents: Iterable[Document], most: int) -> Iterator[dict[str, tuple[Row, str]]]:
    """Rows and indexed texts by id. A batch ends before an id that it has already: the later one replaces it."""
    rows: dict[str, tuple[Row, str]] = {}
    characters = 0
    for document in documents:
        if not isinstance(document, Document):
            raise InputError(f"{document!r:.100} is no Document; make it one (secondpass.types.as_document)")
        row = row_of(document)
        if rows and (len(rows) >= most or characters >= _CHARACTERS or row.id in rows):
            yield rows
            rows, characters = {}, 0
        rows[row.id] = (row, text_of(document, _FIELDS))
        characters += len(row.title) + len(row.text)
    if rows:
        yield rows
