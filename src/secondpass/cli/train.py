"""secondpass train: from pairs of a query and its answer to a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secondpass.cli.options import ConfigOption, IndexOption, RetrieverOption
from secondpass.cli.terminal import bars, say
from secondpass.cli.train_ltr import Asked, FirstStage, learn_to_rank
from secondpass.errors import ModelError
from secondpass.evaluation.lines import numbered, opened
from secondpass.extras import require

if TYPE_CHECKING:
    from secondpass.training.recipe import Recipe

_LTR: dict[str, Any] = {"rich_help_panel": "Learning to rank", "show_default": False}
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
    ltr: Annotated[
        str | None,
        typer.Option("--ltr", metavar="SOURCE", help="Instead: a judged collection, or an SVMlight file.", **_LTR),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="The collection's judgments.", **_LTR)
    ] = "train",
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="FILE", help="TREC run of candidates, in place of a first stage.", **_LTR),
    ] = None,
    retriever: RetrieverOption = None,
    index: IndexOption = None,
    depth: Annotated[
        int,
        typer.Option("--depth", metavar="N", min=2, help="Candidates of a query, as many as there will be.", **_LTR),
    ] = 1000,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="KEY", help="A number of the documents to go by; repeatable.", **_LTR),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option("--encoder", metavar="MODEL", help="Also the cosine under this embedding model.", **_LTR),
    ] = "",
    dev: Annotated[
        Path | None, typer.Option("--dev", metavar="FILE", help="With a file: what says when to stop.", **_LTR)
    ] = None,
    test: Annotated[
        Path | None, typer.Option("--test", metavar="FILE", help="With a file: what to tell nDCG of.", **_LTR)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of LightGBM, such as num_leaves=63.", **_LTR),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Train a cross-encoder on your own pairs, or what a recipe says.

    It needs the extra: pip install 'secondpass\\[train]'

    The same command given again goes on where a killed run stopped; what that
    needs is kept beside the model, in FOLDER.work.

    With --ltr: trees of LightGBM over features of query and document, which
    rank a thousand candidates in milliseconds. That needs the extra ltr.

    Examples:

    $ secondpass train pairs.jsonl --out my-model
    $ secondpass train --recipe recipe.toml --data sets --out my-model
    $ secondpass train --ltr my-collection --out my-ltr
    $ secondpass train --ltr rank.train --test rank.test --out my-ltr
    """
    if out is None:
        raise typer.BadParameter("name the folder to write", param_hint="--out")
    if (pairs is not None) + (recipe is not None) + (ltr is not None) != 1:
        raise typer.BadParameter("give PAIRS, --recipe or --ltr, one of them", param_hint="PAIRS")
    if ltr is not None:
        first = FirstStage(run, retriever, index, depth)
        learn_to_rank(ltr, out, Asked(split, first, metadata or (), encoder, dev, test, settings or (), config))
        return
    for module in ("torch", "sentence_transformers"):  # said now, not after an hour of mining
        require(module, extra="train", purpose="training")
    from secondpass.training.export import export
    from secondpass.training.recipe import read_recipe
    from secondpass.training.static import train_static
    from secondpass.training.train import fit, prepare

    chosen = read_recipe(recipe) if recipe else _one_set(pairs or Path(), base, out.name)
    work = out.with_name(out.name + ".work")
    with bars() as progress:
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
