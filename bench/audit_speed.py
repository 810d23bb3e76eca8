"""How long an audit of two large run files takes, and how much memory: python bench/audit_speed.py [--rounds 5].

The files are made up, by a seed, in a temporary folder: 1,000 queries × 1,000 documents, ids as MS MARCO numbers them,
a first stage's run, and a reranked run of the same documents, once in order and once with its lines shuffled; five
judged documents a query. Measured is the whole command, `secondpass audit --depth 1000` with 10,000 permutations, a
fresh process a round, from asking for the process to its end; beside it, where ir_measures is installed, a process that
only reads both runs with it and computes nDCG@10. All take turns. Then a run of ten million lines (10,000 queries) is
read once to a depth of 1,000 and of 100. Peaks are the kernel's (VmHWM), the interpreter and numpy included; the
processor's seconds stand beside the clock's, for a machine that does other things meanwhile.
"""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from common import arguments, target, write

QUERIES, DEPTH, JUDGED = 1_000, 1_000, 5
LARGE = 10  # times as many queries
SEED = 6

# What the measured processes run; each ends with its processor seconds and its peak, in MB, on stderr.
_PEAK = """
import atexit, sys, time

@atexit.register
def last_words():
    with open("/proc/self/status") as lines:
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    print(time.process_time(), kilobytes / 1024, file=sys.stderr)
"""
_AUDIT = _PEAK + "from secondpass.cli import main\nmain(sys.argv[1:])\n"
_READ = (
    _PEAK
    + """
import json
from secondpass.evaluation.trec import read_run
run = read_run(sys.argv[1], depth=int(sys.argv[2]))
print(json.dumps([len(run), sum(map(len, run.values()))]))
"""
)
_REFERENCE = (
    _PEAK
    + """
import json, ir_measures
before, after, qrels = sys.argv[1:]
judged = list(ir_measures.read_trec_qrels(qrels))
print(json.dumps([
    ir_measures.calc_aggregate([ir_measures.nDCG @ 10], judged, ir_measures.read_trec_run(path))[ir_measures.nDCG @ 10]
    for path in (before, after)
]))
"""
)


def make(folder: Path, queries: int) -> tuple[Path, Path, Path, Path]:
    """Judgments, a first stage's run, the reranked run, and that one with its lines shuffled."""
    rng = random.Random(SEED)
    qrels, before, after, shuffled = (folder / name for name in ("q.qrels", "bm25.trec", "ce.trec", "shuffled.trec"))
    with qrels.open("w") as judgments, before.open("w") as first, after.open("w") as second:
        for query in rng.sample(range(1_100_000), queries):
            documents = rng.sample(range(8_841_823), DEPTH)
            relevant = {document: rng.randint(0, 3) for document in rng.sample(documents, JUDGED)}
            score, lines = 35.0, []
            for rank, document in enumerate(documents, 1):
                score -= rng.expovariate(50.0)
                lines.append(f"{query} Q0 {document} {rank} {score:.6f} bm25\n")
            first.writelines(lines)
            logits = sorted(
                ((rng.gauss(relevant.get(document, 0) - 4.0, 3.0), document) for document in documents), reverse=True
            )
            second.writelines(f"{query} Q0 {doc} {rank} {logit!r} ce\n" for rank, (logit, doc) in enumerate(logits, 1))
            judgments.writelines(f"{query} 0 {document} {grade}\n" for document, grade in relevant.items())
    lines = after.read_text().splitlines(keepends=True)
    rng.shuffle(lines)
    shuffled.write_text("".join(lines))
    return qrels, before, after, shuffled


def enlarge(run: Path, path: Path) -> None:
    """A run of LARGE times as many queries, under other ids, with the same results."""
    lines = run.read_text().splitlines(keepends=True)
    with path.open("w") as stream:
        for copy in range(LARGE):
            stream.writelines(f"{copy}{line}" for line in lines)


class Told(NamedTuple):
    """Of a fresh process: seconds of the clock and of the processor, its peak in MB, what it printed as JSON."""

    seconds: float
    processor: float
    peak: float
    answer: Any


def child(code: str, *more: object) -> Told:
    """Run it to the end. Raises RuntimeError, with its last words, where it fails."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *map(str, more)], capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}:\n{done.stderr}")
    processor, peak = map(float, done.stderr.split()[-2:])
    return Told(seconds, processor, peak, json.loads(done.stdout))


def main() -> None:
    """Measure, print, and write bench/results/audit_speed.json."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        qrels, before, after, shuffled = make(Path(folder), QUERIES)

        def audit(reranked: Path) -> tuple[object, ...]:
            files = ("--baseline", before, "--reranked", reranked, "--qrels", qrels)
            return (_AUDIT, "audit", *files, "--depth", DEPTH, "--json")

        jobs = {"audit": audit(after), "audit, one run shuffled": audit(shuffled)}
        if importlib.util.find_spec("ir_measures"):
            jobs["ir_measures, reading and nDCG@10 only"] = (_REFERENCE, before, after, qrels)
        measured: dict[str, list[Told]] = {name: [] for name in jobs}
        for _ in range(asked.rounds):
            for name, job in jobs.items():
                measured[name].append(child(str(job[0]), *job[1:]))
        rows: list[dict[str, Any]] = []
        for name, found in measured.items():
            answer = found[0].answer
            values = [answer["first"], answer["reranked"]] if isinstance(answer, dict) else answer
            rows.append(
                {
                    "bench": "two runs",
                    "job": name,
                    "queries": QUERIES,
                    "depth": DEPTH,
                    "seconds": round(median(one.seconds for one in found), 2),
                    "processor_seconds": round(median(one.processor for one in found), 2),
                    "rounds": [round(one.seconds, 2) for one in found],
                    "peak_mb": round(max(one.peak for one in found), 1),
                    "ndcg@10": [round(value, 4) for value in values],
                }
            )
        large = Path(folder) / "large.trec"
        enlarge(after, large)
        for depth in (DEPTH, DEPTH // 10):
            told = child(_READ, large, depth)
            queries, kept = told.answer
            rows.append(
                {
                    "bench": "one run",
                    "job": f"read to depth {depth:,}",
                    "queries": queries,
                    "depth": depth,
                    "lines": LARGE * QUERIES * DEPTH,
                    "kept": kept,
                    "seconds": round(told.seconds, 2),
                    "processor_seconds": round(told.processor, 2),
                    "peak_mb": round(told.peak, 1),
                }
            )
    for row in rows:
        spent = f"{row['seconds']:.2f} s ({row['processor_seconds']:.2f} of processor), peak {row['peak_mb']:,.0f} MB"
        print(f"{row['bench']}: {row['job']}: {spent}")
    by_job = {row["job"]: row for row in rows}
    targets = []
    for name in ("audit", "audit, one run shuffled"):
        seconds, peak = by_job[name]["seconds"], by_job[name]["peak_mb"]
        targets.append(target(f"{name}: seconds, 1,000 queries × depth 1,000", seconds, "< 10", seconds < 10.0))
        targets.append(target(f"{name}: peak MB, 1,000 queries × depth 1,000", peak, "< 1,000", peak < 1000.0))
    whole, cut = (by_job[f"read to depth {depth:,}"]["peak_mb"] for depth in (DEPTH, DEPTH // 10))
    targets.append(target("10 million lines read, all kept: peak MB", whole, "< 1,500", whole < 1500.0))
    targets.append(target("10 million lines read, a tenth kept: peak MB", cut, "< 300", cut < 300.0))
    if reference := by_job.get("ir_measures, reading and nDCG@10 only"):
        apart = max(abs(a - b) for a, b in zip(by_job["audit"]["ndcg@10"], reference["ndcg@10"], strict=True))
        targets.append(target("nDCG@10, largest difference to ir_measures", apart, "≤ 0.0001", apart <= 1e-4))
    write("audit_speed", rows, targets, seed=SEED)


if __name__ == "__main__":
    main()
