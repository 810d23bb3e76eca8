"""A threshold on P(relevant): fixed, or one that keeps a guarantee.

Knows: which hits are below it, and whose probabilities a guarantee holds for. Refuses to know: how a guarantee is found
(`risk`), and what probabilities are worth.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secondpass.errors import InputError, ModelError
from secondpass.selection.outcome import selected
from secondpass.selection.risk import Guarantee, ranker_of, read_guarantee
from secondpass.types import NEVER, Deadline, Ranking

__all__ = ["RiskControl", "Threshold"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """Removes hits of a probability below `probability`; one without a probability stays, and the trace counts those.

    It guarantees nothing: what it costs depends on how well the model is calibrated on such queries. It never takes
    long, so a deadline changes nothing.

    Raises InputError for a number outside 0 to 1.
    """

    probability: float

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise InputError(f"probability is {self.probability!r}; give a number from 0 to 1")

    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return _above("threshold", ranking, self.probability, {"guarantee": "none"})


@dataclass(frozen=True, slots=True)
class RiskControl:
    """Removes hits below the threshold of a `guarantee`: a Guarantee, or the file that `secondpass calibrate` writes.

    As Threshold does; and of a query's relevant candidates it removes at most the share alpha in expectation, over
    queries like those that it was calibrated on (see `risk`).

    Raises InputError for a file that is none. `select` raises ModelError where the probabilities are not those of the
    model, template and calibration that the guarantee was found for.
    """

    guarantee: Guarantee | str | Path
    _held: Guarantee = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        held = self.guarantee if isinstance(self.guarantee, Guarantee) else read_guarantee(self.guarantee)
        object.__setattr__(self, "_held", held)

    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        held, ranker = self._held, ranker_of(ranking)
        if ranker is not None:
            for what in ("digest", "template", "calibration"):
                expected, found = getattr(held.ranker, what), getattr(ranker, what)
                if expected != found:
                    raise ModelError(
                        f"the guarantee was found for {held.ranker.model} ({what} {expected or 'none'}), this was "
                        f"ranked by {ranker.model} ({what} {found or 'none'}); run `secondpass calibrate` again"
                    )
        told: dict[str, Any] = {"alpha": held.alpha, "queries": held.queries}
        if not held.enough:
            told["why"] = "too few queries for this alpha: nothing may go"
        return _above("risk-control", ranking, held.threshold, {"guarantee": told})


def _above(name: str, ranking: Ranking, threshold: float, detail: Mapping[str, Any]) -> Ranking:
    begun = time.perf_counter()
    removed: dict[int, str] = {}
    unknown = 0
    for position, hit in enumerate(ranking.hits):
        if hit.probability is None:
            unknown += 1
        elif hit.probability < threshold:
            removed[position] = f"probability {hit.probability:.3g} is below {threshold:.3g}"
    kept = [position for position in range(len(ranking)) if position not in removed]
    because = f"{unknown} have no probability and stay" if unknown else ""
    told = {"threshold": threshold, "without_probability": unknown, **detail}
    return selected(name, ranking, kept, removed, begun=begun, because=because, detail=told)
