"""Full text search in SQLite: a file that has an FTS5 table, people's own or one that is filled here.

Knows: FTS5, its query language, and the two tables of ours. Refuses to know: vectors, which SQLite has none of (put a
Dense beside it in a Hybrid).

    found = SQLite("articles.db", table="articles", words="articles_fts", id="slug", title=None, text="body")
    ours = SQLite("documents.db")
    ours.fill(documents)

A hit's score is FTS5's own bm25() (k1 = 1.2, b = 0.75) with its sign turned, so that more is better: from 0 up, without
a fixed top, and for the order within one query alone. A document is found by any word of the query.

A connection is opened for each query, which costs a fraction of a millisecond: any number of threads may ask, and a
file that is replaced is the new one with the next query.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from secondpass.errors import InputError, RetrieverError
from secondpass.retrievers.filling import Filled, Vector, fill
from secondpass.retrievers.ranked import check_question
from secondpass.retrievers.rows import DIGEST, REST, Found, Row, plain, quoted, ranking_of
from secondpass.types import Document, Ranking

__all__ = ["SQLite"]

_FILLING = 60.0  # seconds that a batch may take
_STEPS = 10_000  # instructions of SQLite's machine between two looks at the clock
_NUMBER = "secondpass_number"  # what ties the rows of our two tables to each other


class SQLite:
    """Finds in the file at `path` by words.

    `words` is the FTS5 table (None: `table` with `_words` behind it), `table` where `id`, `title`, `text` and the
    columns of `metadata` lie; an FTS5 table that holds its own columns is both. `key` is the column of `table` that the
    rows of `words` are numbered by. `title` may be None where there is none. A query takes at most `timeout_s` seconds.

    `tokenizer` is FTS5's, for a table that `fill` makes.

    Raises InputError for a path or a timeout that cannot be meant, or a name with a zero byte.
    """

    lowest_score = 0.0
    paths = ("path",)  # what settings give from their own folder on

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table: str = "secondpass_documents",
        words: str | None = None,
        key: str = "rowid",
        id: str = "id",
        title: str | None = "title",
        text: str = "text",
        metadata: Sequence[str] = (),
        tokenizer: str = "porter unicode61",
        timeout_s: float = 5.0,
    ) -> None:
        if not str(path) or str(path) == ":memory:":
            raise InputError(f"path is {str(path)!r}; give the file of a database, which several threads can open")
        if not 0 < timeout_s < math.inf:
            raise InputError(f"timeout_s is {timeout_s!r}; give seconds above 0")
        self.path, self.table, self.words = Path(path), table, words or f"{table}_words"
        self.metadata, self.timeout_s = tuple(metadata), timeout_s
        self._tokenizer, self._key = tokenizer, quoted(key)
        self._id, self._title, self._text = quoted(id), "''" if title is None else quoted(title), quoted(text)
        self._more = tuple(map(quoted, self.metadata))

    def __repr__(self) -> str:
        return f"SQLite({str(self.path)!r}, {self.table!r})"

    def retrieve(self, query: str, k: int) -> Ranking:
        """The k best by bm25(), or all that share a word with the query; ties in the order of the table.

        Raises InputError for a query that is no string or a k below 1, RetrieverError where the file is not there, has
        no such tables or columns, is locked, or takes too long.
        """
        check_question(query, k)
        begun = time.perf_counter()
        wanted = _any_word(query)
        found: list[Found] = []
        if wanted:
            with self._open(self.timeout_s) as connection:
                ours = REST in self._columns(connection)
                rows = connection.execute(self._statement(ours), (wanted, min(k, 2**62)))
                for id, title, text, rest, score, *values in rows:
                    metadata = dict(zip(self.metadata, values, strict=True))
                    found.append(Found(id, title, text, rest, metadata, score))
        return ranking_of("sqlite", query, found, begun, {"table": self.table, "unknown_query": not wanted})

    def fill(
        self, documents: Iterable[Document], *, batch: int = 256, on_progress: Callable[[int], None] | None = None
    ) -> Filled:
        """Put `documents` into the file, which is made where there is none: see `filling.fill`. What is there of
        another id stays.

        Raises InputError as `filling.fill` does and for a table that is not ours, RetrieverError as `retrieve` does.
        """
        with self._open(_FILLING, create=True) as connection:
            columns = self._columns(connection)
            if not columns:
                self._make(connection)
            elif not {REST, DIGEST, _NUMBER} <= columns:
                raise InputError(
                    f"{self.path} has a table {self.table!r} that was not made here, so nothing is written into it; "
                    "name another one"
                )
        return fill(documents, self._known, self._write, batch=batch, on_progress=on_progress)

    def _statement(self, ours: bool) -> str:
        words, rest = quoted(self.words), REST if ours else "NULL"
        more = "".join(f", kept.{name}" for name in self._more)
        title = self._title if self._title == "''" else f"kept.{self._title}"
        key = _NUMBER if ours else self._key
        return (
            f"SELECT kept.{self._id}, {title}, kept.{self._text}, {rest}, found.score{more} FROM "
            f"(SELECT rowid AS number, -bm25({words}) AS score FROM {words} WHERE {words} MATCH ? "
            f"ORDER BY score DESC, number LIMIT ?) AS found JOIN {quoted(self.table)} AS kept "
            f"ON kept.{key} = found.number ORDER BY found.score DESC, found.number"
        )

    def _make(self, connection: sqlite3.Connection) -> None:
        """The table and its words, which triggers keep the same."""
        table, words = quoted(self.table), quoted(self.words)
        new, old = (f"{row}.{_NUMBER}, {row}.{self._title}, {row}.{self._text}" for row in ("new", "old"))
        columns = f"{self._title}, {self._text}"
        options = f"content={quoted(self.table)}, content_rowid={_NUMBER}, tokenize={quoted(self._tokenizer)}"
        add = f"INSERT INTO {words} (rowid, {columns}) VALUES ({new});"
        take = f"INSERT INTO {words} ({words}, rowid, {columns}) VALUES ('delete', {old});"
        if self._title == "''":
            raise InputError("a table that is made here has a title; name its column")
        statements = [
            f"CREATE TABLE {table} ({_NUMBER} INTEGER PRIMARY KEY, {self._id} TEXT NOT NULL UNIQUE, "
            f"{self._title} TEXT NOT NULL, {self._text} TEXT NOT NULL, {REST} TEXT NOT NULL, {DIGEST} TEXT NOT NULL)",
            f"CREATE VIRTUAL TABLE {words} USING fts5({columns}, {options})",
            f"CREATE TRIGGER {quoted(self.table + '_added')} AFTER INSERT ON {table} BEGIN {add} END",
            f"CREATE TRIGGER {quoted(self.table + '_gone')} AFTER DELETE ON {table} BEGIN {take} END",
            f"CREATE TRIGGER {quoted(self.table + '_changed')} AFTER UPDATE ON {table} BEGIN {take} {add} END",
        ]
        with _transaction(connection):
            if not self._columns(connection):  # nobody else has made it meanwhile
                for statement in statements:
                    connection.execute(statement)

    def _known(self, ids: Sequence[str]) -> dict[str, str]:
        marks, id = ", ".join("?" * len(ids)), f"kept.{self._id}"
        statement = f"SELECT {id}, {DIGEST} FROM {quoted(self.table)} AS kept WHERE {id} IN ({marks})"
        with self._open(_FILLING) as connection:
            return dict(connection.execute(statement, ids))

    def _write(self, rows: Sequence[tuple[Row, Vector | None]]) -> None:
        names = (self._title, self._text, REST, DIGEST)
        changes = ", ".join(f"{name} = excluded.{name}" for name in names)
        statement = (
            f"INSERT INTO {quoted(self.table)} ({self._id}, {', '.join(names)}) VALUES (?, ?, ?, ?, ?) "
            f"ON CONFLICT ({self._id}) DO UPDATE SET {changes}"
        )
        with self._open(_FILLING) as connection, _transaction(connection):
            values = ((row.id, row.title, row.text, row.rest, row.digest) for row, _ in rows)
            connection.executemany(statement, values)

    def _columns(self, connection: sqlite3.Connection) -> set[str]:
        """The columns of the table, none where it is not there."""
        return {name for _, name, *_ in connection.execute(f"PRAGMA table_info({quoted(self.table)})")}

    @contextmanager
    def _open(self, seconds: float, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        uri = f"{self.path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
        until = time.monotonic() + seconds
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=seconds, isolation_level=None)) as connection:
                connection.set_progress_handler(lambda: time.monotonic() >= until, _STEPS)
                yield connection
        except sqlite3.Error as error:
            where = f"the first stage in {self.path}"
            if time.monotonic() >= until:
                raise RetrieverError(f"{where} gave no answer within {seconds:g} s", kind="timeout") from error
            missing = f"there is no file {self.path}; fill it first, or name yours"
            lost = not self.path.exists()
            why = missing if lost else f"{where} does not do what it is asked: {error}; check its tables and columns"
            raise RetrieverError(why, kind="connection" if lost else "refused") from error


def _any_word(query: str) -> str:
    """The query as FTS5 reads it: each word a string, which holds no operators, and any of them may match."""
    words = dict.fromkeys(plain(query).split())
    return " OR ".join('"' + word.replace('"', '""') + '"' for word in words)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.execute("COMMIT")
