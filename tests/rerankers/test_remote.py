"""Calls end when they should, whatever a service does; a key is shown nowhere."""

from __future__ import annotations

import gc
import math
import os
import pickle
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("httpx", reason="needs the extra hosted")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))  # benches are scripts, not a package

from broken_service import Service, answered, cut, drip, hang, pour, reply, scored, slow
from secondpass.errors import InputError, RemoteError
from secondpass.rerankers import remote as module
from secondpass.rerankers.remote import Remote, Reply
from secondpass.types import Caller, Deadline

BODY: dict[str, Any] = {"query": "who", "documents": ["she", "whoever"]}
KEY = "sk-a-very-secret-key"


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_backoff", lambda attempts: 0.01 * attempts)


Open = Callable[..., Remote]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Remotes that are closed at the end, and that have time, however busy the machine is."""
    all_of_them: list[Remote] = []

    def one(url: str, *, timeout_s: float = 60.0, **options: Any) -> Remote:
        all_of_them.append(Remote(url, timeout_s=timeout_s, **options))
        return all_of_them[-1]

    yield one
    for remote in all_of_them:
        remote.close()


def failed(remote: Remote, deadline_ms: float | None = None) -> RemoteError:
    with pytest.raises(RemoteError) as told:
        remote.post("/v2/rerank", BODY, deadline=Deadline.after_ms(deadline_ms))
    return told.value


def test_a_call_brings_json_and_what_it_took(opened: Open) -> None:
    with Service() as service:
        remote = opened(service.url + "/api/", key=KEY, headers={"X-Who": "me"})
        answer = remote.post("/v2/rerank", BODY)
        again = remote.post("/v2/rerank", BODY)
    assert [row["index"] for row in answer.json["results"]] == [0, 1]
    assert answer.attempts == 1
    assert 0 <= answer.waited_s < answer.seconds
    assert again.json == answer.json
    (first, _) = service.asked
    assert first.path == "/api/v2/rerank"
    assert first.body == BODY
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.headers["x-who"] == "me"
    assert first.headers["accept-encoding"] == "identity"


def test_a_key_may_go_into_another_header(opened: Open) -> None:
    with Service() as service:
        remote = opened(service.url, key=KEY, key_header="api-key")
        remote.post("/", BODY)
    assert service.asked[0].headers["api-key"] == KEY
    assert "authorization" not in service.asked[0].headers


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_passes_is_tried_again(status: int, opened: Open) -> None:
    with Service(reply(status), reply(status), scored) as service:
        remote = opened(service.url)
        assert remote.post("/", BODY).attempts == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501])
def test_what_does_not_pass_is_not(status: int, opened: Open) -> None:
    with Service(reply(status, {"detail": "no such\nmodel"}), scored) as service:
        remote = opened(service.url)
        error = failed(remote)
    assert (error.kind, error.status, error.attempts) == ("status", status, 1)
    assert str(error).endswith(f": status {status}: no such model")
    assert len(service.asked) == 1


def test_a_service_may_say_itself_whether_to_try_again(opened: Open) -> None:
    with Service(reply(503, x_should_retry="false"), reply(400, x_should_retry="true"), scored) as service:
        remote = opened(service.url)
        assert failed(remote).status == 503
        assert remote.post("/", BODY).attempts == 2


def test_after_the_last_try_it_says_how_often(opened: Open) -> None:
    with Service(reply(503, {"error": {"message": "overloaded"}})) as service:
        remote = opened(service.url, retries=1)
        error = failed(remote)
    assert str(error).endswith("status 503: overloaded (2 attempts)")
    assert len(service.asked) == 2


@pytest.mark.parametrize("length", [0, 10, 60, 90, 140])
def test_an_error_may_be_compressed(length: int, opened: Open) -> None:
    with Service(reply(503, b"x" * length, content_encoding="gzip"), scored) as service:
        remote = opened(service.url)
        assert remote.post("/", BODY).attempts == 2


@pytest.mark.parametrize("length", [0, 10, 60, 90, 140])
def test_a_cut_connection_is_tried_again(length: int, opened: Open) -> None:
    with Service(cut(length), scored) as service:
        remote = opened(service.url)
        assert remote.post("/", BODY).attempts == 2


def test_nobody_there(opened: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    remote = opened(url)
    error = failed(remote)
    assert (error.kind, error.attempts) == ("connection", 3)


@pytest.mark.parametrize("wait", [{"retry_after_ms": "400"}, {"retry_after": "0.4"}])
def test_retry_after_is_waited_for_by_all_calls(wait: dict[str, str], opened: Open) -> None:
    with Service(reply(429, **wait), scored) as service:
        remote = opened(service.url, concurrency=1)
        answers = remote.post_all("/", [BODY, BODY])
        first, *others = [asked.at for asked in service.asked]
    assert len(others) == 2
    assert min(others) - first >= 0.4
    assert all(isinstance(answer, Reply) and answer.waited_s >= 0.4 for answer in answers)


def test_retry_after_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < (module._asked_to_wait({"retry-after": later}) or 0) <= 30
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert module._asked_to_wait({"retry-after": past}) == 0


@given(st.text(max_size=40))
def test_whatever_stands_in_retry_after_is_seconds_or_nothing(told: str) -> None:
    for name in ("retry-after", "retry-after-ms"):
        seconds = module._asked_to_wait({name: told})
        assert seconds is None or 0 <= seconds < math.inf


def test_a_wait_that_does_not_fit_is_not_begun(opened: Open) -> None:
    with Service(reply(429, retry_after="3600"), scored) as service:
        remote = opened(service.url, timeout_s=40.0)
        error = failed(remote)
        assert (error.kind, error.status) == ("status", 429)
        assert "it asks to wait 3600 s; no time is left" in str(error)
        then = failed(remote, deadline_ms=30_000)  # and nobody else asks before
    assert max(error.seconds, then.seconds) < 20
    assert then.kind == "limit"
    assert len(service.asked) == 1


def test_the_last_attempt_s_retry_after_holds_for_others(opened: Open) -> None:
    with Service(reply(429, retry_after="3600"), scored) as service:
        remote = opened(service.url, retries=0, timeout_s=40.0)
        assert failed(remote).status == 429
        told = failed(remote)
    assert told.kind == "limit"
    assert re.search(r"allowed in (60|[45]\d)\.\d s", str(told))  # who asks for an hour is tried after a minute


@pytest.mark.parametrize(
    "action",
    [
        hang,
        drip(b"HTTP/1.1 2", 0.05, 30),
        drip(b"HTTP/1.1 200 OK\r\nX-Long: ", 0.05, 30),
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", 0.05, 30),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n", 0.05, 30),
    ],
    ids=["hangs", "drips", "drips a header", "drips a body", "drips a chunk"],
)
def test_nothing_outlasts_its_time(action: Any, opened: Open) -> None:
    with Service(action) as service:
        remote = opened(service.url, timeout_s=0.3)
        assert failed(remote).kind == "timeout"
        assert failed(remote, deadline_ms=200).kind == "deadline"
        remote.close()  # and what dripped is closed: the service would go on for half a minute
        waited(lambda: not any(thread.name == "secondpass-remote" for thread in threading.enumerate()))


def test_a_timeout_tells_what_went_before(opened: Open) -> None:
    with Service(reply(500, {"message": "broken"}), hang) as service:
        remote = opened(service.url, timeout_s=3.0)
        assert str(failed(remote)).endswith("no answer within 3 s; before that: status 500: broken (2 attempts)")


def test_a_passed_deadline_asks_nobody(opened: Open) -> None:
    with Service() as service:
        remote = opened(service.url)
        assert failed(remote, deadline_ms=0).kind == "deadline"
    assert service.asked == []
    assert not any(thread.name == "secondpass-remote" for thread in threading.enumerate())


def test_who_has_left_is_not_waited_for(opened: Open) -> None:
    caller = Caller()
    with Service(hang) as service:
        remote = opened(service.url, timeout_s=30.0)
        threading.Timer(0.1, caller.leave).start()
        with pytest.raises(RemoteError) as told:
            remote.post("/", BODY, deadline=Deadline(caller=caller))
    assert told.value.kind == "deadline"
    assert told.value.seconds < 20


def test_no_more_calls_at_once_than_allowed(opened: Open) -> None:
    with Service(slow(0.05)) as service:
        remote = opened(service.url, concurrency=3)
        answers = remote.post_all("/", [BODY] * 12)
    assert all(isinstance(answer, Reply) for answer in answers)
    assert service.most == 3


def test_threads_share_what_is_allowed(opened: Open) -> None:
    with Service(slow(0.05)) as service:
        remote = opened(service.url, concurrency=2)
        threads = [threading.Thread(target=remote.post, args=("/", BODY)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (service.most, len(service.asked)) == (2, 8)


def test_one_that_fails_leaves_the_others(opened: Open) -> None:
    with Service(scored, reply(400), scored) as service:
        remote = opened(service.url, concurrency=1)
        kinds = [type(answer) for answer in remote.post_all("/", [BODY] * 3)]
    assert kinds == [Reply, RemoteError, Reply]


def test_a_rate_limit_refuses_what_would_come_too_late(opened: Open) -> None:
    with Service() as service:
        remote = opened(service.url, per_minute=2, timeout_s=40.0)
        answers = remote.post_all("/", [BODY] * 3)
    assert [getattr(answer, "kind", "") for answer in answers] == ["", "", "limit"]
    assert len(service.asked) == 2


def test_who_cannot_wait_is_told_at_once(opened: Open) -> None:
    """Behind one that waits for a minute to be over."""
    with Service() as service:
        remote = opened(service.url, per_minute=1, timeout_s=120.0)
        remote.post("/", BODY)
        found = list[RemoteError]()
        waits = threading.Thread(target=lambda: found.append(failed(remote)))
        waits.start()
        time.sleep(0.2)
        error = failed(remote, deadline_ms=30_000)
        remote.close()  # who waits is let go
        waits.join(20)
    assert error.kind == "limit"
    assert error.seconds < 20
    assert len(found) == 1


def test_a_limit_of_tokens(opened: Open) -> None:
    with Service() as service:
        remote = opened(service.url, tokens_per_minute=100, timeout_s=40.0)
        answers = remote.post_all("/", [BODY] * 3, tokens=[60, 101, 40])
    assert [getattr(answer, "kind", "") for answer in answers] == ["", "limit", ""]
    assert "never" in str(answers[1])


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.floats(0, 50), st.integers(1, 25)), max_size=60),
)
def test_a_window_never_lets_more_through(limit: int, asked: list[tuple[float, int]]) -> None:
    """First come, first served: in no 60 seconds more than the limit, and nobody waits without need."""
    window, now = module._Window(limit), 0.0
    booked: list[tuple[float, int]] = []
    for pause, amount in asked:
        now += pause
        at = window.free_at(amount, now)
        if amount > limit:
            assert at == math.inf
            continue
        spent = [(then, much) for then, much in booked if then + 60 > at]
        assert at >= now
        assert sum(much for _, much in spent) + amount <= limit
        if at > now:  # a moment before it would have been too much
            assert sum(much for then, much in booked if then + 60 >= at) + amount > limit
        now = at
        window.book(amount, now)
        booked.append((now, amount))


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (reply(200, b"<html>a page</html>"), "not JSON"),
        (reply(200, b'{"results": ['), "not JSON"),
        (reply(200, b"\xff\xfe{}"), "not JSON"),
        (reply(200, b"[" * 100_000), "not JSON"),
        (reply(200, b"1" * 5000), "not JSON"),
        (reply(200, b""), "not JSON"),
        (reply(200, b'"' + b"a" * 2000 + b'"'), "longer than 1,000 bytes"),
        (pour, "longer than 1,000 bytes"),
        (reply(200, b"\x1f\x8b", content_encoding="gzip"), "compressed"),
        (reply(307, b"", location="https://elsewhere.example/v2"), "sends on to https://elsewhere.example/v2"),
    ],
)
def test_what_is_no_answer_is_said_and_not_tried_again(action: Any, said: str, opened: Open) -> None:
    with Service(action) as service:
        remote = opened(service.url, key=KEY, max_bytes=200_000 if "JSON" in said else 1000)
        error = failed(remote)
    assert error.kind == "answer"
    assert said in str(error)
    assert len(str(error)) < 600
    assert len(service.asked) == 1


def test_numbers_that_are_no_json_are_read(opened: Open) -> None:
    with Service(answered(lambda rows: [math.nan, math.inf])) as service:
        remote = opened(service.url)
        first, second = remote.post("/", BODY).json
    assert math.isnan(first)
    assert second == math.inf


def test_a_key_is_shown_nowhere(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    with Service(reply(401, {"message": f"the key {KEY} is wrong"}), reply(200, KEY.encode())) as service:
        remote = opened(service.url, key=KEY)
        told = [str(failed(remote)), str(failed(remote)), repr(remote)]
    assert "the key *** is wrong" in told[0]
    assert not any(KEY in text for text in [*told, *caplog.messages])


@pytest.mark.parametrize("before", [370, 380, 390, 400])
def test_not_even_the_beginning_of_a_key_is(before: int, opened: Open) -> None:
    with Service(reply(401, {"message": "a" * before + KEY})) as service:
        remote = opened(service.url, key=KEY)
        error = failed(remote)
    assert "sk-" not in str(error)
    assert len(str(error)) < 500


def test_a_proxy_that_is_none_is_a_failure(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "nonsense://somewhere")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with Service() as service:
        remote = opened(service.url)
        error = failed(remote)
    assert error.kind == "connection"
    assert service.asked == []


def test_an_error_can_go_to_another_process() -> None:
    error = RemoteError("why", kind="status", status=503, attempts=2, seconds=1.0, waited_s=0.5)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), vars(again)) == ("why", vars(error))


def test_what_is_no_json_is_not_sent(opened: Open) -> None:
    with Service() as service:
        remote = opened(service.url)
        for body in ({"a": math.nan}, {"a": "\ud800"}, {"a": object()}):
            with pytest.raises(InputError, match="no JSON"):
                remote.post("/", body)
    assert service.asked == []


def test_a_path_leads_to_no_other_host(opened: Open) -> None:
    with Service() as service:
        remote = opened(service.url)
        for path in ("", ".elsewhere.example/", "0/rerank"):
            with pytest.raises(InputError, match="slash"):
                remote.post(path, BODY)
    assert service.asked == []


def test_it_can_be_closed_and_used_again(opened: Open) -> None:
    with Service() as service:
        remote = opened(service.url)
        remote.post("/", BODY)
        remote.close()
        assert not any(thread.name == "secondpass-remote" for thread in threading.enumerate())
        remote.post("/", BODY)


def test_closing_ends_what_is_under_way(opened: Open) -> None:
    with Service(hang) as service:
        remote = opened(service.url, timeout_s=30.0)
        threading.Timer(0.1, remote.close).start()
        assert failed(remote).seconds < 20


def test_one_that_nobody_has_any_more_leaves_nothing_open() -> None:
    with Service() as service:
        remote = Remote(service.url)
        remote.post("/", BODY)
        del remote
        gc.collect()
        waited(lambda: not any(thread.name == "secondpass-remote" for thread in threading.enumerate()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_has_its_own_connections(opened: Open) -> None:
    with Service() as service:
        remote = opened(service.url)
        remote.post("/", BODY)
        child = os.fork()
        if not child:
            try:
                os._exit(0 if remote.post("/", BODY).json else 1)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert remote.post("/", BODY).json


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://a", "https://", "https://a/b?key=c", "http://a:b", 3])
def test_a_url_that_is_none(url: Any) -> None:
    with pytest.raises(InputError, match="not the URL of a service"):
        Remote(url)


def test_a_url_with_a_password_is_not_repeated() -> None:
    with pytest.raises(InputError, match="a user or a password") as told:
        Remote("https://me:secret@example.com")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("key", ["", " a", "a\n", "schlüssel", "a\x00b"])
def test_a_key_that_no_header_carries(key: str) -> None:
    with pytest.raises(InputError, match="the key is not one") as told:
        Remote("https://example.com", key=key)
    assert not key.strip() or key.strip() not in str(told.value).split()


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout_s": 0},
        {"timeout_s": math.nan},
        {"timeout_s": math.inf},
        {"retries": -1},
        {"retries": True},
        {"concurrency": 0},
        {"per_minute": 0},
        {"tokens_per_minute": -1.0},
        {"max_bytes": 0},
    ],
)
def test_numbers_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Remote("https://example.com", **wrong)


def waited(until: Any) -> None:
    end = time.monotonic() + 20
    while not until():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)
