"""Keys: found by their digests, held to their rates."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from secondpass.serving.keys import Key, Keys, key_digest


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.text(), unique=True, min_size=1, max_size=5), st.text())
def test_a_key_is_known_by_its_digest_alone(names: list[str], other: str) -> None:
    keys = Keys(Key(hashlib.sha256(name.encode()).hexdigest(), name) for name in names)
    for name in names:
        assert getattr(keys.known(name), "name", None) == name
    assert (keys.known(other) is not None) == (other in names)


def test_what_cannot_be_encoded_is_no_key() -> None:
    assert Keys([Key(key_digest("a"))]).known("\udcff") is None


@given(st.floats(0.5, 10_000), st.lists(st.floats(0, 30), min_size=1, max_size=60))
def test_no_more_than_the_rate_and_who_waits_is_let_in(per_minute: float, pauses: list[float]) -> None:
    clock = Clock()
    keys, key = Keys(clock=clock), Key("d", per_minute=per_minute)
    let_in: list[float] = []
    for pause in pauses:
        clock.now += pause
        seconds = keys.wait(key)
        if seconds:
            clock.now += seconds * (1 + 1e-9) + 1e-9  # as it was told
            assert keys.wait(key) == 0
        let_in.append(clock.now)
    # ten seconds' worth may come at once, one at least; from then on the rate holds
    each = 60 / per_minute
    for count, at in enumerate(let_in, 1):
        assert (count - 1) * each <= at - let_in[0] + max(10 - each, 0) + each + 1e-6


def test_without_a_rate_there_is_none() -> None:
    keys = Keys(clock=Clock())
    assert not any(keys.wait(Key("d")) for _ in range(1000))
    assert not Keys()
    assert list(Keys([Key("d")])) == [Key("d")]
