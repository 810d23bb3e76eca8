"""Haystack: a ranker component.

Knows: haystack-ai's documents and what makes a component. Refuses to know: how anything is scored. Importing this
module needs the extra `haystack`.

    pipeline.add_component("ranker", SecondPassRanker(top_k=5, deadline_ms=200))

A document that comes back is a new one: the same id, content and meta, the new score (None where it has none), and in
its meta `secondpass_status` and what else `items.told` tells. None of those given is changed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secondpass.api import DEFAULT_MODEL
from secondpass.errors import InputError
from secondpass.extras import require
from secondpass.integrations.items import Item, Placed, in_thread, opened, reranked, told
from secondpass.types import Deadline, Hit, Reranker, StageTrace

if TYPE_CHECKING:
    from haystack import Document, component, default_from_dict, default_to_dict
else:
    require("haystack", extra="haystack", purpose="the integration with Haystack")
    from haystack import Document, component, default_from_dict, default_to_dict

__all__ = ["SecondPassRanker"]


@component
class SecondPassRanker:
    """Reranks what a retriever found; all of it comes back unless `top_k` says otherwise.

    Args:
        model: a model's name or folder, or any reranker, a Cascade among them. Only a name or a folder can be written
            into a pipeline's YAML.
        top_k: how many documents come back; None: all.
        depth: how many of them the model sees, from the first on; None: all.
        deadline_ms: milliseconds from the call on; what is not scored by then follows in the order given.
        scale_score: scores through a sigmoid, so that they lie between 0 and 1, in the same order.
    """

    def __init__(
        self,
        model: str | Path | Reranker = DEFAULT_MODEL,
        top_k: int | None = None,
        depth: int | None = None,
        deadline_ms: float | None = None,
        scale_score: bool = True,
    ) -> None:
        self.model = model
        self.top_k = top_k
        self.depth = depth
        self.deadline_ms = deadline_ms
        self.scale_score = scale_score

    def warm_up(self) -> None:
        """Open the model; without it the first run does."""
        opened(self.model)

    def to_dict(self) -> dict[str, Any]:
        """The settings, for a pipeline's YAML. Raises InputError where the model is an object."""
        if not isinstance(self.model, str | Path):
            raise InputError(
                f"{self.model!r} cannot be written into a pipeline's YAML; make the ranker with a name or a folder"
            )
        settings = {name: getattr(self, name) for name in ("top_k", "depth", "deadline_ms", "scale_score")}
        return default_to_dict(self, model=str(self.model), **settings)  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SecondPassRanker:
        """The ranker that `to_dict` wrote."""
        return default_from_dict(cls, data)  # type: ignore[no-any-return]

    @component.output_types(documents=list[Document], trace=list[dict[str, Any]])  # type: ignore[untyped-decorator]
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None, scale_score: bool | None = None
    ) -> dict[str, Any]:
        """The documents, best first, and what each stage did. `top_k` and `scale_score` go before the ranker's own."""
        placed = self._placed(query, documents, Deadline.after_ms(self.deadline_ms))
        return self._answer(placed, documents, top_k, scale_score)

    @component.output_types(documents=list[Document], trace=list[dict[str, Any]])  # type: ignore[untyped-decorator]
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None, scale_score: bool | None = None
    ) -> dict[str, Any]:
        """As `run`, computed in a thread while the event loop goes on."""
        placed = await in_thread(partial(self._placed, query, documents), self.deadline_ms)
        return self._answer(placed, documents, top_k, scale_score)

    def _placed(self, query: str, documents: Sequence[Document], deadline: Deadline) -> Placed:
        items = [Item(one.content, one.id, one.meta, one.score) for one in documents]
        return reranked(query, items, model=self.model, depth=self.depth, deadline=deadline)

    def _answer(
        self, placed: Placed, documents: Sequence[Document], top_k: int | None, scale_score: bool | None
    ) -> dict[str, Any]:
        scaled = self.scale_score if scale_score is None else scale_score
        best = placed.top(self.top_k if top_k is None else top_k)
        return {
            "documents": [_with(documents[position], hit, scaled) for position, hit in best],
            "trace": [_plain(stage) for stage in placed.ranking.trace],
        }


def _with(document: Document, hit: Hit, scaled: bool) -> Document:
    """A copy that tells of the hit."""
    score = hit.score
    if scaled and score is not None:
        score = 1.0 / (1.0 + math.exp(-score)) if score > -700 else 0.0  # below, exp would overflow
    return dataclasses.replace(document, score=score, meta={**document.meta, **told(hit)})


def _plain(stage: StageTrace) -> dict[str, Any]:
    values = {field.name: getattr(stage, field.name) for field in dataclasses.fields(stage)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
