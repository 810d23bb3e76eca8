from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.training.attacks import (
    ATTACKS,
    CYRILLIC,
    END,
    LATIN,
    NOISES,
    ODD,
    OVERRIDE,
    ZERO_WIDTH,
    attack,
    content_words,
    noise,
    plain,
)

TEXT = "Photosynthesis turns sunlight, water and carbon dioxide into sugar; plants do it by day."
QUERY = "how do plants make sugar"
SEEDS = st.integers(0, 1000)
attacks = st.sampled_from(sorted(ATTACKS))
noises = st.sampled_from(sorted(NOISES))
adding = st.sampled_from(sorted(set(ATTACKS) - set(ODD)))
odd = st.sampled_from(ODD)
texts = st.text(max_size=60) | st.lists(st.sampled_from(TEXT.split()), max_size=12).map(" ".join)
strange = st.text(st.characters(exclude_categories=[]), max_size=20)  # lone surrogates too
queries = texts | st.lists(st.sampled_from([*QUERY.split(), "Don't", "über-große"]), max_size=6).map(" ".join)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@settings(max_examples=80, deadline=None)
@given(attacks, noises, queries | strange, texts | strange, SEEDS)
def test_the_same_seed_gives_the_same_text(name: str, other: str, query: str, text: str, seed: int) -> None:
    assert attack(name, query, text, seed) == attack(name, query, text, seed)
    assert noise(other, query, seed) == noise(other, query, seed)


@pytest.mark.parametrize("name", [*ODD, *(name for name in NOISES if name.endswith(("typo", "typos")))])
def test_other_seeds_make_other_choices(name: str) -> None:
    made = {attack(name, QUERY, TEXT, seed) if name in ODD else noise(name, QUERY, seed) for seed in range(20)}
    assert len(made) > 5


@settings(max_examples=150, deadline=None)
@given(adding, queries, texts, SEEDS)
def test_what_is_added_leaves_the_text_whole(name: str, query: str, text: str, seed: int) -> None:
    changed = attack(name, query, text, seed)
    assert len(changed) > len(text) or not content_words(query)
    if "after" in name:
        assert changed.startswith(text + " ") or (changed == text and not content_words(query))
    else:
        assert changed.endswith(" " + text)


@settings(max_examples=80, deadline=None)
@given(queries, texts)
@example("a.b (c)", "x")
def test_the_query_stands_in_the_text_as_it_was_asked(query: str, text: str) -> None:
    assert attack("query-before", query, text) == f"{query} {text}"
    assert attack("query-after", query, text) == f"{text} {query}"
    assert attack("query-before-5", query, text) == f"{query} {query} {query} {query} {query} {text}"
    assert attack("query-after-5", query, text) == f"{text} {query} {query} {query} {query} {query}"


def test_keywords_are_the_content_words_in_turn_twenty_of_them() -> None:
    added = attack("keywords-after", QUERY, TEXT).removeprefix(TEXT).split()
    assert added == (["plants", "make", "sugar"] * 7)[:20]


def test_a_query_of_stop_words_alone_is_stuffed_all_the_same() -> None:
    assert content_words("To be or NOT to be") == ["to", "be", "or", "not"]
    assert content_words("Why can't WE fly; can birds?") == ["fly", "birds"]
    assert attack("keywords-after", "to be", "x") == "x" + " to be" * 10
    assert content_words("?") == []


@pytest.mark.parametrize("name", ["relevant-true", "relevance-score", "instruction"])
def test_claims_know_nothing_of_the_query(name: str) -> None:
    assert attack(name, "one", TEXT) == attack(name, "other", TEXT) != TEXT


@settings(max_examples=150, deadline=None)
@given(odd, queries, texts, SEEDS)
def test_odd_characters_come_off_again(name: str, query: str, text: str, seed: int) -> None:
    assume(plain(text) == text)  # a text that has some of its own cannot tell them apart
    changed = attack(name, query, text, seed)
    assert plain(changed) == text
    if re.search(rf"\w*[{LATIN}]\w+|\w+[{LATIN}]\w*", text):
        assert changed != text


@settings(max_examples=60, deadline=None)
@given(texts, SEEDS)
def test_half_of_the_words_get_one_odd_character_each(text: str, seed: int) -> None:
    assume(plain(text) == text)
    long = [word for word in words(text) if len(word) > 1]
    half = (len(long) + 1) // 2
    hidden = attack("zero-width", QUERY, text, seed)
    assert sum(hidden.count(one) for one in ZERO_WIDTH) == half
    inside = len(re.findall(rf"(?<=\w)[{ZERO_WIDTH}](?=\w)", hidden))
    assert inside == half  # neither before a word nor after it
    turned = attack("right-to-left", QUERY, text, seed)
    assert (turned.count(OVERRIDE), turned.count(END)) == (half, half)
    assert all(word in long for word in re.findall(f"{OVERRIDE}(.*?){END}", turned))
    swapped = attack("homoglyphs", QUERY, text, seed)
    assert len(swapped) == len(text)
    likeable = [word for word in words(text) if set(word) & set(LATIN)]
    assert sum(a != b for a, b in zip(text, swapped, strict=True)) == (len(likeable) + 1) // 2
    assert all(b in CYRILLIC for a, b in zip(text, swapped, strict=True) if a != b)


def distance(a: str, b: str) -> int:
    """Edits with swaps of neighbours (optimal string alignment), by the textbook table."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            best = min(table[i - 1][j], table[i][j - 1]) + 1
            best = min(best, table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 2 : i] == b[j - 2 : j][::-1]:
                best = min(best, table[i - 2][j - 2] + 1)
            table[i][j] = best
    return table[-1][-1]


@settings(max_examples=150, deadline=None)
@example("sugar; turns sugar; Photosynthesis and and by do water and Photosynthesis", 765)
@given(queries, SEEDS)
def test_a_typo_is_one_edit_in_one_word_of_four_letters_or_more(query: str, seed: int) -> None:
    there = len(re.findall(r"[^\W\d_]{4,}", query))
    for name, count in (("one-typo", 1), ("two-typos", 2)):
        changed = noise(name, query, seed)
        before, after = query.split(), changed.split()
        # word by word: "turns sugar" to "turnss ugar" is an edit in each, and one swap over the space between them
        words, typed = (re.findall(r"[^\W\d_]+", text) for text in (query, changed))
        assert sum(distance(a, b) for a, b in zip(words, typed, strict=True)) == min(count, there)
        assert len(before) == len(after)  # no space is lost or won
        assert sum(a != b for a, b in zip(before, after, strict=True)) <= min(count, there)
        for a, b in zip(before, after, strict=True):
            assert a == b or len(a) > 3


def test_a_typo_changes_a_word_of_equal_letters_too() -> None:
    assert all(noise("one-typo", word, seed) != word for word in ("aaaa", "aabb", "succeed") for seed in range(100))


def test_all_three_typos_occur() -> None:
    made = {noise("one-typo", "abcd", seed) for seed in range(200)}
    assert made >= {"bacd", "acbd", "bcd", "abc", "aabcd", "abcdd"}


@settings(max_examples=80, deadline=None)
@given(queries)
def test_case_noise_changes_case_alone(query: str) -> None:
    assert noise("upper-case", query) == query.upper()
    assert noise("title-case", query).upper() == query.upper()


def test_title_case_leaves_the_rest_of_a_word_alone() -> None:
    assert noise("title-case", "don't use iPhone 3g at o’hare") == "Don't Use IPhone 3g At O’hare"


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"attack 'shout'.*query-before"):
        attack("shout", QUERY, TEXT)
    with pytest.raises(InputError, match=r"noise 'shout'.*one-typo"):
        noise("shout", QUERY)
