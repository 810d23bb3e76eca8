"""Each text once: held against a comparison of all pairs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawn_rankings import gone, ranking, texts_st
from secondpass.errors import InputError
from secondpass.evaluation.diagnosis import is_copy
from secondpass.selection.near_duplicates import NearDuplicates
from secondpass.shingles import repeats, shingles, words_of
from secondpass.testing import ManualClock
from secondpass.types import Deadline

LONG = "bees find the way back to their hive by the sun and by the look of the land around it"


BASE = [f"word{n}" for n in range(30)]


@st.composite
def pieces(draw: st.DrawFn) -> str:
    """A stretch of one text, now and then with a word changed: parts and copies of each other are common."""
    begin = draw(st.integers(0, 12))
    words = BASE[begin : draw(st.integers(begin, 30))]
    for place in draw(st.lists(st.integers(0, 29), max_size=2)):
        words[place : place + 1] = ["changed"] if place < len(words) else []
    return " ".join(words)


@settings(deadline=None)
@given(st.lists(st.one_of(texts_st, pieces()), max_size=12), st.sampled_from([0.05, 0.3, 0.5, 0.8, 0.95, 1.0]))
def test_what_a_comparison_of_all_pairs_would_remove(texts: list[str], resemblance: float) -> None:
    kept: list[int] = []
    copies = {}
    runs = [shingles(words_of(text)) for text in texts]
    for i in range(len(texts)):
        # what stands further up says all of this one
        originals = [j for j in kept if repeats(len(runs[j] & runs[i]), len(runs[j]), len(runs[i]), resemblance)]
        assert resemblance != 0.8 or originals == [j for j in kept if is_copy(texts[j], texts[i])]
        if originals:
            copies[i] = originals[0]
        else:
            kept.append(i)
    chosen = NearDuplicates(resemblance).select(ranking(texts))
    assert chosen.ids == tuple(map(str, kept))
    assert gone(chosen).keys() == {str(i) for i in copies}
    for i, original in copies.items():
        assert f"'{original}'" in gone(chosen)[str(i)]


def test_the_better_ranked_one_stays_and_the_reason_names_it() -> None:
    chosen = NearDuplicates().select(ranking([LONG, "another text", LONG.upper() + "!", LONG + " there"]))
    assert chosen.ids == ("0", "1")
    assert gone(chosen) == {"2": "100% of its word runs are in '0'", "3": "95% of its word runs are in '0'"}
    assert chosen.trace[-1].detail["kept"] == 2


def test_a_part_goes_and_what_says_more_stays() -> None:
    part = " ".join(LONG.split()[:12])
    assert NearDuplicates().select(ranking([LONG, part])).ids == ("0",)
    assert NearDuplicates().select(ranking([part, LONG])).ids == ("0", "1")
    nearly = " ".join([*LONG.split()[:15], "moon"])  # 13 of its 14 runs
    assert NearDuplicates(1.0).select(ranking([LONG, nearly])).ids == ("0",)


def test_the_resemblance_decides() -> None:
    words = LONG.split()
    other = " ".join([*words[:9], "moon", *words[10:]])  # 3 of 18 runs differ: 15 of 21 in common, .714
    assert NearDuplicates().select(ranking([LONG, other])).ids == ("0", "1")
    assert NearDuplicates(0.71).select(ranking([LONG, other])).ids == ("0",)


def test_documents_without_words_are_no_copies_of_each_other() -> None:
    assert len(NearDuplicates().select(ranking(["", "", " \n", "!?", None, None, 7]))) == 7


def test_a_copy_of_a_copy_names_the_one_that_stays() -> None:
    chosen = NearDuplicates().select(ranking([LONG] * 4))
    assert {reason[-3:] for reason in gone(chosen).values()} == {"'0'"}


def test_when_time_is_up_the_rest_stays() -> None:
    clock = ManualClock(tick=1.0)
    chosen = NearDuplicates().select(ranking([LONG] * 6), deadline=Deadline(3.0, clock))
    assert (chosen.ids, list(gone(chosen))) == (("0", "3", "4", "5"), ["1", "2"])
    assert "time was up" in chosen.trace[-1].skipped_because


@pytest.mark.parametrize("share", [0.0, -1.0, 1.01, float("nan")])
def test_a_resemblance_that_cannot_be_meant(share: float) -> None:
    with pytest.raises(InputError, match="resemblance is"):
        NearDuplicates(share)
