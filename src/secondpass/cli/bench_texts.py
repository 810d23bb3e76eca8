"""Texts of a given number of tokens, each handed out once, so that nothing kept from before can help.

Knows: words and a tokenizer. Refuses to know: models, time, where a user's texts come from.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import Any

from secondpass.errors import InputError

__all__ = ["FreshTexts"]

_WORDS = """
about after again air also always animal answer any around ask autumn away back bank because been before began being
below between book both bread bridge bring build by call came carry change children city clear close cold come
common could country course cut day did different does down draw during each early earth east eat end enough even
every example eye face fact family far farm father feet few field find fire first fish five follow food form found
four friend from full garden gave get give glass go gold good great green ground group grow had half hand hard has
have he head hear heat help her here high hill him his hold home horse hour house how hundred idea if important
island journey just keep kind king know land language large last late learn leave left letter life light like line
list little live long look low machine made make man many map mark market may mean measure might mile mind money
moon more morning most mother mountain move much music must name near need never new next night north note number
object ocean off often oil old once one only open order other our out over own page paper part pass people person
picture piece place plain plant play point port power problem product question quick rain reach read ready red
remember rest right river road rock room round rule run said same saw say school science sea second see seem
sentence set several shape she ship short should show side simple since sing size sky sleep slow small snow some
song soon sound south space special spring stand star start state step stone stop story street strong study such
summer sun sure surface table take talk teach tell ten test than that their them then there these they thing think
this those thought thousand three through time together told took top town travel tree true turn two under unit
until up usual valley very village voice wait walk want war warm was watch water way we week weight well went were
west what wheel when where which while white who whole why wind window winter with wood word work world would write
year yellow yes you young your
"""
_SHORT = ("a", "of", "to", "in", "it", "is", "1", "2", ".")  # one token in nearly every vocabulary
_TRIES = 50


class FreshTexts:
    """Texts from a seed: made of `own` texts' words, or of common English ones where there are none.

    Raises InputError where the tokenizer makes no text of the length asked for, or `own` are too few.
    """

    def __init__(self, tokenizer: Any, own: Sequence[str] = (), seed: int = 0) -> None:
        self._tokenizer = tokenizer
        self._draw = random.Random(seed)
        self._own = [words for text in own if (words := text.split())]
        self._seen: set[str] = set()
        self._turns = self._rotated()
        pool = [word for words in self._own for word in words] or _WORDS.split()
        cost = dict(zip(known := sorted(set(pool)), self._lengths(known), strict=True))
        self._pool = [(word, cost[word]) for word in pool if cost[word]]
        self._short = [word for word, length in zip(_SHORT, self._lengths(_SHORT), strict=True) if length == 1]
        if not self._short or not self._pool:
            raise InputError(
                "this model's tokenizer makes no single token of a short word: texts cannot be measured out"
            )

    def of_length(self, number: int, tokens: int) -> list[str]:
        """`number` texts of exactly `tokens` tokens, without those that a model adds."""
        out: list[str] = []
        for _ in range(_TRIES):
            out += [self._fresh(text) for text in self._exact(number - len(out), tokens) if text not in self._seen]
            if len(out) == number:
                return out
        raise InputError(f"there are too few different texts of {tokens} tokens; give larger --tokens")

    def own(self, number: int) -> list[str]:
        """`number` of the user's own texts: all in random order, then all begun one word further on, and so on."""
        found = list(islice(self._turns, number))
        if len(found) < number:
            raise InputError(f"{len(self._own)} texts are too few, or too much alike; give more, or fewer --rounds")
        return found

    @property
    def capacity(self) -> int:
        """How many texts `own` can give, where no two texts are alike."""
        return sum(map(len, self._own))

    def _rotated(self) -> Iterator[str]:
        for start in count():
            left = [words for words in self._own if start < len(words)]
            if not left:
                return
            self._draw.shuffle(left)
            for words in left:
                if (text := " ".join(words[start:] + words[:start])) not in self._seen:
                    yield self._fresh(text)

    def _fresh(self, text: str) -> str:
        self._seen.add(text)
        return text

    def _exact(self, number: int, tokens: int) -> list[str]:
        """Words are drawn by what they cost alone; where that does not add up, words are added or taken away."""
        drafts = [self._words(tokens) for _ in range(number)]
        for _ in range(_TRIES):
            lengths = self._lengths([" ".join(words) for words in drafts])
            if all(length == tokens for length in lengths):
                return [" ".join(words) for words in drafts]
            for words, length in zip(drafts, lengths, strict=True):
                if length > tokens:
                    words.pop()
                words.extend(self._draw.choices(self._short, k=max(tokens - length, 0)))
        raise InputError(f"this model's tokenizer makes no text of exactly {tokens} tokens; give another --tokens")

    def _words(self, tokens: int) -> list[str]:
        words: list[str] = []
        while tokens > 0:
            word, cost = self._draw.choice(self._pool)
            if cost > tokens:
                word, cost = self._draw.choice(self._short), 1
            words.append(word)
            tokens -= cost
        self._draw.shuffle(words)  # or short words would gather at the end
        return words

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]
