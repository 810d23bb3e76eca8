"""Terms as an index makes them, in bounded memory; a table of terms that finds what is there and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.retrievers.bm25 import Postings
from secondpass.words import SortedTerms, Terms, encoded


@pytest.mark.parametrize("language", ["english", "german", None])
@given(text=st.text())
@settings(deadline=None)
def test_terms_are_those_of_an_index(language: str | None, text: str) -> None:
    assert Terms(language).of(text) == Postings(language=language).terms(text)


def test_few_words_are_kept_and_no_long_ones() -> None:
    terms = Terms("english", most=3)
    assert terms.of("running dogs the cats swim") == ["run", "dog", "cat", "swim"]
    assert len(terms) <= 3
    assert terms.of("x" * 65) == ["x" * 65]
    assert "x" * 65 not in terms
    assert terms.of("z" * 64) == ["z" * 64]
    assert "z" * 64 in terms


def test_threads_may_share_one() -> None:
    terms, text = Terms("english", most=50), " ".join(f"running{n % 97} dogs{n % 89}" for n in range(2000))
    expected = Terms("english").of(text)
    with ThreadPoolExecutor(8) as pool:
        assert all(found == expected for found in pool.map(lambda _: terms.of(text), range(40)))


def test_an_unknown_language_is_said() -> None:
    with pytest.raises(InputError, match="language 'klingon' is not known"):
        Terms("klingon")


@given(st.sets(st.text(min_size=1, max_size=4)), st.lists(st.text(max_size=4)))
@settings(deadline=None)
def test_a_table_finds_what_is_there(there: set[str], asked: list[str]) -> None:
    terms = sorted(map(encoded, there))
    table = SortedTerms.of(terms)
    again = SortedTerms(table.blob, table.offsets)
    assert (len(again), [again[at] for at in range(len(again))]) == (len(terms), terms)
    for term in {*asked, *there}:
        expected = terms.index(encoded(term)) if term in there else None
        assert again.find(encoded(term)) == expected
