"""Words of a text, and what a language does to them.

Knows: where words begin and end, stemmers, stop words, and a table of terms that is searched where it lies. Refuses to
know: postings and scores.

Words are runs of two or more letters, digits or underscores, NFKC-normalised and lower-cased.
Languages written without spaces need another way.
"""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError

__all__ = ["SortedTerms", "Terms", "encoded", "stemmer_of", "stop_words_of", "words"]

_LONGEST = 64  # letters of a word that is worth keeping
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


class Terms(dict[str, str]):
    """Word -> its term, "" for a stop word. Most words come again, and are stemmed once; threads may share one.

    Raises InputError for a language that PyStemmer does not know.
    """

    def __init__(self, language: str | None, most: int = 200_000) -> None:
        self._stop_words, self._stem, self._most = stop_words_of(language), stemmer_of(language), most
        self._lock = threading.Lock()

    def of(self, text: str) -> list[str]:
        """The terms of a text in their order: words less stop words, stemmed."""
        return list(filter(None, map(self.__getitem__, words(text))))

    def __missing__(self, word: str) -> str:
        with self._lock:
            term = "" if word in self._stop_words else self._stem(word)
            if len(word) <= _LONGEST:
                if len(self) >= self._most:
                    self.clear()
                self[word] = term
        return term


def encoded(term: str) -> bytes:
    """A term as tables hold it; lone surrogates do occur in crawled text."""
    return term.encode("utf-8", "surrogatepass")


class SortedTerms:
    """Distinct terms, in sorted order, in two arrays: `blob` uint8 (UTF-8, one behind the other), `offsets`
    int64[terms + 1] into it. Opening a table costs nothing, whatever its size."""

    def __init__(self, blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.blob, self.offsets = blob, offsets
        self._blob, self._offsets = blob.data, offsets.data

    @classmethod
    def of(cls, terms: Sequence[bytes]) -> SortedTerms:
        """The table of terms that are sorted and distinct already."""
        blob = np.frombuffer(b"".join(terms), np.uint8) if terms else np.zeros(0, np.uint8)
        return cls(blob, np.fromiter(accumulate(map(len, terms), initial=0), np.int64, len(terms) + 1))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, at: int) -> bytes:
        return bytes(self._blob[self._offsets[at] : self._offsets[at + 1]])

    def find(self, term: bytes) -> int | None:
        """The place of a term, None where it is not there."""
        at = bisect_left(range(len(self)), term, key=self.__getitem__)
        return at if at < len(self) and self[at] == term else None
