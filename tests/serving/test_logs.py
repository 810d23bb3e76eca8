"""Logs: one line for each event, which a machine can read, and in which nobody's text is."""

from __future__ import annotations

import io
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import GoldenError, InputError
from secondpass.serving.logs import Form, Lines, answered, happened, set_up

CANARY = "canary-b7d1"
LOGGERS = ("", "secondpass", "uvicorn", "uvicorn.error", "uvicorn.access")

Started = Callable[..., io.StringIO]


@pytest.fixture
def started() -> Iterator[Started]:
    """`set_up` into a text in memory; afterwards the loggers are as they were."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(one.level, list(one.handlers), one.propagate) for one in loggers]

    def start(*args: Any, **how: Any) -> io.StringIO:
        stream = io.StringIO()
        set_up(stream, *args, **how)
        return stream

    yield start
    for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


class Kept(logging.Handler):
    """Another handler, which keeps the records themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def written(stream: io.StringIO) -> str:
    """What has come out of the thread that writes."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    return stream.getvalue()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    text = written(stream)
    assert not text or text.endswith("\n")
    return [msgspec.json.decode(line) for line in text.split("\n")[:-1]]


def request(**how: Any) -> None:
    answered(**{"request": "id-1", "path": "/v1/rerank", "status": 200, "seconds": 0.25, **how})


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """With a traceback, as it is caught."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def talk(form: Form) -> None:
    """Every call there is, and what other packages log, each with the canary wherever a text could be."""
    text = f"{CANARY}\n{CANARY}"
    errors = [
        raised(ValueError(text)),
        raised(InputError("bad"), raised(KeyError(text))),
        raised(ExceptionGroup(CANARY, [ValueError(text), ExceptionGroup("b", [KeyError(text)])])),
        raised(RuntimeError("second")),
    ]
    errors[0].add_note(CANARY)
    errors[-1].__context__ = raised(ValueError(CANARY))
    for error in errors:
        request(status=500, error=error, query=CANARY, texts=[CANARY, None, 3])
        happened("failed", level="error", error=error)
        for name in ("secondpass.serve", "uvicorn.error", "asyncio"):
            logger = logging.getLogger(name)
            logger.error("Exception in ASGI application\n", exc_info=error)
            logger.error("it failed: %s", error)
    logging.getLogger("asyncio").error(f"Task exception was never retrieved\nfuture: <Task exception={errors[0]!r}>")
    logging.getLogger("sqlalchemy.pool").warning("statement %s with %r", text, {"query": text})
    access = '%s - "%s %s HTTP/%s" %d'
    logging.getLogger("uvicorn.access").info(access, "1.2.3.4:5", "GET", f"/v1/search?q={CANARY}", "1.1", 404)
    request(query=text, texts=[text])


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_text_is_in_any_line(started: Started, form: Form) -> None:
    stream = started("debug", form=form)
    talk(form)
    assert "Task exception was never retrieved" in written(stream)  # they were heard
    assert CANARY not in written(stream)


@pytest.mark.parametrize("form", ["json", "text"])
def test_texts_are_there_where_they_are_asked_for(started: Started, form: Form) -> None:
    stream = started("debug", form=form, texts=True)
    request(query=CANARY + " q", texts=[CANARY + " d", None])
    happened("failed", error=raised(ValueError(CANARY + " e")))
    for which in "qde":
        assert f"{CANARY} {which}" in written(stream)


def test_long_texts_are_cut(started: Started) -> None:
    stream = started(texts=True)
    request(query="q" * 5000, texts=["d" * 5000])
    (line,) = lines(stream)
    assert line["query"] == "q" * 1000
    assert line["texts"] == ["d" * 1000]


def test_a_record_shows_no_text_to_other_handlers() -> None:
    """Who writes all that a record has, as some formatters do, has no text in it either."""
    logger, kept = logging.getLogger("secondpass"), Kept()
    logger.addHandler(kept)
    try:
        request(status=500, query=CANARY, texts=[CANARY])
    finally:
        logger.removeHandler(kept)
    (record,) = kept.records
    assert CANARY not in repr(vars(record))


def test_a_request_has_its_fields(started: Started) -> None:
    stream = started()
    began = datetime.now(UTC)
    request(caller="shop", model="mini", digest="ab12", documents=100, scored=90, reason="")
    (line,) = lines(stream)
    time = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert abs((datetime.fromisoformat(time) - began).total_seconds()) < 5
    assert line == {
        "level": "info", "event": "request", "request": "id-1", "path": "/v1/rerank", "status": 200, "seconds": 0.25,
        "documents": 100, "scored": 90, "model": "mini", "digest": "ab12", "caller": "shop",
    }  # fmt: skip


def test_the_level_is_of_what_happened(started: Started) -> None:
    stream = started("debug")
    request(status=429, reason="backlog")
    request(status=503)
    request(path="/health", quiet=True)
    happened("model loaded", model="mini", seconds=1.5)
    happened("probe failed", level="warning")
    assert [line["level"] for line in lines(stream)] == ["info", "error", "debug", "info", "warning"]
    assert lines(stream)[0]["reason"] == "backlog"
    assert lines(stream)[3]["seconds"] == 1.5
    stream = started("warning")
    request()
    request(status=500, quiet=True)
    happened("started")
    assert [line["status"] for line in lines(stream)] == [500]


def test_an_exception_tells_where_it_came_from_and_what_led_to_it(started: Started) -> None:
    stream = started()
    happened("failed", level="error", error=raised(GoldenError("x"), raised(KeyError("y"))))
    (line,) = lines(stream)
    assert line["error"] == "secondpass.errors.GoldenError"
    assert line["traceback"].count('test_logs.py", line') == 2
    assert line["traceback"].index("KeyError") < line["traceback"].index("GoldenError")
    assert "in raised" in line["traceback"]


def test_exceptions_that_go_in_circles_end(started: Started) -> None:
    stream = started()
    one, other = ValueError("a"), KeyError("b")
    one.__context__, other.__context__ = other, one
    happened("failed", error=one)
    assert lines(stream)[0]["traceback"].count("KeyError") == 1


def test_the_http_server_and_other_packages_go_the_same_way(started: Started) -> None:
    stream = started()
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 12)
    access = '%s - "%s %s HTTP/%s" %d'
    logging.getLogger("uvicorn.access").info(access, "1.2.3.4:5", "GET", "/v1/search?q=a", "1.1", 200)
    logging.getLogger("asyncio").info("not of interest")
    logging.getLogger("asyncio").warning("of interest: %s", "argument")
    logging.getLogger("secondpass.log").warning("requests are not logged for now: %s", "disk full")
    found = [(line["logger"], line["level"], line["event"]) for line in lines(stream)]
    assert found == [
        ("uvicorn.error", "info", "Started server process [12]"),
        ("uvicorn.access", "info", '1.2.3.4:5 - "GET /v1/search HTTP/1.1" 200'),
        ("asyncio", "warning", "of interest: %s"),
        ("secondpass.log", "warning", "requests are not logged for now: disk full"),
    ]


def test_uvicorn_writes_through_it(started: Started) -> None:
    """With the settings that the docstring names; uvicorn's own would take its loggers away."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")
    stream = started()
    uvicorn.Config(lambda: None, log_config=None, access_log=False)
    logging.getLogger("uvicorn.error").info("Waiting")
    assert [line["event"] for line in lines(stream)] == ["Waiting"]


def test_set_up_again_takes_the_place_of_the_first(started: Started) -> None:
    first, second = started(), started("error")
    happened("hello")
    happened("broken", level="error")
    assert first.getvalue() == ""
    assert [line["event"] for line in lines(second)] == ["broken"]


def test_nothing_is_set_up_by_the_import() -> None:
    assert not [one for name in LOGGERS for one in logging.getLogger(name).handlers if isinstance(one.formatter, Lines)]


def test_what_cannot_be_meant_is_said() -> None:
    with pytest.raises(InputError, match=r"'loud'.*debug, info, warning, error"):
        set_up(io.StringIO(), "loud")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'xml'.*json, text"):
        set_up(io.StringIO(), form="xml")  # type: ignore[arg-type]
    test_nothing_is_set_up_by_the_import()


ANY = st.text(st.characters(categories=None), max_size=20)  # lone surrogates and controls, too


def formatted(form: Form, event: str, fields: dict[str, Any], *, query: str) -> str:
    """As `answered` and `happened` hand it over, without a logger."""
    logger, kept = logging.getLogger("secondpass"), Kept()
    before, logger.propagate = logger.propagate, False  # else pytest captures what its workers cannot send
    logger.addHandler(kept)
    try:
        happened(event, level="error", **fields)
        request(status=500, query=query, texts=[query], error=raised(ValueError(query)))
    finally:
        logger.removeHandler(kept)
        logger.propagate = before
    return "\n".join(Lines(form, texts=True).format(record) for record in kept.records)


@settings(max_examples=50, deadline=None)
@given(event=ANY, value=ANY | st.floats() | st.integers(-(2**63), 2**64 - 1), query=ANY)
def test_whatever_it_holds_it_is_one_line_of_json(event: str, value: Any, query: str) -> None:
    text = formatted("json", event, {"key": value}, query=query)
    first, second = (msgspec.json.decode(line) for line in text.encode().split(b"\n"))
    assert (first["level"], second["event"]) == ("error", "request")
    if event.isascii():
        assert first["event"] == event
    assert second["error"] == "ValueError"


@settings(max_examples=50, deadline=None)
@given(event=ANY, value=ANY, query=ANY)
def test_nothing_in_a_text_line_looks_like_another_line(event: str, value: str, query: str) -> None:
    text = formatted("text", event, {"key": value}, query=query)
    assert text.replace("\n", "").isprintable()  # nothing moves a cursor or rings a bell
    below = [line for line in text.split("\n") if not re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z error ", line)]
    assert len(text.split("\n")) - len(below) == 2
    assert all(line.startswith("    ") for line in below)


def test_a_text_line_is_plain(started: Started) -> None:
    stream = started(form="text")
    request(caller="the shop", documents=3)
    told = written(stream).partition(" ")[2]
    assert told == (
        "info    request request=id-1 path=/v1/rerank status=200 seconds=0.25 documents=3 caller='the shop'\n"
    )


def test_a_stream_that_nobody_reads_holds_nobody_up() -> None:
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    handler = set_up(stream)
    try:
        began = time.monotonic()
        for number in range(30_000):  # more than the pipe and what may wait
            happened("event", number=number)
        assert time.monotonic() - began < 20
        parts: list[bytes] = []
        reader = threading.Thread(target=lambda: parts.extend(iter(lambda: os.read(reading, 65_536), b"")), daemon=True)
        reader.start()
        deadline = time.monotonic() + 20
        while b"lines dropped" not in b"".join(parts):
            happened("event", number=-1)  # there is room again
            assert time.monotonic() < deadline
            time.sleep(0.01)
        whole = [msgspec.json.decode(line) for line in b"".join(parts).splitlines()[:-1]]
        dropped = next(line["lines"] for line in whole if line["event"] == "lines dropped")
        assert 5_000 < dropped < 30_000
        numbers = [line["number"] for line in whole if line.get("number", -1) >= 0]
        assert numbers == sorted(numbers)
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
        stream.close()
        os.close(reading)
