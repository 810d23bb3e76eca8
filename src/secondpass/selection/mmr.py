"""Maximal marginal relevance: each next document is relevant and unlike those before it.

Knows: the rule, and how relevance and likeness come on one scale. Refuses to know: how texts become vectors.

    next = argmax  λ · relevance(d) − (1 − λ) · max over chosen c of cos(d, c)

Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries",
SIGIR 1998.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondpass.embedding import Encoder, open_encoder
from secondpass.errors import InputError
from secondpass.fusion import normalised
from secondpass.selection.outcome import TIME_UP, selected
from secondpass.types import NEVER, Deadline, Hit, Ranking

__all__ = ["MMR"]

_CHARACTERS = 20_000  # of a text, at most: more would change its vector little, and cost time


@dataclass(frozen=True, slots=True)
class MMR:
    """Chooses the documents of a ranking one by one and puts them in that order; beyond `most` (None: all) they go.

    `relevance` is λ: 1 is the order by relevance, 0 looks at likeness alone. The relevance of a document is its
    probability where every scored one has one, else its score between the lowest (0) and the highest (1) of the
    ranking. Likeness is the cosine of title and text (20,000 characters at most) under `encoder`: an Encoder, or what
    `open_encoder` takes. Ties go by the ranking's order, and documents without a score follow in it. When time is up
    nothing is removed, and what was not chosen yet keeps its order behind.

    Raises InputError for a λ outside 0 to 1 or a `most` below 1, ModelError for an encoder that cannot be opened.
    """

    relevance: float = 0.7
    most: int | None = None
    encoder: str | Path | Encoder = "secondpass-static"
    _encoder: Encoder = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.relevance <= 1:
            raise InputError(f"relevance is {self.relevance!r}; give λ, from 0 (unlike) to 1 (relevant)")
        if self.most is not None and (not isinstance(self.most, int) or isinstance(self.most, bool) or self.most < 1):
            raise InputError(f"most is {self.most!r}; give how many may stay, from 1 up, or None for all")
        opened = open_encoder(self.encoder) if isinstance(self.encoder, str | Path) else self.encoder
        if not callable(getattr(opened, "encode", None)):
            raise InputError(f"encoder is {opened!r}; give an embedding.Encoder, or a model by name or folder")
        object.__setattr__(self, "_encoder", opened)

    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        begun = time.perf_counter()
        hits = ranking.hits
        scored = [i for i, hit in enumerate(hits) if hit.score is not None and math.isfinite(hit.score)]
        worth, scale = _relevances([hits[i] for i in scored])
        wanted = len(hits) if self.most is None else self.most
        first = [scored[i] for i in self._chosen([hits[i] for i in scored], worth, wanted, deadline)]
        order = [*first, *sorted(set(range(len(hits))).difference(first))]
        cut_short = len(first) < min(wanted, len(scored))
        kept = order if cut_short else order[:wanted]
        removed = dict.fromkeys(order[len(kept) :], f"not among the {wanted} that were chosen")
        detail = {"lambda": self.relevance, "relevance": scale, "encoder": self._encoder.name}
        because = TIME_UP if cut_short else ""
        return selected("mmr", ranking, kept, removed, begun=begun, because=because, detail=detail)

    def _chosen(self, hits: list[Hit], worth: NDArray[np.float64], wanted: int, deadline: Deadline) -> list[int]:
        """Positions in the order chosen: `wanted` of them or all, fewer where time is up."""
        chosen: list[int] = []
        if deadline.passed or not hits:
            return chosen
        vectors = self._encoder.encode([_text(hit) for hit in hits])
        gain = self.relevance * worth
        likeness = np.zeros(len(hits))  # of each to the chosen one it is most like; to none at first
        while len(chosen) < min(wanted, len(hits)) and not deadline.passed:
            value = gain - (1 - self.relevance) * likeness
            value[chosen] = -np.inf
            best = int(value.argmax())  # the first of equals
            cosines = (vectors @ vectors[best]).astype(np.float64)
            likeness = np.maximum(likeness, cosines) if chosen else cosines
            chosen.append(best)
        return chosen


def _relevances(scored: list[Hit]) -> tuple[NDArray[np.float64], str]:
    """What each is worth, from 0 to 1 as a cosine (scores of a stage may be anything), and what that was taken from."""
    if not scored:
        return np.zeros(0), "no document has a score"
    probabilities = [hit.probability for hit in scored if hit.probability is not None]
    if len(probabilities) == len(scored):
        return np.array(probabilities, dtype=np.float64), "probability"
    return np.array(normalised([hit.score for hit in scored])), "score, min-max"


def _text(hit: Hit) -> str:
    text: object = hit.document.text
    return f"{hit.document.title} {text[:_CHARACTERS]}" if isinstance(text, str) else hit.document.title
