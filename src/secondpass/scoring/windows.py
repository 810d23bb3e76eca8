"""Windowed: a long text is scored by its most promising windows instead of by its beginning alone.

Knows: tokens, where words begin, and any Scorer to ask. Refuses to know: engines, rankings. A wrapper that
is itself a Scorer; a text that the model reads whole passes through it unchanged.

Passage scores pooled to a document's: Dai and Callan, "Deeper Text Understanding for IR with Contextual Neural
Language Modeling", SIGIR 2019 (FirstP, MaxP; the mean is their SumP per window). The lexical choice before scoring,
which keeps the cost bounded, follows Hofstätter et al., "Intra-Document Cascading", SIGIR 2021, with rarity counted
inside the document in place of a learned model.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, get_args

from secondpass.errors import InputError
from secondpass.scoring.frame import Frame
from secondpass.scoring.prepare import asked
from secondpass.scoring.tokens import Tokenized, Tokens
from secondpass.types import NEVER, Deadline, Scorer, Scores, Status

__all__ = ["Pooling", "Windowed"]

Pooling = Literal["max", "mean", "first"]

_FIRST = 0.05  # what the first window is ahead, as a share of all weight: beginnings say what a text is about
_PREFIX = 5  # letters of a query word that a word of the text has to begin with
_BLOCK = 4  # characters a token, for the blocks by which a huge text is narrowed before any of it is tokenized
_TOGETHER = 8  # texts tokenized between two looks at the clock


@dataclass(frozen=True, slots=True)
class _Window:
    """A slice of the text: characters [start, end), which are the tokens [first, last)."""

    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Long:
    """A text too long to be read whole: the windows to score, best first; how many there are; its tokens.

    `narrowed`: parts of the text were set aside untokenized, and `tokens` counts only the rest.
    """

    picked: tuple[_Window, ...]
    there: int
    tokens: int
    narrowed: bool


class Windowed:
    """Scores a long text by at most `windows` of its windows; costs at most `windows` times its beginning alone.

    A window is as many whole words as the model reads beside the query; neighbours share `overlap` (a share of a
    window's tokens). Which are scored is decided before, by the query's words: each counts by how rare it is among
    this text's windows, the first window is a little ahead, ties go to the earlier. Where no query word occurs (or
    in a language written without spaces) these are the first windows. Pooling: "max", "mean" of what was scored, or
    "first": the beginning alone, as without this wrapper. The span is that of the best window, in the whole text.

    A text of more than about 20,000 characters is first narrowed by words alone; only the neighbourhoods of its
    best blocks are tokenized.

    Args:
        scorer: is asked once, with all windows, text by text and each text's most promising window first. So under a
            deadline the order of the texts decides; a text of which only some windows were scored counts with those.
        tokens: the scorer's own, so that a text is tokenized once for both; its `max_length` is what the scorer reads.
        frame: what stands around the pair there.

    Raises InputError for a number that cannot be meant.
    """

    def __init__(
        self,
        scorer: Scorer,
        tokens: Tokens,
        frame: Frame,
        *,
        windows: int = 2,
        overlap: float = 0.25,
        pooling: Pooling = "max",
    ) -> None:
        if not isinstance(windows, int) or isinstance(windows, bool) or windows < 1:
            raise InputError(f"windows is {windows!r}; give a whole number from 1 up, or leave windows out")
        if not 0 <= overlap < 1:
            raise InputError(f"overlap is {overlap!r}; give a share of a window from 0 up to, not including, 1")
        if pooling not in get_args(Pooling):
            raise InputError(f"pooling is {pooling!r}; known are {', '.join(get_args(Pooling))}")
        self.scorer = scorer
        self.windows = windows
        self.overlap = overlap
        self.pooling = pooling
        self._tokens = tokens
        self._frame = frame

    def score(self, query: str, texts: Sequence[object], *, deadline: Deadline = NEVER) -> Scores:
        """As the wrapped scorer answers, but for long texts.

        In the trace `pairs_scored` and `tokens` count windows; a text is `truncated` where some of it was in no window
        that was scored, and `cut_tokens` counts its tokens that were not (of a narrowed text a lower bound).
        `detail["windows"]` holds, of the long texts: how many, windows there (of a narrowed text, blocks) and picked.
        """
        began = time.perf_counter()
        plans = self._plans(query, texts, deadline)
        if not plans:
            return self.scorer.score(query, texts, deadline=deadline)  # type: ignore[arg-type]
        pieces: list[object] = []
        of: list[range] = []  # the pieces of each text
        for i, text in enumerate(texts):
            plan = plans.get(i)
            new = [text] if plan is None else [str(text)[window.start : window.end] for window in plan.picked]
            of.append(range(len(pieces), len(pieces) + len(new)))
            pieces += new
        inner = self.scorer.score(query, pieces, deadline=deadline)  # type: ignore[arg-type]
        values: list[float | None] = []
        statuses: list[Status] = []
        spans: list[tuple[int, int] | None] = []
        truncated, cut = inner.trace.truncated, inner.trace.cut_tokens
        for i, own in enumerate(of):
            plan = plans.get(i)
            if plan is None:
                values.append(inner.values[own[0]])
                statuses.append(inner.statuses[own[0]])
                spans.append(inner.spans[own[0]])
                continue
            read = [(window, k) for window, k in zip(plan.picked, own, strict=True) if inner.values[k] is not None]
            value, span = self._pool(inner, read)
            values.append(value)
            spans.append(span)
            statuses.append(Status.SCORED if read else _status(inner.statuses[own[0] : own[-1] + 1]))
            if read:
                missed = plan.tokens - _covered(window for window, _ in read)
                shortened = sum(inner.spans[k] not in (None, (0, window.end - window.start)) for window, k in read)
                truncated += int(missed > 0 or shortened > 0 or plan.narrowed) - shortened
                cut += max(missed, int(plan.narrowed))
        skipped = dict(Counter(str(status) for status in statuses if status is not Status.SCORED))
        because = inner.trace.skipped_because if skipped else ""
        if because and skipped != dict(inner.trace.skipped):
            because += " (windows of long documents counted one by one)"
        detail = {
            "documents": len(plans),
            "there": sum(plan.there for plan in plans.values()),
            "picked": sum(len(plan.picked) for plan in plans.values()),
            "pooling": self.pooling,
        }
        trace = replace(
            inner.trace,
            seconds=time.perf_counter() - began,
            truncated=truncated,
            cut_tokens=cut,
            skipped=skipped,
            skipped_because=because,
            detail={**inner.trace.detail, "windows": detail},
        )
        return Scores(tuple(values), tuple(statuses), tuple(spans), trace)

    def _pool(self, inner: Scores, read: Sequence[tuple[_Window, int]]) -> tuple[float | None, tuple[int, int] | None]:
        """The score of a text and the span it rests on, from its windows that were scored."""
        scored = [(value, window.start, inner.spans[k]) for window, k in read if (value := inner.values[k]) is not None]
        if not scored:
            return None, None
        best, start, seen = max(scored, key=lambda one: (one[0], -one[1]))
        span = None if seen is None else (start + seen[0], start + seen[1])
        return (best if self.pooling == "max" else math.fsum(one[0] for one in scored) / len(scored)), span

    def _plans(self, query: str, texts: Sequence[object], deadline: Deadline) -> dict[int, _Long]:
        """What to score of each text that is too long, by its position."""
        if self.pooling == "first":
            return {}
        ids = asked(self._frame, query, self._tokens)
        if ids is None:
            return {}  # the scorer says so, for every text
        room = self._tokens.max_length - len(ids) - self._frame.tokens - bool(self._frame.lead)
        pattern = _pattern(query)
        doubtful = [i for i, text in enumerate(texts) if isinstance(text, str) and not _surely_fits(text, room)]
        plans: dict[int, _Long] = {}
        for begin in range(0, len(doubtful), _TOGETHER):
            if deadline.passed:
                break  # no more will be scored, so the rest need no windows
            some = doubtful[begin : begin + _TOGETHER]
            for i, read in zip(some, self._tokens.of([str(texts[i]) for i in some]), strict=True):
                if read.more or len(read.ids) > room:
                    plan = self._plan(str(texts[i]), read, pattern, room)
                    if plan.picked:  # none where all that was looked at is characters that the tokenizer drops
                        plans[i] = plan
        return plans

    def _plan(self, text: str, read: Tokenized, pattern: re.Pattern[str] | None, room: int) -> _Long:
        """The windows of one text that are worth scoring."""
        overlap = int(room * self.overlap)
        if not read.more:
            windows = _lay(read, len(text), room, overlap)
            found = [_find(pattern, text[window.start : window.end]) for window in windows]
            best = _best(found, _weights(found), self.windows, first=0)
            return _Long(tuple(windows[k] for k in best), len(windows), len(read.ids), narrowed=False)
        blocks = [match.span() for match in re.finditer(rf"(?s).{{1,{room * _BLOCK}}}\w*", text)]
        found = [_find(pattern, text[start:end]) for start, end in blocks]
        weights = _weights(found)
        near = {k + side for k in _best(found, weights, 2 * self.windows, first=0) for side in (-1, 0, 1)}
        windows, tokens = [], 0
        for start, end in _regions(blocks, near):
            part = self._tokens.whole(text[start:end])
            for window in _lay(part, end - start, room, overlap):
                first, last = window.first + tokens, window.last + tokens
                windows.append(_Window(window.start + start, window.end + start, first, last))
            tokens += len(part.ids)
        found = [_find(pattern, text[window.start : window.end]) for window in windows]
        best = _best(found, weights, self.windows, first=0 if 0 in near else None)
        return _Long(tuple(windows[k] for k in best), max(len(blocks), len(windows)), tokens, len(near) < len(blocks))


def _surely_fits(text: str, room: int) -> bool:
    """Whether the text needs no tokenizing to know that it fits: no token is shorter than an ASCII character."""
    return len(text) < room and text.isascii()


def _lay(text: Tokenized, length: int, room: int, overlap: int) -> list[_Window]:
    """Windows over all tokens of a text of `length` characters: at most `room` tokens each, `overlap` at least shared.

    They begin and end between words, so that a slice has the tokens it had in the text; only a word longer than
    a window is cut.
    """
    if text.places is None:  # so short that it needs none, or only characters that the tokenizer drops
        return []
    starts, ends, begins = text.places
    count = len(text.ids)

    def between(place: int, least: int, otherwise: int) -> int:
        """The last place from `least` to `place` where a word begins, or `otherwise`."""
        while place >= least and place < count and not begins[place]:
            place -= 1
        return place if place >= least else otherwise

    windows: list[_Window] = []
    first = 0
    while True:
        last = min(first + room, count)
        last = last if last == count else between(last, first + 1, last)
        start = int(starts[first]) if windows else 0
        windows.append(_Window(start, length if last == count else int(ends[last - 1]), first, last))
        if last == count:
            return windows
        first = between(max(last - overlap, first + 1), first + 1, last)


def _regions(blocks: Sequence[tuple[int, int]], wanted: Iterable[int]) -> list[tuple[int, int]]:
    """The wanted blocks, neighbours joined, as slices in the order of the text."""
    inside = sorted(k for k in wanted if 0 <= k < len(blocks))
    runs = [[k for _, k in run] for _, run in groupby(enumerate(inside), key=lambda pair: pair[1] - pair[0])]
    return [(blocks[run[0]][0], blocks[run[-1]][1]) for run in runs]


def _pattern(query: str) -> re.Pattern[str] | None:
    """One group a query word: its first letters and any ending, or all of a short one (an s may follow)."""
    found = re.findall(r"\w+", query.casefold())
    singular = (word[:-1] if len(word) > 3 and word[-1] == "s" else word for word in found)
    words = dict.fromkeys(word[:_PREFIX] for word in singular)
    if not words:
        return None
    endings = (rf"({re.escape(word)})" + ("" if len(word) == _PREFIX else r"s?\b") for word in words)
    return re.compile(rf"\b(?:{'|'.join(endings)})")


def _find(pattern: re.Pattern[str] | None, text: str) -> Counter[int]:
    """How often each query word, by number, is in the text."""
    if pattern is None:
        return Counter()
    return Counter(match.lastindex or 0 for match in pattern.finditer(text.casefold()))


def _weights(found: Sequence[Mapping[int, int]]) -> dict[int, float]:
    """How rare each query word is among these slices (the BM25 form of inverse document frequency)."""
    holders = Counter(word for counts in found for word in counts)
    return {word: math.log1p((len(found) - n + 0.5) / (n + 0.5)) for word, n in holders.items()}


def _best(found: Sequence[Mapping[int, int]], weights: Mapping[int, float], most: int, first: int | None) -> list[int]:
    """The `most` best slices, best first; `first` is the one the text begins with."""
    ahead = _FIRST * math.fsum(weights.values())

    def value(k: int) -> float:
        # fsum is exact in any order, so that equal slices tie
        matched = math.fsum(weights[word] * n / (n + 1) for word, n in found[k].items() if word in weights)
        return matched + (ahead if k == first else 0.0)

    return sorted(range(len(found)), key=lambda k: (-value(k), k))[:most]


def _covered(windows: Iterable[_Window]) -> int:
    """Tokens that are in at least one of the windows."""
    count = reached = 0
    for window in sorted(windows, key=lambda window: window.first):
        count += max(window.last - max(window.first, reached), 0)
        reached = max(reached, window.last)
    return count


def _status(statuses: Sequence[Status]) -> Status:
    """Of a text none of whose windows has a score: what is worse than lack of time comes first."""
    return next((status for status in statuses if status is not Status.DEADLINE), Status.DEADLINE)
