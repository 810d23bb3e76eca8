"""Each text once: what repeats a document further up goes.

Knows: which texts share their three-word runs. Refuses to know: scores, and what of two texts is the better one: the
ranking has decided that. The comparison is exact (no MinHash): candidates of one query are few, and an index from
shingles to the documents that stay looks only at pairs that share something.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import chain

from secondpass.errors import InputError
from secondpass.selection.outcome import TIME_UP, selected
from secondpass.shingles import RESEMBLANCE, repeats, shingles, words_of
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
        sizes: list[int] = []
        removed: dict[int, str] = {}
        for position, hit in enumerate(ranking.hits):
            if deadline.passed:
                break
            own = shingles(words_of(_text(hit.document)))
            sizes.append(len(own))
            shared = Counter(chain.from_iterable(holders[one] for one in own if one in holders))
            original = min(
                (
                    other
                    for other, common in shared.items()
                    if repeats(common, sizes[other], len(own), self.resemblance)
                ),
                default=None,
            )
            if original is None:
                for one in own:
                    holders[one].append(position)
            else:
                name = ranking.hits[original].document.id
                removed[position] = f"{shared[original] / len(own):.0%} of its word runs are in {name!r}"
        kept = [position for position in range(len(ranking)) if position not in removed]
        because = "" if len(sizes) == len(ranking) else TIME_UP
        detail = {"resemblance": self.resemblance}
        return selected("near-duplicates", ranking, kept, removed, begun=begun, because=because, detail=detail)


def _text(document: Document) -> str:
    text: object = document.text
    return text if isinstance(text, str) and text.strip() else document.title
