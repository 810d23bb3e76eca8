"""secondpass rerank: a stream of requests or a TREC run in, the same out, reordered."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated

import typer

from secondpass.cascade import Cascade
from secondpass.cli.options import (
    AllowOption,
    ConfigOption,
    DeadlineOption,
    DepthOption,
    FamilyOption,
    ModelOption,
    configured,
    whole_for_a_run,
)
from secondpass.cli.requests import read_parquet, read_rankings, read_requests
from secondpass.cli.resume import JSONL, TREC, Format, skip_finished
from secondpass.cli.terminal import Update, bar, say, stdout_bytes
from secondpass.cli.views import (
    failure,
    failure_note,
    language_note,
    looks_foreign,
    ranking_line,
    removal_note,
    removals,
    run_lines,
)
from secondpass.config import build_selectors, build_stages
from secondpass.errors import InputError
from secondpass.evaluation.collections import read_corpus, read_queries
from secondpass.evaluation.lines import opened
from secondpass.types import Deadline, Ranking

STDIN = Path("-")
PARQUET = ".parquet"


def command(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Requests: JSON, one a line, or .parquet; - is stdin.", show_default=False),
    ] = STDIN,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="FILE", help="Rerank a TREC run instead; - is stdin.")
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option("--collection", metavar="FOLDER", help="With --run: texts of its queries and documents."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write there, not to stdout.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after what --out already holds, as after a kill.")
    ] = False,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="K", min=1, help="Keep the first K. Without it: all.")
    ] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Add to each line of JSON what was done and how long it took.")
    ] = False,
    ray: Annotated[
        bool, typer.Option("--ray", help="Share it among the workers of a Ray cluster. Needs --out.")
    ] = False,
    deadline_ms: DeadlineOption = None,
    model: ModelOption = None,
    family: FamilyOption = None,
    allow: AllowOption = None,
    depth: DepthOption = None,
    config: ConfigOption = None,
) -> None:
    """Rerank a stream of any length, in its order and in bounded memory.

    A request is {"query", "documents", "query_id"}; documents are texts, or
    {"id", "text", "title"}. Its answer is {"query_id", "hits"}; a hit is
    {"id", "score", "status", "first_rank"}. A TREC run comes back as one.

    With --ray (extra ray) workers share it, as the table \\[ray] of the settings says:
    each document of each query once, whatever machine is lost meanwhile.

    Examples:

    $ secondpass rerank requests.jsonl --out ranked.jsonl --resume
    $ secondpass rerank --run bm25.trec --collection my-collection > out.trec
    """
    settings = configured(config, collection=collection, model=model, family=family, allow=allow, depth=depth)
    if run is not None and file != STDIN:
        raise typer.BadParameter("give FILE or --run, not both", param_hint="--run")
    if run is not None and trace:
        raise typer.BadParameter("a TREC run has no place for it", param_hint="--trace")
    if run is not None and not settings.collection.path:
        raise typer.BadParameter("a run needs one, for the texts", param_hint="--collection")
    if resume and out is None:
        raise typer.BadParameter("needs --out FILE", param_hint="--resume")
    if ray and (out is None or STDIN in (run, file if run is None else None)):
        raise typer.BadParameter("needs a file to read and --out FILE", param_hint="--ray")
    if out is not None and out.exists() and not resume:
        raise InputError(f"{out} exists; add --resume to go on after what it holds, or remove it")
    if run is not None:
        settings = whole_for_a_run(settings)
    source = file if run is None else run
    if ray and out is not None:
        from secondpass.cli.rerank_on_ray import Asked, rerank_on_ray

        rerank_on_ray(Asked(settings, source.absolute(), run is not None, deadline_ms, top_k, trace), out, resume)
        return
    cascade = Cascade(None, *build_stages(settings), select=build_selectors(settings))
    noticed = Noticed()
    with ExitStack() as stack:
        name, lines, size = _input(stack, source)
        update = stack.enter_context(bar("reranking", size))
        progress = _Progress(update)
        form = JSONL if run is None else TREC
        if run is not None:
            place = settings.collection.path
            documents = {document.id: document for document in read_corpus(place)}
            requests = read_rankings(progress.counted(lines), name, read_queries(place), documents)
        elif source.suffix == PARQUET:
            requests = read_parquet(source)
        else:
            requests = read_requests(progress.counted(lines), name)
        if out is not None and out.exists():
            progress.requests = skip_finished(requests, out, form)
            say(f"{out}: {progress.requests:,} finished before")
        target = stack.enter_context(out.open("ab")) if out else stdout_bytes()
        for answer in rerank_stream(cascade, requests, deadline_ms, top_k):
            _write(target, encoded(answer, form, trace=trace))
            progress.on_request()
            noticed.add(answer)
    noticed.say()


def rerank_stream(
    cascade: Cascade, requests: Iterator[Ranking], deadline_ms: float | None, top_k: int | None
) -> Iterator[Ranking]:
    """The answer to each request, before the next one is read; `deadline_ms` is for each."""
    for request in requests:
        deadline = Deadline.after_ms(deadline_ms)
        yield cascade.select(cascade.rerank(request, deadline=deadline), deadline=deadline).top(top_k)


def encoded(answer: Ranking, form: Format, *, trace: bool) -> bytes:
    """An answer as the output has it."""
    return run_lines(answer) if form is TREC else ranking_line(answer, trace=trace)


@dataclass
class Noticed:
    """What deserves a word at the end: how often, by kind and what it was, in so many answers."""

    answers: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, answer: Ranking) -> None:
        """Look at one more answer."""
        self.answers += 1
        foreign, failed = ([word] if word else [] for word in (looks_foreign(answer), failure(answer)))
        self.count({"foreign": Counter(foreign), "failed": Counter(failed), "removed": removals(answer)})

    def count(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Add what was noticed elsewhere."""
        for kind, found in counts.items():
            self.counts.setdefault(kind, Counter()).update(found)

    def say(self) -> None:
        """A sentence for each kind there is."""
        if foreign := self.counts.get("foreign"):
            say(language_note(foreign, self.answers))
        if failed := self.counts.get("failed"):
            say(failure_note(failed, self.answers))
        if removed := self.counts.get("removed"):
            say(removal_note(removed))


class _Progress:
    """Bytes read and requests answered, for the bar."""

    def __init__(self, update: Update) -> None:
        self._update = update
        self._bytes = 0
        self.requests = 0

    def counted(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        for line in lines:
            self._bytes += len(line)
            yield line

    def on_request(self) -> None:
        self.requests += 1
        self._update(self._bytes, note=f"{self.requests:,} requests")


def _input(stack: ExitStack, source: Path) -> tuple[str, IO[bytes], int | None]:
    """Name, lines and, where it can be known, the size in bytes."""
    if source == STDIN:
        return "stdin", sys.stdin.buffer, None
    lines = stack.enter_context(opened(source))
    return str(source), lines, source.stat().st_size if lines.seekable() and source.suffix != ".gz" else None


def _write(stream: IO[bytes], lines: bytes) -> None:
    stream.write(lines)
    stream.flush()  # a request that is finished must survive a kill
