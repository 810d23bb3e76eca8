"""The store of judgments: what people said of the documents of a pool, on disk at once and never lost.

    folder/pool.jsonl          what there is to judge (see pool.py)
    folder/judgments.jsonl     one line a judgment, only ever appended to; of one judge and document the last counts
    folder/judgments.damaged   half-written lines that a crash left, set aside

Knows: grades, who gave them, agreement of two judges, judgments as files. Refuses to know: screens, browsers (every
judging screen shares this store), metrics. A judgment that `Judgments.add` returned is on disk.
"""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from statistics import median_low

import msgspec

from secondpass.disk import sync_folder
from secondpass.errors import CollectionError, InputError
from secondpass.evaluation.lines import replacing
from secondpass.evaluation.pool import Pair, Pool, read_pool
from secondpass.evaluation.trec import Qrels
from secondpass.evaluation.wording import counted

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = [
    "MEANINGS",
    "RUBRICS",
    "Agreement",
    "Judgment",
    "Judgments",
    "Progress",
    "agreement",
    "export_qrels",
]

RUBRICS: Mapping[int, tuple[str, ...]] = {
    3: ("not relevant", "related", "relevant", "fully answers"),
    1: ("not relevant", "relevant"),
}
"""The two scales by their highest grade; each grade in words, from 0 up. In a graded one 1 counts as relevant, too."""
MEANINGS: Mapping[int, tuple[str, ...]] = {
    3: (
        "nothing of what the query asks for",
        "the same matter, but no answer",
        "answers in part, or among other things",
        "what the query asks for, and all of it",
    ),
    1: ("no answer to the query", "an answer, at least in part"),
}
"""What the words of `RUBRICS` mean, for those who judge."""


@dataclass(frozen=True, slots=True)
class Judgment:
    """What a judge said of a document for a query: a grade from 0 to `of`, or None, which takes back what was said.

    `at` is the time in UTC, as ISO 8601 has it.
    """

    query_id: str
    doc_id: str
    grade: int | None
    of: int
    judge: str
    at: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How much is done: judged documents out of `documents`, completely judged queries out of `queries`."""

    judged: int
    documents: int
    complete: int
    queries: int


class Judgments:
    """The judgments of a folder: read on opening, appended to by `add`, by any number of processes at a time.

    `best` is the highest grade of the scale, `notes` say what was found to be damaged. What other processes added since
    is read by `add`.
    """

    def __init__(self, folder: Path, pool: Pool, best: int | None) -> None:
        self.folder = folder
        self.pool = pool
        self.notes: list[str] = []
        self._path = folder / "judgments.jsonl"
        self._best = best
        self._pairs = frozenset(pool.pairs)
        self._read = self._lines = 0  # bytes and lines of the file that are in `_latest`
        self._latest: dict[tuple[str, Pair], Judgment] = {}  # by judge and pair, in the order of their last lines

    @classmethod
    def open(cls, folder: str | Path, *, best: int | None = None) -> Judgments:
        """The judgments of a folder that `write_pool` wrote; `best` 3 or 1 (None: as judged so far, else 3).

        A half-written last line is set aside in judgments.damaged and told in `notes`.

        Raises CollectionError where there is no pool, with file and line for a line that is no judgment, and
        InputError where what is there was judged on another scale.
        """
        if best is not None and best not in RUBRICS:
            raise InputError(f"the highest grade is {best}; known scales end at {' and '.join(map(str, RUBRICS))}")
        judgments = cls(Path(folder), read_pool(folder), best)
        with _locked(judgments._path) as file:
            judgments._catch_up(file)
        return judgments

    @property
    def best(self) -> int:
        """The highest grade."""
        return 3 if self._best is None else self._best

    @property
    def judges(self) -> tuple[str, ...]:
        """Everyone who gave a grade that stands."""
        return tuple(sorted({one.judge for one in self.all()}))

    def all(self) -> Iterator[Judgment]:
        """The judgments that stand, the latest last."""
        return (one for one in self._latest.values() if one.grade is not None)

    def of_judge(self, judge: str) -> dict[Pair, int]:
        """The grades that a judge gave, the latest last."""
        return {(one.query_id, one.doc_id): one.grade or 0 for one in self.all() if one.judge == judge}

    def settled(self) -> dict[Pair, int]:
        """One grade a pair: where several judges gave one, the (lower) median."""
        grades: dict[Pair, list[int]] = {}
        for one in self.all():
            grades.setdefault((one.query_id, one.doc_id), []).append(one.grade or 0)
        return {pair: median_low(given) for pair, given in grades.items()}

    def note(self, query_id: str, doc_id: str, judge: str) -> str:
        """What a judge noted on a document, whether it is judged or not; "" for nothing."""
        latest = self._latest.get((judge, (query_id, doc_id)))
        return latest.note if latest else ""

    def progress(self, grades: Mapping[Pair, int]) -> Progress:
        """How much of the pool `grades` (of a judge, or settled ones) cover."""
        queries = [query for query in self.pool.queries if query.documents]
        complete = sum(all((query.query_id, one.id) in grades for one in query.documents) for query in queries)
        return Progress(len(self._pairs & grades.keys()), len(self._pairs), complete, len(queries))

    def qrels(self, judge: str | None = None, *, notes: list[str] | None = None) -> dict[str, dict[str, int]]:
        """The grades of a judge (None: of all, settled) for the queries that are judged completely.

        A query judged in part would count the other candidates as not relevant: left out, and told in `notes`, as is
        what judgments of a pool cannot tell.

        Raises InputError where no query is complete.
        """
        grades = self.settled() if judge is None else self.of_judge(judge)
        qrels: dict[str, dict[str, int]] = {}
        part = 0
        for query in self.pool.queries:
            pairs = [(query.query_id, one.id) for one in query.documents]
            judged = {doc_id: grades[query_id, doc_id] for query_id, doc_id in pairs if (query_id, doc_id) in grades}
            if query.documents and len(judged) == len(query.documents):
                qrels[query.query_id] = judged
            else:
                part += bool(judged)
        if not qrels:
            raise InputError(
                f"{self.folder}: no query is judged completely yet{f' by {judge}' if judge else ''}; go on"
            )
        if part and notes is not None:
            notes.append(f"{counted(part, 'query', 'queries')} judged only in part left out")
        if notes is not None:
            depth, runs = self.pool.depth, ", ".join(self.pool.runs)
            notes.append(
                f"only the first {depth} results of {runs} were judged: how these compare up to rank {depth} can be "
                "told, but not what they all miss, so that recall comes out too high"
            )
        return qrels

    def agreements(self) -> tuple[Agreement, ...]:
        """Of every two judges who judged some of the same documents."""
        given = {judge: self.of_judge(judge) for judge in self.judges}
        both = (agreement((a, b), given[a], given[b]) for a, b in combinations(given, 2))
        return tuple(one for one in both if one.documents)

    def add(self, query_id: str, doc_id: str, grade: int | None, judge: str, *, note: str | None = None) -> Judgment:
        """Append a judgment; it is on disk when this returns. Grade None takes back, `note` None keeps what is noted.

        Raises InputError for a pair that the pool lacks, a grade that is not on the scale, or a judge without a name.
        """
        if (query_id, doc_id) not in self._pairs:
            raise InputError(f"{self.folder}: document {doc_id!r} is not in the pool of query {query_id!r}")
        if not judge.strip():
            raise InputError("the judge has no name; give one, so that two judges can be told apart")
        with _locked(self._path) as file:
            self._catch_up(file)
            if grade is not None and (type(grade) is not int or not 0 <= grade <= self.best):
                raise InputError(f"grade {grade!r} is not on the scale; give a whole number from 0 to {self.best}")
            kept = self.note(query_id, doc_id, judge) if note is None else note
            now = datetime.now(UTC).isoformat(timespec="seconds")
            judgment = Judgment(query_id, doc_id, grade, self.best, judge, now, kept)
            line = msgspec.json.encode(judgment) + b"\n"
            _append(file, line)
            self._take(judgment, len(line))
        return judgment

    def undo(self, judge: str) -> Judgment | None:
        """Take back the judge's last grade that stands, also of an earlier session; None where there is none."""
        with _locked(self._path) as file:
            self._catch_up(file)
        last = next((one for one in reversed([*self.all()]) if one.judge == judge), None)
        return None if last is None else self.add(last.query_id, last.doc_id, None, judge)

    def _catch_up(self, file: int) -> None:
        """Read what the file holds beyond what was read; the lock must be held."""
        size = os.fstat(file).st_size
        if size < self._read:
            raise CollectionError(
                f"{self._path}: became shorter while it was open; close every judging screen and look"
            )
        os.lseek(file, self._read, os.SEEK_SET)
        *whole, rest = _read_all(file).split(b"\n")
        if rest:
            try:
                _decode(rest)
            except msgspec.DecodeError:
                damaged = self._path.with_suffix(".damaged")
                with damaged.open("ab") as stream:
                    stream.write(rest + b"\n")
                    stream.flush()
                    os.fsync(stream.fileno())
                os.ftruncate(file, size - len(rest))
                self.notes.append(
                    f"{self._path}: its last line was half-written (a crash?) and is set aside in {damaged.name}; "
                    "judge that document again"
                )
            else:
                _append(file, b"\n")  # all of it is there but its end, as editors leave it
                whole.append(rest)
        for line in whole:
            self._take(self._checked(line), len(line) + 1)

    def _checked(self, line: bytes) -> Judgment | None:
        if not line.strip():
            return None
        where = f"{self._path}:{self._lines + 1}"
        try:
            judgment = _decode(line)
        except msgspec.DecodeError as error:
            raise CollectionError(f"{where}: not a judgment ({error}); repair the line, or take it out") from error
        if judgment.of not in RUBRICS or not 0 <= (judgment.grade or 0) <= judgment.of:
            raise CollectionError(f"{where}: grade {judgment.grade} of {judgment.of}; scales are 0 to 3 and 0 to 1")
        if self._best not in (None, judgment.of):
            raise InputError(
                f"{where}: judged from 0 to {judgment.of}, not from 0 to {self._best}; one folder has one scale: "
                f"go on with that of the folder, or draw the pool into another one"
            )
        return judgment

    def _take(self, judgment: Judgment | None, size: int) -> None:
        self._read += size
        self._lines += 1
        if judgment is not None:
            self._best = judgment.of
            key = (judgment.judge, (judgment.query_id, judgment.doc_id))
            self._latest.pop(key, None)  # so that it comes last
            self._latest[key] = judgment


def export_qrels(qrels: Qrels, path: str | Path) -> None:
    """Write judgments: as BEIR has them where `path` ends in .tsv, else as TREC. `read_qrels` reads both.

    Raises CollectionError for an id that would not survive in such a file.
    """
    path = Path(path)
    beir = path.suffix == ".tsv"
    with replacing(path) as stream:
        stream.write(b"query-id\tcorpus-id\tscore\n" if beir else b"")
        for query_id, grades in qrels.items():
            for doc_id, grade in grades.items():
                for name in (query_id, doc_id):
                    kept = name == name.strip() and not set(name) & set("\t\r\n") if beir else len(name.split()) == 1
                    if not (name and kept):
                        raise CollectionError(f"{path}: id {name!r} does not survive in such a file; rename it")
                line = f"{query_id}\t{doc_id}\t{grade:d}\n" if beir else f"{query_id} 0 {doc_id} {grade:d}\n"
                stream.write(line.encode())


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of two judges on the documents that both judged: the share of equal grades, and Cohen's κ of it.

    `kappa` (Cohen 1960) takes off what chance would give; `weighted` (Cohen 1968) also counts how far grades are apart,
    by squares. None where both gave one and the same grade throughout, or nothing.
    """

    judges: tuple[str, str]
    documents: int
    same: float | None
    kappa: float | None
    weighted: float | None


def agreement(judges: tuple[str, str], first: Mapping[Pair, int], second: Mapping[Pair, int]) -> Agreement:
    """How far two judges agree where both gave a grade."""
    both = [(grade, second[pair]) for pair, grade in first.items() if pair in second]
    if not both:
        return Agreement(judges, 0, None, None, None)
    n = len(both)
    of_first, of_second = Counter(a for a, _ in both), Counter(b for _, b in both)

    def kappa(power: int) -> float | None:
        # 1 − observed / expected disagreement; a difference to the power of 0 is 1, but none where there is none
        observed = sum(abs(a - b) ** power for a, b in both if a != b) / n
        expected = sum(
            abs(a - b) ** power * x * y for a, x in of_first.items() for b, y in of_second.items() if a != b
        ) / (n * n)
        return 1.0 - observed / expected if expected else None

    return Agreement(judges, n, sum(a == b for a, b in both) / n, kappa(0), kappa(2))


def _decode(line: bytes) -> Judgment:
    return msgspec.json.decode(line, type=Judgment)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, opened for appending, with no other process at it meanwhile."""
    new = not path.exists()
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
    try:
        if sys.platform == "win32":
            os.lseek(file, 1 << 30, os.SEEK_SET)  # a byte that nobody reads
            msvcrt.locking(file, msvcrt.LK_LOCK, 1)
        else:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:  # some network file systems know no locks: one write a line has to do there
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
                    raise
            if new:  # a new file is only safe with the folder that names it
                sync_folder(path.parent)
        yield file
    finally:
        if sys.platform == "win32":
            os.lseek(file, 1 << 30, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
        os.close(file)


def _read_all(file: int) -> bytes:
    blocks = []
    while block := os.read(file, 1 << 20):
        blocks.append(block)
    return b"".join(blocks)


def _append(file: int, line: bytes) -> None:
    """One write and on to the disk; a disk that is full leaves no half of it."""
    size = os.fstat(file).st_size
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise
