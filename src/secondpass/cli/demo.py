"""secondpass demo: the whole job on the documentation of the reader's own Python."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from secondpass.cli.audit import audit_collection, show
from secondpass.cli.options import ModelOption
from secondpass.cli.terminal import bar, results, say
from secondpass.config import Config, build_retriever, open_collection
from secondpass.demo.stdlib_docs import demo_collection
from secondpass.evaluation.collections import write_beir


def command(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where everything goes.")] = Path(".demo"),
    depth: Annotated[int, typer.Option("--depth", metavar="N", min=1, help="Rerank the first N candidates.")] = 100,
    model: ModelOption = None,
) -> None:
    """Search, rerank and audit the documentation of this Python's standard library.

    Nothing is downloaded. What it leaves in FOLDER, a collection, an index and
    a report, is something to try the other commands on.

    Example:

    $ secondpass demo
    """
    place, index, report = out / "collection", out / "index", out / "report.html"
    say(
        f"The documentation of Python {platform.python_version()}: every public name of the standard library.", style=""
    )
    with bar("reading docs") as update:
        collection = demo_collection(on_progress=update)
    for note in collection.notes:
        say(f"note: {note}")
    write_beir(collection, place)
    with bar("indexing", len(collection.documents)) as update:
        built: Any = build_retriever(Config(), collection.documents.values(), on_progress=update)
        built.save(index)
    settings = _settings(place, index, model, depth)
    verdict = audit_collection(settings, open_collection(settings), {})
    show(verdict, json=False, html=report)
    say(f'try: secondpass search {index} "count how often each word occurs"', style="")
    results.print(f"Report: {report.resolve()}", soft_wrap=True)


def _settings(place: Path, index: Path, model: str | None, depth: int) -> Config:
    """The defaults, on the demo's own folders; a secondpass.toml that lies about is not meant for it."""
    defaults = Config()
    replace: Any = msgspec.structs.replace
    return replace(  # type: ignore[no-any-return]
        defaults,
        collection=replace(defaults.collection, path=str(place)),
        retriever=replace(defaults.retriever, index=str(index)),
        stages=tuple(replace(stage, model=model, depth=depth) for stage in defaults.stages),
    )
