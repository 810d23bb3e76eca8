"""The catalog: which published rerankers there are, and how each family is read.

Knows: `catalog.toml`, and what a licence allows. Refuses to know: files of models, tokens, engines.

A family is a template with the way a score is read off; a model is a published name with its family and licence. What
was taken from memory or never run on real weights here says `verified = false`.
"""

from __future__ import annotations

import difflib
import functools
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from secondpass.errors import ModelError

__all__ = ["ALLOWED", "Family", "Known", "catalog", "check_allowed", "families", "family_named", "permits_commerce"]

ALLOWED = ("licence", "pickle", "remote-code")
"""What a caller may allow that is refused otherwise."""

_CATALOG = Path(__file__).with_name("catalog.toml")
_COMMERCIAL = (
    "apache-2.0",
    "mit",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "isc",
    "gemma",
)


@dataclass(frozen=True, slots=True)
class Family:
    """How a pair becomes tokens, and how a score is read off.

    head: "classifier" (one label), "causal" (logits at the last token), "seq2seq" (at the first decoder step).
    kinds: the `model_type`s of config.json that it holds for; () for every classifier.
    before, between, after: pieces around the texts, each tokenized apart, special tokens spelled out.
    query, document: patterns with {query} (and {instruction}) or {document}, tokenized as a whole.
    special: tokens that the tokenizer must know.
    positive, negative: the tokens whose logits are compared; without a negative the positive's alone counts.
    scale: what the logit is divided by.
    instruction: the published words for {instruction}; `instructed`: the query's pattern where the caller gives an
        instruction and `query` has no place for one.
    max_length: tokens of the whole pair that are usual; 0: as the folder says.
    """

    name: str
    head: Literal["classifier", "causal", "seq2seq"]
    kinds: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    query: str = "{query}"
    between: tuple[str, ...] = ()
    document: str = "{document}"
    after: tuple[str, ...] = ()
    special: tuple[str, ...] = ()
    positive: str = ""
    negative: str = ""
    scale: float = 1.0
    activation: Literal["identity", "sigmoid"] = "sigmoid"
    instruction: str = ""
    instructed: str = ""
    max_length: int = 0
    verified: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """A published model. `parameters` in millions, `max_length` what is usual and `longest` what is possible, in tokens
    of the whole pair; `sizes` are config.json's, as far as they decide its speed."""

    name: str
    family: str
    kind: str
    licence: str
    languages: tuple[str, ...]
    parameters: float
    max_length: int
    longest: int
    sizes: dict[str, Any]
    activation: str = ""
    remote_code: bool = False
    verified: bool = False
    note: str = ""


@functools.cache
def _read() -> tuple[dict[str, Family], dict[str, Known]]:
    table = tomllib.loads(_CATALOG.read_text(encoding="utf-8"))

    def fixed(row: dict[str, Any]) -> dict[str, Any]:
        return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}

    known = {}
    for row in table["models"]:
        values = fixed(row)
        values.setdefault("longest", values["max_length"])
        for name in values.pop("names"):
            known[name] = Known(name=name, **values)
    return {name: Family(name, **fixed(row)) for name, row in table["families"].items()}, known


def families() -> dict[str, Family]:
    """All families by name."""
    return dict(_read()[0])


def catalog() -> dict[str, Known]:
    """All published models by name."""
    return dict(_read()[1])


def family_named(name: str) -> Family:
    """Raises ModelError for an unknown name."""
    known = families()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ModelError(f"there is no model family {name!r}; {hint}known are: {', '.join(known)}")
    return known[name]


def check_allowed(allow: Collection[str]) -> frozenset[str]:
    """Raises ModelError for what cannot be allowed."""
    if isinstance(allow, str) or (unknown := set(allow) - set(ALLOWED)):
        wrong = repr(allow) if isinstance(allow, str) else ", ".join(map(repr, sorted(unknown)))
        raise ModelError(f"allow is {wrong}; give a list of {', '.join(ALLOWED)}")
    return frozenset(allow)


def permits_commerce(licence: str) -> bool:
    """Whether a licence is one of those known to allow commercial use; unknown and unstated ones are not."""
    return licence.lower() in _COMMERCIAL
