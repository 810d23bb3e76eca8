"""PairScorer: one query against many texts, within a deadline.

Knows: preparing, batching, an engine, the golden pairs. Refuses to know: rankings and
documents. A model that does not give its golden scores, alone and under concurrency, is
refused at load.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import GoldenError, ModelError
from secondpass.scoring.batching import Batch, plan, stack
from secondpass.scoring.checkpoint import Checkpoint, Golden
from secondpass.scoring.engines import Engine, open_engine
from secondpass.scoring.prepare import Row, prepare, query_limit
from secondpass.scoring.probes import PROBES
from secondpass.types import NEVER, Deadline, Scores, StageTrace, Status

__all__ = ["PairScorer", "open_scorer"]

_FP32_TOLERANCE = 1e-3  # between two fp32 engines on one checkpoint; weights in fp16 are upcast before
_BF16_SHARE = 0.05  # for a checkpoint without stated tolerances: of the largest golden logit, at least of 1
_WINDOW = 32  # candidates sorted by length together when a deadline may stop the work


@dataclass(frozen=True, slots=True)
class _Work:
    """What is left of a request: batches of positions, and the rows they name."""

    batches: Iterable[tuple[int, ...]]
    rows: Sequence[Row]


class PairScorer:
    """A compiled checkpoint. `score` may be called from several threads.

    `max_length` counts tokens of the whole pair; `tolerance` is the largest deviation from fp32
    that the checkpoint allows this precision.
    """

    def __init__(
        self, checkpoint: Checkpoint, engine: Engine, *, max_length: int, batch_tokens: int, tolerance: float
    ) -> None:
        self.checkpoint = checkpoint
        self.engine = engine
        self.max_length = max_length
        self.batch_tokens = batch_tokens
        self.tolerance = tolerance
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._seconds_per_token = 0.0  # learned while running; a guess of 0 lets the first batch start

    @property
    def detail(self) -> dict[str, Any]:
        """What was chosen and why, for traces and reports."""
        return {
            "model": self.checkpoint.name,
            "digest": self.checkpoint.digest,
            "engine": self.engine.name,
            "precision": self.engine.precision,
            "why": self.engine.why,
            "workers": self.engine.workers,
            "max_length": self.max_length,
            "query_limit": query_limit(self.max_length),
        }

    def score(self, query: str, texts: Sequence[object], *, deadline: Deadline = NEVER) -> Scores:
        """Logits of (query, text) for every text, in the order given, as far as the deadline allows.

        With a deadline the texts are taken in their order, so that what was scored when time is up
        are the first ones; a batch is started only if by the pace so far it can end in time.
        """
        began = time.perf_counter()
        prepared = prepare(self.checkpoint, query, texts, self.max_length)
        positions = [i for i, row in enumerate(prepared.rows) if row is not None]
        rows = [row for row in prepared.rows if row is not None]
        statuses = list(prepared.statuses)
        values: list[float | None] = [None] * len(texts)
        spans: list[tuple[int, int] | None] = [None] * len(texts)
        window = None if deadline.at is None else _WINDOW
        work = _Work(plan([len(row.ids) for row in rows], self.batch_tokens, window), rows)
        tokens = padded = truncated = cut = 0
        for i in positions:
            statuses[i] = Status.DEADLINE
        for batch, logits in self._run(work, deadline):
            padded += batch.padded_tokens
            for k, logit in zip(batch.rows, logits.tolist(), strict=True):
                i, row = positions[k], rows[k]
                tokens += len(row.ids)
                truncated += row.cut_tokens > 0
                cut += row.cut_tokens
                statuses[i] = Status.SCORED if math.isfinite(logit) else Status.BAD_SCORE
                if statuses[i] is Status.SCORED:
                    values[i], spans[i] = logit, row.span
        skipped = Counter(str(status) for status in statuses if status is not Status.SCORED)
        trace = StageTrace(
            name=self.checkpoint.name,
            seconds=time.perf_counter() - began,
            pairs_scored=sum(value is not None for value in values),
            tokens=tokens,
            padded_tokens=padded,
            truncated=truncated,
            cut_tokens=cut,
            skipped=dict(skipped),
            skipped_because=_because(skipped, query_limit(self.max_length)),
            detail=self.detail,
        )
        return Scores(tuple(values), tuple(statuses), tuple(spans), trace)

    def _stack(self, work: _Work, positions: tuple[int, ...]) -> Batch:
        pad = self.checkpoint.special[2]
        return stack(positions, [work.rows[k] for k in positions], pad, self.max_length)

    def _timed(self, batch: Batch) -> NDArray[np.float32]:
        began = time.perf_counter()
        logits = self.engine.infer(batch)
        pace = (time.perf_counter() - began) / batch.padded_tokens
        old = self._seconds_per_token
        self._seconds_per_token = pace if old == 0.0 else 0.8 * old + 0.2 * pace
        return logits

    def _fits(self, batch: Batch, deadline: Deadline) -> bool:
        return deadline.at is None or deadline.remaining() > self._seconds_per_token * batch.padded_tokens

    def _run(self, work: _Work, deadline: Deadline) -> Iterable[tuple[Batch, NDArray[np.float32]]]:
        """Batches with their logits as they finish; at most `workers` at a time, none started too late."""
        running: dict[Future[NDArray[np.float32]], Batch] = {}
        pool = self._workers()
        for positions in work.batches:
            batch = self._stack(work, positions)
            if len(running) >= self.engine.workers:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
            if not self._fits(batch, deadline):
                break
            running[pool.submit(self._timed, batch)] = batch
        for future, batch in list(running.items()):
            yield batch, future.result()

    def _workers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.engine.workers, thread_name_prefix="secondpass")
            return self._pool

    def close(self) -> None:
        """Stop the worker threads. The scorer must not be used afterwards."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=True)

    def check_golden(self, golden: Sequence[Golden]) -> float:
        """Score the golden pairs one batch at a time and all at once from every worker.

        Returns the largest deviation. Raises GoldenError where it exceeds `tolerance`.
        """
        rows = []
        for pair in golden:
            (row,) = prepare(self.checkpoint, pair.query, [pair.document], self.max_length).rows
            if row is None:
                raise GoldenError(f"{self.checkpoint.name}: the golden pair {pair.query!r} cannot be scored")
            rows.append(row)
        expected = np.array([pair.logit for pair in golden], dtype=np.float32)
        work = _Work([(k,) for k in range(len(rows))], rows)
        singles = [self._stack(work, positions) for positions in work.batches]
        pool = self._workers()
        rounds = [[self._timed(batch) for batch in singles]]
        futures = [[pool.submit(self._timed, batch) for batch in singles] for _ in range(self.engine.workers)]
        rounds += [[future.result() for future in row] for row in futures]
        worst = max(float(np.max(np.abs(np.concatenate(logits) - expected))) for logits in rounds)
        if not worst <= self.tolerance:  # so that NaN fails too
            raise GoldenError(
                f"{self.checkpoint.name} on {self.engine.name} in {self.engine.precision}: golden pairs deviate "
                f"by {worst:.4g}, allowed are {self.tolerance:.4g}; "
                "try precision='fp32' or engine='onnxruntime', and please report it"
            )
        return worst


def _because(skipped: Counter[str], limit: int) -> str:
    """One sentence for people on what was left unscored."""
    reasons = {
        str(Status.DEADLINE): "time was up",
        str(Status.QUERY_TOO_LONG): f"the query has more than {limit} tokens, the most this model takes",
        str(Status.EMPTY): "nothing to score in the document",
        str(Status.NOT_TEXT): "the document is not text",
        str(Status.BAD_SCORE): "the model gave no finite number",
    }
    return "; ".join(f"{count}: {reasons[status]}" for status, count in sorted(skipped.items()))


def _reference(checkpoint: Checkpoint, cache: Path | None, max_length: int) -> list[Golden]:
    """Probe pairs with logits from the portable engine in fp32."""
    engine = open_engine(checkpoint, engine="onnxruntime", precision="fp32", threads=1, cache=cache)
    scorer = PairScorer(checkpoint, engine, max_length=max_length, batch_tokens=1, tolerance=0.0)
    try:
        out = []
        for query, text in PROBES:
            if not _fits(checkpoint, query, text, max_length):
                continue
            (value,) = scorer.score(query, [text]).values
            if value is None:
                raise ModelError(
                    f"{checkpoint.name}: a probe pair got no finite score in fp32; the weights are damaged"
                )
            out.append(Golden(query, text, value))
        return out
    finally:
        scorer.close()


def open_scorer(
    checkpoint: Checkpoint,
    *,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    max_length: int | None = None,
    batch_tokens: int = 512,
    cache: Path | None = None,
) -> PairScorer:
    """Compile a checkpoint and check it against its golden pairs.

    A folder without golden.json is compared with the portable engine in fp32 on fixed probe pairs.
    `max_length` may shorten the checkpoint's own length, never stretch it. `batch_tokens` bounds the
    padded tokens of a batch.
    Raises ModelError, and GoldenError where the scores are wrong.
    """
    if max_length is not None and not 16 <= max_length <= checkpoint.max_length:
        raise ModelError(f"max_length is {max_length}; {checkpoint.name} takes 16 to {checkpoint.max_length} tokens")
    if batch_tokens < 1:
        raise ModelError(f"batch_tokens is {batch_tokens}; give at least 1")
    length = max_length or checkpoint.max_length
    chosen = open_engine(checkpoint, engine=engine, precision=precision, threads=threads, cache=cache)
    # golden scores belong to the full length; a shorter setting cuts long pairs and changes them on purpose
    golden = [pair for pair in checkpoint.golden if _fits(checkpoint, pair.query, pair.document, length)]
    golden = golden or _reference(checkpoint, cache, length)
    largest = max(1.0, max(abs(pair.logit) for pair in golden))
    default = _FP32_TOLERANCE * largest if chosen.precision == "fp32" else _BF16_SHARE * largest
    tolerance = checkpoint.tolerance.get(chosen.precision, default)
    scorer = PairScorer(checkpoint, chosen, max_length=length, batch_tokens=batch_tokens, tolerance=tolerance)
    try:
        scorer.check_golden(golden)
    except GoldenError:
        scorer.close()
        raise
    return scorer


def _fits(checkpoint: Checkpoint, query: str, text: str, length: int) -> bool:
    (row,) = prepare(checkpoint, query, [text], length).rows
    return row is not None and row.cut_tokens == 0
