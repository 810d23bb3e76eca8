"""Same words, other sense: pairs that tell a ranker of words from one of meanings.

Knows: the probe set `senses.jsonl`, written for this package by a language model. Refuses to know:
who ranks. Each word stands in two documents; each document has a query that is about it and not about
the other ("python enclosure temperature", "python end of loop syntax"). So whoever
prefers one of the two documents whatever is asked gets exactly half of the pairs right.

About a third of the queries share a further content word with the wrong document, a quarter with the right
one. Nothing is ever tuned on these pairs.
"""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass

from secondpass.types import Document

__all__ = ["SensePair", "sense_pairs"]


@dataclass(frozen=True, slots=True)
class SensePair:
    """A query, the document that is about the same thing, and one that only has the same word."""

    word: str
    query: str
    right: Document
    wrong: Document


def sense_pairs() -> tuple[SensePair, ...]:
    """All pairs, two for each word; a document has the id `<word>/a` or `<word>/b` and stands in two pairs."""
    text = importlib.resources.files("secondpass.demo").joinpath("senses.jsonl").read_text(encoding="utf-8")
    pairs = []
    for row in map(json.loads, text.splitlines()):
        a, b = (Document(f"{row['word']}/{side}", row[side]["document"]) for side in "ab")
        pairs.append(SensePair(row["word"], row["a"]["query"], a, b))
        pairs.append(SensePair(row["word"], row["b"]["query"], b, a))
    return tuple(pairs)
