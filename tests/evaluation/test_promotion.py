"""A model is promoted for a gain or a saving that the numbers show, and never past what it may forget."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.evaluation.audit import audit
from secondpass.evaluation.difference import Change
from secondpass.evaluation.promotion import Comparison, Ground, compared, decide, judged_promotion
from secondpass.evaluation.significance import holm
from secondpass.evaluation.systems import System
from secondpass.evaluation.trec import Run

IDS = [f"d{n}" for n in range(10)]


def change(difference: float, low: float, high: float, p: float = 0.01, before: float = 0.5) -> Change:
    return Change(before, before + difference, difference, (low, high), p)


def one(quality: Change, time: Change | None = None, queries: int = 100) -> Comparison:
    return Comparison("set", queries, 0.4, quality, 0.05, 900, None if time is None else (40.0, 40.0), time)


GAINS = change(0.03, 0.01, 0.05)
NOTHING = change(0.001, -0.004, 0.006, 0.7)
FAST = change(-0.5, -0.6, -0.4, before=1.0)
SAME_TIME = change(0.01, -0.02, 0.04, 0.6, before=1.0)
KEPT = (one(NOTHING),)


@pytest.mark.parametrize(
    ("quality", "time", "ground"),
    [
        (GAINS, None, Ground.GAIN),
        (GAINS, SAME_TIME, Ground.GAIN),
        (change(0.03, 0.01, 0.05, 0.05), None, Ground.NOT_SHOWN),  # p has to be below .05
        (change(0.03, 0.01, 0.05, 0.0499), None, Ground.GAIN),
        (change(0.03, 0.0, 0.05), None, Ground.NOT_SHOWN),  # and the interval above 0
        (change(-0.03, -0.05, -0.01), None, Ground.WORSE),
        (change(-0.03, -0.05, 0.0), None, Ground.NOT_SHOWN),
        (NOTHING, None, Ground.NOT_SHOWN),
        (NOTHING, SAME_TIME, Ground.NOT_SHOWN),
        (NOTHING, FAST, Ground.CHEAPER),
        (change(-0.005, -0.0099, -0.001), FAST, Ground.CHEAPER),  # worse, but surely by less than .01
        (change(-0.005, -0.01, -0.001), FAST, Ground.WORSE),  # .01 itself is not excluded
        (change(0.0, -0.01, 0.01), FAST, Ground.NOT_SHOWN),
        (NOTHING, change(-0.2, -0.3, -0.1, before=1.0), Ground.CHEAPER),  # a tenth at least
        (NOTHING, change(-0.2, -0.3, -0.0999, before=1.0), Ground.NOT_SHOWN),
        (change(0.03, -inf, inf, 1.0), FAST, Ground.NOT_SHOWN),  # one query
    ],
)
def test_the_rule_in_the_domain(quality: Change, time: Change | None, ground: Ground) -> None:
    assert decide(one(quality, time), KEPT) is ground


@pytest.mark.parametrize(
    ("quality", "refused"),
    [
        (change(-0.01, -0.03, 0.01), False),  # .01 is allowed, more is not
        (change(-0.5 + 0.49, -0.03, 0.01), False),  # rounding: this is a little more than .01
        (change(-0.0101, -0.03, 0.01, 0.3), True),  # whether or not it is significant
        (change(0.0, -0.5, 0.5), False),  # what is not excluded is said, and not refused
        (change(-0.009, -0.05, -0.0101), True),  # skewed: the interval excludes what the mean allows
        (change(0.0, -inf, inf, 1.0), False),
    ],
)
def test_the_rule_outside_the_domain(quality: Change, refused: bool) -> None:
    assert (decide(one(GAINS, FAST), [one(NOTHING), one(quality)]) is Ground.FORGETS) == refused
    assert (decide(one(GAINS), [one(quality), one(NOTHING)]) is Ground.FORGETS) == refused


def test_bounds_are_the_caller_s() -> None:
    loses = one(change(-0.03, -0.05, -0.02), FAST)
    assert decide(loses, KEPT) is Ground.WORSE
    assert decide(loses, KEPT, delta=0.06) is Ground.CHEAPER
    assert decide(one(GAINS), [loses], forget=0.02) is Ground.FORGETS
    assert decide(one(GAINS), [loses], forget=0.04) is Ground.GAIN
    assert decide(one(GAINS), [one(change(-1e-6, -0.1, 0.1))], forget=0.0) is Ground.FORGETS
    for bounds in ({"delta": -0.1}, {"delta": float("nan")}, {"forget": inf}):
        with pytest.raises(InputError, match=f"{next(iter(bounds))} is"):
            decide(loses, KEPT, **bounds)
    with pytest.raises(InputError, match="no general collection"):
        decide(loses, [])


@st.composite
def changes(draw: st.DrawFn) -> Change:
    low, middle, high = sorted(draw(st.tuples(*[st.floats(-0.2, 0.2)] * 3)))
    return change(middle, low, high, draw(st.floats(0.0, 1.0)), 1.0)


@given(changes(), changes(), st.none() | changes(), st.floats(0.0, 0.1), st.floats(0.0, 0.1))
@settings(max_examples=500, deadline=None)
def test_a_worse_model_is_never_promoted(
    inside: Change, outside: Change, time: Change | None, delta: float, forget: float
) -> None:
    ground = decide(one(inside, time), [one(outside)], delta=delta, forget=forget)
    promoted = ground in (Ground.GAIN, Ground.CHEAPER)
    if promoted:
        assert outside.difference >= -forget - 1e-9
        assert inside.interval[0] > (0.0 if ground is Ground.GAIN else -delta)
        assert inside.difference > -delta
        assert ground is Ground.GAIN or (time is not None and time.difference <= -0.1)
    stricter = decide(one(inside, time), [one(outside)], delta=delta / 2, forget=forget / 2)
    assert promoted or stricter not in (Ground.GAIN, Ground.CHEAPER), "a stricter bound promotes nothing more"
    slower = decide(one(inside), [one(outside)], delta=delta, forget=forget)
    assert slower is ground or ground is Ground.CHEAPER, "time is a ground where there is no gain, and else none"


def orders(seed: int, queries: int, quality: float) -> dict[str, list[tuple[str, float]]]:
    """A run that puts d0, the relevant one, on top the more often the higher `quality` is."""
    rng = np.random.default_rng(seed)
    run = {}
    for n in range(queries):
        rest = [str(name) for name in rng.permutation(IDS[1:])]
        at = 0 if rng.random() < quality else int(rng.integers(1, 10))
        ids = [*rest[:at], IDS[0], *rest[at:]]
        run[f"q{n}"] = [(name, float(-rank)) for rank, name in enumerate(ids)]
    return run


def compare(old: Run, new: Run, seconds: tuple[float, float] | None = None) -> Comparison:
    qrels = {query_id: {"d0": 1} for query_id in old}
    times = [None, None] if seconds is None else [dict.fromkeys(old, s) for s in seconds]
    first = orders(99, len(old), 0.0)  # so many draws that what is left of them is far below the tolerances
    return compared("set", first, System("a", old, times[0]), System("b", new, times[1]), qrels, permutations=4000)


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=12, deadline=None)
def test_two_models_cannot_each_beat_the_other(seed: int, queries: int, better: float, worse: float) -> None:
    a, b = orders(seed, queries, better), orders(seed + 1, queries, worse)
    there, back = compare(a, b), compare(b, a)
    assert there.change.difference == pytest.approx(-back.change.difference)
    assert there.change.p_value == back.change.p_value
    assert np.allclose(there.change.interval, np.negative(back.change.interval[::-1]), atol=0.05), "but for the draws"
    assert there.detectable == pytest.approx(back.detectable)
    for found in (there, back):
        assert found.change.difference > 0.0 or decide(found, KEPT) in (Ground.WORSE, Ground.NOT_SHOWN)
    assert decide(compare(a, a), KEPT) is Ground.NOT_SHOWN


def test_the_numbers_are_those_of_an_audit() -> None:
    old, new = orders(1, 80, 0.3), orders(2, 80, 0.6)
    qrels = {query_id: {"d0": 1} for query_id in old}
    found, verdict = compare(old, new), audit(old, new, qrels, permutations=4000)
    assert (found.change.before, found.change.after) == pytest.approx((verdict.first, verdict.reranked))
    assert found.change.difference == pytest.approx(verdict.difference)
    assert found.change.interval == pytest.approx(verdict.interval)
    assert found.change.p_value == verdict.p_value
    assert found.detectable == verdict.detectable
    assert found.queries == 80
    assert decide(found, KEPT) is Ground.GAIN


def test_time_is_the_share_of_the_incumbent_s() -> None:
    a = orders(1, 40, 0.5)
    found = compare(a, a, (0.2, 0.05))
    assert found.mean_ms == pytest.approx((200.0, 50.0))
    assert found.time is not None
    assert (found.time.before, found.time.after, found.time.difference) == pytest.approx((1.0, 0.25, -0.75))
    assert compare(a, a).time is None
    assert compare(a, a, (0.0, 0.1)).time is None


def test_runs_that_nothing_can_be_said_of_are_an_error() -> None:
    a = orders(1, 5, 0.5)
    systems = System("a", a), System("b", a)
    with pytest.raises(InputError, match="set: first stage: run and judgments share no query id"):
        compared("set", {"other": []}, *systems, {query_id: {"d0": 1} for query_id in a})
    with pytest.raises(InputError, match="not one query has a relevant document where nDCG@10 sees it"):
        compared("set", a, *systems, {query_id: {"elsewhere": 1} for query_id in a})


def test_a_refusal_says_what_so_many_queries_can_show() -> None:
    domain = compare(orders(1, 30, 0.5), orders(2, 30, 0.55), (0.1, 0.1))
    found = judged_promotion(domain, KEPT, ("a", "b"))
    assert found.ground is Ground.NOT_SHOWN
    assert domain.detectable is not None
    assert (
        f"30 queries that vary like these show, 8 times out of 10, a change of {domain.detectable:.3f}" in found.reason
    )
    assert "more; for 0.01 it takes about" in found.reason
    assert "nor does it save a tenth of the time (+0%)" in found.reason
    single = replace(domain, queries=1, change=change(0.1, -inf, inf, 1.0), detectable=None, needed=None)
    assert "One judged query shows nothing; judge at least 25" in judged_promotion(single, KEPT, ("a", "b")).reason
    same = orders(1, 30, 0.5)
    assert "Not one query's value changed" in judged_promotion(compare(same, same), KEPT, ("a", "b")).reason


def test_what_happens_outside_is_said_with_its_interval_and_corrected_p() -> None:
    general = [one(change(-0.004, -0.012, 0.004, 0.03)), one(change(0.01, -0.002, 0.02, 0.02))]
    found = judged_promotion(one(GAINS), general, ("a", "b"), metric="mrr@10")
    assert found.promoted
    assert found.general_p == holm([0.03, 0.02]) == (0.04, 0.04)
    assert found.outside == (
        "MRR@10 on set changes by −0.004 (95% interval −0.012 to +0.004, corrected p = 0.040): a loss of up to 0.012 "
        "is not excluded",
        "MRR@10 on set changes by +0.010 (95% interval −0.002 to +0.020, corrected p = 0.040): a loss of more than "
        "0.01 is excluded",
    )
    forgets = judged_promotion(one(GAINS), [one(change(-0.02, -0.03, -0.01)), *general], ("a", "b"))
    assert not forgets.promoted
    assert forgets.reason.startswith("It forgets: nDCG@10 on set changes by −0.020 (95% interval −0.030 to −0.010)")
    unknown = judged_promotion(one(GAINS), [one(change(0.0, -inf, inf, 1.0), queries=1)], ("a", "b"))
    assert "one judged query shows nothing" in unknown.outside[0]
    assert any("set: only 1 judged query" in note for note in unknown.notes)


@pytest.mark.parametrize(
    ("quality", "time", "says"),
    [
        (
            GAINS,
            None,
            "A significant gain: nDCG@10 on set changes by +0.030 (95% interval +0.010 to +0.050, p = 0.010).",
        ),
        (replace(GAINS, p_value=0.0001), None, "+0.010 to +0.050, p < 0.001)."),
        (NOTHING, FAST, "it takes −50% time a query (−60% to −40%), and nDCG@10 on set changes by +0.001"),
        (change(-0.03, -0.05, -0.01), FAST, "It is worse: "),
        (change(0.0, -0.05, 0.01), FAST, "it is faster (−50%), but a loss of 0.01 or more is not excluded"),
        (NOTHING, None, "; nothing was timed"),
    ],
)
def test_every_ground_has_its_words(quality: Change, time: Change | None, says: str) -> None:
    assert says in judged_promotion(one(quality, time), KEPT, ("a", "b")).reason


def test_a_model_below_the_first_stage_is_noted() -> None:
    found = judged_promotion(replace(one(GAINS), first=0.6), KEPT, ("old", "new"))
    assert "set: new ranks worse than the first stage alone, 0.530 to 0.600 nDCG@10" in found.notes


def test_it_is_data() -> None:
    found = judged_promotion(one(change(0.1, -inf, inf, 1.0), FAST), KEPT, ("a", "b"), notes=["mine"])
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (told["schema"], told["promoted"], told["ground"]) == (1, False, "NOT SHOWN")
    assert told["in_domain"]["change"]["interval"] == [None, None]
    assert told["notes"][-1] == "mine"
