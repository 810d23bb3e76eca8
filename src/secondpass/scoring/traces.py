"""Traces of several calls for one request, as one.

Knows: what of a trace adds up. Refuses to know: why there were several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secondpass.types import StageTrace

__all__ = ["spent_by"]

_SPENT = ("waited_s", "tokenize_s", "expected_s", "measured_s", "unfinished")
_BILLED = ("units", "amount")


def spent_by(traces: Sequence[StageTrace]) -> dict[str, Any]:
    """The details "cost" and "billed" of an answer that took several calls: what they spent together, all else as the
    last one says. What one of them does not tell has no sum.

    Empty where the last one has neither.
    """
    return {
        name: _together([trace.detail[name] for trace in traces if name in trace.detail], counted)
        for name, counted in (("cost", _SPENT), ("billed", _BILLED))
        if name in traces[-1].detail
    }


def _together(found: Sequence[dict[str, Any]], counted: Sequence[str]) -> dict[str, Any]:
    sums = {key: sum(one[key] for one in found) for key in counted if all(key in one for one in found)}
    return {**{key: value for key, value in found[-1].items() if key not in counted}, **sums}
