"""A chat endpoint in the shape of OpenAI's: what is sent, what comes back, what it costs.

Knows: fields, and prices. Refuses to know: connections and time (`remote`), what is talked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from secondpass.errors import InputError

__all__ = ["OPENAI", "PATH", "ChatPrice", "Said", "as_chat_price", "body", "price_of", "said"]

OPENAI = "https://api.openai.com/v1"
PATH = "/chat/completions"
_Price = Annotated[float, msgspec.Meta(ge=0.0)]


class ChatPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a million tokens cost, of the prompt and of the answer, as of that month."""

    prompt: _Price
    completion: _Price
    currency: str = "USD"
    as_of: str = ""


_PRICES: Mapping[str, ChatPrice] = MappingProxyType(
    {
        "gpt-4.1": ChatPrice(2.0, 8.0, as_of="2026-06"),
        "gpt-4.1-mini": ChatPrice(0.4, 1.6, as_of="2026-06"),
        "gpt-5.4": ChatPrice(2.5, 15.0, as_of="2026-06"),
        "gpt-5.4-mini": ChatPrice(0.75, 4.5, as_of="2026-06"),
        "gpt-5.4-nano": ChatPrice(0.2, 1.25, as_of="2026-06"),
    }
)


def price_of(url: str, model: str) -> ChatPrice | None:
    """OpenAI's price, without what it takes off for prompts that it has kept; None for what is not here."""
    return _PRICES.get(model) if url == OPENAI else None


def as_chat_price(price: ChatPrice | Mapping[str, Any]) -> ChatPrice:
    """A price from its fields. Raises InputError where they are not one."""
    try:
        return price if isinstance(price, ChatPrice) else msgspec.convert(price, ChatPrice)
    except msgspec.ValidationError as error:
        raise InputError(
            f"price is not one ({error}); give what a million tokens cost: {{prompt = 0.4, completion = 1.6, "
            "as_of = '2026-11'}"
        ) from error


def body(
    model: str,
    messages: Sequence[Mapping[str, str]],
    *,
    most_tokens: int,
    extra: Mapping[str, Any],
    without: Sequence[str] = (),
) -> dict[str, Any]:
    """A request for the answer that the model finds likeliest, `without` fields of ours, and with `extra` ones."""
    ours: dict[str, Any] = {"model": model, "messages": messages, "temperature": 0, "max_tokens": most_tokens}
    return {name: value for name, value in ours.items() if name not in without} | dict(extra)


@dataclass(frozen=True, slots=True)
class Said:
    """The text of an answer and the tokens that it used; None where the answer does not say so."""

    text: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


def said(answer: object) -> Said:
    """What an answer says, whatever is in it."""
    text = _at(answer, "choices", 0, "message", "content")
    prompt, completion = (_at(answer, "usage", name) for name in ("prompt_tokens", "completion_tokens"))
    return Said(text if isinstance(text, str) else None, _count(prompt), _count(completion))


def _at(answer: object, *way: str | int) -> object:
    for step in way:
        if isinstance(step, int):
            answer = answer[step] if isinstance(answer, list) and step < len(answer) else None
        else:
            answer = answer.get(step) if isinstance(answer, dict) else None
    return answer


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
