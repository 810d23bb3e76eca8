"""The rules for scoring less: who goes on, who stays behind, when the top has settled, how far the first is ahead."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from secondpass.scoring.stopping import behind, going_on, lead, settled

values = st.lists(st.sampled_from((None, 0.0, 1.0, 2.0, 3.0, 4.0)), max_size=30)  # ties are what is to be got right


@settings(max_examples=150, deadline=None)
@given(values, values)
@example([1.0] * 10, [1.0])  # a tie goes to the earlier
@example([1.0] * 9, [0.0])  # fewer than 10 before
def test_settled_is_that_the_top_10_stays(before: list[float | None], new: list[float | None]) -> None:
    def top(some: list[float | None]) -> list[int]:
        return sorted((i for i, s in enumerate(some) if s is not None), key=lambda i: (-(some[i] or 0.0), i))[:10]

    full = sum(score is not None for score in before) >= 10
    assert settled([*before, *new], len(new)) == (full and top(before) == top([*before, *new]))


def test_lead_is_over_the_best_of_the_others() -> None:
    assert lead(np.array([1.5, 0.5, -2.0])) == 1.0
    assert lead(np.array([0.5, 1.5, -2.0])) == -1.0


logits = st.dictionaries(st.integers(0, 60), st.sampled_from((-1.0, 0.0, 0.5, 1.0, 8.0)), max_size=50)


@settings(max_examples=60, deadline=None)
@given(logits, st.sampled_from((0.01, 0.3, 0.5, 1.0)))
def test_who_goes_on_is_a_share_but_20_and_none_better_stays(some: dict[int, float], share: float) -> None:
    chosen = going_on(some, share)
    assert len(chosen) == len(set(chosen)) == min(max(math.ceil(share * len(some)), 20), len(some))

    def worth(place: int) -> float:
        return some[place] - 0.5 * math.log2(2 + place)

    order = [worth(place) for place in chosen]
    assert order == sorted(order, reverse=True)
    assert all(worth(place) <= order[-1] for place in some.keys() - set(chosen))


@settings(max_examples=60, deadline=None)
@given(values, st.sets(st.integers(0, 29)))
def test_those_outside_come_behind_in_their_own_order(some: list[float | None], upper: set[int]) -> None:
    moved = behind(some, upper)
    inside = [(moved[i], some[i]) for i in range(len(some)) if i in upper]
    assert all(now == before for now, before in inside)
    outside = [(now, before) for i, (now, before) in enumerate(zip(moved, some, strict=True)) if i not in upper]
    shifts = {round(before - now, 9) for now, before in outside if now is not None and before is not None}
    assert len(shifts) <= 1
    assert all(shift >= 0 for shift in shifts)
    assert [value is None for value in moved] == [value is None for value in some]
    low, high = [now for now, _ in outside if now is not None], [now for now, _ in inside if now is not None]
    assert not (low and high) or max(low) < min(high)
