"""Test collections, judgments and runs: read strictly, written so that they read back the same.

Knows: the BEIR folder layout, TREC qrels and runs, ir_datasets names. Refuses to know:
retrieval, metrics, models. What cannot be read as meant is a CollectionError with file
and line; what can be read but deserves a word is counted in `notes`.
"""

from __future__ import annotations

import gzip
import os
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, cast

import msgspec

from secondpass.errors import CollectionError
from secondpass.evaluation.wording import counted, some
from secondpass.extras import require
from secondpass.types import Document

__all__ = [
    "Collection",
    "Qrels",
    "Run",
    "open_collection",
    "read_beir",
    "read_ir_datasets",
    "read_qrels",
    "read_run",
    "write_beir",
    "write_run",
]

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> grade. Grades above 0 are relevant."""

Run = dict[str, list[tuple[str, float]]]
"""Query id -> (document id, score), best first. Position decides; scores are for the record."""

_BOM = "\N{BYTE ORDER MARK}"
_IR_DATASETS = "ir_datasets:"


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents, queries and graded judgments by id, and what was noticed while loading."""

    name: str
    documents: Mapping[str, Document]
    queries: Mapping[str, str]
    qrels: Qrels
    notes: tuple[str, ...] = ()


def open_collection(spec: str | Path, *, split: str = "test") -> Collection:
    """The collection that `spec` names: a BEIR folder, or "ir_datasets:NAME" (which knows its own split)."""
    if isinstance(spec, str) and spec.startswith(_IR_DATASETS):
        return read_ir_datasets(spec.removeprefix(_IR_DATASETS))
    return read_beir(spec, split)


def read_beir(folder: str | Path, split: str = "test") -> Collection:
    """A BEIR folder: corpus.jsonl, queries.jsonl (each plain or .gz) and qrels/<split>.tsv.

    Documents keep every field: what is not `_id`, `title` or `text` goes into `metadata`. Only
    queries judged in `split` are kept; `notes` says how many others there are, and counts
    duplicate judgments, unknown ids and empty texts.

    Raises CollectionError, with file and line, for anything that cannot be read as meant.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CollectionError(
            f"{folder}: no such folder; give a BEIR folder (corpus.jsonl, queries.jsonl, qrels/{split}.tsv) "
            f"or '{_IR_DATASETS}NAME'"
        )
    corpus_path = _one_of(folder, "corpus.jsonl")
    queries_path = _one_of(folder, "queries.jsonl")
    qrels_path = _split_file(folder, split)
    notes: list[str] = []
    judged = read_qrels(qrels_path, notes=notes)

    documents: dict[str, Document] = {}
    for where, record in _records(corpus_path):
        document = _document(record, where)
        if document.id in documents:
            raise CollectionError(f"{where}: document id {document.id!r} occurs twice; ids must be unique")
        documents[document.id] = document
    texts: dict[str, str] = {}
    for where, record in _records(queries_path):
        query_id = _identifier(record, where)
        if query_id in texts:
            raise CollectionError(f"{where}: query id {query_id!r} occurs twice; ids must be unique")
        texts[query_id] = _string(record, "text", where)
    if not documents:
        raise CollectionError(f"{corpus_path}: holds no documents; expected one JSON object per line")

    queries = {query_id: text for query_id, text in texts.items() if query_id in judged}
    if not queries:
        raise CollectionError(
            f"{qrels_path}: none of its {len(judged):,} query ids is in {queries_path}; "
            f"the two files do not belong together (judged: {some(judged)}; known: {some(texts)})"
        )
    qrels = {query_id: judged[query_id] for query_id in queries}
    if others := len(texts) - len(queries):
        notes.append(f"{counted(others, 'query', 'queries')} without judgments in split '{split}' left out")
    if unknown := [query_id for query_id in judged if query_id not in texts]:
        notes.append(f"{counted(len(unknown), 'judged query', 'judged queries')} not in {queries_path.name}, left out")
    return Collection(
        folder.resolve().name, documents, queries, qrels, (*notes, *_content_notes(documents, queries, qrels))
    )


def write_beir(collection: Collection, folder: str | Path, split: str = "test") -> None:
    """Write `collection` as a BEIR folder that `read_beir(folder, split)` reads back the same.

    Every file is replaced in one step and the judgments come last, so that an interrupted
    write never leaves a file half-written or a new split without its texts. Queries of
    other splits already in the folder are kept; a query of the same id but another text is
    an error.
    """
    folder = Path(folder)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name in [*collection.qrels, *(doc for judged in collection.qrels.values() for doc in judged)]:
        if not name or name != name.strip() or any(mark in name for mark in "\t\r\n"):
            raise CollectionError(f"id {name!r} does not survive a tab-separated file; rename it")
    queries = dict(collection.queries)
    if any(path.name != f"{split}.tsv" for path in _split_files(folder)):
        for where, record in _records(_one_of(folder, "queries.jsonl")):
            query_id, text = _identifier(record, where), _string(record, "text", where)
            if queries.setdefault(query_id, text) != text:
                raise CollectionError(
                    f"{where}: query {query_id!r} has another text than the one to be written; "
                    "write into an empty folder, or use other ids"
                )
    encode = msgspec.json.encode
    with _replacing(folder / "corpus.jsonl") as stream:
        for doc in collection.documents.values():
            record = {"_id": doc.id, "title": doc.title, "text": doc.text}
            stream.write(encode({**record, "metadata": dict(doc.metadata)} if doc.metadata else record) + b"\n")
    with _replacing(folder / "queries.jsonl") as stream:
        for query_id, text in queries.items():
            stream.write(encode({"_id": query_id, "text": text}) + b"\n")
    with _replacing(folder / "qrels" / f"{split}.tsv") as stream:
        stream.write(b"query-id\tcorpus-id\tscore\n")
        for query_id, grades in collection.qrels.items():
            for doc_id, grade in grades.items():
                stream.write(f"{query_id}\t{doc_id}\t{grade:d}\n".encode())


def read_qrels(path: str | Path, *, notes: list[str] | None = None) -> dict[str, dict[str, int]]:
    """Judgments: TREC (query, anything, document, grade) or BEIR (query, document, grade by tabs, with header).

    Grades are whole numbers; above 0 is relevant. Duplicates that agree are counted into `notes`.

    Raises CollectionError, with file and line, for a wrong number of columns, a grade that is
    no whole number, two judgments that contradict each other, or a file without judgments.
    """
    path = Path(path)
    qrels: dict[str, dict[str, int]] = {}
    columns = duplicates = 0
    with _opened(path) as stream:
        for number, line in _lines(stream, path):
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
        with _opened(path) as stream:
            return _read_run(stream, path, notes)
    return _read_run(source, getattr(source, "name", "<stream>"), notes)


def _read_run(stream: IO[bytes] | IO[str], name: object, notes: list[str] | None) -> Run:
    rows: dict[str, dict[str, tuple[float, str]]] = {}
    for number, line in _lines(stream, name):
        fields = line.split()
        if len(fields) != 6:
            raise CollectionError(
                f"{name}:{number}: {counted(len(fields), 'column')}, expected 6: 'query Q0 document rank score tag'"
            )
        query_id, _, doc_id, rank, score_text, _ = fields
        try:
            score = float(score_text)
        except ValueError:
            score = float("nan")
        if score != score:
            raise CollectionError(f"{name}:{number}: score {score_text!r} is not a number; leave the document out")
        found = rows.get(query_id)
        if found is None:
            found = rows[query_id] = {}
        if doc_id in found:
            raise CollectionError(
                f"{name}:{number}: document {doc_id!r} occurs twice for query {query_id!r}; keep one of the lines"
            )
        found[doc_id] = (score, rank)
    if not rows:
        raise CollectionError(f"{name}: holds no results")
    run: Run = {}
    tied = contradicted = 0
    for query_id, found in rows.items():
        ordered = sorted(((score, doc_id) for doc_id, (score, _) in found.items()), reverse=True)
        run[query_id] = [(doc_id, score) for score, doc_id in ordered]
        tied += any(a[0] == b[0] for a, b in pairwise(ordered))
        ranks = [found[doc_id][1] for _, doc_id in ordered]
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


def read_ir_datasets(name: str) -> Collection:
    """A collection of the ir_datasets catalogue, such as "beir/scifact/test" (extra `datasets`; may download).

    A document's other fields go into `metadata`. Raises CollectionError for unknown names and
    for data sets without documents, queries or judgments.
    """
    ir_datasets = require("ir_datasets", extra="datasets", purpose=f"the collection '{_IR_DATASETS}{name}'")
    try:
        dataset: Any = ir_datasets.load(name)
    except KeyError as error:
        raise CollectionError(f"{_IR_DATASETS}{name}: ir_datasets knows no such name; see ir-datasets.com") from error
    if missing := [part for part in ("docs", "queries", "qrels") if not getattr(dataset, f"has_{part}")()]:
        raise CollectionError(
            f"{_IR_DATASETS}{name}: has no {' and no '.join(missing)}; name a subset that has (see ir-datasets.com)"
        )
    where = f"{_IR_DATASETS}{name}"
    documents: dict[str, Document] = {}
    for row in dataset.docs_iter():
        if row.doc_id in documents:
            raise CollectionError(f"{where}: document id {row.doc_id!r} occurs twice; ids must be unique")
        documents[row.doc_id] = _ir_document(row)
    qrels: dict[str, dict[str, int]] = {}
    duplicates = 0
    for row in dataset.qrels_iter():
        grades = qrels.setdefault(row.query_id, {})
        duplicates += row.doc_id in grades
        if grades.setdefault(row.doc_id, row.relevance) != row.relevance:
            raise CollectionError(
                f"{where}: query {row.query_id!r}, document {row.doc_id!r} is judged twice, differently; "
                "export the judgments, settle them by hand and use a BEIR folder"
            )
    texts = {row.query_id: row.default_text() for row in dataset.queries_iter()}
    queries = {query_id: text for query_id, text in texts.items() if query_id in qrels}
    if not queries:
        raise CollectionError(f"{where}: no query has judgments; name a subset that has (see ir-datasets.com)")
    notes: list[str] = []
    if duplicates:
        notes.append(f"{counted(duplicates, 'judgment')} given more than once (with the same grade), counted once")
    if others := len(texts) - len(queries):
        notes.append(f"{counted(others, 'query', 'queries')} without judgments left out")
    if unknown := len(qrels.keys() - texts.keys()):
        notes.append(f"{counted(unknown, 'judged query', 'judged queries')} without a text, left out")
    kept = {query_id: qrels[query_id] for query_id in queries}
    return Collection(name, documents, queries, kept, (*notes, *_content_notes(documents, queries, kept)))


def _ir_document(row: Any) -> Document:
    fields: dict[str, Any] = row._asdict()
    doc_id, title = fields.pop("doc_id"), fields.pop("title", "") or ""
    text = fields.pop("text", None)
    if not isinstance(text, str):
        text, title = row.default_text(), ""  # other schemas say themselves what to read; it includes the title
    return Document(doc_id, text, title, MappingProxyType(fields))


def _content_notes(documents: Mapping[str, Document], queries: Mapping[str, str], qrels: Qrels) -> Iterator[str]:
    missing = Counter(query_id for query_id, grades in qrels.items() for doc_id in grades if doc_id not in documents)
    if missing:
        yield (
            f"{counted(missing.total(), 'judgment')} (of {counted(len(missing), 'query', 'queries')}) for documents "
            "that the corpus lacks, kept: no system can find them"
        )
    if empty := sum(not doc.text.strip() and not doc.title.strip() for doc in documents.values()):
        yield f"{counted(empty, 'document')} without any text"
    if empty := sum(not text.strip() for text in queries.values()):
        yield f"{counted(empty, 'query', 'queries')} without any text"
    if hopeless := sum(all(grade <= 0 for grade in grades.values()) for grades in qrels.values()):
        yield f"{counted(hopeless, 'query', 'queries')} without a relevant document: every system scores 0 on them"


def _document(record: dict[str, Any], where: str) -> Document:
    doc_id, text = _identifier(record, where), _string(record, "text", where)
    title = "" if record.get("title") is None else _string(record, "title", where)
    nested = record.get("metadata")
    known = {"_id", "title", "text", *(["metadata"] if nested is None or isinstance(nested, dict) else [])}
    fields = {key: value for key, value in record.items() if key not in known}
    metadata = {**nested, **fields} if isinstance(nested, dict) else fields
    if isinstance(nested, dict) and (twice := nested.keys() & fields.keys()):
        raise CollectionError(f"{where}: {some(sorted(twice))} stands both in 'metadata' and beside it; keep one")
    return Document(doc_id, text, title, MappingProxyType(metadata))


def _identifier(record: dict[str, Any], where: str) -> str:
    value = record.get("_id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _string(record, "_id", where, filled=True)


def _string(record: dict[str, Any], key: str, where: str, *, filled: bool = False) -> str:
    value = record.get(key)
    if isinstance(value, str) and (value or not filled):
        return value
    if key not in record:
        raise CollectionError(f"{where}: no {key!r} (keys: {some(sorted(record))}); every line needs '_id' and 'text'")
    what = "is empty" if value == "" else f"is {type(value).__name__}, not text"
    raise CollectionError(f"{where}: {key!r} {what}; give a string")


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON objects of a JSONL file, each with 'file:line'."""
    decode: Callable[[str], object] = msgspec.json.Decoder().decode
    with _opened(path) as stream:
        for number, line in _lines(stream, path):
            where = f"{path}:{number}"
            try:
                record = decode(line)
            except (msgspec.DecodeError, RecursionError) as error:
                raise CollectionError(f"{where}: broken JSON ({error}); every line must be one JSON object") from error
            if not isinstance(record, dict):
                raise CollectionError(f"{where}: a JSON {type(record).__name__}; every line must be one JSON object")
            yield where, record


def _lines(stream: IO[bytes] | IO[str], name: object) -> Iterator[tuple[int, str]]:
    """Line number and line, without its end (LF or CRLF), for lines that are not blank."""
    number = 0
    rows: Iterator[bytes | str] = iter(stream)
    try:
        for number, raw in enumerate(rows, 1):
            line = raw.decode("utf-8") if isinstance(raw, bytes) else raw
            line = (line.removeprefix(_BOM) if number == 1 else line).rstrip("\r\n")
            if line and not line.isspace():
                yield number, line
    except UnicodeDecodeError as error:
        raise CollectionError(f"{name}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CollectionError(f"{name}:{number + 1}: broken gzip ({error}); fetch or compress it again") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file as bytes, unzipped where its first bytes say gzip."""
    try:
        plain = path.open("rb")
    except OSError as error:
        raise CollectionError(f"{path}: cannot be opened ({error.strerror}); check the path") from error
    with plain:
        if plain.peek(2)[:2] == b"\x1f\x8b":
            with gzip.open(plain, "rb") as stream:
                yield cast(IO[bytes], stream)
        else:
            yield plain


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content takes the place of `path` (and of its gzipped twin) when all of it is on disk."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    path.with_name(path.name + ".gz").unlink(missing_ok=True)


def _one_of(folder: Path, name: str) -> Path:
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if len(found) == 2:
        raise CollectionError(f"{folder}: holds both {name} and {name}.gz; remove one of them")
    if not found:
        raise CollectionError(f"{folder}: has no {name} (nor {name}.gz); a BEIR folder needs one")
    return found[0]


def _split_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "qrels").glob("*.tsv*") if path.suffix in (".tsv", ".gz"))


def _split_file(folder: Path, split: str) -> Path:
    there = _split_files(folder)
    for path in there:
        if path.name in (f"{split}.tsv", f"{split}.tsv.gz"):
            return path
    have = ", ".join(path.name.split(".tsv")[0] for path in there) or "none"
    raise CollectionError(f"{folder / 'qrels'}: no {split}.tsv; splits there: {have}")


def _is_integer(text: str) -> bool:
    # int() would also take '1_000' and ' 1'
    digits = text.strip().removeprefix("-").removeprefix("+")
    return digits.isascii() and digits.isdigit()
