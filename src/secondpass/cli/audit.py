"""secondpass audit: is reranking worth its cost, on your own queries and judgments?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from secondpass.cli.measured import Measured, measure
from secondpass.cli.options import ConfigOption, DepthOption, JsonOption, ModelOption, RetrieverOption, configured
from secondpass.cli.terminal import bar, print_json, results, say
from secondpass.config import Config, build_cascade, open_collection
from secondpass.evaluation.audit import Decision, Verdict
from secondpass.evaluation.audit import audit as compare
from secondpass.evaluation.collections import Collection
from secondpass.evaluation.report import html as as_html
from secondpass.evaluation.report import terminal
from secondpass.evaluation.trec import read_qrels, read_run
from secondpass.evaluation.wording import counted

CHECK_FAILED = 3


def command(
    collection: Annotated[
        str | None, typer.Option("--collection", metavar="FOLDER", help="BEIR folder, or ir_datasets:NAME.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Its judgments. Without it: test.")
    ] = None,
    index: Annotated[
        str | None, typer.Option("--index", metavar="FOLDER", help="Index of it. Without it: built in memory.")
    ] = None,
    retriever: RetrieverOption = None,
    queries: Annotated[
        int | None, typer.Option("--queries", metavar="N", min=1, help="Only the first N queries.")
    ] = None,
    model: ModelOption = None,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="RUN", help="Instead of running anything: the run before,")
    ] = None,
    reranked: Annotated[Path | None, typer.Option("--reranked", metavar="RUN", help="the run after,")] = None,
    qrels: Annotated[Path | None, typer.Option("--qrels", metavar="FILE", help="and the judgments.")] = None,
    depth: DepthOption = None,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="Such as mrr@10. Without it: ndcg@10.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option("--delta", metavar="GAIN", help="The smallest gain that matters. Without it: 0.01.")
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option("--budget-ms", metavar="MS", min=0, help="What the p99 of reranking may take.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as one HTML page.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help=f"Exit with {CHECK_FAILED} where it is HARMFUL or NOT WORTH IT.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Measure whether reranking is worth its cost.

    On a collection it retrieves and reranks itself and times both; on two run
    files it needs no model.

    Examples:

    $ secondpass audit --collection my-collection --html report.html
    $ secondpass audit --baseline bm25.trec --reranked out.trec --qrels test.tsv

    Exit codes: 0 done, 1 error, 2 wrong usage, 3 what --check asks for.
    """
    settings = configured(
        config,
        collection=collection,
        split=split,
        index=index,
        retriever=retriever,
        model=model,
        depth=None if baseline else depth,
    )
    files = (baseline, reranked, qrels)
    options: dict[str, Any] = {
        "metric": metric or settings.budget.metric,
        "delta": settings.budget.delta if delta is None else delta,
        "budget_ms": settings.budget.p99_ms if budget_ms is None else budget_ms,
    }
    if any(files):
        if baseline is None or reranked is None or qrels is None or collection is not None:
            raise typer.BadParameter("give all of --baseline, --reranked and --qrels, and no --collection")
        if any(option is not None for option in (queries, index, retriever, model)):
            raise typer.BadParameter(
                "goes with --collection, not with two runs", param_hint="--queries, --index, --retriever, --model"
            )
        verdict = _audit_files(baseline, reranked, qrels, depth or settings.depth, options)
    elif settings.collection.path:
        verdict = _audit_collection(settings, queries, options)
    else:
        raise typer.BadParameter("give --collection, or --baseline, --reranked and --qrels")
    show(verdict, json=json, html=html)
    if html is not None:
        say(f"report written to {html}")
    if check and verdict.decision in (Decision.HARMFUL, Decision.NOT_WORTH_IT):
        raise typer.Exit(CHECK_FAILED)


def audit_collection(settings: Config, collection: Collection, options: dict[str, Any]) -> Verdict:
    """Run the pipeline that `settings` describe over all queries of the collection, and compare."""
    with bar("preparing", len(collection.documents)) as update:
        cascade = build_cascade(settings, collection.documents.values(), on_progress=update)
        update(len(collection.documents), note="index and model")
    pool = settings.retriever.candidates or settings.depth
    with bar("reranking", len(collection.queries)) as update:
        measured = measure(cascade, collection.queries, pool, update)
    return verdict_on(measured, collection, pool, _names(settings), options)


def verdict_on(
    measured: Measured, collection: Collection, depth: int, names: tuple[str, str], options: Mapping[str, Any]
) -> Verdict:
    """The verdict on what was measured on a collection, with the collection's own notes."""
    verdict = compare(
        measured.baseline,
        measured.reranked,
        collection.qrels,
        depth=depth,
        seconds_baseline=measured.seconds_baseline,
        seconds_reranked=measured.seconds_reranked,
        names=names,
        documents=collection.documents,
        queries=collection.queries,
        **options,
    )
    return replace(verdict, notes=(*verdict.notes, *collection.notes))


def show(verdict: Verdict, *, json: bool, html: Path | None) -> None:
    """The verdict on stdout, and as a page at `html`."""
    if html is not None:
        html.write_text(as_html(verdict), encoding="utf-8")
    if json:
        print_json(verdict.to_dict())
    else:
        terminal(verdict, results)


def _audit_files(baseline: Path, reranked: Path, qrels: Path, depth: int, options: dict[str, Any]) -> Verdict:
    notes: list[str] = []
    found: list[str] = []
    runs = []
    for path in (baseline, reranked):
        runs.append(read_run(path, notes=found))
        notes += [f"{path.name}: {note}" for note in found]
        found.clear()
    judgments = read_qrels(qrels, notes=notes)
    verdict = compare(runs[0], runs[1], judgments, depth=depth, names=(baseline.stem, reranked.stem), **options)
    return replace(verdict, notes=(*verdict.notes, *notes))


def _audit_collection(settings: Config, first: int | None, options: dict[str, Any]) -> Verdict:
    collection = open_collection(settings)
    if first is not None and first < len(collection.queries):
        kept = dict(islice(collection.queries.items(), first))
        note = f"only the first {first:,} of {counted(len(collection.queries), 'query', 'queries')}, as asked for"
        collection = replace(
            collection,
            queries=kept,
            qrels={query_id: collection.qrels[query_id] for query_id in kept},
            notes=(note, *collection.notes),
        )
    return audit_collection(settings, collection, options)


def _names(settings: Config) -> tuple[str, str]:
    """What the two orders are called: the retriever, and the last stage's model or kind."""
    last = settings.stages[-1]
    if last.reranker != "cross-encoder":
        return settings.retriever.name, last.reranker
    model = last.model or "secondpass-mini"
    return settings.retriever.name, Path(model).name if Path(model).is_dir() else model
