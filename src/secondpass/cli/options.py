"""Options that several commands share, and the configuration they change.

Knows: how --config and the options beside it become one Config. Refuses to know: what a
command does with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from secondpass.cli.terminal import say
from secondpass.config import Config, StageTable, find_config
from secondpass.errors import ConfigError

__all__ = [
    "AllowOption",
    "CollectionOption",
    "ConfigOption",
    "DeadlineOption",
    "DeltaOption",
    "DepthOption",
    "FamilyOption",
    "IndexOption",
    "InstructionOption",
    "JsonOption",
    "MetricOption",
    "ModelOption",
    "QueriesOption",
    "RetrieverOption",
    "SplitOption",
    "configured",
    "named",
    "prepare_ray",
    "whole_for_a_run",
]

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings. Without it: ./secondpass.toml, if there is one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Shipped name, folder or hub name. Without it: secondpass-mini."),
]
FamilyOption = Annotated[
    str | None,
    typer.Option(
        "--family", metavar="NAME", help="How it reads a pair, where its folder does not say (docs/models.md)."
    ),
]
InstructionOption = Annotated[
    str | None, typer.Option("--instruction", metavar="TEXT", help="What its prompt asks. Without it: as published.")
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="WHAT", help="Accept its licence, pickle or remote-code; repeatable."),
]
DepthOption = Annotated[
    int | None, typer.Option("--depth", metavar="N", min=1, help="Rerank the first N candidates. Without it: 100.")
]
RetrieverOption = Annotated[
    str | None,
    typer.Option("--retriever", metavar="NAME", help="First stage: bm25, dense or hybrid. Without it: bm25."),
]
CollectionOption = Annotated[
    str | None, typer.Option("--collection", metavar="FOLDER", help="BEIR folder, or ir_datasets:NAME.")
]
SplitOption = Annotated[str | None, typer.Option("--split", metavar="NAME", help="Its judgments. Without it: test.")]
IndexOption = Annotated[
    str | None, typer.Option("--index", metavar="FOLDER", help="Index of it. Without it: built in memory.")
]
QueriesOption = Annotated[int | None, typer.Option("--queries", metavar="N", min=1, help="Only the first N queries.")]
MetricOption = Annotated[
    str | None, typer.Option("--metric", metavar="NAME", help="Such as mrr@10. Without it: ndcg@10.")
]
DeltaOption = Annotated[
    float | None, typer.Option("--delta", metavar="GAIN", help="The smallest gain that matters. Without it: 0.01.")
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        "--deadline-ms", metavar="MS", min=0, help="Time for each query; what is not scored by then keeps its order."
    ),
]


def configured(
    file: Path | None,
    *,
    collection: str | None = None,
    split: str | None = None,
    index: str | None = None,
    retriever: str | None = None,
    model: str | None = None,
    family: str | None = None,
    allow: Sequence[str] | None = None,
    depth: int | None = None,
) -> Config:
    """The configuration of `file` (see `find_config`), with what the command line says in its place.

    A family, an instruction and what is allowed are of the file's own model, so another one comes without them.
    Raises ConfigError where the stage is to change but the file has not exactly one.
    """
    found = find_config(file)
    replace: Any = msgspec.structs.replace

    def changed(table: Any, **values: str | None) -> Any:
        return replace(table, **{key: value for key, value in values.items() if value is not None})

    config: Config = replace(
        found,
        variable=lambda name: os.environ.get(name),  # not the bound method, whose repr shows all of them
        collection=changed(found.collection, path=collection, split=split),
        retriever=changed(found.retriever, index=index, name=retriever),
    )
    if all(value is None for value in (model, family, allow, depth)):
        return config
    if len(config.stages) != 1:
        raise ConfigError(f"{config.file}: has {len(config.stages)} stages; set the model and the depth there")
    stage: StageTable = config.stages[0]
    if model is not None and model != stage.model:
        stage = replace(stage, model=model, family=None, instruction=None, allow=None)
    allowed = stage.allow if allow is None else tuple(allow)
    only = replace(stage, family=family or stage.family, allow=allowed, depth=depth or stage.depth)
    return replace(config, stages=(only,))  # type: ignore[no-any-return]


def whole_for_a_run(config: Config) -> Config:
    """The settings without selectors, which is said: a TREC run is for measuring, so nothing is removed from it."""
    if config.select:
        say(f"{config.file}: a TREC run keeps whole rankings, so [[select]] removes nothing from it")
    return msgspec.structs.replace(config, select=())


def named(values: Iterable[str], option: str) -> dict[str, str]:
    """NAME=VALUE, as given on the command line, by name."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not (name.strip() and equals and rest.strip()):
            raise typer.BadParameter(f"{value!r} is not of the form {option}", param_hint=option)
        if name.strip() in found:
            raise typer.BadParameter(f"{name.strip()!r} is given twice; give each its own name", param_hint=option)
        found[name.strip()] = rest.strip()
    return found


def prepare_ray() -> None:
    """Before Ray is opened: unless its variables say otherwise it sends no usage statistics, and gives its proxies
    time to start on a busy machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
