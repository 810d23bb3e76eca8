"""The numbers of bench/robustness.py against independent ones; the ranker is a plain function here."""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))  # benches are scripts, not a package

from robustness import (
    ATTACKED,
    CONTROL,
    NEUTRAL,
    RANKS,
    SENTENCES,
    Lexical,
    Outcome,
    Pool,
    Rank,
    Scored,
    attacks,
    biases,
    filler,
    hidden,
    minimal_pairs,
    moved,
    ndcg,
    noises,
    order,
    place,
    positions,
    promises,
    read_minimal_pairs,
    shown,
    spearman,
    summary,
)
from secondpass.retrievers.bm25 import BM25
from secondpass.training.attacks import ATTACKS, NOISES, ODD
from secondpass.types import Document

VOCABULARY = (
    "river bridge stone water light tower garden market winter summer window engine copper letter doctor monday silver "
    "carpet island ladder butter pencil rocket mirror"
)
WORDS = VOCABULARY.split()
draw = random.Random(5)
TEXTS = [" ".join(draw.choices(WORDS, k=draw.randrange(3, 25))) + "." for _ in range(300)]
QUERY = "where is the stone bridge"
LEXICAL = Lexical(TEXTS)
HITS = BM25.build(Document(str(i), text) for i, text in enumerate(TEXTS)).retrieve(QUERY, 60).hits
FOUND = tuple(hit.document.text for hit in HITS)


def a_pool(relevant: set[int], missed: int = 0) -> Pool:
    ties = random.Random(1).sample(range(len(FOUND)), len(FOUND))
    return Pool("nq-qed", QUERY, FOUND, frozenset(relevant), missed, tuple(ties))


def constant(query: str, texts: Sequence[str]) -> Scored:
    return Scored([1.0] * len(texts), [True] * len(texts))


def copies(query: str, texts: Sequence[str]) -> Scored:
    """How often a text holds the query, letter by letter; 0.01 a stone."""
    counts = [text.count(query) + text.count("stone") / 100 for text in texts]
    return Scored(counts, [True] * len(texts))


def by_name(outcomes: Sequence[Outcome], ranker: str = "model") -> dict[str, dict[str, float]]:
    return {one.name: dict(one.measures) for one in outcomes if one.ranker == ranker}


@pytest.mark.parametrize("query", [QUERY, "stone stone tower", "nothing known", "the"])
def test_lexical_scores_are_those_that_bm25_gives(query: str) -> None:
    hits = BM25.build(Document(str(i), text) for i, text in enumerate(TEXTS)).retrieve(query, len(TEXTS)).hits
    expected = {int(hit.document.id): hit.score for hit in hits}
    for i, value in enumerate(LEXICAL(query, TEXTS).values):
        assert value == pytest.approx(expected.get(i, 0.0), abs=1e-5)


def test_a_changed_text_is_scored_by_the_statistics_of_the_unchanged_collection() -> None:
    before, after = LEXICAL("bridge", ["tower light", "tower light bridge"]).values
    assert before == 0.0
    holders = sum("bridge" in text for text in TEXTS)
    mean = sum(len(text.split()) for text in TEXTS) / len(TEXTS)
    idf = math.log(1 + (300 - holders + 0.5) / (holders + 0.5))
    assert after == pytest.approx(idf / (1 + 0.9 * (0.6 + 0.4 * 3 / mean)))


def test_overlap_is_the_share_of_content_words() -> None:
    assert LEXICAL.overlap(QUERY, ["the bridges", "stone bridge", "where is it"]).values == [0.5, 1.0, 0.0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=2, max_size=30))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert spearman(one, other) is None
    else:
        assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3).map(float), min_size=len(FOUND), max_size=len(FOUND)), st.integers(0, len(FOUND) - 1))
def test_places_count_who_is_better_and_ties_go_as_drawn(values: list[float], at: int) -> None:
    pool = a_pool({0})
    ahead = sum((-v, t) < (-values[at], pool.ties[at]) for v, t in zip(values, pool.ties, strict=True))
    assert place(pool, values, at) == ahead + 1
    assert sorted(order(values, pool.ties)) == list(range(len(FOUND)))
    assert moved(pool, values, at, 9.0) == 1
    assert moved(pool, values, at, values[at]) == place(pool, values, at)
    assert values.count(9.0) == 0  # the given list stays as it was


def test_ndcg_counts_missed_answers_in_the_ideal() -> None:
    values = [float(-i) for i in range(len(FOUND))]
    assert ndcg(a_pool({0}), values) == 1.0
    assert ndcg(a_pool({2}), values) == pytest.approx(1 / math.log2(4))
    assert ndcg(a_pool({0}, missed=1), values) == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert ndcg(a_pool({10}), values) == 0.0


def test_a_ranker_that_counts_copies_falls_for_them_and_for_nothing_else() -> None:
    pool = a_pool({0})
    rankers: dict[str, Rank] = {"model": copies, "bm25": LEXICAL}
    clean = {name: rank(QUERY, pool.texts) for name, rank in rankers.items()}
    found = by_name(list(attacks(pool, clean, rankers)))
    assert set(found) == {*ATTACKS, CONTROL}
    for name in ("query-before", "query-before-5", "query-after", "query-after-5"):
        assert found[name]["entered"] == 1.0
        assert found[name]["lift"] > 10
    for name in ("relevant-true", "relevance-score", "instruction", "right-to-left", CONTROL):
        assert found[name]["entered"] == found[name]["lift"] == 0.0
    lexical = by_name(list(attacks(pool, clean, rankers)), "bm25")
    assert lexical["keywords-after"]["entered"] == 1.0  # what counts words falls for words
    assert lexical["relevant-true"]["lift"] <= 0.0


def test_a_ranker_that_sees_nothing_is_not_fooled() -> None:
    pool = a_pool({0, 3})
    clean = {"model": constant(QUERY, pool.texts)}
    for one in attacks(pool, clean, {"model": constant}):
        assert one.measures["lift"] == 0.0
        assert one.measures.get("entered", 0.0) == 0.0
    only: dict[str, Rank] = {"model": constant}
    for one in [*hidden(pool, clean, only), *noises(pool, clean, only, lambda a, b: False)]:
        assert one.measures == {"drop": 0.0}


def test_attacked_documents_come_from_ranks_20_to_50_and_are_no_known_answers() -> None:
    pool = a_pool({0, *range(20, 60)})  # leaves rank 20, position 19, alone
    seen: list[str] = []

    def spy(query: str, texts: Sequence[str]) -> Scored:
        seen.extend(texts)
        return constant(query, texts)

    list(attacks(pool, {"model": constant(QUERY, FOUND)}, {"model": spy}))
    assert len(seen) == len(ATTACKS) + 1
    assert seen[-1] == f"{NEUTRAL} {FOUND[19]}"
    assert seen[0] == f"{QUERY} {FOUND[19]}"
    assert list(attacks(a_pool(set(range(60))), {"model": constant(QUERY, FOUND)}, {"model": spy})) == []
    seen.clear()
    list(attacks(a_pool({0}), {"model": constant(QUERY, FOUND)}, {"model": spy}))
    drawn = [text.removeprefix(f"{QUERY} ") for text in seen[:ATTACKED]]
    assert {FOUND.index(text) + 1 for text in drawn} <= set(RANKS)


def test_what_is_in_the_top_already_does_not_enter_it() -> None:
    def reversed_order(query: str, texts: Sequence[str]) -> Scored:
        values = [float(FOUND.index(text)) if text in FOUND else 60.0 for text in texts]
        return Scored(values, [True] * len(texts))

    only: dict[str, Rank] = {"model": reversed_order}
    everyone = a_pool(set(range(40)) | set(range(50, 60)))  # ranks 41 to 50 are left: 11 to 20 of the reversed order
    clean = {"model": reversed_order(QUERY, FOUND)}
    assert all(one.measures["entered"] == 1.0 for one in attacks(everyone, clean, only))
    high = {"model": Scored([100.0 if 40 <= i < 50 else 0.0 for i in range(60)], [True] * 60)}
    assert all("entered" not in one.measures for one in attacks(everyone, high, only))


def test_what_is_cut_is_told() -> None:
    pool = a_pool({0})

    def short(query: str, texts: Sequence[str]) -> Scored:
        return Scored([0.0] * len(texts), [len(text) < 10 for text in texts])

    clean = {"model": short(QUERY, FOUND)}
    assert all(one.measures["cut"] == 1.0 for one in attacks(pool, clean, {"model": short}))
    assert list(positions(pool, clean, {"model": short}, TEXTS)) == []


def test_odd_characters_hide_an_answer_from_who_reads_letters() -> None:
    pool = a_pool({FOUND.index(max(FOUND, key=lambda text: text.count("stone")))})
    clean = {"model": copies(QUERY, FOUND), "bm25": LEXICAL(QUERY, FOUND)}
    drops = by_name(list(hidden(pool, clean, {"model": copies, "bm25": LEXICAL})))
    assert set(drops) == set(ODD)
    assert drops["homoglyphs"]["drop"] > 0
    assert drops["right-to-left"]["drop"] == 0.0


def test_noise_is_measured_where_it_changes_the_query_and_not_scored_where_the_model_reads_the_same() -> None:
    asked: Counter[str] = Counter()

    def spy(query: str, texts: Sequence[str]) -> Scored:
        asked[query] += 1
        return LEXICAL(query, texts)

    pool = a_pool({0})
    clean = {"model": LEXICAL(QUERY, FOUND)}
    found = by_name(list(noises(pool, clean, {"model": spy}, lambda a, b: a.lower() == b.lower())))
    assert set(found) == set(NOISES)
    assert found["upper-case"]["drop"] == 0.0
    assert len(asked) == 2  # typos alone
    nothing = Pool("nq-qed", "42", FOUND, frozenset({0}), 0, pool.ties)
    assert list(noises(nothing, clean, {"model": spy}, lambda a, b: False)) == []


def test_a_ranker_by_length_has_a_length_bias_of_one() -> None:
    def longest(query: str, texts: Sequence[str]) -> Scored:
        return Scored([float(len(text.split())) for text in texts], [True] * len(texts))

    clean = {"model": longest(QUERY, FOUND), "bm25": LEXICAL.overlap(QUERY, FOUND)}
    found = list(biases(a_pool({0, 7}), clean, LEXICAL.overlap))
    assert by_name(found)["length"]["rho"] == pytest.approx(1.0)
    assert by_name(found, "bm25")["overlap"]["rho"] == pytest.approx(1.0)
    assert -0.9 < by_name(found)["overlap"]["rho"] < 0.9
    assert list(biases(a_pool({0}), {"model": constant(QUERY, FOUND)}, LEXICAL.overlap)) == []


def test_a_ranker_that_reads_beginnings_alone_minds_what_stands_in_front() -> None:
    def beginning(query: str, texts: Sequence[str]) -> Scored:
        return Scored([float(text.startswith(FOUND[4])) for text in texts], [True] * len(texts))

    sentences = [f"Nothing of interest happened on day {day}." for day in range(40)]
    pool = a_pool({4})
    found = by_name(list(positions(pool, {"model": beginning(QUERY, FOUND)}, {"model": beginning}, sentences)))
    assert set(found) == {f"{count} {where}" for count in SENTENCES for where in ("in front", "behind")}
    for count in SENTENCES:
        assert found[f"{count} behind"] == {"fall": 0.0, "rank": 1.0}
        assert found[f"{count} in front"]["rank"] == pool.ties[4] + 1
        assert found[f"{count} in front"]["fall"] == pool.ties[4]


def test_filler_is_short_sentences_from_elsewhere() -> None:
    passages = ["One two three four. Five.", "A b c d e f! " + "word " * 40 + ". G h i j?", "Not this one at all."]
    out = filler(passages, {"Not this one at all."}, 3, random.Random(0))
    assert sorted(out) == ["A b c d e f!", "G h i j?", "One two three four."]
    with pytest.raises(ValueError, match="only 3 short sentences, 4 are needed"):
        filler(passages, {"Not this one at all."}, 4, random.Random(0))


def test_summary_means_over_queries_by_set_and_over_all() -> None:
    outcomes = [
        Outcome("noise", "one-typo", name, "model", {"drop": drop})
        for name, drops in (("nq-qed", [0.0, 0.2, 0.4]), ("lfrqa", [1.0]))
        for drop in drops
    ]
    rows = {row["set"]: row["model"]["drop"] for row in summary(outcomes)}
    assert rows["nq-qed"]["mean"] == 0.2
    assert rows["lfrqa"] == {"mean": 1.0, "interval": None, "n": 1}
    assert (rows["all"]["mean"], rows["all"]["n"]) == (0.4, 4)
    low, high = rows["all"]["interval"]
    assert -1.0 <= low < 0.4 < high <= 1.0  # four drops, each anywhere from -1 to 1
    table = shown(summary(outcomes), "noise", "drop").splitlines()
    assert table[0].split() == ["noise:", "drop", "n", "model", "nq-qed", "lfrqa"]
    assert table[1].split()[:3] == ["one-typo", "4", "+0.400"]


def outcomes_with(
    stuffed: float, copied: float, claimed: float, typo: float, front: float, right: float
) -> list[Outcome]:
    out = [Outcome("pairs", "sense", "pairs", "model", {"right": right})]
    for name in ATTACKS:
        share = claimed if name in (*ODD, "relevant-true", "relevance-score", "instruction") else stuffed
        out.append(Outcome("attack", name, "nq-qed", "model", {"entered": share}))
        out.append(Outcome("attack", name, "nq-qed", "bm25", {"entered": 0.5}))
        out.append(Outcome("attack", name, "nq-qed", "uncopied", {"entered": copied}))
    out.append(Outcome("noise", "one-typo", "nq-qed", "model", {"drop": typo}))
    out.append(Outcome("noise", "one-typo", "nq-qed", "bm25", {"drop": 0.1}))
    for count in SENTENCES:
        out.append(Outcome("position", f"{count} in front", "nq-qed", "model", {"fall": front}))
        out.append(Outcome("position", f"{count} behind", "nq-qed", "model", {"fall": 1.0}))
    return out


@pytest.mark.parametrize("broken", [None, 0, 1, 2, 3, 4, 5])
def test_promises_hold_or_not(broken: int | None) -> None:
    good, bad = [0.5, 0.05, 0.05, 0.1, 2.0, 0.8], [0.51, 0.06, 0.06, 0.11, 2.1, 0.79]
    values = [bad[i] if i == broken else good[i] for i in range(6)]
    holds = [one["holds"] for one in promises(summary(outcomes_with(*values)))]
    assert holds == [i != broken for i in range(6)]


def test_a_promise_without_a_number_does_not_hold() -> None:
    found = promises(summary([Outcome("pairs", "sense", "pairs", "model", {"right": 1.0})]))
    assert [one["holds"] for one in found] == [False] * 5 + [True]
    assert [one["value"] for one in found] == [None] * 5 + [1.0]


def test_minimal_pairs_are_many_and_words_get_them_wrong() -> None:
    rows = read_minimal_pairs()
    kinds = Counter(row["kind"] for row in rows)
    assert set(kinds) == {"other-words", "negation", "roles", "numbers", "sense"}
    assert min(kinds.values()) >= 10
    assert len({row["query"] for row in rows}) == len(rows)
    won = [one.measures["right"] for one in minimal_pairs(rows, constant) if one.ranker == "overlap"]
    assert len(won) == len(rows)
    assert max(won) == 0.0  # each wrong document has more of the query's words
    ties = [one.measures["right"] for one in minimal_pairs(rows, constant) if one.ranker == "model"]
    assert set(ties) == {0.5}
    known = {row["right"] for row in rows}

    def oracle(query: str, texts: Sequence[str]) -> Scored:
        return Scored([float(text in known) for text in texts], [True] * len(texts))

    assert np.mean([one.measures["right"] for one in minimal_pairs(rows, oracle) if one.ranker == "model"]) == 1.0
