"""What of a document is scored: a template over its title, text and metadata.

Knows: documents. Refuses to know: models.
"""

from __future__ import annotations

import string
from collections.abc import Callable

from secondpass.errors import InputError
from secondpass.types import Document, Status

__all__ = ["DEFAULT_TEMPLATE", "obstacle", "renderer"]

DEFAULT_TEMPLATE = "{title} {text}"


def renderer(template: str = DEFAULT_TEMPLATE) -> Callable[[Document], object]:
    """A function from a document to the text to score.

    A template names fields in braces: `{title}`, `{text}`, `{id}`, or any metadata key; a key that a document
    lacks is left empty. The result is stripped. A text that is not a string is handed on as it is, so that the
    scorer answers `not_text`.
    Raises InputError for a template that names no field or uses anything but plain names.
    """
    try:
        parts = [
            (literal, name)
            for literal, name, spec, convert in string.Formatter().parse(template)
            if not (spec or convert)
        ]
        whole = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(
            f"template {template!r}: {error}; write fields as {{title}}, {{text}} or {{some_metadata_key}}"
        ) from error
    names = [name for _, name in parts if name is not None]
    if len(parts) != len(whole) or not names or any(not name or set(name) & set(".[]") for name in names):
        raise InputError(
            f"template {template!r}: name at least one field, by its plain name, as in '{DEFAULT_TEMPLATE}'"
        )

    def render(document: Document) -> object:
        if "text" in names and not isinstance(document.text, str):
            return document.text
        own = {"id": document.id, "title": document.title, "text": document.text}
        return "".join(
            literal + ("" if name is None else str(own[name] if name in own else document.metadata.get(name, "")))
            for literal, name in parts
        ).strip()

    return render


def obstacle(text: object) -> Status | None:
    """Why a rendered text cannot be scored by anyone: NOT_TEXT or EMPTY; None where it can."""
    if not isinstance(text, str):
        return Status.NOT_TEXT
    return None if text.strip() else Status.EMPTY
