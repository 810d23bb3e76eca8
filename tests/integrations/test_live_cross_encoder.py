"""The real sentence-transformers: its CrossEncoder as our reranker, and ours where its own would stand."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

pytest.importorskip("sentence_transformers", reason="needs the extra 'train' (sentence-transformers)")

from sentence_transformers import CrossEncoder as Theirs
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

from secondpass import CrossEncoder
from secondpass.errors import InputError
from secondpass.integrations.sentence_transformers import LiveCrossEncoder
from secondpass.testing import check_pointwise, check_reranker
from secondpass.types import NEVER, Caller, Deadline, Status, as_ranking
from tiny import tiny_checkpoint

TEXTS = ["sort a list in place", "a snake on the river bank", "file date", "the python language"]


@pytest.fixture(scope="module")
def theirs(tiny: Path) -> Any:
    return Theirs(str(tiny), device="cpu")


@pytest.fixture(scope="module")
def live(theirs: Any) -> LiveCrossEncoder:
    return LiveCrossEncoder(theirs, batch_size=4)


@pytest.fixture(scope="module")
def ours(tiny: Path, cache: Path) -> CrossEncoder:
    return CrossEncoder(tiny, profile="exact", cache_dir=cache)


@pytest.mark.slow
def test_it_keeps_the_promises_of_pointwise_rerankers(live: LiveCrossEncoder) -> None:
    check_reranker(lambda: live)
    check_pointwise(lambda: live)


def test_its_scores_are_the_object_s_own_and_those_of_its_folder(
    live: LiveCrossEncoder, theirs: Any, ours: CrossEncoder
) -> None:
    ranking = live.rerank(as_ranking("sort", TEXTS))
    logits = theirs.predict([("sort", text) for text in TEXTS], activation_fn=lambda scores: scores)
    assert {hit.document.text: hit.score for hit in ranking.hits} == {
        text: pytest.approx(float(logit), abs=1e-5) for text, logit in zip(TEXTS, logits, strict=True)
    }
    opened = ours.rerank(as_ranking("sort", TEXTS))
    assert ranking.ids == opened.ids
    assert [hit.score for hit in ranking.hits] == pytest.approx([hit.score for hit in opened.hits], abs=1e-4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@example(["snake", "é", "sort"], 100, 30)
@given(
    st.lists(st.sampled_from(["sort", "list ", "snake", "é", "\u4e2d", "\n"]), max_size=9),
    st.integers(0, 40),
    st.integers(0, 60),
)
def test_what_is_read_is_what_the_library_reads(
    live: LiveCrossEncoder, theirs: Any, words: list[str], times: int, asked: int
) -> None:
    """Tokens, cuts and spans are told without running the model; the library's own features say whether they are so."""
    query, text = "river " * asked, " ".join(words * times)
    scores = live.score(query, [text])
    features = theirs.preprocess([[query, text]])
    (ids,) = features["input_ids"].tolist()
    if scores.statuses[0] is Status.EMPTY:
        assert not text.strip()
        return
    assert scores.statuses[0] is Status.SCORED
    assert scores.trace.tokens == len(ids)
    start, end = scores.spans[0]  # type: ignore[misc]
    whole = theirs.tokenizer(query, text)["input_ids"]
    assert scores.trace.cut_tokens == len(whole) - len(ids)
    assert (scores.trace.truncated == 1) == (len(whole) > len(ids))
    assert theirs.tokenizer(query, text[start:end])["input_ids"] == ids
    alone = theirs.tokenizer(query, add_special_tokens=False)["input_ids"]
    assert ids[1 : 1 + len(alone)] == alone  # the query is whole


def test_a_query_that_the_library_would_cut_is_refused_and_one_token_less_is_not(
    live: LiveCrossEncoder, theirs: Any
) -> None:
    long, (sort,) = "snake " * 1000, theirs.tokenizer("sort", add_special_tokens=False)["input_ids"]
    for tokens in (live.query_limit, live.query_limit + 1):
        (ids,) = theirs.preprocess([["sort " * tokens, long]])["input_ids"].tolist()
        assert ids.count(sort) == live.query_limit  # the library keeps so many
    for tokens, status in ((live.query_limit, Status.SCORED), (live.query_limit + 1, Status.QUERY_TOO_LONG)):
        ranking = live.rerank(as_ranking("sort " * tokens, [long, ""]))
        assert [hit.status for hit in ranking.hits] == [status, Status.EMPTY]
    assert f"more than {live.query_limit} tokens" in ranking.trace[-1].skipped_because


def test_a_deadline_is_looked_at_between_batches(theirs: Any) -> None:
    caller = Caller()

    class Leaving:
        """The model, whose caller leaves during the second batch."""

        def __init__(self) -> None:
            self.batches: list[int] = []

        def __getattr__(self, name: str) -> Any:
            return getattr(theirs, name)

        def predict(self, pairs: list[Any], **more: Any) -> Any:
            self.batches.append(len(pairs))
            if len(self.batches) == 2:
                caller.leave()
            return theirs.predict(pairs, **more)

    model = Leaving()
    scores = LiveCrossEncoder(model, batch_size=2).score("sort", [*TEXTS, *TEXTS], deadline=Deadline(caller=caller))
    assert model.batches == [2, 2]
    assert scores.statuses == (Status.SCORED,) * 4 + (Status.DEADLINE,) * 4
    assert scores.trace.skipped == {"deadline": 4}


def test_threads_take_turns(live: LiveCrossEncoder) -> None:
    expected = live.rerank(as_ranking("sort", TEXTS))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(live.rerank(as_ranking("sort", TEXTS)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.hits for one in found] == [expected.hits] * 8


class Busy:
    """A lock that another thread holds; it says how long somebody would have waited, in seconds."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def acquire(self, timeout: float) -> bool:
        self.waits.append(timeout)
        return False


def test_who_waits_for_another_thread_waits_as_long_as_the_deadline(theirs: Any) -> None:
    live, busy = LiveCrossEncoder(theirs), Busy()
    live._computing = busy  # type: ignore[assignment]
    for deadline in (Deadline.after_ms(60_000), NEVER, Deadline.after_ms(1e15)):
        late = live.rerank(as_ranking("sort", TEXTS), deadline=deadline)
        assert {hit.status for hit in late.hits} == {Status.DEADLINE}
        assert late.trace[-1].skipped_because == "4: time was up"
    assert 30 < busy.waits[0] <= 60
    assert busy.waits[1:] == [-1, threading.TIMEOUT_MAX]


def test_what_is_no_pair_scorer_is_refused(theirs: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model is a str; give a CrossEncoder"):
        LiveCrossEncoder("a name")
    with pytest.raises(InputError, match="batch_size is 0"):
        LiveCrossEncoder(theirs, batch_size=0)
    labels = tiny_checkpoint(
        tmp_path / "three", id2label={"0": "A", "1": "B", "2": "C"}, label2id={"A": 0, "B": 1, "C": 2}
    )
    with pytest.raises(InputError, match="the model has 3 labels"):
        LiveCrossEncoder(Theirs(str(labels), device="cpu", model_kwargs={"ignore_mismatched_sizes": True}))


def test_a_model_with_a_prompt_of_its_own_is_refused(tiny: Path) -> None:
    prompted = Theirs(str(tiny), device="cpu", prompts={"ask": "sort: "}, default_prompt_name="ask")
    with pytest.raises(InputError, match="lays a pair out in a way of its own"):
        LiveCrossEncoder(prompted)


def test_a_model_that_lays_pairs_out_otherwise_is_refused(theirs: Any) -> None:
    class Turned:
        """The text first, then the query."""

        def __getattr__(self, name: str) -> Any:
            return getattr(theirs, name)

        def preprocess(self, pairs: list[list[str]]) -> Any:
            return theirs.preprocess([pair[::-1] for pair in pairs])

    with pytest.raises(InputError, match="lays a pair out in a way of its own"):
        LiveCrossEncoder(Turned())


def test_ours_stands_where_theirs_would(ours: CrossEncoder, theirs: Any) -> None:
    pairs = [("sort", text) for text in TEXTS]
    np.testing.assert_allclose(ours.predict(pairs), theirs.predict(pairs), atol=1e-4)
    for documents in (False, True):
        one, other = (model.rank("sort", TEXTS, top_k=3, return_documents=documents) for model in (ours, theirs))
        assert [row["corpus_id"] for row in one] == [row["corpus_id"] for row in other]
        assert [row["score"] for row in one] == pytest.approx([row["score"] for row in other], abs=1e-4)
        assert [set(row) for row in one] == [set(row) for row in other]


def test_their_own_evaluator_takes_ours(ours: CrossEncoder, theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [
        {"query": "sort", "positive": [TEXTS[0]], "negative": TEXTS[1:]},
        {"query": "snake", "positive": [TEXTS[1]], "negative": [TEXTS[0], *TEXTS[2:]]},
    ]
    evaluator = CrossEncoderRerankingEvaluator(samples, at_k=3, name="both", write_csv=False)
    monkeypatch.setattr(evaluator, "store_metrics_in_model_card_data", lambda *what: None)  # ours has no such card
    one, other = evaluator(ours), evaluator(theirs)
    assert one == pytest.approx(other)
