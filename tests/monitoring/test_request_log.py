"""Promises of the request log, on SQLite and on a real PostgreSQL server where one is installed."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from postgres_server import Postgres, programs, running
from secondpass.errors import InputError, LogUnreachableError, MissingExtraError
from secondpass.monitoring import log_store
from secondpass.monitoring.request_log import Click, Clicked, Counts, Logged, RequestLog, Shown, document_digest
from secondpass.types import Status

sqlalchemy = pytest.importorskip("sqlalchemy", reason="needs the extra 'log' (sqlalchemy)")

PATIENCE = 60.0  # seconds; a busy machine is no failure of the log


def request(name: str = "r", at: float = 1e9, shown: int = 2, **more: Any) -> Logged:
    documents = tuple(
        Shown(i + 1, shown - 1 - i, f"doc{i}", 1.5 - i, 0.5, i + 1, 9.0 - i, "scored") for i in range(shown)
    )
    given: dict[str, Any] = {"query": "what is a rose", "model": "mini", "digest": "abc", "shown": documents}
    return Logged(**{"id": name, "at": at, "candidates": shown, **given, **more})


# A PostgreSQL server of our own.


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="needs the extra 'postgres' (psycopg)")
    yield from running(programs(), "a PostgreSQL server: initdb and postgres (apt-get install postgresql)")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that nothing was written to."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def opened() -> Iterator[Callable[..., RequestLog]]:
    """Request logs, closed at the end."""
    logs: list[RequestLog] = []

    def make(url: str, **options: Any) -> RequestLog:
        logs.append(RequestLog(url, **options))
        return logs[-1]

    yield make
    for log in logs:
        log.close(0.5)


def execute(url: str, *statements: str) -> list[Any]:
    """Past the log; the rows of the last statement."""
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sqlalchemy.NullPool)
    rows: list[Any] = []
    with engine.begin() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
            rows = list(result) if result.returns_rows else []
    return rows


def program(source: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process; it has what `request` makes."""
    lines = Path(__file__).read_text(encoding="utf-8")
    start = lines.index("def request(")
    head = "import json, os, resource, sys, time\nfrom typing import Any\n"
    head += "from secondpass.monitoring.request_log import Logged, RequestLog, Shown\n"
    head += lines[start : lines.index("# A PostgreSQL server")]
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(source), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )


# What is written is what is read.

HARD = st.sampled_from(
    ["\x00", "\ud800", "\udfff\ud800", "\\", "\\u0041", "\\\\u0000", "'; DROP TABLE x; --", "%s", ":a"]
)
TEXT = st.lists(st.one_of(st.text(st.characters(), max_size=8), HARD), max_size=3).map("".join)
NUMBER = st.none() | st.floats()
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
PLACE = st.integers(0, 2**31 - 1)
SHOWN = st.builds(
    Shown,
    position=PLACE,
    index=PLACE,
    document=TEXT,
    score=NUMBER,
    probability=NUMBER,
    first_rank=st.none() | PLACE,
    first_score=NUMBER,
    status=st.sampled_from(Status),
)
LOGGED = st.builds(
    Logged,
    id=TEXT.filter(bool),
    at=FINITE,
    query=TEXT,
    model=TEXT,
    digest=TEXT,
    caller=TEXT,
    deadline_ms=NUMBER,
    candidates=PLACE,
    timings=st.dictionaries(TEXT, FINITE, max_size=3),
    detail=st.dictionaries(TEXT, JSON, max_size=3),
    shown=st.lists(SHOWN, max_size=4, unique_by=lambda one: one.position).map(tuple),
    clicks=st.lists(st.builds(Click, FINITE, PLACE, PLACE, TEXT, TEXT), max_size=2).map(tuple),
)


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def kept(one: Logged) -> Logged:
    """As it should come back."""
    shown = [
        replace(s, score=finite(s.score), probability=finite(s.probability), first_score=finite(s.first_score))
        for s in sorted(one.shown, key=lambda s: s.position)
    ]
    return replace(
        one,
        deadline_ms=finite(one.deadline_ms),
        candidates=max(one.candidates, len(one.shown)),
        shown=tuple(shown),
    )


def test_what_is_written_is_what_is_read(url: str, opened: Callable[..., RequestLog]) -> None:
    log = opened(url, most=10**9)
    log.open()

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(st.lists(LOGGED, max_size=4, unique_by=lambda one: one.id))
    def check(given: list[Logged]) -> None:
        if log.counts.written:
            log.forget(before=math.inf)
        assert all(log.record(one) for one in given)
        assert log.flush(PATIENCE)
        got = [replace(one, query_digest="") for one in log.requests()]
        assert got == [kept(one) for one in sorted(given, key=lambda one: one.at)]
        assert all(type(one.status) is str for request in got for one in request.shown)

    check()
    assert log.counts.unusable == log.counts.failures == 0


def test_statements_in_texts_are_texts(url: str, opened: Callable[..., RequestLog]) -> None:
    log, bad = opened(url), "x'); DROP TABLE secondpass_requests; DELETE FROM secondpass_shown; --"
    log.record(request(bad, query=bad, caller=bad, model=bad, digest=bad, shown=0, detail={bad: bad}))
    log.record(request("other"))
    assert log.flush(PATIENCE)
    assert log.click(bad + "x", document=bad) is Clicked.UNKNOWN_REQUEST
    assert log.click("other", document=bad) is Clicked.NOT_SHOWN
    assert log.click("other", document="doc0", kind=bad) is Clicked.RECORDED
    assert [one.query for one in log.requests(digest=bad)] == [bad]
    assert log.forget(caller="' OR '1'='1") == log.forget(query="' OR '1'='1") == 0
    assert log.forget(caller=bad) == 1
    (left,) = log.requests()
    assert left.clicks[0].kind == bad
    assert len(left.shown) == 2


def test_reading_is_oldest_first_in_pages(url: str, opened: Callable[..., RequestLog]) -> None:
    log = opened(url)
    times = [float(i // 90) for i in range(200)]  # many at one time, over the edges of pages
    for i in reversed(range(200)):
        log.record(request(f"r{i}", times[i], shown=i % 3, digest="even" if i % 2 == 0 else "odd"))
    assert log.flush(PATIENCE)
    everything = list(log.requests())
    assert sorted(one.id for one in everything) == sorted(f"r{i}" for i in range(200))
    assert [one.at for one in everything] == sorted(times)
    assert all(len(one.shown) == int(one.id[1:]) % 3 for one in everything)
    for since, until, digest, limit in ((1.0, None, None, None), (None, 1.0, "odd", 70), (0.5, 2.0, "even", 3)):
        wanted = [
            one
            for one in everything
            if (since is None or one.at >= since)
            and (until is None or one.at < until)
            and (digest is None or one.digest == digest)
        ]
        assert list(log.requests(since=since, until=until, digest=digest, limit=limit)) == wanted[:limit]
    reading = log.requests()
    next(reading)
    assert log.forget(before=math.inf) == 200  # a reader that is at it stops nobody
    assert len(list(reading)) < 200


# Bounds.


def test_the_oldest_go_with_all_that_hangs_on_them(url: str, opened: Callable[..., RequestLog]) -> None:
    log = opened(url, most=10)
    for i in range(25):
        log.record(request(f"r{i}", at=i))
        assert log.flush(PATIENCE)
        assert log.click(f"r{i}", index=0) is Clicked.RECORDED
    assert [one.id for one in log.requests()] == [f"r{i}" for i in range(15, 25)]
    assert execute(url, "SELECT count(*) FROM secondpass_shown") == [(20,)]
    assert execute(url, "SELECT count(*) FROM secondpass_clicks") == [(10,)]
    fewer = opened(url, most=3)
    fewer.record(request("last", at=99))
    assert fewer.flush(PATIENCE)
    assert [one.id for one in log.requests()] == ["r23", "r24", "last"]


def test_a_file_at_its_bound_does_not_grow(tmp_path: Path, opened: Callable[..., RequestLog]) -> None:
    log, sizes = opened(f"sqlite:///{tmp_path}/log.db", most=100), []
    for turn in range(12):
        for i in range(50):
            log.record(request(f"{turn}-{i}", turn, shown=20))
        assert log.flush(PATIENCE)
        sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert max(sizes[4:]) <= 1.3 * sizes[3]


def test_only_the_first_documents_are_kept(url: str, opened: Callable[..., RequestLog]) -> None:
    log = opened(url, shown=3)
    log.record(request(shown=8, candidates=0))
    assert log.flush(PATIENCE)
    (one,) = log.requests()
    assert [s.document for s in one.shown] == ["doc0", "doc1", "doc2"]
    assert one.candidates == 8
    assert log.click("r", document="doc2") is Clicked.RECORDED
    assert log.click("r", document="doc3") is Clicked.NOT_SHOWN


def test_samples_are_the_same_everywhere(url: str, opened: Callable[..., RequestLog]) -> None:
    log, more = opened(url, sample=0.2), opened(url, sample=0.6)
    ids = [f"id {i}" for i in range(2000)]
    share = {id: int(hashlib.blake2b(id.encode(), digest_size=8).hexdigest(), 16) / 2**64 for id in ids}
    assert [log.wants(id) for id in ids] == [share[id] < 0.2 for id in ids]
    assert [more.wants(id) for id in ids] == [share[id] < 0.6 for id in ids]
    assert 0.16 < sum(map(log.wants, ids)) / 2000 < 0.24
    assert all(map(opened(url, sample=1.0).wants, ids))
    assert not any(map(opened(url, sample=0.0).wants, ids))
    outside = next(id for id in ids if not log.wants(id))
    inside = next(id for id in ids if log.wants(id))
    assert not log.record(request(outside))
    assert log.record(request(inside))
    assert log.flush(PATIENCE)
    assert log.counts == Counts(written=1, unsampled=1)
    assert log.click(outside, index=0) is Clicked.NOT_SAMPLED


# Clicks.


def test_clicks_belong_to_what_was_shown(url: str, opened: Callable[..., RequestLog], monkeypatch: Any) -> None:
    log = opened(url)
    log.record(request(shown=3))
    assert log.click("r", document="doc1", at=5.0) is Clicked.RECORDED  # it is not written yet
    assert log.click("r", index=0, at=6.0, kind="bought") is Clicked.RECORDED
    assert log.click("r", index=1, document="doc1") is Clicked.RECORDED
    assert log.click("r", index=0, document="doc1") is Clicked.NOT_SHOWN
    for index in (3, -1, 2**31, 2**80):
        assert log.click("r", index=index) is Clicked.NOT_SHOWN
    assert log.click("r", document="no\x00\ud800") is Clicked.NOT_SHOWN
    assert log.click("q", document="doc1") is Clicked.UNKNOWN_REQUEST
    (one,) = log.requests()
    assert one.clicks[:2] == (Click(5.0, 2, 1, "doc1"), Click(6.0, 3, 0, "doc2", "bought"))
    assert abs(one.clicks[2].at - time.time()) < PATIENCE
    assert len(one.clicks) == 3
    monkeypatch.setattr(log_store, "MOST_CLICKS", 3)
    assert log.click("r", index=0) is Clicked.TOO_MANY
    for wrong in ({}, {"index": 1, "at": math.nan}, {"index": 1, "kind": "x" * 201}):
        with pytest.raises(InputError):
            log.click("r", **wrong)


def test_of_documents_with_one_id_the_best_placed_was_clicked(url: str, opened: Callable[..., RequestLog]) -> None:
    log = opened(url)
    log.record(replace(request(), shown=(Shown(2, 0, "same"), Shown(1, 1, "same"))))
    assert log.click("r", document="same") is Clicked.RECORDED
    (one,) = log.requests()
    assert (one.clicks[0].position, one.clicks[0].index) == (1, 1)


# Privacy.


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_digests_in_place_of_queries(tmp_path: Path, opened: Callable[..., RequestLog]) -> None:
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        log = opened(f"sqlite:///{tmp_path}/{name}/log.db", queries="digest")
        for i in range(40):
            log.record(request(f"r{i}", query=f"a-secret-question {i % 4}"))
        assert log.flush(PATIENCE)
        assert b"secret-question" not in bytes_of(tmp_path / name)
        requests = list(log.requests())
        assert {one.query for one in requests} == {None}
        assert len({one.query_digest for one in requests}) == 4
        digests.append(requests[0].query_digest)
        plain = hashlib.blake2b(b"a-secret-question 0", digest_size=16).hexdigest()
        assert plain != requests[0].query_digest
        assert log.forget(query="a-secret-question 1") == 10
        assert len({one.query_digest for one in log.requests()}) == 3
    assert digests[0] != digests[1]


def test_digests_of_queries_are_the_same_in_both_ways(url: str, opened: Callable[..., RequestLog]) -> None:
    text, digest = opened(url), opened(url, queries="digest")
    text.record(request("t")), digest.record(request("d"))
    assert text.flush(PATIENCE)
    assert digest.flush(PATIENCE)
    one, other = text.requests()
    assert one.query_digest == other.query_digest
    assert {one.query, other.query} == {"what is a rose", None}


def test_forgetting(url: str, opened: Callable[..., RequestLog]) -> None:
    log = opened(url)
    for i in range(6):
        log.record(request(f"r{i}", at=i, query=f"q{i % 2}", caller="ann" if i < 3 else "bob"))
    assert log.forget(query="q0", caller="ann") == 2  # what waits is written first
    assert [one.id for one in log.requests()] == ["r1", "r3", "r4", "r5"]
    assert log.forget(before=3.0) == 1
    assert log.forget(caller="nobody") == 0
    assert log.forget(caller="bob", before=4.5) == 2
    assert [one.id for one in log.requests()] == ["r5"]
    assert execute(url, "SELECT count(*) FROM secondpass_shown") == [(2,)]
    with pytest.raises(InputError, match="query, before or caller"):
        log.forget()


def test_what_is_forgotten_is_not_in_the_file(tmp_path: Path, opened: Callable[..., RequestLog]) -> None:
    log = opened(f"sqlite:///{tmp_path}/log.db")
    for i in range(200):
        log.record(request(f"r{i}", query="the-secret" if i % 2 else "other"))
    assert log.flush(PATIENCE)
    assert b"the-secret" in bytes_of(tmp_path)
    assert log.forget(query="the-secret") == 100
    assert b"the-secret" not in bytes_of(tmp_path)
    assert b"other" in bytes_of(tmp_path)


# What fails, and what does not because of it.


def test_one_that_cannot_be_stored_costs_the_others_nothing(
    url: str, opened: Callable[..., RequestLog], caplog: Any
) -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError("no")

    circle: dict[str, Any] = {}
    circle["itself"] = circle
    twice = (Shown(1, 0, "a"), Shown(1, 1, "b"))
    log = opened(url)
    bad = [
        request("b1", detail={"x": Hostile()}),
        request("b2", detail=circle),
        request("b3", at=math.nan),
        request("b4", shown=0, candidates=2**40),
        replace(request("b5"), shown=twice),
        request(""),
        request("x" * 201),
        request("b6", query=7),
    ]
    for i, one in enumerate(bad):
        log.record(request(f"good{i}"))
        log.record(one)
    log.record(request("good0", query="another"))
    assert log.flush(PATIENCE)
    assert sorted(one.id for one in log.requests()) == sorted(f"good{i}" for i in range(len(bad)))
    assert {one.query for one in log.requests()} == {"what is a rose"}  # the first of an id stays
    assert log.counts == Counts(written=len(bad), repeated=1, unusable=len(bad))
    log.record(request("good1")), log.record(request("good9"))
    assert log.flush(PATIENCE)
    assert log.counts == Counts(written=len(bad) + 1, repeated=2, unusable=len(bad))
    told = [record for record in caplog.records if record.name == "secondpass.log"]  # psycopg may say a word, too
    assert len(told) == 1
    assert "rose" not in caplog.text


def test_what_the_database_refuses_leaves_nothing_of_itself(tmp_path: Path, opened: Callable[..., RequestLog]) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    log = opened(url)
    log.open()
    execute(
        url,
        "CREATE TRIGGER no BEFORE INSERT ON secondpass_shown WHEN NEW.document = 'bad' "
        "BEGIN SELECT RAISE(ABORT, 'bad'); END",
    )
    log.record(request("a"))
    log.record(replace(request("b"), shown=(Shown(1, 0, "fine"), Shown(2, 1, "bad"))))
    log.record(request("c"))
    assert log.flush(PATIENCE)
    assert log.counts == Counts(written=2, unusable=1)
    assert [one.id for one in log.requests()] == ["a", "c"]
    assert execute(url, "SELECT count(*) FROM secondpass_shown") == [(4,)]


def test_a_letter_that_the_database_has_no_code_for(postgres: Postgres, opened: Callable[..., RequestLog]) -> None:
    postgres.execute("postgres", "CREATE DATABASE latin ENCODING LATIN1 TEMPLATE template0 LOCALE 'C'")
    log = opened(postgres.database().replace("/postgres?", "/latin?"))
    log.record(request("a", query="déjà vu"))
    log.record(request("b", query="日本語"))
    log.record(request("c"))
    assert log.flush(PATIENCE)
    assert [one.query for one in log.requests()] == ["déjà vu", "what is a rose"]
    assert log.counts == Counts(written=2, unusable=1)


def outage(log: RequestLog, caplog: Any, breaks: Callable[[], None], mends: Callable[[], None]) -> None:
    """A request, a database that fails, requests meanwhile, and all of them are there when it is back."""
    caplog.set_level(logging.INFO, "secondpass.log")
    log.record(request("before"))
    assert log.flush(PATIENCE)
    breaks()
    for i in range(20):
        assert log.record(request(f"r{i}"))
    assert not log.flush(0.3)
    end = time.monotonic() + PATIENCE
    while log.counts.failures < 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert log.click("before", index=0) is Clicked.UNAVAILABLE
    with pytest.raises((LogUnreachableError, InputError)):
        list(log.requests())
    with pytest.raises(LogUnreachableError, match="nothing was deleted"):
        log.forget(query="what is a rose")
    counts = log.counts
    assert counts.waiting == 20
    assert counts.failures >= 2
    assert counts.error
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == "WARNING"
    assert "rose" not in caplog.text
    assert "rose" not in counts.error
    mends()
    assert log.flush(PATIENCE)
    assert {f"r{i}" for i in range(20)} <= {one.id for one in log.requests()}
    assert log.counts.error == ""
    assert log.counts.waiting == log.counts.dropped == 0
    assert len(caplog.records) == 2
    assert "again" in caplog.records[1].message


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """`forget` waits for what waits; here nobody has five seconds."""
    flush = RequestLog.flush
    monkeypatch.setattr(RequestLog, "flush", lambda self, seconds=0.2: flush(self, seconds))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_database_that_is_deleted(tmp_path: Path, opened: Callable[..., RequestLog], caplog: Any, what: str) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()

    def breaks() -> None:
        shutil.rmtree(folder)
        if what == "file":
            folder.write_bytes(b"not a folder")

    def mends() -> None:
        folder.unlink(missing_ok=True)
        folder.mkdir()

    outage(opened(f"sqlite:///{folder}/log.db"), caplog, breaks, mends)


def test_a_file_that_is_deleted_is_made_again(tmp_path: Path, opened: Callable[..., RequestLog]) -> None:
    log = opened(f"sqlite:///{tmp_path}/log.db")
    log.record(request("before"))
    assert log.flush(PATIENCE)
    for path in tmp_path.iterdir():
        path.unlink()
    log.record(request("after"))
    assert log.flush(PATIENCE)
    assert [one.id for one in log.requests()] == ["after"]


@pytest.mark.usefixtures("impatient")
def test_a_database_that_is_not_one(tmp_path: Path, opened: Callable[..., RequestLog], caplog: Any) -> None:
    path = tmp_path / "log.db"

    def breaks() -> None:
        path.write_bytes(b"garbage" * 999)

    outage(opened(f"sqlite:///{path}"), caplog, breaks, path.unlink)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_gone(postgres: Postgres, opened: Callable[..., RequestLog], caplog: Any) -> None:
    outage(opened(postgres.database()), caplog, postgres.stop, postgres.start)


def test_a_locked_database_makes_nobody_wait(tmp_path: Path, opened: Callable[..., RequestLog]) -> None:
    log = opened(f"sqlite:///{tmp_path}/log.db?timeout=0.2")
    log.open()
    lock = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    began = time.thread_time()
    assert all(log.record(request(f"r{i}", shown=5)) for i in range(500))
    assert time.thread_time() - began < 2.0
    assert not log.flush(0.5)
    assert log.counts.waiting == 500
    assert log.click("r1", index=0) is Clicked.UNAVAILABLE
    assert "locked" in log.counts.error
    lock.execute("ROLLBACK")
    lock.close()
    assert log.flush(PATIENCE)
    assert log.counts.written == 500


def test_a_full_disk(tmp_path: Path) -> None:
    other = program(
        """
        log = RequestLog("sqlite:///" + sys.argv[1])
        log.record(request("before"))
        log.flush(60)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(sys.argv[1]), most))
        taken = [log.record(request(f"r{i}", shown=50)) for i in range(50)]
        full = log.flush(0.5)
        there = [one.id for one in log.requests()]
        failures = log.counts.failures
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        again = log.flush(60)
        whole = [len(one.shown) for one in log.requests()]
        print(json.dumps([all(taken), full, there, failures > 0, again, whole, log.counts.error]))
        """,
        tmp_path / "log.db",
    )
    told = json.loads(other.communicate(timeout=2 * PATIENCE)[0])
    assert told == [True, False, ["before"], True, True, [2] + [50] * 50, ""]


def test_what_waits_is_bounded(tmp_path: Path, opened: Callable[..., RequestLog]) -> None:
    log = opened(f"sqlite:///{tmp_path}/no/log.db", waiting=30)
    taken = [log.record(request(f"r{i}", shown=2)) for i in range(15)]
    assert taken == [True] * 10 + [False] * 5
    assert (log.counts.waiting, log.counts.dropped) == (10, 5)
    (tmp_path / "no").mkdir()
    assert log.flush(PATIENCE)
    assert log.record(request("later"))
    assert log.flush(PATIENCE)
    assert log.counts.written == 11


def test_closing_is_bounded_and_ends_recording(url: str, tmp_path: Path) -> None:
    log = RequestLog(url)
    log.record(request())
    assert log.close(PATIENCE)
    assert log.counts == Counts(written=1)
    assert not log.record(request("late"))
    assert log.counts == Counts(written=1, dropped=1)
    assert [one.id for one in log.requests()] == ["r"]  # reading goes on
    assert "secondpass-log" not in {thread.name for thread in threading.enumerate()}
    assert log.close()
    assert RequestLog(url).close()
    lost = RequestLog(f"sqlite:///{tmp_path}/no/log.db")
    lost.record(request())
    began = time.monotonic()
    assert not lost.close(0.3)
    assert time.monotonic() - began < 5.0
    assert lost.counts.waiting == 1


def test_many_threads_record_each_request_once(url: str, opened: Callable[..., RequestLog]) -> None:
    log = opened(url)
    threads = [
        threading.Thread(target=lambda t=t: [log.record(request(f"{t}-{i}")) for i in range(40)]) for t in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.flush(PATIENCE)
    assert log.counts == Counts(written=240)
    assert len({one.id for one in log.requests()}) == 240


# Processes.


def test_processes_share_a_database_that_none_has_made(url: str, tmp_path: Path, opened: Any) -> None:
    writers = [
        program(
            """
            log = RequestLog(sys.argv[1])
            while not os.path.exists(sys.argv[2]):
                time.sleep(0.001)
            for i in range(40):
                log.record(request(f"{sys.argv[3]}-{i}"))
                if i % 10 == 0:
                    log.flush(60)
            print(json.dumps([log.close(60), log.counts.written]))
            """,
            *(url, tmp_path / "go", name),
        )
        for name in "ab"
    ]
    time.sleep(0.2)
    (tmp_path / "go").touch()
    for writer in writers:
        assert json.loads(writer.communicate(timeout=2 * PATIENCE)[0]) == [True, 40]
    requests = list(opened(url).requests())
    assert {one.id for one in requests} == {f"{name}-{i}" for name in "ab" for i in range(40)}
    assert len({one.query_digest for one in requests}) == 1  # both found the same key
    assert all(len(one.shown) == 2 for one in requests)


def test_a_kill_leaves_whole_requests(url: str, opened: Callable[..., RequestLog]) -> None:
    writer = program(
        """
        log = RequestLog(sys.argv[1], most=200)
        i = 0
        while True:
            log.record(request(f"r{i}", i, shown=i % 90))
            i += 1
            if i % 7 == 0:
                log.flush(60)
                print(i, flush=True)
        """,
        url,
    )
    assert writer.stdout
    for line in writer.stdout:
        if int(line) >= 140:
            break
    writer.kill()
    writer.wait()
    writer.stdout.close()
    log = opened(url)
    requests = list(log.requests())
    assert len(requests) >= 140
    assert all([s.position for s in one.shown] == list(range(1, one.candidates + 1)) for one in requests)
    assert execute(url, "SELECT count(*) FROM secondpass_shown") == [(sum(one.candidates for one in requests),)]
    if url.startswith("sqlite"):
        assert execute(url, "PRAGMA integrity_check") == [("ok",)]
    log.record(request("next", at=1e9))
    assert log.flush(PATIENCE)
    assert list(log.requests())[-1].id == "next"


# What it opens.


def test_opening_twice_is_fine_and_other_versions_are_refused(url: str, opened: Callable[..., RequestLog]) -> None:
    opened(url).open()
    opened(url).open()
    execute(url, "UPDATE secondpass_log SET version = 2")
    log = opened(url)
    with pytest.raises(InputError, match="schema version 2, and this secondpass reads and writes version 1"):
        log.open()
    with pytest.raises(InputError, match="version 2"):
        next(log.requests())
    assert log.record(request())
    assert not log.flush(0.3)
    assert "version 2" in log.counts.error
    assert log.click("r", index=0) is Clicked.UNAVAILABLE
    execute(url, "DELETE FROM secondpass_log")
    with pytest.raises(InputError, match="schema version none"):
        opened(url).open()
    execute(url, "DROP TABLE secondpass_log")
    with pytest.raises(InputError, match="no request log's"):
        opened(url).open()


def test_reading_makes_no_database(url: str, opened: Callable[..., RequestLog], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no request log"):
        next(opened(url).requests())
    with pytest.raises(InputError, match="there is no request log"):
        opened(url).forget(query="x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    ["", "log.db", "sqlite://", "sqlite:///:memory:", "mysql://u:hunter2@h/d", "postgresql://u:hunter2@h:port/d", 7],
)
def test_urls_that_cannot_be_meant(url: Any) -> None:
    with pytest.raises(InputError, match="give sqlite:///") as told:
        RequestLog(url)
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize("wrong", [{"sample": 1.5}, {"sample": math.nan}, {"most": 0}, {"shown": -1}, {"waiting": 0.5}])
def test_numbers_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        RequestLog("sqlite:///log.db", **wrong)


def test_passwords_are_not_told(opened: Callable[..., RequestLog], caplog: Any) -> None:
    pytest.importorskip("psycopg")
    log = opened("postgresql://u:hunter2@127.0.0.1:1/d?sslpassword=hunter2")
    with pytest.raises(LogUnreachableError) as told:
        log.open()
    log.record(request())
    assert not log.flush(0.3)
    assert "hunter2" not in f"{log!r} {told.value} {caplog.text} {log.counts}"
    assert "127.0.0.1" in caplog.text


@pytest.mark.parametrize(("module", "extra"), [("sqlalchemy", "log"), ("psycopg", "postgres")])
def test_what_is_to_be_installed_is_said(monkeypatch: pytest.MonkeyPatch, module: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"secondpass\[{extra}\]"):
        RequestLog("postgresql://u@h/d")


def test_nothing_happens_before_the_first_use(tmp_path: Path) -> None:
    other = program(
        """
        import threading
        early = "sqlalchemy" in sys.modules
        log = RequestLog("sqlite:///" + sys.argv[1])
        print(json.dumps([early, threading.active_count(), os.listdir(os.path.dirname(sys.argv[1])), log.flush(9)]))
        """,
        tmp_path / "log.db",
    )
    assert json.loads(other.communicate(timeout=PATIENCE)[0]) == [False, 1, [], True]


def test_names_of_documents_without_one() -> None:
    assert document_digest("a rose") == hashlib.blake2b(b"a rose", digest_size=8).hexdigest()
    assert document_digest("\ud800") != document_digest("\udfff")
