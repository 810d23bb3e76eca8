from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from secondpass.errors import GoldenError, ModelError
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.pair_scorer import PairScorer, open_scorer
from secondpass.types import Deadline, Status
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
    open_scorer(open_checkpoint(folder), engine=engine, precision="fp32", cache=cache)
    for wrong in (logit + 0.01, float("nan")):
        write(wrong)
        with pytest.raises(GoldenError, match="deviate"):
            open_scorer(open_checkpoint(folder), engine=engine, precision="fp32", cache=cache)


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
    scorer = open_scorer(open_checkpoint(folder), precision="fp32", max_length=length, cache=cache)
    assert scorer.score("sort", ["list " * 60]).trace.cut_tokens == 60 - (length - 4)
    with pytest.raises(GoldenError):
        open_scorer(open_checkpoint(folder), precision="fp32", cache=cache)
