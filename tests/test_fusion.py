"""Fusion: the published formulas, and what every fusion owes to any rankings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.fusion import combined, convex, normalised, reciprocal_rank, reciprocal_ranks, shares
from secondpass.types import Document, Hit, Ranking, StageTrace, Status

Fusion = Callable[..., Ranking]

METHODS: dict[str, Fusion] = {
    "reciprocal rank": reciprocal_rank,
    "min-max": partial(convex, normalise="min-max"),
    "z-score": partial(convex, normalise="z-score"),
}
every_method = pytest.mark.parametrize("fuse", METHODS.values(), ids=METHODS.keys())


def ranking(scores: dict[str, float | None], name: str = "stage", query: str = "q") -> Ranking:
    """Documents in the order given, whatever their scores."""
    hits = tuple(
        Hit(Document(key, f"text of {key}"), score, Status.RETRIEVED, score, rank)
        for rank, (key, score) in enumerate(scores.items(), start=1)
    )
    return Ranking(query, hits, (StageTrace(name, 0.5),))


def by_score(scores: dict[str, float]) -> Ranking:
    return ranking({name: scores[name] for name in sorted(scores, key=lambda name: -scores[name])})


def scores_of(result: Ranking) -> dict[str, float | None]:
    return {hit.document.id: hit.score for hit in result.hits}


# Whole numbers keep what is mathematically equal equal in floats too, so that ties are ties
score_tables = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-20, 20).map(float), max_size=8)
rankings_st = st.lists(score_tables.map(by_score), min_size=1, max_size=4)


# The formulas


def test_reciprocal_rank_by_hand() -> None:
    one = ranking({"a": 9.0, "b": 8.0, "c": 7.0}, "one")
    two = ranking({"c": 0.9, "a": 0.1, "d": None}, "two")
    result = reciprocal_rank([one, two])
    assert result.ids == ("a", "c", "b", "d")
    assert scores_of(result) == pytest.approx({"a": 1 / 61 + 1 / 62, "c": 1 / 63 + 1 / 61, "b": 1 / 62, "d": 1 / 63})
    assert [entry.name for entry in result.trace] == ["one", "two", "fusion"]
    assert result.trace[-1].detail == {"method": "reciprocal rank", "weights": (1.0, 1.0), "k": 60}
    weighted = reciprocal_rank([one, two], weights=[3, 0.5], k=0)
    assert scores_of(weighted) == pytest.approx({"a": 3 + 0.25, "b": 1.5, "c": 1 + 0.5, "d": 0.5 / 3})


def test_convex_by_hand() -> None:
    one = ranking({"a": 10.0, "b": 6.0, "c": 2.0})
    two = ranking({"c": 0.75, "d": 0.5, "a": 0.25})
    result = convex([one, two], weights=[1, 3])
    assert scores_of(result) == pytest.approx({"a": 0.25, "b": 0.125, "c": 0.75, "d": 0.375})
    assert result.ids == ("c", "d", "a", "b")
    assert result.trace[-1].detail == {"method": "convex", "weights": (0.25, 0.75), "normalise": "min-max"}
    theoretical = convex([one, two], minima=[0, -1])  # (score − minimum) / (maximum − minimum)
    assert scores_of(theoretical) == pytest.approx(
        {"a": (1 + 1.25 / 1.75) / 2, "b": 0.6 / 2, "c": (0.2 + 1) / 2, "d": 1.5 / 1.75 / 2}
    )
    assert theoretical.trace[-1].detail["minima"] == (0, -1)
    deviation = math.sqrt(32 / 3)
    z_scores = convex([one], normalise="z-score")
    assert scores_of(z_scores) == pytest.approx({"a": 4 / deviation, "b": 0, "c": -4 / deviation})


def brute_force(fuse: Fusion, rankings: Sequence[Ranking], weights: Sequence[float]) -> list[tuple[str, float]]:
    """Both formulas once more, document by document, with ties as promised."""
    rows = []
    for name in {name for item in rankings for name in item.ids}:
        total, places = 0.0, []
        for number, (item, weight) in enumerate(zip(rankings, weights, strict=True)):
            held = {hit.document.id: hit for hit in item.hits}
            values = [hit.score for hit in item.hits if hit.score is not None]
            if name in held:
                places.append((weight == 0, held[name].first_rank, number))
            if fuse is reciprocal_rank:
                total += weight / (60 + (held[name].first_rank or 0)) if name in held else 0
                continue
            share = weight / sum(weights)
            if fuse is METHODS["min-max"]:
                low, high = (min(values), max(values)) if values else (0, 0)
                if name in held:
                    total += share * (((held[name].score or 0) - low) / (high - low) if high > low else 1)
            elif values:
                mean = sum(values) / len(values)
                deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
                value = (held[name].score or 0) if name in held else min(values)
                flat = 0 if name in held else -1
                total += share * ((value - mean) / deviation if max(values) > min(values) else flat)
        rows.append((round(-total, 9), min(places), name))
    return [(name, -total) for total, _, name in sorted(rows)]


@every_method
@settings(max_examples=80, deadline=None)
@given(rankings=rankings_st, data=st.data())
def test_the_same_as_brute_force(fuse: Fusion, rankings: list[Ranking], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(rankings), max_size=len(rankings)).filter(any))
    result = fuse(rankings, weights=weights)
    expected = brute_force(fuse, rankings, weights)
    found = scores_of(result)
    if fuse is not reciprocal_rank:  # a document that only rankings of weight 0 hold has no score there
        counted = {name for item, weight in zip(rankings, weights, strict=True) if weight for name in item.ids}
        assert {name for name, score in found.items() if score is not None} == counted
        expected = [(name, score) for name, score in expected if name in counted]
        found = {name: score for name, score in found.items() if name in counted}
    assert found == pytest.approx(dict(expected), abs=1e-8)
    order = [name for name, _ in expected]
    for before, after in pairwise(order):  # rounding may decide between equal sums
        if abs(dict(expected)[before] - dict(expected)[after]) > 1e-8:
            assert result.ids.index(before) < result.ids.index(after)


# What every fusion owes


@every_method
@settings(max_examples=80, deadline=None)
@given(rankings=rankings_st)
def test_the_union_each_once_best_first(fuse: Fusion, rankings: list[Ranking]) -> None:
    result = fuse(rankings)
    assert sorted(result.ids) == sorted({name for item in rankings for name in item.ids})
    assert [hit.first_rank for hit in result.hits] == list(range(1, len(result) + 1))
    assert all(hit.first_score == hit.score and hit.status is Status.RETRIEVED for hit in result.hits)
    values = [hit.score for hit in result.hits if hit.score is not None]
    assert values == sorted(values, reverse=True)
    assert len(values) == len(result)


@every_method
@settings(max_examples=80, deadline=None)
@given(rankings=rankings_st, data=st.data())
def test_the_order_of_the_rankings_decides_nothing_but_ties(
    fuse: Fusion, rankings: list[Ranking], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(rankings))
    assert scores_of(fuse(rankings)) == scores_of(fuse(shuffled))  # exactly: sums do not depend on the order


@every_method
@settings(max_examples=80, deadline=None)
@given(table=score_tables)
def test_one_ranking_keeps_its_order(fuse: Fusion, table: dict[str, float]) -> None:
    given_ranking = by_score(table)
    assert fuse([given_ranking]).ids == given_ranking.ids


@every_method
@settings(max_examples=80, deadline=None)
@given(rankings=rankings_st, silent=score_tables, place=st.integers(0, 4))
def test_weight_0_has_no_say_in_the_order_of_the_others(
    fuse: Fusion, rankings: list[Ranking], silent: dict[str, float], place: int
) -> None:
    more = [*rankings[:place], by_score(silent), *rankings[place:]]
    weights = [1.0] * len(rankings)
    weights.insert(min(place, len(rankings)), 0.0)
    without, result = fuse(rankings), fuse(more, weights=weights)
    assert result.ids[: len(without)] == without.ids
    assert set(result.ids) == set(without.ids) | set(silent)


@pytest.mark.parametrize("method", ["min-max", "z-score"])
@settings(max_examples=80, deadline=None)
@given(one=score_tables, two=score_tables, factor=st.integers(1, 50), shift=st.integers(-50, 50))
def test_moving_and_stretching_one_rankings_scores_changes_nothing(
    method: str, one: dict[str, float], two: dict[str, float], factor: int, shift: int
) -> None:
    fuse = METHODS[method]
    moved = {name: factor * score + shift for name, score in one.items()}
    before, after = fuse([by_score(one), by_score(two)]), fuse([by_score(moved), by_score(two)])
    assert scores_of(after) == pytest.approx(scores_of(before), abs=1e-9)
    if method == "min-max":  # whole numbers: the very same fractions
        assert after.ids == before.ids


@every_method
@settings(max_examples=80, deadline=None)
@given(rankings=rankings_st, data=st.data())
def test_moving_up_never_lowers_the_fused_score(fuse: Fusion, rankings: list[Ranking], data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(rankings) - 1))
    scores = {hit.document.id: hit.score or 0.0 for hit in rankings[number].hits}
    name = data.draw(st.sampled_from(sorted(scores) or ["a"]))
    better = by_score({**scores, name: scores.get(name, -20.0) + data.draw(st.integers(1, 45))})
    before = scores_of(fuse(rankings)).get(name) if name in scores else None
    after = scores_of(fuse([*rankings[:number], better, *rankings[number + 1 :]]))[name]
    assert after is not None
    if before is not None:
        assert after >= before - 1e-12


@every_method
def test_ties_go_by_best_place_then_by_the_order_of_the_rankings(fuse: Fusion) -> None:
    one, two = ranking({"a": 2.0, "b": 1.0}), ranking({"b": 2.0, "a": 1.0})
    assert fuse([one, two]).ids == ("a", "b")
    assert fuse([two, one]).ids == ("b", "a")
    apart = [ranking({"x": 2.0, "y": 1.0}), ranking({"z": 2.0, "w": 1.0})]
    assert fuse(apart).ids == ("x", "z", "y", "w")


@every_method
def test_empty_rankings(fuse: Fusion) -> None:
    full, empty = ranking({"a": 2.0, "b": 1.0}), ranking({})
    assert len(fuse([empty, empty])) == 0
    assert fuse([empty, full]).ids == fuse([full, empty]).ids == full.ids


@every_method
def test_a_list_of_equal_scores_counts_and_divides_nothing_by_zero(fuse: Fusion) -> None:
    result = fuse([ranking({"a": 3.0, "b": 3.0}), ranking({"c": 9.0, "b": 8.5, "d": 7.0})])
    assert result.ids[0] == "b"  # the only one that both found
    single = fuse([ranking({"d": 5.0}), ranking({"a": 1.0, "d": 1.0})])
    assert single.ids == ("d", "a")


@pytest.mark.parametrize("normalise", ["min-max", "z-score"])
def test_documents_without_a_finite_score_come_last_by_position(normalise: str) -> None:
    one = ranking({"none": None, "a": 1.0, "nan": math.nan, "low": -5.0})
    two = ranking({"infinite": math.inf, "nan": -math.inf, "low": 1.0, "none too": None})
    result = convex([one, two], normalise=normalise)  # type: ignore[arg-type]
    assert result.ids == ("a", "low", "none", "infinite", "nan", "none too")
    assert [hit.score for hit in result.hits[2:]] == [None] * 4
    assert all(hit.score is not None and math.isfinite(hit.score) for hit in result.hits[:2])


def test_what_is_kept() -> None:
    here, there = Document("a", "here"), Document("a", "there")
    hit = Hit(here, 3.0, Status.SCORED, first_score=9.0, first_rank=4, probability=0.5, span=(0, 4))
    one = Ranking("q", (hit,), (StageTrace("first"), StageTrace("reranker")))
    two = Ranking("q", (Hit(there, None, Status.BEYOND_DEPTH),), (StageTrace("other"),), "q7")
    result = reciprocal_rank([one, two])
    assert result.hits == (Hit(here, 2 / 61, Status.RETRIEVED, 2 / 61, 1),)
    assert [entry.name for entry in result.trace] == ["first", "reranker", "other", "fusion"]
    assert result.query_id == "q7"


@every_method
@pytest.mark.parametrize(
    ("rankings", "options", "message"),
    [
        ([], {}, "no rankings"),
        ([ranking({}), ranking({}, query="other")], {}, "ranking 1 answers 'other', ranking 0 'q'"),
        ([Ranking("q", ranking({"a": 1.0}).hits * 2)], {}, "holds the document 'a' twice"),
        ([ranking({})], {"weights": [1, 2]}, "1 rankings but 2 weights"),
        ([ranking({})], {"weights": [0]}, "at least one above 0"),
        ([ranking({}), ranking({})], {"weights": [1, -1]}, "from 0 up"),
        ([ranking({}), ranking({})], {"weights": [1, math.nan]}, "finite"),
    ],
)
def test_what_cannot_be_fused_is_said(fuse: Fusion, rankings: list[Ranking], options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=message):
        fuse(rankings, **options)


@pytest.mark.parametrize("k", [-1, math.inf, math.nan, "60"])
def test_a_k_that_cannot_be(k: float) -> None:
    with pytest.raises(InputError, match="from 0 up"):
        reciprocal_rank([ranking({"a": 1.0})], k=k)


def test_minima_that_cannot_be() -> None:
    one = ranking({"a": 1.0, "b": -0.5})
    for minima, message in (([0], "the minimum is 0, but there is a score of -0.5"), ([0, 0], "but 2 minima")):
        with pytest.raises(InputError, match=message):
            convex([one], minima=minima)
    with pytest.raises(InputError, match="'min-max' only"):
        convex([one], minima=[-1], normalise="z-score")
    with pytest.raises(InputError, match="finite"):
        convex([one], minima=[-math.inf])
    with pytest.raises(InputError, match="known are 'min-max' and 'z-score'"):
        convex([one], normalise="softmax")  # type: ignore[arg-type]


# Columns


def test_columns_of_one_rankings_two_scores() -> None:
    model, first = [4.0, 2.0, None], [10.0, 30.0, 20.0]
    columns = [normalised(model), normalised(first)]
    assert columns == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.5]]
    assert combined(columns, shares([3, 1], 2)) == [0.75, 0.25, 0.125]
    assert reciprocal_ranks([1, None, 3], 1) == [0.5, 0.0, 0.25]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=12))
@example([None, 0.1, 0.1, 0.1])
@example([5e-324, 0.0])
def test_min_max_lies_between_0_and_1_and_keeps_the_order(scores: list[float | None]) -> None:
    result = normalised(scores)
    assert all(0 <= value <= 1 for value in result)
    pairs = [(score, value) for score, value in zip(scores, result, strict=True) if score is not None]
    assert all(one[1] <= two[1] for one in pairs for two in pairs if one[0] <= two[0])
    assert all(value == 0 for score, value in zip(scores, result, strict=True) if score is None)


def test_no_scores_and_scores_that_cannot_be() -> None:
    assert normalised([]) == []
    assert normalised([None, None]) == [0.0, 0.0]
    assert normalised([None, 0.0], lowest=0.0) == [0.0, 0.0]
    assert normalised([None, 3.0], "z-score") == [-1.0, 0.0]
    with pytest.raises(InputError, match="NaN or infinite"):
        normalised([1.0, math.nan])
