"""Words of a text, and what a language does to them.

Knows: where words begin and end, stemmers, stop words. Refuses to know: postings and scores.

Words are runs of two or more letters, digits or underscores, NFKC-normalised and lower-cased.
Languages written without spaces need another way.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

from secondpass.errors import InputError

__all__ = ["stemmer_of", "stop_words_of", "words"]

_find_words = re.compile(r"\w\w+").findall


def words(text: str) -> list[str]:
    """The words of a text in their order, neither stemmed nor stopped."""
    return _find_words(unicodedata.normalize("NFKC", text).lower())


def stemmer_of(language: str | None) -> Callable[[str], str]:
    """A fresh stemmer (Snowball) of a language; None: words stay as they are. It is not safe under threads.

    Raises InputError for a language that PyStemmer does not know.
    """
    if language is None:
        return str
    import Stemmer

    try:
        return Stemmer.Stemmer(language).stemWord  # type: ignore[no-any-return]
    except KeyError:
        known = ", ".join(Stemmer.algorithms())
        raise InputError(f"language {language!r} is not known; known are: {known} and None") from None


@functools.cache
def stop_words_of(language: str | None) -> frozenset[str]:
    """The stop words of a language, of which bm25s has lists for some; None: none."""
    if language is None:
        return frozenset()
    from bm25s import stopwords

    name = "EN" if language in ("english", "porter") else language.upper()
    return frozenset(getattr(stopwords, f"STOPWORDS_{name}", ()))
