"""secondpass index: documents in, a BM25 folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from secondpass.cli.options import ConfigOption, configured
from secondpass.cli.terminal import bar, say
from secondpass.config import build_retriever
from secondpass.errors import ConfigError
from secondpass.evaluation.collections import read_corpus


def command(
    collection: Annotated[
        str | None,
        typer.Argument(
            metavar="COLLECTION", help="BEIR folder, corpus.jsonl, or ir_datasets:NAME.", show_default=False
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Where the index goes.")] = None,
    config: ConfigOption = None,
) -> None:
    """Build a BM25 index.

    COLLECTION and --out may be left out where the settings name them.

    Example:

    $ secondpass index my-collection --out my-index
    """
    settings = configured(config, collection=collection)
    target = out or settings.retriever.index
    if not settings.collection.path:
        raise typer.BadParameter("name the collection, here or in the settings", param_hint="COLLECTION")
    if not target:
        raise typer.BadParameter("name the folder to write, here or in the settings", param_hint="--out")
    if settings.retriever.name != "bm25":
        raise ConfigError(
            f"{settings.file}: retriever.name is {settings.retriever.name!r}; only bm25 has an index here"
        )
    fresh = msgspec.structs.replace(settings, retriever=msgspec.structs.replace(settings.retriever, index=""))
    with bar("indexing") as update:
        index = build_retriever(fresh, read_corpus(settings.collection.path), on_progress=update)
    index.save(target)  # type: ignore[attr-defined]  # bm25, as made sure above
    say(f"{index!r} written to {target}")
