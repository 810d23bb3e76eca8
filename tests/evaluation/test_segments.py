"""Every query is in one group of each grouping, and what is said of a group survives the correction."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secondpass.errors import InputError
from secondpass.evaluation.segments import Effect, Segment, segments, sentences
from secondpass.evaluation.significance import bootstrap_interval, holm, randomisation_p

FEW = 199  # permutations, where their number is not the point


def drawn(seed: int, sizes: dict[str, int], means: dict[str, float], sd: float = 0.2) -> tuple[Any, Any]:
    """Differences by query id, and the field that says which group each belongs to."""
    rng = np.random.default_rng(seed)
    differences, field = {}, {}
    for name, size in sizes.items():
        for i in range(size):
            key = f"{name}{i}"
            differences[key] = float(np.clip(rng.normal(means.get(name, 0.0), sd), -1, 1))
            field[key] = name
    return differences, field


def named(found: tuple[Segment, ...], name: str) -> Segment:
    return next(segment for segment in found if segment.name == name)


def groups_of(texts: list[str], grouping: str) -> dict[str, int]:
    queries = {str(i): text for i, text in enumerate(texts)}
    found = segments(dict.fromkeys(queries, 0.0), queries, permutations=FEW)
    return {segment.name: segment.queries for segment in found if segment.grouping == grouping}


def test_query_lengths_have_fixed_limits() -> None:
    texts = [" ".join("w" * n) for n in (1, 2, 3, 5, 6, 9, 10, 40)]
    assert groups_of([*texts, "", "?!"], "query length") == {
        "1–2 words": 2, "3–5 words": 2, "6–9 words": 2, "10 words or more": 2, "not given": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("What is BM25?", "what"),
        ("what's new", "what"),
        ("in which year did it start", "which"),
        ("to whom does it belong", "who"),
        ("Whose hat", "who"),
        ("when", "when"),
        ("where is it", "where"),
        ("why", "why"),
        ("How many", "how"),
        ("is it what they say", "yes or no"),
        ("Does it help?", "yes or no"),
        ("python sort list", "no question word"),
        ("a man who was tall", "who"),
        ("the tall man who was", "no question word"),
        ("", "not given"),
    ],
)
def test_question_words(text: str, name: str) -> None:
    other = "what" if name != "what" else "how"
    assert groups_of([text, other], "question word") == {name: 1, other: 1}


def test_fields_group_by_value_or_by_quartile() -> None:
    ids = [str(i) for i in range(100)]
    fields: Any = {
        "number": {key: int(key) for key in ids},
        "few": {key: int(key) % 3 for key in ids},
        "flag": {key: int(key) < 30 for key in ids},
        "text": {key: "b" if int(key) % 2 else "a" for key in ids[:90]} | {"90": "", "91": None},
    }
    found: Any = defaultdict(list)
    for segment in segments(dict.fromkeys(ids, 0.1), fields=fields, permutations=FEW):
        found[segment.grouping].append((segment.name, segment.queries))
    assert found == {
        "number": [("up to 24.75", 25), ("above 24.75 to 49.5", 25), ("above 49.5 to 74.25", 25), ("above 74.25", 25)],
        "few": [("0", 34), ("1", 33), ("2", 33)],
        "flag": [("False", 70), ("True", 30)],
        "text": [("a", 45), ("b", 45), ("not given", 10)],
    }


VALUES = st.one_of(st.none(), st.text(max_size=3), st.booleans(), st.integers(-99, 99), st.floats(-9, 9))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.floats(-1, 1), max_size=30),
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.text("who is 1?", max_size=30)),
    st.dictionaries(st.sampled_from("xyz"), st.dictionaries(st.text("abc", min_size=1, max_size=3), VALUES)),
)
def test_every_query_is_in_one_group_of_each_grouping(differences: Any, queries: Any, fields: Any) -> None:
    found = segments(differences, queries, fields=fields, permutations=49)
    total = sum(differences.values())
    groupings = defaultdict(list)
    for segment in found:
        groupings[segment.grouping].append(segment)
    for members in groupings.values():
        assert len(members) > 1
        assert len({segment.name for segment in members}) == len(members)
        assert sum(segment.queries for segment in members) == len(differences)
        assert sum(segment.queries * segment.difference for segment in members) == pytest.approx(total, abs=1e-6)
    for segment in found:
        assert (segment.effect is Effect.FEW) is (segment.queries < 10) is (segment.interval is None)
        rest = len(differences) - segment.queries
        assert (segment.differs is None) is (segment.queries < 10 or rest < 10)
        assert segment.queries * segment.difference + rest * segment.elsewhere == pytest.approx(total, abs=1e-6)
    json.dumps([segment.to_dict() for segment in found], allow_nan=False)
    # the order in which queries come does not matter
    backwards = dict(reversed(differences.items())), dict(reversed(queries.items()))
    turned = {name: dict(reversed(given.items())) for name, given in fields.items()}
    assert segments(*backwards, fields=turned, permutations=49) == found


def test_the_numbers_are_those_of_the_tests_corrected_together() -> None:
    differences, field = drawn(1, {"a": 30, "b": 40, "c": 50, "d": 9}, {"a": 0.09, "b": -0.07})
    other = {key: "x" if i % 3 else "y" for i, key in enumerate(differences)}
    found = segments(differences, fields={"one": field, "two": other}, permutations=FEW, seed=3)

    def values(segment: Segment) -> list[float]:
        labels = field if segment.grouping == "one" else other
        return [differences[key] for key in sorted(differences) if labels[key] == segment.name]

    tested = [segment for segment in found if segment.name != "d"]
    assert len(tested) == 5
    raw = [randomisation_p(values(segment), permutations=FEW, seed=3) for segment in tested]
    assert [segment.p_value for segment in tested] == pytest.approx(holm(raw))
    for segment in tested:
        assert segment.interval == bootstrap_interval(values(segment), resamples=FEW, seed=3)
        assert segment.difference == pytest.approx(np.mean(values(segment)))
    few = named(found, "d")
    assert (few.effect, few.p_value, few.interval, few.differs) == (Effect.FEW, None, None, None)


def apart(one: Any, other: Any, axis: int = -1) -> Any:
    return np.abs(np.mean(one, axis=axis) - np.mean(other, axis=axis))


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.1])
def test_against_the_rest_it_is_the_permutation_test_of_scipy(gap: float) -> None:
    differences, field = drawn(5, {"a": 25, "b": 40}, {"a": gap})
    found = segments(differences, fields={"f": field}, permutations=10_000)
    samples = [[differences[key] for key in differences if field[key] == name] for name in "ab"]
    reference = stats.permutation_test(
        samples, apart, vectorized=True, n_resamples=10_000, alternative="greater", rng=np.random.default_rng(1)
    )
    # two groups ask one question, so nothing is multiplied; the error of two estimates from 10,000 permutations each
    error = 5 * np.sqrt(2 * reference.pvalue * (1 - reference.pvalue) / 10_000) + 1e-4
    assert named(found, "a").p_elsewhere == named(found, "b").p_elsewhere
    assert named(found, "a").p_elsewhere == pytest.approx(reference.pvalue, abs=error)


def test_three_groups_against_the_rest_are_corrected() -> None:
    differences, field = drawn(2, {"a": 20, "b": 30, "c": 40}, {"a": 0.12})
    found = segments(differences, fields={"f": field}, permutations=10_000)
    raw = []
    for name in "abc":
        samples = [
            [differences[key] for key in differences if (field[key] == name) is inside] for inside in (True, False)
        ]
        raw.append(
            stats.permutation_test(
                samples, apart, vectorized=True, n_resamples=10_000, alternative="greater", rng=np.random.default_rng(1)
            ).pvalue
        )
    assert [segment.p_elsewhere for segment in found] == pytest.approx(holm(raw), abs=0.03)


def test_helping_here_is_not_helping_more_than_elsewhere() -> None:
    differences, field = drawn(0, {"a": 100, "b": 100, "c": 100}, dict.fromkeys("abc", 0.2))
    everywhere = segments(differences, fields={"f": field}, permutations=999)
    assert [(segment.effect, segment.differs) for segment in everywhere] == [(Effect.HELPS, False)] * 3
    differences, field = drawn(0, {"a": 100, "b": 100, "c": 100}, {"a": 0.2, "b": -0.2})
    apart = segments(differences, fields={"f": field}, permutations=999)
    assert [segment.effect for segment in apart] == [Effect.HELPS, Effect.HURTS, Effect.OPEN]
    assert [segment.differs for segment in apart] == [True, True, False]
    assert sentences(apart[1:]) == (
        f"Reranking hurts for f 'b': −{-apart[1].difference:.3f}, elsewhere +{apart[1].elsewhere:.3f} (100 queries).",
    )
    assert sentences(apart[2:]) == ("No group of queries stands out, of 1 tested.",)
    assert sentences(()) == ("No group of queries stands out, of 0 tested.",)


def test_without_an_effect_hardly_any_audit_names_a_group() -> None:
    named_one = told_apart = 0
    for seed in range(100):
        differences, field = drawn(seed, dict.fromkeys("abcdefgh", 20), {})
        found = segments(differences, fields={"f": field}, permutations=FEW)
        named_one += any(segment.effect is not Effect.OPEN for segment in found)
        told_apart += any(segment.differs for segment in found)
    # 5 of 100 are allowed on average, more than 12 have a probability of .002; uncorrected it would be about 34
    assert named_one <= 12
    assert told_apart <= 12


def test_bad_input_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'b'.*not finite"):
        segments({"a": 0.1, "b": float("nan")})
    with pytest.raises(InputError, match=r"field 'f' of query 'a'.*inf"):
        segments({"a": 0.1}, fields={"f": {"a": float("inf")}})
    bad: Any = {"f": {"a": ["x"]}}
    with pytest.raises(InputError, match=r"field 'f' of query 'a'.*\['x'\]"):
        segments({"a": 0.1}, fields=bad)
    with pytest.raises(InputError, match="'query length'"):
        segments({"a": 0.1}, fields={"query length": {"a": 1}})
    with pytest.raises(InputError, match="permutations is 0"):
        segments({"a": 0.1}, permutations=0)


def test_nothing_to_group() -> None:
    assert segments({}) == ()
    assert segments({"a": 0.1}, {"a": "what"}, fields={"f": {}}) == ()
