"""Two audits side by side: paired numbers against scipy, what moved, what does not compare, and both views of it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from scipy import stats

from secondpass.errors import InputError
from secondpass.evaluation.difference import AuditDiff, diff
from secondpass.evaluation.report import markdown_diff, terminal_diff
from secondpass.evaluation.verdict import Decision, Verdict
from secondpass.evaluation.wording import clean, signed
from toy_verdicts import HOSTILE, full_verdict, verdict_of


def changed(verdict: Verdict, seed: int = 1, bias: float = 0.0) -> Verdict:
    """The same audit with other reranked orders."""
    rng = np.random.default_rng(seed)
    outcomes = tuple(
        replace(outcome, reranked=float(np.clip(outcome.reranked + bias + rng.normal(0, 0.2), 0, 1)))
        for outcome in verdict.outcomes
    )
    return replace(verdict, outcomes=outcomes)


def data(verdict: Verdict) -> Any:
    """As it comes out of a file."""
    return json.loads(json.dumps(verdict.to_dict(), allow_nan=False))


BEFORE = full_verdict()
AFTER = replace(changed(BEFORE, bias=-0.2), decision=Decision.HARMFUL, reason=HOSTILE, depth=50, names=("A", "new"))
DIFF = diff(data(BEFORE), data(AFTER))


def test_numbers_are_paired_and_agree_with_scipy() -> None:
    old, new = (np.array([outcome.reranked for outcome in verdict.outcomes]) for verdict in (BEFORE, AFTER))
    change = DIFF.reranked
    assert [change.before, change.after] == pytest.approx([old.mean(), new.mean()])
    assert change.difference == pytest.approx((new - old).mean())
    theirs = stats.bootstrap((new - old,), np.mean, n_resamples=20_000, method="BCa", rng=0).confidence_interval
    assert change.interval == pytest.approx((theirs.low, theirs.high), abs=0.005)
    p = stats.permutation_test((new - old,), np.mean, permutation_type="samples", n_resamples=9_999, rng=0).pvalue
    assert change.p_value == pytest.approx(p, abs=0.02)
    assert DIFF.first.difference == 0.0
    assert DIFF.first.p_value == 1.0
    assert DIFF.gain.difference == pytest.approx(change.difference)
    assert DIFF.queries == len(BEFORE.outcomes)
    assert (DIFF.recall.before, DIFF.recall.after, DIFF.recall.difference) == (BEFORE.recall, AFTER.recall, 0.0)
    assert BEFORE.added_latency is not None
    assert BEFORE.cost is not None
    assert DIFF.p99_ms.before == pytest.approx(BEFORE.added_latency.p99_ms)
    assert DIFF.cost.after == pytest.approx(BEFORE.cost.added_per_1000)
    assert DIFF.currency == "EUR"
    assert DIFF.decisions == ("TOO SLOW", "HARMFUL")


def test_the_queries_that_moved() -> None:
    old, new = ({one.query_id: one.reranked for one in verdict.outcomes} for verdict in (BEFORE, AFTER))
    moves = {key: new[key] - old[key] for key in old}
    assert [one.difference for one in DIFF.worse] == pytest.approx(sorted(moves.values())[:10])
    assert all(one.difference == pytest.approx(moves[one.query_id]) for one in (*DIFF.worse, *DIFF.better))
    assert [one.difference for one in DIFF.better] == sorted((d.difference for d in DIFF.better), reverse=True)
    assert set(DIFF.failed) == {key for key in old if old[key] > 0 and new[key] == 0}
    assert set(DIFF.recovered) == {key for key in old if old[key] == 0 and new[key] > 0}
    assert DIFF.failed
    turned = diff(data(AFTER), data(BEFORE))
    assert (set(turned.failed), set(turned.recovered)) == (set(DIFF.recovered), set(DIFF.failed))
    assert turned.reranked.difference == pytest.approx(-DIFF.reranked.difference)


def test_an_audit_with_itself_has_no_difference() -> None:
    same = diff(data(BEFORE), data(BEFORE))
    assert (same.reranked.difference, same.reranked.p_value) == (0.0, 1.0)
    assert not any((same.worse, same.better, same.failed, same.recovered, same.notes))
    assert "as before" in views(same)[0]


def test_only_common_queries_are_compared_and_it_is_said() -> None:
    less = data(BEFORE)
    less["outcomes"] = less["outcomes"][5:]
    found = diff(less, data(AFTER))
    assert (found.queries, found.only_before, found.only_after) == (75, 0, 5)
    assert any("75 queries that both have; 0 only before and 5 only after" in note for note in found.notes)
    assert any("depths differ (3 and 50)" in note for note in found.notes)
    other = data(BEFORE)
    other["smallest_effect"] = 0.02
    other["cost"]["currency"] = "USD"
    other["outcomes"][0]["query"] = "another question"
    found = diff(data(BEFORE), other)
    said = "\n".join(found.notes)
    assert "smallest effects that matter differ (0.01 and 0.02)" in said
    assert "costs are in EUR and USD" in said
    assert "1 query of the same id with another text" in said
    assert (found.cost.before, found.cost.after, found.currency) == (None, None, None)


def test_what_does_not_compare_is_refused_with_its_name() -> None:
    good = data(BEFORE)

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(InputError, match=match):
            diff(good, good | changes, labels=("old.json", "new.json"))

    refused("new.json has schema 2", schema=2)
    refused("old.json is of ndcg@10 and new.json of mrr@10", metric="mrr@10")
    refused("no query in common", outcomes=[good["outcomes"][0] | {"query_id": "elsewhere"}])
    refused(r"new.json: outcomes\[0\].reranked is None", outcomes=[good["outcomes"][0] | {"reranked": None}])
    refused(r"new.json: outcomes\[0\].first is 'x'", outcomes=[good["outcomes"][0] | {"first": "x"}])
    refused(r"new.json: outcomes\[0\] must have", outcomes=[good["outcomes"][0] | {"query": None}])
    refused("decision is 'GREAT'", decision="GREAT")
    for key in ("metric", "depth", "recall", "added_latency", "cost"):
        with pytest.raises(InputError, match=f"new.json lacks {key}"):
            diff(good, {name: value for name, value in good.items() if name != key}, labels=("old.json", "new.json"))
    no_audits: list[Any] = [[], {}, "text", {"schema": 1}]
    for nothing in no_audits:
        with pytest.raises(InputError, match=r"old\.json is no audit"):
            diff(nothing, good, labels=("old.json", "new.json"))


def test_one_query_has_no_interval() -> None:
    one = verdict_of(1, 0, missed=0)
    found = diff(data(one), data(one))
    assert found.to_dict()["reranked"]["interval"] == [None, None]
    assert "unknown" in views(found)[0]


def views(found: AuditDiff, width: int = 80) -> tuple[str, str]:
    stream = io.StringIO()
    terminal_diff(found, Console(file=stream, width=width))
    return stream.getvalue(), markdown_diff(found)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_both_views_say_it(width: int) -> None:
    unsure = diff(data(BEFORE), data(changed(BEFORE, seed=3, bias=0.12)))
    assert unsure.reranked.interval[0] < 0 < unsure.reranked.interval[1]
    for found in (DIFF, diff(data(AFTER), data(BEFORE)), unsure):
        screen, text = views(found, width)
        assert all(cell_len(line) <= width for line in screen.splitlines())
        assert "\x1b" not in screen + text
        flat = " ".join(screen.replace("│", " ").split())
        for view in (flat, text):
            for word in found.decisions:
                assert word in view
            for change in (found.reranked, found.first, found.gain):
                assert signed(change.difference) in view
        for note in found.notes:
            assert clean(note) in flat
        low, high = found.reranked.interval
        word = "rose" if low > 0 else "fell" if high < 0 else "is not shown to have changed"
        for view in (flat, text):
            assert f"after reranking {word}: " in view
        assert "<script" not in text
        for table in text.split("\n\n"):
            if table.startswith("|"):
                assert len({line.replace(r"\|", "").count("|") for line in table.splitlines()}) == 1


def test_data_first() -> None:
    stored = json.loads(json.dumps(DIFF.to_dict(), allow_nan=False))
    assert stored["schema"] == 1
    assert stored["reranked"]["difference"] == pytest.approx(DIFF.reranked.difference)
    assert [one["query_id"] for one in stored["worse"]] == [one.query_id for one in DIFF.worse]
