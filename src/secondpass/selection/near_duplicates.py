"""Each text once: what repeats a document further up goes.

Knows: which texts share their three-word runs. Refuses to know: scores, and which of two texts is the better one: the
ranking has decided that. The comparison is exact (no MinHash): candidates of one query are few, and only pairs that
share a rare run are compared.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from secondpass.errors import InputError
from secondpass.selection.outcome import TIME_UP, selected
from secondpass.shingles import CONTAINMENT, RESEMBLANCE, Shingles, repeats, shingles, words_of
from secondpass.types import NEVER, Deadline, Document, Ranking

__all__ = ["NearDuplicates"]


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Removes a document whose text a document further up that stays repeats.

    That is so where their three-word runs have a Jaccard `resemblance` of so much at least, or where the document
    further up contains at least .9 of this one's runs, if it has 8 or more. A longer document further down stays: it
    says more. Of a document without text the title counts. Looked at in the ranking's order; when time is up what was
    not looked at stays.

    Raises InputError for a resemblance that is not above 0 and at most 1.
    """

    resemblance: float = RESEMBLANCE

    def __post_init__(self) -> None:
        if not 0 < self.resemblance <= 1:
            raise InputError(f"resemblance is {self.resemblance!r}; give a share of common word runs, above 0 up to 1")

    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        begun = time.perf_counter()
        holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)  # shingle -> positions that stay
        read: list[Shingles] = []
        removed: dict[int, str] = {}
        for position, hit in enumerate(ranking.hits):
            if deadline.passed:
                break
            own = shingles(words_of(_text(hit.document)))
            read.append(own)
            for other in self._suspects(own, holders):
                common = len(own & read[other])
                if repeats(common, len(read[other]), len(own), self.resemblance):
                    name = ranking.hits[other].document.id
                    removed[position] = f"{common / len(own):.0%} of its word runs are in {name!r}"
                    break
            else:
                for one in own:
                    holders[one].append(position)
        kept = [position for position in range(len(ranking)) if position not in removed]
        because = "" if len(read) == len(ranking) else TIME_UP
        detail = {"resemblance": self.resemblance}
        return selected("near-duplicates", ranking, kept, removed, begun=begun, because=because, detail=detail)

    def _suspects(self, own: Shingles, holders: Mapping[tuple[str, ...], list[int]]) -> list[int]:
        """Positions that may hold enough of a text's shingles, the first ones first.

        What it repeats holds at least a share s of them, so among any (1 − s) of them and one more there is one that it
        holds; those that fewest documents hold find the fewest suspects.
        """
        least = math.ceil(min(self.resemblance, CONTAINMENT) * len(own) - 1e-9)
        rare = sorted(own, key=lambda one: len(holders.get(one, ())))[: len(own) - least + 1]
        return sorted({position for one in rare for position in holders.get(one, ())})


def _text(document: Document) -> str:
    text: object = document.text
    return text if isinstance(text, str) and text.strip() else document.title
