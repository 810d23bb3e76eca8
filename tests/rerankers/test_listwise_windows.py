"""Orders of few become an order of all: nothing is lost, the best come to the front, and calls are counted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.rerankers.listwise_windows import sliding, sliding_calls, top_down


class Asked:
    """Orders the items of each window by `key`; raises once it was asked for `until` windows."""

    def __init__(self, key: Sequence[float], until: int = 10**9) -> None:
        self.key, self.until = key, until
        self.windows: list[list[int]] = []

    def __call__(self, windows: Sequence[Sequence[int]]) -> list[list[int]]:
        if len(self.windows) >= self.until:
            raise TimeoutError
        self.windows += [list(window) for window in windows]
        return [sorted(window, key=lambda item: self.key[item]) for window in windows]


sizes = st.integers(2, 12).flatmap(lambda window: st.tuples(st.just(window), st.integers(1, window - 1)))


@settings(deadline=None)
@given(st.integers(1, 60), sizes, st.randoms(use_true_random=False))
def test_sliding_brings_the_best_to_the_front(count: int, size: tuple[int, int], draw: random.Random) -> None:
    window, stride = size
    key = draw.sample(range(count), count)
    order, ask = list(range(count)), Asked(key)
    sliding(order, ask, window=window, stride=stride)
    best = window if count <= window else window - stride
    assert [key[item] for item in order[:best]] == list(range(min(best, count)))
    assert sorted(order) == list(range(count))
    assert len(ask.windows) == sliding_calls(count, window=window, stride=stride)
    assert {len(one) for one in ask.windows} == {min(window, count)}
    assert set().union(*ask.windows) == set(range(count))


def test_a_hundred_are_nine_windows() -> None:
    order, ask = list(range(100)), Asked(range(100))
    sliding(order, ask, window=20, stride=10)
    assert [one[0] for one in ask.windows] == [80, 70, 60, 50, 40, 30, 20, 10, 0]
    assert sliding_calls(100, window=20, stride=10) == 9


def test_a_window_that_would_reach_over_the_front_is_a_full_one() -> None:
    order, ask = list(range(25)), Asked(range(25))
    sliding(order, ask, window=20, stride=10)
    assert [(one[0], len(one)) for one in ask.windows] == [(5, 20), (0, 20)]


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(2, 12), st.randoms(use_true_random=False))
def test_top_down_puts_the_best_in_front(count: int, window: int, draw: random.Random) -> None:
    key = draw.sample(range(count), count)
    order, ask = list(range(count)), Asked(key)
    top_down(order, ask, window=window, most=10**9)
    best = window if count <= window else max(window // 2, 1)  # those in front of the pivot, and itself
    assert [key[item] for item in order[:best]] == list(range(min(best, count)))
    assert sorted(order) == list(range(count))
    assert all(2 <= len(one) <= window for one in ask.windows)
    assert set().union(*ask.windows) == set(range(count))


def test_what_top_down_costs() -> None:
    order, ask = list(range(100)), Asked(range(100))
    top_down(order, ask, window=20, most=18)
    assert len(ask.windows) == 6  # the first 20, then 80 in windows of 19 and the pivot
    assert [one[0] for one in ask.windows] == [0, *[9] * 5]
    assert order == list(range(100))
    few = [0, 50, *range(1, 50), *range(51, 100)]
    order, ask = list(range(100)), Asked([few.index(item) for item in range(100)])
    top_down(order, ask, window=20, most=18)
    assert len(ask.windows) == 7  # one more is better than the pivot, so those in front are ordered again
    assert order[:3] == [0, 50, 1]


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(2, 12), st.integers(1, 30), st.randoms(use_true_random=False))
def test_nothing_is_lost_whatever_is_answered(count: int, window: int, most: int, draw: random.Random) -> None:
    asked = 0

    def ask(windows: Sequence[Sequence[int]]) -> list[list[int]]:
        nonlocal asked
        asked += len(windows)
        return [draw.sample(list(window), len(window)) for window in windows]

    order = list(range(count))
    top_down(order, ask, window=window, most=most)
    assert sorted(order) == list(range(count))
    assert asked <= most


@pytest.mark.parametrize("until", range(10))
def test_the_order_so_far_is_there_when_it_ends_early(until: int) -> None:
    key = [99 - item for item in range(100)]  # the first stage has it the wrong way round
    order, ask = list(range(100)), Asked(key, until)
    with pytest.raises(TimeoutError) if until < 9 else nullcontext():
        sliding(order, ask, window=20, stride=10)
    begin = 90 - 10 * until
    assert order[: max(begin, 0)] == list(range(max(begin, 0)))  # not reached yet
    assert sorted(order) == list(range(100))
    if until:
        assert order[max(begin, 0)] == 99
    order, ask = list(range(100)), Asked(key, until)
    with suppress(TimeoutError):
        top_down(order, ask, window=20, most=18)
    assert sorted(order) == list(range(100))
    if until < 2:
        assert order == [*(range(19, -1, -1) if until else range(20)), *range(20, 100)]
