"""What fits: documents in the ranking's order, until the tokens of a prompt are spent.

Knows: how many tokens a text has, and what is left of the budget. Refuses to know: how a prompt is written, and
cutting: a selector changes no document. `detail["left"]` says how many tokens are left for whoever cuts the next one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from secondpass.errors import InputError, ModelError
from secondpass.rerankers.fields import DEFAULT_TEMPLATE, renderer
from secondpass.selection.outcome import selected
from secondpass.types import NEVER, Deadline, Document, Ranking
from secondpass.weights import locate

__all__ = ["Counter", "TokenBudget", "counter"]

Counter = Callable[[str], int]
"""A text -> how many tokens it has."""

# Long texts are counted in pieces, each but the last up to a space where there is one, and only until it is too much.
_pieces = re.compile(r"(?s).{1,4000}(?=\s|$)|.{1,4000}").finditer


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """Keeps the documents, from the top, that fit into `tokens` together; one that does not fit is passed over.

    With `prefix` it stops there instead, so that what stays is the top of the ranking without a gap. A document takes
    the tokens of what `template` makes of it (see `rerankers.fields`), counted by itself, and `overhead` more for what
    the prompt puts around it. `tokenizer` is a Counter, or whatever `counter` takes: name the one of the language model
    that reads the prompt, since the shipped model's only approximates it. A document whose text is no text cannot be
    counted, and goes. The budget is kept whatever the deadline says; of a document little more is read than would fit.

    Raises InputError for a number that cannot be meant or a template that is none, ModelError for a tokenizer that
    cannot be opened.
    """

    tokens: int
    overhead: int = 0
    tokenizer: str | Path | Counter = "secondpass-mini"
    template: str = DEFAULT_TEMPLATE
    prefix: bool = False
    _count: Counter = field(init=False, repr=False, compare=False)
    _render: Callable[[Document], object] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value, least in (("tokens", self.tokens, 1), ("overhead", self.overhead, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} is {value!r}; give a whole number of tokens, from {least} up")
        count = counter(self.tokenizer) if isinstance(self.tokenizer, str | Path) else self.tokenizer
        if not callable(count):
            raise InputError(
                f"tokenizer is {count!r}; give a model by name or folder, or a function from text to a number"
            )
        object.__setattr__(self, "_count", count)
        object.__setattr__(self, "_render", renderer(self.template))

    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        begun = time.perf_counter()
        left, full = self.tokens, False
        kept: list[int] = []
        removed: dict[int, str] = {}
        for position, hit in enumerate(ranking.hits):
            text = self._render(hit.document)
            if full:
                removed[position] = "behind the first that does not fit"
            elif not isinstance(text, str):
                removed[position] = "not text: its tokens cannot be counted"
            elif (cost := self._cost(text, left)) is None:
                removed[position], full = f"does not fit into the {left} tokens that are left", self.prefix
            else:
                left -= cost
                kept.append(position)
        named = self.tokenizer if isinstance(self.tokenizer, str | Path) else getattr(self.tokenizer, "__name__", "own")
        detail = {"budget": self.tokens, "left": left, "tokenizer": str(named)}
        return selected("token-budget", ranking, kept, removed, begun=begun, detail=detail)

    def _cost(self, text: str, left: int) -> int | None:
        """Its tokens and the overhead; None where that is more than are left."""
        cost = self.overhead
        for piece in _pieces(text):
            if cost > left:
                break
            cost += self._count(piece[0])
        return cost if cost <= left else None


def counter(tokenizer: str | Path) -> Counter:
    """Counts by a tokenizer.json: the file, or the folder, shipped name or hub name of a model that has one.

    Special tokens are not counted. What a vocabulary does not know counts a token a character: language models read it
    so or nearly so, while the tokenizer would call a word of any length one token.

    Raises ModelError where there is none.
    """
    from tokenizers import Tokenizer

    path = Path(tokenizer).expanduser()
    if not path.is_file():
        path = locate(tokenizer) / "tokenizer.json"
    try:
        opened = Tokenizer.from_file(str(path))
    except Exception as error:  # its errors have no class of their own
        raise ModelError(
            f"{path}: no tokenizer that can be opened ({error}); name one with a tokenizer.json"
        ) from error
    opened.no_truncation()
    opened.no_padding()
    unknown = opened.token_to_id("[UNK]")
    if unknown is None:
        unknown = opened.token_to_id("<unk>")

    def count(text: str) -> int:
        encoding = opened.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False)
        ids = encoding.ids
        if unknown not in ids:
            return len(ids)
        spans = (encoding.offsets[i] for i, token in enumerate(ids) if token == unknown)
        return len(ids) + sum(max(end - start, 1) - 1 for start, end in spans)

    return count
