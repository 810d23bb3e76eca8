"""Conditions: what they read of a verdict, what holds, and what is refused rather than passed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.evaluation.gate import NAMES, OPERATORS, Condition, holds, parse_condition, sentence
from toy_verdicts import full_verdict

VERDICT = full_verdict()


def test_a_condition_is_read() -> None:
    assert parse_condition("ndcg@10 < -0.01") == Condition("ndcg@10", "<", -0.01)
    assert parse_condition("nDCG@10<−0.01") == Condition("ndcg@10", "<", -0.01)
    assert parse_condition(" P99_ms>=80 ") == Condition("p99_ms", ">=", 80.0)
    assert parse_condition("hurt == 1e-1") == Condition("hurt", "==", 0.1)
    assert parse_condition("rr@10 <= 0") == Condition("mrr@10", "<=", 0.0)
    for name in NAMES:
        assert parse_condition(f"{name} < 1").name == name


@given(st.sampled_from([*NAMES, "ndcg@10", "map"]), st.sampled_from(list(OPERATORS)), st.floats(-1e6, 1e6))
def test_what_is_written_is_read_again(name: str, symbol: str, number: float) -> None:
    condition = Condition(name, symbol, float(f"{number:g}"))
    assert parse_condition(str(condition)) == condition


@pytest.mark.parametrize(
    "text", ["", "ndcg@10", "ndcg@10 <", "< 0.01", "ndcg@10 = 0.01", "ndcg@10 != 1", "a < b < c", "ndcg@10 < 1 or x"]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="NAME OPERATOR NUMBER"):
        parse_condition(text)


def test_unknown_names_and_numbers_are_refused_with_what_is_known() -> None:
    with pytest.raises(InputError, match=r"unknown name 'speed'.*ndcg@10.*p99_ms.*cost"):
        parse_condition("speed > 3")
    for number in ("fast", "nan", "inf", "1e999", "10ms"):
        with pytest.raises(InputError, match="is no number"):
            parse_condition(f"p99_ms > {number}")


def test_each_name_reads_its_number() -> None:
    latency, cost = VERDICT.added_latency, VERDICT.cost
    assert latency is not None
    assert cost is not None
    expected = {
        VERDICT.metric: VERDICT.difference,
        "difference": VERDICT.difference,
        "low": VERDICT.interval[0],
        "high": VERDICT.interval[1],
        "p_value": VERDICT.p_value,
        "first": VERDICT.first,
        "reranked": VERDICT.reranked,
        "best": VERDICT.best,
        "recall": VERDICT.recall,
        "helped": 60 / 80,
        "hurt": 12 / 80,
        "judged": VERDICT.judged_at_10[1],
        "p50_ms": latency.p50_ms,
        "p95_ms": latency.p95_ms,
        "p99_ms": latency.p99_ms,
        "cost": cost.added_per_1000,
    }
    assert expected.keys() == {*NAMES, VERDICT.metric}
    for name, value in expected.items():
        assert value is not None
        assert holds(Condition(name, "==", value), VERDICT)
        assert holds(Condition(name, "<", value + 1e-6), VERDICT)
        assert not holds(Condition(name, "<", value), VERDICT)
        assert not holds(Condition(name, ">", value), VERDICT)
        assert holds(Condition(name, ">=", value), VERDICT)
        assert holds(Condition(name, "<=", value), VERDICT)
        assert not holds(Condition(name, ">=", value + 1e-6), VERDICT)


def test_every_name_is_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    [told] = re.findall(r"A condition is a name.*?never passes", page, re.S)
    assert {*NAMES, *OPERATORS} == set(re.findall(r"`([^`]+)`", told))


def test_what_was_found_is_said() -> None:
    worse = replace(VERDICT, difference=-0.0341)
    assert sentence(parse_condition("ndcg@10 < -0.01"), worse) == (
        "ndcg@10 < -0.01: the change of ndcg@10 is −0.0341: failed"
    )
    assert sentence(parse_condition("ndcg@10 < -0.05"), worse).endswith("is −0.0341: passed")
    slow = sentence(parse_condition("p99_ms > 100"), VERDICT)
    assert slow.startswith("p99_ms > 100: the added p99 is 278")
    assert slow.endswith(" ms: failed")


def test_what_cannot_be_checked_does_not_pass() -> None:
    untimed = replace(VERDICT, added_latency=None, cost=None, interval=(-float("inf"), float("inf")))
    for name, why in (("p99_ms", "time the queries"), ("cost", "price"), ("low", "judge"), ("high", "judge")):
        condition = parse_condition(f"{name} < 1e9")
        for ask in (holds, sentence):
            with pytest.raises(InputError, match=f"unknown, so it cannot be checked; .*{why}"):
                ask(condition, untimed)
    for ask in (holds, sentence):
        with pytest.raises(
            InputError, match=r"the audit is of ndcg@10, so mrr@10 is not known; write 'ndcg@10 < -0.01'"
        ):
            ask(parse_condition("mrr@10 < -0.01"), VERDICT)
