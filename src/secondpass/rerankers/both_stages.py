"""A model's logits and the first stage's scores put together, and what both say of relevance.

Knows: which hits bring first-stage scores, what these are worth in logits, and what the trace says of it. Refuses to
know: the model, and how weight and probabilities are fitted (`scoring.probability`).

    fused score = logit + weight · z

z is the first stage's score in standard deviations over the hits at hand. It does not depend on which of them the model
could score, so a deadline decides how many hits are scored and never what their scores are. It does depend on the hits:
a fused score compares within its request only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.scoring.probability import FEWEST_SCORES, Calibration, standardised
from secondpass.types import Ranking, Scores, Status

__all__ = ["BothStages"]


@dataclass(frozen=True, slots=True)
class BothStages:
    """How a reranker's logits become the scores and probabilities of hits.

    `fuse` is True (the calibration's weight, where there is a calibration), False (the logit alone), or the weight
    itself, in logits per standard deviation of the first stage's scores.

    Raises InputError for a weight that is negative or not finite.
    """

    calibration: Calibration | None
    fuse: bool | float = True

    def __post_init__(self) -> None:
        if not (isinstance(self.fuse, int | float) and math.isfinite(self.fuse) and self.fuse >= 0):
            raise InputError(
                f"fuse is {self.fuse!r}; give True, False, or a weight from 0 up, in logits per standard deviation of "
                "the first stage's scores"
            )

    def __call__(self, ranking: Ranking, scores: Scores) -> tuple[Scores, Sequence[float | None]]:
        """The fused scores, what was done said in their trace, and the probabilities (None where no map applies).

        Statuses and spans stay, and so does the value of whatever is not scored. Without a weight of the caller's own
        a probability is a rising function of the score; with one it is still the fitted map's, and orders may differ.
        """
        first = [hit.first_score for hit in ranking.hits]
        count = sum(score is not None and math.isfinite(score) for score in first)
        weight, z, why = self._weigh(first, count)
        rows = [
            i
            for i, (logit, status) in enumerate(zip(scores.values, scores.statuses, strict=True))
            if status is Status.SCORED and logit is not None and math.isfinite(logit)
        ]
        logits = np.array([scores.values[i] for i in rows], dtype=np.float64)
        probabilities: list[float | None] = [None] * len(scores.values)
        if self.calibration is not None:
            calibrated = self.calibration.alone(logits) if z is None else self.calibration.with_first(logits, z[rows])
            for i, probability in zip(rows, calibrated.tolist(), strict=True):
                probabilities[i] = probability
        values = list(scores.values)
        if z is not None:
            for i, fused in zip(rows, (logits + weight * z[rows]).tolist(), strict=True):
                values[i] = fused
        detail: dict[str, Any] = {"weight": float(f"{weight:.4g}"), "first_scores": count}
        if why:
            detail["why"] = why
        told: dict[str, Any] = {"fused": detail}
        if self.calibration is not None:
            told["calibration"] = self.calibration.digest
        trace = replace(scores.trace, detail={**scores.trace.detail, **told})
        return replace(scores, values=tuple(values), trace=trace), probabilities

    def _weigh(self, first: Sequence[float | None], count: int) -> tuple[float, NDArray[np.float64] | None, str]:
        """The weight, z of every hit (None: the logits stand alone), and why nothing is fused where nothing is."""
        if self.fuse is False:
            return 0.0, None, "fuse=False"
        if self.fuse is not True:
            weight = float(self.fuse)
        elif self.calibration is not None:
            weight = self.calibration.weight
        else:
            return 0.0, None, "the model folder has no calibration"
        z = standardised(first)
        if z is not None:
            return weight, z, ""
        if not count:
            return 0.0, None, "no first-stage scores"
        few = f"fewer than {FEWEST_SCORES} first-stage scores"
        return 0.0, None, few if count < FEWEST_SCORES else "the first-stage scores are all the same"
