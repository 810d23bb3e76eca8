"""A vendor's trial, made up by a seed: what was found before, what the vendor made of it, and what is right.

    python examples/vendor_audit/made_up.py FOLDER [--queries 120] [--gain 0.5]

Writes first.trec and vendor.trec (runs of 20 documents a query), vendor-ms.tsv (milliseconds by query) and test.tsv
(judgments). `gain` is how much the vendor's scores know of the judgments that the first stage's do not; the numbers
that come out say nothing of any real vendor.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from secondpass.evaluation.trec import write_run

POOL = 20  # documents of a query
FOUND = 0.9  # how often a relevant document is among them


def write_trial(folder: Path, queries: int, gain: float, seed: int = 1) -> None:
    """The four files, the same for the same seed."""
    draw = random.Random(seed)
    first: dict[str, list[tuple[str, float]]] = {}
    vendor: dict[str, list[tuple[str, float]]] = {}
    qrels, times = ["query-id\tcorpus-id\tscore"], ["query-id\tms"]
    for query in (f"q{number}" for number in range(1, queries + 1)):
        pool = [f"{query}-d{number}" for number in range(POOL)]
        right = set(draw.sample(pool, 2))
        qrels += [f"{query}\t{name}\t1" for name in sorted(right)]
        kept = [name for name in pool if name not in right or draw.random() < FOUND]
        before = {name: (name in right) + draw.gauss(0, 1) for name in kept}
        after = {name: before[name] + gain * (name in right) + draw.gauss(0, 0.5) for name in kept}
        for run, scores in ((first, before), (vendor, after)):
            run[query] = sorted(scores.items(), key=lambda pair: -pair[1])
        times.append(f"{query}\t{draw.lognormvariate(5.0, 0.4):.1f}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, run in (("first", first), ("vendor", vendor)):
        with (folder / f"{name}.trec").open("w", encoding="utf-8") as stream:
            write_run(run, stream, tag=name)
    (folder / "test.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    (folder / "vendor-ms.tsv").write_text("\n".join(times) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--queries", type=int, default=120)
    parser.add_argument("--gain", type=float, default=0.5)
    options = parser.parse_args()
    write_trial(options.folder, options.queries, options.gain)
