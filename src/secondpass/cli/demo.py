"""secondpass demo: the whole job on the documentation of the reader's own Python."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from secondpass.cli.audit import show
from secondpass.cli.audited import verdict_on
from secondpass.cli.measured import measure_each
from secondpass.cli.options import ModelOption
from secondpass.cli.terminal import bar, results, say
from secondpass.config import Config, build_index
from secondpass.demo.questions import demo_collection
from secondpass.evaluation.collections import write_beir
from secondpass.evaluation.report import comparison
from secondpass.types import Retriever


def command(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where everything goes.")] = Path(".demo"),
    depth: Annotated[int, typer.Option("--depth", metavar="N", min=1, help="Rerank the first N candidates.")] = 50,
    model: ModelOption = None,
) -> None:
    """Search, rerank and audit the documentation of this Python's standard library.

    Nothing is downloaded. Three first stages are compared, each with and without
    reranking. What it leaves in FOLDER, a collection, an index and a report, is
    something to try the other commands on.

    Example:

    $ secondpass demo
    """
    from secondpass.rerankers.cross_encoder import CrossEncoder
    from secondpass.retrievers.bm25 import BM25
    from secondpass.retrievers.dense import Dense
    from secondpass.retrievers.hybrid import Hybrid

    place, folder, report = out / "collection", out / "index", out / "report.html"
    say(
        f"The documentation of Python {platform.python_version()}: every public name of the standard library.", style=""
    )
    with bar("reading docs") as update:
        collection = demo_collection(on_progress=update)
    for note in collection.notes:
        say(f"note: {note}")
    write_beir(collection, place)
    with bar("indexing", len(collection.documents)) as update:
        index = build_index(Config(), collection.documents.values(), folder=folder, on_progress=update)
    words, vectors = BM25(index), Dense(index)
    stages: dict[str, Retriever] = {"bm25": words, "dense": vectors, "hybrid": Hybrid([words, vectors])}
    reranker = CrossEncoder() if model is None else CrossEncoder(model)
    with bar("reranking", len(collection.queries)) as update:
        measured = measure_each(stages, reranker, collection.queries, depth, update)
    with bar("testing", len(stages)) as update:
        verdicts = []
        for name, one in measured.items():
            verdicts.append(verdict_on(one, collection, depth, (name, model or "secondpass-mini"), {}))
            update(len(verdicts))
    best = max(verdicts, key=lambda verdict: max(verdict.first, verdict.reranked))
    results.print()
    results.print(comparison(verdicts))
    results.print(Text(f"\nIn full, for {best.names[0]}, which has the best order of the table:", style="dim"))
    show(best, json=False, html=report)
    say(f'try: secondpass search {folder} "count how often each word occurs" --retriever {best.names[0]}', style="")
    results.print(f"Report: {report.resolve()}", soft_wrap=True)
