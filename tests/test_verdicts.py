"""What the audit says with confidence is rarely wrong; the large count is bench/verdicts.py, this is its guard."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from secondpass.evaluation.audit import audit
from secondpass.evaluation.metrics import Metric
from secondpass.evaluation.significance import bootstrap_interval
from secondpass.evaluation.verdict import Decision, decide

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))  # benches are scripts, not a package
import verdicts


@cache
def simulated() -> dict[int, list[verdicts.Case]]:
    return verdicts.simulate(400, seed=4, sizes=(20, 200))


@cache
def spoken(textbook: bool) -> tuple[verdicts.Spoken, ...]:
    cases = simulated().values()
    return tuple(one for of_size in cases for one in verdicts.judge(of_size, resamples=600, textbook=textbook))


def at_the_boundaries(textbook: bool) -> tuple[int, int]:
    """How many of the hardest cases get a wrong word: 20 queries, with a true effect that is 0, δ or just below δ."""
    hard = [
        one for one in spoken(textbook) if len(one.case.drawn) == 20 and one.case.label in ("0", "δ", "just below δ")
    ]
    return sum(one.wrong for one in hard), len(hard)


def test_confident_words_are_rarely_wrong() -> None:
    pairs = [one for one in spoken(False) if not verdicts.is_harm(one)]
    count, of = sum(one.wrong for one in pairs), len(pairs)
    assert of >= 800
    # a rate of .06 would give so few once in a hundred times, so that passing says something
    assert count <= stats.binom.ppf(0.01, of, 0.06)
    assert sum(one.word is not Decision.INCONCLUSIVE for one in pairs) > of / 10


def test_nor_where_it_is_hardest() -> None:
    count, of = at_the_boundaries(textbook=False)
    assert of >= 140
    assert count <= stats.binom.ppf(0.01, of, 0.06)


def test_the_guard_sees_a_worse_interval() -> None:
    count, of = at_the_boundaries(textbook=True)
    assert count > stats.binom.ppf(0.99, of, 0.06)


def test_harm_is_found() -> None:
    harmed = [one for one in spoken(False) if one.case.label == "harm"]
    found = sum(one.word is Decision.HARMFUL for one in harmed)
    assert len(harmed) >= 20
    assert found >= stats.binom.ppf(0.05, len(harmed), 0.8)


def test_the_simulated_truth_is_true() -> None:
    rng = np.random.default_rng(0)
    population = verdicts.populate(verdicts.Kind(0.7, (1, 2.0, 6), 3, 0.5, 2.5, 3.0, 0.6, 0.4), rng)
    ndcg = Metric("ndcg", verdicts.CUTOFF)
    for effect in (0.0, verdicts.DELTA, -0.02):
        damaged = verdicts.damaged_for(population, effect)
        assert damaged is not None
        case = verdicts.draw(population, "anywhere", damaged, 200_000, rng, effect)
        differences = case.differences()[0]
        error = differences.std() / len(differences) ** 0.5
        assert differences.mean() == pytest.approx(effect, abs=4 * error)
    for at in range(0, 2 * verdicts.LISTED, 97):  # values are those of the library, for every stage
        grades = {f"d{column}": int(grade) for column, grade in enumerate(population.grades[at]) if grade}
        for stage in range(3):
            run = verdicts._run(["q"], population.ranks[stage, at : at + 1])
            value = ndcg([doc_id for doc_id, _ in run["q"]], grades)
            assert population.values[stage, at] == pytest.approx(value, abs=1e-12)


def test_audit_comes_to_the_same_word() -> None:
    small = [one for one in spoken(False) if len(one.case.drawn) == 20]
    with_controls = [one for one in small if one.case.gains][:6]
    for one in small[:12] + with_controls:
        verdict = verdicts.through_audit(one.case, resamples=600)
        assert verdict.decision is one.word
        assert verdict.interval == pytest.approx(one.interval, abs=1e-9)


def test_wrong_is_what_it_should_be() -> None:
    rng = np.random.default_rng(0)
    population = verdicts.populate(verdicts.KINDS[0], rng)
    case = verdicts.draw(population, "harm", 0.5, 5, rng, None)

    def is_wrong(effect: float, word: Decision, gain: float = 0.0) -> bool:
        truth = verdicts.Case(population, "", effect, (gain,), case.drawn, case.swapped, 0.0)
        return verdicts.is_wrong(truth, word, [True])

    delta = verdicts.DELTA
    assert not any(is_wrong(effect, Decision.INCONCLUSIVE) for effect in (-1.0, 0.0, delta, 1.0))
    assert [is_wrong(effect, Decision.HARMFUL) for effect in (-1e-9, 0.0, 0.1)] == [False, True, True]
    assert [is_wrong(effect, Decision.NOT_WORTH_IT) for effect in (-1.0, 0.009, delta)] == [False, False, True]
    for word in (Decision.WORTH_IT, Decision.TOO_SLOW):
        assert [is_wrong(effect, word) for effect in (-1.0, 0.009, delta, 0.1)] == [True, True, False, False]
    gains = [(0.0, 0.009), (0.05, 0.05), (0.0, delta), (0.05, 0.06)]
    assert [is_wrong(e, Decision.FIX_RETRIEVAL_FIRST, gain) for e, gain in gains] == [True, True, False, False]


def test_minilm_on_scifact_is_inconclusive() -> None:
    """+.012 over 300 queries with a standard deviation of about .25."""
    rng = np.random.default_rng(1)
    differences = rng.normal(size=300)
    differences = (differences - differences.mean()) / differences.std(ddof=1) * 0.25 + 0.012
    low, high = bootstrap_interval(differences)
    assert decide(low, high, 0.01, None, None) is Decision.INCONCLUSIVE
    verdict = audit(*verdicts.scifact())
    assert verdict.difference == pytest.approx(0.012, abs=5e-4)
    assert np.std([one.difference for one in verdict.outcomes], ddof=1) == pytest.approx(0.25, abs=0.01)
    assert verdict.decision is Decision.INCONCLUSIVE
    assert verdict.queries_needed is not None
    assert verdict.queries_needed > 1000
