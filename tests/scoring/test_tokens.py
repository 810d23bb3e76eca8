from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.checkpoint import Checkpoint, open_checkpoint
from secondpass.scoring.frame import query_limit
from secondpass.scoring.prepare import prepare
from secondpass.scoring.tokens import Tokenized, Tokens
from secondpass.scoring.windows import Windowed
from secondpass.types import Scores, StageTrace, Status

LENGTH = 48
LEAST = 65_536
SOME = [
    "sort list file",
    "date " * 200,
    "snake " * 60_000,
    "x" * 30_000,
    " " * 30_000 + "list file " * 50,
    "",
    " \x00 ",
]
texts_of = st.lists(
    st.sampled_from(SOME)
    | st.text(max_size=80)
    | st.text(alphabet="ab \ud800\udfff\u0301é的\U0001f600", max_size=60)
    | st.lists(st.sampled_from(["list", "unbelievable", "İ", "river"]), max_size=60).map(" ".join),
    max_size=8,
)
queries_of = st.sampled_from(["", "sort", "sort a list", "date " * 20, "list " * query_limit(LENGTH), "list " * 90])


class Counting:
    """The tokenizer itself, and every text that it was given."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.asked: list[str] = []

    def encode(self, text: str, **options: Any) -> Any:
        self.asked.append(text)
        return self._real.encode(text, **options)

    def encode_batch(self, texts: list[str], **options: Any) -> Any:
        self.asked += texts
        return self._real.encode_batch(texts, **options)


@pytest.fixture(scope="module")
def checkpoint(tiny: Path) -> Checkpoint:
    return open_checkpoint(tiny)


def said(read: Tokenized) -> tuple[object, ...]:
    return read.ids.tolist(), None if read.places is None else read.places.tolist(), read.more


def laid_out(checkpoint: Checkpoint, query: str, texts: list[object], tokens: Tokens) -> tuple[object, ...]:
    prepared = prepare(checkpoint, query, texts, tokens)
    rows = [row and (row.ids.tolist(), row.query_tokens, row.cut_tokens, row.span) for row in prepared.rows]
    return rows, prepared.statuses


class Recorder:
    """A scorer that keeps what it was asked."""

    def score(self, query: str, texts: Any, **_: Any) -> Scores:
        self.asked = list(texts)
        spans = tuple((0, len(text)) for text in texts)
        return Scores((1.0,) * len(texts), (Status.SCORED,) * len(texts), spans, StageTrace("recorder"))


@settings(max_examples=80, deadline=None)
@given(requests=st.lists(st.tuples(queries_of, texts_of), min_size=2, max_size=5))
def test_what_is_kept_under_one_query_is_right_under_every_other(
    checkpoint: Checkpoint, requests: list[tuple[str, list[str]]]
) -> None:
    keeping = Tokens(checkpoint.tokenizer, LENGTH, LEAST)
    for query, texts in [*requests, *requests]:
        fresh = Tokens(checkpoint.tokenizer, LENGTH, keep_bytes=0)
        assert laid_out(checkpoint, query, [*texts, None], keeping) == laid_out(
            checkpoint, query, [*texts, None], fresh
        )
        ours, theirs = Recorder(), Recorder()
        answers = [
            Windowed(ours, keeping, checkpoint.frame).score(query, texts),
            Windowed(theirs, fresh, checkpoint.frame).score(query, texts),
        ]
        assert ours.asked == theirs.asked
        assert answers[0].spans == answers[1].spans
        assert answers[0].trace.cut_tokens == answers[1].trace.cut_tokens
        assert keeping.used_bytes <= LEAST


@settings(max_examples=80, deadline=None)
@given(text=st.sampled_from([one for one in SOME if len(one) < 20_000]) | st.text(max_size=200))
def test_places_are_those_of_the_tokenizer_and_there_where_a_query_could_cut(checkpoint: Checkpoint, text: str) -> None:
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    own = checkpoint.tokenizer.encode(clean, add_special_tokens=False)
    tokens = Tokens(checkpoint.tokenizer, LENGTH)
    (read,), whole = tokens.of([text]), tokens.whole(text)
    least = LENGTH - query_limit(LENGTH) - 3  # room beside the longest query
    assert read.ids.tolist() == whole.ids.tolist() == own.ids
    assert not read.more
    if len(own.ids) > least:
        assert read.places is not None
    for places in (read.places, whole.places):
        if places is not None:
            starts, ends, begins = places.tolist()
            assert list(zip(starts, ends, strict=True)) == own.offsets
            words = own.word_ids
            assert begins == [int(k == 0 or words[k] is None or words[k] != words[k - 1]) for k in range(len(words))]


def test_the_longest_query_leaves_room_for_what_is_said_and_the_end_of_it(checkpoint: Checkpoint) -> None:
    tokens = Tokens(checkpoint.tokenizer, LENGTH)
    limit = query_limit(LENGTH)
    for count in range(1, 2 * LENGTH):
        text = " ".join(["list"] * count)
        for asked in (1, limit // 2, limit):
            (row,) = prepare(checkpoint, " ".join(["sort"] * asked), [text], tokens).rows
            assert row is not None
            read = min(count, LENGTH - asked - 3)
            assert (row.cut_tokens, row.span) == (count - read, (0, 5 * read - 1))


def test_texts_that_look_alike_are_kept_apart(checkpoint: Checkpoint) -> None:
    tokens = Tokens(checkpoint.tokenizer, LENGTH)
    alike = [
        "?",
        "\ud800",
        "\ufffd",
        "",
        " ",
        "list",
        "list ",
        "li\u200bst",
        "\ud83d\ude00",
        "\U0001f600",
        "e\u0301",
        "\u00e9",
    ]
    tokens.of(alike)
    for text, kept in zip(alike, tokens.of(alike), strict=True):
        (alone,) = Tokens(checkpoint.tokenizer, LENGTH, keep_bytes=0).of([text])
        assert kept.kept
        assert said(kept) == said(alone)


def test_a_text_is_tokenized_once(checkpoint: Checkpoint) -> None:
    counting = Counting(checkpoint.tokenizer)
    tokens = Tokens(counting, LENGTH)  # type: ignore[arg-type]
    first = tokens.of([*SOME, *SOME])
    # each once, cut; all of the text only where the beginning has too few tokens
    assert counting.asked == [*(text[:20_000] for text in SOME), "x" * 30_000, " " * 30_000 + "list file " * 50]
    asked = len(counting.asked)
    again = tokens.of(SOME[::-1])
    assert len(counting.asked) == asked
    assert [said(one) for one in again] == [said(one) for one in first[: len(SOME)]][::-1]
    assert not any(one.kept for one in first)
    assert all(one.kept for one in again)
    tokens.clear()
    assert not tokens.of(SOME[:1])[0].kept
    assert len(counting.asked) == asked + 1


def test_nothing_is_kept_where_that_is_asked_for(checkpoint: Checkpoint) -> None:
    tokens = Tokens(checkpoint.tokenizer, LENGTH, keep_bytes=0)
    assert not any(one.kept for _ in range(2) for one in tokens.of(SOME))
    assert tokens.used_bytes == 0


def test_memory_is_bounded_and_what_was_used_last_stays(checkpoint: Checkpoint) -> None:
    tokens = Tokens(checkpoint.tokenizer, LENGTH, LEAST)
    for number in range(400):
        tokens.of(["a favourite", f"list {number} " * 30])
        assert tokens.used_bytes <= LEAST
    assert tokens.used_bytes > LEAST // 2
    favourite, latest, oldest = tokens.of(["a favourite", "list 399 " * 30, "list 0 " * 30])
    assert (favourite.kept, latest.kept, oldest.kept) == (True, True, False)


def test_no_text_is_held(checkpoint: Checkpoint) -> None:
    text = "a secret of the snake"
    tokens = Tokens(checkpoint.tokenizer, LENGTH)
    tokens.of([text])
    store = tokens._store
    assert store is not None
    assert all(b"secret" not in key + value for key, value in store._entries.items())


def test_kept_tokens_cannot_be_changed_by_a_caller(checkpoint: Checkpoint) -> None:
    tokens = Tokens(checkpoint.tokenizer, LENGTH)
    for _ in range(2):
        (read,) = tokens.of(["sort list file"])
        with pytest.raises(ValueError, match="read-only"):
            read.ids[0] = 7


def test_threads_share_one(checkpoint: Checkpoint) -> None:
    tokens = Tokens(checkpoint.tokenizer, LENGTH, LEAST)
    texts = [f"list {number} " * (number % 40) for number in range(300)]
    expected = [said(one) for one in Tokens(checkpoint.tokenizer, LENGTH, keep_bytes=0).of(texts)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(60):
            some = draw.integers(0, len(texts), 20).tolist()
            found = tokens.of([texts[i] for i in some])
            wrong.extend(i for i, one in zip(some, found, strict=True) if said(one) != expected[i])
            if tokens.used_bytes > LEAST:
                wrong.append(-1)
            if seed == 0:
                tokens.clear()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_scores_are_the_same_and_the_trace_counts_what_was_kept(tiny: Path, cache: Path) -> None:
    options: dict[str, Any] = {"engine": "onnxruntime", "profile": "exact", "threads": 1, "max_length": LENGTH}
    keeping = CrossEncoder(tiny, cache_dir=cache, **options)
    without = CrossEncoder(tiny, cache_dir=cache, keep_tokens=0, **options)
    texts = [f"file {'date ' * number}" for number in range(60)]
    for number, query in enumerate(["sort", "sort a list in python", "snake " * 30, "sort"]):
        ours, theirs = keeping.score(query, texts), without.score(query, texts)
        assert (ours.values, ours.statuses, ours.spans) == (theirs.values, theirs.statuses, theirs.spans)
        assert ours.trace.cut_tokens == theirs.trace.cut_tokens
        hits = len(texts) if number else 0
        assert ours.trace.detail["tokens_kept"] == {"hits": hits, "misses": len(texts) - hits}
        assert theirs.trace.detail["tokens_kept"] == {"hits": 0, "misses": len(texts)}


def test_windows_and_the_scorer_share_what_is_kept(tiny: Path, cache: Path) -> None:
    encoder = CrossEncoder(tiny, engine="onnxruntime", threads=1, max_length=LENGTH, cache_dir=cache, windows=2)
    counting = Counting(encoder.scorer.tokens._tokenizer)
    encoder.scorer.tokens._tokenizer = counting  # type: ignore[assignment]
    long = " ".join(["file"] * 40 + ["sort", "a", "list"] + ["date"] * 60)
    first = encoder.score("sort list", ["list", long])
    asked = len(counting.asked)
    assert counting.asked.count(long) == 1
    again = encoder.score("sort list", ["list", long])
    assert len(counting.asked) == asked
    assert (again.values, again.spans) == (first.values, first.spans)


@pytest.mark.parametrize("wrong", [-1, 1, 32, 65_535, True])
def test_a_number_that_cannot_be_meant_is_refused(checkpoint: Checkpoint, wrong: int) -> None:
    with pytest.raises(InputError, match="keep_tokens"):
        Tokens(checkpoint.tokenizer, LENGTH, wrong)
