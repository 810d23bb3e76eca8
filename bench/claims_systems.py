"""The claims that compare systems: fine-tuned with off the shelf (9), and cascades with all of the pool (10).

Knows: orders made of what was measured, and the thresholds that words follow from. Refuses to know: how it was
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from claims_cells import kept_of, mean_over_stages, reranked
from claims_measure import TRAINED, Pools
from claims_numbers import (
    CONDITIONS,
    HOLDS,
    Finding,
    cascaded,
    ends,
    estimated,
    fused,
    mean,
    ratio,
    said_as,
    side,
    untold,
    word,
)
from secondpass.evaluation.cost import fit_candidates, largest_depth

MARGIN = 0.01  # of nDCG@10, that a cascade may lose
CASCADES = (20, 50)
BUDGET, CANDIDATES = 0.1, (100, 500)


def fine_tuned(collections: Sequence[Pools]) -> Finding:
    """9: the shipped model against the cosine of the model it was fine-tuned from, over the same pools."""
    title = "Fine-tuning beats off-the-shelf in the domain"
    there = [pools for pools in collections if pools.base is not None]
    if not any(pools.name in TRAINED for pools in there):
        why = (
            "Not measured: it needs torch and the package of the shipped model's base, and a collection in its domain."
        )
        return untold(9, title, why, [])
    rows: list[dict[str, Any]] = []
    sides = []
    for pools in there:
        tuned = mean_over_stages(pools, lambda run, pools=pools: reranked(run, pools.scores))  # type: ignore[misc]
        off = mean_over_stages(pools, lambda run, pools=pools: reranked(run, pools.base))  # type: ignore[misc]
        kept = kept_of(pools)
        lead = mean((tuned - off)[kept], cells=len(there))
        if pools.name in TRAINED:
            sides.append(side(lead))
        rows.append(
            {
                "collection": pools.name,
                "domain in training": "yes" if pools.name in TRAINED else "no",
                "queries": int(kept.sum()),
                "first stage": float(mean_over_stages(pools, dict)[kept].mean()),
                "cosine of the base": float(off[kept].mean()),
                "fine-tuned": float(tuned[kept].mean()),
                "difference": lead.value,
                "interval": ends(lead),
            }
        )
    listed = ", ".join(
        f"{row['collection']} {row['difference']:+.3f} [{row['interval'][0]:+.3f}, {row['interval'][1]:+.3f}]"
        for row in rows
    )
    return Finding(
        9,
        title,
        word(sides),
        f"The shipped model against the cosine of its base, over the same pools: {listed}; in its domain are "
        f"{' and '.join(row['collection'] for row in rows if row['domain in training'] == 'yes')}.",
        "Difference of nDCG@10, a query's mean over the first stages; queries with a positive of the training set are "
        "left out. On collections in the domain: yes where the interval is above 0, no where it is below. Holds or "
        "does not: at least half are decided, all the same way. Under conditions: some each way.",
        {"rows": rows},
    )


def cascades(collections: Sequence[Pools], times: dict[str, Any], gpu_result: dict[str, Any] | None) -> Finding:
    """10: the cross-encoder on the best of a cheap re-scorer against on all, and what fits into 100 ms."""
    rows: list[dict[str, Any]] = []
    cells = (len(collections) + 1) * len(CASCADES)
    pooled, sides = [], []
    for depth in CASCADES:
        parts = []
        for pools in collections:
            whole = mean_over_stages(pools, lambda run, pools=pools: reranked(run, pools.scores))  # type: ignore[misc]
            cheap = mean_over_stages(pools, partial(_cascade, pools=pools, depth=depth, fuse=True))
            cut = mean_over_stages(pools, partial(_cascade, pools=pools, depth=depth, fuse=False))
            lead = mean(cheap - whole, cells=cells)
            sides.append(side(lead, -MARGIN))
            parts.append(cheap - whole)
            scored = [min(len(pool), depth) for run in pools.runs.values() for pool in run.values()]
            rows.append(
                {
                    "collection": pools.name,
                    "cross-encoder on": f"best {depth}",
                    "pairs a query": float(np.mean(scored)),
                    "nDCG@10, all": float(whole.mean()),
                    "cascade": float(cheap.mean()),
                    "cascade without fusion": float(cut.mean()),
                    "difference": lead.value,
                    "interval": ends(lead),
                }
            )
        columns = np.stack([np.concatenate(parts), np.ones(sum(map(len, parts)))], axis=1)
        strata = [at for at, part in enumerate(parts) for _ in part]
        pooled.append(estimated(columns, ratio, strata=strata, cells=cells))
    bench = [row for row in times["bench"]["measurements"] if row["sweep"] == "candidates"]
    fit = fit_candidates([row["candidates"] for row in bench], [row["median_ms"] / 1000 for row in bench])
    fitting = largest_depth(fit, BUDGET).candidates
    gpu, fast = _on_gpu(gpu_result)
    said = word([*(side(lead, -MARGIN) for lead in pooled), *(one for one in sides if one is False)])
    if said == HOLDS and not fast:
        said = CONDITIONS
    return Finding(
        10,
        "Cascades keep precision at lower cost, and 100–500 candidates fit in 100 ms on accelerated hardware",
        said,
        "Difference of nDCG@10 to scoring all 100, over all collections: "
        + ", ".join(
            f"{said_as(lead, '+.3f')} with the best {size}" for size, lead in zip(CASCADES, pooled, strict=True)
        )
        + f"; of {len(sides)} comparisons on one collection {sides.count(False)} certainly lose more than {MARGIN}, "
        f"{sides.count(True)} certainly less. In 100 ms this CPU scores {fitting} candidates of "
        f"{bench[0]['tokens']:.0f} tokens. {gpu}",
        "The cheap re-scorer is reciprocal rank fusion of bm25 and dense. By depth, over all collections: yes where "
        f"the interval of the difference is above −{MARGIN}, no where it is below; a single collection that certainly "
        "loses more is a no too. Holds or does not: at least half are decided, all the same way. Under conditions: "
        f"some each way, or a GPU was not measured or does not score {CANDIDATES[1]} candidates in 100 ms.",
        {
            **{f"difference with the best {size}": lead for size, lead in zip(CASCADES, pooled, strict=True)},
            "candidates in 100 ms, CPU": fitting,
            "rows": rows,
        },
    )


def _cascade(run: Mapping[str, Sequence[str]], *, pools: Pools, depth: int, fuse: bool) -> dict[str, list[str]]:
    cheap = [pools.runs["bm25"], pools.runs["dense"]]
    return {
        query_id: cascaded(
            fused(pool, [one[query_id] for one in cheap]) if fuse else pool, pools.scores[query_id], depth
        )
        for query_id, pool in run.items()
    }


def _on_gpu(result: dict[str, Any] | None) -> tuple[str, bool]:
    """What bench/results/gpu.json says of the shipped model from raw text, and whether the most candidates fit."""
    timed = [
        row
        for row in (result or {}).get("rows", [])
        if row["model"] == "secondpass-mini"
        and row["engine"] == "secondpass"
        and row["source"] == "text"
        and CANDIDATES[0] <= row["candidates"] <= CANDIDATES[1]
    ]
    if not timed:
        return "On a GPU it was not measured here.", False
    device = (result or {})["gpu"]["device"]
    listed = ", ".join(f"{row['candidates']} in {row['ms']:.1f} ms" for row in timed)
    most = max(timed, key=lambda row: row["candidates"])
    return f"{device}: {listed}.", most["candidates"] == CANDIDATES[1] and most["ms"] <= 1000 * BUDGET
