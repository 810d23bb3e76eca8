"""From the settings to a server.

Knows: the tables [serve], [[stages]], [retriever], [request_log] and [watch], and which part each describes. Refuses
to know: the command line, the environment, HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from secondpass.cascade import Cascade, Stage
from secondpass.config import (
    Config,
    RequestLogTable,
    RerankerTable,
    ServeTable,
    WatchTable,
    build_reranker,
    build_retriever,
    build_selectors,
)
from secondpass.errors import ConfigError, LogUnreachableError
from secondpass.monitoring.profile import read_profile
from secondpass.monitoring.request_log import RequestLog
from secondpass.serving import logs
from secondpass.serving.keys import Key, Keys, key_digest
from secondpass.serving.models import Served
from secondpass.serving.server import Limits, Server, Workbench
from secondpass.serving.shadow import Shadow
from secondpass.serving.telemetry import exporting
from secondpass.serving.watching import Watching
from secondpass.types import Reranker

__all__ = ["build_server"]

DEFAULT = "secondpass-mini"


def build_server(
    config: Config, again: Callable[[], Config] | None = None, *, keys: Sequence[str] = (), spans: bool = False
) -> Server:
    """The server that the settings describe. Models are opened when it starts.

    `again` reads the settings once more when models are to be exchanged; `keys` are accepted beside those of the
    settings; `spans`: send them, as OpenTelemetry's variables say.

    Raises ConfigError, with the key, for what does not fit together.
    """
    table = config.serve
    if bool(table.certificate) != bool(table.private_key):
        raise ConfigError(f"{config.file}: serve.certificate and serve.private_key go together; set both")
    limits = Limits(
        body=table.body,
        documents=table.documents,
        characters=table.characters,
        deadline=None if table.deadline_ms is None else table.deadline_ms / 1000,
        backlog=table.backlog,
        requests=table.requests,
    )
    known = [Key(one.sha256, one.name, one.per_minute, one.weight) for one in table.keys]
    models = _models(config)
    traced, ended = exporting() if spans else (None, None)
    return Server(
        [served for _, served in models],
        limits=limits,
        keys=Keys([*known, *(Key(digest) for digest in map(key_digest, keys))]),
        search=_cascade(config, models) if config.searchable else None,
        log=_log(config.request_log),
        watching=_watching(config.watch),
        shadow=_shadow(config, [served for _, served in models]),
        spans=traced,
        workbench=_workbench(table) if table.ui else None,
        ended=ended,
        public=table.public,
        renewed=None if again is None else lambda: [served for _, served in _models(again())],
    )


def _models(config: Config) -> list[tuple[bytes, Served]]:
    """What [[serve.models]] describes, and what of [[stages]] is none of it, the last stage first, with `_made_of`.

    Of the stages cross-encoders, or where nothing else is to be served the last one, whatever it is.
    """
    found: list[tuple[bytes, Served]] = []
    for position, table in enumerate(config.serve.models):
        opened = partial(build_reranker, config, f"serve.models[{position}]", table)
        found.append((_made_of(table), Served(table.name, opened, digest=table.digest, preload=table.preload)))
    stages = list(enumerate(config.stages))
    own = [(position, stage) for position, stage in stages if stage.reranker == "cross-encoder"]
    for position, stage in reversed(own or ([] if found else stages[-1:])):
        if _made_of(stage) not in dict(found):
            opened = partial(build_reranker, config, f"stages[{position}]", stage)
            found.append((_made_of(stage), Served(_name(stage), opened)))
    if not found:
        raise ConfigError(f"{config.file}: no reranker to serve; name one in [[serve.models]] or [[stages]]")
    return found


def _name(stage: RerankerTable) -> str:
    """What requests call it where nobody has said."""
    if stage.model and Path(stage.model).is_dir():
        return Path(stage.model).name
    return stage.model or (DEFAULT if stage.reranker == "cross-encoder" else stage.reranker)


def _made_of(table: RerankerTable) -> bytes:
    """The same for tables that make the same reranker."""
    return msgspec.json.encode([getattr(table, name) for name in RerankerTable.__struct_fields__])


def _cascade(config: Config, models: Sequence[tuple[bytes, Served]]) -> Cascade:
    """What /v1/search runs: the settings' pipeline, its rerankers those that are served."""
    stages, by_table = [], dict(reversed(models))
    for position, table in enumerate(config.stages):
        served = by_table.get(_made_of(table))
        reranker: Reranker = served or build_reranker(config, f"stages[{position}]", table)
        stages.append(Stage(reranker, table.depth, table.budget_ms))
    selectors = build_selectors(config)
    return Cascade(build_retriever(config), *stages, retrieve=config.retriever.candidates, select=selectors)


def _log(table: RequestLogTable) -> RequestLog | None:
    if not table.url:
        return None
    log = RequestLog(table.url, sample=table.sample, queries=table.queries, most=table.most)
    try:
        log.open()  # a wrong database is told now
    except LogUnreachableError as error:  # one that does not answer is waited for while requests are served
        logs.happened("request log not reached", level="warning", error=error, why=str(error))
    return log


def _watching(table: WatchTable) -> Watching | None:
    return Watching(read_profile(table.profile), every=table.every) if table.profile else None


def _workbench(table: ServeTable) -> Workbench:
    return Workbench(*(Path(name) if name else None for name in (table.pool, table.reports)))


def _shadow(config: Config, models: Sequence[Served]) -> Shadow | None:
    table = config.serve.shadow
    if table is None:
        return None
    for served in models:
        if served.name == table.model:
            return Shadow(served, table.sample)
    raise ConfigError(f"{config.file}: serve.shadow.model: {table.model!r} is the name of none of the models served")
