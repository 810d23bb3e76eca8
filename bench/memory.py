"""How much memory, whether it stays there, and how long the first score takes.

    python bench/memory.py [--data FOLDER] [--calls 10000] [--starts 15] [--only ENGINE-PROFILE,…]

Peak: a fresh process opens the default model and reranks 1,000 candidates in one call, W1 (median 75 tokens) and W2
(300 to 500, of which this model reads 256), drawn by a seed from training sets; the peak is the kernel's (VmHWM).
Flat: one process answers --calls calls of 10 candidates of 5 to 60 words; no text and no query comes twice. Once with
nothing kept between calls, once as it comes, where the tokens of texts seen before fill up to 32 MB.
Cold start: --starts fresh processes of each engine in turns, files in the page cache, graphs built before; seconds
since the process was asked for, interpreter included: secondpass imported, model open, first score there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.progress import Progress

from common import arguments, target, write
from peers import Pool, draws_of
from secondpass.scoring.checkpoint import open_checkpoint

MODEL = "secondpass-mini"
CANDIDATES = 1_000
EVERY = 100  # calls between two looks at the memory
FLAT_FROM = 1_000  # calls after which memory should stay
ENGINES = [("auto", "default"), ("openvino", "exact"), ("openvino", "fast"), ("onnxruntime", "exact")]
ENGINES += [("onnxruntime", "fast")]

# What the measured processes run. VmHWM and not getrusage: that one starts with the parent's peak.
_MEMORY = """
import sys

def megabytes(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
"""
_START = """
import json, sys, time
import secondpass
imported = time.perf_counter()
from secondpass import CrossEncoder
loaded = time.perf_counter()
encoder = CrossEncoder(**json.loads(sys.argv[1]))
opened = time.perf_counter()
scores = encoder.score("who wrote Faust", ["Goethe wrote Faust.", "A faucet drips."])
scored = time.perf_counter()
detail = scores.trace.detail
print(json.dumps({
    "engine": detail["engine"], "precision": detail["precision"],
    "marks": {"import": imported, "CrossEncoder": loaded, "open": opened, "first score": scored},
}))
"""
_PEAK = (
    _MEMORY
    + """
import json
from secondpass import CrossEncoder
from secondpass.types import as_ranking
encoder = CrossEncoder(**json.loads(sys.argv[1]))
opened = megabytes("VmHWM")
query, texts = json.load(open(sys.argv[2]))
ranking = encoder.rerank(as_ranking(query, texts))
detail = ranking.trace[-1].detail
print(json.dumps({
    "engine": detail["engine"], "precision": detail["precision"], "scored": ranking.trace[-1].pairs_scored,
    "opened_mb": round(opened, 1), "peak_mb": round(megabytes("VmHWM"), 1),
}))
"""
)
_FLAT = (
    _MEMORY
    + """
import json, random
from secondpass import CrossEncoder
options, path, calls, every = sys.argv[1:]
encoder = CrossEncoder(**json.loads(options))
words = " ".join(json.load(open(path))[1]).split()
draw = random.Random(29)

def some(least, most):
    at, count = draw.randrange(len(words) - most), draw.randint(least, most)
    return " ".join(words[at : at + count])

for call in range(1, int(calls) + 1):
    scores = encoder.score(f"{some(2, 8)} {call}", [f"{some(5, 60)} {call}.{number}" for number in range(10)])
    if call == 1:
        print(json.dumps([scores.trace.detail["engine"], scores.trace.detail["precision"]]))
    if call % int(every) == 0:
        print(json.dumps([call, megabytes("VmRSS"), encoder.scorer.tokens.used_bytes / 2**20]), flush=True)
"""
)


def child(code: str, *arguments: object) -> tuple[list[Any], str]:
    """What a fresh process printed, one JSON value a line, or the last line of why it failed."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        return [], (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return [json.loads(line) for line in done.stdout.splitlines()], ""


def cold(settings: dict[str, str], starts: int, step: Any) -> list[dict[str, Any]]:
    """Seconds from asking for a process to each mark, medians; the engines take turns, the first round warms up."""
    times: dict[str, list[dict[str, float]]] = {name: [] for name in settings}
    rows: dict[str, dict[str, Any]] = {name: {"bench": "cold start", "setting": name} for name in settings}
    for number in range(starts + 1):
        for name, options in settings.items():
            began = time.perf_counter()  # the same clock in every process of this machine
            found, why = child(_START, options)
            step()
            if why:
                rows[name]["failed"] = why
                continue
            rows[name] |= {"engine": found[0]["engine"], "precision": found[0]["precision"]}
            if number:
                times[name].append({mark: at - began for mark, at in found[0]["marks"].items()})
    for name, own in times.items():
        if own:
            rows[name]["starts"] = len(own)
            rows[name]["seconds"] = {mark: round(median(one[mark] for one in own), 4) for mark in own[0]}
            scored = sorted(one["first score"] for one in own)
            rows[name]["first_score_range"] = [round(scored[0], 4), round(scored[-1], 4)]
    return list(rows.values())


def peaks(settings: dict[str, str], texts: dict[str, Path], step: Any) -> list[dict[str, Any]]:
    """The peak of each engine on each workload, a fresh process each."""
    rows = []
    for name, options in settings.items():
        for workload, path in texts.items():
            found, why = child(_PEAK, options, path)
            rows.append(
                {"bench": "peak", "setting": name, "workload": workload, **({"failed": why} if why else found[0])}
            )
            step()
    return rows


def flat(name: str, options: str, texts: Path, calls: int, keep: str) -> dict[str, Any]:
    """Memory over many calls; `growth_mb` from FLAT_FROM (where there are fewer calls: from the middle) to the end."""
    found, why = child(_FLAT, options, texts, calls, EVERY)
    if why:
        return {"bench": "flat", "setting": name, "kept": keep, "failed": why}
    (engine, precision), *looks = found
    begin = next(look for look in looks if look[0] >= min(FLAT_FROM, calls // 2))
    return {
        "bench": "flat",
        "setting": name,
        "kept": keep,
        "engine": engine,
        "precision": precision,
        "from_call": begin[0],
        "calls": looks[-1][0],
        "rss_mb": [round(begin[1], 1), round(looks[-1][1], 1)],
        "growth_mb": round(looks[-1][1] - begin[1], 1),
        "kept_growth_mb": round(looks[-1][2] - begin[2], 1),
        "curve": [[call, round(rss, 1)] for call, rss, _ in looks[:: max(1, len(looks) // 20)]],
    }


def promises(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The targets of the issue; a row that failed is one not held."""
    targets = []
    for row in rows:
        name = f"{row['bench']}, {row['setting']}"
        if row["bench"] == "peak":
            if row["workload"] == "W1":
                value = row.get("peak_mb")
                held = value is not None and value < 600
                targets.append(target(f"{name}: MB for {CANDIDATES:,} candidates of W1", value, "< 600", held))
        elif row["bench"] == "flat":
            value = row.get("growth_mb")
            held = value is not None and value - max(row["kept_growth_mb"], 0) < 20
            goal = "< 20" + (" beyond the tokens kept" if row["kept"] != "nothing" else "")
            span = f"from call {row.get('from_call')} to {row.get('calls')}"
            targets.append(target(f"{name}, {row['kept']} kept: growth in MB {span}", value, goal, held))
        else:
            seconds = row.get("seconds", {})
            for mark, most in (("import", 0.3), ("first score", 0.8)):
                value = seconds.get(mark)
                targets.append(target(f"{name}: s to {mark}", value, f"<= {most}", value is not None and value <= most))
    return targets


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--starts", type=int, default=15)
    parser.add_argument("--only", default="", help="settings such as auto-default,onnxruntime-exact; all if left out")
    options = parser.parse_args()
    if options.calls < 2 * EVERY or options.starts < 1:
        parser.error(f"--calls from {2 * EVERY} up, --starts from 1 up")
    known = {f"{engine}-{profile}": (engine, profile) for engine, profile in ENGINES}
    names = options.only.split(",") if options.only else list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--only {unknown[0]}: known are {', '.join(known)}")
    pool = Pool(options.data, open_checkpoint(MODEL).tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        texts = {}
        for workload in ("W1", "W2"):
            draws = draws_of(workload, CANDIDATES // 100, 100, options.data, pool)
            texts[workload] = Path(folder) / f"{workload}.json"
            texts[workload].write_text(json.dumps([draws[0][0][0], [text for ((_, some),) in draws for text in some]]))

        def opening(name: str, **more: Any) -> str:
            engine, profile = known[name]
            return json.dumps({"engine": engine, "profile": profile, "cache_dir": f"{folder}/graphs", **more})

        settings = {name: opening(name) for name in names}
        with Progress(transient=True) as progress:
            task = progress.add_task("cold start", total=len(names) * (options.starts + 3) + 2)

            def step() -> None:
                progress.advance(task)

            rows = cold(settings, options.starts, step)
            progress.update(task, description="peak")
            rows += peaks(settings, texts, step)
            progress.update(task, description=f"{options.calls:,} calls")
            for keep, more in (("nothing", {"keep_tokens": 0}), ("tokens", {})):
                rows.append(flat(names[0], opening(names[0], **more), texts["W1"], options.calls, keep))
                step()
    for row in rows:
        print({key: value for key, value in row.items() if key != "curve"})
    targets = promises(rows)
    for one in targets:
        print("holds " if one["holds"] else "MISSED", one["name"], one["value"], one["goal"])
    write("memory", rows, targets, calls=options.calls, starts=options.starts)


if __name__ == "__main__":
    main()
