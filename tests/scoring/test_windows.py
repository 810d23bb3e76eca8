from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from secondpass.errors import InputError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.frame import Frame
from secondpass.scoring.pair_scorer import PairScorer, open_scorer
from secondpass.scoring.tokens import Tokens
from secondpass.scoring.windows import Pooling, Windowed
from secondpass.testing import ManualClock, check_pointwise, check_reranker
from secondpass.types import NEVER, Deadline, Scores, StageTrace, Status, as_ranking

LENGTH = 40  # tokens of a pair; beside a query of two words 35 of the document
ROOM = LENGTH - 2 - 3
ALL = 10_000
QUERY = "sort list"
FRAME = Frame((2,), (3,), (3,))  # [CLS] query [SEP] document [SEP]
WORDS = ["file", "date", "string", "document", "river", "bank", "snake", "python", "language"]  # one token each


@pytest.fixture(scope="module")
def scorer(tiny: Path, cache: Path) -> PairScorer:
    return open_scorer(
        open_checkpoint(tiny), engine="onnxruntime", profile="exact", threads=1, max_length=LENGTH, cache=cache
    )


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return open_checkpoint(tiny).tokenizer


class Recorder:
    """A scorer that keeps what it was asked, one list a call, and scores by a function; by time where told to."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock
        self.asked: list[list[str]] = []

    def score(self, query: str, texts: Sequence[str], *, deadline: Deadline = NEVER) -> Scores:
        self.asked.append(list(texts))
        values: list[float | None] = []
        for text in texts:
            late = deadline.passed
            if self.clock is not None:
                self.clock.advance(1.0)
            values.append(None if late else float(len(set(text.split()))))
        statuses = tuple(Status.DEADLINE if value is None else Status.SCORED for value in values)
        spans = tuple(None if value is None else (0, len(text)) for value, text in zip(values, texts, strict=True))
        late_ones = statuses.count(Status.DEADLINE)
        trace = StageTrace(
            "recorder",
            pairs_scored=len(texts) - late_ones,
            skipped={"deadline": late_ones} if late_ones else {},
            skipped_because=f"{late_ones}: time was up" if late_ones else "",
        )
        return Scores(tuple(values), statuses, spans, trace)


def long_text(words: int, seed: int = 0) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def brute_force(scorer: PairScorer, text: str, share: float) -> list[tuple[float, tuple[int, int]]]:
    """Score and span of every window of a text of one-token words, cut here anew."""
    words, out, first = text.split(), [], 0
    while True:
        last = min(first + ROOM, len(words))
        start = len(" ".join(words[:first])) + (first > 0)
        end = len(" ".join(words[:last]))
        (value,) = scorer.score(QUERY, [text[start:end]]).values
        assert value is not None
        out.append((value, (start, end)))
        if last == len(words):
            return out
        first = last - int(ROOM * share)


@pytest.mark.parametrize("pooling", ["max", "mean", "first"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_all_windows_pooled_are_what_brute_force_gives(
    scorer: PairScorer, tokenizer: Tokenizer, pooling: Pooling, overlap: float
) -> None:
    windowed = Windowed(scorer, Tokens(tokenizer, LENGTH), FRAME, windows=ALL, overlap=overlap, pooling=pooling)
    texts = [long_text(count, count) for count in (ROOM, ROOM + 1, 100, 333)]
    scores = windowed.score(QUERY, texts)
    for text, value, span in zip(texts, scores.values, scores.spans, strict=True):
        every = brute_force(scorer, text, overlap)
        best = every[0] if pooling == "first" else max(every, key=lambda one: one[0])
        expected = math.fsum(one[0] for one in every) / len(every) if pooling == "mean" else best[0]
        assert value == pytest.approx(expected, abs=1e-5)
        assert span == best[1]
    if pooling != "first":
        assert (scores.trace.truncated, scores.trace.cut_tokens) == (0, 0)
        assert scores.trace.detail["windows"]["picked"] == scores.trace.detail["windows"]["there"]


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(min_size=30, max_size=400)
    | st.lists(st.sampled_from([*WORDS, "ünïcode", "x" * 90]), min_size=9).map(" ".join),
    overlap=st.sampled_from([0.0, 0.2, 0.5, 0.9]),
    query=st.sampled_from([QUERY, "", "date of a file, a snake?"]),
)  # fmt: skip
def test_windows_are_slices_that_cover_the_text(tokenizer: Tokenizer, text: str, overlap: float, query: str) -> None:
    recorder = Recorder()
    length = 16 + len(tokenizer.encode(query, add_special_tokens=False).ids) * 4 // 3
    room = length - len(tokenizer.encode(query, add_special_tokens=False).ids) - 3
    windowed = Windowed(recorder, Tokens(tokenizer, length), FRAME, windows=ALL, overlap=overlap)
    scores = windowed.score(query, [text])
    (pieces,) = recorder.asked
    whole = tokenizer.encode(text, add_special_tokens=False)
    (span,) = scores.spans
    assert span is not None
    assert text[slice(*span)] in pieces
    if len(whole.ids) <= room:
        assert pieces == [text]
        assert "windows" not in scores.trace.detail
        return
    # Each piece, found again in the text where the one before it allows: the pieces cover every token.
    assert len(pieces) == scores.trace.detail["windows"]["there"]
    covered = [False] * len(text)
    for piece in set(pieces):
        at = text.find(piece)
        assert at >= 0
        while at >= 0:
            covered[at : at + len(piece)] = [True] * len(piece)
            at = text.find(piece, at + 1)
    assert all(all(covered[start:end]) for start, end in whole.offsets)
    assert scores.trace.cut_tokens == 0


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 300), overlap=st.sampled_from([0.0, 0.25, 0.5]), room=st.integers(8, 40))
def test_neighbours_share_what_was_asked_for(tokenizer: Tokenizer, count: int, overlap: float, room: int) -> None:
    recorder = Recorder()
    text = " ".join(f"{word}" for word in np.random.default_rng(count).choice(WORDS, count))
    Windowed(recorder, Tokens(tokenizer, room + 3), FRAME, windows=ALL, overlap=overlap).score("", [text])
    counts = [len(piece.split()) for piece in recorder.asked[0]]
    assert max(counts) <= room
    shared = int(room * overlap)
    assert sum(counts) == count + shared * (len(counts) - 1)
    assert all(size == room for size in counts[:-1])


def test_short_texts_pass_unchanged(scorer: PairScorer, tokenizer: Tokenizer) -> None:
    windowed = Windowed(scorer, Tokens(tokenizer, LENGTH), FRAME)
    texts = ["a file", "", None, long_text(ROOM), "ünïcode " * 3, "x" * 1_000_000]
    ours, theirs = windowed.score(QUERY, texts), scorer.score(QUERY, texts)
    assert (ours.values, ours.statuses, ours.spans) == (theirs.values, theirs.statuses, theirs.spans)
    for name in ("pairs_scored", "tokens", "padded_tokens", "truncated", "cut_tokens", "skipped", "skipped_because"):
        assert getattr(ours.trace, name) == getattr(theirs.trace, name)
    assert ours.trace.detail.keys() == theirs.trace.detail.keys()
    long = windowed.score(QUERY, [*texts, long_text(200)])
    assert long.values[:-1] == pytest.approx(theirs.values, abs=1e-5)
    assert long.spans[:-1] == theirs.spans
    assert long.trace.skipped == theirs.trace.skipped


@pytest.mark.parametrize("words", [150, 1_500, 40_000])  # beyond 20,000 characters blocks are picked first
def test_a_planted_passage_is_found_and_its_span_given(scorer: PairScorer, tokenizer: Tokenizer, words: int) -> None:
    passage = "to sort a list in python"
    half = words // 2
    text = f"{long_text(half, 1)} the {passage} {long_text(words - half, 2)}"
    recorder = Recorder()
    scores = Windowed(recorder, Tokens(tokenizer, LENGTH), FRAME, windows=1).score("how are lists sorted", [text])
    ((piece,),) = recorder.asked
    (span,) = scores.spans
    assert span is not None
    assert text[slice(*span)] == piece
    assert "list" in piece.split()
    real = Windowed(scorer, Tokens(tokenizer, LENGTH), FRAME, windows=1).score("sort list", [text])
    (span,) = real.spans
    assert span is not None
    assert passage in text[slice(*span)]


def test_rare_words_count_more_and_ties_go_to_the_earlier(tokenizer: Tokenizer) -> None:
    recorder = Recorder()
    windowed = Windowed(recorder, Tokens(tokenizer, ROOM + 5), FRAME, windows=1, overlap=0.0)
    parts = [" ".join(["file date"] * 17 + ["bank"]) for _ in range(6)]  # 35 words, one window each
    parts[3] = parts[3].replace("file date", "file snake", 1)
    windowed.score("file snake", [" ".join(parts)])
    assert recorder.asked[-1] == [parts[3]]
    windowed.score("date file", [" ".join(parts)])
    assert recorder.asked[-1] == [parts[0]]
    parts[5] = parts[3]
    windowed.score("date snake", [" ".join(parts)])
    assert recorder.asked[-1] == [parts[3]]


@pytest.mark.parametrize("query", ["query string", "", "?!", "的 中文"])
def test_without_a_query_word_the_first_windows_are_scored(tokenizer: Tokenizer, query: str) -> None:
    recorder = Recorder()
    text = " ".join(["file date"] * 2_500)
    for count in (1, 2, 3):
        Windowed(recorder, Tokens(tokenizer, LENGTH), FRAME, windows=count, overlap=0.0).score(query, [text])
        (pieces,) = recorder.asked[-1:]
        assert len(pieces) == count
        assert text.startswith(" ".join(pieces))


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(1, 500), min_size=1, max_size=12), windows=st.integers(1, 3))
def test_the_cost_is_bounded_by_the_first_window_alone(
    scorer: PairScorer, tokenizer: Tokenizer, counts: list[int], windows: int
) -> None:
    texts = [long_text(count, count) for count in counts]
    first = scorer.score(QUERY, texts).trace
    ours = Windowed(scorer, Tokens(tokenizer, LENGTH), FRAME, windows=windows).score(QUERY, texts).trace
    assert first.tokens <= ours.tokens <= windows * first.tokens
    assert ours.cut_tokens <= first.cut_tokens
    assert ours.truncated <= first.truncated


def test_the_trace_counts_what_was_not_read(scorer: PairScorer, tokenizer: Tokenizer) -> None:
    windowed = Windowed(scorer, Tokens(tokenizer, LENGTH), FRAME, windows=2, overlap=0.0)
    trace = windowed.score(QUERY, [long_text(10), long_text(2 * ROOM), long_text(5 * ROOM), None]).trace
    assert (trace.pairs_scored, trace.truncated, trace.cut_tokens) == (5, 1, 3 * ROOM)
    assert trace.tokens == 10 + 5 + 4 * LENGTH
    assert trace.skipped == {"not_text": 1}
    assert trace.detail["windows"] == {"documents": 2, "there": 7, "picked": 4, "pooling": "max"}
    assert trace.detail["engine"] == "onnxruntime"
    huge = windowed.score(QUERY, [long_text(60_000)]).trace
    assert huge.truncated == 1
    assert huge.cut_tokens > ROOM
    assert huge.tokens == 2 * LENGTH


def test_a_long_query_is_left_to_the_scorer(scorer: PairScorer, tokenizer: Tokenizer) -> None:
    scores = Windowed(scorer, Tokens(tokenizer, LENGTH), FRAME).score("list " * 28, [long_text(500), "file"])
    assert set(scores.statuses) == {Status.QUERY_TOO_LONG}
    assert scores.trace.skipped == {"query_too_long": 2}
    assert Windowed(scorer, Tokens(tokenizer, LENGTH), FRAME).score("list " * 27, [long_text(500)]).statuses == (
        Status.SCORED,
    )


def test_under_a_deadline_the_order_of_the_texts_decides(tokenizer: Tokenizer) -> None:
    texts = [long_text(100, 1), "a file", long_text(200, 2), long_text(300, 3)]
    full = Windowed(Recorder(), Tokens(tokenizer, LENGTH), FRAME, windows=2).score(QUERY, texts)
    for seconds, scored in ((0, 0), (1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)):
        clock = ManualClock()
        recorder = Recorder(clock)
        scores = Windowed(recorder, Tokens(tokenizer, LENGTH), FRAME, windows=2).score(
            QUERY, texts, deadline=Deadline(seconds, clock)
        )
        assert len(recorder.asked) == 1
        assert [status is Status.SCORED for status in scores.statuses] == [i < scored for i in range(4)]
        assert scores.trace.pairs_scored == seconds
        assert scores.trace.skipped == ({"deadline": 4 - scored} if scored < 4 else {})
        assert bool(scores.trace.skipped_because) == (scored < 4)
        for value, whole in zip(scores.values[:scored], full.values, strict=False):
            assert value is not None
            assert whole is not None
            assert value <= whole  # some of its windows, pooled by max


def test_odd_texts_get_a_score_or_a_reason(scorer: PairScorer, tokenizer: Tokenizer) -> None:
    odd = [
        "e" + "\u0301" * 5_000,
        "cut \ud800 in half " * 300,
        "\ud83d\ude00 two halves " * 300,
        "\u200b" * 30_000 + long_text(9_000),
        "\x00" * 50_000,
        "的一是不了人我在有他这中大来上个国" * 4_000,
        "한국어 문서 " * 4_000,
        " " * 100_000 + "file " * 100,
        "İ" * 25_000,
        "date," * 20_000,
    ]
    for text in odd:
        scores = Windowed(scorer, Tokens(tokenizer, LENGTH), FRAME).score(QUERY, [text, "a file"])
        assert scores.statuses[1] is Status.SCORED
        assert scores.statuses[0] in (Status.SCORED, Status.EMPTY)
        (span, _) = scores.spans
        assert span is None or 0 <= span[0] < span[1] <= len(text)


def test_a_megabyte_costs_less_than_to_tokenize_it(tokenizer: Tokenizer) -> None:
    text = long_text(160_000)
    assert len(text) > 900_000

    def seconds(work: object) -> float:
        began = time.perf_counter()
        work()  # type: ignore[operator]
        return time.perf_counter() - began

    windowed = Windowed(Recorder(), Tokens(tokenizer, 256), FRAME)
    ours = min(seconds(lambda: windowed.score("what is a python in the river", [text])) for _ in range(3))
    whole = min(seconds(lambda: tokenizer.encode(text, add_special_tokens=False)) for _ in range(3))
    assert ours < whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": 0}, "windows is 0"),
        ({"windows": 1.5}, r"windows is 1\.5"),
        ({"overlap": 1.0}, r"overlap is 1\.0"),
        ({"overlap": float("nan")}, "overlap is nan"),
        ({"pooling": "sum"}, "pooling is 'sum'; known are max, mean, first"),
    ],
)
def test_what_cannot_be_meant_is_said(tokenizer: Tokenizer, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Windowed(Recorder(), Tokens(tokenizer, LENGTH), FRAME, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_a_windowed_cross_encoder_keeps_the_promises(tiny: Path, cache: Path, pooling: Pooling) -> None:
    encoder = CrossEncoder(
        tiny, engine="onnxruntime", profile="exact", threads=1, cache_dir=cache, windows=2, pooling=pooling
    )
    check_reranker(lambda: encoder)
    check_pointwise(lambda: encoder)


def test_the_span_of_the_winner_rides_on_the_hit(tiny: Path, cache: Path) -> None:
    encoder = CrossEncoder(tiny, engine="onnxruntime", threads=1, max_length=LENGTH, cache_dir=cache, windows=1)
    text = f"{long_text(300)} sort a list {long_text(300)}"
    ranking = encoder.rerank(as_ranking(QUERY, [{"id": "d", "text": text, "title": "river"}]))
    (hit,) = ranking.hits
    assert hit.span is not None
    assert "sort a list" in f"river {text}"[slice(*hit.span)]  # of the text as the template gives it
    assert encoder.predict([(QUERY, f"river {text}")], activation_fn=lambda x: x)[0] == pytest.approx(hit.score)


def test_a_mean_of_no_windows_is_refused(tiny: Path) -> None:
    with pytest.raises(InputError, match="say how many with windows="):
        CrossEncoder(tiny, pooling="mean")
