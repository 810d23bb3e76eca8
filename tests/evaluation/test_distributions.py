"""Student's t agrees with scipy."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from secondpass.errors import InputError
from secondpass.evaluation.distributions import t_quantile, t_tail


@pytest.mark.parametrize("freedom", [1, 2, 3, 4.5, 9, 19, 49, 299, 999, 10_000, 1_000_000])
def test_tail_agrees_with_scipy(freedom: float) -> None:
    for t in (0.0, 1e-9, 1e-4, 0.01, 0.3, 1.0, 1.96, 2.5, 4.0, 8.0, 12.0, 20.0, 1e3, 1e6):
        theirs = stats.t.sf(t, freedom)
        assert t_tail(t, freedom) == pytest.approx(theirs, rel=1e-9, abs=1e-250)
        assert t_tail(-t, freedom) == pytest.approx(1.0 - theirs, abs=1e-9)


@given(st.floats(-50, 50), st.integers(1, 5000))
def test_both_tails_add_up(t: float, freedom: int) -> None:
    assert t_tail(t, freedom) + t_tail(-t, freedom) == pytest.approx(1.0, abs=1e-12)


@given(st.floats(1e-6, 0.5), st.integers(1, 5000))
def test_quantile_is_the_inverse(tail: float, freedom: int) -> None:
    assert t_quantile(tail, freedom) == pytest.approx(stats.t.isf(tail, freedom), rel=1e-7, abs=1e-9)


def test_the_ends() -> None:
    assert t_tail(inf, 3) == t_tail(1e200, 3) == 0.0
    assert t_tail(-inf, 3) == 1.0
    assert t_quantile(0.5, 7) == pytest.approx(0.0, abs=1e-9)
    for t, freedom in ((float("nan"), 3.0), (1.0, 0.5)):
        with pytest.raises(InputError):
            t_tail(t, freedom)
    with pytest.raises(InputError):
        t_quantile(0.6, 3.0)
