"""Texts as token ids, each text tokenized once: what the tokenizer said is kept, in bounded memory.

Knows: the tokenizer, how much of a huge text is read, and where answers are kept. Refuses to know: queries, pairs,
engines. What is kept of a text holds for every query, because what is read depends on the model's length alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from secondpass.errors import InputError
from secondpass.scoring.cache import MemoryStore

__all__ = ["KEEP_BYTES", "Tokenized", "Tokens"]

KEEP_BYTES = 32_000_000  # some 50,000 passages of 85 tokens
_KEY_BYTES = 16

# A longer text is first cut at this many characters (per token of the length, where that is more); only where
# that leaves too few tokens is all of it tokenized. It keeps a document of megabytes as cheap as one of pages.
_CHARACTERS = 20_000
_CHARACTERS_PER_TOKEN = 48


@dataclass(frozen=True, slots=True, eq=False)
class Tokenized:
    """One text. `ids`: its tokens without specials, uint32, shape [tokens].

    `places`: uint32, shape [3, tokens]: the character where a token starts, the one behind it, and 1 where it begins
    a word, 0 inside one; None for a text so short that no query leaves too little room for it. `more`: the text was
    longer than what was read. `kept`: it was not tokenized now. The arrays are read-only.
    """

    ids: NDArray[np.uint32]
    places: NDArray[np.uint32] | None
    more: bool
    kept: bool

    def end(self, count: int) -> int:
        """The character behind the first `count` tokens. Raises ValueError where no places are there."""
        if self.places is None:
            raise ValueError(f"{len(self.ids)} tokens without places were cut to {count}")
        return int(self.places[1, count - 1])


class Tokens:
    """The tokenizer, and what it lately said of texts, by a hash of the text; no text is held.

    Of every text at least `max_length` tokens are read, the whole pair's length. Threads may share one.

    Args:
        keep_bytes: the most memory for what is kept, from 65,536 up; 0: nothing is kept.

    Raises InputError for a number that cannot be meant.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int, keep_bytes: int = KEEP_BYTES) -> None:
        if isinstance(keep_bytes, bool) or (keep_bytes != 0 and not keep_bytes >= 65_536):
            raise InputError(f"keep_tokens is {keep_bytes!r}; give bytes from 65,536 up, or 0 to keep nothing")
        self.max_length = max_length
        self.keep_bytes = keep_bytes
        self._tokenizer = tokenizer
        self._limit = max(max_length * _CHARACTERS_PER_TOKEN, _CHARACTERS)
        self._never_cut = max_length // 4  # what a document has beside the longest query, see Frame.query_limit
        self.clear()

    def __repr__(self) -> str:
        return f"Tokens(max_length={self.max_length}, keep_bytes={self.keep_bytes})"

    @property
    def used_bytes(self) -> int:
        """Bytes in use, never more than `keep_bytes`."""
        return 0 if self._store is None else self._store.used_bytes

    def clear(self) -> None:
        """Forget every text."""
        self._store = MemoryStore(self.keep_bytes) if self.keep_bytes else None

    def of(self, texts: Sequence[str]) -> list[Tokenized]:
        """Each text's tokens. What is not kept is tokenized in one batch, a text that occurs twice once."""
        store = self._store
        if store is None:
            return [_unpack(packed, kept=False) for packed in self._read(texts)]
        keys = [_key(text) for text in texts]
        known = {key: packed for key, packed in zip(keys, store.get(keys), strict=True) if packed is not None}
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        read = dict(zip(new, self._read(list(new.values())), strict=True)) if new else {}
        store.put(read)
        return [_unpack(read.get(key) or known[key], kept=key in known) for key in keys]

    def whole(self, text: str) -> Tokenized:
        """All tokens of a text of any length, with their places; not kept."""
        (encoding,) = self._tokenizer.encode_batch([_clean(text)], add_special_tokens=False)
        return _unpack(_pack(encoding, more=False, places=True), kept=False)

    def _read(self, texts: Sequence[str]) -> list[bytes]:
        cleaned = [_clean(text) for text in texts]
        encodings = self._tokenizer.encode_batch([text[: self._limit] for text in cleaned], add_special_tokens=False)
        out = []
        for text, encoding in zip(cleaned, encodings, strict=True):
            more = len(text) > self._limit
            if more and len(encoding) <= self.max_length:
                encoding, more = self._tokenizer.encode(text, add_special_tokens=False), False
            out.append(_pack(encoding, more=more, places=len(encoding) > self._never_cut))
        return out


def _clean(text: str) -> str:
    # lone surrogates cannot be encoded; one replacement character each keeps the offsets right
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


def _pack(encoding: Encoding, *, more: bool, places: bool) -> bytes:
    """One row of numbers: whether there is more, how many tokens, their ids, and their places where wanted."""
    ids = encoding.ids
    parts = [np.array([more, len(ids), *ids], dtype=np.uint32)]
    if places:
        words = np.array(encoding.word_ids, dtype=np.float64)  # None, outside of any word, becomes NaN: never equal
        offsets = np.fromiter(chain.from_iterable(encoding.offsets), dtype=np.uint32, count=2 * len(ids))
        parts.append(offsets.reshape(-1, 2).T)
        parts.append(np.diff(words, prepend=np.nan) != 0)
    return b"".join(part.astype(np.uint32).tobytes() for part in parts)


def _unpack(packed: bytes, *, kept: bool) -> Tokenized:
    numbers = np.frombuffer(packed, dtype=np.uint32)
    count = int(numbers[1])
    end = 2 + count
    places = numbers[end:].reshape(3, count) if len(numbers) > end else None
    return Tokenized(numbers[2:end], places, bool(numbers[0]), kept)
