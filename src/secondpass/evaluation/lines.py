"""Files of lines: opened whether gzipped or not, read line by line, replaced in one step.

Knows: gzip, UTF-8, line ends, JSON objects one a line. Refuses to know: what a line means. Every
CollectionError names file and line.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from secondpass.errors import CollectionError

__all__ = ["json_objects", "numbered", "opened", "replacing"]

_BOM = "\N{BYTE ORDER MARK}"


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
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


def numbered(lines: Iterable[bytes] | Iterable[str], name: object) -> Iterator[tuple[int, str]]:
    """Line number and line, without its end (LF or CRLF), for lines that are not blank; `name` is for errors."""
    number = 0
    rows: Iterator[bytes | str] = iter(lines)
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


def json_objects(lines: Iterable[bytes] | Iterable[str], name: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON object of every line that is not blank, each with "name:line"."""
    decode = msgspec.json.Decoder().decode
    for number, line in numbered(lines, name):
        where = f"{name}:{number}"
        try:
            record = decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise CollectionError(f"{where}: broken JSON ({error}); every line must be one JSON object") from error
        if not isinstance(record, dict):
            raise CollectionError(f"{where}: a JSON {type(record).__name__}; every line must be one JSON object")
        yield where, record


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
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
