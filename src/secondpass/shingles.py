"""Whether one text repeats another, by the runs of three words that they share.

Knows: words, runs of words, and the two shares of Broder, "On the resemblance and containment of documents" (1997).
Refuses to know: documents, and what becomes of a copy. Words are runs of letters and digits, so of a language written
without spaces only whole clauses compare.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["CONTAINMENT", "RESEMBLANCE", "Shingles", "repeats", "shingles", "words_of"]

RESEMBLANCE = 0.8  # Jaccard; one changed word leaves .71 of a text of twenty words, .85 of forty
CONTAINMENT = 0.9
SHINGLE = 3  # words; passages are short, so longer shingles would lose too many to one changed word
FEWEST_CONTAINED = 8  # shingles: below, a title or a stock phrase would be found everywhere

Shingles = set[tuple[str, ...]]
_find_words = re.compile(r"\w+").findall


def words_of(text: str) -> list[str]:
    """The lower-cased words of a text, in their order."""
    return _find_words(text.lower())


def shingles(words: Sequence[str]) -> Shingles:
    """The three-word runs of these words; fewer than three words are a single run, none have none."""
    return set(zip(*(words[i:] for i in range(SHINGLE)), strict=False)) or ({tuple(words)} if words else set())


def repeats(common: int, own: int, original: int, resemblance: float = RESEMBLANCE) -> bool:
    """Whether a text of `own` shingles repeats one of `original`, when they have so many in `common`.

    Their resemblance (Jaccard) is at least `resemblance`; or the text contains at least .9 of the original's shingles,
    where that has 8 or more. A part of the original is no repetition of it: it may lack what was asked for.
    """
    contained = original >= FEWEST_CONTAINED and common >= CONTAINMENT * original
    return contained or 0 < common >= resemblance * (own + original - common)
