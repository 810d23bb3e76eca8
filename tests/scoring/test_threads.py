"""Threads and processes: who may ask at once, how many threads there are, what a fork leaves, what import changes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondpass.errors import ModelError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.batching import Batch
from secondpass.scoring.engines import Logits
from secondpass.types import NEVER, Caller, Deadline, Scores, Status, as_ranking

SOURCE = Path(__file__).resolve().parents[2] / "src"
ENGINES = ["onnxruntime", "openvino"]
WORDS = ["list", "file", "date", "string", "document", "river", "bank", "snake", "python", "language"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or forks with threads about")


def texts(count: int, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(1, 90))) for _ in range(count)]


def script(body: str, *arguments: object, seconds: float = 60) -> str:
    """What a fresh Python process prints; it must end well and in time."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(body), *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"cache": 1_000_000, "windows": 2, "max_length": 40}], ids=["plain", "all"])
def test_concurrent_callers_get_the_scores_of_serial_ones(
    tiny: Path, cache: Path, engine: str, options: dict[str, Any]
) -> None:
    def fresh() -> CrossEncoder:
        return CrossEncoder(tiny, engine=engine, profile="exact", threads=2, cache_dir=cache, **options)

    queries = [f"sort {word} {other}" for word in WORDS[:4] for other in WORDS[4:7]]
    ranked = [as_ranking(query, texts(40, number % 5)) for number, query in enumerate(queries)]
    alone = fresh()
    expected = [{hit.document.id: hit.score for hit in alone.rerank(ranking).hits} for ranking in ranked]
    shared = fresh()
    found: dict[int, dict[str, float | None]] = {}

    def work(first: int) -> None:
        for i in range(first, len(ranked), 6):
            found[i] = {hit.document.id: hit.score for hit in shared.rerank(ranked[i]).hits}

    threads = [threading.Thread(target=work, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(len(ranked)))
    for i, scores in enumerate(expected):
        assert found[i] == pytest.approx(scores, abs=1e-4)


class Watched:
    """A scorer of one thread whose batches can be held up and are counted, by the query they belong to."""

    def __init__(self, tiny: Path, cache: Path) -> None:
        encoder = CrossEncoder(tiny, profile="exact", threads=1, batch_tokens=64, cache_dir=cache)
        self.scorer, self.batches, self.gate = encoder.scorer, list[int](), threading.Event()
        infer = self.scorer.engine.infer

        def watched(batch: Batch) -> Logits:
            self.batches.append(int(batch.ids[0, 1]))  # the query's first token
            self.gate.wait(10)
            return infer(batch)

        self.scorer.engine = replace(self.scorer.engine, infer=watched)

    def ask(self, query: str, count: int, deadline: Deadline = NEVER) -> Future[Scores]:
        return self.pool.submit(self.scorer.score, query, texts(count), deadline=deadline)

    def __enter__(self) -> Watched:
        self.pool = ThreadPoolExecutor(40)
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self.pool.shutdown()
        self.scorer.close()

    def until(self, batches: int, waiting: int = 0) -> None:
        """So many batches have begun, and so many turns wait: two of each request, a worker's and one more."""
        end = time.monotonic() + 10
        while len(self.batches) < batches or self._waiting() < waiting:
            assert time.monotonic() < end
            time.sleep(0.001)

    def _waiting(self) -> int:
        turns = self.scorer._workers()
        with turns._lock:
            return sum(len(line.waiting) for line in turns._lines.values())


def test_a_short_request_does_not_wait_for_a_long_one_that_came_before(tiny: Path, cache: Path) -> None:
    with Watched(tiny, cache) as watched:
        long = [watched.ask("list", 80) for _ in range(4)]
        watched.until(1, waiting=2 * 4 - 1)
        short = watched.ask("river", 2)
        watched.until(1, waiting=2 * 5 - 1)
        watched.gate.set()
        assert all(status == "scored" for status in short.result(30).statuses)
        river = watched.scorer.checkpoint.tokenizer.token_to_id("river")
        last = max(i for i, first in enumerate(watched.batches) if first == river)
        assert last <= 8, watched.batches[:20]
        for one in long:
            assert all(status == "scored" for status in one.result(30).statuses)


def test_many_requests_of_one_caller_do_not_starve_another(tiny: Path, cache: Path) -> None:
    with Watched(tiny, cache) as watched:
        crowd = [watched.ask("list", 40, Deadline(caller=Caller("crowd"))) for _ in range(20)]
        watched.until(1)
        one = watched.ask("river", 40, Deadline(caller=Caller("one")))
        watched.until(1, waiting=2 * 21 - 1)
        watched.gate.set()
        one.result(30)
        river = watched.scorer.checkpoint.tokenizer.token_to_id("river")
        mine = [i for i, first in enumerate(watched.batches) if first == river]
        assert max(mine) <= 4 * len(mine), "half of the batches, or nearly, are mine until I am done"
        for other in crowd:
            other.result(30)


def test_nothing_is_computed_for_who_has_left(tiny: Path, cache: Path) -> None:
    with Watched(tiny, cache) as watched:
        caller = Caller("someone")
        asked = watched.ask("list", 80, Deadline(caller=caller))
        watched.until(1)
        caller.leave()
        watched.gate.set()
        statuses = Counter(asked.result(30).statuses)
        assert len(watched.batches) == 1
        assert statuses[Status.DEADLINE] > 70
        assert not set(statuses) - {Status.DEADLINE, Status.SCORED}
        after = watched.ask("river", 10).result(30)  # and others go on
        assert all(status == "scored" for status in after.statuses)


_STATE = """
    import builtins, faulthandler, gc, locale, logging, multiprocessing, os, random, signal, socket, sys, threading
    import warnings
    import numpy, onnxruntime, openvino, platformdirs, tokenizers, onnx, safetensors.numpy, rich.console

    def state():
        return {
            "environment": dict(os.environ), "folder": os.getcwd(), "path": list(sys.path),
            "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
            "root logger": (logging.root.level, list(logging.root.handlers), logging.raiseExceptions),
            "log classes": (logging.getLoggerClass(), logging.getLogRecordFactory()),
            "warnings": (list(warnings.filters), warnings.showwarning),
            "numpy": (numpy.geterr(), numpy.geterrcall(), numpy.get_printoptions()),
            "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook, sys.displayhook),
            "tracing": (sys.gettrace(), threading.gettrace(), sys.getprofile()), "streams": (sys.stdout, sys.stderr),
            "locale": locale.setlocale(locale.LC_ALL), "faults": faulthandler.is_enabled(),
            "processes": multiprocessing.get_start_method(allow_none=True), "sockets": socket.getdefaulttimeout(),
            "limits": (sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()),
            "random": (random.getstate(), repr(numpy.random.get_state())), "builtins": dict(vars(builtins)),
            "thread class": (threading.Thread.start, threading.Thread.run), "affinity": os.sched_getaffinity(0),
        }

    def compare(when):
        for name, value in state().items():
            if value != before[name]:
                print(when, "changed", name)

    before = state()
"""


@linux
@pytest.mark.parametrize("engine", ENGINES)
def test_no_global_state_is_patched(tiny: Path, cache: Path, engine: str) -> None:
    body = textwrap.dedent(_STATE) + textwrap.dedent("""
    import secondpass
    compare("import")
    folder, kept, engine = sys.argv[1:]
    encoder = secondpass.CrossEncoder(folder, cache_dir=kept, engine=engine, windows=2, cache=1_000_000)
    compare("open")
    encoder.score("sort", ["list file " * 200, "date"])
    compare("score")
    print("compared")
    """)
    assert script(body, tiny, cache, engine) == "compared\n"


@linux
@pytest.mark.parametrize("engine", ENGINES)
def test_threads_are_as_many_as_asked_for_and_a_few(tiny: Path, cache: Path, engine: str) -> None:
    body = """
    import os, resource, sys, time
    import numpy, onnxruntime, openvino, tokenizers
    from secondpass import CrossEncoder

    def count():
        return len(os.listdir("/proc/self/task"))

    before, wanted = count(), int(sys.argv[4])
    encoder = CrossEncoder(sys.argv[1], cache_dir=sys.argv[2], engine=sys.argv[3], threads=wanted, profile="exact")
    texts = ["list file date " * (number % 30) for number in range(3_000)]
    encoder.score("sort", texts)
    began, used = time.perf_counter(), time.process_time()
    encoder.score("sort list", texts)
    print(count() - before, (time.process_time() - used) / (time.perf_counter() - began))
    """
    cores = len(os.sched_getaffinity(0))
    for wanted in (1, 3):
        more, busy = map(float, script(body, tiny, cache, engine, wanted).split())
        # ours and the engine's own, one each a worker; tokenizers' pool has one a core, whatever is asked for
        assert more <= 2 * wanted + cores + 2
        assert busy <= wanted + 0.5


_FORK = """
    import os, signal, sys, threading, time
    from secondpass import CrossEncoder
    from secondpass.errors import ModelError

    folder, cache, engine, busy, windows, store = sys.argv[1:]
    options = {"windows": 2 if windows == "1" else None, "cache": 1_000_000 if store == "1" else None}
    opened = CrossEncoder(folder, cache_dir=cache, engine=engine, threads=2, max_length=40, **options)
    texts = ["list file date " * number for number in range(40)]
    expected = opened.score("sort", texts).values
    threads = []
    if busy == "1":
        def work():
            number = 0
            while True:
                number += 1
                opened.score(f"sort {number}", texts)
        threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for attempt in range(4):
        time.sleep(0.01 * attempt)
        child = os.fork()
        if not child:
            code = 1
            try:
                opened.score("sort", texts)
            except ModelError as error:
                assert "before this process was forked" in str(error), error
                code = 0
            finally:
                os._exit(code)
        until = time.monotonic() + 15
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                print("hung")
                os._exit(1)
            time.sleep(0.005)
        print(ended[1])
    opened.score("sort", texts)  # the parent goes on
    print("parent", flush=True)
    os._exit(0)  # its threads are still at work
"""


@linux
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("busy", [0, 1], ids=["idle", "busy"])
@pytest.mark.parametrize("wrapped", [0, 1], ids=["plain", "wrapped"])
def test_a_fork_after_load_fails_with_a_clear_sentence(
    tiny: Path, cache: Path, engine: str, busy: int, wrapped: int
) -> None:
    body = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + textwrap.dedent(_FORK)
    assert script(body, tiny, cache, engine, busy, wrapped, wrapped) == "0\n0\n0\n0\nparent\n"


@linux
def test_a_score_cache_outlives_a_fork_at_the_worst_moment() -> None:
    body = """
    import os, signal, threading, time, warnings
    from secondpass.scoring.cache import Cached, MemoryStore
    from secondpass.types import Scores, StageTrace, Status

    warnings.simplefilter("ignore", DeprecationWarning)
    parent, begun = os.getpid(), threading.Event()

    class Scorer:
        def score(self, query, texts, **_):
            if os.getpid() == parent:
                begun.set()
                time.sleep(60)
            n = len(texts)
            return Scores((1.0,) * n, (Status.SCORED,) * n, ((0, 1),) * n, StageTrace("scorer"))

    def hold():
        with store._lock():
            time.sleep(60)

    store = MemoryStore(100_000)
    cached = Cached(Scorer(), store, b"")
    threading.Thread(target=lambda: cached.score("q", ["a", "b"]), daemon=True).start()
    begun.wait()
    threading.Thread(target=hold, daemon=True).start()
    time.sleep(0.05)
    child = os.fork()
    if not child:
        signal.alarm(10)  # ends the process where it hangs
        ok = cached.score("q", ["a", "b"]).values == (1.0, 1.0)
        ok = ok and cached.score("q", ["b"]).trace.detail["cache"]["hits"] == 1
        os._exit(0 if ok else 1)
    print(os.waitpid(child, 0)[1], flush=True)
    os._exit(0)
    """
    assert script(body) == "0\n"


def _scores_in_a_worker(folder: str, cache: str, engine: str, some: list[str]) -> tuple[float | None, ...]:
    encoder = CrossEncoder(folder, cache_dir=cache, engine=engine, profile="exact", threads=1)
    return encoder.score("sort", some).values


@pytest.mark.parametrize("engine", ENGINES)
def test_a_spawned_process_opens_its_own(tiny: Path, cache: Path, engine: str) -> None:
    here = CrossEncoder(tiny, cache_dir=cache, engine=engine, profile="exact", threads=1)
    some = texts(5)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(_scores_in_a_worker, str(tiny), str(cache), engine, some).result(timeout=60)
    assert there == pytest.approx(here.score("sort", some).values, abs=1e-4)


def test_a_loaded_model_is_not_pickled(tiny: Path, cache: Path) -> None:
    encoder = CrossEncoder(tiny, cache_dir=cache, engine="onnxruntime", threads=1)
    with pytest.raises(ModelError, match="open it there"):
        pickle.dumps(encoder)
