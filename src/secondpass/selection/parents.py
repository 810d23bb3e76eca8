"""Chunks of one document together, and not too many of them.

Knows: the metadata that names a chunk's document, and the place in it. Refuses to know: how documents were cut.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from secondpass.errors import InputError
from secondpass.selection.outcome import selected
from secondpass.types import NEVER, Deadline, Hit, Ranking

__all__ = ["Parents"]


@dataclass(frozen=True, slots=True)
class Parents:
    """Groups chunks by the document that the metadata key `parent` names, and keeps the best `most` of each.

    Groups come in the order of their best chunk, chunks in the ranking's order; or, where `position` names a metadata
    key that holds numbers, in theirs, those without a number behind. Parents are compared as text (7 is "7"); a hit
    without the key stands for itself. It never takes long, so a deadline changes nothing.

    Raises InputError for a key that is empty, or a `most` below 1.
    """

    parent: str
    most: int
    position: str | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.parent, str) and self.parent) or self.position == "":
            raise InputError(f"parent is {self.parent!r}, position {self.position!r}; name metadata keys")
        if not isinstance(self.most, int) or isinstance(self.most, bool) or self.most < 1:
            raise InputError(f"most is {self.most!r}; give how many chunks of a document may stay, from 1 up")

    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        begun = time.perf_counter()
        groups: dict[tuple[str, int], list[int]] = {}  # in the order of their best chunks
        removed: dict[int, str] = {}
        alone = 0
        for rank, hit in enumerate(ranking.hits):
            parent = hit.document.metadata.get(self.parent)
            alone += parent is None
            group = groups.setdefault(("", rank) if parent is None else (str(parent), -1), [])
            if len(group) < self.most:
                group.append(rank)
            else:
                removed[rank] = f"{self.most} of {str(parent)!r} are further up"
        if self.position is not None:
            for group in groups.values():
                group.sort(key=lambda rank: self._place(ranking.hits[rank]))  # stable: the others keep their order
        detail = {"parent": self.parent, "groups": len(groups), "without_parent": alone}
        kept = [rank for group in groups.values() for rank in group]
        return selected("parents", ranking, kept, removed, begun=begun, detail=detail)

    def _place(self, hit: Hit) -> float:
        place: object = hit.document.metadata.get(self.position or "")
        return place if isinstance(place, int | float) and place == place else math.inf  # NaN is no place
