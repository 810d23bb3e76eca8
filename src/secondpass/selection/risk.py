"""How much relevance a threshold on P(relevant) may cost, and the threshold that keeps to it: conformal risk control.

Knows: the risk, the threshold that judged queries give, and the file it is kept in. Refuses to know: how a ranking was
made, and what is done with it (`threshold`).

The loss of a query at a threshold t is the share of its relevant candidates whose probability is below t: from 0 to 1,
and never falling as t rises. From n judged queries with mean loss R(t)

    t = sup{t: n/(n+1) · R(t) + 1/(n+1) ≤ alpha}

and then the expected loss of the next query is at most alpha, if that query and the n are exchangeable: Angelopoulos,
Bates, Fisch, Lei and Schuster, "Conformal Risk Control", ICLR 2024, theorem 1 with λ = 1 − t and B = 1. Only queries
with a relevant candidate count, so the expectation is over queries that have one. With n < 1/alpha − 1 no threshold but
0, which removes nothing, keeps to it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from secondpass.errors import InputError
from secondpass.types import Ranking

__all__ = ["Guarantee", "Ranker", "controlled", "fewest_queries", "find_guarantee", "ranker_of", "read_guarantee"]

_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_ROUNDING = 1e-9  # of sums; a query must not be lost to it


class Ranker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose probabilities they are: model and digests of its weights, its template and its calibration."""

    model: str
    digest: str
    template: str
    calibration: str


class Guarantee(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a query's relevant candidates, at most the share `alpha` has a probability below `threshold`, in expectation.

    Found on `queries` judged queries that have a candidate of at least `grade`; on these the mean share below is
    `risk`, and `kept` is the share of all their candidates that is not.
    """

    alpha: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)]
    threshold: _Share
    queries: Annotated[int, msgspec.Meta(ge=1)]
    grade: int
    risk: _Share
    kept: _Share
    ranker: Ranker

    @property
    def enough(self) -> bool:
        """Whether so many queries allow any threshold above 0 at this alpha."""
        return self.queries >= fewest_queries(self.alpha)

    def write(self, path: str | Path) -> None:
        """As JSON, for `read_guarantee`."""
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def read_guarantee(path: str | Path) -> Guarantee:
    """What `write` wrote. Raises InputError where the file is not there or is none."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Guarantee)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); `secondpass calibrate` writes it") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no guarantee as `secondpass calibrate` writes it ({error})") from error


def find_guarantee(
    rankings: Iterable[Ranking], judgments: Mapping[str, Mapping[str, int]], *, alpha: float, grade: int = 1
) -> Guarantee:
    """The threshold for `alpha`, from rankings whose query ids have judgments: query id -> document id -> grade.

    A candidate is relevant from `grade` on; one that is not judged is not relevant. Queries without a relevant
    candidate do not count. Rankings are read one by one.

    Raises InputError for an alpha that is not between 0 and 1, where no query counts, where no candidate has a
    probability, and where rankings come from different models.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha!r}; give the share of relevant candidates that may go, between 0 and 1")
    relevant: list[list[float | None]] = []
    everything: list[float | None] = []
    ranker: Ranker | None = None
    for ranking in rankings:
        grades = judgments.get(ranking.query_id, {})
        found = [hit.probability for hit in ranking.hits if grades.get(hit.document.id, grade - 1) >= grade]
        if not found:
            continue
        relevant.append(found)
        everything += [hit.probability for hit in ranking.hits]
        own = ranker_of(ranking)
        if own is None:
            continue
        if ranker not in (None, own):
            raise InputError(f"query {ranking.query_id!r} was ranked by {own}, others by {ranker}; give one model's")
        ranker = own
    if not relevant:
        raise InputError(
            f"no query has a candidate of grade {grade} or above among its own; check the judgments, and that the "
            "first stage finds what is relevant"
        )
    if ranker is None:
        raise InputError(
            "no candidate has a probability; take a model with a calibration (see docs/python.md), as the last stage"
        )
    threshold = controlled(relevant, alpha)
    kept = sum(not _below(one, threshold) for one in everything) / len(everything)
    risk = math.fsum(_loss(one, threshold) for one in relevant) / len(relevant)
    return Guarantee(alpha, threshold, len(relevant), grade, risk, kept, ranker)


def controlled(relevant: Sequence[Sequence[float | None]], alpha: float) -> float:
    """The threshold, from the probabilities of each query's relevant candidates (None: it has none, and stays).

    It is 0, at which nothing goes, the probability of one of these candidates, or 1 where alpha allows all of it.
    """
    budget = alpha * (len(relevant) + 1) - 1 + _ROUNDING  # what the losses of all queries may sum up to
    if budget < 0:
        return 0.0
    losses: defaultdict[float, float] = defaultdict(float)  # what a threshold above this probability adds
    for query in relevant:
        for probability in query:
            if probability is not None:
                losses[probability] += 1 / len(query)
    lost = 0.0
    for probability in sorted(losses):
        lost += losses[probability]
        if lost > budget:
            return probability
    return 1.0


def fewest_queries(alpha: float) -> int:
    """How many judged queries it takes at least for a threshold above 0."""
    return math.ceil(1 / alpha - 1 - _ROUNDING)


def ranker_of(ranking: Ranking) -> Ranker | None:
    """Whose probabilities the hits have, by the trace; None where none has one.

    Raises InputError where the trace does not tell the digest of a model.
    """
    if all(hit.probability is None for hit in ranking.hits):
        return None
    for step in reversed(ranking.trace):
        if "digest" in step.detail:
            told = [str(step.detail.get(key, "")) for key in ("model", "digest", "template", "calibration")]
            return Ranker(*told)
    raise InputError(
        "the trace tells no digest of the model that gave the probabilities (detail['digest']); a guarantee holds for "
        "one model alone"
    )


def _below(probability: float | None, threshold: float) -> bool:
    return probability is not None and probability < threshold


def _loss(relevant: Sequence[float | None], threshold: float) -> float:
    return sum(_below(one, threshold) for one in relevant) / len(relevant)
