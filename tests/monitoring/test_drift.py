"""Promises of the watch's arithmetic, against scipy and by simulation with fixed seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secondpass.errors import InputError
from secondpass.evaluation.distributions import beta_quantile
from secondpass.monitoring import drift
from secondpass.monitoring.drift import WINDOW, Alarm, Watch
from secondpass.monitoring.profile import Profile, Seen

USUAL = [float(value) for value in np.random.default_rng(1).normal(size=400)]


def profile(columns: dict[str, Sequence[float | None]] | None = None, **segments: list[str]) -> Profile:
    signals: dict[str, Any] = columns or {"score_top": USUAL}
    rows = len(next(iter(signals.values())))
    return Profile(model="mini", digest="abc", source="a test", drawn_from=rows, signals=signals, segments=segments)


def request(number: int, digest: str = "abc", key: int | None = None, segments: Any = None, **values: float) -> Seen:
    name = (number if key is None else key).to_bytes(8, "big")
    return Seen(str(number), name, float(number), "mini", digest, values, segments or {})


def alarms_of(watch: Watch, values: Sequence[float], first: int = 0) -> list[Alarm]:
    found = (watch.add(request(i, score_top=value)) for i, value in enumerate(values, first))
    return [alarm for alarm in found if alarm is not None]


@pytest.mark.parametrize(("share", "a", "b"), [(0.999, 11, 190), (0.5, 1, 1), (0.9999, 1, 100), (0.01, 101, 100)])
def test_the_quantile_of_the_beta_distribution_is_scipy_s(share: float, a: int, b: int) -> None:
    assert beta_quantile(share, a, b) == pytest.approx(stats.beta.ppf(share, a, b), abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_a_quantile_of_no_share_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="beta distribution"):
        beta_quantile(share, 1, 1)


def test_the_bounds_are_tolerance_limits_that_hold_together() -> None:
    """In 400 profiles of 120 uniform values, all eight bounds hold in 95 % or more: 380, less three standard errors."""
    rng, held = np.random.default_rng(2), 0
    for _ in range(400):
        made = profile({"score_top": list(map(float, rng.random(120)))})
        _, _, above, limit, expected = drift._limits(made, range(120), 0.05 / 8)
        beyond = np.where(above, 1.0 - limit, limit)
        held += bool((beyond <= expected).all())
    assert held >= 380 - 3 * (400 * 0.95 * 0.05) ** 0.5


@pytest.mark.parametrize("true_share", [0.0, 0.3, 0.9, 1.0])
def test_evidence_of_a_window_is_an_e_value(true_share: float) -> None:
    """Its mean is at most 1 for every share up to the bound: summed over all counts, with scipy's probabilities."""
    scope = drift._Scope(profile(), range(400), 0.001, 400.0)
    for limit, expected in enumerate(scope._expected):
        count = np.arange(WINDOW + 1)
        chance = stats.binom.pmf(count, WINDOW, true_share * expected)
        ratio = count[:, None] * scope._hit[limit] + (WINDOW - count)[:, None] * scope._miss[limit]
        assert (chance @ np.exp(ratio) <= 1.0 + 1e-9).all()


def test_false_alarms_are_as_rare_as_promised_where_they_are_most_likely() -> None:
    """Traffic on one of the bounds, which is as far from the profile as is still usual: in 300 queries, of 600 that an
    alarm takes on average at least, at most half of the streams have one (Markov); 5 standard errors of room."""
    rng, alarmed = np.random.default_rng(3), 0
    made = profile({"score_top": [float(i) for i in range(100)]})
    bound = beta_quantile(1.0 - 0.05 / 8, 6, 95)
    for _ in range(200):
        watch = Watch(made, every=600, quiet=0)
        high = rng.random(300) < bound
        values = np.where(high, 96.5, rng.integers(30, 70, 300) + 0.25)
        alarmed += bool(alarms_of(watch, list(map(float, values))))
    assert alarmed <= 100 + 5 * (200 * 0.25) ** 0.5


def test_usual_traffic_raises_no_alarm_and_a_change_does() -> None:
    rng = np.random.default_rng(4)
    watch = Watch(profile(), quiet=0)
    assert not alarms_of(watch, list(map(float, rng.normal(size=3000))))
    found = alarms_of(watch, list(map(float, rng.normal(3.0, 1.0, size=100))), 3000)
    assert found
    alarm = found[0]
    assert 3000 < alarm.query <= 3000 + 4 * WINDOW
    assert 3000 - WINDOW < alarm.since <= alarm.query
    (moved,) = alarm.moved
    assert (moved.segment, moved.signal, moved.above) == ("", "score_top", True)
    assert moved.share > moved.expected
    assert watch.last == found[-1]


@pytest.mark.parametrize("shift", [-3.0, 3.0])
def test_either_side_is_told(shift: float) -> None:
    rng = np.random.default_rng(5)
    (alarm, *_) = alarms_of(Watch(profile(), quiet=0), list(map(float, rng.normal(shift, 1.0, size=200))))
    assert alarm.moved[0].above is (shift > 0)
    assert (alarm.moved[0].now > alarm.moved[0].before) is (shift > 0)


def test_what_never_happened_before_is_seen() -> None:
    """A signal that was 0 throughout the profile, such as the share of documents not scored."""
    made = profile({"unscored": [0.0] * 400})
    watch = Watch(made, quiet=0)
    found = [watch.add(request(i, unscored=float(i % 3 == 0))) for i in range(200)]
    assert any(found)
    watch = Watch(made, quiet=0)
    assert not any(watch.add(request(i, unscored=float(i % 200 == 0))) for i in range(2000))


@given(st.lists(st.floats(-5, 5), min_size=0, max_size=WINDOW), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_window_s_order_does_not_matter(values: list[float], seed: int) -> None:
    first = list(map(float, np.random.default_rng(seed).normal(size=WINDOW)))
    order = np.random.default_rng(seed + 1).permutation(len(values))
    sums = []
    for part in (values, [values[i] for i in order]):
        watch = Watch(profile(), quiet=0)
        alarms_of(watch, [*first, *part])
        sums.append(watch.evidence)
    assert sums[0] == pytest.approx(sums[1], rel=1e-12)


@given(st.floats(-1e300, 1e300) | st.just(float("inf")) | st.just(float("nan")), st.integers(0, WINDOW))
@settings(max_examples=60, deadline=None)
def test_no_alarm_without_a_second_window(value: float, count: int) -> None:
    """However extreme it is, and however many signals moved."""
    names = ("score_top", "score_mean", "query_words")
    watch = Watch(profile(dict.fromkeys(names, USUAL)), quiet=0)
    alike: dict[str, Any] = dict.fromkeys(names, value)
    assert not any(watch.add(request(i, **alike)) for i in range(count))
    assert watch.evidence < 1.0


@given(st.lists(st.integers(0, 10), max_size=120))
@settings(max_examples=60, deadline=None)
def test_a_query_counts_once_in_a_window(keys: list[int]) -> None:
    watch = Watch(profile(), quiet=0)
    for number, key in enumerate(keys):
        watch.add(request(number, key=key, score_top=99.0))
    assert watch.queries <= len(set(keys))  # fewer than a window: it never ends
    assert watch.queries + watch.repeated == len(keys)


def test_a_robot_that_repeats_itself_counts_once_in_a_window() -> None:
    rng, watch = np.random.default_rng(6), Watch(profile(), quiet=0)
    for number in range(4000):
        key, value = (7, 9.0) if number % 2 else (1000 + number, float(rng.normal()))
        watch.add(request(number, key=key, score_top=value))
    robots = watch.queries - 2000
    assert 0 < robots <= watch.queries / (WINDOW - 1)


def test_the_segment_that_moved_is_named() -> None:
    rng = np.random.default_rng(7)
    made = profile({"score_top": list(map(float, rng.normal(size=800)))}, caller=["shop", "wiki"] * 400)
    watch = Watch(made, quiet=0)
    assert set(watch.segments) == {"caller: shop", "caller: wiki"}
    found: list[Alarm] = []
    for number in range(1500):
        caller = "shop" if number % 2 else "wiki"
        value = float(rng.normal(3.0 if caller == "shop" and number > 700 else 0.0))
        alarm = watch.add(request(number, segments={"caller": caller}, score_top=value))
        found += [alarm] if alarm else []
    assert found
    named = {moved.segment for moved in found[0].moved}
    assert "caller: shop" in named
    assert "caller: wiki" not in named


def test_evidence_is_a_mean_of_means_so_that_segments_and_signals_add_no_false_alarms() -> None:
    """Half is all traffic's, half is shared by the segments, and each scope's is shared by its signals: a mean of
    e-values is one, a sum is none."""
    rng = np.random.default_rng(6)
    columns: dict[str, Sequence[float | None]] = {name: list(rng.normal(size=400)) for name in ("score_top", "words")}
    watch = Watch(profile(columns, caller=[f"caller {i % 3}" for i in range(400)]), every=10**9)
    for i in range(12 * WINDOW):
        score, words = float(rng.normal(1.0 + i % 3)), float(rng.normal())
        watch.add(request(i, segments={"caller": f"caller {i % 3}"}, score_top=score, words=words))
    by_segment: dict[str, list[float]] = {}
    for evidence, one in watch.signals():
        by_segment.setdefault(one.segment, []).append(evidence)
    whole, *parts = (float(np.mean(of_signals)) for of_signals in by_segment.values())
    assert len(parts) == 3
    assert len(set(parts)) > 1
    assert watch.evidence == pytest.approx((whole + float(np.mean(parts))) / 2)
    assert watch.evidence <= max(whole, *parts)


def test_segments_that_are_too_small_are_not_watched_apart() -> None:
    made = profile({"score_top": USUAL}, caller=["shop"] * 301 + ["wiki"] * 99)
    assert Watch(made).segments == ("caller: shop",)
    one_for_all = profile({"score_top": USUAL}, caller=["shop"] * 400)
    assert Watch(one_for_all).segments == ()


def test_after_an_alarm_it_is_quiet_and_then_says_it_again() -> None:
    watch = Watch(profile(), quiet=500)
    found = alarms_of(watch, [9.0] * 1200)
    assert len(found) == 3
    assert found[1].query - found[0].query >= 500


def test_missing_signals_are_no_evidence() -> None:
    watch = Watch(profile({"score_top": USUAL, "truncated": [None] * 200 + [0.0] * 200}), quiet=0)
    rng = np.random.default_rng(8)
    assert not any(watch.add(request(i, score_top=float(rng.normal()))) for i in range(1000))
    assert not any(watch.add(request(i)) for i in range(1000))


def test_requests_of_another_model_are_refused() -> None:
    with pytest.raises(InputError, match="another model"):
        Watch(profile()).add(request(1, digest="other", score_top=0.0))


@pytest.mark.parametrize(("every", "quiet"), [(99, 0), (10_000, -1)])
def test_numbers_that_cannot_be_meant(every: int, quiet: int) -> None:
    with pytest.raises(InputError, match="give queries"):
        Watch(profile(), every=every, quiet=quiet)


def test_memory_is_bounded_by_construction() -> None:
    """What grows with requests is a window and the last 200, for each segment; no other container is kept."""
    made = profile({"score_top": USUAL}, caller=["a", "b"] * 200)
    watch = Watch(made, quiet=0)
    rng = np.random.default_rng(9)

    def held() -> int:
        scopes = watch._scopes.values()
        sized = [value for scope in scopes for value in vars(scope).values() if hasattr(value, "__len__")]
        return sum(map(len, sized)) + len(watch._scopes)

    sizes = []
    for number in range(4000):
        watch.add(request(number, segments={"caller": f"new {number}"}, score_top=float(rng.normal())))
        if number in (1000, 3999):
            sizes.append(held())
    assert sizes[0] == pytest.approx(sizes[1], abs=WINDOW)
