"""Two views of an `AuditDiff`: a terminal of 80 columns, and Markdown for a pull request.

Knows: layout. Refuses to know: how anything was computed, files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secondpass.evaluation.difference import AuditDiff, Change, Moved, Pair
from secondpass.evaluation.metrics import parse_metric
from secondpass.evaluation.report import story
from secondpass.evaluation.report.pull_request import SIGNS, cell, folded, table
from secondpass.evaluation.report.screen import COLOURS, Page
from secondpass.evaluation.verdict import Decision
from secondpass.evaluation.wording import clean, counted, money, signed

__all__ = ["markdown_diff", "terminal_diff"]

_EXAMPLES = 5
_HEAD = ("", "before", "after", "change", "95% interval", "p")


def terminal_diff(found: AuditDiff, console: Console) -> None:
    """Print what changed to `console`: the words, the numbers, the queries that moved most, the notes."""
    page = Page(console)
    page.panel(_words(found), _sentence(found), _colour(found))
    for when, names, reason in zip(("before", "after"), found.names, found.reasons, strict=True):
        page.put(Text.assemble((f"{when}: ", "bold"), clean(" → ".join(names)), (f"\n{clean(reason)}", "dim")))
    numbers = Table.grid(padding=(0, 2))
    for at, _ in enumerate(_HEAD):
        numbers.add_column(justify="right" if at else "left", no_wrap=0 < at < 4)
    numbers.add_row(*(Text(name, "dim") for name in _HEAD))
    for row in _rows(found):
        numbers.add_row(*(Text(part) for part in row))
    page.put(numbers)
    page.put(Text(_turned(found)))
    for title, moved in (("Worse now", found.worse), ("Better now", found.better)):
        if moved:
            page.put(_queries(title, moved[:_EXAMPLES]))
    page.notes(found.notes)


def markdown_diff(found: AuditDiff) -> str:
    """What changed, as Markdown for a pull request. Ends with a newline."""
    blocks = [
        f"### {_words(found, signs=True)}",
        cell(_sentence(found), most=2_000),
        table(_HEAD, _rows(found)),
        _turned(found),
    ]
    for title, moved in (("worse now", found.worse), ("better now", found.better)):
        if moved:
            rows = [
                (cell(one.query or one.query_id), f"{one.before:.3f}", f"{one.after:.3f}", signed(one.difference))
                for one in moved[:_EXAMPLES]
            ]
            blocks.append(table((title, "before", "after", "change"), rows))
    reasons = [
        f"- {when} ({cell(' → '.join(names))}): {cell(reason, most=2_000)}"
        for when, names, reason in zip(("before", "after"), found.names, found.reasons, strict=True)
    ]
    blocks.append(folded("The two verdicts", "\n".join(reasons)))
    if found.notes:
        notes = "\n".join(f"- {cell(one, most=2_000)}" for one in found.notes)
        blocks.append(folded(f"Notes ({len(found.notes)})", notes))
    return "\n\n".join(blocks) + "\n"


def _words(found: AuditDiff, *, signs: bool = False) -> str:
    words = [f"{SIGNS[Decision(word)]} {word}" if signs else word for word in found.decisions]
    return f"{words[0]}, as before" if found.decisions[0] == found.decisions[1] else " → ".join(words)


def _colour(found: AuditDiff) -> str:
    return COLOURS[Decision(found.decisions[1])]


def _sentence(found: AuditDiff) -> str:
    label = parse_metric(found.metric).label
    change = found.reranked
    low, high = change.interval
    how = "rose" if low > 0.0 else "fell" if high < 0.0 else "is not shown to have changed"
    return (
        f"On {counted(found.queries, 'query', 'queries')}, {label} after reranking {how}: {change.before:.3f} → "
        f"{change.after:.3f} ({signed(change.difference)}, 95% interval {story.between(change.interval)})."
    )


def _rows(found: AuditDiff) -> list[tuple[str, ...]]:
    label = parse_metric(found.metric).label
    rows = [
        _change(f"{label}, reranked", found.reranked),
        _change(f"{label}, first stage", found.first),
        _change("gain of reranking", found.gain),
        _pair("recall of the pool", found.recall, lambda value: f"{value:.3f}"),
    ]
    if found.p99_ms != Pair(None, None):
        rows.append(_pair("added p99", found.p99_ms, story.milliseconds))
    currency = found.currency
    if currency is not None and found.cost != Pair(None, None):
        rows.append(_pair("added to 1,000 queries", found.cost, lambda value: money(value, currency)))
    return rows


def _change(name: str, change: Change) -> tuple[str, ...]:
    return (
        name,
        f"{change.before:.3f}".replace("-", "−"),
        f"{change.after:.3f}".replace("-", "−"),
        signed(change.difference),
        story.between(change.interval),
        story.p_value(change.p_value),
    )


def _pair(name: str, pair: Pair, written: Callable[[float], str]) -> tuple[str, ...]:
    before, after = ("unknown" if value is None else written(value) for value in (pair.before, pair.after))
    moved = pair.difference
    sign = "" if moved is None or moved == 0.0 else "+" if moved > 0.0 else "−"
    return name, before, after, "" if moved is None else sign + written(abs(moved)), "", ""


def _turned(found: AuditDiff) -> str:
    return (
        f"{counted(len(found.failed), 'query fails', 'queries fail')} now that did not (nothing relevant is left in "
        f"what the metric sees), and {counted(len(found.recovered), 'query recovers', 'queries recover')}."
    )


def _queries(title: str, moved: Sequence[Moved]) -> Table:
    lines = Table.grid(padding=(0, 2), expand=True)
    lines.add_column(justify="right", no_wrap=True)
    lines.add_column(no_wrap=True)
    lines.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    lines.add_row("", "", Text(title, "bold"))
    for one in moved:
        query = Text(clean(one.query) or clean(one.query_id))
        lines.add_row(signed(one.difference), f"{one.before:.3f} → {one.after:.3f}", query)
    return lines
