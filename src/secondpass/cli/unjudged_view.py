"""The report without judgments, for a terminal of 80 columns.

Knows: layout. Refuses to know: how anything was computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from secondpass.evaluation.systems import Latency
from secondpass.evaluation.unjudged import Estimate, Unjudged, findings, limits
from secondpass.evaluation.wording import clean, counted

__all__ = ["show_unjudged"]


def show_unjudged(report: Unjudged, console: Console) -> None:
    """Print `report` to `console`: the numbers, what they tell, what they cannot."""
    width = min(console.width, 100)
    first, second = map(clean, report.names)
    console.print(Text("NO JUDGMENTS, NO VERDICT", "bold cyan"))
    queries = counted(report.queries, "query", "queries")
    console.print(Text(f"{first} → {second} · {queries} · depth {report.depth:,}", "dim"), width=width)
    console.print(Padding(_numbers(report), (1, 0, 0, 0)), width=width)
    for title, sentences in (
        ("What this tells", findings(report)),
        ("What it cannot know", limits(report)),
        ("Notes", report.notes),
    ):
        if sentences:
            console.print()
            console.print(Text(title, "bold"))
            console.print(_list(sentences), width=width)


def _numbers(report: Unjudged) -> Table:
    k = report.k
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("95% interval", justify="right")

    def estimate(name: str, value: Estimate | None, form: str) -> None:
        if value is None:
            table.add_row(f"  {name}", "unknown")
            return
        known = isfinite(value.low) and isfinite(value.high)
        interval = f"{value.low:{form}} to {value.high:{form}}" if known else "unknown"
        table.add_row(f"  {name}", *(text.replace("-", "−") for text in (f"{value.value:{form}}", interval)))

    table.add_row(Text("How much changes", "bold"))
    estimate("queries with another first result", report.first_changed, ".0%")
    estimate(f"queries with another set of the top {k}", report.set_changed, ".0%")
    estimate(f"queries with another order of the top {k}", report.order_changed, ".0%")
    estimate(f"share of the top {k} in both orders", report.overlap, ".0%")
    estimate("rank-biased overlap, p = .9", report.rbo, ".3f")
    estimate("Kendall's τ over the pool", report.tau, ".3f")
    table.add_row(Text(f"Where the new top {k} was before", "bold"))
    for rank, beyond in report.from_beyond.items():
        estimate(f"beyond rank {rank}", beyond, ".1%")
    if report.median_rank is not None:
        table.add_row("  median rank, deepest rank", f"{report.median_rank:,.0f}, {report.deepest_rank:,}")
    for share, depth in report.depths.items():
        table.add_row(
            f"  depth for the same top {k}, {share:.0%} of queries", "none" if depth is None else f"{depth:,}"
        )
    table.add_row(Text("What it costs", "bold"))
    table.add_row("  reranking a query, p50 / p99", _times(report.added_latency))
    table.add_row("  first stage, p50 / p99", _times(report.first_latency))
    price = report.added_per_1000
    table.add_row("  1,000 rerankings", "no price given" if price is None else f"{price:,.4g} {clean(report.currency)}")
    margins = ["no scores" if margin is None else f"{margin:.3g}" for margin in report.margins]
    table.add_row(Text("Score of the first over the second, median", "bold"))
    for name, margin in zip(report.names, margins, strict=True):
        table.add_row(f"  {clean(name)}", margin)
    return table


def _list(sentences: Iterable[str]) -> Table:
    table = Table.grid(padding=(0, 1))
    for sentence in sentences:
        table.add_row("•", Text(clean(sentence)))
    return table


def _times(latency: Latency | None) -> str:
    if latency is None:
        return "not timed"
    return " / ".join(f"{ms:,.0f}" if ms >= 10 else f"{ms:.1f}" for ms in (latency.p50_ms, latency.p99_ms)) + " ms"
