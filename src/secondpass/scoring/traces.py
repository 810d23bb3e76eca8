"""Traces of several calls for one request, as one.

Knows: what of a trace adds up. Refuses to know: why there were several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secondpass.types import StageTrace

__all__ = ["spent_by"]

_SPENT = ("waited_s", "tokenize_s", "expected_s", "measured_s", "unfinished")


def spent_by(traces: Sequence[StageTrace]) -> dict[str, Any]:
    """The detail "cost" of an answer that took several calls: what they spent together, all else as the last one says.

    Empty where that one has none.
    """
    if "cost" not in traces[-1].detail:
        return {}
    costs = [trace.detail["cost"] for trace in traces if "cost" in trace.detail]
    return {"cost": {**costs[-1], **{key: sum(cost[key] for cost in costs) for key in _SPENT}}}
