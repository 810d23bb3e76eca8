"""Models and their self-test as tables for a terminal of 80 to 100 columns.

Knows: layout. Refuses to know: how anything was found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from secondpass.cli.model_rows import Listed
from secondpass.evaluation.wording import clean, counted, money
from secondpass.scoring.self_test import Check

__all__ = ["show_checks", "show_list", "show_model"]

_NONE = "–"
_WIDEST = 100
_NAME = 24  # places that names need; where there are fewer these columns give way:
_GIVE_WAY = ("lan-\nguages", "length\ntokens")
_COLOURS = {"ok": "green", "failed": "bold red", "warning": "yellow", "skipped": "dim"}
_HERE = {"ships": "ships", "cached": "cached", "needs torch": "torch?", "not here": _NONE}
_ALLOWED = {"licence": "!", "remote-code": "†"}


def show_list(rows: Sequence[Listed], machine_hour: float | None, currency: str, console: Console) -> None:
    """One line a model where there is room; long names go on in the next line."""
    width = min(console.width, _WIDEST)
    prices = machine_hour is not None
    columns = {
        "\nmodel": [row.name for row in rows],
        "param.\nM": [f"{row.parameters:,.0f}" for row in rows],
        "length\ntokens": [_NONE if row.max_length is None else f"{row.max_length:,}" for row in rows],
        "lan-\nguages": [_languages(row.languages) for row in rows],
        "\nlicence": [f"{row.licence}{''.join(_ALLOWED[one] for one in row.needs)}" for row in rows],
        "\nhere": [_HERE[row.here] for row in rows],
        "s / M\ntokens": [_seconds(row) for row in rows],
        f"{clean(currency)} / M\ntokens": [_price(row, machine_hour) for row in rows] if prices else [],
    }
    gap = 2 if width == _WIDEST else 1
    table = Table(box=SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), show_edge=False, pad_edge=False)
    kept = {title: cells for title, cells in columns.items() if cells}
    left_out: list[str] = []
    while (room := width - sum(gap + _wide(*one) for one in list(kept.items())[1:])) < _NAME and len(left_out) < 2:
        left_out.append(_GIVE_WAY[len(left_out)])
        del kept[left_out[-1]]
    for title in kept:
        justify: JustifyMethod = "left" if title in ("\nmodel", "lan-\nguages", "\nlicence", "\nhere") else "right"
        named = title == "\nmodel"
        table.add_column(title, justify=justify, no_wrap=not named, overflow="fold")
    for cells in zip(*kept.values(), strict=True):
        table.add_row(Text(_broken(clean(cells[0]), room)), *(Text(clean(one)) for one in cells[1:]))
    console.print(table, width=width)
    for sentence in _legend(rows):
        console.print(Text(sentence, "dim"), width=width)
    if left_out:
        words = " and ".join(title.replace("-\n", "").replace("\n", ", ") for title in left_out)
        console.print(Text(f"{words}: in a wider terminal, and in --json", "dim"), width=width)


def _wide(title: str, cells: Sequence[str]) -> int:
    """How many places a column takes."""
    return max(map(len, (*title.split("\n"), *cells)))


def _broken(name: str, room: int) -> str:
    """A name on lines of at most `room`, broken behind a slash or a hyphen."""
    lines = [""]
    for part in re.split(r"(?<=[/-])", name):
        if lines[-1].strip() and len(lines[-1]) + len(part) > room:
            lines.append("  ")
        lines[-1] += part
    return "\n".join(lines)


def _languages(languages: Sequence[str]) -> str:
    if languages == ("multilingual",):
        return "many"
    return " ".join(languages) if len(languages) < 3 else str(len(languages))


def _seconds(row: Listed) -> str:
    if row.seconds is None:
        return _NONE
    return f"{'≈ ' if row.how == 'estimated' else ''}{_digits(row.seconds)}"


def _digits(value: float) -> str:
    """Two digits at least: the machine is not steadier than that."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _price(row: Listed, machine_hour: float | None) -> str:
    price = row.price(machine_hour)
    if price is None:
        return _NONE
    return f"{'≈ ' if row.how == 'estimated' else ''}{money(price, '')}"


def _legend(rows: Sequence[Listed]) -> list[str]:
    found = [
        (
            any("licence" in row.needs for row in rows),
            "! a licence that is not known to allow commercial use: opened with allow=['licence'] alone",
        ),
        (
            any("remote-code" in row.needs for row in rows),
            "† runs code from its own repository: opened with allow=['remote-code'] alone",
        ),
        (any(row.here == "needs torch" for row in rows), "torch? in the cache, and runs with the extra `torch`"),
        (
            any(row.here == "not here" for row in rows),
            "– not here: fetched when it is first opened by its name",
        ),
        (
            any(row.how == "estimated" for row in rows),
            "≈ estimated: secondpass-mini's, measured here and now, by the ratio of multiply-adds; the others measured",
        ),
    ]
    return [said for there, said in found if there]


def show_model(row: Mapping[str, Any], console: Console) -> None:
    """All that is known of one model, a line for each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("model", Text.assemble((clean(row["name"]), "bold"), f", {row['kind']}"))
    size = f"{row['bytes'] / 1e6:,.1f} MB on disk"
    lines: list[tuple[str, str]] = []
    if row["kind"] == "reranker":
        lines += [
            ("size", f"{size}, {row['layers']} layers of {row['hidden']}"),
            ("max length", f"{row['max_length']:,} tokens for query and document together, {row['longest']:,} at most"),
            ("family", f"{row['family']} ({row['head']}), {_verified(row)}"),
            ("source", row["source"]),
            ("template", f"{row['template']}, {counted(row['template_tokens'], 'token')} beside query and document"),
            ("activation", row["activation"]),
        ]
    else:
        lines += [("size", f"{size}, {row['dimensions']} dimensions"), ("max length", "none: whole texts are read")]
    lines += [
        ("languages", ", ".join(row["languages"]) or "not stated in the folder"),
        ("licence", row["licence"]),
        ("digest", row["digest"]),
    ]
    if row["kind"] == "reranker":
        lines.append(("here", f"{row['precision']} on {row['engine']}, {row['threads']} threads ({row['why']})"))
        lines += [("note", row["note"])] if row["note"] else []
    for title, words in lines:
        table.add_row(title, Text(clean(words)))
    console.print(table)
    console.print()


def _verified(row: Mapping[str, Any]) -> str:
    if row["verified"]:
        return "proven on real weights"
    return "never run on real weights where this was written: see docs/models.md"


def show_checks(model: str, checks: Sequence[Check], console: Console) -> None:
    """A line a check: how it went, the number, and what was tried."""
    width = min(console.width, _WIDEST)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        number = "" if check.value is None else f"{check.value:.2g} of at most {check.allowed:.2g}: "
        table.add_row(
            Text(check.state, _COLOURS[check.state]), Text(check.name, "bold"), Text(f"{number}{clean(check.said)}")
        )
    console.print(Text(clean(model), "bold"), width=width)
    console.print(table, width=width)
    failed = sum(check.state == "failed" for check in checks)
    tried = sum(check.state != "skipped" for check in checks)
    words = f"{failed} of {tried} failed" if failed else f"all {tried} hold"
    console.print(Text(words, "bold red" if failed else "green"))
