"""Each kind of finding holds exactly where its definition does, and what could not be checked is never a zero."""

from __future__ import annotations

import json
import re
from math import log
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secondpass.evaluation.diagnosis import Count, Diagnosis, Evidence, Kind, diagnose, is_copy, label, sentences
from secondpass.evaluation.headroom import decompose
from secondpass.evaluation.trec import Run
from secondpass.types import Document

DOCUMENTS = [f"d{i}" for i in range(10)]
METRICS = ["ndcg@3", "ndcg", "mrr@4", "recall@2", "precision@3", "map", "map@4"]
Rankings = dict[str, list[str]]


def as_run(rankings: Rankings) -> Run:
    return {q: [(d, -float(i)) for i, d in enumerate(ids)] for q, ids in rankings.items()}


def diagnosed(
    before: Rankings, after: Rankings, qrels: dict[str, dict[str, int]], metric: str = "ndcg@10", **texts: Any
) -> Diagnosis:
    headroom = decompose(as_run(before), as_run(after), qrels, metric=metric, depth=100)
    return diagnose(headroom, before, after, qrels, metric=metric, **texts)


def one(before: str, after: str, grades: dict[str, int], metric: str = "ndcg@10", **texts: Any) -> Any:
    """The finding of a single query; rankings as "a b c"."""
    by_query = {key: {"q": value} for key, value in texts.items() if key != "documents"}
    if "documents" in texts:
        by_query["documents"] = {key: Document(key, text) for key, text in texts["documents"].items()}
    return diagnosed({"q": before.split()}, {"q": after.split()}, {"q": grades}, metric, **by_query).findings[0]


def shown(finding: Any, kind: Kind) -> list[str]:
    return [evidence.document for evidence in finding.evidence if evidence.kind is kind]


def count(diagnosis: Diagnosis, kind: Kind) -> Count:
    return next(count for count in diagnosis.counts if count.kind is kind)


# missed by retrieval


def test_a_relevant_document_outside_the_pool_is_missed() -> None:
    finding = one("a b c", "b a c", {"b": 1, "x": 1, "y": 2})
    assert (finding.relevant, finding.missed) == (3, 2)
    assert shown(finding, Kind.MISSED) == ["y", "x"]  # the highest grade first
    assert finding.evidence[0] == Evidence(Kind.MISSED, "y", None, None)


def test_nothing_is_missed_where_the_pool_fills_the_cutoff_with_relevant_documents() -> None:
    assert Kind.MISSED not in one("a b", "a b", {"a": 1, "b": 1, "x": 1}, "precision@2").kinds
    # nor where P@3 cannot reach 1 because only one document is relevant
    assert Kind.MISSED not in one("a b c", "a b c", {"a": 1}, "precision@3").kinds


def test_all_missed_is_told_from_some_missed() -> None:
    found = diagnosed(
        {"all": ["a"], "some": ["a"], "hopeless": ["a"]},
        {"all": ["a"], "some": ["a"], "hopeless": ["a"]},
        {"all": {"x": 1}, "some": {"a": 1, "x": 1}, "hopeless": {"a": 0}},
    )
    missed = count(found, Kind.MISSED)
    assert (missed.queries, missed.checked) == (2, 2)  # without a relevant document there is nothing to miss
    assert missed.loss_share == pytest.approx((1 + found.findings[1].loss) / (2 + found.findings[1].loss))
    assert missed.fall_share is None  # nothing fell
    assert found.missed_all == 1


# demoted by the reranker


def test_a_relevant_document_that_left_the_cutoff_or_fell_within_it_is_demoted() -> None:
    out = one("a b c", "b c a", {"a": 1}, "mrr@2")
    assert [e for e in out.evidence if e.kind is Kind.DEMOTED] == [Evidence(Kind.DEMOTED, "a", 1, 3)]
    assert shown(one("a b c", "b a c", {"a": 1}, "mrr@2"), Kind.DEMOTED) == ["a"]
    gone = one("a b", "b", {"a": 1})
    assert [e for e in gone.evidence if e.kind is Kind.DEMOTED] == [Evidence(Kind.DEMOTED, "a", 1, None)]


def test_a_document_that_fell_while_the_metric_did_not_is_not_demoted() -> None:
    assert Kind.DEMOTED not in one("a b c d", "b a c d", {"a": 1, "b": 3}).kinds
    # only what stood within the cutoff counts
    assert shown(one("a b c d", "c a d b", {"a": 1, "b": 1}, "recall@1"), Kind.DEMOTED) == ["a"]


# cut by truncation


def test_a_cut_relevant_document_that_did_not_move_up() -> None:
    assert shown(one("a b c", "a b c", {"b": 1}, truncated={"b", "c"}), Kind.CUT) == ["b"]
    assert Kind.CUT not in one("a b c", "b a c", {"b": 1}, truncated={"b"}).kinds  # it did
    assert Kind.CUT not in one("b a c", "b a c", {"b": 1}, truncated={"b"}).kinds  # it could not
    assert Kind.CUT not in one("a b c", "a b c", {"b": 1}, truncated={"a"}).kinds  # another was cut


def test_truncation_is_unchecked_where_nothing_was_told() -> None:
    assert Kind.CUT in one("a b", "a b", {"b": 1}).unchecked
    assert Kind.CUT not in one("a b", "a b", {"b": 1}, truncated=()).unchecked
    told = diagnosed({"p": ["a"], "q": ["a"]}, {}, {"p": {"a": 1}, "q": {"a": 1}}, truncated={"q": ["a"]})
    assert (count(told, Kind.CUT).checked, count(told, Kind.CUT).queries) == (1, 1)


# unjudged on top


def test_unjudged_documents_on_top_of_a_query_that_fell_or_has_nothing() -> None:
    fell = one("a b c d", "c b d a", {"a": 1, "d": 0}, "ndcg@3")
    assert shown(fell, Kind.UNJUDGED) == ["c", "b"]
    assert (fell.judged_before, fell.judged_after) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert shown(one("a b", "b a", {"x": 1}), Kind.UNJUDGED) == ["b", "a"]
    assert Kind.UNJUDGED not in one("b a", "a b", {"a": 1}).kinds  # it rose
    assert Kind.UNJUDGED not in one("a b", "b a", {"a": 1, "b": 0}).kinds  # all judged


def test_without_results_there_is_no_judged_share() -> None:
    finding = one("", "", {"a": 1})
    assert (finding.judged_before, finding.judged_after) == (None, None)


# near-duplicate

FORTY = " ".join(f"w{i}" for i in range(40))


def test_a_copy_on_top_is_named_with_its_original() -> None:
    texts = {"a": FORTY.upper() + "!", "b": "something else altogether", "r": FORTY}
    finding = one("a b r", "a b r", {"r": 1}, documents=texts)
    assert [e for e in finding.evidence if e.kind is Kind.COPY] == [Evidence(Kind.COPY, "a", 1, 1, "r")]
    # below the cutoff nobody sees it
    assert Kind.COPY not in one("b a r", "b a r", {"r": 1}, "mrr@1", documents=texts).kinds
    # without a loss there is nothing to explain
    assert Kind.COPY not in one("r a b", "r a b", {"r": 1}, documents=texts).kinds
    # a relevant document that repeats another has its credit
    assert Kind.COPY not in one("a b r", "a b r", {"a": 1, "r": 1}, documents=texts).kinds


def test_copies_are_unchecked_without_texts_but_a_copy_that_was_found_counts() -> None:
    assert Kind.COPY in one("a r", "a r", {"r": 1}).unchecked
    assert Kind.COPY in one("a r", "a r", {"r": 1}, documents={"a": FORTY}).unchecked
    assert Kind.COPY in one("a b r", "a b r", {"r": 1}, documents={"a": "other", "r": FORTY}).unchecked
    assert shown(one("a b r", "a b r", {"r": 1}, documents={"a": FORTY, "r": FORTY}), Kind.COPY) == ["a"]
    # nothing on top that could be a copy: no text is needed
    assert Kind.COPY not in one("r", "r", {"r": 1}).unchecked


@pytest.mark.parametrize(
    ("text", "of", "copy"),
    [
        (FORTY, FORTY.replace("w20 ", "x "), True),  # 35 of 41 shingles in common
        (FORTY, FORTY.replace("w20 ", "x ").replace("w30 ", "y "), False),  # 32 of 44
        ("before " + FORTY + " and " + " ".join(f"z{i}" for i in range(60)), FORTY, True),  # contains it
        (FORTY, "before " + FORTY + " and " + " ".join(f"z{i}" for i in range(60)), False),  # a part only
        ("a long text with the title of it " + FORTY, "the title of it", False),  # too short to be told apart
        ("a b c d e f g h", "a b c d e f g", True),  # 5 of 6 shingles, and too few to be contained
        ("a b c d e f g h i j k", "a b c d e f g h i", False),  # 7 of 9
        ("the title of it", "The title of it?", True),
        ("yes", "yes", True),
        ("yes", "no", False),
        ("", "", False),
        ("?!", "?!", False),
    ],
)
def test_what_a_copy_is(text: str, of: str, copy: bool) -> None:
    assert is_copy(text, of) is copy


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_copying_agrees_with_the_definition(words: list[str], random: Any) -> None:
    other = [random.choice("abcdefgh") if random.random() < 0.06 else word for word in words] + [
        "x"
    ] * random.randrange(3)

    def runs(words: list[str]) -> set[str]:
        return {"".join(words[i : i + 3]) for i in range(max(len(words) - 2, 1))}

    a, b = runs(words), runs(other)
    resemble = len(a & b) / len(a | b) >= 0.8
    contains = len(b) >= 8 and len(a & b) / len(b) >= 0.9
    assert is_copy(" ".join(words), ", ".join(other)) is (resemble or contains)


# lexical trap


TRAP = {"t": "python snake bite in zoo", "r": "a serpent bit", "b": "python list sort", "c": "python dict"}


def test_the_first_document_has_more_of_the_words_than_every_relevant_one() -> None:
    finding = one("t r b c", "t r b c", {"r": 1}, documents=TRAP, queries="python snake bite")
    assert [e for e in finding.evidence if e.kind is Kind.TRAP] == [Evidence(Kind.TRAP, "t", 1, 1, "r")]


@pytest.mark.parametrize(
    ("order", "grades", "query"),
    [
        ("r t b c", {"r": 1}, "python snake bite"),  # a relevant document is first
        ("t r b c", {"r": 1, "t": 1}, "python snake bite"),  # it is relevant itself
        ("b r t c", {"r": 1}, "serpent in python"),  # the relevant one has the rarer word
        ("c r b t", {"r": 1}, "a python"),  # "a" is rarer here than "python"
    ],
)
def test_no_trap(order: str, grades: dict[str, int], query: str) -> None:
    finding = one("t r b c", order, grades, documents=TRAP, queries=query)
    assert Kind.TRAP not in finding.kinds
    assert Kind.TRAP not in finding.unchecked


def test_words_weigh_by_how_few_documents_of_the_pool_hold_them() -> None:
    texts = {"t": "the snake", "r": "snake"} | {f"x{i}": f"the thing {i}" for i in range(40)}
    pool = " ".join(texts)
    assert Kind.TRAP not in one(pool, pool, {"r": 1}, documents=texts, queries="the snake").kinds  # a stop word only
    texts["r"] = "the viper"
    assert shown(one(pool, pool, {"r": 1}, documents=texts, queries="the snake"), Kind.TRAP) == ["t"]


@pytest.mark.parametrize(("cows", "trapped"), [(3, True), (7, True), (8, False)])
def test_the_margin_of_a_trap(cows: int, trapped: bool) -> None:
    # "snake" is in two of N = 2 + cows documents, "the" in all but r: its share of both weights falls with N
    texts = {"t": "the snake", "r": "snake"} | {f"x{i}": "the cow" for i in range(cows)}
    n = 2 + cows
    the, snake = log(1 + 1.5 / (n - 0.5)), log(1 + (n - 1.5) / 2.5)
    assert (the / (the + snake) >= 0.1) is trapped
    pool = " ".join(texts)
    found = one(pool, pool, {"r": 1}, documents=texts, queries="the snake")
    assert (Kind.TRAP in found.kinds) is trapped


def test_traps_are_unchecked_without_texts_or_a_relevant_document_in_the_pool() -> None:
    words = "python snake"
    assert Kind.TRAP in one("t r", "t r", {"r": 1}, documents=TRAP).unchecked
    assert Kind.TRAP in one("t r", "t r", {"r": 1}, queries=words).unchecked
    assert Kind.TRAP in one("t b", "t b", {"r": 1}, documents=TRAP, queries=words).unchecked
    assert Kind.TRAP in one("t r", "t r", {"r": 1}, documents={"t": "python"}, queries=words).unchecked
    # with a relevant document first no text is needed
    assert Kind.TRAP not in one("t r", "r t", {"r": 1}, queries=words).unchecked


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_traps_agree_with_the_definition(data: Any) -> None:
    text = st.lists(st.sampled_from(["an", "a", "ana", "nan", "na-an", "(nan)", "_an", "x"]), max_size=4).map(" ".join)
    texts = {key: data.draw(text) for key in "trsbcde"}
    query = data.draw(text.filter(str.strip))
    found = one("t r s b c d e", "t r s b c d e", {"r": 1, "s": 2}, documents=texts, queries=query)
    words = {key: set(re.findall(r"\w+", text)) for key, text in texts.items()}
    held = {w: n for w in set(re.findall(r"\w+", query)) if (n := sum(w in held for held in words.values()))}
    weights = {w: log(1 + (7 - n + 0.5) / (n + 0.5)) for w, n in held.items()}
    share = {key: sum(weights[w] for w in weights if w in words[key]) / (sum(weights.values()) or 1) for key in "trs"}
    right = max(share["r"], share["s"])
    assume(abs(share["t"] - right - 0.1) > 1e-9)
    assert (Kind.TRAP in found.kinds) is (share["t"] - right > 0.1)
    for evidence in found.evidence:
        if evidence.kind is Kind.TRAP:
            assert share[evidence.beside] == pytest.approx(right)


# over all queries


@st.composite
def cases(draw: Any) -> Any:
    qrels, before, after, truncated = {}, {}, {}, {}
    for q in ("a", "b", "c", "d")[: draw(st.integers(1, 4))]:
        qrels[q] = draw(st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-1, 3), min_size=1))
        before[q] = draw(st.lists(st.sampled_from(DOCUMENTS), unique=True, max_size=8))
        after[q] = draw(st.permutations(before[q]))
        if draw(st.booleans()):
            truncated[q] = draw(st.sets(st.sampled_from(DOCUMENTS)))
    words = st.lists(st.sampled_from(["red", "green", "blue", "the"]), max_size=5).map(" ".join)
    documents = {key: Document(key, draw(words)) for key in draw(st.sets(st.sampled_from(DOCUMENTS)))}
    queries = {q: draw(words) for q in qrels}
    return qrels, before, after, {"documents": documents, "queries": queries, "truncated": truncated}


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(METRICS))
def test_the_counts_are_of_the_findings(case: Any, metric: str) -> None:
    qrels, before, after, texts = case
    found = diagnosed(before, after, qrels, metric, **texts)
    assert [finding.query_id for finding in found.findings] == list(qrels)
    loss = sum(1 - finding.reranked for finding in found.findings)
    for kind in Kind:
        holding = [finding for finding in found.findings if kind in finding.kinds]
        tally = count(found, kind)
        assert tally.queries == len(holding) <= tally.checked
        assert tally.checked == sum(kind not in finding.unchecked for finding in found.findings)
        assert not any(kind in finding.unchecked for finding in holding)
        if tally.checked and loss > 1e-9:
            assert tally.loss_share == pytest.approx(sum(1 - finding.reranked for finding in holding) / loss)
        else:
            assert tally.loss_share is None
    for finding in found.findings:
        # a permutation that lowers any of these metrics lowers a relevant document that counted
        assert (Kind.DEMOTED in finding.kinds) is (finding.reranked < finding.first - 1e-9)
        assert all(len(shown(finding, kind)) <= 5 for kind in Kind)
        lacking = {d for d, grade in qrels[finding.query_id].items() if grade > 0} - set(before[finding.query_id])
        assert finding.missed == len(lacking)
        whole = {finding.query_id: [*before[finding.query_id], *sorted(lacking)]}
        grades = {finding.query_id: qrels[finding.query_id]}
        with_all = decompose(as_run(whole), as_run(whole), grades, metric=metric, depth=99)
        assert (Kind.MISSED in finding.kinds) is (with_all.best > finding.best + 1e-9)
    unexplained = [finding for finding in found.findings if not finding.kinds and finding.reranked < 1 - 1e-9]
    assert found.unexplained == len(unexplained)
    json.dumps(found.to_dict(), allow_nan=False)
    assert all(said.endswith(".") for said in sentences(found))


@settings(max_examples=40, deadline=None)
@given(cases())
def test_the_order_of_queries_and_judgments_does_not_matter(case: Any) -> None:
    qrels, before, after, texts = case
    mixed = {query: dict(reversed(grades.items())) for query, grades in reversed(qrels.items())}
    one, other = diagnosed(before, after, qrels, **texts), diagnosed(before, after, mixed, **texts)
    by_query = {finding.query_id: finding for finding in other.findings}
    for finding in one.findings:
        assert finding == by_query[finding.query_id]
    assert (one.worst, one.best) == (other.worst, other.best)


def test_worst_and_best_are_side_by_side() -> None:
    before = {"fell": ["r", "a", "b"], "rose": ["a", "r"], "same": ["r"], "deep": ["a", "b", "c", "d", "e", "f", "r"]}
    after = {"fell": ["a", "b", "r"], "rose": ["r", "a"], "same": ["r"], "deep": ["r", "a", "b", "c", "d", "e", "f"]}
    found = diagnosed(
        before,
        after,
        {query: {"r": 2} for query in before},
        queries={"fell": "why"},
        documents={"a": Document("a", " x\n y", "")},
    )
    assert [side.query_id for side in found.worst] == ["fell"]
    assert [side.query_id for side in found.best] == ["deep", "rose"]
    fell = found.worst[0]
    assert fell.query == "why"
    assert fell.kinds == (Kind.DEMOTED, Kind.UNJUDGED)
    assert [(d.id, d.label, d.grade, d.before, d.after) for d in fell.after] == [
        ("a", "x y", None, 2, 1), ("b", "", None, 3, 2), ("r", "", 2, 1, 3),
    ]  # fmt: skip
    assert [d.id for d in found.best[0].before] == ["a", "b", "c", "d", "e"]
    assert (found.best[0].after[0].id, found.best[0].after[0].before) == ("r", 7)


def test_what_a_report_says() -> None:
    found = diagnosed(
        {"p": ["a", "r"], "q": ["r", "a"], "s": ["a"], "t": ["a", "r"]},
        {"p": ["a", "r"], "q": ["a", "r"], "s": ["a"], "t": ["a", "r"]},
        {"p": {"r": 1}, "q": {"r": 1}, "s": {"x": 1}, "t": {"r": 1}},
        "mrr@10",
    )
    assert sentences(found) == (
        "Missed by retrieval: 1 of 4 queries, with 40% of the loss; in 1 the pool has nothing relevant at all.",
        "Demoted by the reranker: 1 of 4 queries, with 20% of the loss.",
        "Cut by truncation: not checked.",
        "Unjudged on top: 2 of 4 queries, with 60% of the loss and 100% of what reranking lost.",
        "Near-duplicate: not checked.",
        "Lexical trap: not checked.",
        "None of these: 2 queries with 40% of the loss; the relevant documents did not rise far enough.",
    )


def test_a_label_is_short_and_one_line() -> None:
    assert label(Document("a", "text", "A\ttitle")) == "A title"
    assert len(label(Document("a", "word " * 99))) <= 120
    assert label(Document("a", "word " * 99)).endswith("…")
