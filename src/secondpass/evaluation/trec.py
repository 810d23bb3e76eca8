"""Judgments and runs as files: read strictly, written so that they read back the same.

Knows: TREC and BEIR judgments, the six columns of a run, trec_eval's order. Refuses to know: texts,
metrics, how a run was made. What cannot be read as meant is a CollectionError with file and
line; what can be read but deserves a word is counted in `notes`.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, pairwise
from pathlib import Path
from typing import IO, NamedTuple

from secondpass.errors import CollectionError
from secondpass.evaluation.lines import numbered, opened
from secondpass.evaluation.wording import counted

__all__ = ["Qrels", "Run", "RunRow", "read_qrels", "read_run", "read_run_by_query", "write_run"]

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> grade. Grades above 0 are relevant."""

Run = dict[str, list[tuple[str, float]]]
"""Query id -> (document id, score), best first. Position decides; scores are for the record."""


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
            fields = line.split("\t") if columns == 3 else line.split()
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
                    f"{path}:{number}: grade {grade_text!r} is not a whole number; use 0 for not relevant, 1 and up"
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


def read_run(source: str | Path | IO[str] | IO[bytes], *, notes: list[str] | None = None) -> Run:
    """A TREC run (query, Q0, document, rank, score, tag), each query in rank order.

    The order is trec_eval's: by score, descending, ties by document id, descending; the rank
    column is not used. Scores compare as doubles (trec_eval rounds them to single precision
    first). Everything later goes by position. Ties, and queries whose rank column says
    otherwise, are counted into `notes`. A file may be gzipped.

    Raises CollectionError, with file and line, for a wrong number of columns, a score that is no
    number, or a document that occurs twice for one query.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        with opened(path) as stream:
            return _read_run(stream, path, notes)
    return _read_run(source, getattr(source, "name", "<stream>"), notes)


def _read_run(lines: IO[bytes] | IO[str], name: object, notes: list[str] | None) -> Run:
    rows: defaultdict[str, dict[str, RunRow]] = defaultdict(dict)
    for row in _rows(lines, name):
        _add(row, rows[row.query_id], name)
    if not rows:
        raise CollectionError(f"{name}: holds no results")
    run: Run = {}
    tied = contradicted = 0
    for query_id, found in rows.items():
        ordered = _ordered(found)
        run[query_id] = [(row.doc_id, row.score) for row in ordered]
        tied += any(a.score == b.score for a, b in pairwise(ordered))
        ranks = [row.rank for row in ordered]
        contradicted += not all(_is_integer(r) for r in ranks) or any(int(a) >= int(b) for a, b in pairwise(ranks))
    if notes is not None and tied:
        notes.append(
            f"{counted(tied, 'query', 'queries')} with tied scores; ties are ordered by document id, descending, "
            "as trec_eval does"
        )
    if notes is not None and contradicted:
        notes.append(
            f"{counted(contradicted, 'query', 'queries')} whose rank column differs from the order by score; "
            "the score decides, as in trec_eval"
        )
    return run


def read_run_by_query(lines: Iterable[bytes], name: object) -> Iterator[list[RunRow]]:
    """The rows of one query after the other, each in the order of `read_run`, while the run is being read.

    Raises CollectionError as `read_run` does, and for a query that comes back after others.
    """
    seen: set[str] = set()
    for query_id, rows in groupby(_rows(lines, name), key=lambda row: row.query_id):
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


def _rows(lines: Iterable[bytes] | Iterable[str], name: object) -> Iterator[RunRow]:
    query_id = ""
    for number, line in numbered(lines, name):
        fields = line.split()
        if len(fields) != 6:
            raise CollectionError(
                f"{name}:{number}: {counted(len(fields), 'column')}, expected 6: 'query Q0 document rank score tag'"
            )
        if fields[0] != query_id:
            query_id = fields[0]  # one string for all its rows: a run has millions of them
        _, _, doc_id, rank, score_text, _ = fields
        try:
            score = float(score_text)
        except ValueError:
            score = float("nan")
        if score != score:
            raise CollectionError(f"{name}:{number}: score {score_text!r} is not a number; leave the document out")
        yield RunRow(number, query_id, doc_id, rank, score)


def _add(row: RunRow, found: dict[str, RunRow], name: object) -> None:
    if row.doc_id in found:
        raise CollectionError(
            f"{name}:{row.line}: document {row.doc_id!r} occurs twice for query {row.query_id!r}; keep one of the lines"
        )
    found[row.doc_id] = row


def _ordered(found: Mapping[str, RunRow]) -> list[RunRow]:
    """As trec_eval orders a query's documents: by score, then by id, both descending."""
    return sorted(found.values(), key=lambda row: (row.score, row.doc_id), reverse=True)


def _is_integer(text: str) -> bool:
    # int() would also take '1_000' and ' 1'
    digits = text.strip().removeprefix("-").removeprefix("+")
    return digits.isascii() and digits.isdigit()
