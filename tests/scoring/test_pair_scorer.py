from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secondpass.errors import GoldenError, ModelError
from secondpass.scoring.batching import Batch, plan, stack
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.engines import Engine
from secondpass.scoring.pair_scorer import PairScorer, open_scorer
from secondpass.scoring.prepare import prepare
from secondpass.scoring.tokens import Tokens
from secondpass.testing import ManualClock
from secondpass.types import NEVER, Deadline, Status
from tiny import tiny_checkpoint

TEXTS = [f"list {'sort file ' * (i % 9)} date {i}" for i in range(70)]


@pytest.fixture(scope="module")
def scorer(tiny: Path, cache: Path) -> PairScorer:
    return open_scorer(open_checkpoint(tiny), engine="onnxruntime", threads=2, cache=cache)


def test_scores_come_in_the_order_of_the_texts(scorer: PairScorer) -> None:
    scores = scorer.score("sort a list", TEXTS)
    assert set(scores.statuses) == {Status.SCORED}
    for i in (0, 13, 69):
        (alone,) = scorer.score("sort a list", [TEXTS[i]]).values
        assert scores.values[i] == pytest.approx(alone, abs=1e-4)
    assert len({round(value or 0.0, 5) for value in scores.values}) > 60


def test_the_trace_counts_what_was_done(scorer: PairScorer) -> None:
    trace = scorer.score("sort", ["list", "", "list " * 500, None]).trace
    assert (trace.pairs_scored, trace.truncated) == (2, 1)
    assert trace.cut_tokens == 500 - (128 - 4)
    assert trace.tokens == 5 + 128
    assert trace.tokens <= trace.padded_tokens
    assert trace.skipped == {"empty": 1, "not_text": 1}
    assert "nothing to score" in trace.skipped_because
    assert trace.detail["engine"] == "onnxruntime"
    assert trace.detail["precision"] == "fp32"
    assert trace.seconds > 0


def test_a_query_too_long_leaves_every_document_unscored(scorer: PairScorer) -> None:
    scores = scorer.score("list " * 120, ["list", "file"])
    assert scores.values == (None, None)
    assert set(scores.statuses) == {Status.QUERY_TOO_LONG}
    assert "93 tokens" in scores.trace.skipped_because


class _Clock:
    """Stands still until told otherwise; `read` counts how often it was looked at."""

    def __init__(self) -> None:
        self.now, self.limit, self.read = 0.0, 10**9, 0

    def __call__(self) -> float:
        self.read += 1
        if self.read > self.limit:
            self.now = 1e6
        return self.now


def test_when_time_is_up_the_first_candidates_have_been_scored(scorer: PairScorer) -> None:
    clock = _Clock()
    clock.limit = 1  # the clock is looked at once a batch
    scores = scorer.score("sort", TEXTS, deadline=Deadline(at=100.0, clock=clock))
    scored = [i for i, status in enumerate(scores.statuses) if status is Status.SCORED]
    assert 0 < len(scored) < len(TEXTS)
    assert max(scored) < 32  # within the first window
    assert {scores.statuses[i] for i in range(len(TEXTS)) if i not in scored} == {Status.DEADLINE}
    assert scores.trace.skipped == {"deadline": len(TEXTS) - len(scored)}
    full = scorer.score("sort", TEXTS)
    np.testing.assert_allclose([scores.values[i] for i in scored], [full.values[i] for i in scored], atol=1e-4)  # type: ignore[arg-type]


def test_a_batch_that_cannot_end_in_time_is_not_begun(tiny: Path, cache: Path) -> None:
    scorer = open_scorer(open_checkpoint(tiny), engine="onnxruntime", threads=1, cache=cache)
    assert scorer.score("sort", TEXTS, deadline=Deadline(at=1e-9, clock=lambda: 0.0)).trace.pairs_scored == 0
    assert scorer.score("sort", TEXTS, deadline=Deadline(at=1e9, clock=lambda: 0.0)).trace.pairs_scored == len(TEXTS)


def _seconds(rows: int, width: int) -> float:
    return 2e-3 + 1e-4 * rows * width


class _TimedEngine:
    """Logits of 0; each batch takes `_seconds` on a clock, and is noted with its start and end."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.slowness: Callable[[int], float] = lambda number: 1.0
        self.ran: list[tuple[tuple[int, ...], float, float]] = []

    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        began = self.clock.now
        self.clock.advance(_seconds(*batch.ids.shape) * self.slowness(len(self.ran)))
        self.ran.append((batch.rows, began, self.clock.now))
        return np.zeros(len(batch.rows), dtype=np.float32)


@pytest.fixture
def timed(tiny: Path) -> tuple[PairScorer, _TimedEngine]:
    """One worker whose costs are known and have been learned from single rows, as golden pairs are."""
    clock = ManualClock()
    engine = _TimedEngine(clock)
    return _with(tiny, engine, clock), engine


def _with(folder: Path, infer: Callable[[Batch], NDArray[np.float32]], clock: Callable[[], float]) -> PairScorer:
    scorer = PairScorer(
        open_checkpoint(folder),
        Engine("test", "fp32", 1, "a test", infer),
        max_length=128,
        batch_tokens=512,
        tolerance=0.0,
        clock=clock,
    )
    for width in (16, 32, 64, 128) * 6:
        scorer.cost.update(1, width, _seconds(1, width))
    return scorer


def _scored(statuses: Sequence[Status]) -> list[int]:
    return [i for i, status in enumerate(statuses) if status is Status.SCORED]


@pytest.mark.parametrize("milliseconds", [5, 20, 50, 100, 300])
def test_no_batch_starts_that_cannot_end_in_time(timed: tuple[PairScorer, _TimedEngine], milliseconds: int) -> None:
    scorer, engine = timed
    deadline = Deadline.after_ms(milliseconds, engine.clock)
    scores = scorer.score("sort", TEXTS * 3, deadline=deadline)
    assert deadline.at is not None
    assert all(end <= deadline.at for _, _, end in engine.ran)
    # and none is held back that could: less than a tenth of the time, or than the shortest text takes, is left
    assert deadline.at - engine.clock.now <= max(0.1 * milliseconds / 1000, 1.5 * _seconds(1, 24))
    scored = _scored(scores.statuses)
    assert sorted(i for rows, _, _ in engine.ran for i in rows) == scored
    assert set(scores.statuses) <= {Status.SCORED, Status.DEADLINE}


@pytest.mark.parametrize("milliseconds", [20, 50, 100, 300])
def test_the_first_documents_are_scored_first(timed: tuple[PairScorer, _TimedEngine], milliseconds: int) -> None:
    scorer, engine = timed
    alike = scorer.score("sort", ["list file date"] * 500, deadline=Deadline.after_ms(milliseconds, engine.clock))
    scored = _scored(alike.statuses)
    assert scored == list(range(len(scored)))
    assert 0 < len(scored) < 500
    mixed = scorer.score("sort", TEXTS * 3, deadline=Deadline.after_ms(milliseconds, engine.clock))
    scored = _scored(mixed.statuses)
    assert len(scored) >= 0.8 * (max(scored) + 1)  # gaps in the last window only


@pytest.mark.parametrize("slow_from", [1, 2, 3])
def test_a_machine_twice_as_slow_in_the_middle_of_a_request_does_not_break_the_deadline(
    timed: tuple[PairScorer, _TimedEngine], slow_from: int
) -> None:
    scorer, engine = timed
    engine.slowness = lambda number: 2.0 if number >= slow_from else 1.0
    deadline = Deadline.after_ms(200, engine.clock)
    scores = scorer.score("sort", TEXTS * 3, deadline=deadline)
    assert deadline.at is not None
    assert len(engine.ran) > slow_from
    assert engine.clock.now <= deadline.at
    assert len(_scored(scores.statuses)) > 10


def test_a_machine_that_was_slow_is_tried_again(timed: tuple[PairScorer, _TimedEngine]) -> None:
    scorer, engine = timed
    for width in (16, 32, 64, 128) * 30:
        scorer.cost.update(1, width, 40 * _seconds(1, width))
    counts = [
        scorer.score("sort", TEXTS, deadline=Deadline.after_ms(60, engine.clock)).trace.pairs_scored for _ in range(200)
    ]
    assert counts[0] == 0
    assert counts[-1] > 10


def test_no_document_is_passed_over_for_a_shorter_one_behind_it(timed: tuple[PairScorer, _TimedEngine]) -> None:
    scorer, engine = timed
    texts = ["list", "list " * 120, "list", "file", "date"]
    milliseconds = 1000 * _seconds(1, 64)  # not enough for the long one
    scores = scorer.score("sort", texts, deadline=Deadline.after_ms(milliseconds, engine.clock))
    assert _scored(scores.statuses) == [0]


class _SlowTokenizer:
    """The tokenizer itself, with a price for each text on a clock."""

    def __init__(self, real: Any, clock: ManualClock, seconds: float) -> None:
        self._real, self._clock, self._seconds = real, clock, seconds
        self.texts = 0

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        return self._real.encode(*args, **kwargs)

    def encode_batch(self, texts: list[str], **kwargs: Any) -> Any:
        self.texts += len(texts)
        self._clock.advance(self._seconds * len(texts))
        return self._real.encode_batch(texts, **kwargs)


def test_a_deadline_shorter_than_tokenizing_everything_holds(timed: tuple[PairScorer, _TimedEngine]) -> None:
    scorer, engine = timed
    tokenizer = _SlowTokenizer(scorer.checkpoint.tokenizer, engine.clock, 1e-4)
    scorer.tokens = Tokens(tokenizer, 128, keep_bytes=0)  # type: ignore[arg-type]
    deadline = Deadline.after_ms(50, engine.clock)
    scores = scorer.score("sort", ["list file"] * 1000, deadline=deadline)
    assert deadline.at is not None
    assert engine.clock.now <= deadline.at
    assert 0 < len(_scored(scores.statuses)) <= tokenizer.texts < 100
    assert scores.trace.skipped == {"deadline": 1000 - len(_scored(scores.statuses))}


def test_without_a_deadline_batches_and_scores_are_those_of_one_plan_over_all(scorer: PairScorer) -> None:
    texts = [*TEXTS, "", None, "list"]
    prepared = prepare(scorer.checkpoint, "sort a list", texts, Tokens(scorer.checkpoint.tokenizer, 128))
    rows = [row for row in prepared.rows if row is not None]
    expected = np.full(len(rows), np.nan, dtype=np.float32)
    for batch in plan([len(row.ids) for row in rows], scorer.batch_tokens, scorer.engine.workers):
        arrays = stack(batch, [rows[k] for k in batch], scorer.checkpoint.pad, 128)
        expected[list(batch)] = scorer.engine.infer(arrays)
    for deadline in (NEVER, Deadline(math.inf)):
        scores = scorer.score("sort a list", texts, deadline=deadline)
        assert [value for value in scores.values if value is not None] == expected.tolist()  # bit for bit
        assert scores.statuses[-3:] == (Status.EMPTY, Status.NOT_TEXT, Status.SCORED)


def test_the_trace_has_the_expected_and_the_real_seconds(timed: tuple[PairScorer, _TimedEngine]) -> None:
    scorer, engine = timed
    cost = scorer.score("sort", TEXTS).trace.detail["cost"]
    assert cost["measured_s"] == pytest.approx(engine.clock.now, rel=1e-3)
    assert cost["expected_s"] == pytest.approx(engine.clock.now, rel=0.1)
    assert cost["b"] == pytest.approx(1e-4, rel=0.1)
    assert cost["unfinished"] == 0
    json.dumps(cost)


def test_a_batch_that_hangs_is_not_waited_for(tiny: Path) -> None:
    go_on = threading.Event()

    def infer(batch: Batch) -> NDArray[np.float32]:
        go_on.wait(10)
        return np.zeros(len(batch.rows), dtype=np.float32)

    scorer = _with(tiny, infer, time.perf_counter)
    began = time.perf_counter()
    scores = scorer.score("sort", TEXTS, deadline=Deadline.after_ms(60))
    took = time.perf_counter() - began
    go_on.set()
    scorer.close()
    assert 0.05 < took < 2.0
    assert set(scores.statuses) == {Status.DEADLINE}
    assert scores.trace.detail["cost"]["unfinished"] > 0


def test_a_deadline_holds_while_another_caller_keeps_the_workers_busy(tiny: Path) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def infer(batch: Batch) -> NDArray[np.float32]:
        busy.set()
        go_on.wait(10)
        return np.zeros(len(batch.rows), dtype=np.float32)

    scorer = _with(tiny, infer, time.perf_counter)
    found: list[int] = []
    other = threading.Thread(target=lambda: found.append(scorer.score("sort", TEXTS).trace.pairs_scored))
    other.start()
    assert busy.wait(10)
    began = time.perf_counter()
    scores = scorer.score("sort", TEXTS, deadline=Deadline.after_ms(60))
    took = time.perf_counter() - began
    go_on.set()
    other.join()
    scorer.close()
    assert took < 2.0
    assert set(scores.statuses) == {Status.DEADLINE}
    assert found == [len(TEXTS)]  # the other one lost nothing


def test_concurrent_callers_get_the_scores_of_serial_ones(scorer: PairScorer) -> None:
    queries = [f"sort {word}" for word in ("list", "file", "date", "snake")]
    serial = [scorer.score(query, TEXTS).values for query in queries]
    found: dict[int, tuple[float | None, ...]] = {}

    def work(i: int) -> None:
        found[i] = scorer.score(queries[i], TEXTS).values

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(queries))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, values in enumerate(serial):
        np.testing.assert_allclose(found[i], values, atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_model_that_breaks_its_golden_pairs_is_refused(tmp_path: Path, cache: Path, engine: str) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    probe = open_scorer(open_checkpoint(folder), engine="onnxruntime", cache=cache)
    (logit,) = probe.score("sort", ["list"]).values
    assert logit is not None

    def write(value: float) -> None:
        golden = {"pairs": [{"query": "sort", "document": "list", "logit": value}], "tolerance": {"fp32": 1e-3}}
        (folder / "golden.json").write_text(json.dumps(golden))

    write(logit)
    open_scorer(open_checkpoint(folder), engine=engine, profile="exact", cache=cache)
    for wrong in (logit + 0.01, float("nan")):
        write(wrong)
        with pytest.raises(GoldenError, match="deviate"):
            open_scorer(open_checkpoint(folder), engine=engine, profile="exact", cache=cache)


def test_a_score_that_is_no_number_gets_a_status(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tiny_checkpoint(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"] = np.array([np.nan], dtype=np.float32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match="no finite score"):
        open_scorer(open_checkpoint(folder), engine="onnxruntime", cache=None)


@pytest.mark.parametrize("length", [8, 129])
def test_a_length_the_model_does_not_have_is_refused(tiny: Path, length: int) -> None:
    with pytest.raises(ModelError, match="max_length"):
        open_scorer(open_checkpoint(tiny), max_length=length, cache=None)


@pytest.mark.parametrize("length", [16, 40])
def test_a_shorter_length_is_still_checked_against_what_fits(tmp_path: Path, cache: Path, length: int) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    long = {"query": "sort a list", "document": "list " * 60, "logit": 123.0}  # wrong, and too long to count here
    (folder / "golden.json").write_text(json.dumps({"pairs": [long], "tolerance": {"fp32": 1e-3}}))
    scorer = open_scorer(open_checkpoint(folder), profile="exact", max_length=length, cache=cache)
    assert scorer.score("sort", ["list " * 60]).trace.cut_tokens == 60 - (length - 4)
    with pytest.raises(GoldenError):
        open_scorer(open_checkpoint(folder), profile="exact", cache=cache)
