"""Going on where a killed run stopped.

Knows: how to tell finished requests in an output file, in either format, and to cut off what is
half-written. Refuses to know: how requests are read and answered. Nothing grows with the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import msgspec

from secondpass.errors import InputError
from secondpass.types import Ranking

__all__ = ["JSONL", "TREC", "Format", "skip_finished"]


@dataclass(frozen=True, slots=True)
class Format:
    """How an output file is read again: the query id of a whole line, and whether a query is one line."""

    name: str
    query_id: Callable[[bytes], str]
    one_line: bool


def _json_id(line: bytes) -> str:
    record: Any = msgspec.json.decode(line)
    return str(record["query_id"])


def _run_id(line: bytes) -> str:
    return line.split()[0].decode()


JSONL = Format("JSON lines", _json_id, one_line=True)
TREC = Format("a TREC run", _run_id, one_line=False)


def skip_finished(requests: Iterator[Ranking], file: Path, form: Format) -> int:
    """Cut `file` back to whole requests, take those from `requests`, and return how many they are.

    In a run nothing says whether the last query is complete, so it is cut off and done again.

    Raises InputError, and leaves the file alone, where it is not the beginning of the answer to these requests.
    """
    whole = _whole(file, form)
    done = 0
    for query_id in _ids(file, form, whole):
        request = next(requests, None)
        if request is None or request.query_id != query_id:
            found = "at its end" if request is None else f"at query {request.query_id!r}"
            raise InputError(
                f"{file}: request {done + 1} in it is query {query_id!r}, but the input is {found}; "
                "it belongs to another input: give another --out"
            )
        done += 1
    with file.open("r+b") as stream:
        stream.truncate(whole)
    return done


def _whole(file: Path, form: Format) -> int:
    """How many bytes of the file are whole requests."""
    end = start_of_last = 0
    last: list[bytes] = []
    with file.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                break
            query_id = line.split(maxsplit=1)[:1]
            if query_id != last:
                start_of_last, last = end, query_id
            end += len(line)
    return end if form.one_line else start_of_last


def _ids(file: Path, form: Format, whole: int) -> Iterator[str]:
    """The query id of every request in the first `whole` bytes."""
    with file.open("rb") as stream:
        ids = _line_ids(stream, file, form, whole)
        yield from ids if form.one_line else (query_id for query_id, _ in groupby(ids))


def _line_ids(stream: IO[bytes], file: Path, form: Format, whole: int) -> Iterator[str]:
    read = 0
    for number, line in enumerate(stream, 1):
        read += len(line)
        if read > whole:
            return
        try:
            yield form.query_id(line)
        except (msgspec.DecodeError, LookupError, TypeError, UnicodeDecodeError) as error:
            raise InputError(f"{file}:{number}: not {form.name} as rerank writes it; give another --out") from error
