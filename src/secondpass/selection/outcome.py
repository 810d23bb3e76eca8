"""What a selector gives back: the hits that stay, and an entry in the trace that says which went, and why.

Knows: how ranking and trace go on. Refuses to know: what speaks for a hit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from secondpass.types import Ranking, StageTrace

__all__ = ["TIME_UP", "selected"]

TIME_UP = "time was up: what was not looked at stays, in the order given"


def selected(
    name: str,
    ranking: Ranking,
    kept: Sequence[int],
    removed: Mapping[int, str],
    *,
    begun: float,
    because: str = "",
    detail: Mapping[str, Any],
) -> Ranking:
    """The hits at the positions `kept`, in that order; `removed` are the other positions, each with its reason.

    `begun` is a reading of perf_counter, `because` says why less was removed than the selector is made for, `detail`
    goes into the trace beside `kept` (how many) and `removed` (the reason by document id).
    """
    gone = {ranking.hits[position].document.id: reason for position, reason in removed.items()}
    told = {**detail, "kept": len(kept), "removed": gone}
    trace = StageTrace(name, time.perf_counter() - begun, skipped_because=because, detail=told)
    return replace(ranking, hits=tuple(ranking.hits[position] for position in kept), trace=(*ranking.trace, trace))
