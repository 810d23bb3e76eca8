"""A model that is served: opened when it is first asked for, checked, and exchanged while requests run.

Knows: its name, how it is opened, which one answers now, whether it is well. Refuses to know: HTTP, what is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from secondpass.errors import ConfigError, InputError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.pair_scorer import PairScorer
from secondpass.types import NEVER, Deadline, Ranking, Reranker

__all__ = ["Served"]


class Served:
    """One model by the name that requests give.

    `opened` makes it; `digest` is what its weights' digest must begin with ("": any); `preload`: whether the server is
    ready only once it is there.
    """

    def __init__(self, name: str, opened: Callable[[], Reranker], *, digest: str = "", preload: bool = True) -> None:
        self.name, self.preload = name, preload
        self._open, self._pinned = opened, digest
        self._loading = threading.Lock()  # held while one is opened, which takes seconds
        self._lock = threading.Lock()  # held for a moment
        self._current: Reranker | None = None
        self._users: dict[Reranker, int] = {}  # requests at work on each, those that were exchanged too
        self.loads = 0
        self._unwell = "not opened yet"

    @property
    def current(self) -> Reranker | None:
        """The model that answers now; None before it was opened."""
        return self._current

    @property
    def scorer(self) -> PairScorer | None:
        """What computes here in its name; None before it was opened, and for what computes elsewhere."""
        return _scorer_of(self._current)

    @property
    def digest(self) -> str:
        """Of its weights, as far as they are here."""
        return "" if self.scorer is None else self.scorer.checkpoint.digest

    @property
    def exits(self) -> bool:
        """Whether it can stop early, which `go_on` asks for; False before it was opened."""
        model = self._current
        return isinstance(model, CrossEncoder) and model.exits

    @property
    def unwell(self) -> str:
        """What is wrong with it, "" where nothing is. One that was not asked for yet and need not be there is well."""
        return self._unwell if self._current is not None or self.preload else ""

    @contextmanager
    def borrowed(self) -> Iterator[Reranker]:
        """The model, opened if need be; it stays open until it is given back, whatever is put in its place."""
        model = self._taken()
        while model is None:
            self.load()
            model = self._taken()
        try:
            yield model
        finally:
            with self._lock:
                self._users[model] -= 1
            self._close_unused()

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER, go_on: float | None = None) -> Ranking:
        """As the model does: so a cascade's stage may hold what is served, and follows its exchange.

        Raises InputError for a `go_on` below 1 where the model cannot stop early (see `exits`).
        """
        with self.borrowed() as model:
            if isinstance(model, CrossEncoder):
                return model.rerank(ranking, deadline=deadline, go_on=go_on)
            if go_on not in (None, 1):
                raise InputError(f"{self.name} is no cross-encoder, so it cannot stop early; leave go_on out")
            return model.rerank(ranking, deadline=deadline)

    def estimate(self, texts: Sequence[object]) -> float:
        """About how many seconds of the whole machine these texts take; opens the model if need be."""
        with self.borrowed() as model:
            scorer = _scorer_of(model)
            return 0.0 if scorer is None else scorer.estimate(texts)

    def load(self) -> None:
        """Open it, unless it is. Raises what opening it raises; the next one who asks tries again."""
        with self._loading:
            if self._current is None:
                self._put(self._made(self._open, self._pinned))

    def exchange(self, other: Served) -> None:
        """Put the model that `other` describes in place of this one.

        Nothing waits: requests go on with this one until the other is open and has scored its golden pairs right, and
        what was begun with this one is ended with it. One that nobody asked for yet is opened later. Raises what
        opening the other raises; then nothing changes.
        """
        with self._loading:
            if self._current is not None:
                self._put(self._made(other._open, other._pinned))
            self._open, self._pinned, self.preload = other._open, other._pinned, other.preload

    def probe(self) -> None:
        """Score the golden pairs again, if it is open; what is wrong stands in `unwell`."""
        try:
            if self.preload:
                self.load()
            if (scorer := self.scorer) is not None:
                scorer.check_golden(scorer.golden)
        except Exception as error:  # whatever it is, it is not well
            self._unwell = f"{self.name}: {type(error).__name__}: {error}"
        else:
            self._unwell = ""

    def hangs(self, seconds: float) -> None:
        """Its probe has not come back for so long."""
        self._unwell = f"{self.name}: the golden pairs were not scored within {seconds:.0f} seconds"

    def close(self) -> None:
        """Close it once nobody uses it; who asks later opens it again."""
        with self._lock:
            self._current = None
        self._close_unused()

    def _taken(self) -> Reranker | None:
        with self._lock:
            model = self._current
            if model is not None:
                self._users[model] += 1
            return model

    def _put(self, model: Reranker) -> None:
        with self._lock:
            self._current = model
            self._users.setdefault(model, 0)
            self._unwell = ""  # it has scored its golden pairs right, or it would not have opened
            self.loads += 1
        self._close_unused()

    def _close_unused(self) -> None:
        with self._lock:
            unused = [model for model, users in self._users.items() if not users and model is not self._current]
            for model in unused:
                del self._users[model]
        for model in unused:
            _close(model)

    def _made(self, opened: Callable[[], Reranker], pinned: str) -> Reranker:
        model = opened()
        scorer = _scorer_of(model)
        digest = "" if scorer is None else scorer.checkpoint.digest
        if not digest.startswith(pinned):
            _close(model)
            has = f"its weights have the digest {digest[:16]}…" if digest else "it has no weights here"
            raise ConfigError(
                f"{self.name}: {has}, the settings ask for {pinned}; put the right weights there, or pin this digest"
            )
        return model


def _scorer_of(model: Reranker | None) -> PairScorer | None:
    return model.scorer if isinstance(model, CrossEncoder) else None


def _close(model: Reranker) -> None:
    """Close what holds threads or connections."""
    scorer = _scorer_of(model)
    close = getattr(model, "close", None) if scorer is None else scorer.close
    if callable(close):
        close()
