"""The statistics and rules of bench/claims.py, against independent ones and on made evidence whose answer is known."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise, permutations
from math import inf, nan
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))  # benches are scripts, not a package
import claims_cost
import claims_gain
import claims_systems
import tables
from claims import judged, plain
from claims_cells import cells_of
from claims_measure import Pools
from claims_numbers import (
    CONDITIONS,
    DOES_NOT,
    HOLDS,
    UNKNOWN,
    Estimate,
    Values,
    block_p,
    by_score,
    cascaded,
    estimated,
    fused,
    leave_one_out,
    mean,
    over_rounds,
    ratio,
    side,
    spearman,
    thinned,
    threshold,
    values_of,
    word,
)
from claims_page import cell, detail, summary
from secondpass.fusion import reciprocal_rank
from secondpass.types import as_ranking

STAGES = ("bm25", "dense", "hybrid")
grades = st.lists(st.integers(0, 3), min_size=1, max_size=6)


# Orders


def test_documents_without_a_score_and_ties_keep_the_order_of_the_pool() -> None:
    assert by_score(["a", "b", "c", "d", "e"], {"a": 1.0, "b": None, "c": 2.0, "d": 1.0, "e": None}) == [*"cadbe"]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.integers(0, 15))
def test_a_cascade_scores_the_first_and_leaves_the_rest(scores: list[float], depth: int) -> None:
    pool = [f"d{at}" for at in range(len(scores))]
    known: dict[str, float | None] = dict(zip(pool, scores, strict=True))
    order = cascaded(pool, known, depth)
    assert set(order[:depth]) == set(pool[:depth])
    assert order[depth:] == pool[depth:]
    assert [known[one] for one in order[:depth]] == sorted(scores[:depth], reverse=True)


def test_the_cheap_stage_is_the_library_s_reciprocal_rank_fusion() -> None:
    pools = [[*"abcdef"], [*"fxbya"]]
    library = reciprocal_rank([as_ranking("q", [{"id": one, "text": one} for one in pool]) for pool in pools])
    assert fused(pools[0], pools) == [one for one in library.ids if one in pools[0]]


def test_what_a_larger_share_takes_out_includes_what_a_smaller_one_does() -> None:
    pools = {f"q{number}": [f"d{at}" for at in range(40)] for number in range(40)}
    qrels = {query_id: {f"d{at}": int(at % 2) for at in range(40)} for query_id in pools}
    kept = [thinned(pools, qrels, share, seed=0) for share in (0.0, 0.25, 0.75, 1.0)]
    assert kept[0] == pools
    for query_id, pool in pools.items():
        for more, less in pairwise(kept):
            assert set(less[query_id]) <= set(more[query_id])
            assert [one for one in more[query_id] if one in less[query_id]] == less[query_id]
        assert kept[-1][query_id] == [one for one in pool if not qrels[query_id][one]]
    left = [sum(qrels[query_id][one] for query_id, pool in some.items() for one in pool) for some in kept]
    assert stats.binomtest(left[1], left[0], 0.75).pvalue > 1e-3
    assert stats.binomtest(left[2], left[0], 0.25).pvalue > 1e-3
    backwards = thinned({query_id: pool[::-1] for query_id, pool in pools.items()}, qrels, 0.75, seed=0)
    assert {query_id: pool[::-1] for query_id, pool in backwards.items()} == kept[2]  # the order plays no part


@settings(max_examples=40)
@given(grades, st.randoms(use_true_random=False))
def test_values_are_those_of_ir_measures_and_of_every_order_tried(found: list[int], shuffle: Any) -> None:
    ids = [f"d{at}" for at in range(len(found))]
    judged_ids = dict(zip(ids, found, strict=True)) | {"missed": 2}
    after = shuffle.sample(ids, len(ids))
    values = values_of({"q": ids}, {"q": after}, {"q": judged_ids})

    def reference(order: tuple[str, ...] | list[str]) -> float:
        run = {"q": {one: -float(place) for place, one in enumerate(order)}}
        return float(ir_measures.calc_aggregate([ir_measures.nDCG @ 10], {"q": judged_ids}, run)[ir_measures.nDCG @ 10])

    assert values.first[0] == pytest.approx(reference(ids))
    assert values.reranked[0] == pytest.approx(reference(after))
    if len(ids) <= 4:
        assert values.best[0] == pytest.approx(max(reference(order) for order in permutations(ids)))
    assert values.reranked[0] <= values.best[0] + 1e-9
    relevant = sum(grade > 0 for grade in found)
    assert values.recall[0] == pytest.approx(relevant / (relevant + 1))


# Intervals and rules


def test_an_interval_of_a_mean_is_scipy_s_percentile_bootstrap() -> None:
    values = np.random.default_rng(1).exponential(size=80)
    reference = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(2))
    columns = np.stack([values, np.ones(80)], axis=1)
    own = estimated(columns, ratio)
    assert own.value == pytest.approx(values.mean())
    assert (own.low, own.high) == pytest.approx(tuple(reference.confidence_interval), abs=0.02)
    wider = estimated(columns, ratio, cells=10)
    assert wider.low < own.low < own.high < wider.high


def test_queries_are_drawn_within_their_collection() -> None:
    values = np.array([0.0] * 20 + [1.0] * 20)
    columns = np.stack([values, np.ones(40)], axis=1)
    assert estimated(columns, ratio, strata=[0] * 20 + [1] * 20) == Estimate(0.5, 0.5, 0.5)
    assert estimated(columns, ratio).low < 0.4


def test_a_few_queries_without_a_change_do_not_show_that_nothing_changes() -> None:
    found = mean(np.zeros(20))
    assert found.value == 0.0
    assert found.low < -0.05 < 0.05 < found.high
    assert mean(np.zeros(20), cells=10).low < found.low


def test_nothing_over_nothing_is_unknown() -> None:
    found = estimated(np.zeros((9, 2)), ratio)
    assert np.isnan(found.value)
    assert (found.low, found.high) == (-inf, inf)
    assert side(found) is None
    assert mean(np.array([1.0]))[1:] == (-inf, inf)


def test_rounds_are_drawn_as_a_whole() -> None:
    busy = np.array([1.0, 1.0, 3.0, 1.0, 5.0, 1.0, 2.0])
    assert over_rounds(np.stack([2 * busy, busy]), lambda medians: [medians[0] / medians[1]]) == [Estimate(2, 2, 2)]
    (alone,) = over_rounds(np.stack([busy]), lambda medians: [medians[0]])
    assert alone.low == 1.0 < alone.high


@pytest.mark.parametrize(
    ("found", "expected"),
    [((0.06, 0.07), True), ((0.06, 0.2), None), ((0.16, 0.2), False), ((-0.1, 0.04), False), ((-1, 1), None)],
)
def test_a_side_needs_the_whole_interval(found: tuple[float, float], expected: bool | None) -> None:
    assert side(Estimate(0.1, *found), 0.05, 0.15) is expected


def test_no_change_is_neither_gain_nor_loss() -> None:
    assert side(Estimate(0.0, 0.0, 0.0)) is None


@pytest.mark.parametrize(
    ("yes", "no", "open_", "expected"),
    [
        (3, 0, 0, HOLDS),
        (2, 0, 2, HOLDS),
        (1, 0, 2, UNKNOWN),
        (0, 2, 2, DOES_NOT),
        (0, 1, 2, UNKNOWN),
        (1, 1, 9, CONDITIONS),
        (0, 0, 3, UNKNOWN),
        (0, 0, 0, UNKNOWN),
    ],
)
def test_the_word_for_many_cells(yes: int, no: int, open_: int, expected: str) -> None:
    assert word([True] * yes + [None] * open_ + [False] * no) == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
def test_the_correlation_is_scipy_s(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    if len(set(one)) > 1 and len(set(other)) > 1:
        assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    else:
        assert spearman(one, other) == 0.0


def test_p_over_blocks_counts_all_their_orders() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=5), rng.normal(size=5)
    p, tried = block_p([[value] for value in one], [[value] for value in other])
    exact = stats.permutation_test(
        (one,), lambda order: stats.spearmanr(order, other).statistic, permutation_type="pairings"
    )
    assert tried == 120
    assert p == pytest.approx(exact.pvalue)
    rising = [[float(at), at + 0.5] for at in range(6)]
    assert block_p(rising, rising)[0] == pytest.approx(1 / 720)  # rows of a block stay in order: no other is as extreme
    assert block_p([[float(at)] for at in range(9)], [[float(at)] for at in range(9)])[0] < 0.001


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3)), min_size=1, max_size=8))
def test_no_threshold_is_worth_more(rows: list[tuple[int, int]]) -> None:
    predictor, advantage = zip(*rows, strict=True)

    def worth(t: float) -> float:
        return sum(gain for value, gain in rows if value > t)

    assert worth(threshold(predictor, advantage)) == max(worth(t) for t in (-inf, 0.5, 1.5, 2.5, 3.5, inf))


def test_a_rule_is_judged_where_it_was_not_made() -> None:
    telling = [[-2.0, 1.0], [-1.0, 2.0], [-3.0, 3.0]]
    assert leave_one_out(telling, telling) == (6, 6, 0.0)
    # each collection is unlike the others: what is best on two is wrong on the third
    flat = leave_one_out([[0.0]] * 3, [[1.0], [1.0], [-5.0]])
    assert flat.right == 0
    assert flat.lost == pytest.approx((1 + 1 + 5) / 3)


# Claims on made evidence


def pools(name: str, *, better: float = 0.0, queries: int = 12, base: bool = True) -> Pools:
    """Queries with one relevant document of ten at places 1 to 4; the model puts it first with probability `better`."""
    rng = np.random.default_rng(sum(map(ord, name)))
    runs: dict[str, dict[str, list[str]]] = {stage: {} for stage in STAGES}
    qrels, scores = {}, {}
    for number in range(queries):
        query_id, place = f"q{number}", number % 4
        ids = [f"d{at}" for at in range(10)]
        for stage in STAGES:
            runs[stage][query_id] = ids if number else ids[5:]  # the first query's pool lacks what is relevant
        qrels[query_id] = {f"d{place}": 1}
        logits = {one: -float(at) for at, one in enumerate(ids)}
        if rng.random() < better:
            logits[f"d{place}"] = 1.0
        scores[query_id] = dict(logits)
    ranked: dict[str, dict[str, float | None]] = {query_id: dict(found) for query_id, found in scores.items()}
    cosines = {query_id: {one: -float(one[1:]) for one in found} for query_id, found in scores.items()}
    return Pools(name, queries, 10, qrels, runs, ranked, cosines if base else None, [], {"pair": 5.0})


def times(power: float = 1.0, product: float = 1e-5, curve: float = 0.0, fixed: float = 0.0) -> dict[str, Any]:
    """Rounds with 1 % of noise: ms ∝ candidates^power, and tokens + curve · tokens²; pairs of 5 ms."""
    noise = 1 + np.random.default_rng(0).normal(0, 0.01, (40, 9))
    rows = []
    for at, count in enumerate((10, 20, 50, 100, 200, 500)):
        ms = (fixed + count**power * noise[at]).tolist()
        rows.append({"sweep": "candidates", "candidates": count, "tokens": 96.0, "ms": ms, "median_ms": ms[0]})
    for at, length in enumerate((32, 64, 96, 128, 192, 256), 10):
        ms = ((length + curve * length**2) * noise[at]).tolist()
        rows.append({"sweep": "tokens", "candidates": 50, "tokens": float(length), "ms": ms, "median_ms": ms[0]})
    pairs = {"raw": (5e-3 * noise[20]).tolist(), "kept": (4e-3 * noise[21]).tolist()}
    products = [{"documents": 100, "dimensions": 256, "seconds": (product * noise[22]).tolist()}]
    return {
        "bench": {"measurements": rows},
        "width": 384,
        "max_length": 256,
        "pair_tokens": 96,
        "pairs": pairs,
        "products": products,
    }


def test_claim_1_finds_what_arithmetic_forbids() -> None:
    cells = cells_of([pools("scifact")])
    assert claims_gain.cannot_restore(cells).word == HOLDS
    values = cells["scifact"]["bm25"]
    above = replace_values(values, reranked=np.where(values.recall > 0, values.best + 0.01, 0.0))
    broken = claims_gain.cannot_restore({"scifact": {**cells["scifact"], "bm25": above}})
    assert (broken.word, broken.numbers["above the best possible"]) == (DOES_NOT, 11)
    from_nothing = replace_values(values, first=np.where(values.recall > 0, values.first, 0.1))
    assert claims_gain.cannot_restore({"scifact": {"bm25": from_nothing}}).word == DOES_NOT
    full = Values(*(column[1:] for column in values))
    assert claims_gain.cannot_restore({"scifact": {"bm25": full}}).word == UNKNOWN


def replace_values(values: Values, **columns: Any) -> Values:
    return values._replace(**columns)


def test_claim_2_needs_a_gain_that_can_fall() -> None:
    gaining = [pools("scifact", better=1.0, queries=40), pools("cosqa", better=1.0, queries=40)]
    found = claims_gain.needs_a_pool(gaining, cells_of(gaining))
    assert found.word == HOLDS
    rows = {row["recall of the pool"]: row for row in found.numbers["rows"]}
    assert rows["0"]["gain"] == 0.0
    assert [row["queries × first stages"] for row in found.numbers["rows"]] == [6, 0, 0, 234, *[240] * 5]
    assert rows["1"]["κ"] == pytest.approx(1.0)
    assert found.numbers["change of κ"] == pytest.approx((0.0, 0.0, 0.0))  # the perfect order of whatever is there
    idle = [pools("scifact"), pools("cosqa")]
    assert claims_gain.needs_a_pool(idle, cells_of(idle)).word == UNKNOWN


def test_claim_3_tells_a_predictor_from_noise() -> None:
    def cells(hybrid: list[float], best: list[float]) -> dict[str, dict[str, Values]]:
        def stage(first: float, top: float) -> Values:
            return Values(*(np.full(10, value) for value in (first, top, first + 0.02, top)))

        return {
            f"c{at}": {
                "bm25": stage(0.2, best[at]),
                "dense": stage(0.2, best[at] - 0.01),
                "hybrid": stage(hybrid[at], 1.0),
            }
            for at in range(6)
        }

    poor_pools_gain = cells([0.4, 0.35, 0.3, 0.17, 0.15, 0.1], [0.3, 0.4, 0.5, 0.7, 0.8, 0.9])
    found = claims_gain.recall_first(poor_pools_gain)
    assert found.word == HOLDS
    assert found.numbers["correlation with ρ"] > 0.9 > -0.9 > found.numbers["correlation with recall@100"]
    assert found.numbers["threshold on ρ: right"] == 12
    leads = [row["hybrid's lead"] for row in found.numbers["rows"]]
    assert leads == pytest.approx([gain for gain in (0.18, 0.13, 0.08, -0.05, -0.07, -0.12) for _ in "bd"])
    good_pools_gain = cells([0.1, 0.15, 0.17, 0.3, 0.35, 0.4], [0.3, 0.4, 0.5, 0.7, 0.8, 0.9])
    assert claims_gain.recall_first(good_pools_gain).word == DOES_NOT
    noise = cells([0.3, 0.1, 0.4, 0.15, 0.35, 0.17], [0.5, 0.4, 0.9, 0.8, 0.3, 0.7])
    assert claims_gain.recall_first(noise).word == UNKNOWN
    assert claims_gain.recall_first(dict(list(noise.items())[:1])).word == UNKNOWN


@pytest.mark.parametrize(
    ("power", "fixed", "expected"), [(1.0, 0.0, HOLDS), (1.4, 0.0, DOES_NOT), (1.0, 12.0, CONDITIONS)]
)
def test_claim_4_tells_a_line_from_a_curve(power: float, fixed: float, expected: str) -> None:
    assert claims_cost.linear(times(power, fixed=fixed)).word == expected


@pytest.mark.parametrize(
    ("curve", "expected"),
    # none; a fifth at the longest; perhaps the larger part within the model's length; the larger part throughout
    [(0.0, CONDITIONS), (0.001, HOLDS), (0.0042, UNKNOWN), (1.0, DOES_NOT)],
)
def test_claim_5_goes_by_what_the_model_can_read(curve: float, expected: str) -> None:
    assert claims_cost.quadratic(times(curve=curve)).word == expected


@pytest.mark.parametrize(("product", "expected"), [(1e-5, HOLDS), (1e-7, DOES_NOT), (4e-3, DOES_NOT)])
def test_claim_8_counts_tens_of_thousands_as_something_else(product: float, expected: str) -> None:
    found = claims_cost.dot_products(times(product=product))
    assert found.word == expected
    assert found.numbers["rows"][0]["× for a pair, raw text"] == pytest.approx(5e-3 / product, rel=0.03)


@pytest.mark.parametrize(("factor", "expected"), [(1.1, HOLDS), (1.3, DOES_NOT), (0.9, DOES_NOT)])
def test_claim_6_is_of_relative_changes(factor: float, expected: str) -> None:
    first = np.random.default_rng(5).uniform(0.3, 0.6, 30)
    values = Values(first, np.ones(30), factor * first, np.ones(30))
    found = claims_gain.five_to_fifteen({"a": {"bm25": values}, "b": {"bm25": values}})
    assert found.word == expected
    assert found.numbers["average"].value == pytest.approx(factor - 1)
    mixed = {"a": {"bm25": values}, "b": {"bm25": replace_values(values, reranked=1.1 * first)}}
    assert claims_gain.five_to_fifteen(mixed).word == (HOLDS if factor == 1.1 else CONDITIONS)


def test_claim_7_never_says_more_than_its_collections_can() -> None:
    names = {"scifact": 1.0, "nq-qed": 1.0, "cosqa": 0.0, "cranfield": 0.0, "checkthat20": 0.0}
    some = [pools(name, better=better) for name, better in names.items()]
    found = claims_gain.drift(some, cells_of(some))
    assert found.word == CONDITIONS
    assert found.numbers["p over collections"] == pytest.approx(1 / 10)
    turned = [pools(name, better=1 - better) for name, better in names.items()]
    assert claims_gain.drift(turned, cells_of(turned)).word == DOES_NOT
    of_one_kind = some[:2]
    assert claims_gain.drift(of_one_kind, cells_of(of_one_kind)).word == UNKNOWN


def test_claims_7_and_9_leave_out_what_training_has_seen() -> None:
    half = [f"q{number}" for number in range(6)]
    some = [replace(pools("scifact", better=1.0), seen=half), pools("cosqa")]
    assert [row["queries"] for row in claims_gain.drift(some, cells_of(some)).numbers["rows"]] == [6, 12]
    assert [row["queries"] for row in claims_systems.fine_tuned(some).numbers["rows"]] == [6, 12]


def test_claim_9_is_decided_in_the_domain_alone() -> None:
    trained = [pools(name, better=1.0, queries=40) for name in ("scifact", "nq-qed")]
    better = [*trained, pools("cosqa"), pools("cranfield")]
    assert claims_systems.fine_tuned(better).word == HOLDS
    elsewhere = [pools("scifact"), *(pools(name, better=1.0, queries=40) for name in ("cosqa", "cranfield"))]
    assert claims_systems.fine_tuned(elsewhere).word == UNKNOWN
    unmeasured = claims_systems.fine_tuned([pools("scifact", base=False)])
    assert unmeasured.word == UNKNOWN
    assert "Not measured" in unmeasured.conditions


def gpu(ms: float) -> dict[str, Any]:
    row = {"model": "secondpass-mini", "engine": "secondpass", "source": "text", "candidates": 500, "ms": ms}
    return {"gpu": {"device": "a GPU"}, "rows": [row]}


def test_claim_10_needs_both_its_halves() -> None:
    alike = [pools("scifact", better=1.0)]  # pools of ten: the cascade scores all of them, and nothing is lost
    assert claims_systems.cascades(alike, times(), gpu(20.0)).word == HOLDS
    assert claims_systems.cascades(alike, times(), gpu(200.0)).word == CONDITIONS
    unmeasured = claims_systems.cascades(alike, times(), None)
    assert unmeasured.word == CONDITIONS
    assert "not measured here" in unmeasured.conditions
    found = claims_systems.cascades(alike, times(), {"gpu": {"device": "cpu"}, "rows": []})
    assert found.conditions == unmeasured.conditions


def test_claim_10_sees_what_a_cascade_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_systems, "CASCADES", (1, 2))
    found = claims_systems.cascades([pools("scifact", better=1.0, queries=40)], times(), gpu(20.0))
    assert found.word == DOES_NOT
    assert found.numbers["difference with the best 1"].high < -0.01
    assert [row["pairs a query"] for row in found.numbers["rows"]] == [1.0, 2.0]


# The page


def result() -> dict[str, Any]:
    some = [pools(name, better=0.5) for name in ("scifact", "cosqa", "nq-qed")]
    rows = [plain(one.as_row()) for one in judged(some, times(), None)]
    about = [{"collection": one.name, "documents": 10, "queries": 12, "queries_there": 12} for one in some]
    model = {"model": "m", "digest": "0" * 32, "precision": "fp32", "engine": "e", "max_length": 256}
    whole = {"rows": rows, "collections": about, "model": model, "depth": 100}
    return dict(json.loads(json.dumps(whole, allow_nan=False)))


def test_every_claim_has_a_word_a_sentence_and_a_section() -> None:
    found = result()
    assert [row["number"] for row in found["rows"]] == list(range(1, 11))
    table = summary(found)
    for row in found["rows"]:
        assert f"| {row['number']} | {row['claim']} | **{row['word']}** |" in table
        section = detail(found, row["number"])
        assert row["conditions"] in section
        assert row["rule"] in section
        assert "rows: " not in section
        lines = [line for line in section.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1  # a cell more or less breaks the table
        page = tables.ROOT / "docs" / "claims.md"
        assert f"<!-- claim_{row['number']} -->" in page.read_text(encoding="utf-8")


def test_a_page_says_what_was_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(tables.TABLES, "claims", (tables.claims, tmp_path / "claims.json"))
    page = "<!-- claims -->\nold\n<!-- /claims -->"
    assert "Not measured yet: `bench/claims.py`." in tables.rewritten(page)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (1355, "1,355"),
        (0.0123, "0.012"),
        (52345.6, "52,346"),
        ([0.1, None], "[0.100, —]"),
        ([0.1, -0.2, 0.3], "0.100 [-0.200, 0.300]"),
    ],
)
def test_a_cell_of_a_table(value: Any, text: str) -> None:
    assert cell(value) == text


def test_json_has_neither_nan_nor_infinity() -> None:
    assert plain({"a": [nan, inf, 0.1234567, Estimate(1.0, -inf, 2.0)]}) == {
        "a": [None, None, 0.123457, [1.0, None, 2.0]]
    }
