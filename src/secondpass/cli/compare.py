"""secondpass compare: any number of systems side by side, from run files or run here and timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from secondpass.cascade import Cascade
from secondpass.cli.audited import names_of
from secondpass.cli.compare_views import markdown as as_markdown
from secondpass.cli.compare_views import terminal
from secondpass.cli.measured import first_queries, licences, measure, uncached
from secondpass.cli.options import (
    AllowOption,
    CollectionOption,
    ConfigOption,
    DepthOption,
    FamilyOption,
    IndexOption,
    JsonOption,
    MetricOption,
    QueriesOption,
    SplitOption,
    configured,
    named,
)
from secondpass.cli.terminal import bar, print_json, results, say
from secondpass.cli.views import failure, failure_note
from secondpass.config import (
    Config,
    SystemTable,
    build_first_stages,
    build_stages,
    open_collection,
)
from secondpass.errors import ConfigError, InputError
from secondpass.evaluation.leaderboard import leaderboard
from secondpass.evaluation.metrics import parse_metric
from secondpass.evaluation.systems import Price, System
from secondpass.evaluation.trec import Qrels, read_qrels, read_run, read_timings


def command(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=RUN", help="Systems and their run files.", show_default=False),
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option("--qrels", metavar="FILE", help="Their judgments. Without it: the collection's.")
    ] = None,
    timings: Annotated[
        list[str] | None, typer.Option("--timings", metavar="NAME=FILE", help="A system's time for each query.")
    ] = None,
    price: Annotated[
        list[str] | None, typer.Option("--price", metavar="NAME=AMOUNT", help="What a call of a system costs.")
    ] = None,
    licence: Annotated[
        list[str] | None, typer.Option("--licence", metavar="NAME=TEXT", help="A system's licence.")
    ] = None,
    collection: CollectionOption = None,
    split: SplitOption = None,
    index: IndexOption = None,
    retriever: Annotated[
        list[str] | None,
        typer.Option("--retriever", metavar="NAME", help="First stage to run, alone and with each model; repeatable."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="MODEL", help="Model to rerank with, over each first stage; repeatable."),
    ] = None,
    pipeline: Annotated[
        list[str] | None,
        typer.Option("--pipeline", metavar="NAME=FILE", help="Settings whose [[stages]] rerank, too; repeatable."),
    ] = None,
    family: FamilyOption = None,
    allow: AllowOption = None,
    queries: QueriesOption = None,
    depth: DepthOption = None,
    metric: MetricOption = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the tables as Markdown.")
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Rank any number of systems by quality, time and cost.

    Systems are run files of any origin, or first stages, models and the stages of
    settings files (hosted, learned, fused …) that are run here and timed. Those that
    the data cannot separate share a rank.

    Examples:

    $ secondpass compare --qrels test.tsv bm25=a.trec mini=b.trec vendor=c.trec
    $ secondpass compare --collection my-collection --model my-model --json
    $ secondpass compare --collection my-collection --pipeline api=api.toml
    """
    settings = configured(config, collection=collection, split=split, index=index)
    measure_of_order = parse_metric(metric or settings.budget.metric)
    pool = depth or settings.depth
    notes: list[str] = []
    if runs or (settings.systems and collection is None and not retriever and not model and not pipeline):
        if any(option is not None for option in (index, retriever, model, pipeline, family, allow, queries)):
            raise typer.BadParameter(
                "goes with --collection, not with run files",
                param_hint="--index, --retriever, --model, --pipeline, --family, --allow, --queries",
            )
        tables = _tables(runs or (), settings.systems, timings or (), price or (), licence or ())
        if qrels is None and not settings.collection.path:
            raise typer.BadParameter("run files need judgments: give it, or --collection", param_hint="--qrels")
        judgments = open_collection(settings).qrels if qrels is None else read_qrels(qrels, notes=notes)
        systems = _read(tables, settings, pool, notes)
    elif settings.collection.path:
        if any(option is not None for option in (qrels, timings, price, licence)):
            raise typer.BadParameter("goes with NAME=RUN", param_hint="--qrels, --timings, --price, --licence")
        pipelines = _pipelines(config, settings, model, pipeline, family, allow, depth)
        pool = settings.retriever.candidates or max(one.depth for one in pipelines.values())
        judgments, systems = _run(settings, pipelines, retriever, queries, pool, notes)
    else:
        raise typer.BadParameter("give NAME=RUN at least twice with --qrels, or --collection")
    with bar("testing") as update:
        board = leaderboard(systems, judgments, metric=measure_of_order, depth=pool)
        update(len(board.pairs), len(board.pairs), note=f"{len(board.pairs):,} pairs")
    board = replace(board, notes=(*board.notes, *notes))
    if markdown is not None:
        markdown.write_text(as_markdown(board), encoding="utf-8")
    if json:
        print_json(board.to_dict())
    else:
        terminal(board, results)
    if markdown is not None:
        say(f"tables written to {markdown}")


def _tables(
    runs: Sequence[str],
    listed: Sequence[SystemTable],
    timings: Sequence[str],
    prices: Sequence[str],
    licences: Sequence[str],
) -> list[SystemTable]:
    """The systems named on the command line, or else those of [[systems]], with what the options say of them."""
    chosen = [SystemTable(name, run) for name, run in named(runs, "NAME=RUN").items()] or listed
    tables = {table.name: table for table in chosen}
    if len(tables) < len(chosen):
        raise InputError("[[systems]] has two of one name; give each its own")
    if len(tables) < 2:
        raise typer.BadParameter("a comparison needs at least two systems", param_hint="NAME=RUN")
    for option, key, given in (
        ("--timings", "timings", named(timings, "--timings NAME=FILE")),
        ("--price", "price_per_call", named(prices, "--price NAME=AMOUNT")),
        ("--licence", "licence", named(licences, "--licence NAME=TEXT")),
    ):
        for name, value in given.items():
            if name not in tables:
                raise typer.BadParameter(
                    f"no system is called {name!r}; there are {', '.join(tables)}", param_hint=option
                )
            own = _amount(value, name) if key == "price_per_call" else value
            tables[name] = msgspec.structs.replace(tables[name], **{key: own})
    return list(tables.values())


def _amount(value: str, name: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise typer.BadParameter(f"{name}: {value!r} is no amount of money", param_hint="--price") from None


def _read(tables: Sequence[SystemTable], settings: Config, depth: int, notes: list[str]) -> list[System]:
    """The run files. A system with a price per call costs that; the others what their time on our machine does."""
    systems = []
    with bar("reading runs", len(tables)) as update:
        for table in tables:
            found: list[str] = []
            hour = settings.price.machine_hour if table.price_per_call is None else None
            systems.append(
                System(
                    name=table.name,
                    run=read_run(table.run, depth=depth, notes=found),
                    seconds=read_timings(table.timings) if table.timings else None,
                    price=Price(hour, table.price_per_call, settings.price.currency),
                    licence=table.licence,
                )
            )
            notes += [f"{table.name}: {note}" for note in found]
            update(len(systems))
    return systems


def _pipelines(
    file: Path | None,
    settings: Config,
    models: Sequence[str] | None,
    files: Sequence[str] | None,
    family: str | None,
    allow: Sequence[str] | None,
    depth: int | None,
) -> dict[str, Config]:
    """The settings of each model and each other file, or else those of the file, by the name that tables give them."""
    replace: Any = msgspec.structs.replace
    if models and len(set(models)) < len(models):
        raise typer.BadParameter("the same model is given twice", param_hint="--model")
    others = {
        name: replace(settings, stages=configured(Path(file)).stages, file=file)
        for name, file in named(files or (), "--pipeline NAME=FILE").items()
    }
    if empty := [one.file for one in others.values() if not one.stages]:
        raise ConfigError(f"{empty[0]}: has no stages; set one, or leave out the file")
    if not models and not others and not settings.stages:
        raise ConfigError(f"{settings.file}: has no stages; set one, or give --model or --pipeline")
    asked: Sequence[str | None] = models or (() if others else (None,))
    found: list[Config] = [
        replace(settings, stages=configured(file, model=one, family=family, allow=allow, depth=depth).stages)
        for one in asked
    ]
    names = [names_of(one)[1] for one in found]
    clash = len(set(names)) < len(names)
    own = dict(zip(models if models and clash else names, found, strict=True))
    if twice := own.keys() & others.keys():
        raise typer.BadParameter(f"{min(twice)!r} is a model, too; give it another name", param_hint="--pipeline")
    return own | others


def _run(
    settings: Config,
    pipelines: Mapping[str, Config],
    retrievers: Sequence[str] | None,
    first: int | None,
    pool: int,
    notes: list[str],
) -> tuple[Qrels, list[System]]:
    """Every first stage alone and with each pipeline, timed one after the other, so that none profits from another."""
    chosen = list(retrievers or (settings.retriever.name,))
    if len(set(chosen)) < len(chosen):
        raise typer.BadParameter("the same first stage is given twice", param_hint="--retriever")
    collection = first_queries(open_collection(settings), first)
    notes += collection.notes
    with bar("preparing", len(collection.documents)) as update:
        stages = build_first_stages(settings, chosen, collection.documents.values(), on_progress=update)
        update(len(collection.documents), note="first stages")
    price, systems, said = settings.price, [], list[str]()
    pipelines = {model: uncached(pipeline, said) for model, pipeline in pipelines.items()}
    notes += dict.fromkeys(said)
    for name, retriever in stages.items():
        alone = None
        for model, pipeline in pipelines.items():
            cascade = Cascade(retriever, *build_stages(pipeline))
            with bar(f"{name} → {model}", len(collection.queries)) as update:
                measured = measure(cascade, collection.queries, pool, update)
            if failed := Counter(filter(None, map(failure, measured.after.values()))):
                notes.append(f"{name} → {model}: {failure_note(failed, len(measured.after))}")
            if alone is None:
                machine = Price(price.machine_hour, None, price.currency)
                alone = System(name, measured.baseline, measured.seconds_baseline, machine)
                systems.append(alone)
            seconds = {key: measured.seconds_baseline[key] + one for key, one in measured.seconds_reranked.items()}
            systems.append(
                System(
                    f"{name} → {model}",
                    measured.reranked,
                    seconds,
                    Price(price.machine_hour, price.call, price.currency),
                    licences(measured),
                )
            )
    return collection.qrels, systems
