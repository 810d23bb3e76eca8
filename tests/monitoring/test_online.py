"""Experiments read from logged requests: who wins, by hand arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secondpass.monitoring.logged import Click, Logged
from secondpass.monitoring.online import Compared, Comparison, compare


def request(number: int, places: tuple[int, ...], experiment: Any) -> Logged:
    clicks = tuple(Click(float(number), place, place - 1, f"d{place}") for place in places)
    return Logged(
        id=str(number),
        at=float(number),
        query="q",
        model="m",
        digest="d",
        detail={"experiment": experiment},
        clicks=clicks,
    )


def interleaved(owners: list[int | None]) -> dict[str, Any]:
    return {"kind": "interleaved", "names": ["A: a", "B: b"], "owners": owners}


def test_interleaving_by_hand() -> None:
    owners = [0, 1, 1, None]
    rows = [
        request(0, (2,), interleaved(owners)),  # B
        request(1, (1,), interleaved(owners)),  # A
        request(2, (1, 2, 3), interleaved(owners)),  # B by two to one
        request(3, (1, 2), interleaved(owners)),  # a tie
        request(4, (4,), interleaved(owners)),  # nobody's document: a tie
        request(5, (), interleaved(owners)),  # nothing clicked
        request(6, (2, 2), interleaved(owners)),  # one document, clicked twice
    ]
    (found,), broken = compare(rows)
    assert (found.requests, found.counted, found.outcomes, broken) == (7, 6, (3, 1, 2), 0)
    assert found.difference == pytest.approx((3 + 2 / 2) / 6 - 0.5)
    assert found.decision == "cannot tell yet"
    assert -0.5 <= found.low < found.difference < found.high <= 0.5


def test_arms_by_hand() -> None:
    """The mean over many requests is the difference of the arms' rates, whatever the share."""
    rng, one = np.random.default_rng(1), Comparison("arms", ("A: a", "B: b"), share=0.3)
    for _ in range(4000):
        arm = int(rng.random() < 0.3)
        one.arm(arm, bool(rng.random() < (0.3, 0.5)[arm]))
    found = one.now()
    assert found.difference == pytest.approx(0.2, abs=4 * 0.5 / (4000 * 0.21) ** 0.5)
    assert found.low > 0.0
    assert found.decision == "B: b is clicked more"
    asked_a, hits_a, asked_b, hits_b = found.outcomes
    assert asked_a + asked_b == found.counted == 4000
    assert hits_b / asked_b > hits_a / asked_a


def test_an_arm_counts_by_its_share_and_against_what_was_known_before() -> None:
    one = Comparison("arms", ("A: a", "B: b"), share=0.2)
    one.arm(1, True)  # nothing known: half of the requests are taken to have a click
    one.arm(0, True)
    one.arm(0, False)
    by_hand = [(1 - 0.5) / 0.2, -(1 - 1.5 / 2) / 0.8, -(0 - 2.5 / 3) / 0.8]
    assert one.now().difference == pytest.approx(sum(by_hand) / 3)


def test_what_is_no_click_does_not_count() -> None:
    bought = Click(0.0, 2, 1, "d2", kind="bought")
    row = replace(request(0, (1,), interleaved([0, 1])), clicks=(Click(0.0, 1, 0, "d1"), bought, bought))
    (found,), _ = compare([row])
    assert found.outcomes == (0, 1, 0)


def test_experiments_are_told_apart_and_damage_is_counted() -> None:
    arms = {"kind": "arms", "names": ["A: a", "B: b"], "share": 0.5, "arm": 1}
    rows = [
        request(0, (1,), interleaved([0, 1])),
        request(1, (1,), arms),
        request(2, (1,), {**arms, "arm": 2}),
        request(3, (1,), {**arms, "share": "half"}),
        request(4, (3,), interleaved([0, 1])),
        request(5, (1,), {"kind": "other", "names": ["A", "B"]}),
        request(6, (1,), ["no experiment"]),
        request(7, (1,), None),
    ]
    found, broken = compare(rows)
    assert [(one.kind, one.requests) for one in found] == [("interleaved", 1), ("arms", 1)]
    assert broken == 5


def test_a_log_full_of_experiments_stays_bounded() -> None:
    rows = (request(n, (1,), {**interleaved([0]), "names": ["A: a", f"B: {n}"]}) for n in range(100))
    found, broken = compare(rows)
    assert (len(found), broken) == (20, 80)


def test_decisions() -> None:
    def said(low: float, high: float) -> str:
        return Compared("interleaved", ("A: a", "B: b"), 9, 9, (9, 0, 0), (low + high) / 2, low, high, 0.5).decision

    assert said(0.1, 0.2) == "B: b is clicked more"
    assert said(-0.2, -0.1) == "A: a is clicked more"
    assert said(-0.1, 0.1) == "cannot tell yet"
