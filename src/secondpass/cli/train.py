"""secondpass train: from pairs, judgments or a teacher's scores to a model folder."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from secondpass.cli.first_stage import FirstStage, finder_of, retriever_keys
from secondpass.cli.options import ConfigOption, IndexOption, RetrieverOption, configured, named
from secondpass.cli.settings_text import recipe_text
from secondpass.cli.terminal import bars, say
from secondpass.cli.train_ltr import Asked, learn_to_rank
from secondpass.errors import ConfigError, ModelError
from secondpass.evaluation.lines import json_objects, opened
from secondpass.extras import require

if TYPE_CHECKING:
    from secondpass.training.recipe import Recipe

_FROM: dict[str, Any] = {"rich_help_panel": "What is learnt from", "show_default": False}
_LTR: dict[str, Any] = {"rich_help_panel": "Learning to rank", "show_default": False}
LONGEST = 512  # tokens that the trained model takes, where its base can
BASE, SPLIT = "secondpass-mini", "train"
DEV_SHARE = 0.1  # of the queries, kept aside to choose by
MARGIN, TEACHER_WEIGHT = 0.05, 0.3  # where a teacher is named, or its scores are there
RECIPE = "recipe.toml"  # in the model folder


def command(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE", help="JSON lines, a judged collection, or ir_datasets:NAME.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Where the model goes.", show_default=False)
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="MODEL", help="What to start from. Without it: secondpass-mini."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", metavar="MODEL", help="A reranker to learn from as well.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option("--loss", metavar="NAME", help="What is minimised. Without it: lce-bce.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A key of the recipe, as training.epochs=2, or with --ltr a setting of LightGBM; repeatable.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="Instead of SOURCE: a recipe of several sets.")
    ] = None,
    data: Annotated[
        Path, typer.Option("--data", metavar="FOLDER", help="With --recipe: where its sets lie.", show_default=False)
    ] = Path(),
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", min=0, help="Stop after N steps, for a trial; 0 trains it all.")
    ] = 0,
    tensorboard: Annotated[
        Path | None,
        typer.Option("--tensorboard", metavar="FOLDER", help="Write curves for TensorBoard, too.", show_default=False),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="The collection's judgments. Without it: train.", **_FROM),
    ] = None,
    dev: Annotated[
        str | None,
        typer.Option("--dev", metavar="WHAT", help="What to choose by: another split, or another file.", **_FROM),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="FILE", help="TREC run of candidates, in place of a first stage.", **_FROM),
    ] = None,
    retriever: RetrieverOption = None,
    index: IndexOption = None,
    depth: Annotated[
        int | None,
        typer.Option("--depth", metavar="N", min=2, help="Candidates of a query that are drawn from.", **_FROM),
    ] = None,
    ltr: Annotated[
        str | None,
        typer.Option("--ltr", metavar="SOURCE", help="Instead: a judged collection, or an SVMlight file.", **_LTR),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="KEY", help="A number of the documents to go by; repeatable.", **_LTR),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option("--encoder", metavar="MODEL", help="Also the cosine under this embedding model.", **_LTR),
    ] = "",
    test: Annotated[
        Path | None, typer.Option("--test", metavar="FILE", help="With a file: what to tell nDCG of.", **_LTR)
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Fit a cross-encoder to your own pairs or judgments, or as a recipe says.

    It needs the extra: pip install 'secondpass\\[train]'

    A line of SOURCE is {"query", "positive", "negatives"}, or {"query",
    "passages"} with "labels" or a teacher's "scores". Of a judged collection
    (a BEIR folder) your first stage finds the negatives.

    The same command given again goes on where a killed run stopped; what that
    needs is kept beside the model, in FOLDER.work.

    With --ltr: trees of LightGBM over features of query and document, which
    rank a thousand candidates in milliseconds. That needs the extra ltr.

    Examples:

    $ secondpass train pairs.jsonl --out my-model
    $ secondpass train my-collection --retriever hybrid --out my-model
    $ secondpass train --recipe recipe.toml --data sets --out my-model
    $ secondpass train --ltr my-collection --out my-ltr
    $ secondpass train --ltr rank.train --test rank.test --out my-ltr
    """
    if out is None:
        raise typer.BadParameter("name the folder to write", param_hint="--out")
    if (source is not None) + (recipe is not None) + (ltr is not None) != 1:
        raise typer.BadParameter("give SOURCE, --recipe or --ltr, one of them", param_hint="SOURCE")
    first = FirstStage(run, retriever, index, depth)
    if ltr is not None:
        given = {"--base": base, "--teacher": teacher, "--loss": loss, "--tensorboard": tensorboard}
        _refuse(given, "is for a cross-encoder, not for --ltr")
        file = None if dev is None else Path(dev)
        asked = Asked(split or SPLIT, first, metadata or (), encoder, file, test, settings or (), config)
        learn_to_rank(ltr, out, asked)
        return
    from secondpass.training.recipe import LOSSES, read_recipe

    _refuse({"--metadata": metadata, "--encoder": encoder, "--test": test}, "is for --ltr")
    if loss is not None and loss not in LOSSES:
        raise typer.BadParameter(f"{loss!r} is none of {', '.join(LOSSES)}", param_hint="--loss")
    for module in ("torch", "sentence_transformers"):  # said now, not after an hour of mining
        require(module, extra="train", purpose="training")
    if tensorboard is not None:
        require("tensorboard", extra="tensorboard", purpose="--tensorboard")
    if recipe is not None:
        given = {"--base": base, "--teacher": teacher, "--split": split, "--dev": dev, "--run": run}
        _refuse(given | {"--retriever": retriever, "--index": index, "--depth": depth}, "stands in the recipe")
        chosen = read_recipe(recipe)
    else:
        chosen = one_set(str(source), out.name, base or BASE, split, dev, teacher, first, config)
    keys = named(settings or (), "--set") | ({"training.loss": loss} if loss else {})
    _train(changed(chosen, keys), data, out, steps, tensorboard)


def _refuse(options: Mapping[str, object], why: str) -> None:
    for name, value in options.items():
        if value:
            raise typer.BadParameter(why, param_hint=name)


def _train(recipe: Recipe, data: Path, out: Path, steps: int, tensorboard: Path | None) -> None:
    """Do as the recipe says, and put it into the finished folder."""
    from secondpass.training.export import export
    from secondpass.training.prepare import prepare
    from secondpass.training.static import train_static
    from secondpass.training.train import fit

    work = out.with_name(out.name + ".work")
    with bars() as progress:
        if recipe.static is not None:
            for row in train_static(recipe, data, work, out, say=say, progress=progress, stop_after=steps)["dev"]:
                say(f"{row['set']}: nDCG@10 {row['fitted']['ndcg@10']:.3f}, on {row['queries']} queries held out")
            (out / RECIPE).write_text(recipe_text(recipe), encoding="utf-8")
            say(f'model written to {out}; in secondpass.toml: retriever.encoder = "{out}"', style="")
            return
        prepared = prepare(
            recipe, data, work, say=say, progress=progress, first_stage=lambda spec: finder_of(spec, data)
        )
        trained = fit(recipe, prepared, work, say=say, progress=progress, stop_after=steps, tensorboard=tensorboard)
    lineage = export(recipe, prepared, trained, out)
    (out / RECIPE).write_text(recipe_text(recipe), encoding="utf-8")
    for row in lineage["dev"]:
        both = "" if row["fused"] is None else f", with the first stage's scores {row['fused']:.3f}"
        first = "" if row["first"] is None else f", the first stage's order {row['first']:.3f}"
        say(f"{row['set']}: nDCG@10 {row['model']:.3f}{both}{first}, on {row['queries']} queries held out")
    calibration = lineage["calibration"]
    if inherited := calibration.get("inherited"):
        say(f"the calibration is inherited from {inherited['from']}: {calibration['refused']}")
    elif "refused" in calibration:
        say(f"not calibrated, so no probabilities and no fusion: {calibration['refused']}")
    say(f"model written to {out}; use it with --model {out}", style="")


def one_set(
    source: str,
    name: str,
    base: str = BASE,
    split: str | None = None,
    dev: str | None = None,
    teacher: str | None = None,
    first: FirstStage = FirstStage(),  # noqa: B008 - frozen
    config: Path | None = None,
) -> Recipe:
    """What a command line without a recipe means, as a recipe of one set: all of it, but for the queries kept aside.

    Paths are absolute, so that it means the same wherever it is read.
    """
    from secondpass.training.recipe import Base, DataSet, Negatives, Recipe, Teacher, Training
    from secondpass.weights import locate

    catalogue, path = source.startswith("ir_datasets:"), Path(source).resolve()
    judged = catalogue or path.is_dir()
    if split and not judged:
        raise typer.BadParameter("is for a collection, and this is a file", param_hint="--split")
    asked = configured(config, index=first.index, retriever=first.retriever)
    other_split = dev is not None and judged
    one = DataSet(
        re.sub(r"\W+", "-", source.partition(":")[2]) if catalogue else path.name.split(".")[0],
        "not stated",
        sample="all",
        dev=0 if dev else DEV_SHARE,
        path=source if catalogue else str(path),
        split=split or SPLIT,
        dev_from="" if dev is None else dev if other_split else str(Path(dev).resolve()),
        retriever={} if first.run else retriever_keys(asked),
        run=str(first.run.resolve()) if first.run else "",
    )
    folder = locate(base)
    longest = _longest(folder)  # a pair longer than the base can read would fail in the middle of training
    taught = teacher is not None or (not judged and _brings_scores(path))
    return Recipe(
        name,
        Base(folder=str(folder), history=f"fine-tuned from {base}"),
        (one,),
        Negatives(depth=first.depth or Negatives().depth, margin=MARGIN if teacher else 0.0),
        Training(
            max_length=min(Training().max_length, longest),
            teacher_weight=TEACHER_WEIGHT if taught else 0.0,
        ),
        teacher=Teacher(_absolute(teacher)) if teacher else None,
        max_length=min(LONGEST, longest),
    )


def _absolute(model: str) -> str:
    """A folder's absolute path; a shipped name or a hub name stays."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _brings_scores(path: Path) -> bool:
    """Whether the first row of a file has a teacher's scores."""
    with opened(path) as lines:
        first = next((row for _, row in json_objects(lines, path)), {})
    return bool(first.get("scores") or first.get("taught"))


def changed(recipe: Recipe, settings: Mapping[str, str]) -> Recipe:
    """The recipe with other values of some keys, each written `table.key`, a value as in TOML or as a plain word.

    Raises ConfigError for a key that is not there, or a value that it does not take.
    """
    data = msgspec.to_builtins(recipe)
    for key, text in settings.items():
        *tables, last = key.split(".")
        table = data
        for name in tables:
            if table.get(name) is None:
                table[name] = {}
            table = table[name]
            if not isinstance(table, dict):
                raise ConfigError(f"--set {key}: a recipe has no table {name!r} of single keys")
        table[last] = _value(text)
    try:
        return msgspec.convert(data, type(recipe))
    except msgspec.ValidationError as error:
        given = ", ".join(f"{key}={text}" for key, text in settings.items())
        raise ConfigError(f"--set {given}: {error}") from error


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _longest(folder: Path) -> int:
    """Tokens that the base takes: what its tokenizer says, and no more than it has positions for."""
    try:
        positions = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(f"{folder}: no config.json with max_position_embeddings; give a model folder") from error
    settings = folder / "tokenizer_config.json"
    stated = json.loads(settings.read_text(encoding="utf-8")).get("model_max_length") if settings.is_file() else None
    return min(positions, int(stated)) if isinstance(stated, int | float) and stated > 0 else positions
