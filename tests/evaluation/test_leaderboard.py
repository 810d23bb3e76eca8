"""A leaderboard: numbers as ir_measures and scipy have them, ranks as promised, notes where systems do not compare."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secondpass.errors import InputError
from secondpass.evaluation.leaderboard import Leaderboard, Pair, leaderboard
from secondpass.evaluation.metrics import evaluate
from secondpass.evaluation.systems import Price, System
from secondpass.evaluation.trec import Run

OF = 20


def judgments(queries: int) -> dict[str, dict[str, int]]:
    """Twenty relevant documents a query."""
    return {f"q{q}": {f"d{n}": 1 for n in range(OF)} for q in range(queries)}


def finding(name: str, found: Sequence[int], **known: Any) -> System:
    """A system that finds so many of the twenty, query by query: recall@20 is found / 20."""
    run: Run = {f"q{q}": [(f"d{n}", float(-n)) for n in range(count)] for q, count in enumerate(found)}
    return System(name, run, **known)


def compared(*systems: System, queries: int = 30, **options: Any) -> Leaderboard:
    asked: dict[str, Any] = {"metric": "recall@20", "permutations": 2_000} | options
    return leaderboard(systems, judgments(queries), **asked)


def ranks(board: Leaderboard) -> dict[str, int]:
    return {row.name: row.rank for row in board.rows}


def noisy(seed: int, queries: int = 12) -> tuple[dict[str, dict[str, int]], list[System]]:
    """Three systems of different strength on graded judgments, their candidates not the same."""
    rng = random.Random(seed)
    qrels = {f"q{q}": {f"d{n}": rng.choice([0, 0, 1, 2]) for n in range(25)} | {"d0": 1} for q in range(queries)}
    systems = []
    for name, skill in (("strong", 1.5), ("middling", 0.7), ("weak", 0.2)):
        run: dict[str, list[tuple[str, float]]] = {}
        for query, grades in qrels.items():
            scored = {f"d{n}": rng.gauss(skill * grades.get(f"d{n}", 0), 1) for n in range(40)}
            run[query] = sorted(scored.items(), key=lambda pair: -pair[1])[:20]
        systems.append(System(name, run))
    return qrels, systems


def test_means_agree_with_ir_measures() -> None:
    qrels, systems = noisy(1)
    board = leaderboard(systems, qrels, depth=20, permutations=100)
    measures = [ir_measures.nDCG @ 10, ir_measures.R @ 20, ir_measures.Judged @ 10]
    for row in board.rows:
        run = {query: dict(found) for query, found in next(s.run for s in systems if s.name == row.name).items()}
        theirs = ir_measures.calc_aggregate(measures, qrels, run)
        assert [row.mean, row.recall, row.judged_at_10] == pytest.approx([theirs[m] for m in measures], abs=1e-9)


def mean(sample: Any, axis: Any = -1) -> Any:
    return np.mean(sample, axis=axis)


def test_p_agrees_with_scipy() -> None:
    qrels, systems = noisy(2)
    values = {s.name: np.array(list(evaluate(s.run, qrels, "ndcg@10").values())) for s in systems}
    for pair in leaderboard(systems, qrels, depth=20).pairs:
        differences = values[pair.better] - values[pair.worse]
        assert pair.difference == pytest.approx(differences.mean())
        exact = stats.permutation_test((differences,), mean, permutation_type="samples", n_resamples=2**13)
        assert pair.p_value == pytest.approx(exact.pvalue, abs=1e-12)


def test_intervals_agree_with_scipy() -> None:
    qrels, systems = noisy(2, queries=150)
    board = leaderboard(systems, qrels, depth=20)
    values = {s.name: np.array(list(evaluate(s.run, qrels, "ndcg@10").values())) for s in systems}
    found = [(pair.interval, values[pair.better] - values[pair.worse]) for pair in board.pairs]
    for interval, sample in found + [(row.interval, values[row.name]) for row in board.rows]:
        theirs = stats.bootstrap((sample,), mean, n_resamples=5_000, method="BCa", rng=1).confidence_interval
        assert interval == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_p_is_corrected_over_all_pairs() -> None:
    qrels, systems = noisy(3)
    board = leaderboard(systems, qrels, depth=20)
    ordered = sorted(board.pairs, key=lambda pair: pair.p_value)
    stepped = [(3 - at) * pair.p_value for at, pair in enumerate(ordered)]
    expected = [min(max(stepped[: at + 1]), 1.0) for at in range(3)]
    assert [pair.corrected_p for pair in ordered] == pytest.approx(expected)
    assert all(pair.separated == (pair.corrected_p < 0.05) for pair in board.pairs)


def test_a_difference_that_only_an_uncorrected_p_shows_separates_nothing() -> None:
    # 6 of 6 in one direction: p = 2 / 2^6 = .031, which Holm makes .094 over three pairs
    base = [10] * 6
    board = compared(finding("a", [11] * 6), finding("b", base), finding("c", [12] * 6), queries=6)
    assert {pair.p_value for pair in board.pairs} == {2 / 2**6}
    assert set(ranks(board).values()) == {1}
    assert ranks(compared(finding("a", [11] * 6), finding("b", base), queries=6)) == {"a": 1, "b": 2}


def test_systems_that_cannot_be_told_apart_share_a_rank() -> None:
    level = [10] * 30
    twin = [9 + 2 * (n % 2) for n in range(30)]
    board = compared(finding("low", [5] * 30), finding("b", level), finding("a", level), finding("twin", twin))
    assert ranks(board) == {"a": 1, "b": 1, "twin": 1, "low": 4}
    assert [row.name for row in board.rows] == ["a", "b", "twin", "low"]
    same = next(pair for pair in board.pairs if {pair.better, pair.worse} == {"a", "b"})
    assert (same.difference, same.p_value, same.separated) == (0.0, 1.0, False)


def test_many_systems_can_still_be_told_apart() -> None:
    # 40 make 780 pairs: with 1,000 permutations a p is never below .001, which Holm would make .78
    board = compared(
        *(finding(f"s{n}", [10] * 20) for n in range(39)), finding("ahead", [11] * 20), queries=20, permutations=1_000
    )
    assert [row.rank for row in board.rows] == [1] + [2] * 39


def test_a_rank_is_a_count_and_where_it_is_no_order_a_note_says_so() -> None:
    steady, varied = [10] * 30, [19 * (n % 2) for n in range(30)]
    board = compared(finding("best", [11] * 30), finding("steady", steady), finding("varied", varied))
    assert [row.name for row in board.rows] == ["best", "steady", "varied"]  # by mean
    assert ranks(board) == {"best": 1, "steady": 2, "varied": 1}
    assert any("varied ranks before steady with a lower mean" in note for note in board.notes)
    assert not any("ranks before" in note for note in compared(finding("a", steady), finding("b", varied)).notes)


found = st.lists(st.integers(0, OF), min_size=12, max_size=12)


@settings(max_examples=25, deadline=None)
@given(st.lists(found, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_ranks_are_what_the_pairs_say_in_any_order_of_the_input(
    tables: list[list[int]], shuffle: random.Random
) -> None:
    systems = [finding(f"s{n}", values) for n, values in enumerate(tables)]
    board = compared(*systems, queries=12, permutations=200)
    for row in board.rows:
        assert row.rank == 1 + sum(pair.separated and pair.worse == row.name for pair in board.pairs)
    means = [row.mean for row in board.rows]
    assert means == pytest.approx(sorted(means, reverse=True), abs=1e-9)
    assert board.rows[0].rank == 1
    assert len(board.pairs) == len(systems) * (len(systems) - 1) // 2
    for pair in board.pairs:
        assert pair.difference >= 0.0
        assert pair.corrected_p >= pair.p_value
        if tables[int(pair.better[1:])] == tables[int(pair.worse[1:])]:
            assert ranks(board)[pair.better] == ranks(board)[pair.worse]
    shuffle.shuffle(systems)
    assert compared(*systems, queries=12, permutations=200) == board


def reordered(run: Run) -> Run:
    return {query: hits[::-1] for query, hits in run.items()}


def test_pools_that_differ_are_told() -> None:
    qrels = judgments(30)
    first = finding("first", [8] * 30)
    second = System("second", reordered(first.run))
    other = System("other", {**first.run, "q0": [("x", 1.0)], "q1": [("d0", 1.0)]})
    third = System("third", reordered(other.run))
    board = leaderboard([first, second, other, third], qrels, metric="recall@20", permutations=100)
    assert board.pools == (("first", "second"), ("other", "third"))
    by_names = {frozenset((pair.better, pair.worse)): pair.other_candidates for pair in board.pairs}
    assert by_names[frozenset(("first", "second"))] == by_names[frozenset(("other", "third"))] == 0
    assert by_names[frozenset(("first", "third"))] == 2
    assert "first and second reorder the same candidates" in board.notes
    assert any(note.startswith("other and third have other candidates than first in 2 queries") for note in board.notes)
    cut = leaderboard([first, second], qrels, metric="recall@20", depth=4, permutations=100)
    assert cut.pools == (("first",), ("second",))  # of the same eight, each has its own first four


def test_missing_and_unjudged_queries_are_told() -> None:
    half = finding("half", [20] * 15)
    full = finding("full", [*[8] * 30, 3])
    board = compared(half, full)
    rows = {row.name: row for row in board.rows}
    assert (rows["half"].mean, rows["half"].missing, rows["full"].mean, rows["full"].missing) == (0.5, 15, 0.4, 0)
    assert rows["half"].judged_at_10 == 1.0  # of the queries that it answers
    assert "half: 15 judged queries without results, counted as 0" in board.notes
    assert "1 query of the runs without judgments left out" in board.notes
    with_hopeless = leaderboard([half, full], judgments(30) | {"q40": {"d0": 0}}, permutations=100)
    assert any(note.startswith("1 judged query without a relevant document") for note in with_hopeless.notes)
    assert not any("too few to decide" in note for note in board.notes)
    assert any("too few to decide" in note for note in compared(half, full, queries=20).notes)
    assert any("sees only the first 5" in note for note in compared(half, full, depth=5).notes)


def seconds(of: Iterable[float]) -> dict[str, float]:
    return {f"q{n}": value for n, value in enumerate(of)}


def test_times_costs_and_fronts() -> None:
    times = np.random.default_rng(0).gamma(2.0, 0.01, size=30)
    machine = Price(machine_hour=3.6)
    board = compared(
        finding("good", [12] * 30, seconds=seconds(times), price=machine, licence="MIT"),
        finding("fast", [9] * 30, seconds=seconds(times / 10), price=machine),
        finding("outdone", [8] * 30, seconds=seconds(times / 2), price=machine),
        finding("bought", [10] * 30, price=Price(call=0.002)),
        finding("unknown", [13] * 30),
    )
    rows = {row.name: row for row in board.rows}
    p50, p95, p99 = 1000 * np.percentile(times, (50, 95, 99))
    good = rows["good"].latency
    assert good is not None
    assert (good.p50_ms, good.p95_ms, good.p99_ms) == pytest.approx((p50, p95, p99))
    assert rows["good"].per_1000 == pytest.approx(times.mean())  # 3.6 an hour is .001 a second
    assert rows["bought"].per_1000 == pytest.approx(2.0)
    assert rows["unknown"].per_1000 is None
    assert {name: row.fastest for name, row in rows.items()} == {
        "good": True,
        "fast": True,
        "outdone": False,
        "bought": None,
        "unknown": None,
    }
    assert {name: row.cheapest for name, row in rows.items()} == {
        "good": True,
        "fast": True,
        "outdone": False,
        "bought": False,  # dearer than "good", and worse
        "unknown": None,
    }
    assert (rows["good"].licence, rows["fast"].licence) == ("MIT", "")
    assert not any("time" in note or "cost" in note for note in board.notes)
    alone = compared(finding("a", [3] * 30, seconds=seconds(times)), finding("b", [2] * 30))
    assert [row.fastest for row in alone.rows] == [None, None]  # nothing to compare with


def test_times_and_prices_that_do_not_compare_are_told() -> None:
    board = compared(
        finding("other", [9] * 30, seconds={f"q{n}": 1.0 for n in range(10, 41)}),
        finding("few", [8] * 30, seconds=seconds([0.5] * 3)),
        finding("untimed", [7] * 30, price=Price(machine_hour=1.0)),
        finding("half known", [6] * 30, price=Price(machine_hour=1.0, call=0.001)),
        finding("euro", [9] * 30, price=Price(call=0.1, currency="EUR")),
        finding("euro too", [5] * 30, price=Price(call=0.2, currency="EUR")),
    )
    told = "\n".join(board.notes)
    assert "other: its times are of other queries than the judgments: 11 timed without judgments, 10 judged" in told
    assert "few: only 3 queries timed" in told
    assert "untimed: not timed, so its cost is unknown" in told
    assert "half known: not timed, so its cost is that of the calls alone" in told
    assert "costs in EUR and USD are not compared" in told
    rows = {row.name: row for row in board.rows}
    assert (rows["euro"].cheapest, rows["euro too"].cheapest) == (True, False)
    assert rows["half known"].cheapest is None  # the only one in its currency
    assert (rows["euro"].currency, rows["half known"].currency) == ("EUR", "USD")


def test_to_dict_is_json_with_a_schema() -> None:
    board = compared(finding("a", [3]), finding("b", [2]), queries=1)
    data = json.loads(json.dumps(board.to_dict(), allow_nan=False))
    assert data["schema"] == 1
    assert data["rows"][0]["interval"] == [None, None]  # one query: nothing is known of how they vary
    assert data["pools"] == [["a"], ["b"]]
    assert data["pairs"][0]["better"] == "a"
    assert set(data["pairs"][0]) == set(Pair.__dataclass_fields__)
    assert board.to_best() == board.pairs


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        (["a"], {}, "1 system given; a comparison needs at least two"),
        (["a", "b", "a"], {}, "2 systems are called 'a'"),
        (["a", "b"], {"depth": 0}, "depth is 0"),
        (["a", "b"], {"metric": "accuracy"}, "unknown metric 'accuracy'"),
        (["a", "b"], {"queries": 0}, "no judged queries"),
        (["a", "b"], {"permutations": 0}, "is 0; give at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(names: list[str], options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        compared(*(finding(name, range(20)) for name in names), **options)


def test_bad_systems_are_refused_by_name() -> None:
    good = finding("good", [3] * 30)
    with pytest.raises(InputError, match="stray: run and judgments share no query id"):
        compared(good, System("stray", {"z1": [("d1", 1.0)]}))
    with pytest.raises(InputError, match="'d1' occurs twice"):
        compared(good, System("twice", {"q0": [("d1", 1.0), ("d1", 0.5)]}))
    with pytest.raises(InputError, match="late: seconds"):
        compared(good, finding("late", [3] * 30, seconds={"q0": -1.0}))
