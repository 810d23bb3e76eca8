"""What is told without judgments is counted right, and holds whatever the judgments turn out to be."""

from __future__ import annotations

import json
from math import isfinite
from statistics import fmean, median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, kendalltau

from secondpass.errors import InputError
from secondpass.evaluation.metrics import evaluate
from secondpass.evaluation.systems import Price
from secondpass.evaluation.trec import Run
from secondpass.evaluation.unjudged import Unjudged, findings, kendall_tau, limits, rbo, without_judgments

IDS = [f"d{n}" for n in range(14)]
rankings = st.lists(st.sampled_from(IDS), unique=True, max_size=12)


def as_run(found: dict[str, list[str]]) -> Run:
    return {query: [(doc, 9.0 - place**1.5) for place, doc in enumerate(ids)] for query, ids in found.items()}


def report(before: dict[str, list[str]], after: dict[str, list[str]], **options: Any) -> Unjudged:
    return without_judgments(as_run(before), as_run(after), **{"depth": 12, "k": 3, "resamples": 200, **options})


@st.composite
def reranked(draw: Any) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    before, after = {}, {}
    for query in "abcde"[: draw(st.integers(1, 5))]:
        before[query] = draw(st.lists(st.sampled_from(IDS), unique=True, min_size=1, max_size=12))
        same = draw(st.integers(0, len(before[query])))
        after[query] = before[query][:same] + draw(st.permutations(before[query][same:]))
    return before, after


@settings(max_examples=60, deadline=None)
@given(rankings, rankings, st.sampled_from([0.5, 0.9, 0.95]))
def test_rbo_against_the_sum_that_it_is_the_end_of(first: list[str], second: list[str], p: float) -> None:
    short, long = sorted((first, second), key=len)
    if not short:
        assert rbo(first, second, p) == (0.0 if long else 1.0)
        return
    s, n = len(short), len(long)
    at_s = len(set(short) & set(long[:s]))
    total = 0.0
    for d in range(1, 600):
        common = len(set(short[:d]) & set(long[:d]))
        if d <= s:
            agreed = common / d
        elif d <= n:  # the missing documents of the shorter one are taken to agree as those that are there
            agreed = (common + at_s * (d - s) / s) / d
        else:  # and everything beyond both as at the end
            agreed = (len(set(short) & set(long)) + at_s * (n - s) / s) / n
        total += (1 - p) * p ** (d - 1) * agreed
    assert rbo(first, second, p) == pytest.approx(total, abs=1e-9)
    assert rbo(second, first, p) == pytest.approx(rbo(first, second, p))


def test_rbo_at_its_ends() -> None:
    assert rbo(IDS, IDS) == pytest.approx(1.0)
    assert rbo(IDS[:7], IDS[7:]) == 0.0
    assert rbo(IDS, [IDS[1], IDS[0], *IDS[2:]]) < rbo(IDS, [*IDS[:-2], IDS[-1], IDS[-2]]) < 1.0  # the top counts more
    with pytest.raises(InputError, match="p is 1"):
        rbo(IDS, IDS, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.permutations(IDS), st.integers(0, 14), st.integers(0, 14))
def test_tau_is_scipy_s(order: list[str], low: int, high: int) -> None:
    part = order[min(low, high) : max(low, high)]
    found = kendall_tau(IDS, [*part, "unknown"])
    if len(part) < 2:
        assert found is None
    else:
        both = [doc for doc in IDS if doc in part]
        assert found == pytest.approx(kendalltau([both.index(doc) for doc in part], range(len(part))).statistic)


@settings(max_examples=40, deadline=None)
@given(reranked())
def test_every_share_is_a_plain_count(case: Any) -> None:
    before, after = case
    found = report(before, after)
    tops = [(before[query][:3], after[query][:3]) for query in before]
    assert found.queries == len(before)
    assert found.first_changed.value == pytest.approx(fmean(a[0] != b[0] for a, b in tops))
    assert found.set_changed.value == pytest.approx(fmean(set(a) != set(b) for a, b in tops))
    assert found.order_changed.value == pytest.approx(fmean(a != b for a, b in tops))
    assert found.overlap.value == pytest.approx(fmean(len(set(a) & set(b)) / len(a) for a, b in tops))
    assert found.union == pytest.approx(fmean(len({*a, *b}) for a, b in tops))
    places = [[before[query].index(doc) + 1 for doc in ids[:3]] for query, ids in after.items()]
    assert found.median_rank == median(rank for one in places for rank in one)
    assert found.deepest_rank == max(map(max, places))
    assert found.from_beyond.keys() == {10}  # 20 and 50 are beyond the depth
    assert found.from_beyond[10].value == pytest.approx(fmean(fmean(rank > 10 for rank in one) for one in places))
    for share in (found.first_changed, found.overlap, found.rbo, found.tau, *found.from_beyond.values()):
        if share is not None and isfinite(share.low):
            assert -1.0 <= share.low <= share.value + 1e-9
            assert share.value - 1e-9 <= share.high <= 1.0
    for part, depth in found.depths.items():
        assert depth is not None
        assert fmean(max(one) <= depth for one in places) >= part - 1e-9
        assert fmean(max(one) <= depth - 1 for one in places) < part


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_depth_that_is_named_gives_the_same_top(data: Any) -> None:
    """Where a score belongs to the document alone, the first m of the pool give the same top k exactly then."""
    pool = data.draw(st.permutations(IDS))
    score = dict(zip(pool, data.draw(st.permutations(range(14))), strict=True))

    def at_depth(m: int) -> list[str]:
        return [*sorted(pool[:m], key=lambda doc: -score[doc]), *pool[m:]]

    (change,) = report({"q": pool}, {"q": at_depth(14)}, depth=14).changes
    for m in range(3, 15):
        assert (at_depth(m)[:3] == at_depth(14)[:3]) == (m >= change.needed_depth)


@settings(max_examples=60, deadline=None)
@given(reranked(), st.data())
def test_no_judgments_can_make_more_of_it_than_is_said(case: Any, data: Any) -> None:
    before, after = case
    grades = st.dictionaries(st.sampled_from(IDS), st.integers(0, 3))
    qrels = {query: data.draw(grades) for query in before}
    first, second = (evaluate(as_run(found), qrels, "ndcg@3") for found in case)
    found = report(before, after)
    gain = fmean(second[query] - first[query] for query in before)
    assert abs(gain) <= found.order_changed.value + 1e-9
    bound = [sentence for sentence in findings(found) if "whatever the judgments" in sentence]
    assert bool(bound) == (0 < found.order_changed.value <= 0.5)


def test_time_and_money_are_of_reranking() -> None:
    runs = {"a": IDS[:5], "b": IDS[5:10]}
    found = report(
        runs,
        runs,
        seconds_baseline={"a": 0.001, "b": 0.003},
        seconds_reranked={"a": 0.1, "b": 0.2, "c": 0.9},
        price=Price(machine_hour=1.8, call=0.002, currency="EUR"),
    )
    assert found.added_per_1000 == pytest.approx(
        1.8 * 400 / 3600 + 2.0
    )  # 400 ms in the mean, half of the queries below 200
    assert found.added_latency is not None
    assert found.first_latency is not None
    assert found.added_latency.p50_ms == pytest.approx(200)
    assert found.first_latency.mean_ms == pytest.approx(2)
    said = " ".join(findings(found))
    assert "adds 200 ms at the median" in said
    assert "2.20 EUR more than baseline alone" in said
    assert "stays as it is for every query" in said
    untimed = report(runs, runs)
    assert (untimed.added_latency, untimed.added_per_1000) == (None, None)
    assert not any("ms" in sentence or "cost" in sentence for sentence in findings(untimed))
    with pytest.raises(InputError, match="seconds_reranked"):
        report(runs, runs, seconds_reranked={"a": -1.0})


def test_what_it_cannot_know_is_said_with_numbers() -> None:
    """sd .25: 50 queries show .099, a gain of .01 takes 4,900 (2.80 · sd / √n)."""
    runs = dict.fromkeys("abcd", IDS[:6])
    turned = dict.fromkeys("abcd", IDS[5::-1])
    found = report(runs, turned)
    assert found.detectable == pytest.approx(2.80 * 0.25 / 50**0.5)
    assert found.judged_queries_needed == pytest.approx(4900, abs=1)
    assert report(runs, turned, delta=0.05).judged_queries_needed == pytest.approx(196, abs=1)
    said = " ".join(limits(found))
    assert "for the better" in said
    assert "50 queries drawn at random (about 300 documents to judge)" in said
    assert "takes about 4,900 queries" in said
    assert "Assumed" in said
    assert "0.25" in said


def test_shares_have_the_score_interval() -> None:
    before = dict.fromkeys(map(str, range(40)), IDS)
    after = {str(n): IDS[::-1] if n < 3 else IDS for n in range(40)}
    found = report(before, after).first_changed
    expected = binomtest(3, 40).proportion_ci(method="wilson")
    assert found.low == pytest.approx(expected.low)
    assert found.high == pytest.approx(expected.high)
    none = report(before, before).first_changed
    assert none.value == none.low == 0.0
    assert 0.05 < none.high < 0.15  # 0 of 40 is no proof that it never happens


def test_pools_that_differ_are_said_and_count_as_beyond() -> None:
    found = report({"a": IDS[:4], "b": IDS[:4], "c": IDS[:2]}, {"a": [*IDS[8:10], *IDS[:2]], "b": IDS[:3], "x": IDS})
    assert found.queries == 2
    assert found.changes[0].came_from == (None, None, 1)
    assert found.from_beyond[10].value == pytest.approx((2 / 3 + 0) / 2)
    assert found.deepest_rank == 3
    assert found.depths[0.5] == 3
    assert found.depths[0.9] is None
    assert found.notes == (
        "2 queries without results in one of the runs left out",
        "reranked has documents from outside the pool of baseline for 1 query: they count as from beyond any rank",
        "reranked lacks documents of the pool for 2 queries",
    )


def test_margins_only_where_there_are_scores() -> None:
    ranks: Run = {query: [(doc, -float(place)) for place, doc in enumerate(IDS)] for query in "abc"}
    scores: Run = {
        query: [(doc, place * -0.5 * (n + 1)) for place, doc in enumerate(IDS)] for n, query in enumerate("abc")
    }
    unscored: Run = {query: [(doc, float("-inf")) for doc in IDS] for query in "abc"}
    assert without_judgments(ranks, scores, depth=10).margins == (None, 1.0)
    assert without_judgments(ranks, unscored, depth=10).margins == (None, None)


def test_json_has_all_of_it() -> None:
    found = report({"a": IDS[:4]}, {"a": IDS[3::-1]})
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["schema"] == 1
    assert data["rbo"]["low"] is None  # one query: nobody knows
    assert data["changes"][0]["came_from"] == [4, 3, 2]
    assert data["limits"] == list(limits(found))
    assert data["judged_queries_needed"] == found.judged_queries_needed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"k": 0}, "k is 0"),
        ({"depth": 2}, "depth of at least k"),
        ({"delta": 0.0}, "delta is 0"),
        ({"delta": float("nan")}, "nan"),
    ],
)
def test_wrong_use_is_refused(options: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        report({"a": IDS}, {"a": IDS}, **options)


def test_runs_that_have_nothing_in_common_are_refused() -> None:
    with pytest.raises(InputError, match="share no query with results"):
        report({"a": IDS, "b": []}, {"c": IDS, "b": IDS})
    with pytest.raises(InputError, match="occurs twice"):
        report({"a": ["d1", "d1"]}, {"a": IDS})
