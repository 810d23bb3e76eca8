"""Pieces of a page: foreign text made harmless, tables, numbers.

Knows: HTML and its escaping. Refuses to know: what is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from secondpass.evaluation.wording import clean

__all__ = ["Column", "table", "text"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column's head. `kind`: "words", "prose" (sentences), "number" (at the right, sorted so) or "key" (ids)."""

    title: str
    kind: str = "words"


def text(words: str) -> str:
    """Any text as text of a page: one line, nothing in it is markup."""
    return escape(clean(words))


def table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], *, title: str, caption: str = "", sortable: bool = False
) -> str:
    """A table of plain texts, in a frame that scrolls sideways where it is too wide. `title` is what it is called."""
    classes = "sortable" if sortable else "plain"
    head = "".join(f'<th scope="col" class="{column.kind}">{text(column.title)}</th>' for column in columns)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{column.kind}">{text(cell)}</td>' for column, cell in zip(columns, row, strict=True))
        + "</tr>\n"
        for row in rows
    )
    shown = f"<caption>{text(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide" role="region" aria-label="{text(title)}" tabindex="0"><table class="{classes}">{shown}'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )
