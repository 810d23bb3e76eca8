"""The ten claims that people make about rerankers, measured on the visible collections and judged by fixed rules.

    python bench/claims.py measure [--data FOLDER] [--only nq-qed,scifact] [--queries 100] [--rounds 15] [--work FOLDER]
    python bench/claims.py judge [the same] [--dry]

`measure` keeps what is expensive in --work, by collection and model, and goes on where it was stopped; delete the
folder to measure anew. `judge` takes only what is there, and writes bench/results/claims.json; bench/tables.py makes
docs/claims.md of it. Test queries are reported here and used for nothing else. The shipped model ranks alone (nothing
is fused). Where torch or the package of the shipped model's base are missing, claim 9 is not measured and says so.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from claims_cells import cells_of
from claims_cost import dot_products, linear, quadratic
from claims_gain import cannot_restore, drift, five_to_fifteen, needs_a_pool, recall_first
from claims_measure import Pools, names_known, pools_file, pools_of, times_file, times_of
from claims_numbers import Finding
from claims_systems import cascades, fine_tuned
from common import RESULTS, arguments, target, write
from quality import COLLECTIONS, DEPTH, base_of
from secondpass.rerankers.cross_encoder import CrossEncoder

TARGET_QUERIES = 100


def judged(collections: Sequence[Pools], times: dict[str, Any], gpu: dict[str, Any] | None) -> list[Finding]:
    """The ten claims in order; `gpu` is bench/results/gpu.json, None where there is none."""
    cells = cells_of(collections)
    return [
        cannot_restore(cells),
        needs_a_pool(collections, cells),
        recall_first(cells),
        linear(times),
        quadratic(times),
        five_to_fifteen(cells),
        drift(collections, cells),
        dot_products(times),
        fine_tuned(collections),
        cascades(collections, times, gpu),
    ]


def plain(value: Any) -> Any:
    """As JSON has it: no infinities, no NaN, six digits."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def main() -> None:
    """Measure, or judge, print, and write bench/results/claims.json."""
    parser = arguments(__doc__)
    parser.add_argument("step", choices=("measure", "judge"))
    parser.add_argument("--only", default=",".join(COLLECTIONS), help="collections, separated by commas")
    parser.add_argument("--queries", type=int, default=100, help="a collection, drawn by a seed; 0: all")
    parser.add_argument("--rounds", type=int, default=15, help="of every time that is measured")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "secondpass-claims")
    parser.add_argument("--dry", action="store_true", help="print only, write nothing")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = CrossEncoder(fuse=False)
    names = names_known(options.only)
    if options.step == "judge":
        files = [pools_file(name, options.queries, options.work, model) for name in names]
        files.append(times_file(options.work, model, options.rounds))
        if missing := [file.name for file in files if not file.exists()]:
            sys.exit(f"not in {options.work}: {', '.join(missing)}; run `measure` with the same options first")
    base = base_of(model) if options.step == "measure" else None
    with Progress() as progress:
        collections = [
            pools_of(name, options.data, options.queries, options.work, model, base, progress) for name in names
        ]
    times = times_of(options.work, model, options.rounds)
    if options.step == "measure":
        print(f"measured, in {options.work}; now: python bench/claims.py judge")
        return
    gpu = RESULTS / "gpu.json"
    findings = judged(collections, times, json.loads(gpu.read_text(encoding="utf-8")) if gpu.exists() else None)
    for one in findings:
        print(f"{one.number:2} {one.word:22} {one.claim}\n   {one.conditions}")
    broken = findings[0].numbers["above the best possible"]
    fewest = min(len(pools.qrels) for pools in collections)
    targets = [
        target("reranked orders above the best possible of their pool", broken, "0", broken == 0),
        target("queries a collection, the smallest sample", fewest, f"≥ {TARGET_QUERIES}", fewest >= TARGET_QUERIES),
    ]
    rows = [plain(one.as_row()) for one in findings]
    about = [
        {
            "collection": pools.name,
            "documents": pools.documents,
            "queries": len(pools.qrels),
            "queries_there": pools.queries_there,
            "seen_in_training": len(pools.seen),
            "milliseconds": plain(pools.milliseconds),
        }
        for pools in collections
    ]
    if not options.dry:
        print(write("claims", rows, targets, model=model.scorer.detail, depth=DEPTH, collections=about))


if __name__ == "__main__":
    main()
