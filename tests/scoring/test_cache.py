"""The score cache: the same answers as without it, each pair computed once, and no request lost to it."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secondpass.errors import CacheUnreachableError, InputError
from secondpass.rerankers.cross_encoder import CrossEncoder, _identity
from secondpass.scoring.cache import Cached, MemoryStore, RedisStore, Store, open_store
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.pair_scorer import PairScorer, open_scorer
from secondpass.testing import ManualClock, check_pointwise, check_reranker
from secondpass.types import NEVER, Deadline, Document, Scores, StageTrace, Status, as_ranking
from tiny import tiny_checkpoint

TEXTS = [
    "sort a list in place",
    "a snake on the river bank",
    "file date",
    "the python language",
    ("list " * 200).strip(),
]


@pytest.fixture(scope="module")
def exact(tiny: Path, cache: Path) -> PairScorer:
    """One row a batch, so that a pair has the same bits whatever it is asked with."""
    return open_scorer(open_checkpoint(tiny), engine="onnxruntime", threads=1, batch_tokens=1, cache=cache)


def number(query: str, text: object) -> float:
    return random.Random(f"{query} {text}").gauss(0, 5)


class Slow:
    """A scorer that counts what it computes, and computes only when the gate is open."""

    def __init__(self, *, open_gate: bool = True) -> None:
        self.computed: Counter[tuple[str, object]] = Counter()
        self.gate, self.begun, self.lock = threading.Event(), threading.Event(), threading.Lock()
        self.fails = 0  # so many calls fail, once the gate is open
        self.seconds = 0.0
        if open_gate:
            self.gate.set()

    def score(self, query: str, texts: Sequence[object], *, deadline: Deadline = NEVER) -> Scores:
        if texts:
            self.begun.set()
            self.gate.wait(20)  # so that a broken promise fails instead of hanging
            time.sleep(self.seconds)
            with self.lock:
                if self.fails > 0:
                    self.fails -= 1
                    raise RuntimeError("the engine broke")
        late = deadline.passed
        if not late:
            with self.lock:
                self.computed.update((query, text) for text in texts)
        count = len(texts)
        status = Status.DEADLINE if late else Status.SCORED
        trace = StageTrace(
            "slow",
            tokens=0 if late else 7 * count,
            skipped={"deadline": count} if late else {},
            skipped_because=f"{count}: time was up" if late and count else "",
        )
        values = tuple(None if late else number(query, text) for text in texts)
        spans = tuple(None if late else (0, len(str(text))) for text in texts)
        return Scores(values, (status,) * count, spans, trace)


def counts(scores: Scores) -> tuple[int, int, int]:
    """Hits, misses, waited."""
    cache = scores.trace.detail["cache"]
    return cache["hits"], cache["misses"], cache["waited"]


# The same answers as without a cache


@pytest.mark.parametrize("shared", [False, True], ids=["own store each", "one store"])
def test_a_cached_cross_encoder_keeps_every_promise(tiny: Path, cache: Path, shared: bool) -> None:
    store = MemoryStore(1_000_000)

    def make() -> CrossEncoder:
        return CrossEncoder(tiny, engine="onnxruntime", cache_dir=cache, cache=store if shared else 1_000_000)

    check_reranker(make)
    check_pointwise(make)
    assert len(store) > 0 or not shared


WORDS = st.sampled_from(["sort", "list", "a", "snake", "\ud800", "\u00e9", "x" * 30, " "])
SOME_TEXTS = st.lists(st.one_of(st.lists(WORDS, max_size=3).map(" ".join), st.none()), max_size=6)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(st.tuples(st.sampled_from(["sort", "a list", "", "list " * 120]), SOME_TEXTS), max_size=8))
def test_overlapping_requests_get_exactly_the_uncached_scores(
    exact: PairScorer, requests: list[tuple[str, list[str | None]]]
) -> None:
    cached = Cached(exact, MemoryStore(65_536), b"key")
    known: set[tuple[str, str]] = set()
    for query, texts in requests:
        expected: Scores = exact.score(query, texts)
        found = cached.score(query, texts)
        assert (found.values, found.statuses, found.spans) == (expected.values, expected.statuses, expected.spans)
        assert found.trace.skipped == expected.trace.skipped
        assert found.trace.pairs_scored == expected.trace.pairs_scored
        scored = [(query, str(text)) for text, value in zip(texts, expected.values, strict=True) if value is not None]
        assert counts(found)[0] == sum(pair in known for pair in scored)
        known.update(scored)


def test_an_answer_from_the_store_is_bit_by_bit_what_was_computed(tiny: Path, cache: Path) -> None:
    encoder = CrossEncoder(tiny, cache_dir=cache, cache=1_000_000)
    first, again = encoder.score("sort", TEXTS), encoder.score("sort", TEXTS)
    assert [struct.pack("<d", value or 0.0) for value in again.values] == [
        struct.pack("<d", value or 0.0) for value in first.values
    ]
    assert again.spans == first.spans
    assert first.spans[4] is not None
    assert first.spans[4][1] < len(TEXTS[4])  # a cut text, and its span comes back too
    some = encoder.score("sort", ["something else", *TEXTS[::-1]])
    assert some.values[1:] == first.values[::-1]


def test_predict_and_rerank_share_what_was_scored(tiny: Path, cache: Path) -> None:
    encoder = CrossEncoder(tiny, cache_dir=cache, cache=1_000_000)
    raw = encoder.predict([("sort", text) for text in TEXTS], activation_fn=lambda logits: logits)
    ranking = encoder.rerank(as_ranking("sort", TEXTS))
    assert ranking.trace[-1].detail["cache"]["hit_rate"] == 1.0
    assert {hit.document.id: pytest.approx(hit.score) for hit in ranking.hits} == dict(
        zip("01234", raw.tolist(), strict=True)
    )


# What the trace says


def test_the_trace_counts_what_was_computed_and_what_was_not(exact: PairScorer) -> None:
    cached = Cached(exact, MemoryStore(1_000_000), b"key")
    first = cached.score("sort", [*TEXTS[:2], "", None]).trace
    assert first.detail["cache"] == {"hits": 0, "misses": 2, "waited": 0, "hit_rate": 0.0}
    assert first.detail["engine"] == "onnxruntime"
    second = cached.score("sort", [*TEXTS, ""]).trace
    assert second.detail["cache"] == {"hits": 2, "misses": 3, "waited": 0, "hit_rate": 2 / 5}
    assert second.pairs_scored == 5
    computed = exact.score("sort", TEXTS[2:]).trace
    assert (second.tokens, second.padded_tokens) == (computed.tokens, computed.padded_tokens)
    assert (second.truncated, second.cut_tokens) == (1, computed.cut_tokens)
    assert second.skipped == {"empty": 1}
    third = cached.score("sort", TEXTS).trace
    assert (third.pairs_scored, third.tokens, third.padded_tokens, third.truncated) == (5, 0, 0, 0)
    assert third.detail["engine"] == "onnxruntime"
    assert third.name == first.name
    assert third.seconds > 0


class _Watched(MemoryStore):
    def __init__(self) -> None:
        super().__init__(1_000_000)
        self.reads = 0

    def get(self, keys: Sequence[bytes], *, within: float = 0.0) -> list[bytes | None]:
        self.reads += 1
        return super().get(keys)


def test_once_time_is_up_nothing_is_looked_up(exact: PairScorer) -> None:
    store = _Watched()
    cached = Cached(exact, store, b"key")
    cached.score("sort", TEXTS)
    store.reads = 0
    scores = cached.score("sort", TEXTS, deadline=Deadline.after_ms(0))
    assert set(scores.statuses) == {Status.DEADLINE}
    assert store.reads == 0
    assert scores.trace.detail["cache"]["hit_rate"] == 0.0
    assert scores.trace.skipped == {"deadline": 5}
    assert "time was up" in scores.trace.skipped_because


def test_what_is_stored_counts_as_scored_where_the_rest_is_too_late() -> None:
    clock = ManualClock()
    scorer = Slow()
    cached = Cached(scorer, MemoryStore(1_000_000), b"key")
    cached.score("q", ["c", "d"])

    class Late(_Watched):
        def get(self, keys: Sequence[bytes], *, within: float = 0.0) -> list[bytes | None]:
            clock.advance(10.0)
            return super().get(keys)

    late = Late()
    late.put(dict(cached.store._entries))  # type: ignore[attr-defined]
    scores = Cached(scorer, late, b"key").score("q", ["a", "c", "a", "d"], deadline=Deadline(5.0, clock))
    assert [str(status) for status in scores.statuses] == ["deadline", "scored", "deadline", "scored"]
    assert scores.trace.skipped == {"deadline": 2}
    assert scores.trace.skipped_because == "1: time was up; 1: as the same texts, in this or in a concurrent request"


def test_what_is_left_to_compute_is_asked_in_the_order_given() -> None:
    """A scorer that a deadline stops has then scored the first ones."""
    scorer = Slow()
    cached = Cached(scorer, MemoryStore(1_000_000), b"key")
    cached.score("q", ["c", "a"])
    scorer.computed.clear()
    cached.score("q", ["f", "a", "", "e", "b", "c", None, "d", "e"])
    assert [text for _, text in scorer.computed] == ["f", "", "e", "b", None, "d"]


# What must not share


def test_other_models_settings_and_texts_never_share(tmp_path: Path, tiny: Path, cache: Path) -> None:
    store = MemoryStore(1_000_000)
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    documents = [Document(str(i), text, f"title {i}") for i, text in enumerate(TEXTS)]
    made: list[dict[str, Any]] = [
        {"model": tiny, "engine": "onnxruntime"},
        {"model": other, "engine": "onnxruntime"},
        {"model": tiny, "engine": "onnxruntime", "max_length": 64},
        {"model": tiny, "engine": "onnxruntime", "template": "{text}"},
        {"model": tiny, "engine": "openvino", "profile": "exact"},
    ]
    for options in made:
        encoder = CrossEncoder(**options, cache_dir=cache, cache=store)
        for query in ("sort", "a list"):
            fresh, again = (encoder.rerank(as_ranking(query, documents)).trace[-1].detail["cache"] for _ in range(2))
            assert (fresh["hits"], again["hits"]) == (0, 5), options
    same = CrossEncoder(tiny, engine="onnxruntime", cache_dir=cache, cache=store).rerank(as_ranking("sort", documents))
    assert same.trace[-1].detail["cache"]["hits"] == 5


def test_precisions_never_share(exact: PairScorer) -> None:
    rest = {"max_length": exact.max_length, "batch_tokens": 512, "tolerance": 1.0}
    others = [
        PairScorer(exact.checkpoint, replace(exact.engine, precision=precision), **rest)  # type: ignore[arg-type]
        for precision in ("fp32", "bf16", "int8")
    ]
    assert _identity(others[0]) == _identity(exact)
    assert len({_identity(scorer) for scorer in others}) == 3


@given(pairs=st.lists(st.tuples(st.text(), st.text(min_size=1)), min_size=2, max_size=2, unique=True))
def test_a_query_and_a_text_are_kept_apart(pairs: list[tuple[str, str]]) -> None:
    cached = Cached(Slow(), MemoryStore(1_000_000), b"key")
    (one,), (other,) = (cached._keys(query, [text]) for query, text in pairs)
    assert one is None or one != other


# Memory


@given(
    puts=st.lists(
        st.dictionaries(st.integers(0, 2_000).map(lambda n: b"%d" % n), st.binary(max_size=2_000), max_size=60),
        max_size=12,
    )
)
@settings(deadline=None, max_examples=50)
def test_the_bound_holds_and_what_was_used_last_stays(puts: list[dict[bytes, bytes]]) -> None:
    store = MemoryStore(65_536)
    model: dict[bytes, bytes] = {}  # every entry ever, the last used at the end
    for entries in puts:
        store.put(entries)
        assert store.used_bytes <= store.max_bytes
        for key, value in entries.items():
            model.pop(key, None)
            model[key] = value
        kept = list(model.items())[len(model) - len(store) :]
        assert store.get([key for key, _ in kept]) == [value for _, value in kept]
    gone = list(model)[: len(model) - len(store)]
    assert store.get(gone) == [None] * len(gone)


def test_what_is_read_is_used() -> None:
    store = MemoryStore(65_536)
    store.put({b"kept": b"1", b"lost": b"2"})
    for i in range(1_000):
        store.put({b"%d" % i: bytes(24)})
        assert store.get([b"kept"]) == [b"1"]
    assert store.get([b"lost"]) == [None]


def test_the_bytes_are_those_that_python_takes() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        store = MemoryStore(2_000_000)
        for i in range(20_000):
            store.put({i.to_bytes(20): struct.pack("<dQQ", i, 0, i)})
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.5 * store.max_bytes < store.used_bytes <= store.max_bytes
    assert taken == pytest.approx(store.used_bytes, rel=0.02)


def test_many_threads_leave_the_count_right() -> None:
    store = MemoryStore(65_536)

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(300):
            keys = [b"%d" % draw.randrange(500) for _ in range(5)]
            store.put({key: bytes(draw.randrange(100)) for key in keys})
            store.get(keys)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    held = sum(sys.getsizeof(key) + sys.getsizeof(value) for key, value in store._entries.items())
    assert store.used_bytes == held + sys.getsizeof(store._entries) <= store.max_bytes


@pytest.mark.parametrize("cache", [0, -1, True, 65_535, 1.5, "localhost:6379", {}, b"x"])
def test_what_can_be_no_cache_is_refused(cache: Any) -> None:
    with pytest.raises(InputError, match="cache"):
        open_store(cache)
    with pytest.raises(InputError, match="cache"):
        CrossEncoder("a model that is never opened", cache=cache)


# One computes, the others wait


def run(calls: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=30) for future in [pool.submit(call) for call in calls]]


def until_waiting(cached: Cached, count: int) -> None:
    """Until `count` threads wait for another's flight."""
    end = time.monotonic() + 10
    while len(cached._air().changed._waiters) < count:  # type: ignore[attr-defined]
        assert time.monotonic() < end, "nobody waits"
        time.sleep(0.002)


def test_concurrent_callers_compute_a_pair_once() -> None:
    scorer = Slow(open_gate=False)
    cached = Cached(scorer, MemoryStore(1_000_000), b"key")
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(cached.score, "q", ["a", "b", "c"])]
        scorer.begun.wait(10)
        calls += [pool.submit(cached.score, "q", ["c", "a", "b"]) for _ in range(5)]
        until_waiting(cached, 5)
        scorer.gate.set()
        first, *others = [call.result(timeout=10) for call in calls]
    assert set(scorer.computed.values()) == {1}
    assert len(scorer.computed) == 3
    assert counts(first) == (0, 3, 0)
    for scores in others:
        assert scores.values == tuple(number("q", text) for text in "cab")
        assert counts(scores) == (0, 0, 3)
        assert (scores.trace.pairs_scored, scores.trace.tokens) == (3, 0)
    assert cached._air().flights == {}


def test_overlapping_callers_neither_block_each_other_nor_compute_twice() -> None:
    scorer = Slow()
    scorer.seconds = 0.001
    cached = Cached(scorer, MemoryStore(10_000_000), b"key")

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(30):
            texts = [str(draw.randrange(60)) for _ in range(8)]
            assert cached.score("q", texts).values == tuple(number("q", text) for text in texts)

    run([lambda seed=seed: work(seed) for seed in range(8)])
    assert set(scorer.computed.values()) == {1}
    assert cached._air().flights == {}


@pytest.mark.parametrize("failures", [1, 3])
def test_where_the_first_one_fails_the_others_compute(failures: int) -> None:
    scorer = Slow(open_gate=False)
    scorer.fails = failures
    cached = Cached(scorer, MemoryStore(1_000_000), b"key")
    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(cached.score, "q", ["a", "b"]) for _ in range(5)]
        until_waiting(cached, 4)
        scorer.gate.set()
        outcomes = [call.exception(timeout=10) or call.result() for call in calls]
    assert sum(isinstance(outcome, RuntimeError) for outcome in outcomes) == failures
    for outcome in outcomes:
        if isinstance(outcome, Scores):
            assert outcome.values == (number("q", "a"), number("q", "b"))
    assert scorer.computed == {("q", "a"): 1, ("q", "b"): 1}
    assert cached._air().flights == {}


def test_where_the_first_one_runs_out_of_time_the_others_compute() -> None:
    scorer = Slow(open_gate=False)
    cached = Cached(scorer, MemoryStore(1_000_000), b"key")
    clock = ManualClock()
    with ThreadPoolExecutor(3) as pool:
        stopped = pool.submit(cached.score, "q", ["a", "b"], deadline=Deadline(1.0, clock))
        scorer.begun.wait(10)
        others = [pool.submit(cached.score, "q", ["a", "b"]) for _ in range(2)]
        until_waiting(cached, 2)
        clock.advance(2.0)
        scorer.gate.set()
        assert set(stopped.result(timeout=10).statuses) == {Status.DEADLINE}
        for other in others:
            assert other.result(timeout=10).values == (number("q", "a"), number("q", "b"))
    assert scorer.computed == {("q", "a"): 1, ("q", "b"): 1}


def test_nobody_waits_past_the_own_deadline() -> None:
    scorer = Slow(open_gate=False)
    cached = Cached(scorer, MemoryStore(1_000_000), b"key")
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(cached.score, "q", ["a", "b"])
        scorer.begun.wait(10)
        began = time.perf_counter()
        scores = cached.score("q", ["a", "b"], deadline=Deadline.after_ms(50))
        took = time.perf_counter() - began
        assert set(scores.statuses) == {Status.DEADLINE}
        assert scores.trace.skipped == {"deadline": 2}
        assert scores.trace.skipped_because == "2: time was up while another request computed them"
        assert 0.04 < took < 2.0  # generous: the machine may be busy; without the limit this would hang
        scorer.gate.set()
        assert leader.result(timeout=10).values == (number("q", "a"), number("q", "b"))


def test_concurrent_requests_to_a_real_model_get_the_scores_of_serial_ones(exact: PairScorer) -> None:
    cached = Cached(exact, MemoryStore(1_000_000), b"key")
    queries = ["sort", "a list", "snake"]
    serial = {query: exact.score(query, TEXTS).values for query in queries}
    asked = queries * 4
    found = run([lambda query=query: cached.score(query, TEXTS) for query in asked])
    assert [scores.values for scores in found] == [serial[query] for query in asked]


# Redis


class Server:
    """A redis-server of our own, in memory, that a test can stop and start."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        quiet = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(["redis-server", *quiet], cwd=self.folder, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("redis-server did not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    pytest.importorskip("redis", reason="needs the extra 'redis' (redis-py)")
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server on the PATH (apt-get install redis-server)")
    server = Server(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def stores() -> Iterator[Any]:
    """RedisStores, closed at the end; patient, since a busy machine is no failure of theirs."""
    pytest.importorskip("redis", reason="needs the extra 'redis' (redis-py)")
    opened: list[RedisStore] = []

    def make(url: str, **options: Any) -> RedisStore:
        opened.append(RedisStore(url, **{"timeout_s": 5.0, "pause_s": 0.2, **options}))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def test_a_cross_encoder_over_redis_keeps_every_promise(server: Server, stores: Any, tiny: Path, cache: Path) -> None:
    def make() -> CrossEncoder:
        return CrossEncoder(tiny, engine="onnxruntime", cache_dir=cache, cache=stores(server.url))

    check_reranker(make)
    check_pointwise(make)


def test_processes_share_one_redis_and_the_bits(server: Server, stores: Any, exact: PairScorer) -> None:
    first = Cached(exact, stores(server.url), b"key").score("sort", TEXTS)
    other = Cached(exact, stores(server.url), b"key").score("sort", TEXTS)
    assert counts(other) == (5, 0, 0)
    assert (other.values, other.spans, other.trace.tokens) == (first.values, first.spans, 0)
    assert counts(Cached(exact, stores(server.url, prefix="mine:"), b"key").score("sort", TEXTS)) == (0, 5, 0)


def test_a_request_is_one_mget_and_one_pipeline(server: Server, stores: Any) -> None:
    store = stores(server.url)
    cached = Cached(Slow(), store, b"key")
    cached.score("q", [str(i) for i in range(100)])
    cached.score("q", [str(i) for i in range(100)])
    stats = store._redis.info("commandstats")
    assert stats["cmdstat_mget"]["calls"] == 2
    assert stats["cmdstat_set"]["calls"] == 100
    assert "cmdstat_multi" not in stats


def test_scores_are_forgotten_after_their_time(server: Server, stores: Any) -> None:
    brief, long, lasting = stores(server.url, ttl_s=0.1), stores(server.url, ttl_s=60), stores(server.url)
    brief.put({b"brief": b"1"})
    long.put({b"long": b"1"})
    lasting.put({b"lasting": b"1"})
    time.sleep(0.15)
    assert lasting.get([b"brief", b"long", b"lasting"]) == [None, b"1", b"1"]
    assert 0 < lasting._redis.pttl(b"secondpass:long") <= 60_000
    assert lasting._redis.pttl(b"secondpass:lasting") == -1


def test_what_someone_else_wrote_is_no_score(server: Server, stores: Any) -> None:
    store = stores(server.url)
    cached = Cached(Slow(), store, b"key")
    texts = ["a", "b", "c"]
    cached.score("q", texts)
    keys = [key for key in cached._keys("q", texts) if key is not None]
    store.put(dict(zip(keys, [b"junk", struct.pack("<d", float("nan")), b""], strict=True)))
    scores = cached.score("q", texts)
    assert scores.values == tuple(number("q", text) for text in texts)
    assert counts(scores) == (0, 3, 0)
    assert counts(cached.score("q", texts)) == (3, 0, 0)


def test_a_redis_that_dies_is_said_and_found_again(server: Server, stores: Any) -> None:
    cached = Cached(Slow(), stores(server.url), b"key")
    expected = cached.score("q", TEXTS).values
    assert "unreachable" not in cached.score("q", TEXTS).trace.detail["cache"]
    server.kill()
    for _ in range(3):
        scores = cached.score("q", TEXTS)
        assert scores.values == expected
        assert counts(scores) == (0, 5, 0)
        assert "ConnectionError" in scores.trace.detail["cache"]["unreachable"]
    server.start()
    time.sleep(0.25)  # the pause
    assert cached.score("q", TEXTS).values == expected
    again = cached.score("q", TEXTS)
    assert counts(again) == (5, 0, 0)
    assert "unreachable" not in again.trace.detail["cache"]


def test_a_redis_that_hangs_costs_one_short_timeout(server: Server, stores: Any) -> None:
    scorer = Slow()
    cached = Cached(scorer, stores(server.url, timeout_s=2.0, pause_s=60.0), b"key")
    expected = cached.score("q", TEXTS).values
    server.process.send_signal(signal.SIGSTOP)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        scores = cached.score("q", TEXTS)
        took.append(time.perf_counter() - began)
        assert scores.values == expected
        assert scores.trace.detail["cache"]["unreachable"]
    assert 1.9 < took[0] < 4.0
    assert max(took[1:]) < 1.9  # left alone after the first


def test_a_deadline_is_not_spent_on_a_redis_that_hangs(server: Server, stores: Any) -> None:
    cached = Cached(Slow(), stores(server.url, timeout_s=20.0), b"key")
    cached.score("q", TEXTS)
    server.process.send_signal(signal.SIGSTOP)
    began = time.perf_counter()
    scores = cached.score("q", TEXTS, deadline=Deadline.after_ms(50))
    assert time.perf_counter() - began < 1.0
    assert set(scores.statuses) == {Status.DEADLINE}
    assert "no answer from Redis" in scores.trace.detail["cache"]["unreachable"]
    server.process.send_signal(signal.SIGCONT)


FORK = """
import os, sys
from secondpass.scoring.cache import RedisStore
store = RedisStore(sys.argv[1], timeout_s=5.0)
store.put({b"a": b"1"})
child = os.fork()
if child == 0:
    os._exit(0 if store.get([b"a"]) == [b"1"] else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_store_works_after_a_fork(server: Server) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK, server.url], check=True, timeout=60)


def test_a_redis_that_is_not_there_is_no_failure(stores: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"redis://:secret@127.0.0.1:{probe.getsockname()[1]}/0"  # bound, but nobody listens
        cached = Cached(Slow(), stores(url), b"key")
        scores = cached.score("q", TEXTS)
    assert scores.values == tuple(number("q", text) for text in TEXTS)
    assert "ConnectionError" in scores.trace.detail["cache"]["unreachable"]
    assert "secret" not in scores.trace.detail["cache"]["unreachable"]


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "dripping"])
def test_a_server_that_never_ends_its_answer_is_left(stores: Any, drip: bool) -> None:
    """One byte at a time keeps a socket's own timeout from ever passing."""
    over = threading.Event()
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)

        def serve() -> None:
            while not over.wait(0.02):
                with contextlib.suppress(TimeoutError):
                    held.append(listening.accept()[0])
                for connection in held:
                    with contextlib.suppress(OSError):
                        connection.sendall(b"1" if drip else b"")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"redis://127.0.0.1:{listening.getsockname()[1]}/0"
        store = stores(url, timeout_s=0.2)
        try:
            began = time.perf_counter()
            scores = Cached(Slow(), store, b"key").score("q", TEXTS)
            assert time.perf_counter() - began < 1.5
            assert scores.trace.pairs_scored == 5
            assert scores.trace.detail["cache"]["unreachable"]
        finally:
            over.set()
            thread.join()
            for connection in held:
                connection.close()


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://example", {}),
        ("redis://host:port/0", {}),
        ("redis://localhost", {"ttl_s": 0}),
        ("redis://localhost", {"timeout_s": float("nan")}),
        ("redis://localhost", {"pause_s": -1}),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(url: str, options: dict[str, Any]) -> None:
    pytest.importorskip("redis", reason="needs the extra 'redis' (redis-py)")
    with pytest.raises(InputError):
        RedisStore(url, **options)


def test_a_store_of_one_s_own_may_be_unreachable_too() -> None:
    class Down:
        def get(self, keys: Sequence[bytes], *, within: float = 0.0) -> list[bytes | None]:
            raise CacheUnreachableError("gone fishing")

        put = get

    assert isinstance(Down(), Store)
    assert isinstance(open_store(Down()), Down)  # type: ignore[arg-type]
    scores = Cached(Slow(), Down(), b"key").score("q", TEXTS)  # type: ignore[arg-type]
    assert scores.trace.pairs_scored == 5
    assert scores.trace.detail["cache"]["unreachable"] == "gone fishing"
    assert list(itertools.chain(counts(scores))) == [0, 5, 0]
