"""Judged rows of features in files: SVMlight's form, as LETOR sets and LightGBM's examples have it.

Knows: the lines, `qid:` tokens, and LightGBM's FILE.query beside a file. Refuses to know: what the features mean, how
anything is learnt. Every CollectionError names file and line.

    2 qid:10 1:0.5 3:0.25   # a grade, its query, features by number; what is not named is 0
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import CollectionError
from secondpass.evaluation.lines import numbered, opened
from secondpass.evaluation.wording import counted
from secondpass.extras import require

__all__ = ["GRADES", "Table", "read_svmlight"]

GRADES = 31  # LightGBM knows gains for 0 to 30
_FEATURES = 1 << 20  # a number above this is no feature


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Judged rows, one query behind the other: `rows` float64[n, features], dense or a scipy CSR matrix, `grades`
    int32[n], and the number of rows of each query."""

    rows: Any
    grades: NDArray[np.int32]
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.grades)

    def queries(self) -> Iterator[slice]:
        """Where each query's rows are."""
        begin = 0
        for size in self.sizes:
            yield slice(begin, begin + size)
            begin += size


def read_svmlight(path: str | Path, numbers: range | None = None) -> tuple[Table, range]:
    """The rows of a file (or .gz), and the numbers of its features: from 1, or 0 where that occurs, to the highest.

    With `numbers` those are the features, and there may be no others. Queries are told apart by
    `qid:` tokens, or by FILE.query: a line for each query with the number of its rows.

    Raises CollectionError for a line that is not of the form, a grade that is no whole number from 0 to 30, a query
    that comes back after others, and where queries are told neither way or both; MissingExtraError without the extra.
    """
    sparse = require("scipy.sparse", extra="ltr", purpose="learning to rank")
    path = Path(path)
    values, columns, ends, grades = array("d"), array("i"), array("q", [0]), array("i")
    sizes: list[int] = []
    seen: set[str] = set()
    last: str | None = None
    with opened(path) as stream:
        for line, text in numbered(stream, path):
            where = f"{path}:{line}"
            fields = text.partition("#")[0].split()
            if not fields:
                continue
            grades.append(_grade(fields[0], where))
            query = fields[1][4:] if len(fields) > 1 and fields[1].startswith("qid:") else None
            if grades.buffer_info()[1] > 1 and (query is None) != (last is None):
                raise CollectionError(f"{where}: some lines have a qid and some have none; give each one, or none")
            if query is None:
                _read_features(fields[1:], values, columns, numbers, where)
            else:
                if query != last:
                    if query in seen:
                        raise CollectionError(f"{where}: query {query!r} comes back after others; sort the file by qid")
                    seen.add(query)
                    sizes.append(0)
                sizes[-1] += 1
                _read_features(fields[2:], values, columns, numbers, where)
            last = query
            ends.append(len(values))
    if not grades:
        raise CollectionError(f"{path}: holds no rows")
    beside = path.with_name(path.name + ".query")
    if sizes and beside.is_file():
        raise CollectionError(f"{path} has qid tokens and {beside.name} beside it; remove one of them")
    if not sizes:
        sizes = _sizes(path, beside, len(grades))
    data, indices = np.array(values, np.float64), np.array(columns, np.int32)
    found = range(min(1, int(indices.min(initial=1))), int(indices.max(initial=0)) + 1)
    numbers = found if numbers is None else numbers
    shape = (len(grades), len(numbers))
    rows = sparse.csr_matrix((data, indices - numbers.start, np.array(ends, np.int64)), shape=shape)
    return Table(rows, np.array(grades, np.int32), tuple(sizes)), numbers


def _grade(text: str, where: str) -> int:
    try:
        grade = float(text)
    except ValueError:
        grade = math.nan
    if not (grade == int(grade if math.isfinite(grade) else -1) and 0 <= grade < GRADES):
        raise CollectionError(f"{where}: the grade {text[:40]!r} is no whole number from 0 to {GRADES - 1}")
    return int(grade)


def _read_features(
    fields: list[str], values: array[float], columns: array[int], numbers: range | None, where: str
) -> None:
    """Append `number:value` for each field; numbers must rise, as all writers of this form have them."""
    last = -1
    for field in fields:
        name, colon, text = field.partition(":")
        try:
            number, value = int(name), float(text)
        except ValueError:
            number, value = -1, math.inf
        if not colon or not 0 <= number <= _FEATURES or math.isinf(value) or not name.isdecimal():
            raise CollectionError(f"{where}: {field[:40]!r} is no feature; write number:value, such as 12:0.5")
        if number <= last:
            raise CollectionError(f"{where}: feature {number} comes after {last}; give each once, in rising order")
        if numbers is not None and number not in numbers:
            told = f"from {numbers.start} to {numbers.stop - 1}"
            raise CollectionError(f"{where}: feature {number} was not learnt from, only those {told}")
        last = number
        columns.append(number)
        values.append(value)


def _sizes(path: Path, beside: Path, rows: int) -> list[int]:
    """The numbers of rows that FILE.query has, which must add up."""
    if not beside.is_file():
        raise CollectionError(
            f"{path}: nothing tells its queries apart; write qid:N behind each grade, or the number of rows of each "
            f"query into {beside.name}"
        )
    sizes = []
    with opened(beside) as stream:
        for line, text in numbered(stream, beside):
            if not text.strip().isdecimal() or int(text) < 1:
                raise CollectionError(f"{beside}:{line}: {text.strip()[:40]!r} is no number of rows; give one, from 1")
            sizes.append(int(text))
    if sum(sizes) != rows:
        raise CollectionError(f"{beside}: its {counted(len(sizes), 'query', 'queries')} have {sum(sizes):,} rows, and "
                              f"{path.name} has {rows:,}")  # fmt: skip
    return sizes
