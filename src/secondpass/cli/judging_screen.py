"""How one document to judge looks: on a screen of any size, page by page, or in full.

Knows: layout, emphasis, what of a foreign text may reach a terminal. Refuses to know: keys, files, who judges.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from secondpass.evaluation.judging import MEANINGS, RUBRICS
from secondpass.evaluation.wording import clean, counted
from secondpass.types import Document
from secondpass.words import stemmer_of, stop_words_of, words

__all__ = ["Sheet", "end_sheet", "help_sheet", "in_full", "on_screen", "sheet"]

_WIDEST = 100
_ASKING = frozenset(("can", "did", "do", "does", "has", "have", "how", "what", "when", "where", "which", "who", "why"))
_HEAD = 6  # lines of a long query that stay in sight; the help shows all of it


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is in front of the judge: a line of where one stands, the query, the document, the keys."""

    where: Text
    query: Text
    body: Text
    keys: Text


def sheet(query: str, document: Document, *, best: int, where: str, note: str = "") -> Sheet:
    """A document for a query, with the words of the query in bold."""
    bold = _emphasis(query)
    body = Text()
    if title := clean(document.title):
        body.append_text(bold(title, "underline")).append("\n\n")
    text = _lines(document.text)
    body.append_text(bold(text) if text.strip() else Text("(no text)", "dim"))
    if note:
        body.append(f"\n\nnote: {clean(note)}", "yellow")
    grades = "   ".join(f"{grade} {meaning}" for grade, meaning in enumerate(RUBRICS[best]))
    keys = Text(f"{grades}\n", "bold").append("u undo   s skip   n note   q quit   ? help", "not bold dim")
    return Sheet(Text(clean(where), "dim"), Text(clean(query), "bold cyan"), body, keys)


def help_sheet(query: str, best: int) -> Sheet:
    """What the keys and the grades mean, and the query in full."""
    body = Text()
    for grade, (name, meaning) in enumerate(zip(RUBRICS[best], MEANINGS[best], strict=True)):
        body.append(f"{grade}  ", "bold").append(f"{name}: {meaning}\n")
    body.append(
        "\nJudge the document as it stands, for what the query asks; not whether others are better.\n\n"
        "u  take back your last judgment, and judge that document again\n"
        "s  skip: the document comes again next time\n"
        "n  write a note on the document, then judge it\n"
        "space, page down, arrows  read on; b, page up  back\n"
        "q  quit; so does Ctrl-C. Every judgment is on disk before the next document is shown.\n\n"
    )
    body.append("The query in full:\n", "dim").append(_lines(query), "bold cyan")
    return Sheet(Text("help", "dim"), Text(""), body, Text("any other key goes back", "dim"))


def end_sheet(skipped: int) -> Sheet:
    """Nothing left to judge but what was skipped."""
    left = f"{counted(skipped, 'document')} skipped; they come again next time." if skipped else "All of it is judged."
    return Sheet(
        Text("the end", "dim"), Text(), Text(left), Text("u take back your last judgment, any other key: leave")
    )


def on_screen(shown: Sheet, console: Console, start: int) -> tuple[Text, int, int]:
    """The sheet as a full screen whose document begins at line `start`: the screen, that line, and lines a page.

    `start` is brought into what there is. The rest of a document too long for the screen is announced below it.
    """
    width, height = min(console.width, _WIDEST), max(console.height, 12)

    def wrapped(text: Text) -> list[Text]:
        return list(text.wrap(console, width)) if text.plain else []

    where, query, body, keys = map(wrapped, (shown.where, shown.query, shown.body, shown.keys))
    head = min(_HEAD, height // 4)
    if len(query) > head:
        query = [*query[: head - 1], Text("… (? shows all of it)", "dim")]
    rule = Text("─" * width, "dim")
    page = max(height - len(where) - len(query) - len(keys) - 3, 1)
    start = max(min(start, len(body) - page), 0)
    part = list(body[start : start + page])
    more = Text()
    if len(body) > page:
        go = "space reads on" if start + page < len(body) else "b goes back"
        more = Text(f"lines {start + 1}–{start + len(part)} of {len(body)}; {go}", "dim")
    lines = [*where, *query, rule, *part, *[Text()] * (page - len(part)), more, rule, *keys]
    return Text("\n").join(lines), start, page


def in_full(shown: Sheet) -> Text:
    """The sheet for a terminal that cannot draw a screen, or for a pipe."""
    return Text("\n").join([shown.where, shown.query, Text(), shown.body, Text(), shown.keys, Text()])


def _emphasis(query: str) -> Callable[..., Text]:
    """What sets a text with the words of the query, in any form that English gives them, in bold."""
    stem, stops = stemmer_of("english"), stop_words_of("english") | _ASKING
    wanted = {stem(word) for word in words(query) if word not in stops}

    def emphasised(text: str, style: str = "") -> Text:
        shown = Text(text, style)
        for word in re.finditer(r"\w\w+", text):
            if stem(word[0].lower()) in wanted:
                shown.stylize("bold magenta", *word.span())
        return shown

    return emphasised


def _lines(text: str) -> str:
    """A text with its line breaks and indentation, but without control characters, which a terminal would obey."""
    return "\n".join(
        "".join(char if char.isprintable() else " " for char in line).rstrip()
        for line in text.expandtabs(4).splitlines()
    )
