"""Documents of any framework through a reranker, and which of them stands where afterwards.

Knows: that a foreign document may lack an id or share one, and what is told of a hit in foreign metadata. Refuses to
know: any framework.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from secondpass import api
from secondpass.cascade import Cascade, Stage
from secondpass.errors import InputError
from secondpass.types import NEVER, Caller, Deadline, Document, Hit, Ranking, Reranker, Retriever, Status

__all__ = ["TOLD", "Item", "Placed", "as_cascade", "in_thread", "opened", "reranked", "searched", "told"]

TOLD = ("secondpass_status", "secondpass_probability", "secondpass_first_rank", "secondpass_first_score")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Item:
    """A foreign document: its text, its id if it has one, its metadata, and the score it came with.

    A string under `title` in the metadata is its title, which a reranker's template puts before the text.
    """

    text: object
    id: object = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    score: float | None = None

    def hit(self, name: str, rank: int) -> Hit:
        """The item as a first stage's hit, by that id and at that rank."""
        title = self.metadata.get("title")
        document = Document(name, self.text, title if isinstance(title, str) else "", self.metadata)  # type: ignore[arg-type]
        score = None if self.score is None else float(self.score)
        return Hit(document, score, Status.RETRIEVED, score, rank)


@dataclass(frozen=True, slots=True)
class Placed:
    """A ranking of foreign items, and of each hit in it which item it is, counted from 0 in the order given."""

    ranking: Ranking
    positions: tuple[int, ...]

    def top(self, k: int | None) -> Iterator[tuple[int, Hit]]:
        """(position, hit) of the best k (None: all), best first.

        Raises InputError for a k below 1.
        """
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise InputError(f"{k!r} documents cannot be returned; give a whole number from 1 up, or None for all")
        return zip(self.positions[:k], self.ranking.hits[:k], strict=True)


def opened(model: str | Path | Reranker) -> Reranker:
    """A model by its name or folder, which is opened once and kept; a reranker as it is.

    Raises InputError for anything else, ModelError for a model that cannot be opened.
    """
    if isinstance(model, str | Path):
        return api.opened(str(model))
    if not callable(getattr(model, "rerank", None)):
        raise InputError(
            f"model is {model!r}; give a model's name, its folder, or an object with rerank(ranking, *, deadline)"
        )
    return model


def reranked(
    query: str,
    items: Iterable[Item],
    *,
    model: str | Path | Reranker,
    depth: int | None = None,
    deadline: Deadline = NEVER,
    query_id: str = "",
) -> Placed:
    """`items`, best first, for `query` through `model`, which sees the first `depth` of them (None: all).

    An id that is missing, or that an item before has already, is another one for the time of this call.

    Raises InputError for a query that is no string or a depth below 1; what the model raises.
    """
    if not isinstance(query, str):
        raise InputError(f"the query is a {type(query).__name__}; give a str")
    items = list(items)
    ids = _unique([item.id for item in items])
    hits = (item.hit(name, rank) for rank, (item, name) in enumerate(zip(items, ids, strict=True), 1))
    stage = Stage(opened(model), depth=max(len(items), 1) if depth is None else depth)
    ranking = stage.run(Ranking(query, tuple(hits), (), query_id), deadline)
    position = {name: at for at, name in enumerate(ids)}
    return Placed(ranking, tuple(position[name] for name in ranking.ids))


def as_cascade(retriever: Cascade | Retriever) -> Cascade:
    """A cascade as it is; a first stage alone as one without stages.

    Raises InputError for what is neither, or a cascade that has no first stage.
    """
    cascade = retriever if isinstance(retriever, Cascade) else Cascade(retriever)
    if cascade.retriever is None:
        raise InputError(f"{retriever!r} cannot search; give a retriever, or a Cascade that begins with one")
    return cascade


def searched(retriever: Cascade | Retriever, query: str, k: int, *, deadline: Deadline = NEVER) -> Ranking:
    """The best `k` documents that a cascade or a first stage alone finds, as `Cascade.search` does, by a Deadline."""
    cascade = as_cascade(retriever)
    found = cascade.first_stage(query, k, deadline=deadline)
    return cascade.select(cascade.rerank(found, deadline=deadline), deadline=deadline).top(k)


def told(hit: Hit) -> dict[str, Any]:
    """What is told of a hit beside its score, as entries of metadata by the names in `TOLD`."""
    return dict(zip(TOLD, (str(hit.status), hit.probability, hit.first_rank, hit.first_score), strict=True))


async def in_thread(work: Callable[[Deadline], _T], deadline_ms: float | None) -> _T:
    """`work` in a thread, while the event loop goes on; the deadline counts from now, waiting for a thread included.

    Where the task is cancelled the thread begins no further batch.
    """
    caller = Caller()
    try:
        return await asyncio.to_thread(work, Deadline.after_ms(deadline_ms, caller=caller))
    finally:
        caller.leave()


def _unique(ids: Sequence[object]) -> list[str]:
    """The ids as strings; in place of a missing one, or one that has been there, one of its position."""
    known = {str(own) for own in ids if own is not None}
    taken: set[str] = set()
    names = []
    for position, own in enumerate(ids):
        name = None if own is None else str(own)
        if name is None or name in taken:
            name = f"#{position}"
            while name in known:
                name = f"#{name}"
        taken.add(name)
        names.append(name)
    return names
