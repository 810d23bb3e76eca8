"""The audit: one word for every case, and every number of a verdict where an independent one exists."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from secondpass.errors import InputError
from secondpass.evaluation.audit import audit
from secondpass.evaluation.systems import Price, System
from secondpass.evaluation.trec import Run
from secondpass.evaluation.verdict import Decision, decide
from secondpass.types import Document

H, N, I, S, W = Decision.HARMFUL, Decision.NOT_WORTH_IT, Decision.INCONCLUSIVE, Decision.TOO_SLOW, Decision.WORTH_IT  # noqa: E741
F = Decision.FIX_RETRIEVAL_FIRST
Hits = list[tuple[str, float]]  # (document id, score), best first

# every cell: where lo and hi can lie relative to 0 and δ = .01, boundaries included
CELLS = [
    (-0.2, -0.1, H),
    (-0.2, -1e-12, H),
    (-0.2, 0.0, N),
    (-0.2, 0.005, N),
    (0.0, 0.0, N),
    (0.0, 0.005, N),
    (0.004, 0.005, N),
    (0.004, math.nextafter(0.01, 0), N),
    (-0.2, 0.01, I),
    (-0.2, 0.5, I),
    (0.0, 0.01, I),
    (0.004, 0.5, I),
    (math.nextafter(0.01, 0), 0.01, I),
    (-math.inf, math.inf, I),
    (0.01, 0.01, W),
    (0.01, 0.5, W),
    (0.2, 0.5, W),
]
TIMES = [(None, None), (None, 80.0), (79.9, None), (79.9, 80.0), (80.0, 80.0), (80.1, 80.0)]


@pytest.mark.parametrize(("low", "high", "expected"), CELLS)
@pytest.mark.parametrize(("p99", "budget"), TIMES)
def test_the_decision_table(
    low: float, high: float, expected: Decision, p99: float | None, budget: float | None
) -> None:
    late = p99 is not None and budget is not None and p99 > budget
    assert decide(low, high, 0.01, p99, budget) is (S if expected is W and late else expected)
    # a better control goes before every word but INCONCLUSIVE
    assert decide(low, high, 0.01, p99, budget, better_control=True) is (I if expected is I else F)


ends = st.floats(-1, 1) | st.sampled_from([0.0, 0.01, -math.inf, math.inf])
times = st.none() | st.floats(0, 1e6)


@given(ends, ends, st.floats(1e-6, 0.5), times, times)
def test_the_decision_table_is_total_and_never_falls_as_an_end_rises(
    a: float, b: float, delta: float, p99: float | None, budget: float | None
) -> None:
    low, high = min(a, b), max(a, b)
    order = [H, N, I, W]
    place = order.index(decide(low, high, delta, None, None))
    assert decide(low, high, delta, p99, budget) in Decision
    assert order.index(decide(low, math.inf, delta, None, None)) >= place
    assert order.index(decide(-math.inf, high, delta, None, None)) <= place


def test_no_interval_no_decision() -> None:
    for low, high in ((0.2, 0.1), (math.nan, 0.1), (0.1, math.nan)):
        with pytest.raises(InputError, match="no interval"):
            decide(low, high, 0.01, None, None)


def collection(
    n: int = 120, depth: int = 20, help_share: float = 0.5, seed: int = 0
) -> tuple[dict[str, dict[str, int]], dict[str, Hits], dict[str, Hits]]:
    """Runs over n queries with one or two relevant documents, some of them not in the pool."""
    rng = np.random.default_rng(seed)
    qrels, before, after = {}, {}, {}
    for i in range(n):
        pool = [f"q{i}d{j}" for j in range(depth)]
        relevant = {str(d): int(rng.integers(1, 4)) for d in rng.choice(pool, 2, replace=False)}
        if i % 5 == 0:
            relevant[f"q{i}missed"] = 1
        qrels[f"q{i}"] = relevant | {pool[0]: relevant.get(pool[0], 0)}
        order = list(rng.permutation(pool))
        before[f"q{i}"] = [(str(d), -float(r)) for r, d in enumerate(order)]
        moved = sorted(order, key=lambda d: d not in relevant) if rng.random() < help_share else list(order)
        after[f"q{i}"] = [(str(d), -float(r)) for r, d in enumerate(moved)]
    return qrels, before, after


def test_numbers_agree_with_ir_measures_and_scipy() -> None:
    qrels, before, after = collection()
    verdict = audit(before, after, qrels, depth=20, names=("first", "second"))
    theirs = []
    for run in (before, after):
        values = {
            v.query_id: v.value
            for v in ir_measures.iter_calc([ir_measures.nDCG @ 10], qrels, {q: dict(r) for q, r in run.items()})
        }
        theirs.append(np.array([values[q] for q in qrels]))
    differences = theirs[1] - theirs[0]
    assert verdict.first == pytest.approx(theirs[0].mean(), abs=1e-9)
    assert verdict.reranked == pytest.approx(theirs[1].mean(), abs=1e-9)
    assert verdict.difference == pytest.approx(differences.mean(), abs=1e-9)
    ours = [outcome.difference for outcome in verdict.outcomes]
    assert ours == pytest.approx(list(differences), abs=1e-9)
    interval = stats.bootstrap((differences,), np.mean, n_resamples=20_000, method="BCa", rng=0).confidence_interval
    assert verdict.interval == pytest.approx((interval.low, interval.high), abs=0.003)
    recall = ir_measures.calc_aggregate([ir_measures.R @ 20], qrels, {q: dict(r) for q, r in before.items()})
    assert verdict.recall == pytest.approx(recall[ir_measures.R @ 20], abs=1e-9)
    assert verdict.detectable == pytest.approx(2.8 * differences.std(ddof=1) / math.sqrt(120))
    assert (verdict.helped, verdict.hurt) == ((differences > 1e-9).sum(), (differences < -1e-9).sum())
    assert verdict.helped + verdict.hurt + verdict.unchanged == verdict.queries == 120
    assert verdict.first + verdict.recall_loss + verdict.ordering_headroom == pytest.approx(1)
    assert verdict.decision is W
    assert verdict.unfixable is not None
    assert 0 < verdict.unfixable < 1
    assert [o.difference for o in verdict.most_helped()] == sorted(ours, reverse=True)[:5]
    assert verdict.most_hurt() == ()


def test_the_same_input_gives_the_same_verdict() -> None:
    qrels, before, after = collection()
    assert audit(before, after, qrels, depth=20) == audit(before, after, qrels, depth=20)
    assert audit(before, after, qrels, depth=20).interval != audit(before, after, qrels, depth=20, seed=1).interval


def test_each_word_comes_out_of_runs() -> None:
    qrels, before, after = collection()
    slow = dict.fromkeys(qrels, 0.2)
    assert audit(before, after, qrels, depth=20).decision is W
    assert audit(before, after, qrels, depth=20, budget_ms=100, seconds_reranked=slow).decision is S
    assert audit(before, after, qrels, depth=20, budget_ms=200, seconds_reranked=slow).decision is W
    assert audit(after, before, qrels, depth=20).decision is H
    assert audit(before, before, qrels, depth=20).decision is N
    assert "all 120 rankings are as they were" in audit(before, before, qrels, depth=20).reason
    mean = audit(before, after, qrels, depth=20).difference
    unsure = audit(before, after, qrels, depth=20, delta=mean)
    assert unsure.decision is I
    assert unsure.queries_needed is None or unsure.queries_needed > 0


def test_a_gain_like_minilm_on_scifact_is_inconclusive() -> None:
    rng = np.random.default_rng(1)  # 300 queries, sd .25: more judged queries are asked for, in the thousands
    qrels = {f"q{i}": {"r": 1} for i in range(300)}
    places = rng.integers(1, 9, 300)

    def run(ranks: Any) -> Run:
        return {f"q{i}": [("r" if j == r else f"x{j}", -float(j)) for j in range(1, 11)] for i, r in enumerate(ranks)}

    moved = np.where(rng.random(300) < 0.5, rng.integers(1, 9, 300), places)
    verdict = audit(run(places), run(moved), qrels, metric="mrr@10", delta=0.01)
    assert verdict.detectable is not None
    assert verdict.queries_needed is not None
    assert abs(verdict.difference) < verdict.detectable
    assert verdict.decision is I
    assert verdict.queries_needed > 300


def test_what_is_left_out_or_counted_as_nothing_is_said() -> None:
    qrels, before, after = collection(n=30)
    before["unjudged"] = after["unjudged"] = [("x", 1.0)]
    del before["q1"], after["q1"], after["q2"]
    qrels["hopeless"] = {"x": 0}
    after["q3"] = after["q3"][:5]
    after["q4"] = [*after["q4"][:-1], ("foreign", -99.0)]
    verdict = audit(before, after, qrels, depth=20, names=("A", "B"), budget_ms=10)
    said = "\n".join(verdict.notes)
    for words in (
        "2 judged queries without results in A",
        "3 judged queries without results in B",
        "1 query of the runs without judgments left out",
        "1 judged query without a relevant document",
        "B lacks documents of the pool in 3 queries",
        "B has documents from outside the pool in 1 query",
        "budget of 10 ms was not checked",
    ):
        assert words in said, words
    assert verdict.queries == 31
    assert next(o for o in verdict.outcomes if o.query_id == "q1").first == 0.0
    few = audit(before, after, dict(list(qrels.items())[:24]), depth=20)
    assert any("24 judged queries" in note for note in few.notes)
    shallow = audit(before, before, qrels, depth=5)
    assert any("nDCG@10 sees only the first 5" in note for note in shallow.notes)


def test_latency_is_in_milliseconds_and_as_numpy_has_it() -> None:
    qrels, before, after = collection(n=60)
    seconds = {q: 0.001 * i for i, q in enumerate(qrels)}
    verdict = audit(before, after, qrels, depth=20, seconds_reranked=seconds, seconds_baseline={"q0": 0.002})
    assert verdict.added_latency is not None
    assert verdict.first_latency is not None
    assert verdict.added_latency.p99_ms == pytest.approx(np.percentile(range(60), 99))
    assert verdict.added_latency.queries == 60
    assert verdict.first_latency.p50_ms == pytest.approx(2)
    assert audit(before, after, qrels, depth=20).added_latency is None


def test_examples_show_ranks_grades_and_titles() -> None:
    qrels = {"q": {"r": 2, "n": 0}}
    before, after = {"q": [("n", 2.0), ("x", 1.0), ("r", 0.0)]}, {"q": [("r", 2.0), ("x", 1.0), ("n", 0.0)]}
    documents = {"r": Document("r", "a text", "A title"), "n": Document("n", "no title\n" + "word " * 100)}
    [outcome] = audit(before, after, qrels, depth=3, documents=documents, queries={"q": "what?"}).outcomes
    assert (outcome.query, outcome.rank_before, outcome.rank_after) == ("what?", 3, 1)
    assert outcome.top_after is not None
    assert outcome.top_before is not None
    assert (outcome.top_after.id, outcome.top_after.label, outcome.top_after.grade) == ("r", "A title", 2)
    assert outcome.top_before.label.startswith("no title word")
    assert len(outcome.top_before.label) <= 120


def test_one_query_is_no_evidence() -> None:
    verdict = audit({"q": [("x", 1.0), ("r", 0.0)]}, {"q": [("r", 1.0), ("x", 0.0)]}, {"q": {"r": 1}})
    assert verdict.decision is I
    assert verdict.queries_needed is None
    assert verdict.to_dict()["interval"] == [None, None]


def test_data_first() -> None:
    qrels, before, after = collection(n=40)
    verdict = audit(before, after, qrels, depth=20, seconds_reranked=dict.fromkeys(qrels, 0.1))
    data = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert data["schema"] == 1
    assert data["decision"] == "WORTH IT"
    assert data["added_latency"]["p50_ms"] == pytest.approx(100)
    assert len(data["outcomes"]) == data["queries"] == 40
    # the names are the promise of schema 1: adding one is fine, losing one is not
    assert {
        "reason", "names", "metric", "depth", "first", "best", "reranked", "difference", "interval", "p_value",
        "smallest_effect", "detectable", "queries_needed", "recall", "recall_loss", "ordering_headroom", "capture",
        "unfixable", "judged_at_10", "first_latency", "budget_ms", "notes", "helped", "hurt", "unchanged",
        "most_helped", "most_hurt",
    } <= data.keys()  # fmt: skip
    with pytest.raises(FrozenInstanceError):
        verdict.decision = Decision.HARMFUL  # type: ignore[misc]


def test_what_cannot_be_audited_is_refused() -> None:
    run, qrels = {"q": [("r", 1.0)]}, {"q": {"r": 1}}
    with pytest.raises(InputError, match=r"share no query id.*'q'.*'other'"):
        audit(run, run, {"other": {"r": 1}})
    for delta in (0.0, -0.01, math.nan, math.inf):
        with pytest.raises(InputError, match="delta"):
            audit(run, run, qrels, delta=delta)
    for budget in (-1.0, math.nan):
        with pytest.raises(InputError, match="budget_ms"):
            audit(run, run, qrels, budget_ms=budget)
    for seconds in (-0.1, math.nan, math.inf):
        with pytest.raises(InputError, match=r"seconds_reranked\['q'\]"):
            audit(run, run, qrels, seconds_reranked={"q": seconds})
    with pytest.raises(InputError, match="known: ndcg"):
        audit(run, run, qrels, metric="accuracy")
    with pytest.raises(InputError, match=r"'q'.*pool lacks"):
        audit({"q": [("x", 1.0)]}, run, qrels)


def ranked(ids: Any) -> list[tuple[str, float]]:
    return [(str(doc_id), -float(place)) for place, doc_id in enumerate(ids)]


def with_control(
    n: int = 150, reranker: float = 0.1, control: float = 0.9, seed: int = 0
) -> tuple[dict[str, dict[str, int]], Run, Run, Run]:
    """The relevant document stands at rank 8. The reranker brings it to the top for one share of the queries, the
    control, which finds it among other documents, for another."""
    rng = np.random.default_rng(seed)
    qrels, before, after, other = {}, {}, {}, {}
    for i in range(n):
        key, front = f"q{i}", ["r", *(f"x{j}" for j in range(9))]
        back = [*front[1:8], "r", *front[8:]]
        qrels[key] = {"r": 1}
        before[key] = ranked(back)
        after[key] = ranked(front if rng.random() < reranker else back)
        other[key] = ranked(
            ["r", *(f"y{j}" for j in range(9))] if rng.random() < control else [f"y{j}" for j in range(10)]
        )
    return qrels, before, after, other


def test_retrieval_is_to_be_fixed_first_only_where_a_control_was_measured_to_be_better_and_no_dearer() -> None:
    qrels, before, after, other = with_control()
    fast, slow = dict.fromkeys(qrels, 0.01), dict.fromkeys(qrels, 0.2)
    timed: dict[str, Any] = {"depth": 10, "seconds_baseline": fast, "seconds_reranked": dict.fromkeys(qrels, 0.1)}

    def word(*controls: System, **more: Any) -> Decision:
        return audit(before, after, qrels, controls=controls, **timed | more).decision

    assert word() is W
    verdict = audit(before, after, qrels, controls=[System("dense", other, fast)], **timed)
    assert verdict.decision is F
    assert "dense in place of baseline" in verdict.reason
    [control] = verdict.controls
    assert control.better
    assert control.affordable
    assert control.gain_interval[0] > 0.3
    assert control.mean_ms == pytest.approx(10.0)
    assert control.recall == pytest.approx(sum(any(d == "r" for d, _ in run) for run in other.values()) / 150)
    assert word(System("dense", other, slow)) is W  # better, and dearer
    assert word(System("dense", other)) is W  # its time was not measured
    assert [
        audit(before, after, qrels, controls=[System("dense", other, seconds)], **timed).controls[0].affordable
        for seconds in (fast, slow, None)
    ] == [True, False, None]
    assert word(System("dense", other, fast), seconds_reranked=None) is W  # nor here what reranking takes
    assert word(System("itself", before, fast)) is W
    assert word(System("reranked in no time", after, fast)) is W  # it gains enough, and no more than the reranker
    assert word(delta=0.2) is N
    assert word(System("dense", other, fast), delta=0.2) is F  # the reranker is not worth it, the control is
    assert word(System("dense", other, fast), delta=0.9) is N
    hurt = audit(after, before, qrels, controls=[System("dense", other, fast)], **timed)
    assert hurt.decision is F
    assert audit(after, before, qrels, **timed).decision is H


def test_an_inconclusive_audit_stays_one_and_tells_of_the_better_control() -> None:
    qrels, before, after, other = with_control(reranker=0.0)
    after = {
        key: ranked(r[::-1]) if int(key[1:]) % 2 else before[key]
        for key, r in ((key, [doc_id for doc_id, _ in run]) for key, run in before.items())
    }
    timed: dict[str, Any] = {
        "seconds_baseline": dict.fromkeys(qrels, 0.01),
        "seconds_reranked": dict.fromkeys(qrels, 0.1),
    }
    mean = audit(before, after, qrels, depth=10).difference
    verdict = audit(
        before,
        after,
        qrels,
        depth=10,
        delta=abs(mean),
        controls=[System("dense", other, timed["seconds_baseline"])],
        **timed,
    )
    assert verdict.decision is I
    assert verdict.controls[0].better
    assert any("control dense gains" in note and "settle it first" in note for note in verdict.notes)


def test_controls_are_corrected_for_their_number() -> None:
    qrels, before, after, other = with_control(n=60, reranker=0.5, control=0.8, seed=3)
    fast = dict.fromkeys(qrels, 0.01)
    timed: dict[str, Any] = {"depth": 10, "seconds_baseline": fast, "seconds_reranked": fast}
    alone = audit(before, after, qrels, controls=[System("a", other, fast)], **timed).controls[0]
    crowd = [
        System("a", other, fast),
        *(System(f"b{i}", after, fast) for i in range(9)),
        System("slow", other, dict.fromkeys(qrels, 9.0)),
    ]
    among = audit(before, after, qrels, controls=crowd, **timed).controls
    assert alone.p_value is not None
    assert 0.0 < alone.p_value < 0.1
    assert among[0].p_value == pytest.approx(min(10 * alone.p_value, 1.0))
    assert among[-1].p_value is None  # too dear to be chosen, so not among those that are corrected for
    assert not among[-1].better


def test_cost_in_money() -> None:
    qrels, before, after, other = with_control()
    timed: dict[str, Any] = {
        "depth": 10,
        "seconds_baseline": dict.fromkeys(qrels, 0.36),
        "seconds_reranked": dict.fromkeys(qrels, 0.72),
    }
    cost = audit(before, after, qrels, price=Price(2.0, 0.001, "EUR"), queries_per_day=10_000, **timed).cost
    assert cost is not None
    assert cost.currency == "EUR"
    assert cost.first_per_1000 == pytest.approx(0.2)  # 1,000 × .36 s at 2 an hour
    assert cost.added_per_1000 == pytest.approx(0.4 + 1.0)
    gain = audit(before, after, qrels, depth=10).difference
    assert cost.added_per_gain == pytest.approx(1.4 / (gain / 0.01))
    assert cost.added_per_month == pytest.approx(1.4 * 10 * 30)
    assert audit(before, after, qrels, **timed).cost is None
    losing = audit(after, before, qrels, price=Price(2.0), **timed).cost
    assert losing is not None
    assert losing.added_per_gain is None
    # where money is known on both sides it decides, not time: a control at a price of its own
    cheap, dear = (
        System("api", other, dict.fromkeys(qrels, 9.0), Price(call=0.0001)),
        System("api", other, None, Price(call=1.0)),
    )
    assert audit(before, after, qrels, price=Price(2.0), controls=[cheap], **timed).decision is F
    assert audit(before, after, qrels, price=Price(2.0), controls=[dear], **timed).decision is W
    with pytest.raises(InputError, match="queries_per_day"):
        audit(before, after, qrels, price=Price(2.0), queries_per_day=-1, **timed)
    with pytest.raises(InputError, match="machine_hour"):
        Price(-1.0)


def test_too_slow_names_the_largest_depth_that_fits() -> None:
    qrels, before, after = collection()
    options: dict[str, Any] = {
        "depth": 20,
        "budget_ms": 100,
        "seconds_reranked": dict.fromkeys(qrels, 0.18),
        "depths": (5, 10, 15),
    }
    estimated = audit(before, after, qrels, **options).fits
    assert estimated is not None
    assert (estimated.depth, estimated.measured) == (10, False)
    assert estimated.p99_ms == pytest.approx(90)
    measured = audit(before, after, qrels, p99_at={5: 60.0, 10: 101.0}, **options)
    assert measured.decision is S
    assert measured.fits is not None
    assert (measured.fits.depth, measured.fits.p99_ms, measured.fits.measured) == (5, 60.0, True)
    assert measured.fits.difference == measured.curve[0].difference
    assert "largest depth that keeps it is 5" in measured.reason
    none = audit(before, after, qrels, p99_at={5: 160.0}, **options)
    assert none.fits is not None
    assert none.fits.depth == 0
    assert "Not even the smallest depth" in none.reason
    assert audit(before, after, qrels, **options | {"budget_ms": 180}).fits is None


def test_sensitivity_is_scipys() -> None:
    qrels, before, after = collection(help_share=0.1)
    verdict = audit(before, after, qrels, depth=20, delta=0.05)
    differences = np.array([outcome.difference for outcome in verdict.outcomes])
    assert verdict.sensitivity.t_p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    lower = stats.ttest_1samp(differences, -0.05, alternative="greater").pvalue
    upper = stats.ttest_1samp(differences, 0.05, alternative="less").pvalue
    assert verdict.sensitivity.equivalence_p == pytest.approx(max(lower, upper))


def test_nothing_seen_to_change_is_no_proof_that_nothing_does() -> None:
    # the metric is the same for all, but the orders are not, and elsewhere that may count
    qrels = {f"q{i}": {"r": 1} for i in range(40)}
    before = {q: ranked(["r", "a", "b"]) for q in qrels}
    after = {q: ranked(["r", "b", "a"]) for q in qrels}
    verdict = audit(before, after, qrels)
    assert (verdict.difference, verdict.decision) == (0.0, I)
    assert verdict.interval[1] > 0.05
    assert verdict.queries_needed == 328
    more = {f"q{i}": {"r": 1} for i in range(40 + 328)}
    settled = audit(dict.fromkeys(more, before["q0"]), dict.fromkeys(more, after["q0"]), more)
    assert settled.decision is N
    few = dict(list(qrels.items())[:10])
    assert audit(before, before, few).decision is I
