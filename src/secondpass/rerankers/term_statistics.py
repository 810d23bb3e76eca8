"""How common each term is in each field of a collection, and how long the fields are: what BM25 asks of it.

Knows: documents and their fields, counts. Refuses to know: candidates, scores, files.

The statistics of all documents decide; those of the candidates at hand would make a document's features depend on the
others of its request.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.types import Document
from secondpass.words import SortedTerms, Terms, encoded

__all__ = ["TermStatistics", "field_texts"]

Float = NDArray[np.float64]


def field_texts(document: Document, fields: Sequence[str]) -> tuple[str, ...]:
    """The text of each field: title, text or a metadata value; "" for what is no string."""
    own = {"title": document.title, "text": document.text}
    values = (own[name] if name in own else document.metadata.get(name) for name in fields)
    return tuple(value if isinstance(value, str) else "" for value in values)


@dataclass(frozen=True, slots=True, eq=False)
class TermStatistics:
    """Of so many `documents`: `df` int32[terms, fields], in how many each term occurs, and `mean_lengths` in terms."""

    documents: int
    mean_lengths: tuple[float, ...]
    terms: SortedTerms
    df: NDArray[np.int32]

    @classmethod
    def of(cls, documents: Iterable[Document], fields: Sequence[str], language: str | None) -> TermStatistics:
        """The statistics of documents: a collection's, or those of an Index, which iterates over its own.

        Raises InputError where there are none, or for an unknown language.
        """
        analysed = Terms(language)
        counts: dict[str, list[int]] = {}
        lengths = [0] * len(fields)
        count = 0
        for count, document in enumerate(documents, 1):  # noqa: B007 - the last one is how many there are
            for column, text in enumerate(field_texts(document, fields)):
                terms = analysed.of(text)
                lengths[column] += len(terms)
                for term in set(terms):
                    counts.setdefault(term, [0] * len(fields))[column] += 1
        if not count:
            raise InputError("there are no documents to count terms in; give the whole collection")
        table = {encoded(term): row for term, row in counts.items()}
        terms_in_order = sorted(table)
        df = np.array([table[term] for term in terms_in_order], np.int32).reshape(-1, len(fields))
        return cls(count, tuple(length / count for length in lengths), SortedTerms.of(terms_in_order), df)

    def idf(self, terms: Sequence[str]) -> Float:
        """ln(1 + (N − df + .5) / (df + .5)), the idf of Lucene's BM25: float64[fields, terms]."""
        out = np.empty((self.df.shape[1], len(terms)))
        for column, term in enumerate(terms):
            at = self.terms.find(encoded(term))
            df: Any = 0 if at is None else self.df[at]
            out[:, column] = np.log1p((self.documents - df + 0.5) / (df + 0.5))
        return out

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `from_arrays` needs, for a file."""
        totals = np.array([self.documents, *self.mean_lengths], np.float64)
        return {"terms": self.terms.blob, "term_offsets": self.terms.offsets, "df": self.df, "totals": totals}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TermStatistics:
        """The statistics that gave these arrays. Raises ValueError or KeyError for others."""
        terms, df, totals = SortedTerms(arrays["terms"], arrays["term_offsets"]), arrays["df"], arrays["totals"]
        if df.ndim != 2 or len(df) != len(terms) or len(totals) != df.shape[1] + 1 or not math.isfinite(totals.sum()):
            raise ValueError("terms, counts and lengths do not fit each other")
        return cls(int(totals[0]), tuple(totals[1:].tolist()), terms, df)
