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

__all__ = ["blocks", "json_objects", "numbered", "opened", "replacing"]

_BOM = "\N{BYTE ORDER MARK}"
_BLOCK = 128 << 10  # bytes; what a block is split into then fits a processor's cache
_BROKEN_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)


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


def numbered(lines: Iterable[bytes] | Iterable[str], name: object, first: int = 1) -> Iterator[tuple[int, str]]:
    """Line number and line, without its end (LF or CRLF), for lines that are not blank; `name` is for errors.

    `first` is the number of the first line.
    """
    number = first - 1
    rows: Iterator[bytes | str] = iter(lines)
    try:
        for number, raw in enumerate(rows, first):
            line = raw.decode("utf-8") if isinstance(raw, bytes) else raw
            line = (line.removeprefix(_BOM) if number == 1 else line).rstrip("\r\n")
            if line and not line.isspace():
                yield number, line
    except UnicodeDecodeError as error:
        raise CollectionError(f"{name}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except _BROKEN_GZIP as error:
        raise _broken_gzip(name, number + 1, error) from error


def blocks(stream: IO[bytes] | IO[str], name: object) -> Iterator[tuple[int, bytes]]:
    """The stream in blocks of whole lines of about 128 KiB: the number of a block's first line, and its bytes.

    For files of millions of lines, which are too slow to take one by one. Raises CollectionError
    for a line that is longer than a block.
    """
    read = getattr(stream, "read1", stream.read)  # of a broken gzip, also the last bytes that can be had
    number, rest, more = 1, b"", True
    while more:
        pieces, fresh = [rest], 0
        while more and fresh < _BLOCK:
            try:
                piece = read(_BLOCK)
            except _BROKEN_GZIP as error:
                raise _broken_gzip(name, number + b"".join(pieces).count(b"\n"), error) from error
            pieces.append(piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece)
            fresh += len(pieces[-1])
            more = bool(piece)
        block = b"".join(pieces)
        if number == 1:
            block = block.removeprefix(_BOM.encode())
        end = block.rfind(b"\n") + 1 if more else len(block)
        if more and not end:
            raise CollectionError(f"{name}:{number}: a line of more than {_BLOCK >> 10} KiB; is this the right file?")
        if end:
            yield number, block[:end]
        number += block.count(b"\n")
        rest = block[end:]


def _broken_gzip(name: object, number: int, error: Exception) -> CollectionError:
    return CollectionError(f"{name}:{number}: broken gzip ({error}); fetch or compress it again")


def json_objects(
    lines: Iterable[bytes] | Iterable[str], name: object, first: int = 1
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON object of every line that is not blank, each with "name:line"; `first` is the number of the first."""
    decode = msgspec.json.Decoder().decode
    for number, line in numbered(lines, name, first):
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
