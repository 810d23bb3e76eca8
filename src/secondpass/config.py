"""secondpass.toml: what the pipeline is made of, and the one place that puts it together.

Knows: the keys, their types and defaults, and how they become a Cascade. Refuses to know: the
command line and the environment. docs/config.md describes every key.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from secondpass.cascade import Cascade, Stage
from secondpass.errors import ConfigError, InputError
from secondpass.evaluation.collections import Collection
from secondpass.evaluation.collections import open_collection as open_collection_at
from secondpass.evaluation.metrics import parse_metric
from secondpass.registry import Kind, resolve
from secondpass.types import Document, Reranker, Retriever, Selector

if TYPE_CHECKING:
    from secondpass.retrievers.filling import Fillable
    from secondpass.retrievers.index import Index, Part

__all__ = [
    "FILE_NAME",
    "PARTS_OF",
    "BudgetTable",
    "CollectionTable",
    "Config",
    "KeyTable",
    "PriceTable",
    "RayTable",
    "RequestLogTable",
    "RerankerTable",
    "RetrieverTable",
    "SelectTable",
    "ServeTable",
    "ServedTable",
    "ShadowTable",
    "StageTable",
    "SystemTable",
    "WatchTable",
    "build_cascade",
    "build_engine",
    "build_first_stages",
    "build_index",
    "build_reranker",
    "build_retriever",
    "build_selectors",
    "build_stages",
    "find_config",
    "open_collection",
    "read_config",
]

FILE_NAME = "secondpass.toml"
_R = TypeVar("_R", bound="RerankerTable")
PARTS_OF = {"bm25": ("bm25",), "dense": ("dense",), "hybrid": ("bm25", "dense")}
"""What an index needs for each of our retrievers."""

Count = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0.0)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
CacheBytes = Annotated[int, msgspec.Meta(ge=65_536)]
RedisUrl = Annotated[str, msgspec.Meta(pattern="^(rediss?|unix)://")]
Digest = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{8,})?$")]


class CollectionTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[collection]: a BEIR folder or "ir_datasets:NAME", and the split of its judgments."""

    path: str = ""
    split: Text = "test"


class RetrieverTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[retriever]: the first stage. k1, b, language, encoder and fields count when an index is built. One made of
    others takes those of `retrievers`, in their order."""

    name: Text = "bm25"
    retrievers: tuple[RetrieverTable, ...] = ()
    index: str = ""
    candidates: Count | None = None
    k1: NotNegative = 0.9
    b: Share = 0.4
    language: Text = "english"
    encoder: Text = "secondpass-static"
    fields: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("title", "text")
    fusion: Literal["rrf", "convex"] = "rrf"
    weights: Annotated[tuple[NotNegative, ...], msgspec.Meta(min_length=2, max_length=2)] | None = None
    options: dict[str, Any] = {}


class RerankerTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reranker by its name in the registry. The other keys that are set go to its constructor; one that is made of
    rerankers takes those of `rerankers`, in their order."""

    reranker: Text = "cross-encoder"
    rerankers: tuple[RerankerTable, ...] = ()
    model: Text | None = None
    family: Text | None = None
    instruction: Text | None = None
    allow: tuple[Literal["licence", "pickle", "remote-code"], ...] | None = None
    device: Text | None = None
    profile: Literal["default", "exact", "fast"] | None = None
    engine: Literal["auto", "openvino", "onnxruntime", "torch"] | None = None
    threads: Count | None = None
    max_length: Count | None = None
    template: Text | None = None
    cache: CacheBytes | RedisUrl | None = None
    keep_documents: Annotated[int, msgspec.Meta(ge=1_000_000)] | None = None
    windows: Count | None = None
    pooling: Literal["max", "mean", "first"] | None = None
    discount_copies: bool | None = None
    fuse: bool | NotNegative | None = None
    go_on: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] | None = None
    patience: Count | None = None
    sure: Annotated[float, msgspec.Meta(gt=0.0)] | None = None
    options: dict[str, Any] = {}


class StageTable(RerankerTable, frozen=True):
    """[[stages]]: a reranker, how many candidates it sees and the time it may take."""

    depth: Count = 100
    budget_ms: NotNegative | None = None


class SelectTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[[select]]: a selector by its name in the registry, after the stages. The other keys that are set go to its
    constructor."""

    selector: Text
    probability: Share | None = None
    guarantee: Text | None = None
    resemblance: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] | None = None
    relevance: Share | None = None
    most: Count | None = None
    encoder: Text | None = None
    parent: Text | None = None
    position: Text | None = None
    tokens: Count | None = None
    overhead: Annotated[int, msgspec.Meta(ge=0)] | None = None
    tokenizer: Text | None = None
    template: Text | None = None
    prefix: bool | None = None
    options: dict[str, Any] = {}


class ServedTable(RerankerTable, frozen=True, kw_only=True):
    """[[serve.models]]: a reranker that `secondpass serve` answers with, under the name that requests give."""

    name: Text
    digest: Digest = ""
    preload: bool = True


class KeyTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[[serve.keys]]: who may ask, how often, and for which share of the machine."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    name: str = ""
    per_minute: Annotated[float, msgspec.Meta(gt=0.0)] | None = None
    weight: Annotated[float, msgspec.Meta(gt=0.0)] = 1.0


class ShadowTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[serve.shadow]: a served model that reranks a share of the requests beside the one that answers."""

    model: Text
    sample: Share = 0.05


class ServeTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[serve]: the server. Times in seconds but for `deadline_ms`, sizes in bytes and characters."""

    host: Text = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    deadline_ms: NotNegative | None = None
    backlog: Annotated[float, msgspec.Meta(gt=0.0)] = 30.0
    drain: Count = 30
    requests: Count = 256
    documents: Count = 1000
    characters: Count = 1_000_000
    body: Count = 32_000_000
    certificate: str = ""
    private_key: str = ""
    public: bool = True
    ui: bool = True
    pool: str = ""
    reports: str = ""
    models: tuple[ServedTable, ...] = ()
    keys: tuple[KeyTable, ...] = ()
    shadow: ShadowTable | None = None


class RequestLogTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[request_log]: the database that requests, what was shown and clicks are kept in."""

    url: str = ""
    sample: Share = 1.0
    queries: Literal["text", "digest"] = "text"
    most: Count = 1_000_000


class WatchTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[watch]: the profile that traffic is compared with, and the queries in which one false alarm is borne."""

    profile: str = ""
    every: Annotated[int, msgspec.Meta(ge=100)] = 10_000


class RayTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[ray]: the cluster, and how `rerank --ray` and `serve --ray` use it. Times in seconds."""

    address: str = ""
    cpus: Annotated[float, msgspec.Meta(gt=0.0)] = 1.0
    workers: Count | None = None
    documents: Count = 2000
    replicas: tuple[Count, Count] = (1, 1)
    ongoing: Annotated[float, msgspec.Meta(gt=0.0)] = 2.0
    queued: Count = 100
    scale_up_after: NotNegative = 30.0
    scale_down_after: NotNegative = 600.0


class BudgetTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[budget]: what an audit holds the result against, and the depths of its curve."""

    p99_ms: NotNegative | None = None
    delta: Annotated[float, msgspec.Meta(gt=0.0)] = 0.01
    metric: Text = "ndcg@10"
    depths: tuple[Count, ...] | None = None


class PriceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[price]: a machine's hour, a call of the reranker, and how many queries there are."""

    machine_hour: NotNegative | None = None
    call: NotNegative | None = None
    currency: Text = "USD"
    queries_per_day: NotNegative | None = None


class SystemTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[[systems]]: a run file of any system, for `secondpass compare`; timings are milliseconds by query."""

    name: Text
    run: Text
    timings: str = ""
    price_per_call: NotNegative | None = None
    licence: str = ""


class _Tables(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tables of the file."""

    collection: CollectionTable = CollectionTable()
    retriever: RetrieverTable = RetrieverTable()
    stages: tuple[StageTable, ...] = (StageTable(),)
    select: tuple[SelectTable, ...] = ()
    budget: BudgetTable = BudgetTable()
    price: PriceTable = PriceTable()
    systems: tuple[SystemTable, ...] = ()
    serve: ServeTable = ServeTable()
    request_log: RequestLogTable = RequestLogTable()
    watch: WatchTable = WatchTable()
    ray: RayTable = RayTable()


def _no_variable(name: str) -> str | None:
    return None


class Config(_Tables, frozen=True):
    """The tables, their paths made absolute, the file they came from, for messages, and what the caller knows of the
    environment: options written "$NAME" are looked up there when they are used, so that no key is in here."""

    file: str = "the built-in defaults"
    variable: Callable[[str], str | None] = _no_variable

    @property
    def searchable(self) -> bool:
        """Whether there is something to search already: an index that is named, or a retriever that has its own."""
        return bool(self.retriever.index or self.retriever.retrievers) or self.retriever.name not in PARTS_OF

    @property
    def depth(self) -> int:
        """How many candidates the stages look at: the largest depth, or 100 without a stage."""
        return max((stage.depth for stage in self.stages), default=100)


def find_config(path: str | Path | None = None) -> Config:
    """The file at `path`; without one ./secondpass.toml where there is one, else the defaults."""
    if path is not None:
        return read_config(path)
    return read_config(FILE_NAME) if Path(FILE_NAME).is_file() else Config()


def read_config(path: str | Path) -> Config:
    """Decode a file strictly; relative paths in it are relative to its folder.

    Raises ConfigError, with the file and the key, for anything that is not as config.py says.
    """
    path = Path(path)
    try:
        tables = msgspec.toml.decode(path.read_bytes(), type=_Tables)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check --config") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_explain(str(error))}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error})") from error
    try:
        parse_metric(tables.budget.metric)
    except InputError as error:
        raise ConfigError(f"{path}: budget.metric: {error}") from error
    if tables.ray.replicas[0] > tables.ray.replicas[1]:
        raise ConfigError(f"{path}: ray.replicas: {list(tables.ray.replicas)}; give the fewest first, then the most")
    folder = path.resolve().parent
    collection, retriever = tables.collection, tables.retriever
    if collection.path and not collection.path.startswith("ir_datasets:"):
        collection = msgspec.structs.replace(collection, path=str(folder / collection.path))

    def first_stage(table: RetrieverTable) -> RetrieverTable:
        if table.index:
            table = msgspec.structs.replace(table, index=str(folder / table.index))
        # a model may also be a shipped name or a hub name, so only what is a folder is taken for one
        if (folder / table.encoder).is_dir():
            table = msgspec.structs.replace(table, encoder=str(folder / table.encoder))
        return msgspec.structs.replace(table, retrievers=tuple(map(first_stage, table.retrievers)))

    def placed(table: _R) -> _R:
        table = msgspec.structs.replace(table, rerankers=tuple(map(placed, table.rerankers)))
        there = table.model is not None and (folder / table.model).is_dir()
        return msgspec.structs.replace(table, model=str(folder / str(table.model))) if there else table

    def found(name: str | None) -> str | None:
        return str(folder / name) if name is not None and (folder / name).exists() else name

    select = tuple(
        msgspec.structs.replace(
            one,
            guarantee=None if one.guarantee is None else str(folder / one.guarantee),
            encoder=found(one.encoder),
            tokenizer=found(one.tokenizer),
        )
        for one in tables.select
    )
    serve = msgspec.structs.replace(
        tables.serve,
        models=tuple(map(placed, tables.serve.models)),
        certificate=tables.serve.certificate and str(folder / tables.serve.certificate),
        private_key=tables.serve.private_key and str(folder / tables.serve.private_key),
        pool=tables.serve.pool and str(folder / tables.serve.pool),
        reports=tables.serve.reports and str(folder / tables.serve.reports),
    )
    systems = tuple(
        msgspec.structs.replace(
            system, run=str(folder / system.run), timings=system.timings and str(folder / system.timings)
        )
        for system in tables.systems
    )
    return Config(
        collection,
        first_stage(retriever),
        tuple(map(placed, tables.stages)),
        select,
        tables.budget,
        tables.price,
        systems,
        serve,
        tables.request_log,
        msgspec.structs.replace(tables.watch, profile=tables.watch.profile and str(folder / tables.watch.profile)),
        tables.ray,
        str(path),
    )


def open_collection(config: Config) -> Collection:
    """The collection that [collection] names.

    Raises ConfigError where it names none, CollectionError where it cannot be read.
    """
    if not config.collection.path:
        raise ConfigError(f"{config.file}: collection.path is not set; set it, or give --collection")
    return open_collection_at(config.collection.path, split=config.collection.split)


def build_cascade(
    config: Config,
    documents: Iterable[Document] | None = None,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Cascade:
    """The whole pipeline. `documents` and `on_progress` as for `build_retriever`."""
    retriever = build_retriever(config, documents, on_progress=on_progress)
    stages, select = build_stages(config), build_selectors(config)
    return Cascade(retriever, *stages, retrieve=config.retriever.candidates, select=select)


def build_retriever(
    config: Config,
    documents: Iterable[Document] | None = None,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Retriever:
    """The first stage that [retriever] names. See `build_first_stages`."""
    return build_first_stages(config, (config.retriever.name,), documents, on_progress=on_progress)[
        config.retriever.name
    ]


def build_first_stages(
    config: Config,
    names: Iterable[str],
    documents: Iterable[Document] | None = None,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Retriever]:
    """First stages by their names in the registry, as [retriever] sets them.

    Ours share one index: the one that is named, or else one built in memory from `documents`. Any other
    is constructed with [retriever]'s `options`, and one that is made of others from its `retrievers`; what needs an
    encoder gets the one that is named. `on_progress` is called with the number of documents indexed so far.

    Raises ConfigError where neither an index nor documents are there, or an option does not fit.
    """
    return _first_stages(config, "retriever", config.retriever, names, documents, on_progress)


def build_engine(config: Config, name: str) -> Fillable:
    """The first stage of that name in [retriever], or inside of it, which documents can be put into.

    Raises ConfigError where there is none or several, or where it takes no documents.
    """
    tables = list(_tables_of("retriever", config.retriever))
    meant = [(key, table) for key, table in tables if table.name == name]
    if len(meant) != 1:
        known = ", ".join(table.name for _, table in tables)
        raise ConfigError(f"{config.file}: has {len(meant)} first stages called {name!r}, not one; there are: {known}")
    ((key, table),) = meant
    cls = _resolve(config, f"{key}.name", "retriever", name)
    if not callable(getattr(cls, "fill", None)):
        raise ConfigError(
            f"{config.file}: {key}.name: {name!r} takes no documents; `secondpass index --out` builds ours"
        )
    engine: Fillable = _first_stages(config, key, table, (name,), None, None)[name]
    return engine


def _tables_of(key: str, table: RetrieverTable) -> Iterator[tuple[str, RetrieverTable]]:
    yield key, table
    for position, one in enumerate(table.retrievers):
        yield from _tables_of(f"{key}.retrievers[{position}]", one)


def _first_stages(
    config: Config,
    key: str,
    table: RetrieverTable,
    names: Iterable[str],
    documents: Iterable[Document] | None,
    on_progress: Callable[[int], None] | None,
) -> dict[str, Any]:
    """First stages as the table at `key` sets them: see `build_first_stages`."""
    index = None
    classes = {name: _resolve(config, f"{key}.name", "retriever", name) for name in names}
    ours = [name for name in classes if name in PARTS_OF and not (name == table.name and table.retrievers)]
    parts = sorted({part for name in ours for part in PARTS_OF[name]})
    if parts and table.options and set(classes) == set(ours):
        raise ConfigError(f"{config.file}: {key}.options is for other retrievers; {table.name} has its own keys")
    if parts and table.index:
        from secondpass.retrievers.index import Index

        index = Index.open(table.index)
    elif parts and documents is not None:
        settings = msgspec.structs.replace(config, retriever=table)
        index = build_index(settings, documents, parts, on_progress=on_progress)
    elif parts:
        raise ConfigError(f"{config.file}: {key}.index is not set; build one with `secondpass index`, then name it")
    return {
        name: _over(config, table, name, cls, index)
        if index is not None and name in ours
        else _beside(config, key, table, cls, documents, on_progress)
        for name, cls in classes.items()
    }


def _over(config: Config, table: RetrieverTable, name: str, cls: Any, index: Index) -> Any:
    """One of our retrievers over an index that has the parts it needs."""
    if name != "hybrid":
        return cls(index)
    both = [_resolve(config, "retriever.name", "retriever", part)(index) for part in PARTS_OF["hybrid"]]
    return cls(both, fusion=table.fusion, weights=table.weights)


def _beside(
    config: Config,
    key: str,
    table: RetrieverTable,
    cls: Any,
    documents: Iterable[Document] | None,
    on_progress: Callable[[int], None] | None,
) -> Any:
    """A retriever that reads no index of ours: by its options, and made of others where it has such."""
    inside = []
    if table.retrievers:
        known = None if documents is None else list(documents)  # each of them reads them
        inside = [
            _first_stages(config, f"{key}.retrievers[{position}]", one, (one.name,), known, on_progress)[one.name]
            for position, one in enumerate(table.retrievers)
        ]
    options = {name: _given(config, f"{key}.options.{name}", value) for name, value in table.options.items()}
    for name in getattr(cls, "paths", ()):
        if isinstance(options.get(name), str):
            folder = Path(config.file).resolve().parent if Path(config.file).is_file() else Path()
            options[name] = str(folder / options[name])
    if "encoder" not in options and getattr(cls, "wants_encoder", lambda _: False)(options):
        from secondpass.embedding import open_encoder

        options["encoder"] = open_encoder(table.encoder)
    if table.name == "hybrid":
        try:
            return cls(inside, fusion=table.fusion, weights=table.weights, **options)
        except (InputError, TypeError) as error:
            raise ConfigError(f"{config.file}: {key}: {error}") from error
    return _construct(config, key, cls, options, inside, "retrievers")


def build_index(
    config: Config,
    documents: Iterable[Document],
    parts: Sequence[str] = ("bm25", "dense"),
    *,
    folder: str | Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Index:
    """An index of `documents` with these parts, set as [retriever] says; with a `folder` it is written there."""
    from secondpass.retrievers.index import Index

    made: list[Part] = [_part(config.retriever, name) for name in parts]
    return Index.build(documents, made, fields=config.retriever.fields, folder=folder, on_progress=on_progress)


def _part(table: RetrieverTable, name: str) -> Part:
    if name == "bm25":
        from secondpass.retrievers.bm25 import Postings

        return Postings(k1=table.k1, b=table.b, language=None if table.language == "none" else table.language)
    from secondpass.embedding import open_encoder
    from secondpass.retrievers.dense import Vectors

    return Vectors(open_encoder(table.encoder))


def build_stages(config: Config) -> tuple[Stage, ...]:
    """The stages, first to last. Raises ConfigError as `build_reranker`."""
    return tuple(
        Stage(build_reranker(config, f"stages[{position}]", table), table.depth, table.budget_ms)
        for position, table in enumerate(config.stages)
    )


def build_selectors(config: Config) -> tuple[Selector, ...]:
    """The selectors, first to last.

    Raises ConfigError, with the key, for an unknown selector or an option that it does not take.
    """
    own = [name for name in SelectTable.__struct_fields__ if name not in ("selector", "options")]
    made: list[Selector] = []
    for position, table in enumerate(config.select):
        key = f"select[{position}]"
        cls = _resolve(config, f"{key}.selector", "selector", table.selector)
        made.append(_construct(config, key, cls, _options(config, key, table, own)))
    return tuple(made)


def build_reranker(config: Config, key: str, table: RerankerTable) -> Reranker:
    """The reranker that the table at `key` describes.

    Raises ConfigError, with the key, for an unknown reranker or an option that it does not take.
    """
    own = [name for name in RerankerTable.__struct_fields__ if name not in ("reranker", "rerankers", "options")]
    options = _options(config, key, table, own)
    cls = _resolve(config, f"{key}.reranker", "reranker", table.reranker)
    usual = getattr(cls, "key_variable", None)  # of a service: where its key usually is
    if usual is not None and "key" not in options and (known := config.variable(usual(options))):
        options["key"] = known
    inside = [
        build_reranker(config, f"{key}.rerankers[{position}]", one) for position, one in enumerate(table.rerankers)
    ]
    reranker: Reranker = _construct(config, key, cls, options, inside)
    return reranker


def _options(config: Config, key: str, table: RerankerTable | SelectTable, own: Sequence[str]) -> dict[str, Any]:
    """What a constructor is given: those of a table's `own` keys that are set, and its `options`."""
    chosen = {name: getattr(table, name) for name in own if getattr(table, name) is not None}
    if twice := chosen.keys() & table.options.keys():
        raise ConfigError(f"{config.file}: {key}.options.{min(twice)} is also set as {key}.{min(twice)}; keep one")
    return chosen | {name: _given(config, f"{key}.options.{name}", value) for name, value in table.options.items()}


def _given(config: Config, key: str, value: Any) -> Any:
    """An option's value, "$NAME" looked up. Raises ConfigError where there is no such variable."""
    name = re.fullmatch(r"\$([A-Za-z_][A-Za-z0-9_]*)", value) if isinstance(value, str) else None
    if name is None:
        return value
    found = config.variable(name[1])
    if not found:
        raise ConfigError(f"{config.file}: {key}: the environment has no {name[1]}; set it, or another value")
    return found


def _resolve(config: Config, key: str, kind: Kind, name: str) -> Any:
    try:
        return resolve(kind, name)
    except InputError as error:
        raise ConfigError(f"{config.file}: {key}: {error}") from error


def _construct(
    config: Config,
    key: str,
    cls: Any,
    options: Mapping[str, Any],
    inside: Sequence[Any] = (),
    others: Literal["rerankers", "retrievers"] = "rerankers",
) -> Any:
    signature = inspect.signature(cls)
    of_others = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in signature.parameters.values())
    if inside and not of_others:
        raise ConfigError(f"{config.file}: {key}.{others}: {cls.__name__} is not made of others; leave them out")
    try:
        signature.bind(*inside, **options)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "nothing"
        hint = f" (other {others} as [[{_plain(key)}.{others}]])" if of_others else ""
        raise ConfigError(f"{config.file}: {key}: {cls.__name__} {error}; it takes: {takes}{hint}") from error
    try:
        return cls(*inside, **options)
    except ConfigError:
        raise
    except InputError as error:
        raise ConfigError(f"{config.file}: {key}: {error}") from error


def _plain(key: str) -> str:
    """The name of a table: its key without positions."""
    return re.sub(r"\[\d+\]", "", key)


def _explain(message: str) -> str:
    """msgspec's "… - at `$.stages[0].depth`" with the key first, and the nearest known key for a misspelt one."""
    what, _, at = message.partition(" - at ")
    key = at.strip("`").removeprefix("$").removeprefix(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    if not unknown:
        return f"{key}: {what[0].lower()}{what[1:]}" if key else what
    table = re.sub(r"(\.re(rankers|trievers))+$", r"\1", _plain(key))
    struct = {
        "collection": CollectionTable,
        "retriever": RetrieverTable,
        "retriever.retrievers": RetrieverTable,
        "stages": StageTable,
        "select": SelectTable,
        "stages.rerankers": RerankerTable,
        "serve.models.rerankers": RerankerTable,
        "budget": BudgetTable,
        "price": PriceTable,
        "systems": SystemTable,
        "serve": ServeTable,
        "serve.models": ServedTable,
        "serve.keys": KeyTable,
        "serve.shadow": ShadowTable,
        "request_log": RequestLogTable,
        "watch": WatchTable,
        "ray": RayTable,
    }.get(table, _Tables)
    known = struct.__struct_fields__
    close = difflib.get_close_matches(unknown[1], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
    return f"{key}.{unknown[1]}: unknown key; {hint}".lstrip(".")
