"""Does the watch see traffic change, how soon, and how often does it cry for nothing?

    python bench/drift.py [--data FOLDER] [--work .bench/drift] [--runs 200] [--stationary 1000000] [--rows 1000000]

The signals of real queries are computed once by the engine (BM25, then secondpass-nano over the first 20) and kept in
--work. Every run draws a profile from one half of nq-qed's queries; its traffic is drawn from the other half, with
replacement, since no collection has a million queries. That makes the task harder than live traffic is: the other
half is itself a sample, and differs from the profile's half for ever, which a watch that remembers could find.

- Switches: after a stationary start of random length the traffic is another collection's. Queries until the alarm,
  and whether each signal that it names did move: between all queries of both collections, by the two-sample
  Kolmogorov-Smirnov test at 1 %.
- A segment: of two callers one switches; the alarm has to name it.
- Nothing: stationary streams of 10,000 queries, a new split for each; alarms counted, the watch begun anew after each.
- A slow mix: 1 % more of the other collection in each window of 25 queries; which share it had at the alarm.
- A log of a million requests, read by `secondpass watch`: seconds, and the largest memory of the process.
- What the signals of a request of 100 documents cost.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from scipy.stats import ks_2samp

from common import ROOT, arguments, target, write
from secondpass.cascade import Cascade, Stage
from secondpass.config import Config, build_retriever
from secondpass.evaluation.collections import read_corpus, read_queries
from secondpass.evaluation.pool import draw_queries
from secondpass.monitoring.drift import EVERY, WINDOW, Alarm, Watch
from secondpass.monitoring.logged import Logged, Shown
from secondpass.monitoring.profile import Profile, Seen, make_profile, write_profile
from secondpass.monitoring.signals import signals
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.types import StageTrace, Status, as_ranking

SETS = {"nq-qed": 600, "cranfield": 225, "cosqa": 400}
USUAL = "nq-qed"
MODEL = "secondpass-nano"
DEPTH = 20
# A child starts with its parent's memory and counts it as its own peak, so the parent has to be small.
ALONE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(done.returncode)
"""
STREAM = 10_000  # queries of a stationary stream
SOON = 100

Values = Mapping[str, float]


def compute(data: Path, work: Path) -> dict[str, list[Values]]:
    """The signals of every query, by collection."""
    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Values]] = {}
    for name, most in SETS.items():
        kept = work / f"{name}.json"
        if not kept.is_file():
            place = str(data / "collections" / name)
            queries = read_queries(place)
            model = Stage(CrossEncoder(MODEL, threads=1), depth=DEPTH)
            cascade = Cascade(build_retriever(Config(), list(read_corpus(place))), model)
            rows = [
                signals(cascade.search(queries[one], top_k=DEPTH)) for one in track(draw_queries(queries, most), name)
            ]
            kept.write_text(json.dumps(rows), encoding="utf-8")
        found[name] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def request(number: int, values: Values, caller: str = "") -> Seen:
    """A request of its own: a query that is drawn twice stands for two that are alike."""
    segments = {"caller": caller} if caller else {}
    return Seen(str(number), number.to_bytes(8, "big"), float(number), MODEL, "", values, segments)


def halves(rows: Sequence[Values], rng: np.random.Generator) -> tuple[list[Values], list[Values]]:
    order = rng.permutation(len(rows))
    half = len(rows) // 2
    return [rows[i] for i in order[:half]], [rows[i] for i in order[half:]]


def profile_of(rows: Sequence[Values], callers: Sequence[str] = ()) -> Profile:
    groupings = ("caller",) if callers else ()
    named = callers or [""] * len(rows)
    made = (request(i, values, caller) for i, (values, caller) in enumerate(zip(rows, named, strict=True)))
    return make_profile(made, "nq-qed", groupings)


def drawn(rows: Sequence[Values], rng: np.random.Generator, count: int) -> Iterator[Values]:
    for i in rng.integers(len(rows), size=count):
        yield rows[i]


def moved_truly(found: Mapping[str, list[Values]], other: str) -> set[str]:
    """The signals whose distributions differ between both collections."""

    def column(name: str, signal: str) -> list[float]:
        return [row[signal] for row in found[name] if signal in row]

    names = set(found[USUAL][0])
    return {name for name in names if ks_2samp(column(USUAL, name), column(other, name)).pvalue < 0.01}


def switches(found: Mapping[str, list[Values]], other: str, runs: int) -> dict[str, Any]:
    delays, named, early = [], Counter[str](), 0
    for run in track(range(runs), f"switch to {other}"):
        rng = np.random.default_rng((1, run))
        usual, traffic = halves(found[USUAL], rng)
        watch = Watch(profile_of(usual), quiet=0)
        start = int(rng.integers(200, 200 + WINDOW))
        before = [watch.add(request(i, values)) for i, values in enumerate(drawn(traffic, rng, start))]
        early += any(before)
        for delay, values in enumerate(drawn(found[other], rng, 1000), 1):
            alarm = watch.add(request(start + delay, values))
            if alarm is not None:
                delays.append(delay)
                named.update({moved.signal for moved in alarm.moved})
                break
    truly = moved_truly(found, other)
    right = sum(count for name, count in named.items() if name in truly)
    return {
        "to": other,
        "runs": runs,
        "alarmed": len(delays),
        "alarms_before": early,
        "queries_median": float(np.median(delays)),
        "queries_p95": float(np.percentile(delays, 95)),
        "queries_most": max(delays),
        "within_100": sum(delay <= SOON for delay in delays) / runs,
        "named": dict(named.most_common()),
        "moved_by_ks": sorted(truly),
        "named_that_moved": right / max(named.total(), 1),
    }


def segment(found: Mapping[str, list[Values]], other: str, runs: int) -> dict[str, Any]:
    """Callers a and b ask alike, b then something else; and which segments the alarm names."""
    delays, right = [], 0
    for run in track(range(runs), f"a caller switches to {other}"):
        rng = np.random.default_rng((2, run))
        usual, traffic = halves(found[USUAL], rng)
        callers = ["a" if i % 2 else "b" for i in range(len(usual))]
        watch = Watch(profile_of(usual, callers), quiet=0)
        alarm: Alarm | None = None
        for i in range(1200):
            caller = "ab"[int(rng.integers(2))]
            rows = found[other] if caller == "b" and i >= 200 else traffic
            alarm = watch.add(request(i, rows[int(rng.integers(len(rows)))], caller))
            if alarm is not None and i >= 200:
                delays.append(i - 199)
                named = {moved.segment for moved in alarm.moved}
                right += "caller: b" in named and "caller: a" not in named
                break
    return {
        "to": other,
        "runs": runs,
        "alarmed": len(delays),
        "queries_median": float(np.median(delays)),
        "queries_p95": float(np.percentile(delays, 95)),
        "named_the_caller_alone": right / runs,
    }


def stationary(found: Mapping[str, list[Values]], queries: int) -> dict[str, Any]:
    alarms, worst, streams = 0, 0, -(-queries // STREAM)
    for run in track(range(streams), "stationary"):
        rng = np.random.default_rng((3, run))
        usual, traffic = halves(found[USUAL], rng)
        watch = Watch(profile_of(usual), quiet=0)
        here = sum(watch.add(request(i, values)) is not None for i, values in enumerate(drawn(traffic, rng, STREAM)))
        alarms, worst = alarms + here, max(worst, here)
    count = streams * STREAM
    return {
        "streams": streams,
        "queries": count,
        "alarms": alarms,
        "alarms_per_10000": 10_000 * alarms / count,
        "most_of_a_stream": worst,
    }


def slow_mix(found: Mapping[str, list[Values]], other: str, runs: int) -> dict[str, Any]:
    shares = []
    for run in track(range(runs), f"slowly to {other}"):
        rng = np.random.default_rng((4, run))
        usual, traffic = halves(found[USUAL], rng)
        watch = Watch(profile_of(usual), quiet=0)
        for i in range(100 * WINDOW):
            share = (i // WINDOW + 1) / 100
            rows = found[other] if rng.random() < share else traffic
            if watch.add(request(i, rows[int(rng.integers(len(rows)))])) is not None:
                shares.append(share)
                break
    return {
        "to": other,
        "runs": runs,
        "share_median": float(np.median(shares)),
        "share_p95": float(np.percentile(shares, 95)),
        "share_most": max(shares),
        "before_30": sum(share < 0.3 for share in shares) / runs,
    }


def million(found: Mapping[str, list[Values]], work: Path, rows: int) -> dict[str, Any]:
    """A log of so many requests, written as a server writes it, then watched by a process of its own."""
    from secondpass.monitoring.request_log import RequestLog

    rng = np.random.default_rng(5)
    usual, traffic = halves(found[USUAL], rng)
    profile, file = work / "profile.json", work / f"log-{rows}.db"
    write_profile(profile_of(usual), profile)
    if not file.is_file():
        shown = tuple(Shown(place, place, f"d{place}", 1.0 - place, None, place, None) for place in range(1, 11))
        with RequestLog(f"sqlite:///{file}.part", most=rows) as log:
            for i, values in enumerate(track(drawn(traffic, rng, rows), "writing", total=rows)):
                one = Logged(
                    id=str(i), at=float(i), query=f"query {i}", model=MODEL, digest="", candidates=DEPTH,
                    detail={"path": "/v1/rerank", "signals": values}, shown=shown,
                )  # fmt: skip
                while not log.record(one):
                    log.flush(60.0)
            log.flush(600.0)
        Path(f"{file}.part").replace(file)
    watch = [sys.executable, "-m", "secondpass", "watch", f"sqlite:///{file}", "--profile", str(profile), "--json"]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", ALONE, *watch], capture_output=True, check=True)
    seconds = time.perf_counter() - began
    told = json.loads(done.stdout)
    return {
        "requests": rows,
        "megabytes_of_log": round(file.stat().st_size / 1e6),
        "seconds": round(seconds, 1),
        "peak_megabytes": round(int(done.stderr.splitlines()[-1]) / 1000),
        "watched": told["requests"]["watched"],
        "alarms": len(told["alarms"]),
    }


def cost(data: Path) -> float:
    """Microseconds that the signals of a ranking of 100 documents take, the median of 200. Scores are made up."""
    rng, place = np.random.default_rng(6), str(data / "collections" / "cranfield")
    documents = list(islice(read_corpus(place), 100))
    found = as_ranking("what is the lift of a wing in a slipstream", documents)
    scores = sorted(map(float, rng.normal(size=100)), reverse=True)
    hits = tuple(
        replace(found.hits[i], score=score, status=Status.SCORED, span=(0, len(documents[i].text)))
        for i, score in zip(rng.permutation(100), scores, strict=True)
    )
    detail = {"query_tokens": 11, "unknown_tokens": 2}
    ranking = replace(found, hits=hits, trace=(StageTrace("made up", 0.1, 100, 20_000, detail=detail),))
    times = []
    for _ in range(200):
        began = time.perf_counter()
        signals(ranking)
        times.append(time.perf_counter() - began)
    return 1e6 * float(np.median(times))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "drift", help="where signals and logs are kept")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--stationary", type=int, default=1_000_000, help="queries, 100,000 at least")
    parser.add_argument("--rows", type=int, default=1_000_000, help="requests of the large log; 0: none")
    given = parser.parse_args()
    found = compute(given.data, given.work)
    others = [name for name in SETS if name != USUAL]
    rows = [
        *({"case": "switch", **switches(found, other, given.runs)} for other in others),
        *({"case": "segment", **segment(found, other, given.runs)} for other in others),
        *({"case": "slow mix", **slow_mix(found, other, given.runs)} for other in others),
        {"case": "stationary", **stationary(found, given.stationary)},
        {"case": "signals of 100 documents", "microseconds": round(cost(given.data))},
    ]
    if given.rows:
        rows.append({"case": "large log", **million(found, given.work, given.rows)})
    by_case: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_case.setdefault(row["case"], []).append(row)
    soon = min(row["within_100"] for row in by_case["switch"])
    right = min(row["named_that_moved"] for row in by_case["switch"])
    caller = min(row["named_the_caller_alone"] for row in by_case["segment"])
    slow = max(row["share_p95"] for row in by_case["slow mix"])
    false = by_case["stationary"][0]["alarms_per_10000"]
    targets = [
        target("switches alarmed within 100 queries", soon, ">= 0.95", soon >= 0.95),
        target("named signals that did move", right, ">= 0.95", right >= 0.95),
        target("alarms that name the caller that changed, and no other", caller, ">= 0.95", caller >= 0.95),
        target("false alarms in 10,000 stationary queries", false, "<= 1", false <= 1.0),
        target("share changed at the alarm of a slow mix, p95", slow, "< 0.30", slow < 0.3),
    ]
    counts = {name: len(values) for name, values in found.items()}
    path = write("drift", rows, targets, window=WINDOW, every=EVERY, queries=counts, model=MODEL, depth=DEPTH)
    print(json.dumps(json.loads(path.read_text(encoding="utf-8"))["targets"], indent=1))


if __name__ == "__main__":
    main()
