"""secondpass calibrate: a threshold on probabilities that costs no more relevance than you allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from secondpass.cascade import Cascade
from secondpass.cli.measured import first_queries
from secondpass.cli.options import (
    AllowOption,
    CollectionOption,
    ConfigOption,
    DepthOption,
    FamilyOption,
    IndexOption,
    JsonOption,
    ModelOption,
    QueriesOption,
    RetrieverOption,
    SplitOption,
    configured,
)
from secondpass.cli.terminal import Update, bar, print_json, results, say
from secondpass.config import Config, build_cascade, open_collection
from secondpass.evaluation.collections import Collection
from secondpass.selection.risk import fewest_queries, find_guarantee
from secondpass.types import Ranking

CONTROL = "risk-control"


def command(
    collection: CollectionOption = None,
    split: SplitOption = None,
    index: IndexOption = None,
    queries: QueriesOption = None,
    alpha: Annotated[
        float,
        typer.Option("--alpha", metavar="SHARE", help="Of a query's relevant candidates, how many may go."),
    ] = 0.1,
    grade: Annotated[int, typer.Option("--grade", metavar="N", min=1, help="Relevant from this judgment on.")] = 1,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the guarantee goes.")] = Path(
        "guarantee.json"
    ),
    retriever: RetrieverOption = None,
    model: ModelOption = None,
    family: FamilyOption = None,
    allow: AllowOption = None,
    depth: DepthOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Find a threshold on P(relevant) that keeps a guarantee, for prompts.

    Runs the pipeline over judged queries. Of the relevant candidates of a
    query like them, at most the share --alpha is then removed, in
    expectation (conformal risk control).

    Examples:

    $ secondpass calibrate --collection my-collection --split dev --alpha 0.1
    """
    if not 0 < alpha < 1:
        raise typer.BadParameter("give a share between 0 and 1", param_hint="--alpha")
    settings = configured(
        config,
        collection=collection,
        split=split,
        index=index,
        retriever=retriever,
        model=model,
        family=family,
        allow=allow,
        depth=depth,
    )
    judged = first_queries(open_collection(settings), queries)
    with bar("preparing", len(judged.documents)) as update:
        cascade = build_cascade(_before_control(settings), judged.documents.values(), on_progress=update)
    with bar("reranking", len(judged.queries)) as update:
        found = find_guarantee(_ranked(cascade, judged, update), judged.qrels, alpha=alpha, grade=grade)
    found.write(out)
    if json:
        print_json(found)
    else:
        results.print(f"threshold    {found.threshold:.4g}")
        results.print(f"risk         at most {alpha:g} in expectation; on these queries {found.risk:.4f}")
        results.print(f"queries      {found.queries:,} with a relevant candidate")
        results.print(f"candidates   {found.kept:.1%} stay")
    if not found.enough:
        say(
            f"{found.queries:,} queries are too few for alpha {alpha:g}: it takes {fewest_queries(alpha):,}. "
            "Until then nothing is removed",
            style="yellow",
        )
    say(f'{out} is for secondpass.toml: a table [[select]] with selector = "{CONTROL}" and guarantee = "{out}"')


def _before_control(settings: Config) -> Config:
    """The settings with those selectors only that the threshold's candidates pass first."""
    names = [table.selector for table in settings.select]
    before = settings.select[: names.index(CONTROL)] if CONTROL in names else ()
    replaced: Any = msgspec.structs.replace
    return replaced(settings, select=before)  # type: ignore[no-any-return]


def _ranked(cascade: Cascade, judged: Collection, update: Update) -> Iterator[Ranking]:
    for done, (query_id, query) in enumerate(judged.queries.items(), 1):
        ranked = cascade.rerank(cascade.first_stage(query, 1))
        yield replace(cascade.select(ranked), query_id=query_id)
        update(done)
