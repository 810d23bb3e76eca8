"""What fits into a prompt: never more than the budget, by rank, and nothing cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from drawn_rankings import WORDS, gone, ranking
from secondpass.errors import InputError, ModelError
from secondpass.selection.token_budget import TokenBudget, counter
from secondpass.types import Document, Hit, Ranking
from secondpass.weights import locate

LONG = st.lists(st.sampled_from([*WORDS, "unbelievably", "hexagonal", "zzyzx", "\U0001f41d"]), max_size=60).map(
    " ".join
)


COUNT = counter("secondpass-mini")


def by_words(text: str) -> int:
    return len(text.split())


@settings(deadline=None)
@given(st.lists(LONG, max_size=8), st.integers(1, 80), st.integers(0, 9), st.booleans())
def test_what_fits_by_rank(texts: list[str], budget: int, overhead: int, prefix: bool) -> None:
    """Held against counting every text whole."""
    left, kept = budget, []
    for i, text in enumerate(texts):
        if COUNT(text) + overhead <= left:
            left -= COUNT(text) + overhead
            kept.append(str(i))
        elif prefix:
            break
    chosen = TokenBudget(budget, overhead=overhead, tokenizer=COUNT, prefix=prefix).select(ranking(texts))
    assert list(chosen.ids) == kept
    assert chosen.trace[-1].detail["left"] == left
    assert sum(COUNT(str(one.text)) + overhead for one in chosen.documents) <= budget


def test_passing_over_or_stopping() -> None:
    found = ranking(["one two three", "one two three four", "one", "one"])
    over = TokenBudget(5, tokenizer=by_words).select(found)
    assert over.ids == ("0", "2", "3")
    assert gone(over) == {"1": "does not fit into the 2 tokens that are left"}
    stopped = TokenBudget(5, tokenizer=by_words, prefix=True).select(found)
    assert stopped.ids == ("0",)
    assert gone(stopped)["2"] == "behind the first that does not fit"
    assert stopped.trace[-1].detail["left"] == 2
    assert TokenBudget(5, overhead=1, tokenizer=by_words).select(found).ids == ("0",)


def test_a_text_is_never_cut_and_the_title_counts() -> None:
    document = Document("a", "one two", "three")
    found = Ranking("q", (Hit(document),))
    assert TokenBudget(3, tokenizer=by_words).select(found).documents == (document,)
    assert TokenBudget(2, tokenizer=by_words).select(found).hits == ()
    assert TokenBudget(2, tokenizer=by_words, template="{text}").select(found).documents == (document,)


def test_what_is_no_text_cannot_be_counted_and_goes() -> None:
    chosen = TokenBudget(9, tokenizer=by_words).select(ranking(["one", None, 7]))
    assert (chosen.ids, set(gone(chosen).values())) == (("0",), {"not text: its tokens cannot be counted"})


def test_tokens_are_the_tokenizers_without_special_ones() -> None:
    plain = Tokenizer.from_file(str(locate("secondpass-mini") / "tokenizer.json"))
    plain.no_truncation()
    text = "Bees find the way back to their hive. " * 100
    expected = len(plain.encode(text, add_special_tokens=False).ids)
    assert COUNT(text) == expected > 512
    assert counter(locate("secondpass-mini") / "tokenizer.json")(text) == expected
    assert counter(locate("secondpass-mini"))(text) == expected


def test_what_a_vocabulary_does_not_know_counts_by_its_characters() -> None:
    assert COUNT("x" * 5000) == 5000  # one [UNK] to the tokenizer
    assert COUNT("a hive " + "x" * 5000) == COUNT("a hive") + 5000
    assert COUNT("\ud800") >= 1


def test_a_huge_text_is_read_as_far_as_it_takes() -> None:
    read = []

    def recorded(text: str) -> int:
        read.append(len(text))
        return len(text) // 4

    for huge in ("word " * 100_000, "x" * 500_000):
        read.clear()
        chosen = TokenBudget(2000, tokenizer=recorded).select(ranking([huge, "word"]))
        assert chosen.ids == ("1",)
        assert sum(read) <= 5 * 2000 + 8000


def test_pieces_of_a_long_text_count_as_the_whole() -> None:
    text = "Bees find the way back to their unbelievably hexagonal hive, by the sun.\n" * 300
    assert len(text) > 20_000
    assert TokenBudget(COUNT(text), template="{text}").select(ranking([text])).trace[-1].detail["left"] == 0
    assert TokenBudget(COUNT(text) - 1).select(ranking([text])).hits == ()


def test_what_cannot_be_meant(tmp_path: Path) -> None:
    for tokens in (0, -5, 2.5, True):
        with pytest.raises(InputError, match="tokens is"):
            TokenBudget(tokens)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="overhead is -1"):
        TokenBudget(10, overhead=-1)
    with pytest.raises(InputError, match="tokenizer is 5"):
        TokenBudget(10, tokenizer=5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="template"):
        TokenBudget(10, template="no field")
    with pytest.raises(ModelError, match="nowhere"):
        TokenBudget(10, tokenizer="nowhere")
    with pytest.raises(ModelError, match=r"no tokenizer that can be opened"):
        TokenBudget(10, tokenizer=tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no tokenizer that can be opened"):
        TokenBudget(10, tokenizer=tmp_path / "tokenizer.json")
