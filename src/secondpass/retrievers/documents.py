"""The documents of one segment: in memory, on disk, or picked from other segments.

Knows: which text of a document is indexed, one JSON line per document, how to find an id. Refuses to
know: which documents are dead, manifests, search.

An id is found by a sorted array of 64-bit hashes (BLAKE2b) and the places that belong to them; the id stored at the
place is then compared, so that two ids with one hash are told apart and no ids are ever loaded.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.types import Document

__all__ = [
    "Documents",
    "JoinedDocuments",
    "ListedDocuments",
    "StoredDocuments",
    "keys_of",
    "text_of",
    "write_documents",
]

_LINES = "documents.jsonl"
_OFFSETS, _KEYS, _PLACES = "offsets.npy", "keys.npy", "places.npy"


def text_of(document: Document, fields: Sequence[str]) -> str:
    """The indexed text: title, text and metadata values, a space between; what is no string is left out."""
    values = (getattr(document, name) if name in ("title", "text") else document.metadata.get(name) for name in fields)
    return " ".join(value for value in values if isinstance(value, str))


def keys_of(ids: Iterable[str]) -> NDArray[np.uint64]:
    """A 64-bit hash per id."""
    return np.frombuffer(b"".join(map(_key, ids)), "<u8")


def _key(identity: str) -> bytes:
    return hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()


class Documents(Sequence[Document]):
    """The documents of a segment, no id twice. `keys` are the hashes in sorted order, `places` whose they are."""

    keys: NDArray[np.uint64]
    places: NDArray[np.int32]

    def find(self, ids: Sequence[str], keys: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
        """(n, place) for each ids[n] that is here; `keys` are `keys_of(ids)`."""
        begin, end = np.searchsorted(self.keys, keys, "left"), np.searchsorted(self.keys, keys, "right")
        for number in np.flatnonzero(end > begin).tolist():
            for place in self.places[begin[number] : end[number]].tolist():
                if self[place].id == ids[number]:
                    yield number, place

    @abstractmethod
    def line(self, place: int) -> bytes:
        """The document as a line of JSON. Raises InputError where JSON cannot hold it."""

    def _sort_in(self, keys: NDArray[np.uint64]) -> None:
        """Take the keys, given by place."""
        self.places = np.argsort(keys, kind="stable").astype(np.int32)
        self.keys = keys[self.places]


class ListedDocuments(Documents):
    """Documents in memory, as they were handed over."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = documents
        self._sort_in(keys_of(document.id for document in documents))

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, place: Any) -> Any:
        return self._documents[place]

    def line(self, place: int) -> bytes:
        document = self[place]
        row = [document.id, document.text, document.title, dict(document.metadata)]
        try:
            line = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"document {document.id!r} cannot be saved ({error}); text and metadata must be what JSON can hold"
            ) from error
        return line.encode("utf-8", "surrogatepass") + b"\n"  # lone surrogates do occur in crawled text


class StoredDocuments(Documents):
    """Documents of a folder, read one by one when asked for.

    Raises OSError or ValueError where the files cannot be read or do not fit each other.
    """

    def __init__(self, folder: Path) -> None:
        # plain views of the memory maps: np.memmap slices an order slower
        self._offsets, self.keys, self.places = (
            np.asarray(np.load(folder / name, mmap_mode="r")) for name in (_OFFSETS, _KEYS, _PLACES)
        )
        with open(folder / _LINES, "rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._offsets.dtype != np.int64 or self._offsets[0] != 0 or self._offsets[-1] != len(self._bytes):
            raise ValueError(f"{_OFFSETS} does not fit {_LINES}")
        if not len(self) == len(self.keys) == len(self.places):
            raise ValueError(f"{_KEYS} and {_PLACES} do not fit {_OFFSETS}")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, place: Any) -> Any:  # an int; slices are not needed
        identity, text, title, metadata = json.loads(self.line(place).decode("utf-8", "surrogatepass"))
        return Document(identity, text, title, MappingProxyType(metadata))

    def line(self, place: int) -> bytes:
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self._bytes[int(self._offsets[place]) : int(self._offsets[place + 1])]


class JoinedDocuments(Documents):
    """The live documents of several segments, one behind the other; nothing is read before it is asked for."""

    def __init__(self, pieces: Iterable[tuple[Documents, NDArray[np.bool_]]]) -> None:
        self._from: list[tuple[Documents, int]] = []
        keys: list[NDArray[np.uint64]] = []
        for documents, alive in pieces:
            by_place = np.empty(len(documents), np.uint64)
            by_place[documents.places] = documents.keys
            keys.append(by_place[alive])
            self._from += [(documents, place) for place in np.flatnonzero(alive).tolist()]
        self._sort_in(np.concatenate(keys))

    def __len__(self) -> int:
        return len(self._from)

    def __getitem__(self, place: Any) -> Any:
        documents, there = self._from[place]
        return documents[there]

    def line(self, place: int) -> bytes:
        documents, there = self._from[place]
        return documents.line(there)


def write_documents(documents: Documents, folder: Path) -> None:
    """Write the files that StoredDocuments opens. Raises InputError for what JSON cannot hold."""
    offsets = array("q", [0])
    with open(folder / _LINES, "wb") as file:
        for place in range(len(documents)):
            offsets.append(offsets[-1] + file.write(documents.line(place)))
    np.save(folder / _OFFSETS, np.frombuffer(offsets, np.int64))
    np.save(folder / _KEYS, documents.keys)
    np.save(folder / _PLACES, documents.places)
