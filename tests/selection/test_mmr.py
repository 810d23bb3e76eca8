"""Maximal marginal relevance, held against the paper's rule written out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from drawn_rankings import gone, judged, ranking
from secondpass.errors import InputError, ModelError
from secondpass.selection.mmr import MMR
from secondpass.testing import ManualClock
from secondpass.types import Deadline

SIGNS = np.array(list(product((0.5, -0.5), repeat=4)), dtype=np.float32)  # unit vectors whose cosines are exact


class Signs:
    """An encoder whose texts are the numbers of vectors; anything else is nowhere."""

    name, digest, dimensions = "signs", "0", 4

    def encode(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        zero = np.zeros(4, dtype=np.float32)
        return np.array([SIGNS[int(text)] if text.strip().isdigit() else zero for text in texts]).reshape(-1, 4)


def brute_force(relevance: Sequence[float], likeness: NDArray[np.float64], weight: float) -> list[int]:
    """Carbonell and Goldstein's rule, a document at a time, by its words."""
    chosen: list[int] = []
    while len(chosen) < len(relevance):
        best, highest = -1, -np.inf
        for i in range(len(relevance)):
            if i not in chosen:
                most_alike = max((likeness[i, j] for j in chosen), default=0.0)
                value = weight * relevance[i] - (1 - weight) * most_alike
                if value > highest:
                    best, highest = i, value
        chosen.append(best)
    return chosen


drawn_st = st.lists(st.tuples(st.integers(0, 15), st.sampled_from([0.0, 0.125, 0.5, 0.75, 1.0])), max_size=9)


@settings(deadline=None)
@given(drawn_st, st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_the_order_is_the_papers(drawn: list[tuple[int, float]], weight: float) -> None:
    probabilities = [p for _, p in drawn]
    given_ranking = ranking([str(n) for n, _ in drawn], scores=probabilities, probabilities=probabilities)
    vectors = Signs().encode([str(n) for n, _ in drawn])
    expected = brute_force(probabilities, (vectors @ vectors.T).astype(np.float64), weight)
    assert MMR(weight, encoder=Signs()).select(given_ranking).ids == tuple(map(str, expected))


def test_a_copy_waits_behind_what_is_new() -> None:
    found = ranking(["1", "1", "5"], scores=[3.0, 2.0, 1.0], probabilities=[0.9, 0.8, 0.6])
    chosen = MMR(0.5, encoder=Signs()).select(found)
    assert chosen.ids == ("0", "2", "1")
    assert chosen.trace[-1].detail["relevance"] == "probability"
    assert MMR(1.0, encoder=Signs()).select(found).ids == ("0", "1", "2")
    two = MMR(0.5, most=2, encoder=Signs()).select(found)
    assert (two.ids, gone(two)) == (("0", "2"), {"1": "not among the 2 that were chosen"})


def test_scores_count_between_the_lowest_and_the_highest() -> None:
    """120, 110 and 100 are 1, .5 and 0: the second is a copy of the first (.25 − .5), the third is not (0 − 0)."""
    found = ranking(["0", "0", "3"], scores=[120.0, 110.0, 100.0])
    chosen = MMR(0.5, encoder=Signs()).select(found)
    assert (chosen.ids, chosen.trace[-1].detail["relevance"]) == (("0", "2", "1"), "score, min-max")
    assert MMR(0.7, encoder=Signs()).select(found).ids == ("0", "1", "2")  # .35 − .3 is above 0


def test_what_has_no_score_stays_behind_in_its_order() -> None:
    found = ranking(
        ["4", "0", "1", "x", "5"], scores=[None, 0.2, 0.9, 0.5, None], probabilities=[None, 0.2, 0.9, 0.5, None]
    )
    assert MMR(1.0, encoder=Signs()).select(found).ids == ("2", "3", "1", "0", "4")
    assert MMR(1.0, most=4, encoder=Signs()).select(found).ids == ("2", "3", "1", "0")
    nothing = MMR(0.5, encoder=Signs()).select(ranking(["1", "1", "2"]))
    assert (nothing.ids, nothing.trace[-1].detail["relevance"]) == (("0", "1", "2"), "no document has a score")


def test_when_time_is_up_nothing_goes_and_the_rest_keeps_its_order() -> None:
    found = ranking(["1", "1", "5", "3", "x"], scores=[5.0, 4.0, 3.0, 2.0, None])
    for readings, order in ((0, "01234"), (1, "01234"), (2, "01234"), (3, "02134")):
        clock = ManualClock(tick=1.0)
        late = MMR(0.1, most=4, encoder=Signs()).select(found, deadline=Deadline(float(readings), clock))
        assert "".join(late.ids) == order
        assert gone(late) == {}
        assert "time was up" in late.trace[-1].skipped_because
    on_time = MMR(0.1, most=4, encoder=Signs()).select(found)
    assert on_time.trace[-1].skipped_because == ""
    assert list(gone(on_time)) == ["4"]


def test_the_shipped_encoder_tells_texts_apart() -> None:
    texts = ["bees live in a hive", "a hive is where bees live", "the interest rates of the bank rose"]
    found = ranking(texts, scores=[3.0, 2.0, 1.0], probabilities=[0.9, 0.8, 0.7])
    chosen = MMR(0.5, most=2).select(found)
    assert chosen.ids == ("0", "2")
    assert chosen.trace[-1].detail["encoder"] == "secondpass-static"


def test_what_cannot_be_meant() -> None:
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="relevance is"):
            MMR(weight)
    for most in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="most is"):
            MMR(most=most)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="encoder is 5"):
        MMR(encoder=5)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="nowhere"):
        MMR(encoder="nowhere")


def test_texts_that_are_none_are_like_nothing() -> None:
    found = judged([0.9, 0.8])
    assert len(MMR().select(ranking([None, 7, ""], scores=[3.0, 2.0, 1.0]))) == 3
    assert MMR().select(found).ids[0] == "0"
