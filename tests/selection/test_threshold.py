"""The threshold on P(relevant), and what its guarantee is worth: by hand, by brute force, by simulation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from drawn_rankings import RANKER, gone, judged, probabilities_st, ranking
from secondpass.errors import InputError, ModelError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.probability import Calibration, Logistic, write_calibration
from secondpass.selection.risk import (
    Guarantee,
    Ranker,
    controlled,
    fewest_queries,
    find_guarantee,
    ranker_of,
    read_guarantee,
)
from secondpass.selection.threshold import RiskControl, Threshold
from secondpass.types import Ranking, as_ranking
from tiny import tiny_checkpoint

# The threshold itself


@settings(deadline=None)
@given(st.lists(probabilities_st, max_size=12), st.floats(0, 1))
def test_below_goes_and_what_has_no_probability_stays(probabilities: list[float | None], threshold: float) -> None:
    chosen = Threshold(threshold).select(judged(probabilities))
    assert chosen.ids == tuple(str(i) for i, p in enumerate(probabilities) if p is None or p >= threshold)
    told = chosen.trace[-1]
    assert told.detail["without_probability"] == probabilities.count(None)
    assert bool(told.skipped_because) is (None in probabilities)
    assert told.detail["guarantee"] == "none"


def test_the_reason_says_both_numbers() -> None:
    assert gone(Threshold(0.25).select(judged([0.9, 0.1234]))) == {"1": "probability 0.123 is below 0.25"}


@pytest.mark.parametrize("probability", [-0.01, 1.01, math.nan])
def test_a_probability_that_cannot_be_meant(probability: float) -> None:
    with pytest.raises(InputError, match="probability is"):
        Threshold(probability)


# Conformal risk control: which threshold


def loss(relevant: list[float | None], threshold: float) -> float:
    return sum(p is not None and p < threshold for p in relevant) / len(relevant)


def allowed(relevant: list[list[float | None]], alpha: float, threshold: float) -> bool:
    """The condition of the theorem, as it is written there."""
    n = len(relevant)
    risk = sum(loss(one, threshold) for one in relevant) / n
    return n / (n + 1) * risk + 1 / (n + 1) <= alpha + 1e-9


def test_by_hand() -> None:
    """Nine queries at alpha = .3: the losses may sum up to .3 · 10 − 1 = 2. Two go; above .3 a third would."""
    relevant: list[list[float | None]] = [[n / 10] for n in range(1, 10)]
    assert controlled(relevant, 0.3) == pytest.approx(0.3)
    assert controlled([*relevant[:2], [0.3, 0.3], *relevant[3:]], 0.3) == pytest.approx(0.3)
    assert controlled([*relevant[:2], [0.3, 0.9], *relevant[3:]], 0.349) == pytest.approx(0.3)  # 2.49: half is too much
    assert controlled([*relevant[:2], [0.3, 0.9], *relevant[3:]], 0.35) == pytest.approx(0.4)  # 2.5: half may go, too
    assert controlled([*relevant[:2], [None], *relevant[3:]], 0.3) == pytest.approx(0.4)  # what has none never goes


@settings(deadline=None)
@given(
    st.lists(st.lists(probabilities_st, min_size=1, max_size=4), min_size=1, max_size=14),
    st.one_of(st.sampled_from([0.05, 0.1, 0.2, 0.5, 0.9]), st.floats(0.01, 0.99)),
)
def test_it_is_the_largest_that_the_condition_allows(relevant: list[list[float | None]], alpha: float) -> None:
    found = controlled(relevant, alpha)
    assume(
        all(
            abs(sum(loss(one, t) for one in relevant) - (alpha * (len(relevant) + 1) - 1)) > 1e-6
            for t in _steps(relevant)
        )
    )
    if alpha * (len(relevant) + 1) < 1:
        assert found == 0
        return
    assert allowed(relevant, alpha, found)
    assert found == 1 or not allowed(relevant, alpha, math.nextafter(found, 2))


def _steps(relevant: list[list[float | None]]) -> list[float]:
    """Thresholds just above each probability, where the risk steps."""
    return [0.0, *(math.nextafter(p, 2) for one in relevant for p in one if p is not None)]


@pytest.mark.parametrize(("alpha", "fewest"), [(0.1, 9), (0.05, 19), (0.01, 99), (0.3, 3), (0.5, 1), (0.9, 1)])
def test_how_many_queries_it_takes(alpha: float, fewest: int) -> None:
    assert fewest_queries(alpha) == fewest
    enough = [[0.5]] * fewest
    assert controlled(enough, alpha) == 0.5
    assert controlled(enough[1:], alpha) == 0.0


# Conformal risk control: what it promises


@pytest.mark.parametrize(("n", "alpha"), [(20, 0.2), (50, 0.1), (50, 0.05), (9, 0.1), (8, 0.1), (200, 0.03)])
def test_with_one_relevant_candidate_each_the_risk_is_known_exactly(n: int, alpha: float) -> None:
    """The threshold is the k-th smallest of n probabilities, k = ⌊alpha (n + 1)⌋, and the next one lies below that with
    the probability k / (n + 1), whatever their distribution."""
    draws = 20_000
    rng = np.random.default_rng(n)
    known = rng.beta(0.5, 2.0, size=(draws, n))
    following = rng.beta(0.5, 2.0, size=draws)
    thresholds = np.array([controlled([[p] for p in row], alpha) for row in known[:2000].tolist()])
    k = math.floor(alpha * (n + 1) + 1e-9)
    ordered = np.sort(known, axis=1)
    assert thresholds == pytest.approx(ordered[:2000, k - 1] if k else 0.0, abs=1e-15)
    risk = (following < (ordered[:, k - 1] if k else 0.0)).mean()
    assert abs(risk - k / (n + 1)) <= 4 * math.sqrt(alpha / draws)
    assert k / (n + 1) <= alpha


def query(rng: np.random.Generator) -> list[float | None]:
    """A query's relevant candidates, some of them without a probability; hard queries have low ones throughout."""
    hard = rng.normal(scale=1.5)
    logits = rng.normal(loc=hard, scale=1.0, size=1 + rng.geometric(0.4))
    return [None if rng.random() < 0.05 else float(1 / (1 + np.exp(-logit))) for logit in logits]


@pytest.mark.parametrize(("n", "alpha"), [(30, 0.1), (100, 0.05), (12, 0.3)])
def test_the_expected_share_of_relevant_candidates_that_goes_is_at_most_alpha(n: int, alpha: float) -> None:
    """Many times: calibrate on n queries, then look at others. And it is no lower than the theorem's other side says
    (alpha − 2/(n + 1), theorem 2): the threshold is not needlessly careful."""
    rng = np.random.default_rng(7)
    others = [query(rng) for _ in range(2000)]
    levels = np.array([[math.inf if p is None else p for p in one] + [math.nan] * (40 - len(one)) for one in others])
    sizes = np.array([len(one) for one in others])
    risks = []
    for _ in range(600):
        threshold = controlled([query(rng) for _ in range(n)], alpha)
        risks.append(((levels < threshold).sum(axis=1) / sizes).mean())
    risk, error = np.mean(risks), np.std(risks) / math.sqrt(len(risks))
    noise = 4 * error + 3 * 0.5 / math.sqrt(len(others))  # of the draws, and of which others were drawn
    assert risk <= alpha + noise
    assert risk >= alpha - 2 / (n + 1) - noise
    assert noise < 0.06


# From judged rankings to a file, and back


def four(**more: Any) -> tuple[list[Ranking], dict[str, dict[str, int]]]:
    """Four queries, of which three have a relevant candidate."""
    found = [
        judged([0.9, 0.6, 0.1], query_id="a", **more),
        judged([0.8, 0.5, 0.2, None], query_id="b", **more),
        judged([0.7, 0.3], query_id="c", **more),
        judged([0.4], query_id="d", **more),
    ]
    return found, {"a": {"1": 2, "0": 0}, "b": {"3": 1, "1": 1, "nowhere": 1}, "c": {"0": 1, "1": 1}, "e": {"0": 1}}


def test_a_guarantee_from_judged_rankings() -> None:
    found, judgments = four()
    held = find_guarantee(found, judgments, alpha=0.4)
    assert held.threshold == pytest.approx(
        0.5
    )  # losses may sum up to .6: half of c goes (.3), half of b (.5) would not
    assert (held.queries, held.grade, held.alpha, held.enough) == (3, 1, 0.4, True)
    assert held.risk == pytest.approx(0.5 / 3)
    assert held.kept == pytest.approx(6 / 9)  # .1, .2 and .3 go
    assert held.ranker == Ranker(**RANKER)
    strict = find_guarantee(found, judgments, alpha=0.6, grade=2)
    assert (strict.queries, strict.threshold) == (1, 0.6)


def test_too_few_queries_remove_nothing_and_say_so() -> None:
    held = find_guarantee(*four(), alpha=0.2)
    assert (held.threshold, held.risk, held.kept, held.enough) == (0.0, 0.0, 1.0, False)
    chosen = RiskControl(held).select(judged([0.9, 0.0]))
    assert chosen.ids == ("0", "1")
    assert "too few queries" in chosen.trace[-1].detail["guarantee"]["why"]


def test_there_and_back_as_a_file(tmp_path: Path) -> None:
    held = find_guarantee(*four(), alpha=0.4)
    held.write(tmp_path / "guarantee.json")
    assert read_guarantee(tmp_path / "guarantee.json") == held
    chosen = RiskControl(tmp_path / "guarantee.json").select(judged([0.6, 0.5, 0.49, None]))
    assert (chosen.ids, gone(chosen)) == (("0", "1", "3"), {"2": "probability 0.49 is below 0.5"})
    assert chosen.trace[-1].detail["guarantee"] == {"alpha": 0.4, "queries": 3}
    assert "1 have no probability" in chosen.trace[-1].skipped_because


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"alpha": 0}, "alpha"),
        ({"threshold": 1.5}, "threshold"),
        ({"queries": 0}, "queries"),
        ({"extra": 1}, "extra"),
        ({"ranker": None}, "ranker"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, change: dict[str, object], says: str) -> None:
    path = tmp_path / "guarantee.json"
    whole = msgspec.to_builtins(find_guarantee(*four(), alpha=0.4))
    path.write_bytes(msgspec.json.encode({**whole, **change}))
    with pytest.raises(InputError, match=rf"guarantee\.json: no guarantee as .*{says}"):
        RiskControl(path)
    path.write_text("{")
    with pytest.raises(InputError, match="no guarantee as"):
        RiskControl(path)
    with pytest.raises(InputError, match=r"gone\.json: cannot be read .*secondpass calibrate"):
        RiskControl(tmp_path / "gone.json")


@pytest.mark.parametrize("alpha", [0, 1, -0.1, math.nan])
def test_an_alpha_that_cannot_be_meant(alpha: float) -> None:
    with pytest.raises(InputError, match="alpha is"):
        find_guarantee(*four(), alpha=alpha)


def test_what_no_guarantee_can_be_made_of() -> None:
    found, judgments = four()
    with pytest.raises(InputError, match="no query has a candidate of grade 3"):
        find_guarantee(found, judgments, alpha=0.1, grade=3)
    with pytest.raises(InputError, match="no candidate has a probability"):
        find_guarantee([ranking(["x"], query_id="a")], {"a": {"0": 1}}, alpha=0.1)
    with pytest.raises(InputError, match="no digest"):
        find_guarantee(four(ranker={})[0], judgments, alpha=0.1)
    other = judged([0.5], query_id="e", ranker={**RANKER, "digest": "e" * 32})
    with pytest.raises(InputError, match="query 'e' was ranked by"):
        find_guarantee([*found, other], judgments, alpha=0.1)


# Whose probabilities


@pytest.mark.parametrize("what", ["digest", "template", "calibration"])
def test_another_models_probabilities_are_refused(what: str) -> None:
    control = RiskControl(find_guarantee(*four(), alpha=0.4))
    with pytest.raises(ModelError, match=rf"found for tiny \({what} .*secondpass calibrate` again"):
        control.select(judged([0.9], ranker={**RANKER, what: "other"}))
    renamed = judged([0.9], ranker={**RANKER, "model": "the same in another folder"})
    assert control.select(renamed).ids == ("0",)


def test_where_nothing_was_scored_everything_stays() -> None:
    control = RiskControl(find_guarantee(*four(), alpha=0.4))
    chosen = control.select(judged([None, None], ranker={**RANKER, "digest": "other"}))
    assert (chosen.ids, gone(chosen)) == (("0", "1"), {})
    assert "2 have no probability" in chosen.trace[-1].skipped_because


def test_a_real_model_tells_what_its_guarantee_holds_for(tmp_path: Path, cache: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", seed=3)
    checkpoint = open_checkpoint(folder)
    calibration = Calibration(Logistic(0.9, -2.0), Logistic(0.8, -1.0, first=1.2))
    write_calibration(checkpoint, calibration)

    def ranked() -> Ranking:
        encoder = CrossEncoder(folder, engine="onnxruntime", profile="exact", threads=1, cache_dir=cache)
        return encoder.rerank(as_ranking("sort a list", ["a list", "the river bank", ""], "a"))

    before = ranked()
    ranker = ranker_of(before)
    assert ranker is not None
    assert (ranker.digest, ranker.template) == (checkpoint.digest, checkpoint.frame.digest)
    assert ranker.calibration == calibration.digest != replace(calibration, alone=Logistic(0.9, -2.1)).digest
    held = find_guarantee([before], {"a": {before.ids[0]: 1}}, alpha=0.5)
    assert held.threshold == before.hits[0].probability
    assert RiskControl(held).select(before).ids == (before.ids[0], "2")
    write_calibration(checkpoint, replace(calibration, alone=Logistic(0.5, -2.0)))
    with pytest.raises(ModelError, match="calibration"):  # the same weights, other probabilities
        RiskControl(held).select(ranked())


def test_a_guarantee_is_data() -> None:
    assert isinstance(RiskControl(find_guarantee(*four(), alpha=0.4)).guarantee, Guarantee)
