"""An index that grows and shrinks: documents kept once, and beside them the parts that search them.

Knows: segments, which documents are dead, commits and merges. Refuses to know: words, vectors, scores (a Part makes
arrays of texts, a retriever reads them), and how files are written (folder.py).

    index = Index.build(documents, [Postings()])       # in memory; folder="my-index": on disk
    index = Index.open("my-index")
    index.update(add=new, replace=changed, delete=["old id"])   # one commit

An index is a row of segments, which never change, and for each a mask of its living documents. An update adds a
segment and marks what it replaces or deletes as dead; then small neighbours are merged so that sizes fall
geometrically, as in a binary counter, which keeps segments few and the cost of growing logarithmic. After any
updates an index answers like one built afresh from its live documents in their order.

Readers take `index.snapshot` once and need no lock: a commit replaces it whole, the files of an older one stay
readable. Writers come one at a time: within a process they wait, of another process's they are told (IndexBusyError).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import secrets
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import IndexFolderError, InputError
from secondpass.retrievers import folder as disk
from secondpass.retrievers.documents import Documents, JoinedDocuments, ListedDocuments, keys_of, text_of
from secondpass.retrievers.folder import Arrays
from secondpass.types import Document

__all__ = ["Arrays", "Index", "Part", "Segment", "Snapshot"]

_PARTS = {"bm25": "secondpass.retrievers.bm25:Postings", "dense": "secondpass.retrievers.dense:Vectors"}
_SEGMENT_SIZE = 50_000  # documents that are read and handed to the parts at a time
_MERGE_UP_TO = 200_000  # documents; beyond that a merge costs more than one segment fewer gains
_TELL_EVERY = 256  # documents


class Part(Protocol):
    """One way to search the documents: makes the arrays of a segment. Immutable, safe under threads.

    Index.open makes a part again with its classmethod `from_settings(settings)`.
    """

    @property
    def name(self) -> str:
        """Its key in an index's parts, and its folder inside a segment."""

    def settings(self) -> dict[str, Any]:
        """What `from_settings` needs, as JSON."""

    def build(self, texts: Sequence[str]) -> Arrays:
        """The arrays of one segment; texts[i] belongs to document i, "" where it has no text."""

    def merge(self, pieces: Sequence[tuple[Arrays, NDArray[np.bool_]]]) -> Arrays:
        """The arrays as `build` would make them of the live documents of all pieces, in their order."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Documents, each part's arrays of them, and the mask of those alive. `record`: its entry in the manifest."""

    documents: Documents
    parts: Mapping[str, Arrays]
    alive: NDArray[np.bool_]
    record: Mapping[str, Any] | None = None

    @property
    def live(self) -> int:
        """How many documents are alive."""
        return int(np.count_nonzero(self.alive))


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """An index at one moment. The position of a document is its place in all segments one behind the other,
    the dead counted; starts[i] is the position of segment i's first document, starts[-1] the number of positions.
    """

    segments: tuple[Segment, ...] = ()
    version: int = 0
    digest: str | None = None
    starts: tuple[int, ...] = field(init=False)
    live: int = field(init=False)

    def __post_init__(self) -> None:
        sizes = (len(segment.documents) for segment in self.segments)
        object.__setattr__(self, "starts", tuple(accumulate(sizes, initial=0)))
        object.__setattr__(self, "live", sum(segment.live for segment in self.segments))

    def __len__(self) -> int:
        """How many documents are alive."""
        return self.live

    def document(self, position: int) -> Document:
        """The document at a position, dead or alive."""
        number = bisect_right(self.starts, position) - 1
        found: Document = self.segments[number].documents[position - self.starts[number]]
        return found

    def find(self, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """id -> (segment, place) for those of the ids that are alive."""
        keys = keys_of(ids)
        return {
            ids[n]: (number, place)
            for number, segment in enumerate(self.segments)
            for n, place in segment.documents.find(ids, keys)
            if segment.alive[place]
        }


class Index:
    """Documents and their parts, in memory or in a folder. Make one with `build` or `open`."""

    def __init__(
        self,
        parts: Mapping[str, Part],
        fields: tuple[str, ...],
        snapshot: Snapshot,
        folder: Path | None = None,
        verify: bool = True,
    ) -> None:
        self.parts = parts
        self.fields = fields
        self.snapshot = snapshot
        self._folder = folder
        self._verify = verify
        self._lock = threading.Lock()  # held by the one thread that writes

    @classmethod
    def build(
        cls,
        documents: Iterable[Document],
        parts: Iterable[Part],
        *,
        fields: Sequence[str] = ("title", "text"),
        folder: str | os.PathLike[str] | None = None,
        on_progress: Callable[[int], None] | None = None,
        segment_size: int = _SEGMENT_SIZE,
    ) -> Index:
        """Index `documents` in memory, or with a `folder` there; an index already in it is replaced in the end.

        `fields` are `title`, `text` and names of metadata, put together with a space between;
        what is not a string adds no words, but its document stays. With a folder no more than `segment_size`
        documents are in memory at a time. `on_progress` is called now and then with the number of
        documents done so far.

        Raises InputError for no documents, an id that occurs twice or is no string, a metadata field no
        document has, or (with a folder) what JSON cannot hold; IndexFolderError where `folder` holds
        something that is no index; IndexBusyError where it is being written.
        """
        if isinstance(fields, str) or not fields:
            raise InputError(f"fields is {fields!r}; give a list such as ['title', 'text']")
        path = None if folder is None else Path(folder).resolve()  # a link stays a link
        index = cls({part.name: part for part in parts}, tuple(fields), Snapshot(), path)
        unmet = set(fields) - {"title", "text"}
        count = 0

        def segments() -> Iterator[Segment]:
            nonlocal count
            reader = _checked(documents)
            done: list[Segment] = []
            while batch := list(islice(reader, segment_size)):
                _no_id_twice(batch, done, count)
                for document in batch if unmet else ():
                    unmet.difference_update([name for name in unmet if document.metadata.get(name) is not None])
                done.append(index._keep(index._made(batch, _teller(on_progress, count))))
                count += len(batch)
                yield done[-1]
            if not count:
                raise InputError("there are no documents to index; give at least one")
            if unmet:
                name = next(name for name in fields if name in unmet)
                raise InputError(f"no document has the field {name!r}; give title, text or a key of the metadata")

        index._create(segments())
        if on_progress is not None:
            on_progress(count)
        return index

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, verify: bool = True) -> Index:
        """Open an index folder; arrays and documents stay on disk, memory-mapped.

        The manifest, its own digest, and every file's presence and size are always checked.
        `verify` also reads every file once against its digest, which costs some seconds per gigabyte;
        set it to False for a large index on a disk you trust.

        Raises IndexFolderError for a folder that is missing, foreign, damaged, or written in another
        version of the format.
        """
        path = Path(folder).resolve()
        manifest, snapshot = _load(path, verify)
        parts = {name: _part(path, name, settings) for name, settings in manifest["parts"].items()}
        return cls(parts, tuple(manifest["fields"]), snapshot, path, verify)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a copy of the live documents and their parts to `folder`; an index already there is replaced, in one
        step. This index stays where it is: open the copy to edit it.

        Text and metadata are kept as JSON: tuples come back as lists, keys as strings.

        Raises IndexFolderError where `folder` holds something that is no index, InputError for a document that
        JSON cannot hold, IndexBusyError where the folder is being written.
        """
        copy = Index(self.parts, self.fields, Snapshot(), Path(folder).resolve())
        copy._create(dataclasses.replace(segment, record=None) for segment in self._whole(self.snapshot.segments))

    # Reading

    @property
    def version(self) -> int:
        """How often the index was committed, counted on by whoever writes it."""
        return self.snapshot.version

    @property
    def digest(self) -> str | None:
        """The manifest's seal, which stands for the whole content; None in memory."""
        return self.snapshot.digest

    def get(self, id: str) -> Document | None:
        """The document of that id, None where there is none."""
        snapshot = self.snapshot
        found = snapshot.find([id]).get(id)
        if found is None:
            return None
        document: Document = snapshot.segments[found[0]].documents[found[1]]
        return document

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and id in self.snapshot.find([id])

    def __len__(self) -> int:
        return len(self.snapshot)

    def __iter__(self) -> Iterator[Document]:
        """The live documents in their order."""
        for segment in self.snapshot.segments:
            for place in np.flatnonzero(segment.alive).tolist():
                yield segment.documents[place]

    def __repr__(self) -> str:
        where = "in memory" if self._folder is None else f"in {str(self._folder)!r}"
        return f"Index({len(self)} documents, {' and '.join(self.parts)}, version {self.version}, {where})"

    def refresh(self) -> bool:
        """Take over what other processes committed since; whether there was anything. Nothing to do in memory.

        Raises IndexFolderError as `open` does, and where the index was built anew with other settings.
        """
        if self._folder is None:
            return False
        with self._lock:
            return self._refresh(self._folder)

    # Writing

    def add(self, documents: Iterable[Document]) -> None:
        """Add new documents, at the end. See `update`."""
        self.update(add=documents)

    def replace(self, documents: Iterable[Document]) -> None:
        """Add documents or replace those of the same ids; they go to the end. See `update`."""
        self.update(replace=documents)

    def delete(self, ids: Iterable[str]) -> None:
        """Delete the documents of these ids. See `update`."""
        self.update(delete=ids)

    def update(
        self, add: Iterable[Document] = (), replace: Iterable[Document] = (), delete: Iterable[str] = ()
    ) -> None:
        """One commit: all of it or, after an error or a crash, nothing.

        `add` goes to the end, `replace` behind it: documents that are there already or not. In a folder the
        edits of other processes are taken over first; with nothing to do nothing is committed.

        Raises InputError for an id to add that is there, one to delete that is not, an id twice, or what JSON
        cannot hold; IndexBusyError where another process writes; IndexFolderError as `refresh` does.
        """
        added, replaced = list(_checked(add)), list(_checked(replace))
        gone = _id_list(delete)
        fresh = [*added, *replaced]
        if twice := _twice([*(document.id for document in fresh), *gone]):
            raise InputError(f"the id {twice!r} is given twice in one update; give each id once")
        if not fresh and not gone:
            return
        with self._writing():
            there = self.snapshot.find([*(document.id for document in fresh), *gone])
            for document in added:
                if document.id in there:
                    raise InputError(f"the id {document.id!r} is in the index already; use replace, or another id")
            for identity in gone:
                if identity not in there:
                    raise InputError(f"the id {identity!r} is not in the index, so it cannot be deleted")
            segments = list(self.snapshot.segments)
            for number in {number for number, _ in there.values()}:
                alive = segments[number].alive.copy()
                alive[[place for segment, place in there.values() if segment == number]] = False
                segments[number] = dataclasses.replace(segments[number], alive=alive)
            rest = iter(fresh)
            while batch := list(islice(rest, _SEGMENT_SIZE)):
                segments.append(self._made(batch))
            self._commit(self._settled(segments))

    def compact(self) -> None:
        """Merge everything into one segment without dead documents. Answers stay the same, and are found sooner."""
        with self._writing():
            segments = self.snapshot.segments
            if len(segments) > 1 or len(self) < self.snapshot.starts[-1]:
                self._commit([self._merged(segments)] if len(self) else [])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the one writer, of the newest state."""
        with self._lock:
            if self._folder is None:
                yield
                return
            with disk.writing(self._folder):
                self._refresh(self._folder)
                yield

    def _create(self, segments: Iterator[Segment]) -> None:
        """The first commit of an index, in place of whatever index is there."""
        if self._folder is None:
            self._commit(segments)
            return
        with disk.writing(self._folder, create=True):
            with contextlib.suppress(IndexFolderError):  # none there, or one that is damaged
                self.snapshot = Snapshot((), int(disk.read_manifest(self._folder)["generation"]))
            self._commit(segments)

    def _commit(self, segments: Iterable[Segment]) -> None:
        """Make these segments the index; in a folder they are written first, the manifest last."""
        kept = tuple(self._keep(segment) for segment in segments)
        version, digest = self.snapshot.version + 1, None
        if self._folder is not None:
            content = {
                "generation": version,
                "fields": list(self.fields),
                "parts": {name: part.settings() for name, part in self.parts.items()},
                "segments": [segment.record for segment in kept],
            }
            digest = disk.publish(self._folder, content)["seal"]
        self.snapshot = Snapshot(kept, version, digest)

    def _keep(self, segment: Segment) -> Segment:
        """The segment where it belongs: in memory, or in the folder and opened from there."""
        if self._folder is None:
            return segment
        record = segment.record
        if record is None:
            name = f"{self.snapshot.version + 1:06}-{secrets.token_hex(4)}"
            record = disk.write_segment(self._folder, name, segment.documents, segment.parts)
            return Segment(*disk.read_segment(self._folder, record, verify=False), record)
        if record["live"] != segment.live:
            suffix = f"{self.snapshot.version + 1:06}-{secrets.token_hex(4)}"
            return dataclasses.replace(segment, record=disk.write_dead(self._folder, record, segment.alive, suffix))
        return segment

    def _made(self, documents: Sequence[Document], tell: Callable[[int], None] | None = None) -> Segment:
        """A segment of these documents, in memory. `tell` hears from the last part how far it has read."""
        texts: Sequence[str] = [text_of(document, self.fields) for document in documents]
        arrays: dict[str, Arrays] = {}
        for number, (name, part) in enumerate(self.parts.items(), 1):
            last = number == len(self.parts)
            arrays[name] = part.build(_Texts(texts, tell) if last and tell else texts)
        return Segment(ListedDocuments(documents), arrays, np.ones(len(documents), np.bool_))

    def _settled(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        """The same live documents in segments whose sizes fall geometrically, none more than a quarter dead."""
        groups = [[segment] for segment in segments if segment.live]
        sizes = [group[0].live for group in groups]
        while len(sizes) > 1 and sizes[-2] < 2 * sizes[-1] and sizes[-2] + sizes[-1] <= _MERGE_UP_TO:
            groups[-2:] = [groups[-2] + groups[-1]]
            sizes[-2:] = [sizes[-2] + sizes[-1]]
        for group in groups:
            if len(group) == 1 and 4 * group[0].live >= 3 * len(group[0].documents):
                yield group[0]
            else:
                yield self._merged(group)

    def _merged(self, segments: Sequence[Segment]) -> Segment:
        """One segment of the live documents of some, in memory (but for the documents of stored ones)."""
        documents: Documents = JoinedDocuments((segment.documents, segment.alive) for segment in segments)
        if self._folder is None:
            documents = ListedDocuments(list(documents))
        arrays = {
            name: part.merge([(segment.parts[name], segment.alive) for segment in segments])
            for name, part in self.parts.items()
        }
        return Segment(documents, arrays, np.ones(len(documents), np.bool_))

    def _whole(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        """The segments without their dead documents."""
        for segment in segments:
            if segment.live == len(segment.documents):
                yield segment
            elif segment.live:
                yield self._merged([segment])

    def _refresh(self, folder: Path) -> bool:
        if disk.read_manifest(folder)["seal"] == self.digest:
            return False
        manifest, snapshot = _load(folder, self._verify, self.snapshot.segments)
        parts = {name: part.settings() for name, part in self.parts.items()}
        if manifest["parts"] != parts or tuple(manifest["fields"]) != self.fields:
            raise IndexFolderError(f"{folder} was built anew with other settings since it was opened; open it again")
        self.snapshot = snapshot
        return True


def _load(folder: Path, verify: bool, known: Iterable[Segment] = ()) -> tuple[dict[str, Any], Snapshot]:
    """Manifest and snapshot of a folder; segments known already are not opened again."""
    opened = {(s.record["name"], s.record["dead"]): s for s in known if s.record is not None}
    manifest = disk.read_manifest(folder)
    while True:
        try:
            segments = [
                opened.get((record["name"], record["dead"]))
                or Segment(*disk.read_segment(folder, record, verify), record)
                for record in manifest["segments"]
            ]
            return manifest, Snapshot(tuple(segments), manifest["generation"], manifest["seal"])
        except IndexFolderError:
            newer = disk.read_manifest(folder)
            if newer["seal"] == manifest["seal"]:
                raise
            manifest = newer  # a writer was faster, and has removed what the older manifest names


def _part(folder: Path, name: str, settings: Mapping[str, Any]) -> Part:
    if name not in _PARTS:
        raise IndexFolderError(f"{folder} has a part {name!r}, which this secondpass does not know; upgrade secondpass")
    module, _, cls = _PARTS[name].partition(":")
    part: Part = getattr(importlib.import_module(module), cls).from_settings(settings)
    return part


# What is handed over


def _checked(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents, each made sure to be one."""
    if isinstance(documents, str | Document | Mapping):
        raise InputError(f"documents is a {type(documents).__name__}; give a list of Documents")
    for number, document in enumerate(documents):
        if not isinstance(document, Document) or not isinstance(document.id, str):
            raise InputError(
                f"document {number} is {type(document).__name__} with id {getattr(document, 'id', None)!r}; "
                "give Documents with a str as id (secondpass.types.as_document makes them)"
            )
        yield document


def _id_list(ids: Iterable[str]) -> list[str]:
    listed = [ids] if isinstance(ids, str) else list(ids)
    if isinstance(ids, str) or not all(isinstance(identity, str) for identity in listed):
        raise InputError(f"the ids to delete are {ids!r}; give a list of str")
    return listed


def _twice(ids: Iterable[str]) -> str | None:
    """The first id that came before, None where none did."""
    seen: set[str] = set()
    for identity in ids:
        if identity in seen:
            return identity
        seen.add(identity)
    return None


def _no_id_twice(batch: Sequence[Document], segments: Iterable[Segment], count: int) -> None:
    """Raise InputError where an id of the batch, which begins at document `count`, came before."""
    first: dict[str, int] = {}
    ids = [document.id for document in batch]
    for number, identity in enumerate(ids):
        if first.setdefault(identity, number) != number:
            raise InputError(f"two documents have the id {identity!r} (the second is number {count + number})")
    keys = keys_of(ids)
    for segment in segments:
        for number, _ in segment.documents.find(ids, keys):
            raise InputError(f"two documents have the id {ids[number]!r} (the second is number {count + number})")


# Progress


class _Texts(Sequence[str]):
    """Texts that tell how far they have been read."""

    def __init__(self, texts: Sequence[str], tell: Callable[[int], None]) -> None:
        self._texts = texts
        self._tell = tell

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, at: Any) -> Any:
        found = self._texts[at]
        self._tell(min(at.stop or len(self), len(self)) if isinstance(at, slice) else at + 1)
        return found


def _teller(on_progress: Callable[[int], None] | None, count: int) -> Callable[[int], None] | None:
    """Tells now and then, of documents before `count` and those just read."""
    if on_progress is None:
        return None
    last = count

    def tell(read: int) -> None:
        nonlocal last
        if (count + read) // _TELL_EVERY > last // _TELL_EVERY:
            last = count + read
            on_progress(last)

    return tell
