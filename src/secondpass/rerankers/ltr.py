"""LearnedToRank: trees over features, which cost so little that they can look at a thousand candidates.

Knows: rankings, features, and LightGBM (extra `ltr`) to ask. Refuses to know: what the features are, how trees grow.

    Cascade(BM25.open("index"), Stage(LearnedToRank("my-ltr"), depth=1000), Stage(CrossEncoder(), depth=100))

A model whose features are of the query and one document scores pointwise. With `first_z` among them a score depends
on the first stage's scores of the other hits, too; what could be scored in time never changes it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secondpass.cascade import reorder
from secondpass.errors import GoldenError, InputError, ModelError
from secondpass.extras import require
from secondpass.rerankers.features import FIRST_STAGE, Features
from secondpass.rerankers.ltr_folder import read_folder
from secondpass.rerankers.term_statistics import TermStatistics
from secondpass.types import NEVER, Deadline, Document, Ranking, Scores, StageTrace, Status
from secondpass.words import words

__all__ = ["KEEP_BYTES", "LearnedToRank"]

KEEP_BYTES = 64_000_000  # some 25,000 passages of 150 words, with vectors of 256 dimensions
QUERY_WORDS = 1024  # proximity costs words × matches
_BLOCKS = 16, 256  # documents between two looks at the clock, at first and at most
_GOLDEN = 1e-9  # relative; the trees are the same numbers everywhere


class LearnedToRank:
    """Trees that LightGBM grew, over the features that their folder names.

    Args:
        model: a folder that `secondpass train --ltr` wrote.
        threads: cores that the trees may use; a thousand candidates take milliseconds on one.
        keep_bytes: memory for the terms and vectors of documents seen before, from 65,536 up; 0: none.
        statistics: of the collection as it is now (`TermStatistics.of(index, …)`); None: the model folder's.

    Threads may share one. Raises ModelError where the folder cannot be used, GoldenError where the trees do not give
    the scores that they should, MissingExtraError without LightGBM.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        threads: int = 1,
        keep_bytes: int = KEEP_BYTES,
        statistics: TermStatistics | None = None,
    ) -> None:
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
            raise InputError(f"threads is {threads!r}; give a whole number from 1 up")
        library: Any = require("lightgbm", extra="ltr", purpose="learning to rank")
        contents = read_folder(model)
        try:
            self._trees: Any = library.Booster(model_str=contents.trees)
        except library.basic.LightGBMError as error:
            raise ModelError(f"{model}: LightGBM cannot read its trees ({error}); copy the folder again") from error
        self.name, self.threads = str(model), threads
        self.features = Features(
            contents.spec, statistics or contents.statistics, contents.encoder, keep_bytes=keep_bytes
        )
        names, count = contents.spec.names, self._trees.num_feature()
        if count != len(names):
            raise ModelError(f"{model}: trees over {count} features, and {len(names)} are named; train it again")
        self._lengths = [names.index(f"{field}_length") for field in contents.spec.fields]
        self._numbers = [at for at, name in enumerate(names) if name in (*FIRST_STAGE, *contents.spec.metadata)]
        self._detail = {
            "engine": f"lightgbm {library.__version__}",
            "model": self.name,
            "digest": contents.digest,
            "features": len(names),
            "trees": self._trees.num_trees(),
        }
        rows, expected = contents.golden
        worst = float(np.max(np.abs(self.predict(rows) - expected) / np.maximum(np.abs(expected), 1.0), initial=0.0))
        if not worst <= _GOLDEN:
            raise GoldenError(f"{model}: the golden rows are off by {worst:.2g}; reinstall LightGBM, or train it again")

    def __repr__(self) -> str:
        return f"LearnedToRank({self.name!r})"

    def predict(self, rows: ArrayLike) -> NDArray[np.float64]:
        """The score of each row of features [rows, features], in the order of `features.spec.names`; NaN is missing.

        Raises InputError for rows of another width.
        """
        table = np.asarray(rows, np.float64)
        if table.ndim != 2 or table.shape[1] != len(self.features.spec.names):
            raise InputError(f"rows have the shape {table.shape}; give [rows, {len(self.features.spec.names)}]")
        if not len(table):
            return np.empty(0)
        return np.asarray(self._trees.predict(table, num_threads=self.threads, verbosity=-1), np.float64)

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        """The ranking by falling score; what was not scored keeps its order behind."""
        began = time.perf_counter()
        too_long = len(words(ranking.query)) > QUERY_WORDS
        statuses = [Status.QUERY_TOO_LONG if too_long else self._obstacle(hit.document) for hit in ranking.hits]
        values: list[float | None] = [None] * len(ranking)
        scorable = [place for place, status in enumerate(statuses) if status is Status.SCORED]
        missing = np.ones(len(self._numbers), np.bool_)
        terms = done = 0
        size, most = _BLOCKS
        asked = None
        while done < len(scorable) and not deadline.passed:
            begun = deadline.clock()
            asked = asked or self.features.asked(ranking)
            block = scorable[done : done + size]
            rows = asked.rows(block)
            missing &= np.isnan(rows[:, self._numbers]).all(axis=0)
            terms += int(rows[:, self._lengths].sum())
            for place, value in zip(block, self.predict(rows).tolist(), strict=True):
                values[place] = value
            done += len(block)
            took = max(deadline.clock() - begun, 1e-9)
            fit = len(block) * deadline.remaining() / took  # as many more at this pace
            size = int(min(2 * size, most, max(fit, 1.0)))
        for place in scorable[done:]:
            statuses[place] = Status.DEADLINE
        trace = self._trace(statuses, terms, missing if asked else missing[:0], time.perf_counter() - began)
        scores = Scores(tuple(values), tuple(statuses), (None,) * len(values), trace)
        return Ranking(ranking.query, reorder(ranking, scores), (*ranking.trace, trace), ranking.query_id)

    def _obstacle(self, document: Document) -> Status:
        """Why a document cannot be scored, SCORED where nothing is in the way."""
        if not isinstance(document.text, str):
            return Status.NOT_TEXT
        return Status.SCORED if self.features.has_something(document) else Status.EMPTY

    def _trace(self, statuses: Sequence[Status], terms: int, missing: NDArray[np.bool_], seconds: float) -> StageTrace:
        skipped = Counter(str(status) for status in statuses if status is not Status.SCORED)
        reasons = {
            str(Status.DEADLINE): "time was up",
            str(Status.QUERY_TOO_LONG): f"the query has more than {QUERY_WORDS} words",
            str(Status.EMPTY): "nothing that the features read",
            str(Status.NOT_TEXT): "the document is not text",
        }
        names = self.features.spec.names
        nowhere = [names[self._numbers[at]] for at in np.flatnonzero(missing).tolist()]
        return StageTrace(
            "learned-to-rank",
            seconds,
            pairs_scored=len(statuses) - sum(skipped.values()),
            tokens=terms,
            skipped=dict(skipped),
            skipped_because="; ".join(f"{count}: {reasons[status]}" for status, count in sorted(skipped.items())),
            detail={**self._detail, **({"in_no_document": nowhere} if nowhere else {})},
        )
