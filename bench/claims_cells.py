"""Values by collection and first stage, and columns of them to draw queries again from.

Knows: what claims_measure.py kept, and orders made of it. Refuses to know: claims, thresholds, words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from claims_measure import Pools
from claims_numbers import Floats, Values, by_score, measured, thinned, values_of

Cells = dict[str, dict[str, Values]]  # collection -> first stage -> values


def cells_of(collections: Sequence[Pools]) -> Cells:
    """Every first stage with and without the shipped model."""
    return {
        pools.name: {
            stage: values_of(run, reranked(run, pools.scores), pools.qrels) for stage, run in pools.runs.items()
        }
        for pools in collections
    }


def reranked(
    run: Mapping[str, Sequence[str]], scores: Mapping[str, Mapping[str, float | None]]
) -> dict[str, list[str]]:
    """Every pool of a run by falling score."""
    return {query_id: by_score(pool, scores[query_id]) for query_id, pool in run.items()}


def mean_over_stages(pools: Pools, order: Callable[[dict[str, list[str]]], Mapping[str, Sequence[str]]]) -> Floats:
    """nDCG@10 per query of what `order` makes of each first stage's run, the mean over first stages."""
    return np.asarray(np.mean([measured(order(run), pools.qrels) for run in pools.runs.values()], axis=0))


def thinned_cells(collections: Sequence[Pools], share: float) -> Cells:
    """`cells_of`, had each relevant document been missing from the pools with probability `share`."""
    cells: Cells = {}
    for pools in collections:
        runs = {stage: thinned(run, pools.qrels, share, seed=0) for stage, run in pools.runs.items()}
        cells[pools.name] = {
            stage: values_of(run, reranked(run, pools.scores), pools.qrels) for stage, run in runs.items()
        }
    return cells


def kept_of(pools: Pools) -> NDArray[np.bool_]:
    """Which queries training has not seen, bool[queries]."""
    seen = set(pools.seen)
    return np.array([query_id not in seen for query_id in pools.qrels])


def unseen(pools: Pools, of_stage: dict[str, Values]) -> dict[str, Values]:
    """The values of the queries that training has not seen."""
    kept = kept_of(pools)
    return {stage: Values(*(column[kept] for column in values)) for stage, values in of_stage.items()}


def stages_of(cells: Cells) -> list[str]:
    """The first stages, the same for every collection."""
    return list(next(iter(cells.values())))


# Columns: one row a query, summed over its first stages


def gain_and_headroom(values: Values) -> Floats:
    """NC − N0, N* − N0, and 1: float64[queries, 3]."""
    return np.stack([values.gain, values.headroom, np.ones(len(values.first))], axis=1)


def pooled(cells: Cells, columns_of: Callable[[Values], Floats]) -> tuple[Floats, list[int]]:
    """Columns [queries of all collections, k], and each row's collection."""
    parts = [np.sum([columns_of(values) for values in of_stage.values()], axis=0) for of_stage in cells.values()]
    return np.concatenate(parts), [at for at, part in enumerate(parts) for _ in part]


def pooled_apart(cells: Cells) -> tuple[Floats, list[int]]:
    """Gain and N0 of every collection and first stage in two columns of their own, 0 in other collections' rows."""
    count = sum(map(len, cells.values()))
    parts, at = [], 0
    for of_stage in cells.values():
        part = np.zeros((len(next(iter(of_stage.values())).first), 2 * count))
        for values in of_stage.values():
            part[:, 2 * at], part[:, 2 * at + 1] = values.gain, values.first
            at += 1
        parts.append(part)
    return np.concatenate(parts), [number for number, part in enumerate(parts) for _ in part]
