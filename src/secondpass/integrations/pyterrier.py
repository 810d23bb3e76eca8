"""PyTerrier: transformers that rerank and retrieve, for pipelines with `>>`. Nothing here needs Java.

Knows: PyTerrier's frames: qid, query, docno, text, score, rank from 0. Refuses to know: how a frame is reranked
(`integrations.pandas`), how anything is scored. Importing this module needs the extra `pyterrier`.

    SecondPassRetriever(BM25.open("index"), num_results=100) >> SecondPassReranker() % 10

PyTerrier orders by scores, so each row has one: what has none of its own is one below the row before it, and
`secondpass_status` says which these are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secondpass.api import DEFAULT_MODEL
from secondpass.cascade import Cascade
from secondpass.extras import require
from secondpass.integrations.items import as_cascade, opened, searched, told
from secondpass.types import Deadline, Hit, Ranking, Reranker, Retriever

if TYPE_CHECKING:
    import pandas
    import pyterrier
    from pyterrier import Transformer
else:
    pyterrier = require("pyterrier", extra="pyterrier", purpose="the integration with PyTerrier")
    import pandas
    from pyterrier import Transformer

# last, since without PyTerrier that is what is to be installed
from secondpass.integrations.pandas import TOLD_DTYPES, rerank_frame

__all__ = ["SecondPassReranker", "SecondPassRetriever"]

_FOUND: dict[str, str] = {"docno": "", "title": "", "text": "", "score": "float64", "rank": "int64", **TOLD_DTYPES}
"""What a retriever adds to the queries' columns, with the dtypes of what does not come from the collection."""


class SecondPassReranker(Transformer):  # type: ignore[misc]
    """Reranks a frame of results; see `integrations.pandas.rerank_frame` for what it does and adds.

    Args:
        model: a model's name or folder, or any reranker, a Cascade among them.
        text: the column that holds the documents' texts.
        depth: how many of a query's documents the model sees, the best ones; None: all.
        deadline_ms: milliseconds for each query; what is not scored by then follows in the order given.
        on_ranking: called with each query's ranking, for its trace.
    """

    def __init__(
        self,
        model: str | Path | Reranker = DEFAULT_MODEL,
        *,
        text: str = "text",
        depth: int | None = None,
        deadline_ms: float | None = None,
        on_ranking: Callable[[Ranking], None] | None = None,
    ) -> None:
        super().__init__()
        opened(model)  # so that a mistake is told at once
        self.model = model
        self.text = text
        self.depth = depth
        self.deadline_ms = deadline_ms
        self.on_ranking = on_ranking

    def transform(self, inp: pandas.DataFrame) -> pandas.DataFrame:
        """The rows, each query's best first."""
        pyterrier.validate.result_frame(inp, extra_columns=["query", self.text], context=self)
        frame = rerank_frame(
            inp,
            model=self.model,
            text=self.text,
            depth=self.depth,
            deadline_ms=self.deadline_ms,
            on_ranking=self.on_ranking,
        ).reset_index(drop=True)
        frame["score"] = [
            score for _, rows in frame.groupby("qid", sort=False) for score in _falling(rows["score"].tolist())
        ]
        return frame.assign(rank=frame["rank"] - 1 + pyterrier.model.FIRST_RANK)

    def __repr__(self) -> str:
        return f"SecondPassReranker({self.model!r})"


class SecondPassRetriever(Transformer):  # type: ignore[misc]
    """Searches for each query of a frame by a Cascade, or by a first stage alone.

    Args:
        retriever: a Cascade, or any object with `retrieve(query, k)`.
        num_results: how many documents of each query come back at most.
        deadline_ms: milliseconds for each query, as for `Cascade.search`.
        on_ranking: called with each query's ranking, for its trace.
    """

    def __init__(
        self,
        retriever: Cascade | Retriever,
        num_results: int = 1000,
        *,
        deadline_ms: float | None = None,
        on_ranking: Callable[[Ranking], None] | None = None,
    ) -> None:
        super().__init__()
        as_cascade(retriever)  # so that a mistake is told at once
        self.retriever = retriever
        self.num_results = num_results
        self.deadline_ms = deadline_ms
        self.on_ranking = on_ranking

    def transform(self, inp: pandas.DataFrame) -> pandas.DataFrame:
        """The queries' columns, and docno, title, text, score, rank and what `items.told` tells of each document."""
        pyterrier.validate.query_frame(inp, extra_columns=["query"], context=self)
        rows: list[dict[str, Any]] = []
        for asked in inp.to_dict("records"):
            ranking = searched(
                self.retriever, asked["query"], self.num_results, deadline=Deadline.after_ms(self.deadline_ms)
            )
            if self.on_ranking is not None:
                self.on_ranking(ranking)
            scores = _falling([hit.score for hit in ranking.hits])
            rows += [
                {**asked, **_row(hit), "score": score, "rank": rank}
                for rank, (hit, score) in enumerate(zip(ranking.hits, scores, strict=True), pyterrier.model.FIRST_RANK)
            ]
        columns = [*inp.columns, *(name for name in _FOUND if name not in inp.columns)]
        return pandas.DataFrame(rows, columns=columns).astype({name: kind for name, kind in _FOUND.items() if kind})

    def __repr__(self) -> str:
        return f"SecondPassRetriever({self.retriever!r}, {self.num_results})"


def _row(hit: Hit) -> dict[str, Any]:
    document = hit.document
    return {"docno": document.id, "title": document.title, "text": document.text, **told(hit)}


def _falling(scores: Sequence[float | None]) -> list[float]:
    """The scores of a ranking, with one for each hit that has none: one below the hit before it.

    Before the first score they count down to it; without any they count down from 0.
    """
    known = [(place, score) for place, score in enumerate(scores) if score is not None and not math.isnan(score)]
    place, score = known[0] if known else (0, 0.0)
    last, filled, given = score + place + 1, [], dict(known)
    for at in range(len(scores)):
        last = given.get(at, last - 1)
        filled.append(last)
    return filled
