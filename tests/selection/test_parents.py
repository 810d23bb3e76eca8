"""Chunks of one document together, and not too many of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawn_rankings import gone, ranking
from secondpass.errors import InputError
from secondpass.selection.parents import Parents


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=14), st.integers(1, 4))
def test_groups_in_the_order_of_their_best_and_no_more_than_so_many(parents: list[int | None], most: int) -> None:
    found = ranking(["x"] * len(parents), metadata=[{} if one is None else {"doc": one} for one in parents])
    chosen = Parents("doc", most).select(found)
    order = [int(one) for one in chosen.ids]
    named = [parents[i] for i in order]
    seen: list[object] = []
    for i, parent in zip(order, named, strict=True):
        key = ("alone", i) if parent is None else parent
        if key in seen:
            assert key == seen[-1], "a group is torn apart"
        else:
            seen.append(key)
    firsts = [
        min(i for i in range(len(parents)) if parents[i] == p) if p is not None else i
        for i, p in zip(order, named, strict=True)
    ]
    assert firsts == sorted(firsts)
    for parent in set(parents) - {None}:
        all_of_it = [i for i, one in enumerate(parents) if one == parent]
        assert [i for i in order if parents[i] == parent] == all_of_it[:most]
        assert [int(one) for one in gone(chosen) if parents[int(one)] == parent] == all_of_it[most:]
    assert all(str(i) in chosen.ids for i, one in enumerate(parents) if one is None)
    assert chosen.trace[-1].detail["groups"] == len(seen)


def test_the_reason_names_the_parent() -> None:
    chosen = Parents("doc", 1).select(ranking(["x"] * 3, metadata=[{"doc": "manual"}, {"doc": 7}, {"doc": "manual"}]))
    assert (chosen.ids, gone(chosen)) == (("0", "1"), {"2": "1 of 'manual' are further up"})


def test_a_parent_is_compared_as_text() -> None:
    parents: list[dict[str, object]] = [
        {"doc": 7},
        {"doc": "8"},
        {"doc": "7"},
        {"doc": [1, 2]},
        {"doc": [1, 2]},
        {"doc": None},
    ]
    chosen = Parents("doc", 5).select(ranking(["x"] * 6, metadata=parents))
    assert chosen.ids == ("0", "2", "1", "3", "4", "5")
    assert chosen.trace[-1].detail["without_parent"] == 1


def test_reading_order_within_the_best_chunks() -> None:
    places = [30, 10, None, 20, "12", 10**400, float("nan"), 5]
    found = ranking(["x"] * 8, metadata=[{"doc": "a", "page": one} for one in places])
    assert Parents("doc", 8, position="page").select(found).ids == tuple("71305246")
    assert Parents("doc", 3, position="page").select(found).ids == tuple("102")  # the best three, and then their order
    assert Parents("doc", 8).select(found).ids == found.ids


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"parent": "", "most": 1}, "parent is ''"),
        ({"parent": "doc", "most": 1, "position": ""}, "position ''"),
        ({"parent": "doc", "most": 0}, "most is 0"),
        ({"parent": "doc", "most": True}, "most is True"),
        ({"parent": "doc", "most": 1.5}, "most is 1.5"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Parents(**options)  # type: ignore[arg-type]
