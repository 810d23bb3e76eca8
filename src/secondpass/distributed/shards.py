"""A job in shards: who asked for what, which shards are done, and the whole put together from them.

Knows: files and counts. Refuses to know: Ray, rankings, formats, how a shard's answer is made. All of a job lies in a
folder beside its output, which every machine sees:

    OUT.parts/job.json       what is asked of what: a folder of another job is refused
    OUT.parts/0000042        a shard's answer: a line of counts, then what belongs into the output

A shard's file gets its name once all of it is on disk, so one that is there is done; whoever computes the same shard
again, as after a lost machine, writes the same name once more.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from secondpass.disk import lock, swap, sync_folder, unlock
from secondpass.errors import InputError, SecondpassError

__all__ = ["Counts", "Job", "Place", "Shard", "cut"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a query begins in the input (bytes or rows), the number of its first line, and its documents."""

    start: int
    line: int
    documents: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A piece of the input from `start` up to `end`, its first line, and the queries and documents in it."""

    number: int
    start: int
    end: int
    line: int
    queries: int
    documents: int


class Counts(msgspec.Struct, frozen=True):
    """What became of a shard, or of many: each document of each query has one of the statuses.

    `pairs` are those that were scored, by stage; `models` (a name and a digest) and `engines` what they were scored
    by, in queries; `told` whatever else is counted, by a word for what it is.
    """

    queries: int = 0
    statuses: dict[str, int] = {}
    pairs: dict[str, int] = {}
    models: dict[str, int] = {}
    engines: dict[str, int] = {}
    told: dict[str, dict[str, int]] = {}

    @property
    def documents(self) -> int:
        """All documents, scored or not."""
        return sum(self.statuses.values())

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(
            self.queries + other.queries,
            _added(self.statuses, other.statuses),
            _added(self.pairs, other.pairs),
            _added(self.models, other.models),
            _added(self.engines, other.engines),
            {kind: _added(self.told.get(kind, {}), other.told.get(kind, {})) for kind in self.told | other.told},
        )


def _added(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in one | other}


def cut(places: Iterable[Place], end: int, most: int) -> Iterator[Shard]:
    """Shards of whole queries, in their order, of at most `most` documents; a query of more is a shard alone.

    `end` is where the input ends.
    """
    number = 0
    first: Place | None = None
    queries = documents = 0
    for place in places:
        if first is not None and documents + place.documents > most:
            yield Shard(number, first.start, place.start, first.line, queries, documents)
            number, first, queries, documents = number + 1, None, 0, 0
        first = first or place
        queries, documents = queries + 1, documents + place.documents
    if first is not None:
        yield Shard(number, first.start, end, first.line, queries, documents)


class Job:
    """The folder beside `out` in which a job is done."""

    def __init__(self, out: Path) -> None:
        self.out = out.absolute()
        self.folder = self.out.with_name(self.out.name + ".parts")

    @contextlib.contextmanager
    def held(self, *, resume: bool) -> Iterator[None]:
        """Be the one who runs it; what fails before anything is done leaves nothing.

        Raises InputError where it was begun and is not to be resumed, or someone else is at it.
        """
        fresh = not self.folder.exists()
        if self.folder.exists() and not resume:
            raise InputError(f"{self.folder} holds an unfinished job; add --resume to go on with it, or remove it")
        if resume and self.out.exists() and not self.folder.exists():
            raise InputError(f"{self.out} is there already, and no {self.folder.name} beside it; give another --out")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = lock(self.folder / "lock")
        except BlockingIOError:
            raise InputError(f"{self.folder} is being worked on by another process; wait for it, or end it") from None
        try:
            yield
        except Exception:
            if fresh and not any(self.folder.glob("[0-9]*")):
                shutil.rmtree(self.folder)
            raise
        finally:
            unlock(handle)

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Note what is asked of what. Raises InputError where the folder is of something else."""
        file, encoded = self.folder / "job.json", msgspec.json.encode(asked)
        if not file.exists():
            swap(file, encoded)
            return
        wanted = msgspec.json.decode(encoded, type=dict[str, Any])  # as it reads when it comes back
        try:
            known = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise InputError(f"{file}: damaged ({error}); remove the folder and begin again") from error
        if other := [name for name in known | wanted if known.get(name) != wanted.get(name)]:
            raise InputError(
                f"{self.folder} was begun with other {' and '.join(other)}; give another --out, or remove the folder"
            )

    def file(self, shard: Shard) -> Path:
        """Where a shard's answer lies once it is done."""
        return self.folder / f"{shard.number:07d}"

    def done(self, shard: Shard) -> Counts | None:
        """What became of a shard; None where it is not done."""
        try:
            with self.file(shard).open("rb") as stream:
                head = stream.readline()
                size = os.fstat(stream.fileno()).st_size
        except FileNotFoundError:
            return None
        try:
            found = msgspec.json.decode(head, type=_Head)
        except msgspec.DecodeError:
            return None
        whole = found.bytes == size - len(head) and found.number == shard.number
        return found.counts if whole else None

    def keep(self, shard: Shard, counts: Counts, answer: bytes) -> None:
        """Write a shard's answer. Raises SecondpassError where it is not of what the shard holds."""
        _check(shard, counts)
        path = self.file(shard)
        fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")  # two machines may be at it, one given up for lost
        with fresh.open("wb") as stream:
            stream.write(msgspec.json.encode(_Head(shard.number, len(answer), counts)) + b"\n")
            stream.write(answer)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(fresh, path)
        sync_folder(self.folder)

    def finish(self, shards: Sequence[Shard]) -> Counts:
        """Put the output together in the order of the input, in one step, remove the folder, and return what became of
        all. Raises SecondpassError where a shard is missing, is not what was asked, or was scored by other weights."""
        total, whole = Counts(), self.folder / "whole"
        with whole.open("wb") as stream:
            for shard in shards:
                counts = self.done(shard)
                if counts is None:
                    raise SecondpassError(f"{self.file(shard)} is not there or not whole; add --resume to go on")
                _check(shard, counts)
                total = total.plus(counts)
                with self.file(shard).open("rb") as part:
                    part.readline()
                    shutil.copyfileobj(part, stream)
            stream.flush()
            os.fsync(stream.fileno())
        names = Counter(model.rpartition(" ")[0] for model in total.models)
        if other := [model for model in total.models if names[model.rpartition(" ")[0]] > 1]:
            raise SecondpassError(
                f"workers scored with different weights of one name ({', '.join(other)}); give all machines the same, "
                f"remove {self.folder} and begin again"
            )
        os.replace(whole, self.out)
        sync_folder(self.out.parent)
        shutil.rmtree(self.folder)
        return total


class _Head(msgspec.Struct, frozen=True):
    """The first line of a shard's file; `bytes` follow it."""

    number: int
    bytes: int
    counts: Counts


def _check(shard: Shard, counts: Counts) -> None:
    """Each query once, each document once."""
    if (counts.queries, counts.documents) != (shard.queries, shard.documents):
        raise SecondpassError(
            f"shard {shard.number} has {shard.queries:,} queries with {shard.documents:,} documents in the input and "
            f"{counts.queries:,} with {counts.documents:,} in its answer; did the input change meanwhile?"
        )
