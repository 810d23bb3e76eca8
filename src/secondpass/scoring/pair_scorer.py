"""PairScorer: one query against many texts, within a deadline.

Knows: preparing, batching, an engine, the golden pairs. Refuses to know: rankings and
documents. A model that does not give its golden scores, alone and under concurrency, is
refused at load.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import GoldenError, InputError, ModelError
from secondpass.scoring.batching import Batch, stacked
from secondpass.scoring.checkpoint import Checkpoint, Golden
from secondpass.scoring.cost_model import CostModel
from secondpass.scoring.document_states import most_tokens
from secondpass.scoring.engines import Begun, Engine, open_engine
from secondpass.scoring.prepare import Prepared, Row, prepare
from secondpass.scoring.probes import PROBES
from secondpass.scoring.schedule import Schedule, about_tokens
from secondpass.scoring.stopping import behind, going_on
from secondpass.scoring.tokens import KEEP_BYTES, Tokens
from secondpass.scoring.turns import Turns
from secondpass.types import NEVER, Deadline, Scores, StageTrace, Status

__all__ = ["PairScorer", "because", "fits", "open_scorer"]

_FP32_TOLERANCE = 1e-3  # between two fp32 engines on one checkpoint; weights in fp16 are upcast before
_BF16_SHARE = 0.05  # for a checkpoint without stated tolerances: of the largest golden logit, at least of 1
# Seconds from the last batch to the ranking in the caller's hands: a fixed part, and one for each document
_AFTER, _AFTER_EACH = 1e-3, 5e-6
_LOOK = 0.5  # seconds between looks at whether a caller is still there

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Done:
    """A batch that has run: its logits, the seconds that were expected and those it took.

    `states` is what the rows go on with where they have passed the lower layers only: of each its tokens' hidden
    states, and the query's. Of its rows' `documents` so many had been read before.
    """

    batch: Batch
    logits: NDArray[np.float32]
    expected: float
    seconds: float
    states: tuple[NDArray[np.float16], ...] = ()
    query: NDArray[np.float32] | None = None
    documents: int = 0


_Work = Callable[[Sequence[int], Sequence[Row]], _Done]
"""Positions and their rows -> the batch that was made of them, computed."""


class PairScorer:
    """A compiled checkpoint. `score` may be called from several threads.

    `max_length` counts tokens of the whole pair; `tolerance` is the largest deviation from fp32
    that the checkpoint allows this precision. `tokens` tokenizes, and keeps of texts seen before at most
    `keep_tokens` bytes. `cost` is the model of a batch's seconds, learned from every
    batch that runs, the golden ones at load first; `clock` is what they are timed by.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        engine: Engine,
        *,
        max_length: int,
        batch_tokens: int,
        tolerance: float,
        keep_tokens: int = KEEP_BYTES,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.checkpoint = checkpoint
        self.engine = engine
        self.max_length = max_length
        self.tokens = Tokens(checkpoint.tokenizer, max_length, keep_tokens)
        self._unknown = _unknown(checkpoint)
        self._around_query = len(checkpoint.frame.before) + len(checkpoint.frame.between)
        self.batch_tokens = batch_tokens
        self.tolerance = tolerance
        self.golden: tuple[Golden, ...] = ()  # what it was checked by when it was opened, to check it by again
        self._process = os.getpid()
        self._pool: Turns | None = None
        self._lock = threading.Lock()
        self.cost = CostModel()
        self._begun_cost, self._finished_cost = CostModel(), CostModel()  # of the lower layers, and of the upper ones
        self._most = most_tokens(max_length) if engine.kept is not None else None  # of a document
        self._clock = clock

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
            "query_limit": self.checkpoint.frame.query_limit(self.max_length),
            "activation": self.checkpoint.activation,
            "family": self.checkpoint.family,
            "template": self.checkpoint.frame.digest,
            "licence": self.checkpoint.licence,
        }

    @property
    def exits(self) -> bool:
        """Whether a score can come from the head after the lower layers, so that `go_on` may be below 1."""
        return self.engine.begin is not None and self.engine.finish is not None

    def score(self, query: str, texts: Sequence[object], *, deadline: Deadline = NEVER, go_on: float = 1.0) -> Scores:
        """Logits of (query, text) for every text, in the order given, as far as the deadline allows.

        With `go_on` below 1 all texts pass the lower layers of a split encoder and that share of them, 20 at least, the
        upper ones: the best by the head that follows and by their place, which is taken for the first stage's.
        The others come behind in the order of that head's logits, moved down as far as that takes; so a text's
        score depends on the others. Of a deadline's time the lower layers get their share of the work.

        With a deadline the texts are taken in their order, so that what was scored when time is up
        are the first ones; a batch is started only if by the cost model it can end in time. One that does not
        all the same is not waited for (on the real clock): its texts count as unscored.
        Raises ModelError in a process that was forked after the model had been loaded, and for a `go_on` below 1
        where the model has no head after its lower layers; InputError for one that is no share.
        """
        if not 0 < go_on <= 1:
            raise InputError(f"go_on is {go_on}; give the share of texts that pass the upper layers, above 0 up to 1")
        engine = self.engine
        if go_on < 1 and not self.exits:
            raise ModelError(f"{self.checkpoint.name} cannot stop early: it has no head but the last; leave go_on out")
        if self._process != os.getpid():  # before any lock: one that was held at the fork is held for ever
            raise ModelError(
                f"{self.checkpoint.name} was loaded before this process was forked, and an engine's threads do not "
                "survive a fork; load the model in each process, or start processes by 'spawn' or 'forkserver'"
            )
        began = time.perf_counter()
        kept, tokenizing, documents = {"hits": 0, "misses": 0}, 0.0, 0

        def rows(some: Sequence[object]) -> Prepared:
            nonlocal tokenizing
            since = time.perf_counter()
            prepared = self._rows(query, some)
            tokenizing += time.perf_counter() - since
            kept["hits"] += prepared.kept
            kept["misses"] += prepared.tokenized
            return prepared

        reserve = _AFTER + _AFTER_EACH * len(texts)
        if engine.begin is None or engine.finish is None or go_on == 1:
            schedule = self._schedule(texts, rows, self.cost, deadline, reserve)
            passes = self._run(schedule, deadline, self._whole)
        else:
            lower = self._lower_share(go_on)
            schedule = self._schedule(texts, rows, self._begun_cost, _part(deadline, lower, reserve), reserve)
            passes = self._by_exits(engine.begin, engine.finish, schedule, deadline, go_on, reserve)
        values: list[float | None] = [None] * len(texts)
        spans: list[tuple[int, int] | None] = [None] * len(texts)
        finished: dict[int, Status] = {}
        upper: set[int] = set()
        tokens = padded = truncated = cut = asked = unknown = 0
        expected = measured = 0.0
        for done in passes:
            expected += done.expected
            measured += done.seconds
            if again := done.batch.rows[0] in finished:
                upper.update(done.batch.rows)
            else:
                documents += done.documents
                padded += done.batch.tokens if self.engine.packed else done.batch.padded_tokens
                asked = schedule.rows[done.batch.rows[0]].query_tokens
                unknown += 0 if self._unknown is None else done.batch.count(self._unknown)
            for i, logit in zip(done.batch.rows, done.logits.tolist(), strict=True):
                row = schedule.rows[i]
                if not again:
                    tokens += len(row.ids)
                    truncated += row.cut_tokens > 0
                    cut += row.cut_tokens
                finished[i] = Status.SCORED if math.isfinite(logit) else Status.BAD_SCORE
                values[i], spans[i] = (logit, row.span) if math.isfinite(logit) else (None, None)
        if upper:
            values = behind(values, upper)
        statuses = [
            finished.get(i, Status.DEADLINE if status is Status.SCORED else status)
            for i, status in enumerate(schedule.statuses)
        ]
        skipped = Counter(str(status) for status in statuses if status is not Status.SCORED)
        unfinished = schedule.statuses.count(Status.SCORED) - len(finished)
        waited = (schedule.first_turn or time.perf_counter()) - began if texts else 0.0
        spent = {"waited_s": waited, "tokenize_s": tokenizing, "expected_s": expected, "measured_s": measured}
        costs = {**spent, "unfinished": unfinished, **self.cost.coefficients}
        trace = StageTrace(
            name=self.checkpoint.name,
            seconds=time.perf_counter() - began,
            pairs_scored=sum(value is not None for value in values),
            tokens=tokens,
            padded_tokens=padded,
            truncated=truncated,
            cut_tokens=cut,
            skipped=dict(skipped),
            skipped_because=because(skipped, self.checkpoint.frame.query_limit(self.max_length)),
            detail={
                **self.detail,
                "cost": {name: float(f"{value:.4g}") for name, value in costs.items()},
                "tokens_kept": kept,
                **({} if engine.kept is None else {"documents_kept": documents}),
                **({"query_tokens": asked - self._around_query, "unknown_tokens": unknown} if finished else {}),
                **({} if go_on == 1 else {"exits": self._exits(len(finished), len(upper))}),
            },
        )
        return Scores(tuple(values), tuple(statuses), tuple(spans), trace)

    def read(self, texts: Sequence[object]) -> None:
        """Compute of these documents what can be kept of them, before any query comes (`open_scorer`,
        `keep_documents`).

        Raises ModelError where nothing is kept.
        """
        if self.engine.kept is None:
            raise ModelError(f"{self.checkpoint.name} keeps nothing of documents; open it with keep_documents=")
        work = self._whole if self.engine.begin is None else partial(self._lower, self.engine.begin)
        for _ in self._run(self._schedule(texts, partial(self._rows, ""), self.cost, NEVER, 0.0), NEVER, work):
            pass

    def lower_logits(self, query: str, texts: Sequence[object]) -> list[float | None]:
        """Logits of the head after the lower layers, which `go_on` goes by; None for a text that has none.

        Raises ModelError where the model has no such head.
        """
        if self.engine.begin is None:
            raise ModelError(f"{self.checkpoint.name} has no head after its lower layers: it is no split encoder")
        schedule = self._schedule(texts, partial(self._rows, query), self._begun_cost, NEVER, 0.0)
        values: list[float | None] = [None] * len(texts)
        for done in self._run(schedule, NEVER, partial(self._lower, self.engine.begin)):
            for i, logit in zip(done.batch.rows, done.logits.tolist(), strict=True):
                values[i] = logit if math.isfinite(logit) else None
        return values

    def estimate(self, texts: Sequence[object]) -> float:
        """About how many seconds these texts take with the machine for themselves, by their characters alone."""
        return self.seconds(about_tokens(texts, self.max_length))

    def seconds(self, tokens: int) -> float:
        """About how many seconds so many tokens take with the machine for themselves."""
        return self.cost.batch(4, 128) / 512 * tokens / self.engine.workers

    def pair_tokens(self, query: str, texts: Sequence[object]) -> list[int]:
        """How many tokens each pair has, as it would be scored; 0 where it cannot be."""
        return [0 if row is None else len(row.ids) for row in self._rows(query, texts).rows]

    def _rows(self, query: str, texts: Sequence[object]) -> Prepared:
        return prepare(self.checkpoint, query, texts, self.tokens, self._most)

    def _schedule(
        self,
        texts: Sequence[object],
        rows: Callable[[Sequence[object]], Prepared],
        cost: CostModel,
        deadline: Deadline,
        reserve: float,
    ) -> Schedule:
        budget, engine = self.batch_tokens, self.engine
        workers, piece = engine.workers, engine.piece
        return Schedule(texts, rows, cost, deadline, budget=budget, workers=workers, reserve=reserve, piece=piece)

    def _lower_share(self, go_on: float) -> float:
        """Which share of the work the lower layers are, where `go_on` of the texts pass the upper ones."""
        encoder = self.checkpoint.encoder
        lower = encoder.apart or 0
        return lower / (lower + go_on * (encoder.layers - lower))

    def _exits(self, scored: int, went_on: int) -> dict[str, int]:
        """How many texts have the score of which layer."""
        encoder = self.checkpoint.encoder
        return {f"layer {encoder.apart}": scored - went_on, f"layer {encoder.layers}": went_on}

    def _by_exits(
        self,
        begin: Callable[[Batch], Begun],
        finish: Callable[[Batch, NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]],
        schedule: Schedule,
        deadline: Deadline,
        go_on: float,
        reserve: float,
    ) -> Iterator[_Done]:
        """All rows through the lower layers, then the best of them through the upper ones, the most promising first."""
        logits: dict[int, float] = {}
        states: dict[int, NDArray[np.float16]] = {}
        query: NDArray[np.float32] | None = None

        for done in self._run(schedule, deadline, partial(self._lower, begin)):
            for i, logit, state in zip(done.batch.rows, done.logits.tolist(), done.states, strict=True):
                if math.isfinite(logit):
                    logits[i], states[i] = logit, state
            query = done.query
            yield done
        best = going_on(logits, go_on)
        if query is None or not best:
            return
        asked = query

        def rows(some: Sequence[object]) -> Prepared:
            return Prepared(tuple(schedule.rows[i] for i in some), (Status.SCORED,) * len(some))  # type: ignore[index]

        def upper(positions: Sequence[int], some: Sequence[Row]) -> _Done:
            batch = self._stacked([best[k] for k in positions], some)
            documents = np.zeros((*batch.ids.shape, asked.shape[2]), np.float32)
            for k, i in enumerate(batch.rows):
                documents[k, : len(states[i])] = states[i]
            logits, expected, seconds = self._timed(self._finished_cost, batch, lambda: finish(batch, asked, documents))
            return _Done(batch, logits, expected, seconds)

        yield from self._run(self._schedule(best, rows, self._finished_cost, deadline, reserve), deadline, upper)

    def _lower(self, begin: Callable[[Batch], Begun], positions: Sequence[int], rows: Sequence[Row]) -> _Done:
        """The lower layers for one batch."""
        batch = self._stacked(positions, rows)
        known = self._known(batch)
        begun, expected, seconds = self._timed(self._begun_cost, batch, lambda: begin(batch), learn=not known)
        counts = batch.mask.sum(axis=1).tolist()
        # half precision: a thousand long documents' states would fill the memory else
        kept = tuple(row[:count].astype(np.float16) for row, count in zip(begun.documents, counts, strict=True))
        return _Done(batch, begun.logits, expected, seconds, kept, begun.query, known)

    def _known(self, batch: Batch) -> int:
        """How many of the batch's documents were read before."""
        return 0 if self.engine.kept is None else self.engine.kept(batch)

    def _timed(
        self, cost: CostModel, batch: Batch, compute: Callable[[], _T], *, learn: bool = True
    ) -> tuple[_T, float, float]:
        """What `compute` gives, the seconds that were expected of it and those it took. Nothing is to be learnt from a
        batch whose documents were read before: a deadline has to hold for those that were not."""
        rows, width = len(batch.ids), batch.width
        expected = cost.batch(rows, width)
        began = self._clock()
        result = compute()
        seconds = self._clock() - began
        if learn:
            cost.update(rows, width, seconds)
        return result, expected, seconds

    def _whole(self, positions: Sequence[int], rows: Sequence[Row]) -> _Done:
        """All layers for one batch."""
        batch = self._stacked(positions, rows)
        known = self._known(batch)
        result = self._timed(self.cost, batch, lambda: self.engine.infer(batch), learn=not known)
        return _Done(batch, *result, documents=known)

    def _stacked(self, positions: Sequence[int], rows: Sequence[Row]) -> Batch:
        return stacked(self.checkpoint, positions, rows, self.max_length)

    def _turn(self, schedule: Schedule, work: _Work) -> _Done | None:
        """One batch, chosen when a worker is free for it; None where nothing is left that can end in time."""
        positions = schedule.next()
        if not positions:
            return None
        rows = [schedule.rows[i] for i in positions]
        return work(positions, rows)

    def _run(self, schedule: Schedule, deadline: Deadline, work: _Work) -> Iterator[_Done]:
        """Batches as they finish. The deadline also bounds the wait for workers that other callers keep busy."""
        # a wait happens in real time, so it can be bounded only where the deadline is on the real clock
        bounded = deadline.at is not None and deadline.clock is time.perf_counter
        if bounded and schedule.remaining() <= 0:
            return
        pool, one_batch = self._workers(), partial(self._turn, schedule, work)
        since, size = time.perf_counter(), self._size(schedule, deadline)
        submit = partial(pool.submit, one_batch, since=since, size=size, caller=deadline.caller)
        turns: set[Future[_Done | None]] = set()
        try:
            # one turn more than workers, so that none waits for this thread to hand it the next
            turns |= {submit() for _ in range(self.engine.workers + 1)}
            while turns:
                timeout = min(max(schedule.remaining(), 0.0), threading.TIMEOUT_MAX) if bounded else None
                if deadline.caller is not None:  # who may leave while a worker hangs
                    timeout = _LOOK if timeout is None else min(timeout, _LOOK)
                ended, turns = wait(turns, timeout, return_when=FIRST_COMPLETED)
                if not ended and (deadline.left or timeout != _LOOK):
                    break
                for turn in ended:
                    done = turn.result()
                    if done is not None:
                        turns.add(submit())
                        yield done
        finally:
            schedule.stop()
            for turn in turns:
                turn.cancel()

    def _size(self, schedule: Schedule, deadline: Deadline) -> float:
        """About how many seconds a request takes that has the machine for itself; no more than its deadline leaves."""
        seconds = self.seconds(schedule.size(self.max_length))
        # a clock of tests is not looked at: it is no time that turns know
        return min(seconds, deadline.remaining()) if deadline.clock is time.perf_counter else seconds

    def _workers(self) -> Turns:
        with self._lock:
            if self._pool is None:
                self._pool = Turns(self.engine.workers)
            return self._pool

    def close(self) -> None:
        """Stop the worker threads. The scorer must not be used afterwards."""
        with self._lock:
            if self._pool is not None:
                self._pool.close()

    def check_golden(self, golden: Sequence[Golden]) -> float:
        """Score the golden pairs one batch at a time and all at once from every worker.

        Returns the largest deviation. Raises GoldenError where it exceeds `tolerance`.
        """
        rows = []
        for pair in golden:
            (row,) = prepare(self.checkpoint, pair.query, [pair.document], self.tokens).rows
            if row is None:
                raise GoldenError(f"{self.checkpoint.name}: the golden pair {pair.query!r} cannot be scored")
            rows.append(row)
        expected = np.array([pair.logit for pair in golden], dtype=np.float32)
        singles = [self._stacked((k,), [row]) for k, row in enumerate(rows)]
        pool = self._workers()
        # alone the engine sets up each shape for the first time, which says nothing of a batch's time later
        rounds = [[self.engine.infer(batch) for batch in singles]]
        futures = [
            [pool.submit(partial(self._whole, (k,), [row]), since=0.0, size=0.0) for k, row in enumerate(rows)]
            for _ in range(self.engine.workers)
        ]
        rounds += [[future.result().logits for future in row] for row in futures]
        worst = max(float(np.max(np.abs(np.concatenate(logits) - expected))) for logits in rounds)
        if not worst <= self.tolerance:  # so that NaN fails too
            raise GoldenError(
                f"{self.checkpoint.name} on {self.engine.name} in {self.engine.precision}: golden pairs deviate "
                f"by {worst:.4g}, allowed are {self.tolerance:.4g}; "
                "try profile='exact' or device='cpu' with engine='onnxruntime', and please report it"
            )
        return worst


def _unknown(checkpoint: Checkpoint) -> int | None:
    """The id that stands for what the vocabulary lacks; None where there is none, or padding is written with it."""
    tokenizer = checkpoint.tokenizer
    name = getattr(tokenizer.model, "unk_token", None) or "<unk>"  # a Unigram model does not tell
    found: int | None = tokenizer.token_to_id(name)
    return None if found == checkpoint.pad else found


def _part(deadline: Deadline, share: float, reserve: float) -> Deadline:
    """A share of the time left, of what is for batches."""
    left = deadline.remaining() - reserve
    return deadline if left == math.inf else deadline.sooner(max(left, 0.0) * share + reserve)


def because(skipped: Mapping[str, int], limit: int) -> str:
    """One sentence for people on what was left unscored; `limit` is the most tokens that a query may have."""
    reasons = {
        str(Status.DEADLINE): "time was up",
        str(Status.QUERY_TOO_LONG): f"the query has more than {limit} tokens, the most this model takes",
        str(Status.EMPTY): "nothing to score in the document",
        str(Status.NOT_TEXT): "the document is not text",
        str(Status.BAD_SCORE): "the model gave no finite number",
    }
    return "; ".join(f"{count}: {reasons[status]}" for status, count in sorted(skipped.items()))


def _reference(checkpoint: Checkpoint, chosen: Engine, cache: Path | None, max_length: int) -> list[Golden]:
    """Probe pairs with logits from the portable engine in fp32; where there is none, from the chosen engine's own
    plainest path, since a second copy of a large model in fp32 may not fit the machine."""
    if chosen.alone is not None:
        engine = replace(chosen, infer=chosen.alone, workers=1)
    else:
        engine = open_engine(checkpoint, engine="onnxruntime", profile="exact", threads=1, cache=cache)
    scorer = PairScorer(checkpoint, engine, max_length=max_length, batch_tokens=1, tolerance=0.0)
    try:
        out = []
        for query, text in PROBES:
            if not fits(checkpoint, query, text, max_length):
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
    device: str = "cpu",
    engine: str = "auto",
    profile: str = "default",
    threads: int | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    keep_tokens: int = KEEP_BYTES,
    keep_documents: int = 0,
    cache: Path | None = None,
) -> PairScorer:
    """Compile a checkpoint and check it against its golden pairs.

    A folder without golden.json is compared with the portable engine in fp32 on fixed probe pairs.
    `max_length` may be any that the checkpoint can read, see `Checkpoint.longest`. `batch_tokens` bounds the
    padded tokens of a batch (None: what suits the engine), `keep_tokens` the bytes for tokens of texts seen before,
    `keep_documents` those for what a split encoder's lower layers made of them.
    Raises ModelError, and GoldenError where the scores are wrong.
    """
    least = checkpoint.frame.shortest
    if max_length is not None and not least <= max_length <= checkpoint.longest:
        raise ModelError(f"max_length is {max_length}; {checkpoint.name} takes {least} to {checkpoint.longest} tokens")
    if batch_tokens is not None and batch_tokens < 1:
        raise ModelError(f"batch_tokens is {batch_tokens}; give at least 1")
    length = max_length or checkpoint.max_length
    chosen = open_engine(
        checkpoint,
        device=device,
        engine=engine,
        profile=profile,
        threads=threads,
        cache=cache,
        keep_documents=keep_documents,
    )
    budget = batch_tokens or chosen.batch_tokens
    # golden scores belong to the full length; a shorter setting cuts long pairs and changes them on purpose
    golden = [pair for pair in checkpoint.golden if fits(checkpoint, pair.query, pair.document, length)]
    golden = golden or _reference(checkpoint, chosen, cache, length)
    largest = max(1.0, max(abs(pair.logit) for pair in golden))
    default = _FP32_TOLERANCE * largest if chosen.precision == "fp32" else _BF16_SHARE * largest
    tolerance = checkpoint.tolerance.get(chosen.precision, default)
    scorer = PairScorer(
        checkpoint, chosen, max_length=length, batch_tokens=budget, tolerance=tolerance, keep_tokens=keep_tokens
    )
    try:
        scorer.check_golden(golden)
    except GoldenError:
        scorer.close()
        raise
    scorer.golden = tuple(golden)
    return scorer


def fits(checkpoint: Checkpoint, query: str, text: str, length: int) -> bool:
    """Whether the pair can be scored and is read whole within so many tokens."""
    (row,) = prepare(checkpoint, query, [text], Tokens(checkpoint.tokenizer, length, keep_bytes=0)).rows
    return row is not None and row.cut_tokens == 0
