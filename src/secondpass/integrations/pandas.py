"""pandas: a frame of queries and texts reranked, with its index, its other columns and their dtypes kept.

Knows: frames. Refuses to know: how anything is scored. Importing this module needs the extra `pandas`.

    rerank_frame(frame)  # columns query and text, and those of TREC where there are: qid, docno, score, rank
    rerank_frame(frame, text="abstract", top_k=10, deadline_ms=200)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secondpass.api import DEFAULT_MODEL
from secondpass.errors import InputError
from secondpass.extras import require
from secondpass.integrations.items import TOLD, Item, reranked, told
from secondpass.types import Deadline, Hit, Ranking, Reranker

if TYPE_CHECKING:
    import pandas
else:
    pandas = require("pandas", extra="pandas", purpose="reranking frames")

__all__ = ["TOLD_DTYPES", "rerank_frame"]

TOLD_DTYPES = dict(zip(TOLD, ("str", "float64", "int64", "float64"), strict=True))
_Numbers = NDArray[np.float64]


def rerank_frame(
    frame: pandas.DataFrame,
    *,
    model: str | Path | Reranker = DEFAULT_MODEL,
    query: str = "query",
    text: str = "text",
    qid: str | None = None,
    docno: str | None = None,
    top_k: int | None = None,
    depth: int | None = None,
    deadline_ms: float | None = None,
    on_ranking: Callable[[Ranking], None] | None = None,
) -> pandas.DataFrame:
    """The rows of each query, best first; queries in the order in which they first occur.

    A query's rows are those of one `qid` (None: the column "qid" if there is one, else the query itself). They come in
    the order of the column "rank" if there is one, else of falling "score", else as they stand; a string in the column
    "title" is the document's title, all other columns its metadata, for a reranker's template.

    The new frame has each row with its index label, its columns and their dtypes, and beside them `score` (float, NaN
    where there is none) and `rank` (from 1), which replace columns of these names, and `secondpass_status`,
    `secondpass_probability`, `secondpass_first_rank` and `secondpass_first_score`. The frame given is not changed.

    Args:
        model: a model's name or folder, or any reranker, a Cascade among them.
        query, text, qid, docno: the columns' names; `docno` None: the column "docno" if there is one.
        top_k: how many rows of each query come back; None: all.
        depth: how many of a query's rows the model sees; None: all.
        deadline_ms: milliseconds for each query; what is not scored by then follows in the order given.
        on_ranking: called with each query's ranking, for its trace.

    Raises InputError for a column that is not there, a row whose query or qid is missing, or a qid with two queries.
    """
    if not isinstance(frame, pandas.DataFrame):
        raise InputError(f"frame is a {type(frame).__name__}; give a pandas DataFrame")
    needed = [query, text, *(name for name in (qid, docno) if name is not None)]
    if missing := [name for name in needed if name not in frame.columns]:
        there = ", ".join(map(repr, frame.columns)) or "none"
        raise InputError(f"the frame has no column {missing[0]!r}; its columns are: {there}")
    if not frame.columns.is_unique:
        raise InputError(f"the column {frame.columns[frame.columns.duplicated()][0]!r} is there twice; rename one")
    group = qid or ("qid" if "qid" in frame.columns else query)
    name = docno or ("docno" if "docno" in frame.columns else None)
    taken: list[int] = []
    ranks: list[int] = []
    hits: list[Hit] = []
    scores, ordered = _numbers(frame, "score"), _numbers(frame, "rank")
    order = ordered if ordered is not None else None if scores is None else -scores
    for key, rows in _rows_by_query(frame, group, order).items():
        placed = reranked(
            _query(frame, rows, query, group),
            _items(frame.iloc[rows], text, name, None if scores is None else scores[rows]),
            model=model,
            depth=depth,
            deadline=Deadline.after_ms(deadline_ms),
            query_id=str(key),
        )
        if on_ranking is not None:
            on_ranking(placed.ranking)
        for rank, (position, hit) in enumerate(placed.top(top_k), 1):
            taken.append(rows[position])
            ranks.append(rank)
            hits.append(hit)
    result = frame.iloc[taken].copy()
    rows_told = [{"score": hit.score, "rank": rank, **told(hit)} for rank, hit in zip(ranks, hits, strict=True)]
    for column, dtype in {"score": "float64", "rank": "int64", **TOLD_DTYPES}.items():
        result[column] = pandas.Series([row[column] for row in rows_told], index=result.index, dtype=dtype)
    return result


def _numbers(frame: pandas.DataFrame, name: str) -> _Numbers | None:
    """A column that rows are ordered by, float64 [rows] with NaN where there is none; None without such a column."""
    if name not in frame.columns:
        return None
    try:
        return np.asarray(pandas.to_numeric(frame[name]).to_numpy(np.float64, na_value=np.nan))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"the column {name!r} says how a query's rows are ordered, and is not numbers ({error}); rename it, or "
            "make it numbers"
        ) from error


def _rows_by_query(frame: pandas.DataFrame, group: str, order: _Numbers | None) -> dict[Any, list[int]]:
    """Positions of each query's rows, by `order`, ties as they stand; queries in the order of the frame."""
    keys = frame[group].tolist()
    for position, key in enumerate(keys):
        if _missing(key):
            raise InputError(f"row {frame.index[position]!r} has no {group!r}; drop such rows, or fill them in")
    rows: dict[Any, list[int]] = {key: [] for key in keys}
    for position in range(len(keys)) if order is None else order.argsort(kind="stable").tolist():  # NaN comes last
        rows[keys[position]].append(position)
    return rows


def _query(frame: pandas.DataFrame, rows: Sequence[int], query: str, group: str) -> str:
    """The one query of these rows."""
    texts = frame[query].iloc[rows].tolist()
    for position, text in zip(rows, texts, strict=True):
        if not isinstance(text, str):
            raise InputError(f"row {frame.index[position]!r} has {text!r} as its {query!r}; give each row a string")
        if text != texts[0]:
            raise InputError(f"{group} {frame[group].iloc[position]!r} has two queries: {texts[0]!r} and {text!r}")
    return str(texts[0])


def _items(rows: pandas.DataFrame, text: str, docno: str | None, scores: _Numbers | None) -> Iterator[Item]:
    for place, row in enumerate(rows.to_dict("records")):
        there = {str(name): value for name, value in row.items() if not _missing(value)}
        own, read = None if docno is None else there.pop(docno, None), there.pop(text, None)
        score = None if scores is None or np.isnan(scores[place]) else float(scores[place])
        yield Item(read, own, there, score)


def _missing(value: object) -> bool:
    return pandas.isna(value) is True  # of a list it says which of its values are
