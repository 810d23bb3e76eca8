"""Judgments, runs and timings as files: read strictly, written so that they read back the same.

Knows: TREC and BEIR judgments, the six columns of a run, trec_eval's order. Refuses to know: texts,
metrics, how a run was made. What cannot be read as meant is a CollectionError with file and
line; what can be read but deserves a word is counted in `notes`.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from math import inf, isfinite, nan
from pathlib import Path
from typing import IO, NamedTuple, overload

import numpy as np

from secondpass.errors import CollectionError, InputError
from secondpass.evaluation.lines import blocks, numbered, opened
from secondpass.evaluation.wording import counted

__all__ = [
    "Qrels",
    "Results",
    "Run",
    "RunRow",
    "read_fields",
    "read_qrels",
    "read_run",
    "read_run_by_query",
    "read_timings",
    "write_run",
]

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> grade. Grades above 0 are relevant."""

Run = Mapping[str, Sequence[tuple[str, float]]]
"""Query id -> (document id, score), best first. Position decides; scores are for the record."""


class Results(Sequence[tuple[str, float]]):
    """What a file's run holds for one query: (document id, score) pairs, best first, equal to a list of them.

    `ids` and `scores` lie apart: ten million pairs would take twice the memory.
    """

    __slots__ = ("ids", "scores")

    def __init__(self, ids: Sequence[str], scores: Sequence[float]) -> None:
        self.ids = ids
        self.scores = scores

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return zip(self.ids, self.scores, strict=True)

    @overload
    def __getitem__(self, at: int) -> tuple[str, float]: ...

    @overload
    def __getitem__(self, at: slice) -> Results: ...

    def __getitem__(self, at: int | slice) -> tuple[str, float] | Results:
        if isinstance(at, slice):
            return Results(self.ids[at], self.scores[at])
        return self.ids[at], self.scores[at]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to a list, and as little a key

    def __repr__(self) -> str:
        return f"Results({list(self)!r})"


_TOGETHER = 1_000_000  # rows of one query that are held to be checked as a whole, whatever the depth


class RunRow(NamedTuple):
    """One line of a run. `rank` is its column as it stands; nothing is ordered by it."""

    line: int
    query_id: str
    doc_id: str
    rank: str
    score: float


def read_qrels(path: str | Path, *, notes: list[str] | None = None) -> dict[str, dict[str, int]]:
    """Judgments: TREC (query, anything, document, grade) or BEIR (query, document, grade by tabs, with header).

    Grades are whole numbers; above 0 is relevant. Duplicates that agree are counted into `notes`.

    Raises CollectionError, with file and line, for a wrong number of columns, a grade that is
    no whole number, two judgments that contradict each other, or a file without judgments.
    """
    path = Path(path)
    qrels: dict[str, dict[str, int]] = {}
    columns = duplicates = 0
    with opened(path) as stream:
        for number, line in numbered(stream, path):
            if not columns:
                columns = 3 if line.count("\t") == 2 else 4
                if columns == 3 and not _is_integer(line.split("\t")[2]):
                    continue  # the header
            fields = line.split("\t") if columns == 3 else _columns(line)
            if len(fields) != columns:
                raise CollectionError(
                    f"{path}:{number}: {counted(len(fields), 'column')}, expected {columns}; write BEIR lines "
                    "'query-id<TAB>corpus-id<TAB>score' under a header, or TREC lines 'query 0 document grade'"
                )
            query_id, doc_id, grade_text = fields[0].strip(), fields[-2].strip(), fields[-1].strip()
            if not query_id or not doc_id:
                raise CollectionError(f"{path}:{number}: an empty id; every judgment needs a query and a document")
            if not _is_integer(grade_text):
                raise CollectionError(
                    f"{path}:{number}: grade {_short(grade_text)} is not a whole number; "
                    "use 0 for not relevant, 1 and up"
                )
            grades, grade = qrels.setdefault(query_id, {}), int(grade_text)
            if doc_id not in grades:
                grades[doc_id] = grade
            elif grades[doc_id] == grade:
                duplicates += 1
            else:
                raise CollectionError(
                    f"{path}:{number}: query {query_id!r}, document {doc_id!r} has grade {grade} here and "
                    f"{grades[doc_id]} above; keep one of the two lines"
                )
    if not qrels:
        raise CollectionError(f"{path}: holds no judgments")
    if duplicates and notes is not None:
        notes.append(f"{counted(duplicates, 'judgment')} given more than once (with the same grade), counted once")
    return qrels


def read_run(
    source: str | Path | IO[str] | IO[bytes], *, depth: int | None = None, notes: list[str] | None = None
) -> Run:
    """A TREC run (query, Q0, document, rank, score, tag), each query in rank order.

    The order is trec_eval's: by score, descending, ties by document id, descending; the rank
    column is not used. Scores compare as doubles (trec_eval rounds them to single precision
    first); infinities are scores, as for C's strtod. Everything later goes by position. Ties,
    also such as only single precision has, infinities, and queries whose rank column says
    otherwise are counted into `notes`. Blanks and tabs part columns, as for C's isspace. A file may be
    gzipped, and a query's lines may stand anywhere.

    `depth` keeps only the first so many results of each query, so that memory goes by queries ×
    depth and not by lines. All lines are checked, except that a document repeated beyond the
    depth is found only where the query's lines (up to a million) stand together.

    Raises CollectionError, with file and line, for a wrong number of columns, a score that is no
    number, or a document that occurs twice for one query; InputError for a depth below 1.
    """
    if depth is not None and depth < 1:
        raise InputError(f"depth is {depth}; give the number of results to keep of each query, at least 1")
    if isinstance(source, str | Path):
        path = Path(source)
        with opened(path) as stream:
            return _read_run(stream, path, depth, notes)
    return _read_run(source, getattr(source, "name", "<stream>"), depth, notes)


def _read_run(stream: IO[bytes] | IO[str], name: object, depth: int | None, notes: list[str] | None) -> Run:
    found: defaultdict[bytes, _Found] = defaultdict(_Found)
    most = inf if depth is None else 2 * depth
    for first, block in blocks(stream, name):
        table = _table(block, first, name)
        places: defaultdict[bytes, list[int]] = defaultdict(list)
        for place, query_id in enumerate(table.query_ids):
            places[query_id].append(place)
        for query_id, own in places.items():
            rows = found[query_id]
            rows.add(table, own)
            # the last query of a block likely goes on in the next one, and is checked as a whole if it can be
            if len(rows.doc_ids) > (max(most, _TOGETHER) if query_id == table.query_ids[-1] else most):
                rows.settle(query_id, name, depth)
    if not found:
        raise CollectionError(f"{name}: holds no results")
    run: dict[str, Sequence[tuple[str, float]]] = {}
    remarks = np.zeros(len(_REMARKS), np.int64)
    for query_id in list(found):
        rows = found.pop(query_id)
        rows.settle(query_id, name, depth)
        remarks += rows.remarks()
        run[query_id.decode()] = Results(tuple(rows.doc_ids), rows.scores)
    if notes is not None:
        for queries, remark in zip(remarks, _REMARKS, strict=True):
            if queries:
                notes.append(f"{counted(int(queries), 'query', 'queries')} {remark}")
    return run


_REMARKS = (
    "with tied scores; ties are ordered by document id, descending, as trec_eval does",
    "whose rank column differs from the order by score; the score decides, as in trec_eval",
    "with scores so close that trec_eval, in single precision, takes them as tied; here the score decides",
    "with infinite scores, which rank above or below every number, as for trec_eval",
)


class _Table(NamedTuple):
    """Lines of a run, column by column. A rank that is no whole number is NaN."""

    lines: Sequence[int]
    query_ids: Sequence[bytes]
    doc_ids: list[str]
    ranks: array[float]
    scores: array[float]


def _table(block: bytes, first: int, name: object) -> _Table:
    """Whole lines, the first of them line `first` of the file: all at once, or one by one where something is off."""
    if not block.endswith(b"\n"):
        block += b"\n"
    lines = block.count(b"\n")
    # with a NUL for every line end, all lines have six columns exactly where every seventh field is a NUL
    fields = block.replace(b"\n", b" \0 ").split()
    if len(fields) == 7 * lines and fields[6::7].count(b"\0") == lines and b"\0" not in block:
        _, _, doc_ids, ranks, scores, _ = (fields[column::7] for column in range(6))
        try:
            block.decode()
            numbers = array("d", map(float, scores))
            if not np.isnan(numbers).any() and b"_" not in b"".join(scores):
                doc_texts = list(map(bytes.decode, doc_ids))
                return _Table(range(first, first + lines), fields[::7], doc_texts, _ranks(ranks), numbers)
        except ValueError:
            pass  # one of the lines is wrong: say which
    rows = list(_rows(block.split(b"\n"), name, first))
    return _Table(
        [row.line for row in rows],
        [row.query_id.encode() for row in rows],
        [row.doc_id for row in rows],
        _ranks([row.rank.encode() for row in rows]),
        array("d", (row.score for row in rows)),
    )


def _ranks(texts: list[bytes]) -> array[float]:
    try:
        return array("d", map(int, texts))
    except (ValueError, OverflowError):
        return array("d", (int(text) if _is_integer(text.decode()) else nan for text in texts))


class _Found:
    """What was read of one query, column by column."""

    __slots__ = ("doc_ids", "lines", "ranks", "scores")

    def __init__(self) -> None:
        self.lines = array("q")
        self.doc_ids: list[str] = []
        self.ranks = array("d")
        self.scores = array("d")

    def add(self, table: _Table, places: list[int]) -> None:
        if places[-1] - places[0] == len(places) - 1:  # together, as in most files
            own = slice(places[0], places[-1] + 1)
            self.lines.extend(table.lines[own])
            self.doc_ids.extend(table.doc_ids[own])
            self.ranks.extend(table.ranks[own])
            self.scores.extend(table.scores[own])
        else:
            self.lines.extend(map(table.lines.__getitem__, places))
            self.doc_ids.extend(map(table.doc_ids.__getitem__, places))
            self.ranks.extend(map(table.ranks.__getitem__, places))
            self.scores.extend(map(table.scores.__getitem__, places))

    def settle(self, query_id: bytes, name: object, depth: int | None) -> None:
        """Put the rows in trec_eval's order and keep the first `depth`. Raises CollectionError for a document twice."""
        if len(set(self.doc_ids)) < len(self.doc_ids):
            seen: set[str] = set()
            for line, doc_id in zip(self.lines, self.doc_ids, strict=True):  # settled rows, then new ones as they came
                if doc_id in seen:
                    raise _twice(name, line, query_id.decode(), doc_id)
                seen.add(doc_id)
        scores = np.array(self.scores)
        if not np.all(scores[1:] < scores[:-1]):
            by_id = sorted(range(len(scores)), key=self.doc_ids.__getitem__, reverse=True)
            order = [by_id[place] for place in np.argsort(-scores[by_id], kind="stable")]
            self.lines = array("q", map(self.lines.__getitem__, order))
            self.doc_ids = list(map(self.doc_ids.__getitem__, order))
            self.ranks = array("d", map(self.ranks.__getitem__, order))
            self.scores = array("d", map(self.scores.__getitem__, order))
        if depth is not None:
            del self.lines[depth:], self.doc_ids[depth:], self.ranks[depth:], self.scores[depth:]

    def remarks(self) -> list[bool]:
        """Which of _REMARKS hold, once settled."""
        scores, ranks = np.array(self.scores), np.array(self.ranks)
        with np.errstate(over="ignore"):
            single = scores.astype(np.float32)
        tied = scores[1:] == scores[:-1]
        return [
            bool(tied.any()),
            bool(np.isnan(ranks).any() or (ranks[1:] <= ranks[:-1]).any()),
            bool(((single[1:] == single[:-1]) & ~tied).any()),
            bool(np.isinf(scores).any()),
        ]


def read_run_by_query(lines: Iterable[bytes], name: object, first: int = 1) -> Iterator[list[RunRow]]:
    """The rows of one query after the other, each in the order of `read_run`, while the run is being read.

    `first` is the number of the first line.

    Raises CollectionError as `read_run` does, and for a query that comes back after others.
    """
    seen: set[str] = set()
    for query_id, rows in groupby(_rows(lines, name, first), key=lambda row: row.query_id):
        found: dict[str, RunRow] = {}
        for row in rows:
            if query_id in seen:
                raise CollectionError(
                    f"{name}:{row.line}: query {query_id!r} comes back after others; "
                    "sort the run by query, keeping its order"
                )
            _add(row, found, name)
        seen.add(query_id)
        yield _ordered(found)


def read_fields(path: str | Path) -> dict[str, dict[str, str | float]]:
    """Fields of queries: field -> query id -> value, from lines of tabs under a header `query-id<TAB>field<TAB>…`.

    A field whose every value is a finite number holds numbers. An empty value is not given.

    Raises CollectionError, with file and line, for a header without a field or with one twice, a line of another
    number of columns, or a query that comes twice.
    """
    path = Path(path)
    names: list[str] = []
    values: dict[str, dict[str, str]] = {}
    seen: set[str] = set()
    with opened(path) as stream:
        for number, line in numbered(stream, path):
            cells = [cell.strip() for cell in line.split("\t")]
            if not names:
                names = cells[1:]
                if not names or not all(names) or len(set(names)) < len(names):
                    raise CollectionError(
                        f"{path}:{number}: the first line names the fields, each once: 'query-id<TAB>field<TAB>…'"
                    )
                values = {name: {} for name in names}
                continue
            if len(cells) != len(names) + 1:
                raise CollectionError(f"{path}:{number}: {counted(len(cells), 'column')}, expected {len(names) + 1}")
            if cells[0] in seen:
                raise CollectionError(f"{path}:{number}: query {cells[0]!r} comes twice; keep one of the lines")
            seen.add(cells[0])
            for name, cell in zip(names, cells[1:], strict=True):
                if cell:
                    values[name][cells[0]] = cell
    if not seen:
        raise CollectionError(f"{path}: holds no fields of queries")
    return {name: _as_numbers(given) for name, given in values.items()}


def write_run(run: Mapping[str, Iterable[tuple[str, float]]], stream: IO[str], tag: str = "secondpass") -> None:
    """Write a TREC run whose order survives any reader that sorts by score.

    Where a query's scores fall strictly, also in the single precision that trec_eval reads,
    they are written as they are. Elsewhere (ties, documents that a stage did not score) every
    score of that query is replaced by one that counts down to 1.
    """
    if not tag or any(mark.isspace() for mark in tag):
        raise CollectionError(f"run tag {tag!r} is empty or holds white space, which a TREC run cannot")
    for query_id, results in run.items():
        results = list(results)
        single = array("f", (score for _, score in results))
        # an infinity falls below or above every number, but only trec_eval's own parser would read it
        plain = all(a > b for a, b in pairwise(single)) and all(abs(x) < float("inf") for x in single)
        for position, (doc_id, score) in enumerate(results):
            for name in (query_id, doc_id):
                if not name or any(mark.isspace() for mark in name):
                    raise CollectionError(f"id {name!r} is empty or holds white space, which a TREC run cannot")
            written = repr(float(score)) if plain and score == score else str(len(results) - position)
            stream.write(f"{query_id} Q0 {doc_id} {position + 1} {written} {tag}\n")


def read_timings(path: str | Path) -> dict[str, float]:
    """Seconds per query, from lines of query id and milliseconds, parted by a tab or blanks.

    A header "query-id ms" and blank lines are allowed; a file may be gzipped.

    Raises CollectionError, with file and line, for a wrong number of columns, a time that is
    negative or no finite number, a query that occurs twice, or a file without timings.
    """
    path = Path(path)
    seconds: dict[str, float] = {}
    header_allowed = True
    with opened(path) as stream:
        for number, line in numbered(stream, path):
            fields = _columns(line)
            if len(fields) != 2:
                raise CollectionError(f"{path}:{number}: {counted(len(fields), 'column')}, expected 2: 'query-id ms'")
            query_id, text = fields
            if header_allowed and text.lower() == "ms":
                header_allowed = False
                continue
            header_allowed = False
            milliseconds = _number(text.encode())
            if not 0.0 <= milliseconds < inf:
                raise CollectionError(
                    f"{path}:{number}: time {_short(text)} is not a number of milliseconds, 0 or more; "
                    "leave out a query that was not timed"
                )
            if query_id in seconds:
                raise CollectionError(
                    f"{path}:{number}: query {_short(query_id)} occurs twice; keep one time for each query"
                )
            seconds[query_id] = milliseconds / 1000.0
    if not seconds:
        raise CollectionError(f"{path}: holds no timings")
    return seconds


def _rows(lines: Iterable[bytes] | Iterable[str], name: object, first: int = 1) -> Iterator[RunRow]:
    query_id = ""
    for number, line in numbered(lines, name, first):
        fields = _columns(line)
        if len(fields) != 6:
            raise CollectionError(
                f"{name}:{number}: {counted(len(fields), 'column')}, expected 6: 'query Q0 document rank score tag'"
            )
        if fields[0] != query_id:
            query_id = fields[0]  # one string for all its rows: a run has millions of them
        _, _, doc_id, rank, score_text, _ = fields
        score = _number(score_text.encode())
        if score != score:
            raise CollectionError(
                f"{name}:{number}: score {_short(score_text)} is not a number; leave the document out"
            )
        yield RunRow(number, query_id, doc_id, rank, score)


def _add(row: RunRow, found: dict[str, RunRow], name: object) -> None:
    if row.doc_id in found:
        raise _twice(name, row.line, row.query_id, row.doc_id)
    found[row.doc_id] = row


def _twice(name: object, line: int, query_id: str, doc_id: str) -> CollectionError:
    return CollectionError(
        f"{name}:{line}: document {_short(doc_id)} occurs twice for query {_short(query_id)}; keep one of the lines"
    )


def _ordered(found: Mapping[str, RunRow]) -> list[RunRow]:
    """As trec_eval orders a query's documents: by score, then by id, both descending."""
    return sorted(found.values(), key=lambda row: (row.score, row.doc_id), reverse=True)


def _columns(line: str) -> list[str]:
    # the white space of C's isspace: to str.split a no-break space would part columns, too
    return [field.decode() for field in line.encode().split()]


def _number(text: bytes) -> float:
    """NaN for what is no number. float() would also take "1_000", of which strtod reads 1."""
    try:
        return nan if b"_" in text else float(text)
    except ValueError:
        return nan


def _is_integer(text: str) -> bool:
    # int() would also take '1_000' and ' 1'; 18 digits fit a long
    digits = text.strip().removeprefix("-").removeprefix("+")
    return digits.isascii() and digits.isdigit() and len(digits) <= 18


def _short(text: str) -> str:
    """As an error shows it: a broken file's column can be a whole file."""
    return repr(text if len(text) <= 60 else text[:60] + "…")


def _as_numbers(given: Mapping[str, str]) -> dict[str, str | float]:
    """The values as numbers where all of them are."""
    try:
        numbers = {query_id: float(value) for query_id, value in given.items()}
    except ValueError:
        return dict(given)
    return dict(numbers) if all(isfinite(number) for number in numbers.values()) else dict(given)
