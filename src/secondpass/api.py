"""The two functions for those who want a ranking and no objects.

Knows: that a model is opened once and kept. Refuses to know: how it scores.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

from secondpass.errors import InputError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.types import Deadline, DocumentLike, Ranking, as_ranking

__all__ = ["DEFAULT_MODEL", "opened", "rerank", "rerank_many"]

DEFAULT_MODEL = "secondpass-mini"

_opened: dict[str, CrossEncoder] = {}
_opening = threading.Lock()


def rerank(
    query: str,
    documents: Sequence[DocumentLike],
    *,
    top_k: int | None = 10,
    deadline_ms: float | None = None,
    model: str = DEFAULT_MODEL,
    query_id: str = "",
) -> Ranking:
    """The `top_k` best of `documents` for `query` (None: all of them), best first.

    Documents are texts, mappings with `text` (and `id`, `title`, anything else), or Documents. The
    model is a shipped name, a folder or a hub name; the first call opens it, later ones find it open, and
    the deadline counts from then on. When it is up, what is not scored yet follows in the order given.

    Raises InputError for input that cannot be used, ModelError for a model that cannot be opened.
    """
    _check_top_k(top_k)
    ranking = as_ranking(query, documents, query_id)
    encoder = opened(model)
    return encoder.rerank(ranking, deadline=Deadline.after_ms(deadline_ms)).top(top_k)


def rerank_many(
    requests: Iterable[tuple[str, Sequence[DocumentLike]] | Ranking],
    *,
    top_k: int | None = 10,
    deadline_ms: float | None = None,
    model: str = DEFAULT_MODEL,
) -> Iterator[Ranking]:
    """One ranking per request, in order; requests are read one at a time, so any number of them will do.

    A request is a (query, documents) pair as `rerank` takes it, or a Ranking. `deadline_ms` is for each.

    Raises InputError, when the request's turn comes, naming its position (from 0).
    """
    _check_top_k(top_k)
    encoder = opened(model)

    def rankings() -> Iterator[Ranking]:
        for position, request in enumerate(requests):
            if isinstance(request, Ranking):
                yield request
                continue
            if not isinstance(request, tuple | list) or len(request) != 2:
                raise InputError(f"request {position} is no (query, documents) pair and no Ranking")
            try:
                yield as_ranking(*request)
            except InputError as error:
                raise InputError(f"request {position}: {error}") from error

    return (ranking.top(top_k) for ranking in encoder.rerank_many(rankings(), deadline_ms=deadline_ms))


def opened(model: str) -> CrossEncoder:
    """The model of that name or folder, opened once for all that ask for it by the same name."""
    with _opening:  # two threads that ask first must not both open it
        if model not in _opened:
            _opened[model] = CrossEncoder(model)
        return _opened[model]


def _check_top_k(top_k: int | None) -> None:
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise InputError(f"top_k is {top_k!r}; give the number of documents to return, from 1 up, or None for all")
