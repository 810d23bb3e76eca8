"""Which passages are shown together when not all of them can be: sliding windows, and top-down partitioning.

Knows: places in a list, and how an order of few becomes an order of all. Refuses to know: who orders them, and how.

Both change the list in place, window by window, so that it is the order so far whenever `ask` raises. `ask` gets
windows that do not wait for each other, and gives back the items of each in their new order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Ask", "sliding", "sliding_calls", "top_down"]

Ask = Callable[[Sequence[Sequence[int]]], Sequence[Sequence[int]]]


def sliding(order: list[int], ask: Ask, *, window: int, stride: int) -> None:
    """Order the last `window` items, then those `stride` further up, and so on to the front: the best rise all the way.

    Each window waits for the one before. Sun et al., "Is ChatGPT Good at Search?", EMNLP 2023.
    """
    begin = max(len(order) - window, 0)
    while True:
        (order[begin : begin + window],) = ask([order[begin : begin + window]])
        if begin == 0:
            return
        begin = max(begin - stride, 0)


def sliding_calls(count: int, *, window: int, stride: int) -> int:
    """How many windows `sliding` asks for."""
    return 1 + max(-(-(count - window) // stride), 0)


def top_down(order: list[int], ask: Ask, *, window: int, most: int) -> None:
    """Order the first `window` items, hold all others against the one in the middle of them, and order what is better.

    The middle one, the pivot, stands at the head of each window of others, and these do not wait for each other. What
    comes before it joins those in front, and the same begins with them, until nothing new does or they fit into one
    window. The rest stays behind, in the order that its windows gave. At most `most` windows are asked for; what is
    left over then stays behind as it was. Parry, MacAvaney and Ganguly, "Top-Down Partitioning for Efficient List-Wise
    Ranking", 2024, without their bound on how many may join.
    """
    size, pivots_place = len(order), window // 2 - 1
    while most > 0 and size > 1:
        (order[: min(window, size)],) = ask([order[: min(window, size)]])
        if size <= window:
            return
        pivot = order[pivots_place]
        better, rest = order[:pivots_place], order[pivots_place + 1 : window]
        others = order[window:size]
        step = window - 1
        windows = [[pivot, *others[at : at + step]] for at in range(0, len(others), step)][: most - 1]
        most -= 1 + len(windows)
        for found in ask(windows) if windows else ():
            place = list(found).index(pivot)
            better += found[:place]
            rest += found[place + 1 :]
        order[:size] = [*better, pivot, *rest, *others[step * len(windows) :]]
        if len(better) == pivots_place:
            return
        size = len(better)
