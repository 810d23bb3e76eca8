"""Rerank services, and how they differ: `services.toml`.

Knows: addresses, names of fields, limits, prices. Refuses to know: HTTP, rankings.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from secondpass.errors import InputError

__all__ = ["Price", "Service", "as_price", "service_named", "services"]

_TABLE = Path(__file__).with_name("services.toml")
_Count = Annotated[int, msgspec.Meta(ge=1)]


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`amount` of `currency` for `per` units, as `source` said on `as_of`. A "search" is a query with up to 100
    documents. `models` are those that it holds for."""

    amount: Annotated[float, msgspec.Meta(ge=0.0)]
    per: _Count
    unit: Literal["search", "token"]
    currency: str = "USD"
    as_of: str = ""
    source: str = ""
    models: tuple[str, ...] = ()


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rerank API.

    url: its address, "" where one runs it oneself; `path` goes behind it.
    key: the environment variable that its key is usually kept in, "": it needs none.
    model: the one asked for where the caller names none; `send_model`: whether models have names there at all.
    listwise: models whose scores depend on the documents beside, so that no score may be kept.
    documents, top: what it calls the documents and the number of results; without `top` it sends all.
    results: where the results may lie; "" is the body itself. `score`: what a result's score is called.
    tokens, billed: the way to the number of tokens, and of billed units, in an answer.
    unit: what it charges for.
    per_request: documents of a request, at most (1,000 where nobody says). `request_bytes`: their bytes, the query's
        and 150 counted with each. `query_bytes`: of a query, which has at most as many tokens or characters.
    extra: sent with each request.
    terms, source, unknown: whose terms hold, where this was read, and what could not be found.
    """

    path: str
    url: str = ""
    key: str = ""
    model: str | None = None
    send_model: bool = True
    listwise: tuple[str, ...] = ()
    documents: str = "documents"
    top: str = ""
    results: tuple[str, ...] = ("results",)
    score: str = "relevance_score"
    tokens: tuple[str, ...] = ()
    billed: tuple[str, ...] = ()
    unit: Literal["search", "token", ""] = ""
    per_request: _Count = 1000
    request_bytes: _Count = 4_000_000
    query_bytes: _Count | None = None
    extra: dict[str, Any] = {}
    prices: tuple[Price, ...] = ()
    terms: str = ""
    source: str = ""
    unknown: str = ""

    def price_of(self, model: str | None) -> Price | None:
        """What the model costs, where that is known."""
        return next((price for price in self.prices if model in price.models), None)


@functools.cache
def services() -> Mapping[str, Service]:
    """All services by name."""
    return msgspec.toml.decode(_TABLE.read_bytes(), type=dict[str, Service])


def service_named(name: str) -> Service:
    """The service of that name. Raises InputError with the nearest one."""
    known = services()
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(
            f"there is no service {name!r}; {hint}known are: {', '.join(known)}; "
            "any other that answers as Cohere does is 'compatible', with its url="
        )
    return known[name]


def as_price(price: Price | Mapping[str, Any]) -> Price:
    """A Price from its fields. Raises InputError where they are not one."""
    if isinstance(price, Price):
        return price
    try:
        return msgspec.convert(price, Price)
    except msgspec.ValidationError as error:
        raise InputError(
            f"price is not one ({error}); give e.g. {{amount = 2.0, per = 1000, unit = 'search', as_of = '2026-11'}}"
        ) from error
