"""secondpass train: from pairs of a query and its answer to a model folder."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secondpass.cli.terminal import Update, bar, say
from secondpass.errors import ModelError
from secondpass.evaluation.lines import numbered, opened
from secondpass.extras import require

if TYPE_CHECKING:
    from secondpass.training.recipe import Recipe

LONGEST = 512  # tokens that the trained model takes, where its base can
DEV_SHARE, DEV_MOST = 10, 200  # one query in ten, at most so many, is kept aside to choose by


def command(
    pairs: Annotated[
        Path | None,
        typer.Argument(metavar="PAIRS", help='JSON lines of {"query", "positive"}, maybe gzipped.', show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Where the model goes.", show_default=False)
    ] = None,
    base: Annotated[
        str, typer.Option("--base", metavar="MODEL", help="With PAIRS: what to start from, a shipped name or a folder.")
    ] = "secondpass-mini",
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="Instead of PAIRS: a recipe of several sets.")
    ] = None,
    data: Annotated[
        Path, typer.Option("--data", metavar="FOLDER", help="With --recipe: where its sets lie.", show_default=False)
    ] = Path(),
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", min=0, help="Stop after N steps, for a trial; 0 trains it all.")
    ] = 0,
) -> None:
    """Train a cross-encoder on your own pairs, or what a recipe says.

    It needs the extra: pip install 'secondpass\\[train]'

    The same command given again goes on where a killed run stopped; what that
    needs is kept beside the model, in FOLDER.work.

    Examples:

    $ secondpass train pairs.jsonl --out my-model
    $ secondpass train --recipe recipe.toml --data sets --out my-model
    """
    if out is None:
        raise typer.BadParameter("name the folder to write", param_hint="--out")
    if (pairs is None) == (recipe is None):
        raise typer.BadParameter("give PAIRS or --recipe, one of them", param_hint="PAIRS")
    for module in ("torch", "sentence_transformers"):  # said now, not after an hour of mining
        require(module, extra="train", purpose="training")
    from secondpass.training.export import export
    from secondpass.training.recipe import read_recipe
    from secondpass.training.static import train_static
    from secondpass.training.train import fit, prepare

    chosen = read_recipe(recipe) if recipe else _one_set(pairs or Path(), base, out.name)
    work = out.with_name(out.name + ".work")
    with ExitStack() as stack:
        bars: dict[str, Update] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars.clear()
                stack.close()  # one bar at a time: the last step is over
                bars[what] = stack.enter_context(bar(what, total))
            bars[what](done, total)

        if chosen.static is not None:
            for row in train_static(chosen, data, work, out, say=say, progress=progress, stop_after=steps)["dev"]:
                say(f"{row['set']}: nDCG@10 {row['fitted']['ndcg@10']:.3f}, on {row['queries']} queries held out")
            say(f'model written to {out}; in secondpass.toml: retriever.encoder = "{out}"', style="")
            return
        prepared = prepare(chosen, data, work, say=say, progress=progress)
        trained = fit(chosen, prepared, work, say=say, progress=progress, stop_after=steps)
    lineage = export(chosen, prepared, trained, out)
    for row in lineage["dev"]:
        say(f"{row['set']}: nDCG@10 {row['model']:.3f}, BM25 {row['bm25']:.3f}, on {row['queries']} queries held out")
    say(f"model written to {out}; use it with --model {out}", style="")


def _one_set(pairs: Path, base: str, name: str) -> Recipe:
    """A recipe of one set, all of it, but for the queries kept aside."""
    from secondpass.training.recipe import Base, DataSet, Recipe, Training
    from secondpass.weights import locate

    with opened(pairs) as lines:
        count = sum(1 for _ in numbered(lines, pairs))
    dev = min(count // DEV_SHARE, DEV_MOST)
    one = DataSet(pairs.name.split(".")[0], "not stated", sample=count, dev=dev, path=str(pairs.resolve()))
    folder = locate(base)
    longest = _longest(folder)  # a pair longer than the base can read would fail in the middle of training
    return Recipe(
        name,
        Base(folder=str(folder), history=f"fine-tuned from {base}"),
        (one,),
        training=Training(max_length=min(Training().max_length, longest)),
        max_length=min(LONGEST, longest),
    )


def _longest(folder: Path) -> int:
    """Tokens that the base takes: what its tokenizer says, and no more than it has positions for."""
    try:
        positions = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(f"{folder}: no config.json with max_position_embeddings; give a model folder") from error
    settings = folder / "tokenizer_config.json"
    stated = json.loads(settings.read_text(encoding="utf-8")).get("model_max_length") if settings.is_file() else None
    return min(positions, int(stated)) if isinstance(stated, int | float) and stated > 0 else positions
