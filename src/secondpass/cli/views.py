"""A ranking as data, as the lines of a run, as a table, and its trace as one line.

Knows: what of a ranking people and machines want to see. Refuses to know: where it came from.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from secondpass.evaluation.trec import write_run
from secondpass.evaluation.wording import clean, counted
from secondpass.types import Document, Hit, Ranking, StageTrace, Status

__all__ = [
    "failure",
    "failure_note",
    "hits_table",
    "language_note",
    "looks_foreign",
    "ranking_data",
    "ranking_line",
    "removal_note",
    "removals",
    "removed_lines",
    "run_lines",
    "scored_ids",
    "trace_line",
]

_REMOVED = 5  # of which people are told why; --json has all


def ranking_data(ranking: Ranking, *, trace: bool, texts: bool = False) -> dict[str, Any]:
    """{"query_id", "hits": [{"id", "score", "status", "first_rank"}]}; if asked for, with trace, query and texts.

    A hit has a "probability" where the model is calibrated.
    """
    hits: list[dict[str, Any]] = []
    for hit in ranking.hits:
        row: dict[str, Any] = {"id": hit.document.id, "score": hit.score, "status": hit.status.value}
        row["first_rank"] = hit.first_rank
        if hit.probability is not None:
            row["probability"] = hit.probability
        if texts:
            row |= {"first_score": hit.first_score, "title": hit.document.title, "text": hit.document.text}
        hits.append(row)
    data: dict[str, Any] = {"query_id": ranking.query_id}
    if texts:
        data["query"] = ranking.query
    data["hits"] = hits
    if trace:
        data["trace"] = [_trace_data(step) for step in ranking.trace]
    return data


def ranking_line(ranking: Ranking, *, trace: bool, texts: bool = False) -> bytes:
    """`ranking_data` as one line of JSON."""
    return msgspec.json.encode(ranking_data(ranking, trace=trace, texts=texts)) + b"\n"


def run_lines(ranking: Ranking) -> bytes:
    """The lines of a TREC run; an unscored hit keeps its place (see `write_run`)."""
    text = io.StringIO()
    write_run({ranking.query_id: scored_ids(ranking)}, text)
    return text.getvalue().encode()


def scored_ids(ranking: Ranking) -> list[tuple[str, float]]:
    """(document id, score) in order; minus infinity where there is no score."""
    return [(hit.document.id, -math.inf if hit.score is None else hit.score) for hit in ranking.hits]


def trace_line(ranking: Ranking) -> str:
    """What each step did, in one line: `bm25 3 ms, 100 found  ›  secondpass-mini 412 ms, 100 pairs, …`."""
    return "  ›  ".join(map(_step, ranking.trace))


def looks_foreign(ranking: Ranking) -> str:
    """The languages of the model that a step warned it was not asked in, such as "English"; "" without a warning."""
    return next((step.detail["language"]["model"] for step in ranking.trace if "language" in step.detail), "")


def language_note(warned: Counter[str], total: int) -> str:
    """One sentence on the requests, of so many, that were warned about; `warned` counts them by `looks_foreign`."""
    model = warned.most_common(1)[0][0]
    return (
        f"{warned.total():,} of {counted(total, 'query', 'queries')} look not {model}, or most of their documents; "
        f"the model was trained on {model} only, so its scores for them may mean little"
    )


def failure(ranking: Ranking) -> str:
    """Why a step failed, in whole or in part, as the trace tells it; "" where none did."""
    return next((str(step.detail["failed"]) for step in ranking.trace if step.detail.get("failed")), "")


def failure_note(failed: Counter[str], total: int) -> str:
    """One sentence on the requests, of so many, for which a step failed; `failed` counts them by `failure`."""
    why, often = failed.most_common(1)[0]
    others = "" if often == failed.total() else f", {often:,} times; see the traces for others"
    return f"for {failed.total():,} of {counted(total, 'query', 'queries')} a step failed ({why}{others})"


def removals(ranking: Ranking) -> Counter[str]:
    """How many documents each selector removed."""
    found = Counter[str]()
    for step in ranking.trace:
        if removed := step.detail.get("removed"):
            found[step.name] += len(removed)
    return found


def removal_note(removed: Counter[str]) -> str:
    """One sentence on what selectors removed from many answers; `removed` adds up their `removals`."""
    by = ", ".join(f"{count:,} by {name}" for name, count in removed.items())
    return f"{counted(removed.total(), 'document')} removed for prompts: {by}; the traces say which and why"


def removed_lines(ranking: Ranking) -> list[str]:
    """A line for each selector that removed anything: the first ids with their reasons."""
    lines = []
    for step in ranking.trace:
        removed: Mapping[str, str] = step.detail.get("removed", {})
        if removed:
            first = [f"{clean(name)} ({clean(reason)})" for name, reason in list(removed.items())[:_REMOVED]]
            more = f", and {len(removed) - _REMOVED:,} more" if len(removed) > _REMOVED else ""
            lines.append(f"{step.name} removed {', '.join(first)}{more}")
    return lines


def hits_table(ranking: Ranking, *, reranked: bool) -> Table:
    """Two lines a hit: id and title, then how the text begins. `was` is the first stage's rank."""
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True, header_style="dim")
    table.add_column("#", justify="right", style="bold", no_wrap=True)
    if reranked:
        table.add_column("was", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("document", ratio=1, no_wrap=True, overflow="ellipsis")
    for rank, hit in enumerate(ranking.hits, 1):
        moved = [_moved(hit, rank)] if reranked else []
        table.add_row(str(rank), *moved, _score(hit), _heading(hit.document))
        if begins := _begins(hit.document):
            table.add_row("", *([""] if reranked else []), "", Text(begins, "dim"))
    return table


def _step(step: StageTrace) -> str:
    parts = [f"{step.name} {1000 * step.seconds:,.0f} ms"]
    if step.pairs_scored:
        parts.append(f"{step.pairs_scored:,} pairs, {step.tokens:,} tokens")
    if step.truncated:
        parts.append(f"{step.truncated:,} cut to length")
    if step.skipped:
        parts.append(f"unscored ({step.skipped_because or sum(step.skipped.values())})")
    elif step.detail.get("failed"):
        parts.append(f"failed ({step.detail['failed']})")
    if "removed" in step.detail:
        parts.append(f"{len(step.detail['removed']):,} removed")
    if "engine" in step.detail:
        parts.append(f"{step.detail['engine']} {step.detail.get('precision', '')}".rstrip())
    if "language" in step.detail:
        parts.append(f"not {step.detail['language']['model']}?")
    return ", ".join(parts)


def _moved(hit: Hit, rank: int) -> Text:
    if hit.first_rank is None or hit.first_rank == rank:
        return Text("=" if hit.first_rank else "", "dim")
    up = hit.first_rank > rank
    return Text(f"{hit.first_rank} {'↑' if up else '↓'}", "green" if up else "red")


def _score(hit: Hit) -> Text:
    if hit.score is not None:
        return Text(f"{hit.score:.2f}")
    return Text(hit.status.value.replace("_", " ") if hit.status is not Status.RETRIEVED else "", "dim")


def _heading(document: Document) -> Text:
    title = clean(document.title)
    if title.startswith(document.id):
        return Text.assemble((document.id, "bold"), title.removeprefix(document.id))
    return Text.assemble((document.id, "bold"), "  ", title)


def _begins(document: Document) -> str:
    text: Any = document.text
    return clean(text[:400]) if isinstance(text, str) else ""


def _trace_data(step: StageTrace) -> dict[str, Any]:
    values = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
