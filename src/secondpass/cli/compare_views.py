"""A leaderboard as two tables: for a terminal of 80 to 100 columns, and as Markdown.

Knows: layout. Refuses to know: how anything was computed.
"""

from __future__ import annotations

from math import isfinite

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from secondpass.evaluation.leaderboard import Leaderboard, Pair, Row
from secondpass.evaluation.metrics import parse_metric
from secondpass.evaluation.wording import clean, counted, money, signed

__all__ = ["markdown", "terminal"]

_NONE = "–"
_LICENCE = 12  # letters of a licence that stay together; names give way first
Tabled = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""The titles of the columns, and the rows."""


def terminal(board: Leaderboard, console: Console) -> None:
    """Print what is best, what separates the others from it, and the notes."""
    width = min(console.width, 100)
    console.print(Text(clean(_headline(board)), "dim"), width=width)
    console.print()
    for titles, rows in (_standing(board), _behind(board)):
        table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
        for title, column in zip(titles, zip(*rows, strict=True), strict=True):
            words = title in ("system", "licence")
            least = min(max(map(len, column)), _LICENCE) if title == "licence" else None
            justify: JustifyMethod = "left" if words else "right"
            table.add_column(_broken(title), justify=justify, no_wrap=not words, overflow="fold", min_width=least)
        for cells in rows:
            table.add_row(*(Text(clean(cell)) for cell in cells))
        console.print(table, width=width)
        console.print()
    for sentence in _legend(board):
        console.print(Text(sentence, "dim"), width=width)
    if board.notes:
        console.print()
        console.print(Text("Notes", "bold"))
        for note in board.notes:
            line = Table.grid(padding=(0, 1))
            line.add_row("•", Text(clean(note)))
            console.print(Padding(line, (0, 2)), width=width)


def markdown(board: Leaderboard) -> str:
    """The same as Markdown, for a pull request or a wiki."""
    parts = [_text(_headline(board)), ""]
    for titles, rows in (_standing(board), _behind(board)):
        lines = [titles, ["---" if title in ("system", "licence") else "---:" for title in titles], *rows]
        parts += ["| " + " | ".join(map(_text, line)) + " |" for line in lines]
        parts.append("")
    parts += ["- " + sentence.replace("*", "\\*") for sentence in _legend(board)]
    parts += [f"- {_text(note)}" for note in board.notes]
    return "\n".join(parts).rstrip() + "\n"


def _headline(board: Leaderboard) -> str:
    systems = counted(len(board.rows), "system")
    return f"{systems} · {counted(board.queries, 'query', 'queries')} · depth {board.depth:,}"


def _standing(board: Leaderboard) -> Tabled:
    """One line a system; columns that nobody fills are left out."""
    currencies = {row.currency for row in board.rows if row.per_1000 is not None}
    money = currencies.pop() if len(currencies) == 1 else "cost"
    columns = {
        "rank": [str(row.rank) for row in board.rows],
        "system": [row.name for row in board.rows],
        f"{_label(board)} [95% interval]": [f"{row.mean:.3f} {_interval(row.interval)}" for row in board.rows],
        "p50 / p95 ms": [_time(row) for row in board.rows],
        f"{money} / 1,000": [_cost(row, named=money == "cost") for row in board.rows],
        "licence": [row.licence or _NONE for row in board.rows],
    }
    kept = {title: cells for title, cells in columns.items() if any(cell != _NONE for cell in cells)}
    return tuple(kept), list(zip(*kept.values(), strict=True))


def _behind(board: Leaderboard) -> Tabled:
    """What separates each system from the best, and the two numbers that say how far to trust it."""
    behind = {pair.worse: pair for pair in board.to_best()}
    titles = ("system", "to the best [95% interval]", "corrected p", f"recall @{board.depth}", "judged @10")
    others = any(pair.other_candidates for pair in behind.values())
    rows = []
    for row in board.rows:
        pair = behind.get(row.name)
        cells = [row.name, *_difference(pair), f"{row.recall:.3f}", f"{row.judged_at_10:.0%}"]
        if others:
            cells.append(f"{pair.other_candidates:,}" if pair else _NONE)
        rows.append(tuple(cells))
    return (*titles, "other candidates") if others else titles, rows


def _difference(pair: Pair | None) -> tuple[str, str]:
    if pair is None:
        return _NONE, _NONE
    low, high = pair.interval
    p = "<0.0001" if pair.corrected_p < 0.0001 else f"{pair.corrected_p:.2g}"
    return f"{signed(-pair.difference)} {_interval((-high, -low), signs=True)}", p


def _legend(board: Leaderboard) -> list[str]:
    lines = ["rank: 1 + the systems that are significantly better (p < .05, corrected by Holm over all pairs)"]
    for better, what in (("faster (p95)", "fastest"), ("cheaper", "cheapest")):
        if any(getattr(row, what) for row in board.rows):
            lines.append(f"{_MARKS[what]} Pareto front: no system compared is at least as good and {better}")
    return lines


_MARKS = {"fastest": "*", "cheapest": "$"}


def _label(board: Leaderboard) -> str:
    return parse_metric(board.metric).label


def _interval(interval: tuple[float, float], *, signs: bool = False) -> str:
    low, high = (_NONE if not isfinite(end) else signed(end) if signs else f"{end:.3f}" for end in interval)
    return f"[{low}, {high}]"


def _time(row: Row) -> str:
    if row.latency is None:
        return _NONE
    p50, p95 = (f"{ms:,.0f}" if ms >= 10 else f"{ms:.1f}" for ms in (row.latency.p50_ms, row.latency.p95_ms))
    return f"{p50} / {p95} {_MARKS['fastest'] if row.fastest else ' '}".rstrip()


def _cost(row: Row, *, named: bool) -> str:
    if row.per_1000 is None:
        return _NONE
    amount = "<0.0001" if 0.0 < row.per_1000 < 0.0001 else money(row.per_1000, "")
    return f"{amount} {row.currency if named else ''} {_MARKS['cheapest'] if row.cheapest else ''}".strip()


def _broken(title: str) -> str:
    """A title over two lines, so that the numbers decide how wide a column is."""
    for mark in (" [", " / 1", " @", " p", " c"):
        head, found, tail = title.partition(mark)
        if found:
            return f"{head}\n{mark.strip()}{tail}"
    return f"\n{title}"


def _text(text: str) -> str:
    return clean(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
