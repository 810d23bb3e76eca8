"""A document as a row of somebody else's engine: what it is kept as there, and how it comes back.

Knows: what of a document an engine can hold, what is kept beside it so that nothing is lost, and the ranking that found
rows are. Refuses to know: engines, tables, vectors.

Where a table is ours it has two columns more than people's own: `REST`, JSON with the metadata and with a title or text
that no engine could hold (no string, a lone surrogate, a zero byte), and `DIGEST`, which changes with the document.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from secondpass.errors import InputError
from secondpass.types import Document, Hit, Ranking, StageTrace, Status

__all__ = ["DIGEST", "REST", "Found", "Row", "at", "document_of", "host_of", "plain", "quoted", "ranking_of", "row_of"]

REST, DIGEST = "secondpass_rest", "secondpass_digest"


@dataclass(frozen=True, slots=True)
class Row:
    """One document as it is written: `title` and `text` are such that any engine holds them."""

    id: str
    title: str
    text: str
    rest: str
    digest: str


@dataclass(frozen=True, slots=True)
class Found:
    """One document as it was found, higher scores better. `rest` is None where the table is not ours."""

    id: object
    title: object
    text: object
    rest: str | None
    metadata: Mapping[str, Any]
    score: float


def at(source: Mapping[str, Any], name: str) -> Any:
    """What is at a field; "a.b" is b inside of a, where there is no field of that name."""
    if name in source:
        return source[name]
    head, _, rest = name.partition(".")
    inside = source.get(head)
    return at(inside, rest) if rest and isinstance(inside, Mapping) else None


def plain(text: object) -> str:
    """A text as any engine takes it: lone surrogates become `?`, zero bytes spaces; what is no string is empty."""
    if not isinstance(text, str):
        return ""
    return text.encode("utf-8", "replace").decode().replace("\x00", " ")


def quoted(name: str) -> str:
    """A name of SQL, whatever is in it. Raises InputError for what is no name."""
    if not isinstance(name, str) or not name or plain(name) != name:
        raise InputError(f"{name!r} is no name of a table or column")
    return '"' + name.replace('"', '""') + '"'


def host_of(url: str) -> str:
    """What may be said of a URL: its host and port. Raises InputError for what is no URL of a server."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except (ValueError, AttributeError):
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise InputError("the url cannot be read; give http://host:port or https://host")  # it may hold a password
    return host if port is None else f"{host}:{port}"


def row_of(document: Document) -> Row:
    """Raises InputError for an id that is no string or that engines cannot hold, and for what JSON cannot hold."""
    if not isinstance(document.id, str) or plain(document.id) != document.id:
        raise InputError(f"the document id {document.id!r} cannot be kept; give text without zero bytes and surrogates")
    odd = {name: value for name in ("title", "text") if plain(value := getattr(document, name)) != value}
    try:
        rest = json.dumps({**odd, "metadata": dict(document.metadata)})
    except (TypeError, ValueError) as error:
        raise InputError(
            f"document {document.id!r} cannot be kept ({error}); text and metadata must be what JSON can hold"
        ) from error
    title, text = plain(document.title), plain(document.text)
    digest = hashlib.blake2b(json.dumps([title, text, rest]).encode(), digest_size=16).hexdigest()
    return Row(document.id, title, text, rest, digest)


def document_of(found: Found) -> Document:
    """The document as it was handed in, or what people's own table says of it: what it lacks is empty."""
    rest = {} if found.rest is None else json.loads(found.rest)
    title, text = ("" if value is None else value for value in (found.title, found.text))
    return Document(
        str(found.id),
        rest.get("text", text),
        rest.get("title", title),
        MappingProxyType({**found.metadata, **rest.get("metadata", {})}),
    )


def ranking_of(name: str, query: str, found: Iterable[Found], begun: float, detail: Mapping[str, Any]) -> Ranking:
    """The ranking of what was found, best first; its one trace entry is called `name` and begins at `begun`."""
    hits = tuple(
        Hit(document_of(one), one.score, Status.RETRIEVED, one.score, rank) for rank, one in enumerate(found, start=1)
    )
    return Ranking(query, hits, (StageTrace(name, time.perf_counter() - begun, detail=detail),))
