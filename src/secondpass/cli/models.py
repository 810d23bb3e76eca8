"""secondpass models: what ships, and what a model is on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from secondpass.cli.terminal import print_json, results
from secondpass.errors import ModelError


def command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL", help="Folders or names to look at. Without any: what ships.", show_default=False
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """List models: size, length, licence, and what they run on here.

    Each is opened and its scores are checked, so a model that is listed works.

    Examples:

    $ secondpass models
    $ secondpass models my-model --json
    """
    from secondpass.embedding import is_static
    from secondpass.weights import SHIPPED, locate

    rows = [_embedding(name) if is_static(locate(name)) else _reranker(name) for name in (models or SHIPPED)]
    if json:
        print_json(rows)
        return
    for row in rows:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        table.add_row("model", Text.assemble((row["name"], "bold"), f", {row['kind']}"))
        if row["kind"] == "reranker":
            table.add_row("size", f"{row['bytes'] / 1e6:,.1f} MB on disk, {row['layers']} layers of {row['hidden']}")
            table.add_row("max length", f"{row['max_length']} tokens for query and document together")
        else:
            table.add_row("size", f"{row['bytes'] / 1e6:,.1f} MB on disk, {row['dimensions']} dimensions")
            table.add_row("max length", "none: whole texts are read")
        table.add_row("languages", ", ".join(row["languages"]) or "not stated in the folder")
        table.add_row("licence", row["licence"])
        table.add_row("digest", row["digest"])
        if row["kind"] == "reranker":
            table.add_row("here", f"{row['precision']} on {row['engine']}, {row['threads']} threads ({row['why']})")
        results.print(table)
        results.print()


def stated_licence(folder: Path) -> str:
    """The licence that a model's folder states: in its golden pairs, its lineage, or its README's front matter.

    "" where it states none.
    """
    for stated in _stated(folder, "licence"):
        if stated and stated != "not stated":
            return str(stated)
    readme = folder / "README.md"
    if readme.is_file():
        front = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.S)
        stated = re.search(r"^license: *[\"']?([^\s\"']+)", front[1], re.M) if front else None
        return stated[1] if stated else ""
    return ""


def _stated(folder: Path, key: str) -> list[Any]:
    """What a model's golden pairs and its lineage, those that it has, state under a key; None where one does not."""
    files = [folder / name for name in ("golden.json", "lineage.json")]
    return [msgspec.json.decode(file.read_bytes()).get(key) for file in files if file.is_file()]


def _embedding(name: str) -> dict[str, Any]:
    from secondpass.embedding import StaticEncoder
    from secondpass.weights import locate

    encoder, folder = StaticEncoder(name), locate(name)
    return {
        "name": encoder.name,
        "kind": "static embeddings",
        "bytes": _size(folder),
        "dimensions": encoder.dimensions,
        "languages": next(filter(None, _stated(folder, "languages")), []),
        "licence": stated_licence(folder) or "not stated in the folder",
        "digest": encoder.digest,
    }


def _size(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read ({error.strerror})") from error


def _reranker(name: str) -> dict[str, Any]:
    from secondpass.rerankers.cross_encoder import CrossEncoder

    scorer = CrossEncoder(name).scorer
    checkpoint, engine = scorer.checkpoint, scorer.engine
    return {
        "name": checkpoint.name,
        "kind": "reranker",
        "bytes": _size(checkpoint.folder),
        "layers": checkpoint.encoder.layers,
        "hidden": checkpoint.encoder.hidden,
        "max_length": scorer.max_length,
        "languages": checkpoint.languages,
        "licence": stated_licence(checkpoint.folder) or "not stated in the folder",
        "digest": checkpoint.digest,
        "engine": engine.name,
        "precision": engine.precision,
        "threads": engine.workers,
        "why": engine.why,
        "tolerance": scorer.tolerance,
    }
