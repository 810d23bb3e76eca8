"""Connections to a PostgreSQL server: kept for the next query, replaced when they are lost, left when time is up.

Knows: psycopg, time, what is said of a failure. Refuses to know: statements and tables.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from secondpass.errors import InputError, RetrieverError
from secondpass.extras import require

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Connections"]

_KEPT = 8  # connections for the next queries
_GRACE = 1.0  # seconds after the server should have given up on a query, before we give up on the server
_T = TypeVar("_T")


class Connections:
    """Connections to the database at `dsn`, any number of them at once; a query takes at most `timeout_s` seconds.

    Raises InputError for a dsn that cannot be read (it is not shown: there may be a password in it), MissingExtraError
    without the extra `postgres`.
    """

    def __init__(self, dsn: str, timeout_s: float) -> None:
        self._psycopg: Any = require("psycopg", extra="postgres", purpose="a first stage in PostgreSQL")
        try:
            parts = self._psycopg.conninfo.conninfo_to_dict(dsn)
        except (self._psycopg.Error, TypeError, ValueError):
            raise InputError("the dsn cannot be read; give postgresql://user@host/database") from None
        if not 0 < timeout_s < math.inf:
            raise InputError(f"timeout_s is {timeout_s!r}; give seconds above 0")
        user = f"{parts['user']}@" if "user" in parts else ""
        self.where = f"{user}{parts.get('host', '')}/{parts.get('dbname', '')}"
        self._dsn, self._timeout_s = dsn, timeout_s
        self._idle: list[Connection[Any]] = []
        weakref.finalize(self, _close_all, self._idle)

    def close(self) -> None:
        """Close those that are kept; a later query opens new ones."""
        _close_all(self._idle)

    def ask(self, statement: str, asked: Mapping[str, Any] | Sequence[Any], settings: Mapping[str, str]) -> list[Any]:
        """The rows of one statement, in one round trip; `settings` of the server hold for it alone.

        Raises RetrieverError where there is no connection, no answer in time, or where the server refuses.
        """
        until = time.monotonic() + self._timeout_s

        def rows(connection: Connection[Any]) -> list[Any]:
            left = max(1, math.ceil(1000 * (until - time.monotonic())))
            given = {"statement_timeout": str(left), **settings}
            setting = "SELECT " + ", ".join("set_config(%s, %s, true)" for _ in given)
            with self._watched(connection, until), connection.pipeline():  # which is one transaction
                connection.execute(setting, [part for pair in given.items() for part in pair])
                found = connection.execute(statement, asked)
            return found.fetchall()  # after the pipeline: reading in it would be a round trip of its own

        with self._reached():
            return self._again(rows)

    @contextmanager
    def one(self, timeout_s: float) -> Iterator[Connection[Any]]:
        """A connection for more than a query, with this timeout for each statement. Raises as `ask` does."""
        with self._reached(timeout_s), self._connect() as connection:
            connection.execute(f"SET statement_timeout = {1000 * timeout_s:.0f}")
            yield connection

    def _connect(self) -> Connection[Any]:
        patience = max(2, math.ceil(self._timeout_s))  # less than two seconds is not possible
        made: Connection[Any] = self._psycopg.connect(self._dsn, autocommit=True, connect_timeout=patience)
        return made

    def _again(self, work: Callable[[Connection[Any]], _T]) -> _T:
        """What `work` gives on a connection that was kept; where there is none, or it turns out lost, on a new one."""
        try:
            kept = self._idle.pop()  # one step, whatever other threads do
        except IndexError:
            return self._on(self._connect(), work)
        try:
            return self._on(kept, work)
        except self._psycopg.OperationalError:
            if not kept.broken:
                raise
        self.close()  # whatever broke this one broke the others
        return self._on(self._connect(), work)

    def _on(self, connection: Connection[Any], work: Callable[[Connection[Any]], _T]) -> _T:
        """What `work` gives; the connection is kept where it is sound."""
        try:
            return work(connection)
        finally:
            if connection.closed or connection.broken or len(self._idle) >= _KEPT:
                connection.close()
            else:
                self._idle.append(connection)

    @contextmanager
    def _watched(self, connection: Connection[Any], until: float) -> Iterator[None]:
        """Hang up where the server does not even say that time is up, so that nobody waits for ever.

        Raises RetrieverError for that.
        """
        late = threading.Event()

        def hang_up() -> None:
            late.set()
            with suppress(OSError, self._psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(max(until - time.monotonic(), 0) + _GRACE, hang_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        except self._psycopg.OperationalError as error:
            if late.is_set():
                raise self._late(self._timeout_s) from error
            raise
        finally:
            timer.cancel()

    def _late(self, seconds: float) -> RetrieverError:
        return RetrieverError(f"the first stage in {self.where} gave no answer within {seconds:g} s", kind="timeout")

    @contextmanager
    def _reached(self, seconds: float | None = None) -> Iterator[None]:
        """What goes wrong, in words that hold no secret."""
        try:
            yield
        except self._psycopg.errors.QueryCanceled as error:
            raise self._late(seconds or self._timeout_s) from error
        except self._psycopg.Error as error:
            lost = isinstance(error, self._psycopg.OperationalError)
            what = error.diag.message_primary or str(error).partition("\n")[0]
            how = "is not reached" if lost else "does not do what it is asked"
            kind: Literal["connection", "refused"] = "connection" if lost else "refused"
            raise RetrieverError(f"the first stage in {self.where} {how}: {what}", kind=kind) from error


def _close_all(connections: list[Connection[Any]]) -> None:
    while connections:
        connections.pop().close()
