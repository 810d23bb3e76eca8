"""Whether a request is in a language that its model was made for: a guess from letters and function words.

Knows: scripts, and how much evidence the function words of a language are. Refuses to know: models, tokens, scores;
it changes nothing, the trace says what it found. The guess is made to be silent rather than wrong: names, code,
numbers, titles, queries of a few words without a function word are taken for the model's own language.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from secondpass.scoring.function_words import FUNCTION_WORDS, FunctionWords
from secondpass.types import Scores

__all__ = ["KNOWN", "foreign", "language_detail", "noted"]

_CHARACTERS = 240  # of a text are read
_DOCUMENTS = 20  # of a request are read, the first ones
_SCRIPT_LETTERS = 4  # of another script at least, so that σ or µm is none
_SCRIPT_SHARE, _QUOTED_SHARE = 0.3, 0.7  # of all letters; the second beside two of the model's own function words

KNOWN = frozenset(FUNCTION_WORDS)
"""The languages, by their two letters, that a model may be for and that its requests are checked for."""

_ANY = frozenset().union(*(its.sure | its.common for its in FUNCTION_WORDS.values()))
_WORD = re.compile(r"[^\W\d_]+|[¿¡]")
_ADDRESS = re.compile(r"\S+://\S+")
_BEYOND_LATIN = "\u0370"  # below it all letters are Latin ones
_SCRIPTS = re.compile(  # of the first word of a character's name; Latin letters in mathematical alphabets have others
    "GREEK|COPTIC|CYRILLIC|ARMENIAN|HEBREW|ARABIC|SYRIAC|THAANA|DEVANAGARI|BENGALI|GURMUKHI|GUJARATI|ORIYA|TAMIL|TELUGU|"
    "KANNADA|MALAYALAM|SINHALA|THAI|LAO|TIBETAN|MYANMAR|GEORGIAN|HANGUL|ETHIOPIC|KHMER|MONGOLIAN|HIRAGANA|KATAKANA|CJK"
)
_SYLLABIC = {"HANGUL", "HIRAGANA", "KATAKANA", "CJK"}  # a character is a syllable or a word: it counts twice
_TITLES = {"CJK": "Chinese or Japanese", "HANGUL": "Korean", "HIRAGANA": "Japanese", "KATAKANA": "Japanese"}


def foreign(text: str, languages: Sequence[str]) -> str:
    """What `text` looks like, such as "German" or "Cyrillic", where that is likely none of `languages`; else "".

    Reads the first 240 characters. `languages` are two-letter codes (ISO 639-1); where one of them is not in `KNOWN`
    nothing can be said of any text.
    """
    if not languages or not KNOWN.issuperset(languages):
        return ""
    own = _words_of(tuple(languages))
    text = text[:_CHARACTERS]
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if "://" in text:
        text = _ADDRESS.sub(" ", text)
    words = set(_WORD.findall(text.lower()))
    if text and max(text) >= _BEYOND_LATIN and (script := _script(text, quoted=len(words & own) >= 2)):
        return script
    if len((words & _ANY) - own) < 2:  # most text ends here; fewer are no evidence of any language
        return ""
    best, name = max((_evidence(words, own, its), its.name) for its in FUNCTION_WORDS.values())
    return name if best else ""


def language_detail(languages: Sequence[str], query: object, texts: Sequence[object]) -> dict[str, Any] | None:
    """What a trace says of a request that is in none of `languages`; None where there is nothing to say.

    "query": what the query looks like ("" for one of the languages), "documents": how many of the first `of` (20 at
    most, texts only) look like none of them, "model": the languages' names, "warning": a sentence. There is something
    to say where the query looks foreign, or more than half of the documents.
    """
    if not languages or not KNOWN.issuperset(languages):
        return None
    asked = foreign(query, languages) if isinstance(query, str) else ""
    read = [text for text in texts[:_DOCUMENTS] if isinstance(text, str) and text[:_CHARACTERS].strip()]
    found = Counter(filter(None, (foreign(text, languages) for text in read)))
    count = found.total()
    if not asked and 2 * count <= len(read):
        return None
    model = " and ".join(FUNCTION_WORDS[code].name for code in languages)
    told = [f"the query looks {asked}"] if asked else []
    if count:
        most = min(found, key=lambda name: (-found[name], name))
        told.append(f"{count} of {len(read)} documents looked at look {most}")
    warning = f"{' and '.join(told)}; the model was trained on {model} only, so its scores may mean little"
    return {"query": asked, "documents": count, "of": len(read), "model": model, "warning": warning}


def noted(scores: Scores, detail: Mapping[str, Any] | None) -> Scores:
    """The same scores, with what `language_detail` found as `trace.detail["language"]`, if anything."""
    if detail is None:
        return scores
    return replace(scores, trace=replace(scores.trace, detail={**scores.trace.detail, "language": detail}))


@lru_cache(maxsize=16)
def _words_of(languages: tuple[str, ...]) -> frozenset[str]:
    its = [FUNCTION_WORDS[code] for code in languages]
    return frozenset().union(*(one.sure | one.common for one in its))


def _evidence(words: set[str], own: frozenset[str], its: FunctionWords) -> int:
    """How clearly words are of another language: 2 for each function word, 1 for a common one; 0: not clearly.

    One at least must not be common, all together must weigh 3 and a fifth of the words, and four for each function
    word of the model's own languages that the other one lacks.
    """
    sure, common = (words & its.sure) - own, (words & its.common) - own
    weight = 2 * len(sure) + len(common)
    against = len((words & own) - its.sure - its.common)
    return weight if sure and weight >= max(3, len(words) / 5, 4 * against) else 0


def _script(text: str, *, quoted: bool) -> str:
    """The script other than Latin that most letters belong to; "" where they are too few.

    `quoted`: function words of the model's languages stand beside, so it takes more of them.
    """
    latin = 0
    found: Counter[str] = Counter()
    for character, count in Counter(text).items():
        script = _script_of(character)
        if script == "LATIN":
            latin += count
        elif script:
            found[script] += 2 * count if script in _SYLLABIC else count
    other = found.total()
    if other < _SCRIPT_LETTERS or other < (_QUOTED_SHARE if quoted else _SCRIPT_SHARE) * (other + latin):
        return ""
    if found["HIRAGANA"] + found["KATAKANA"]:
        return "Japanese"
    script = min(found, key=lambda name: (-found[name], name))
    return _TITLES.get(script, script.title())


@lru_cache(maxsize=4096)
def _script_of(character: str) -> str:
    """One of `_SCRIPTS`, "LATIN" for all other letters, "" for what is no letter."""
    if not character.isalpha():
        return ""
    script = unicodedata.name(character, "").split(" ")[0]
    return script if _SCRIPTS.fullmatch(script) else "LATIN"
