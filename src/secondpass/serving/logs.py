"""What a server tells of itself while it runs: one line for each event, for machines (JSON) or for people (text).

Knows: fields and their order, and what could hold somebody's text. Refuses to know: HTTP, where lines are kept.

Lines go through the logger "secondpass" of the standard library. Nothing is set up when this is imported; who starts a
server calls `set_up`. No query's or document's text is written unless `texts` asks for it. That holds for exceptions,
too, whose messages may quote one: of these the type and the lines of code are told. And for other packages' messages,
which may quote an exception, or a URL with its query: of these the first line is told, without what was put into it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, get_args

import msgspec

from secondpass.errors import InputError

__all__ = ["Field", "Form", "Level", "Lines", "answered", "happened", "set_up"]

Form = Literal["json", "text"]
Level = Literal["debug", "info", "warning", "error"]
Field = str | int | float | bool | None

_LOG = logging.getLogger("secondpass")
_SERVER = ("uvicorn", "uvicorn.error", "uvicorn.access")
_FIELDS, _TEXTS = "secondpass_fields", "secondpass_texts"
_LONGEST = 1000  # characters of a query or a document, where texts are asked for
_WAITING = 10_000  # lines


@dataclass(frozen=True, slots=True, repr=False)  # without its texts in `repr`: other handlers may write all they find
class _Texts:
    query: str | None
    documents: Sequence[object]


def answered(
    *,
    request: str,
    path: str,
    status: int,
    seconds: float,
    caller: str = "",
    model: str = "",
    digest: str = "",
    documents: int | None = None,
    scored: int | None = None,
    reason: str = "",
    query: str | None = None,
    texts: Sequence[object] = (),
    error: BaseException | None = None,
    quiet: bool = False,
) -> None:
    """A request was answered, after so many `seconds`.

    `request` is its id, `reason` a word for why it was refused, `documents` and `scored` are counts, `error` what made
    it fail. A 5xx is an error, all else information, or for debugging where it is `quiet` (probes and scrapes).
    `query` and `texts` are written only where `set_up` says so.
    """
    level = logging.ERROR if status >= 500 else logging.DEBUG if quiet else logging.INFO
    fields: dict[str, Field] = {
        "request": request,
        "path": path,
        "status": status,
        "seconds": round(seconds, 6),
        "documents": documents,
        "scored": scored,
        "model": model or None,
        "digest": digest or None,
        "caller": caller or None,
        "reason": reason or None,
    }
    _write(level, "request", fields, error, _Texts(query, texts))


def happened(event: str, *, level: Level = "info", error: BaseException | None = None, **fields: Field) -> None:
    """Anything else: started, a model loaded, a probe that failed, stopping. Fields are written as they are: give no
    texts, nor messages of exceptions; give the exception itself as `error`."""
    _write(_number(level), event, fields, error)


def set_up(stream: TextIO, level: Level = "info", *, form: Form = "json", texts: bool = False) -> logging.Handler:
    """Write to `stream`, from this level up: this package and the HTTP server, and warnings of all other packages.

    Called again it takes the place of what it set up before. `texts`: queries and documents, cut to 1,000 characters
    each, and messages of exceptions too. Give uvicorn `log_config=None`, or it sets up its own.

    Returns the handler. Raises InputError for a level or a form that is not known.
    """
    if form not in get_args(Form):
        raise InputError(f"the form of logs is {form!r}; known are {', '.join(get_args(Form))}")
    number = _number(level)
    handler = Aside(stream)
    handler.setFormatter(Lines(form, texts=texts))
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one.formatter, Lines)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    _LOG.setLevel(number)
    for name in _SERVER:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(number)
    return handler


class Aside(logging.Handler):
    """Writes lines from a thread of its own, started with the first: a stream that nobody reads holds up no request.
    Lines for which there is no room any more are dropped, and their number is the next line."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(_WAITING)
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Called under the handler's lock."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="secondpass-lines", daemon=True)
            self._thread.start()
        try:
            if self._dropped:
                gone = logging.makeLogRecord(
                    {"levelno": logging.WARNING, "levelname": "WARNING", "msg": "lines dropped"}
                )
                setattr(gone, _FIELDS, {"lines": self._dropped})
                self._lines.put_nowait(self.format(gone))
                self._dropped = 0
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """What waits is written, if that takes no longer than a second."""
        if self._thread is not None and self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._lines.put_nowait(None)
            self._thread.join(1.0)
        super().close()

    def flush(self) -> None:
        """Wait until what was logged is written, a second at most."""
        until = time.monotonic() + 1.0
        while self._lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.001)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # gone, or closed: there is nobody to tell
                self._stream.write(line + "\n")
                self._stream.flush()
            self._lines.task_done()


class Lines(logging.Formatter):
    """A record as one line: time (RFC 3339, UTC), level, event and fields. In `text` the lines of an exception follow,
    indented, so that nothing that is logged looks like a line of its own."""

    def __init__(self, form: Form = "json", *, texts: bool = False) -> None:
        super().__init__()
        self._form, self._texts = form, texts

    def format(self, record: logging.LogRecord) -> str:
        line = {key: _encodable(value) for key, value in self._fields(record)}
        if self._form == "json":
            return msgspec.json.encode(line, enc_hook=str).decode()
        time, level, event, trace = (line.pop(key, "") for key in ("time", "level", "event", "traceback"))
        fields = [f"{key}={_shown(value)}" for key, value in line.items()]
        below = [f"\n    {one if one.isprintable() else repr(one)}" for one in str(trace).splitlines()]
        return " ".join([time, f"{level:<7}", event if event.isprintable() else repr(event), *fields]) + "".join(below)

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        yield "time", time.replace("+00:00", "Z")
        yield "level", record.levelname.lower()
        fields: Mapping[str, Field] | None = getattr(record, _FIELDS, None)
        if fields is None:
            yield "event", record.getMessage() if self._texts else _without_texts(record)
            yield "logger", record.name
        else:
            yield "event", record.msg
            yield from ((key, value) for key, value in fields.items() if value is not None)
        given: _Texts | None = getattr(record, _TEXTS, None)
        if self._texts and given is not None and given.query is not None:
            yield "query", given.query[:_LONGEST]
            yield "texts", [text[:_LONGEST] for text in given.documents if isinstance(text, str)]
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            yield "error", _type(error)
            yield "traceback", "".join(traceback.format_exception(error) if self._texts else _frames(error, set()))


def _write(
    level: int, event: str, fields: Mapping[str, Field], error: BaseException | None, texts: _Texts | None = None
) -> None:
    _LOG.log(level, event, exc_info=error, extra={_FIELDS: fields, _TEXTS: texts})


def _number(level: str) -> int:
    if level not in get_args(Level):
        raise InputError(f"the level of logs is {level!r}; known are {', '.join(get_args(Level))}")
    return logging.getLevelNamesMapping()[level.upper()]


def _without_texts(record: logging.LogRecord) -> str:
    """A message as a module formats it on its own. Of this package and the HTTP server what was put in is told, too:
    of an exception its type, of a URL what is before its query."""
    message = str(record.msg)
    ours = record.name in _SERVER or record.name.partition(".")[0] == _LOG.name
    if ours and isinstance(record.args, tuple) and record.args:
        message %= tuple(map(_told, record.args))
    return message.partition("\n")[0]


def _told(value: object) -> object:
    if isinstance(value, BaseException):
        return _type(value)
    return value.partition("?")[0] if isinstance(value, str) else value


def _type(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")


def _frames(error: BaseException, seen: set[int]) -> Iterator[str]:
    """A traceback as Python writes it, without messages and notes: causes first, the exceptions of a group after it."""
    seen.add(id(error))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and id(cause) not in seen:
        yield from _frames(cause, seen)
        yield "\nwhich led to:\n\n"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    yield f"{_type(error)}\n"
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield "\nof the group:\n\n"
            yield from _frames(one, seen)


def _encodable(value: Any) -> Any:
    """Lone surrogates, which are in no UTF-8, replaced."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    return [_encodable(one) for one in value] if isinstance(value, list) else value


def _shown(value: Any) -> str:
    """A value that can be told from what stands beside it, and moves no cursor."""
    text = str(value)
    plain = text.isprintable() and text and not any(one in text for one in " \"'=")
    return text if plain else repr(text)
