"""secondpass index: documents in, an index folder out; and changes to one that is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from secondpass.cli.options import ConfigOption, configured
from secondpass.cli.terminal import bar, say
from secondpass.config import PARTS_OF, Config, build_engine, build_index
from secondpass.errors import ConfigError, InputError
from secondpass.evaluation.collections import read_corpus
from secondpass.retrievers.index import Index
from secondpass.types import Document

BATCH = 10_000  # documents committed at a time by --update


def command(
    collection: Annotated[
        str | None,
        typer.Argument(
            metavar="COLLECTION", help="BEIR folder, corpus.jsonl, or ir_datasets:NAME.", show_default=False
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Where the index goes.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Change the index that is there: add, or replace by id.")
    ] = False,
    delete: Annotated[
        Path | None, typer.Option("--delete", metavar="FILE", help="Take these ids out of it; one a line.")
    ] = None,
    into: Annotated[
        str | None, typer.Option("--into", metavar="NAME", help="Fill that first stage of the settings instead.")
    ] = None,
    no_vectors: Annotated[bool, typer.Option("--no-vectors", help="Words only: for bm25 alone.")] = False,
    config: ConfigOption = None,
) -> None:
    """Build an index that bm25, dense and hybrid search, or change one.

    COLLECTION and --out may be left out where the settings name them. A change
    is there as a whole or, after a crash, not at all; who searches meanwhile is
    not disturbed.

    With --into the documents go into the database or search engine that the
    settings call so (docs/first-stages.md); what is there already is left.

    Examples:

    $ secondpass index my-collection --out my-index
    $ secondpass index new.jsonl --out my-index --update
    $ secondpass index --out my-index --delete gone.txt
    $ secondpass index my-collection --into postgres
    """
    settings = configured(config, collection=collection)
    target = out or settings.retriever.index
    if not settings.collection.path and delete is None:
        raise typer.BadParameter("name the collection, here or in the settings", param_hint="COLLECTION")
    if into is not None:
        if out or update or delete or no_vectors:
            raise typer.BadParameter("goes with none of --out, --update, --delete, --no-vectors", param_hint="--into")
        _fill(settings, into)
        return
    if not target:
        raise typer.BadParameter("name the folder to write, here or in the settings", param_hint="--out")
    if no_vectors and (update or delete):
        raise typer.BadParameter("is for a new index; one that is there keeps its parts", param_hint="--no-vectors")
    if delete is not None:
        _delete(target, delete)
        if collection is None:
            return
    if settings.retriever.name not in PARTS_OF:
        raise ConfigError(
            f"{settings.file}: retriever.name is {settings.retriever.name!r}; "
            f"only {', '.join(PARTS_OF)} have an index here; give --into {settings.retriever.name} to fill it"
        )
    documents = read_corpus(settings.collection.path)
    with bar("indexing") as progress:
        if update or delete is not None:
            index = _update(target, documents, progress)
        else:
            parts = ("bm25",) if no_vectors else ("bm25", "dense")
            index = build_index(settings, documents, parts, folder=target, on_progress=progress)
    say(f"{len(index):,} documents in {target}, for {', '.join(_searchable(index))}")


def _fill(settings: Config, name: str) -> None:
    engine = build_engine(settings, name)
    with bar("filling") as progress:
        filled = engine.fill(read_corpus(settings.collection.path), on_progress=progress)
    say(f"{engine!r}: {filled.added:,} added, {filled.replaced:,} replaced, {filled.unchanged:,} were there")
    if filled.cut:
        say(f"{filled.cut:,} are longer than what can be found by words; their ends are only kept")


def _update(target: str | Path, documents: Iterator[Document], progress: Callable[[int], None]) -> Index:
    """Add or replace, a commit for each BATCH, so that memory stays bounded and a kill loses no more than one."""
    index = Index.open(target, verify=False)
    done = 0
    while batch := list(islice(documents, BATCH)):
        index.replace(batch)
        done += len(batch)
        progress(done)
    return index


def _delete(target: str | Path, file: Path) -> None:
    try:
        ids = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give a file with one id a line") from error
    index = Index.open(target, verify=False)
    index.delete(dict.fromkeys(filter(None, ids)))
    say(f"{len(index):,} documents left in {target}")


def _searchable(index: Index) -> list[str]:
    """The retrievers that this index serves."""
    return [name for name, parts in PARTS_OF.items() if set(parts) <= set(index.parts)]
