"""Where reranking helps and where it hurts: the queries in groups, each tested, all tests corrected.

Knows: one difference NC − N0 per query, query texts, the user's own fields. Refuses to know: rankings, judgments,
models, the verdict.

Two statements are kept apart. "It helps here": the mean difference of the group is not 0, by the paired randomisation
test. "It helps more here than elsewhere": the group differs from all other queries, by a permutation of who belongs to
it. Each has its own Holm correction over every group that was tested. A group below 10 queries has too few for either
and costs no correction.

A grouping puts every query into exactly one group; one that puts all into the same group says nothing that the audit
does not, and is left out. Lengths have fixed limits, not tertiles, so that audits of different query logs compare.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import pairwise
from math import inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.evaluation.metrics import SAME
from secondpass.evaluation.significance import bootstrap_interval, holm, randomisation_p
from secondpass.evaluation.wording import counted, signed, some

__all__ = ["FEWEST", "Effect", "Segment", "segments", "sentences"]

FEWEST = 10  # queries that a test of a group needs
LEVEL = 0.05
LENGTH = "query length"
QUESTION = "question word"
UNKNOWN = "not given"
_CATEGORIES = 8  # more different numbers than this are cut at their quartiles
_CELLS = 2_000_000  # differences permuted at once: 16 MB

_LENGTHS = ((2, "1–2 words"), (5, "3–5 words"), (9, "6–9 words"), (inf, "10 words or more"))
_QUESTION_WORDS = {
    "what": "what", "which": "which", "who": "who", "whom": "who", "whose": "who", "when": "when", "where": "where",
    "why": "why", "how": "how",
}  # fmt: skip
_AUXILIARIES = frozenset({
    "is", "are", "was", "were", "am", "do", "does", "did", "can", "could", "will", "would", "should", "has", "have",
    "had",
})  # fmt: skip
_YES_NO, _NO_QUESTION = "yes or no", "no question word"
_QUESTIONS = (*dict.fromkeys(_QUESTION_WORDS.values()), _YES_NO, _NO_QUESTION)
_WITHIN = 3  # "in which year", "on what date": a question word further on rarely asks
_find_words = re.compile(r"\w+").findall

Value = str | int | float  # a bool is an int
Floats = NDArray[np.float64]


class Effect(StrEnum):
    """What the test of a group says."""

    HELPS = "helps"
    HURTS = "hurts"
    OPEN = "not told apart"
    FEW = "too few"


@dataclass(frozen=True, slots=True)
class Segment:
    """One group of one grouping.

    `difference` is the mean NC − N0 of its `queries`, with its 95 % BCa `interval` (not corrected for the number of
    groups) and the two-sided `p_value` of the randomisation test, after Holm over all groups tested; both None where
    the group has fewer than 10 queries. `elsewhere` is the mean of all other queries and `p_elsewhere` the two-sided p
    of the label permutation, likewise corrected; None where the group or the rest has fewer than 10 queries.
    """

    grouping: str
    name: str
    queries: int
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    elsewhere: float
    p_elsewhere: float | None

    @property
    def effect(self) -> Effect:
        """Helps or hurts where the corrected p is below .05."""
        if self.p_value is None:
            return Effect.FEW
        if self.p_value >= LEVEL:
            return Effect.OPEN
        return Effect.HELPS if self.difference > 0.0 else Effect.HURTS

    @property
    def differs(self) -> bool | None:
        """Whether it differs from the other queries at 5 %, corrected; None: not tested."""
        return None if self.p_elsewhere is None else self.p_elsewhere < LEVEL

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"effect": self.effect.value, "differs": self.differs}


def segments(
    differences: Mapping[str, float],
    queries: Mapping[str, str] | None = None,
    *,
    fields: Mapping[str, Mapping[str, Value]] | None = None,
    permutations: int = 10_000,
    seed: int = 0,
) -> tuple[Segment, ...]:
    """The groups by query length, by question word and by each of `fields`, in this order, tested.

    `differences` is NC − N0 by query id. Without `queries` (texts by id) only the fields group. A field gives values by
    query id: numbers with more than 8 different values are cut at their quartiles, everything else groups by value. A
    query without text or value is in the group "not given". Question words are English: one among the first three
    words, or an auxiliary verb in front. The order of the queries does not matter.

    Raises InputError for differences and numbers that are not finite, for values that are neither text nor number, and
    for fields named like a grouping of this module.
    """
    if permutations < 1:
        raise InputError(f"permutations is {permutations}; give at least 1, better 10,000")
    ids = sorted(differences)
    if bad := [key for key in ids if not isfinite(differences[key])]:
        raise InputError(f"the differences of {some(bad)} are not finite; give NC − N0 for every query")
    values = np.array([differences[key] for key in ids], dtype=np.float64)
    values[np.abs(values) <= SAME] = 0.0
    groups = [
        group
        for grouping in _groupings(ids, queries or {}, fields or {})
        for group in _groups(grouping)
        if len(set(grouping.labels)) > 1
    ]
    tested = [group for group in groups if len(group.members) >= FEWEST]
    raw = [randomisation_p(values[group.members], permutations=permutations, seed=seed) for group in tested]
    p_values = dict(zip((group.key for group in tested), holm(raw), strict=True))
    compared = [group for group in tested if len(ids) - len(group.members) >= FEWEST]
    p_elsewhere = _against_the_rest(values, compared, permutations, seed)
    total = float(values.sum())
    return tuple(
        Segment(
            grouping=group.key[0],
            name=group.key[1],
            queries=len(group.members),
            difference=float(values[group.members].mean()),
            interval=bootstrap_interval(values[group.members], resamples=permutations, seed=seed)
            if group.key in p_values
            else None,
            p_value=p_values.get(group.key),
            elsewhere=(total - float(values[group.members].sum())) / (len(ids) - len(group.members)),
            p_elsewhere=p_elsewhere.get(group.key),
        )
        for group in groups
    )


def sentences(found: Sequence[Segment]) -> tuple[str, ...]:
    """What a report says of the groups where it helps, hurts, or differs from the rest, the largest effects first.

    Where there are none, one sentence that says so.
    """
    said = []
    for one in sorted(found, key=lambda segment: -abs(segment.difference)):
        change = signed(one.difference) + (f", elsewhere {signed(one.elsewhere)}" if one.differs else "")
        where = f"{one.grouping} {one.name!r}: {change} ({counted(one.queries, 'query', 'queries')})."
        if one.effect in (Effect.HELPS, Effect.HURTS):
            said.append(f"Reranking {one.effect} for {where}")
        elif one.differs:
            said.append(f"Reranking does not do the same as elsewhere for {where}")
    tested = sum(one.effect is not Effect.FEW for one in found)
    return tuple(said) or (f"No group of queries stands out, of {tested:,} tested.",)


@dataclass(frozen=True, slots=True)
class _Grouping:
    """A label per query, and the labels in the order in which they are shown."""

    name: str
    labels: Sequence[str]
    order: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Group:
    """A group: (grouping, name), the positions of its queries, and whether it is one of just two in its grouping."""

    key: tuple[str, str]
    members: list[int]
    of_two: bool


def _groupings(
    ids: Sequence[str], queries: Mapping[str, str], fields: Mapping[str, Mapping[str, Value]]
) -> Iterator[_Grouping]:
    if queries:
        words = [_find_words(queries.get(key, "").lower()) for key in ids]
        yield _Grouping(LENGTH, [_length(one) for one in words], [name for _, name in _LENGTHS])
        yield _Grouping(QUESTION, [_question(one) for one in words], _QUESTIONS)
    for field, given in fields.items():
        if field in (LENGTH, QUESTION):
            raise InputError(f"a field is named {field!r}, as a grouping that is always made; give it another name")
        yield _by_field(field, [given.get(key) for key in ids], ids)


def _groups(grouping: _Grouping) -> list[_Group]:
    """Those that have members, in the order of the labels, "not given" last."""
    members: dict[str, list[int]] = {name: [] for name in (*grouping.order, UNKNOWN)}
    for position, name in enumerate(grouping.labels):
        members[name].append(position)
    filled = {name: positions for name, positions in members.items() if positions}
    return [_Group((grouping.name, name), positions, len(filled) == 2) for name, positions in filled.items()]


def _length(words: Sequence[str]) -> str:
    return next(name for most, name in _LENGTHS if len(words) <= most) if words else UNKNOWN


def _question(words: Sequence[str]) -> str:
    if not words:
        return UNKNOWN
    if words[0] in _AUXILIARIES:
        return _YES_NO
    return next((_QUESTION_WORDS[word] for word in words[:_WITHIN] if word in _QUESTION_WORDS), _NO_QUESTION)


def _by_field(field: str, given: Sequence[Value | None], ids: Sequence[str]) -> _Grouping:
    for key, value in zip(ids, given, strict=True):
        if not isinstance(value, str | int | float | None) or (isinstance(value, float) and not isfinite(value)):
            raise InputError(f"field {field!r} of query {key!r} is {value!r}; give text, a finite number, or nothing")
    known = [value for value in given if value is not None and value != ""]
    numbers = [float(value) for value in known if not isinstance(value, str | bool)]
    if len(numbers) == len(known) and len(set(numbers)) > _CATEGORIES:
        edges = np.unique(np.quantile(numbers, (0.25, 0.5, 0.75)))
        written = [_written(float(edge)) for edge in edges]
        order = [
            f"up to {written[0]}",
            *(f"above {low} to {high}" for low, high in pairwise(written)),
            f"above {written[-1]}",
        ]
        return _Grouping(
            field, [UNKNOWN if value is None else order[int(np.searchsorted(edges, value))] for value in given], order
        )
    labels = [UNKNOWN if value is None or value == "" else _written(value) for value in given]
    return _Grouping(field, labels, sorted(set(labels) - {UNKNOWN}))


def _written(value: Value) -> str:
    return str(value) if not isinstance(value, float) else f"{value:.6g}" if abs(value) < 1e6 else f"{value:.0f}"


def _against_the_rest(
    values: Floats, groups: Sequence[_Group], permutations: int, seed: int
) -> dict[tuple[str, str], float]:
    """Two-sided p that a group's mean differs from that of all others, by permuted labels, after Holm.

    (b + 1) / (m + 1), with b of m permutations at least as far apart (Phipson & Smyth 2010). The distance of the means
    grows with |S − n·T/N|, S the group's sum and T that of all, so sums are compared; all groups share the
    permutations. Where a grouping has two groups both ask the same question, which is tested and counted once.
    """
    asked = {group.key if not group.of_two else (group.key[0], ""): group.members for group in groups}
    if not asked:
        return {}
    belongs = np.zeros((len(values), len(asked)))
    for column, members in enumerate(asked.values()):
        belongs[members, column] = 1.0
    expected = belongs.mean(axis=0) * values.sum()
    threshold = np.abs(values @ belongs - expected) - 1e-12 * np.abs(values).sum()  # rounding of the same sums
    rng = np.random.default_rng(seed)
    extreme = np.zeros(len(asked), dtype=np.int64)
    step = max(_CELLS // len(values), 1)
    for start in range(0, permutations, step):
        rows = min(step, permutations - start)
        shuffled = rng.permuted(np.broadcast_to(values, (rows, len(values))), axis=1)
        extreme += np.count_nonzero(np.abs(shuffled @ belongs - expected) >= threshold, axis=0)
    corrected = dict(zip(asked, holm([(int(b) + 1) / (permutations + 1) for b in extreme]), strict=True))
    return {group.key: corrected[(group.key[0], "") if group.of_two else group.key] for group in groups}
