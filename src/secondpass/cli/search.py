"""secondpass search: one query for people, many for a run file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated

import msgspec
import typer

from secondpass.cascade import Cascade
from secondpass.cli.options import (
    AllowOption,
    ConfigOption,
    DeadlineOption,
    DepthOption,
    FamilyOption,
    JsonOption,
    ModelOption,
    RetrieverOption,
    configured,
    whole_for_a_run,
)
from secondpass.cli.terminal import bar, print_json, results, say, stdout_bytes
from secondpass.cli.views import (
    failure,
    failure_note,
    hits_table,
    language_note,
    looks_foreign,
    ranking_data,
    ranking_line,
    removal_note,
    removals,
    removed_lines,
    run_lines,
    trace_line,
)
from secondpass.config import build_cascade
from secondpass.evaluation.collections import read_queries
from secondpass.types import Ranking


def command(
    index: Annotated[
        str | None, typer.Argument(metavar="INDEX", help="Folder that `secondpass index` wrote.", show_default=False)
    ] = None,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="What to look for.", show_default=False)] = None,
    queries: Annotated[
        str | None, typer.Option("--queries", metavar="FILE", help="Many queries: queries.jsonl or a BEIR folder.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="FILE", help="With --queries: write a TREC run there, not to stdout."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="K", min=1, help="Results a query. Without it: 10; in a run 100.")
    ] = None,
    retriever: RetrieverOption = None,
    no_rerank: Annotated[bool, typer.Option("--no-rerank", help="The first stage only.")] = False,
    deadline_ms: DeadlineOption = None,
    model: ModelOption = None,
    family: FamilyOption = None,
    allow: AllowOption = None,
    depth: DepthOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Search an index and rerank what it finds.

    Where the settings name an index, or a first stage that has its own, INDEX is
    left out.

    Examples:

    $ secondpass search my-index "how do bees find home" --retriever hybrid
    $ secondpass search my-index --queries queries.jsonl --run out.trec
    """
    settings = configured(config, retriever=retriever, model=model, family=family, allow=allow, depth=depth)
    if settings.searchable and query is None and queries is None:
        index, query = None, index  # the one word that was given is the query
    settings = msgspec.structs.replace(
        settings,
        retriever=msgspec.structs.replace(settings.retriever, index=index or settings.retriever.index),
        stages=() if no_rerank else settings.stages,
        select=() if no_rerank else settings.select,
    )
    if (query is None) == (queries is None):
        raise typer.BadParameter("give one query, or --queries FILE", param_hint="QUERY")
    if run is not None and queries is None:
        raise typer.BadParameter("goes with --queries", param_hint="--run")
    if queries is not None and not json:
        settings = whole_for_a_run(settings)
    cascade = build_cascade(settings)
    if query is None:
        encode = (lambda ranking: ranking_line(ranking, trace=True, texts=True)) if json else run_lines
        _search_many(cascade, read_queries(queries or ""), top_k or 100, deadline_ms, run, encode)
        return
    found = cascade.search(query, top_k or 10, deadline_ms)
    if json:
        print_json(ranking_data(found, trace=True, texts=True))
    elif found.hits:
        results.print(hits_table(found, reranked=not no_rerank))
        say(trace_line(found))
    else:
        removed = removals(found).total()
        say("nothing found: no document has anything of this query" if not removed else trace_line(found))
    if not json:
        for line in removed_lines(found):
            say(line)


def _search_many(
    cascade: Cascade,
    queries: Mapping[str, str],
    top_k: int,
    deadline_ms: float | None,
    file: Path | None,
    encode: Callable[[Ranking], bytes],
) -> None:
    warned, failed, removed = Counter[str](), Counter[str](), Counter[str]()
    with ExitStack() as stack:
        update = stack.enter_context(bar("searching", len(queries)))
        out: IO[bytes] = stack.enter_context(file.open("wb")) if file else stdout_bytes()
        for done, (query_id, text) in enumerate(queries.items(), 1):
            found = cascade.search(text, top_k, deadline_ms, query_id)
            warned.update(filter(None, [looks_foreign(found)]))
            failed.update(filter(None, [failure(found)]))
            removed += removals(found)
            out.write(encode(found))
            update(done)
    if warned:
        say(language_note(warned, len(queries)))
    if failed:
        say(failure_note(failed, len(queries)))
    if removed:
        say(removal_note(removed))
    if file:
        say(f"{cascade!r}: {len(queries):,} queries written to {file}")
