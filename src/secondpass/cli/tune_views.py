"""What `secondpass tune` found, for a terminal of 80 columns.

Knows: layout. Refuses to know: how anything was chosen, measured or written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secondpass.evaluation.metrics import parse_metric
from secondpass.evaluation.wording import clean, counted, signed

if TYPE_CHECKING:
    from secondpass.cli.tune import Verified
    from secondpass.evaluation.tuner import Difference, Tuned

__all__ = ["how_chosen", "show"]


def show(tuned: Tuned, verified: Verified | None, notes: Sequence[str], console: Console) -> None:
    """Print the choice, what it reached on both halves and when it was run, the Pareto front, and the notes."""
    console.print(Text(clean(str(tuned.chosen)), "bold"))
    console.print(Text(how_chosen(tuned), "dim"))
    console.print()
    console.print(_reached(tuned, verified))
    for line in _differences(tuned):
        console.print(line)
    console.print()
    console.print(Text("Pareto front of the choosing half, times by estimate", "bold"))
    console.print(_front(tuned))
    for note in notes:
        console.print(Text(f"• {clean(note)}", "dim"))


def how_chosen(tuned: Tuned) -> str:
    """The rule, and how much there was to choose from, in one sentence."""
    label = parse_metric(tuned.metric).label
    queries = counted(len(tuned.choosing), "query", "queries")
    budget = "" if tuned.budget_ms is None else f", {tuned.within:,} of them within {tuned.budget_ms:g} ms (p99)"
    if tuned.tied == 1:
        which = f"the best {label} on {queries}, which no cheaper one reaches within a standard error"
    else:
        which = (
            f"the cheapest of {tuned.tied:,} whose {label} on {queries} is at most a standard error, and at most "
            f"{tuned.delta:g}, below the best"
        )
    return f"of {counted(tuned.tried, 'setting')}{budget}: {which}"


def _reached(tuned: Tuned, verified: Verified | None) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for title in ("", parse_metric(tuned.metric).label, "95 % interval", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(title, justify="right" if title else "left", no_wrap=bool(title), overflow="fold")
    chosen, best = tuned.chosen_point, tuned.best
    table.add_row(f"chosen on {counted(len(tuned.choosing), 'query', 'queries')}", style="dim")
    table.add_row("  the chosen one", f"{chosen.value:.3f}", "", _ms(chosen.p50_ms), "", _ms(chosen.p99_ms))
    table.add_row(f"  best: {best.setting}", f"{best.value:.3f}", "", _ms(best.p50_ms), "", _ms(best.p99_ms))
    table.add_row(f"reported on {len(tuned.reporting):,} others", style="dim")
    cells = (f"{tuned.value:.3f}", _interval(tuned.interval), _ms(tuned.p50_ms), "", _ms(tuned.p99_ms))
    table.add_row("  the chosen one", *cells, style="bold")
    if verified is not None:
        took = verified.latency
        times = (_ms(took.p50_ms), _ms(took.p95_ms), _ms(took.p99_ms))
        table.add_row("  the same, really run", f"{verified.value:.3f}", "", *times, style="bold")
    table.add_row("  no reranking", f"{tuned.unranked_value:.3f}", "", "0", "", "0")
    table.add_row(f"  default: {tuned.default}", f"{tuned.default_value:.3f}", "", "", "", _ms(tuned.default_p99_ms))
    return table


def _differences(tuned: Tuned) -> list[Text]:
    label = parse_metric(tuned.metric).label
    rows = (("no reranking", tuned.gain), (f"the default ({tuned.default})", tuned.over_default))
    return [Text(f"{label} over {name}: {difference(one)}") for name, one in rows]


def difference(one: Difference) -> str:
    """Such as "+0.041 [+0.012, +0.070], p = 0.0031"."""
    low, high = one.interval
    p = "p < 0.0001" if one.p < 0.0001 else f"p = {one.p:.2g}"
    return f"{signed(one.mean)} [{signed(low)}, {signed(high)}], {p}"


def _front(tuned: Tuned) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for title in ("setting", parse_metric(tuned.metric).label, "p50 ms", "p99 ms", ""):
        table.add_column(title, justify="left" if title in ("setting", "") else "right")
    for point in tuned.front:
        mark = "chosen" if repr(point.setting) == repr(tuned.chosen) else "" if point.fits else "over budget"
        cells = (str(point.setting), f"{point.value:.3f}", _ms(point.p50_ms), _ms(point.p99_ms), mark)
        table.add_row(*cells, style="bold" if mark == "chosen" else "" if point.fits else "dim")
    return table


def _interval(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 10 or not milliseconds else f"{milliseconds:.1f}"
