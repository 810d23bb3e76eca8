"""secondpass rerank --ray: the same, shared among the workers of a Ray cluster.

Knows: how the input is cut, and what a worker does with a piece of it. Refuses to know: who works, and what becomes of
what is done (`secondpass.distributed`). Input, collection, models and output are files that all machines see.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from secondpass import __version__
from secondpass.cascade import Cascade
from secondpass.cli.options import prepare_ray
from secondpass.cli.requests import parquet_rows, read_parquet, read_rankings, read_requests
from secondpass.cli.rerank import PARQUET, Noticed, encoded
from secondpass.cli.resume import JSONL, TREC
from secondpass.cli.terminal import bar, say
from secondpass.config import Config, build_selectors, build_stages
from secondpass.distributed.batch import Answer, work_through
from secondpass.distributed.cluster import joined, share_of
from secondpass.distributed.shards import Counts, Job, Place, Shard, cut
from secondpass.errors import InputError
from secondpass.evaluation.collections import read_corpus, read_queries
from secondpass.evaluation.wording import counted
from secondpass.extras import require
from secondpass.types import Deadline, Document, Ranking

__all__ = ["Asked", "Whole", "Work", "lay_out", "rerank_on_ray"]

_GZIP = b"\x1f\x8b"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of which file; `is_run`: a TREC run, with the texts of the settings' collection."""

    settings: Config
    source: Path
    is_run: bool
    deadline_ms: float | None
    top_k: int | None
    trace: bool


def rerank_on_ray(asked: Asked, out: Path, resume: bool) -> None:
    """Do it, or go on with it, and write `out` at the end.

    Raises InputError, before anything is reranked, for whatever one process would not read either.
    """
    prepare_ray()
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else each job begins with an error that is none
    require("ray.data", extra="ray", purpose="--ray")
    table = asked.settings.ray
    build_stages(asked.settings)  # what cannot be opened is told here
    job = Job(out)
    with job.held(resume=resume):
        job.begin(_what(asked))
        if asked.is_run:
            lay_out(asked.settings.collection.path, job.folder)
        whole = Whole(asked.source, asked.is_run, job.folder)
        shards = list(cut(whole.places(), whole.end(), table.documents))
        queries, documents = sum(shard.queries for shard in shards), sum(shard.documents for shard in shards)
        say(f"{counted(queries, 'query', 'queries')}, {counted(documents, 'document')} in {len(shards):,} shards")
        opened = Work(share_of(asked.settings, table.cpus), asked, whole, os.getcwd())
        done = answered = 0
        with bar("reranking", documents) as update, joined(table.address):
            for shard, counts in work_through(job, shards, opened, workers=table.workers, cpus=table.cpus):
                done, answered = done + shard.documents, answered + counts.queries
                update(done, note=f"{answered:,} of {queries:,} requests")
        counts = job.finish(shards)
    noticed = Noticed(counts.queries)
    noticed.count(counts.told)
    noticed.say()
    became = ", ".join(f"{many:,} {status.replace('_', ' ')}" for status, many in counts.statuses.items())
    scored = "; ".join(f"{many:,} pairs by {name}" for name, many in counts.pairs.items())
    say(f"{counted(counts.documents, 'document')}, as in the input, each once: {became or 'none'}")
    say(f"scored: {scored or 'nothing'}")
    if len(counts.engines) > len(counts.models):
        say(f"workers computed differently: {', '.join(counts.engines)}; scores may differ within the tolerance")


def _what(asked: Asked) -> dict[str, Any]:
    """What has to be the same for a job to be the same, each by a word for it."""
    settings, texts = asked.settings, asked.settings.collection.path if asked.is_run else ""
    folder = Path(texts)
    files = [path for name in ("corpus", "queries") for path in sorted(folder.glob(f"{name}.jsonl*")) if texts]
    return {
        "version": __version__,
        "input": _digest(asked.source),
        "collection": [texts, *map(_digest, files)],
        "settings": msgspec.to_builtins([settings.stages, settings.select, settings.ray.documents]),
        "options": [asked.is_run, asked.deadline_ms, asked.top_k, asked.trace],
    }


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "blake2b").hexdigest()[:32]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


class _Lines:
    """Lines of a file from a byte up to another, and where the last one begins and ends."""

    def __init__(self, path: Path, start: int, end: int, line: int) -> None:
        self._path, self._stop, self.end, self.line = path, end, start, line - 1
        self.start = start

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as stream:
            stream.seek(self.end)
            while self.end < self._stop and (line := stream.readline()):
                self.start, self.end, self.line = self.end, self.end + len(line), self.line + 1
                yield line


class _Lookup(Mapping[str, _T]):
    """What `take` takes of documents in a folder, by id; all workers of a machine read the same pages of memory."""

    def __init__(self, folder: Path, take: Callable[[Document], _T]) -> None:
        from secondpass.retrievers.index import Index

        self._index, self._take = Index.open(folder, verify=False), take

    def __getitem__(self, key: str) -> _T:
        found = self._index.get(key)
        if found is None:
            raise KeyError(key)
        return self._take(found)

    def __contains__(self, key: object) -> bool:
        return key in self._index

    def __iter__(self) -> Iterator[str]:
        return (document.id for document in self._index)

    def __len__(self) -> int:
        return len(self._index)


@dataclass(frozen=True, slots=True)
class Whole:
    """The file, and `texts`, where those that a run needs are laid out."""

    source: Path
    is_run: bool
    texts: Path

    @property
    def is_parquet(self) -> bool:
        """Whether places are rows, not bytes."""
        return self.source.suffix == PARQUET and not self.is_run

    def end(self) -> int:
        """Where the input ends. Raises InputError for a file without places to begin at."""
        if self.is_parquet:
            return parquet_rows(self.source)
        with self.source.open("rb") as stream:
            if stream.read(2) == _GZIP:
                raise InputError(f"{self.source}: a gzip file can only be read from its beginning; unpack it for --ray")
        return self.source.stat().st_size

    def places(self) -> Iterator[Place]:
        """Where each request begins. Reads all of the input, and raises what is wrong with it."""
        if self.is_parquet:
            for row, ranking in enumerate(read_parquet(self.source)):
                yield Place(row, row + 1, len(ranking))
            return
        lines = _Lines(self.source, 0, self.end(), 1)
        start, line = 0, 1
        for ranking in self._parser()(lines, 1):
            yield Place(start, line, len(ranking))
            # of a run the first line of the next query has been read
            start, line = (lines.start, lines.line) if self.is_run else (lines.end, lines.line + 1)

    def reader(self) -> Callable[[Shard], Iterator[Ranking]]:
        """What reads the requests of a shard."""
        if self.is_parquet:
            return lambda shard: read_parquet(self.source, shard.start, shard.end)
        parse = self._parser()
        return lambda shard: parse(_Lines(self.source, shard.start, shard.end, shard.line), shard.line)

    def _parser(self) -> Callable[[Iterable[bytes], int], Iterator[Ranking]]:
        if not self.is_run:
            return lambda lines, first: read_requests(lines, self.source, first)
        queries = _Lookup(self.texts / "queries", lambda query: query.text)
        documents = _Lookup(self.texts / "documents", lambda document: document)
        return lambda lines, first: read_rankings(lines, self.source, queries, documents, first)


def lay_out(collection: str, folder: Path) -> None:
    """Write a collection's texts so that each can be looked up without reading the others, unless that was done."""
    from secondpass.retrievers.index import Index

    queries = (Document(key, text) for key, text in read_queries(collection).items())
    for name, texts in (("queries", queries), ("documents", read_corpus(collection))):
        if not (folder / name / "manifest.json").exists():
            Index.build(texts, (), folder=folder / name).compact()


@dataclass(frozen=True, slots=True)
class Work:
    """What is opened in each worker."""

    settings: Config
    asked: Asked
    whole: Whole
    home: str

    def __call__(self) -> Answer:
        if os.path.isdir(self.home):
            os.chdir(self.home)  # relative paths in the settings mean what they mean to who asked
        cascade = Cascade(None, *build_stages(self.settings), select=build_selectors(self.settings))
        read, form = self.whole.reader(), TREC if self.asked.is_run else JSONL

        def answer(shard: Shard) -> tuple[Counts, bytes]:
            noticed, lines = Noticed(), list[bytes]()
            statuses, pairs, models, engines = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
            for request in read(shard):
                deadline = Deadline.after_ms(self.asked.deadline_ms)
                ranked = cascade.rerank(request, deadline=deadline)
                kept = cascade.select(ranked, deadline=deadline).top(self.asked.top_k)
                statuses.update(hit.status.value for hit in ranked.hits)
                for step in ranked.trace:
                    pairs[step.name] += step.pairs_scored
                    if digest := step.detail.get("digest"):
                        models[f"{step.name} {digest}"] += 1
                        engines[f"{step.name} on {step.detail.get('engine')} in {step.detail.get('precision')}"] += 1
                noticed.add(kept)
                lines.append(encoded(kept, form, trace=self.asked.trace))
            return Counts(
                noticed.answers,
                statuses,
                pairs,
                models,
                engines,
                {kind: dict(found) for kind, found in noticed.counts.items()},
            ), b"".join(lines)

        return answer
