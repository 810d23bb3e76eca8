"""What is let in can be answered in its time; what is not is told when to come back, and then it is let in."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from secondpass.serving.admission import Admission, Entry, Refused


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_work_beyond_the_most_is_refused_until_it_is_done() -> None:
    clock = Clock()
    door = Admission(most=10.0, clock=clock)
    entries = [door.enter(4.0) for _ in range(2)]
    assert all(isinstance(entry, Entry) for entry in entries)
    refused = door.enter(4.0)
    assert refused == Refused(after=2.0, ahead=8.0)
    door.leave(entries[0])  # type: ignore[arg-type]
    assert isinstance(door.enter(4.0), Entry)


def test_who_waits_shortly_is_not_let_in_behind_much() -> None:
    clock = Clock()
    door = Admission(most=100.0, sharing=2.0, clock=clock)
    assert isinstance(door.enter(1.0, patience=0.1), Entry)  # it takes as long as it may, and no longer
    assert door.ahead == 0.1
    assert isinstance(door.enter(1.0, patience=0.1), Entry)
    refused = door.enter(1.0, patience=0.1)
    assert isinstance(refused, Refused)
    assert 0.05 <= refused.after <= 0.1 + 1e-9
    clock.now += refused.after  # what was there has had its time
    assert isinstance(door.enter(1.0, patience=0.1), Entry)


def test_a_request_larger_than_anything_is_let_in_alone() -> None:
    door = Admission(most=1.0, clock=Clock())
    alone = door.enter(50.0)
    assert isinstance(alone, Entry)
    assert isinstance(door.enter(0.1), Refused)
    door.leave(alone)
    door.leave(alone)  # twice changes nothing
    assert door.ahead == 0.0
    assert isinstance(door.enter(50.0), Entry)


def test_their_number_is_bounded_too() -> None:
    door = Admission(most=math.inf, requests=3, clock=Clock())
    assert [isinstance(door.enter(0.0), Entry) for _ in range(4)] == [True, True, True, False]


@given(
    st.lists(
        st.tuples(st.floats(0, 5), st.one_of(st.just(math.inf), st.floats(0.01, 5)), st.floats(0, 1), st.booleans()),
        max_size=40,
    )
)
def test_what_is_let_in_beside_others_never_exceeds_the_room(
    steps: list[tuple[float, float, float, bool]],
) -> None:
    clock = Clock()
    door = Admission(most=6.0, sharing=2.0, clock=clock)
    there: list[Entry] = []
    for size, patience, seconds, done in steps:
        clock.now += seconds
        found = door.enter(size, patience)
        if isinstance(found, Entry):
            assert not there or door.ahead <= min(6.0, 2 * patience) + 1e-9 or len(there) == 0
            there.append(found)
        else:
            assert found.after >= 0.05
            assert there, "nobody is turned away from an empty server"
        if done and there:
            door.leave(there.pop(0))
    for entry in there:
        door.leave(entry)
    assert door.ahead == 0.0
