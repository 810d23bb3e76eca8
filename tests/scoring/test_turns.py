"""Workers that take turns: every call once, a fair share for each caller, the short before the long, none for ever."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.scoring.turns import Turns
from secondpass.types import Caller, Deadline


class Held:
    """One worker, kept busy by a first turn until all others wait; a clock that turns push on by what they take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []
        self.turns = Turns(1, clock=lambda: self.now)
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.futures: list[Future[None]] = [
            self.turns.submit(self._first, since=0.0, size=0.0, caller=Caller("the first"))
        ]
        self.begun.wait(10)

    def _first(self) -> None:
        self.begun.set()
        self.gate.wait(10)

    def add(self, name: str, seconds: float, *, size: float = 1.0, caller: Caller | None = None) -> None:
        def call() -> None:
            self.order.append(name)
            self.now += seconds

        self.futures.append(self.turns.submit(call, since=self.now, size=size, caller=caller))

    def run(self) -> list[str]:
        self.gate.set()
        for future in self.futures:  # more of them may come while they run
            wait([future], 10)
        self.turns.close()
        return self.order


def test_a_short_request_waits_for_a_few_times_its_own_size() -> None:
    held = Held()
    for _ in range(30):
        held.add("long", 1.0, size=10.0)

    def comes() -> None:
        held.order.clear()
        held.add("short", 1.0, size=1.0)

    held.futures.append(held.turns.submit(comes, since=-99.0, size=0.1))  # before all others
    order = held.run()
    assert order.index("short") == 1  # as soon as it has waited for as long as the others, for its size


def test_a_long_request_is_not_put_off_for_ever() -> None:
    """Another short one comes with each turn: without end, if it were not for the long one's age."""
    held, came = Held(), [0]

    def short() -> None:
        held.order.append("short")
        held.now += 1.0
        if came[0] < 200:
            came[0] += 1
            held.futures.append(held.turns.submit(short, since=held.now - 1.0, size=1.0))

    held.futures.append(held.turns.submit(short, since=0.0, size=1.0))
    held.add("long", 1.0, size=20.0)
    assert 10 < held.run().index("long") < 40


def test_callers_share_the_time_whatever_they_ask_for() -> None:
    """One asks for forty turns at once, another for ten, each three times as long."""
    held = Held()
    for _ in range(40):
        held.add("many", 1.0, caller=Caller("many"))
    for _ in range(10):
        held.add("few", 3.0, caller=Caller("few"))
    used = Counter[str]()
    for name in held.run()[:36]:  # as long as both have something to do
        used[name] += 3 if name == "few" else 1
        assert abs(used["many"] - used["few"]) <= 3


def test_a_weight_is_a_share() -> None:
    held = Held()
    for _ in range(30):
        held.add("double", 1.0, caller=Caller("double", 2.0))
        held.add("single", 1.0, caller=Caller("single"))
    first = Counter(held.run()[:30])
    assert first["double"] == pytest.approx(20, abs=1)


def test_who_comes_back_has_saved_nothing_up() -> None:
    held = Held()
    held.add("early", 1.0, caller=Caller("early"))

    def comes_back() -> None:
        held.order.clear()
        for _ in range(10):
            held.add("early", 1.0, caller=Caller("early"))

    for half in range(2):
        for _ in range(10):
            held.add("steady", 1.0, caller=Caller("steady"))
        if not half:
            held.futures.append(held.turns.submit(comes_back, since=0.0, size=1.0, caller=Caller("steady")))
    since = held.run()
    assert Counter(since) == {"early": 10, "steady": 10}
    assert Counter(since[:10])["early"] == pytest.approx(5, abs=1)  # no ten at once for what it did not use


def test_a_cancelled_turn_is_not_taken_and_a_failed_one_fails_alone() -> None:
    held = Held()

    def fails() -> None:
        raise ValueError("of no concern to others")

    held.add("one", 1.0)
    held.futures.append(held.turns.submit(fails, since=0.0, size=1.0))
    held.add("two", 1.0)
    held.add("never", 1.0)
    assert held.futures[-1].cancel()
    assert held.run() == ["one", "two"]
    with pytest.raises(ValueError, match="of no concern"):
        held.futures[2].result(0)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 9)), max_size=60),
    workers=st.integers(1, 4),
)
def test_every_turn_is_taken_once(calls: list[tuple[str, float]], workers: int) -> None:
    turns, taken, lock = Turns(workers), Counter[int](), threading.Lock()

    def call(number: int) -> Callable[[], int]:
        def run() -> int:
            with lock:
                taken[number] += 1
            return number

        return run

    futures = [turns.submit(call(i), since=0.0, size=size, caller=Caller(name)) for i, (name, size) in enumerate(calls)]
    assert [future.result(10) for future in futures] == list(range(len(calls)))
    turns.close()
    assert set(taken.values()) <= {1}


def test_callers_by_the_thousand_are_not_all_remembered() -> None:
    turns = Turns(1, clock=lambda: 0.0)  # turns that take no time leave nothing to remember
    for k in range(3000):
        turns.submit(lambda: None, since=0.0, size=0.0, caller=Caller(str(k))).result(10)
    turns.close()
    assert len(turns._lines) <= 1001


def test_a_caller_who_has_left_has_no_time() -> None:
    caller = Caller("someone")
    for deadline in (
        Deadline(caller=caller),
        Deadline.after_ms(1e9, caller=caller),
        Deadline.after_ms(None, caller=caller),
    ):
        assert deadline.remaining() > 1000
        assert not deadline.passed
    caller.leave()
    for deadline in (Deadline(caller=caller), Deadline.after_ms(1e9, caller=caller).sooner(1.0)):
        assert deadline.remaining() == 0
        assert deadline.passed
    assert Caller("a") == Caller("a")
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="weight"):
            Caller("a", weight)
