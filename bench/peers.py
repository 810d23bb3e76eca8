"""How fast, side by side: secondpass and its peers, the same weights, the same passages, raw texts in, scores out.

    python bench/peers.py [--rounds 20] [--workloads W1,W2,W3] [--only ENGINE,…] [--part PART,…] [--data …] [--work …]

Parts: times (rounds of all engines), where (where our time goes), agreement (rankings of the profiles against fp32).
Each part is kept in --work; bench/results/peers.json is written from what is there, so parts can be run one by one.

W1: one query and 100 passages of median 75 tokens (mean 85, 95th percentile 170). W2: 100 passages of 300 to 500.
W3: 20 questions with BM25's first 10 passages each, in one call where an engine has one for pairs of several queries.
Every round has passages of its own, drawn by a seed, the same for all engines; two more warm them up (W2: one).
All read 512 tokens a pair, since the shipped model's 256 would cut W2.

Each engine lives in an environment of its own, made here with pip, and runs in a process of its own on all cores that
this process may use; in each round they take turns in a random order, the others stopped (SIGSTOP). FlashRank pads
100 passages to one batch and fastembed 64, which takes gigabytes on W2: there they start anew for each of 3 turns.
The measured limit of a precision (peers/gemm.py) takes its turn in every round of W1 like an engine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tomllib
import venv
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
from rich.progress import Progress
from tokenizers import Tokenizer

from common import PLAIN, ROOT, arguments, commit, target, training_texts, write
from deadline import lengths_w1, lengths_w2
from quality import drawn
from secondpass.evaluation.collections import Collection, read_beir
from secondpass.evaluation.metrics import evaluate
from secondpass.rerankers.fields import DEFAULT_TEMPLATE, renderer
from secondpass.retrievers.bm25 import BM25
from secondpass.weights import folder_digest, locate

HERE = Path(__file__).resolve().parent / "peers"
SEED = 17
LENGTH = 512
DEPTH = 100
ROUNDS = 20
MODEL = PLAIN  # what sentence-transformers and the others open too
WARM = {"W1": 2, "W2": 1, "W3": 2}
SETS = ("nq-qed", "lfrqa", "squad-train", "stackexchange-small", "scifact-train")
QUERIES, CANDIDATES = 20, 10  # of W3
COLLECTIONS = {"nq-qed": "test", "scifact": "test", "cosqa": "test", "cranfield": "test-binary"}

# What pip is told, step by step. torch comes first and alone, so that pip takes the build which it is configured for.
_TORCH = ("install", "torch==2.13.0")
_OURS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
ENVIRONMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "sentence-transformers": (
        _TORCH,  # onnx and onnxruntime are for the export
        (*_TORCH, "sentence-transformers==6.2.0", "transformers==5.23.0", "onnx==1.23.2", "onnxruntime==1.31.1"),
    ),
    "sentence-transformers-openvino": (
        _TORCH,
        (
            *(*_TORCH, "torchvision==0.28.0", "sentence-transformers[openvino]==6.2.0", "transformers==5.5.4"),
            *("optimum-intel==2.2.0", "openvino==2026.4.1"),
        ),
        # it may be of another build than torch, and then nothing can be imported; texts do not need it
        ("uninstall", "--yes", "torchvision"),
    ),
    "flashrank": (("install", "flashrank==0.2.10", "onnxruntime==1.31.1"),),
    "fastembed": (("install", "fastembed==0.9.1", "onnxruntime==1.31.1"),),
    "secondpass": (("install", "--editable", str(ROOT), *_OURS),),
}
TELLING = {"torch", "sentence-transformers", "transformers", "optimum-intel", "openvino", "flashrank", "fastembed"}
TELLING |= {"onnxruntime", "tokenizers", "numpy", "secondpass"}

ENGINES = {  # name: environment
    "sentence-transformers": "sentence-transformers",
    "sentence-transformers-openvino": "sentence-transformers-openvino",
    "flashrank-fp32": "flashrank",
    "flashrank-int8": "flashrank",
    "fastembed-fp32": "fastembed",
    "fastembed-int8": "fastembed",
    "secondpass-exact": "secondpass",
    "secondpass-default": "secondpass",
    "secondpass-fast": "secondpass",
}
BASE = "sentence-transformers"
# Rounds of those that start anew for each turn, since long passages in large batches make them hold gigabytes
ALONE = {("W2", f"{name}-{precision}"): 3 for name in ("flashrank", "fastembed") for precision in ("fp32", "int8")}
PROFILES = ("exact", "default", "fast")
_OV, _FR = "sentence-transformers-openvino", "flashrank"
FLOORS: dict[str, dict[str, dict[str, float]]] = {
    "W1": {
        "exact": {"limit": 0.85, BASE: 2.8, f"{_FR}-fp32": 3.8, f"{_FR}-int8": 1.8, "fastembed-int8": 1.5},
        "default": {"limit": 0.80, BASE: 5.0, _OV: 1.6, f"{_FR}-fp32": 7.0, f"{_FR}-int8": 3.3, "fastembed-int8": 2.7},
        "fast": {"limit": 0.70, BASE: 8.0, _OV: 2.5, f"{_FR}-fp32": 11.0, f"{_FR}-int8": 5.0, "fastembed-int8": 4.2},
    },
    "W2": {"default": {BASE: 3.2}, "fast": {BASE: 4.5}},
}
FLOORS["W3"] = {
    profile: {over: floor for over, floor in floors.items() if over != "limit"}
    for profile, floors in FLOORS["W1"].items()
}
AGREEMENT = {"default": 0.002, "fast": 0.005}  # nDCG@10, at most so far from exact
EXACT = 1e-4  # largest deviation of exact from torch's fp32


# --- environments and model folders


def surroundings() -> dict[str, str]:
    """Environment variables for what runs in an environment of its own: nothing from outside is imported or fetched."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**own, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}


def run_logged(command: Sequence[str | Path], log: Path) -> None:
    """Run to the end. Raises RuntimeError with its last words where it fails; all it says is in the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as out:
        ended = subprocess.run(
            list(map(str, command)), stdout=out, stderr=subprocess.STDOUT, check=False, env=surroundings()
        )
    if ended.returncode:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise RuntimeError(f"{' '.join(map(str, command))}: {said[-1] if said else ended.returncode}")


def python_of(environment: str, work: Path, talk: Callable[[str], None]) -> Path:
    """The interpreter of an environment, made unless it is there with the same requirements."""
    place, steps = work / "environments" / environment, ENVIRONMENTS[environment]
    python, done, wanted = place / "bin" / "python", place / "requirements.json", json.dumps(steps)
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return python
    talk(f"making the environment of {environment}")
    venv.create(place, clear=True, with_pip=True)
    for step in steps:
        run_logged([python, "-m", "pip", *step], work / "logs" / f"pip-{environment}.log")
    done.write_text(wanted, encoding="utf-8")
    return python


def versions(python: Path) -> dict[str, str]:
    """The versions that tell, in an environment."""
    command = [str(python), "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {one["name"].lower(): one["version"] for one in listed if one["name"].lower() in TELLING}


def checkpoint_of(work: Path) -> Path:
    """A folder that holds the shipped checkpoint as checkpoint/, reading 512 tokens; peers' layouts come beside it."""
    source = locate(MODEL)
    folder = work / "models" / folder_digest(source)[:12]
    settings = folder / "checkpoint" / "tokenizer_config.json"
    # anew each time: what is not weights may have changed without changing the digest
    shutil.copytree(source, settings.parent, dirs_exist_ok=True, ignore=shutil.ignore_patterns(settings.name))
    changed = json.loads((source / settings.name).read_text(encoding="utf-8"))
    changed |= {"model_max_length": LENGTH, "max_length": LENGTH}  # peers read one, the other, or the smaller
    settings.write_text(json.dumps(changed, indent=1), encoding="utf-8")
    return folder


# --- workloads


class Pool:
    """Real passages by their number of tokens, each handed out once as long as there are others like it."""

    def __init__(self, data: Path, tokenizer: Tokenizer) -> None:
        texts, self.queries = training_texts(data, SETS)
        # long ones are rare: all of them, by their characters, beside a sample of the rest
        long = [text for text in texts if 1_100 <= len(text) <= 2_800]
        rest = sorted(set(texts) - set(long))
        chosen = sorted(long) + random.Random(SEED).sample(rest, min(len(rest), 8_000))
        encoded = tokenizer.encode_batch(chosen, add_special_tokens=False)
        self._all = sorted((len(one.ids), text) for one, text in zip(encoded, chosen, strict=True) if one.ids)
        self._left = list(self._all)

    def take(self, length: float) -> str:
        """A passage of about this many tokens; where none is left within a tenth, all are put back."""
        for _ in range(2):
            at = min(bisect_left(self._left, (round(length), "")), len(self._left) - 1)
            if abs(self._left[at][0] - length) <= max(2.0, 0.1 * length):
                return self._left.pop(at)[1]
            self._left = list(self._all)
        return self._all[at][1]


def candidates(collection: Collection, depth: int) -> list[tuple[str, list[str], list[str]]]:
    """Query id, the texts of BM25's first candidates, their ids; for every query that finds any."""
    retriever, render = BM25.build(collection.documents.values()), renderer(DEFAULT_TEMPLATE)
    found = []
    for query_id, text in collection.queries.items():
        hits = retriever.retrieve(text, depth).hits
        if hits:
            found.append((query_id, [str(render(hit.document)) for hit in hits], [hit.document.id for hit in hits]))
    return found


def draws_of(workload: str, count: int, size: int, data: Path, pool: Pool) -> list[list[tuple[str, list[str]]]]:
    """So many draws of a workload, each a list of (query, texts): one of `size` texts, in W3 as many queries."""
    draw = random.Random(f"{SEED} {workload}")
    if workload != "W3":
        lengths = {"W1": lengths_w1, "W2": lengths_w2}[workload]
        return [
            [(draw.choice(pool.queries), [pool.take(length) for length in lengths(draw)[:size]])] for _ in range(count)
        ]
    collection = read_beir(data / "collections" / "nq-qed", "test")
    asked = [(collection.queries[query_id], texts) for query_id, texts, _ in candidates(collection, CANDIDATES)]
    draws: list[list[tuple[str, list[str]]]] = []
    left: list[tuple[str, list[str]]] = []
    while len(draws) < count:
        if len(left) < size:  # all asked: from the start in another order
            left = draw.sample(asked, len(asked))
        draws.append([left.pop() for _ in range(size)])
    return draws


def workload_file(name: str, draws: list[Any], tokenizer: Tokenizer, work: Path) -> tuple[Path, list[list[int]]]:
    """The file that the engines read, and the tokens of every pair of every draw, specials included."""
    path = work / "workloads" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"draws": draws}), encoding="utf-8")
    lengths = []
    for draw in draws:
        pairs = [(query, text) for query, texts in draw for text in texts]
        lengths.append([min(len(one.ids), LENGTH) for one in tokenizer.encode_batch(pairs)])
    return path, lengths


def operations(lengths: Sequence[int], config: dict[str, Any]) -> float:
    """Multiplications and additions of a BERT classifier whose last layer computes [CLS] alone, nothing padded."""
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    total = 0.0
    for n in lengths:
        dense, attention = 2 * (4 * width**2 + 2 * width * inner), 4 * n * width  # of one row
        total += (layers - 1) * n * (dense + attention)
        total += n * 4 * width**2 + (dense - 4 * width**2) + attention  # keys and values of all, the rest of one row
        total += 2 * width**2  # the pooler
    return total


# --- processes


class Worker:
    """A process that answers lines with lines, stopped while it is not its turn."""

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=surroundings(),
            )
        first = self._read()
        self.error: str | None = first.get("error")
        self.facts: dict[str, Any] = first.get("ready", {})
        self._pause()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return dict(json.loads(line))
        said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return {"error": f"the process ended with code {self._process.wait()}; its last words: {said[-1:]}"}

    def _pause(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)

    def ask(self, **order: Any) -> dict[str, Any]:
        """Its answer; {"error": reason} from the first failure on."""
        if self.error is not None:
            return {"error": self.error}
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._read()
        except BrokenPipeError:
            answer = self._read()
        self._pause()
        self.error = answer.get("error")
        return answer

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Bench:
    """What every part needs: places, threads, and how an engine is started."""

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        self.work: Path = options.work.resolve()
        self.data: Path = options.data
        self.progress = progress
        self.rounds: int = options.rounds
        self.queries: int = options.queries
        self.passages: int = options.passages
        self.engines = [name for name in ENGINES if not options.only or name in options.only]
        self.commit = commit()  # now: that is what the engines load, whatever is committed meanwhile
        self.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.python: dict[str, Path] = {}
        self.missing: dict[str, str] = {}  # why an environment's engines cannot run
        self.folder = checkpoint_of(self.work)
        wanted = {ENGINES[name] for name in self.engines} | {"secondpass"}
        for name in [one for one in ENVIRONMENTS if one in wanted]:
            self._provide(name)
        if "secondpass" in self.missing:
            sys.exit(self.missing["secondpass"])
        self.config = json.loads((self.folder / "checkpoint" / "config.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(self.folder / "checkpoint" / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def talk(self, text: str) -> None:
        """One line above the progress bars."""
        self.progress.console.print(text, highlight=False)

    def _provide(self, name: str) -> None:
        """The environment, and the checkpoint as its engines read it."""
        needs = {"flashrank": ("onnx", BASE), "fastembed": ("onnx", BASE), _OV: ("openvino", _OV)}
        try:
            python = python_of(name, self.work, self.talk)
            if name in needs:
                kind, exporter = needs[name]
                with_it = python_of(exporter, self.work, self.talk)
                done = self.folder / f"{kind}.done"
                if not done.is_file():
                    self.talk(f"converting the checkpoint: {kind}")
                    run_logged([with_it, HERE / "convert.py", kind, self.folder], self.work / "logs" / f"{kind}.log")
                    done.touch()
            self.python[name] = python
        except (RuntimeError, OSError) as error:
            self.missing[name] = str(error)
            self.talk(f"{name} cannot run: {error}")

    def engine(self, name: str, workload: Path, folder: Path | None = None) -> Worker:
        """An engine, loaded."""
        script = [self.python[ENGINES[name]], HERE / "worker.py"]
        given = [name, str(folder or self.folder), str(workload), str(self.threads)]
        return Worker([*script, *given], self.work / "logs" / f"{workload.stem}-{name}.log")

    def keep(self, part: str, result: dict[str, Any]) -> None:
        """A part's result, with the commit it is of."""
        path = self.work / "parts" / f"{part}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"commit": self.commit, "digest": self.folder.name, **result})
        for place, name in ((self.work, "WORK"), (ROOT, ".")):  # whose machine it was is nobody's business
            text = text.replace(str(place), name)
        path.write_text(text, encoding="utf-8")

    def kept(self, part: str) -> dict[str, Any] | None:
        """What `keep` wrote, unless it is of another model."""
        path = self.work / "parts" / f"{part}.json"
        result = dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
        return result if result.get("digest") == self.folder.name else None


# --- times


def interval(values: Sequence[float]) -> list[float]:
    """95 % bootstrap interval of the median, by percentiles of 2,000 resamples."""
    draw = np.random.default_rng(SEED)
    medians = np.median(draw.choice(np.asarray(values), size=(2000, len(values))), axis=1)
    return [float(end) for end in np.quantile(medians, (0.025, 0.975))]


def times(bench: Bench, workload: str, pool: Pool) -> dict[str, Any]:
    """Seconds and scores of every engine in every round of one workload."""
    warm = WARM[workload]
    size = bench.passages if workload != "W3" else max(1, QUERIES * bench.passages // DEPTH)
    draws = draws_of(workload, warm + bench.rounds, size, bench.data, pool)
    path, lengths = workload_file(workload, draws, bench.tokenizer, bench.work)
    rounds: list[dict[str, Any]] = [{} for _ in range(bench.rounds)]
    facts: dict[str, Any] = {}
    able = [name for name in bench.engines if ENGINES[name] in bench.python]
    errors = {name: bench.missing[ENGINES[name]] for name in bench.engines if name not in able}
    task = bench.progress.add_task(workload, total=bench.rounds + 1)
    limits: Worker | None = None
    result: dict[str, Any] = {}
    with ExitStack() as stack:
        if workload == "W1":
            sizes = [str(size) for size in (bench.config["hidden_size"], bench.config["intermediate_size"])]
            command = [bench.python["secondpass"], HERE / "gemm.py"]
            asked = [*command, "numpy", *sizes, str(bench.threads)]
            alone = subprocess.run(
                list(map(str, asked)), capture_output=True, text=True, check=True, env=surroundings()
            )
            limits = Worker([*command, "serve", *sizes, str(bench.threads)], bench.work / "logs" / "gemm.log")
            stack.callback(limits.close)
            result["gemm"] = {"numpy_fp32": json.loads(alone.stdout), "openvino": limits.facts, "error": limits.error}
        workers: dict[str, Worker] = {}

        def start(name: str) -> Worker:
            worker = bench.engine(name, path)
            for number in range(warm):
                worker.ask(draw=number, forget=True)
            facts[name] = worker.facts
            return worker

        for name in able:
            if (workload, name) not in ALONE:
                workers[name] = start(name)
                stack.callback(workers[name].close)
        bench.progress.advance(task)
        order = random.Random(f"{SEED} {workload} order")
        for number, found in enumerate(rounds):
            turns = [name for name in able if number < ALONE.get((workload, name), math.inf)]
            turns += ["limit"] if limits is not None else []
            for name in order.sample(turns, len(turns)):
                if name in errors:
                    continue
                if name == "limit" and limits is not None:
                    found[name] = limits.ask()
                    continue
                worker = workers.get(name) or start(name)
                found[name] = worker.ask(draw=warm + number, forget=True)
                if name.startswith("secondpass") and workload == "W1" and "error" not in found[name]:
                    found[name]["seconds_kept"] = worker.ask(draw=warm + number, forget=False).get("seconds")
                if name not in workers:
                    worker.close()
                if "error" in found[name]:
                    errors[name] = found.pop(name)["error"]
            bench.progress.advance(task)
    tokens = sorted(length for draw in lengths[warm:] for length in draw)
    middle = {"median": median(tokens), "mean": round(fmean(tokens), 1), "p95": tokens[int(0.95 * len(tokens))]}
    result |= {"rounds": rounds, "facts": facts, "errors": errors, "pair_tokens": middle}
    result["operations"] = [operations(draw, bench.config) for draw in lengths[warm:]]
    return {**result, "pairs": len(lengths[0]), "passages": bench.passages}


def seconds_of(part: dict[str, Any], name: str) -> dict[int, float]:
    """Seconds by round."""
    return {i: found[name]["seconds"] for i, found in enumerate(part["rounds"]) if name in found}


def ratios(part: dict[str, Any], slow: str, quick: str) -> list[float]:
    """How many times faster `quick` was than `slow`, in each round that has both."""
    one, other = seconds_of(part, slow), seconds_of(part, quick)
    return [one[i] / other[i] for i in sorted(one.keys() & other.keys())]


def shares(part: dict[str, Any], name: str) -> list[float]:
    """Share of the measured limit of its precision, in each round."""
    precision = part["facts"][name].get("precision")
    seconds = seconds_of(part, name)
    return [
        part["operations"][i] / found["limit"]["rates"][precision] / seconds[i]
        for i, found in enumerate(part["rounds"])
        if i in seconds and precision in found.get("limit", {}).get("rates", {})
    ]


def deviation(part: dict[str, Any], name: str, reference: str) -> tuple[float | None, float | None]:
    """Largest difference of scores, and the mean share of the first 10 that both have (per request of W1 and W2)."""
    largest, overlaps = [], []
    for found in part["rounds"]:
        if name not in found or reference not in found:
            continue
        mine, theirs = np.array(found[name]["scores"]), np.array(found[reference]["scores"])
        overlaps.append(overlap(found[name]["scores"], found[reference]["scores"]))
        if part["facts"][name]["units"] == "sigmoid":
            theirs = 1 / (1 + np.exp(-theirs))
        largest.append(float(np.max(np.abs(mine - theirs))))
    return (max(largest), fmean(overlaps)) if largest else (None, None)


def rounded(values: Sequence[float], digits: int) -> dict[str, Any]:
    """Median and interval."""
    return {"median": round(median(values), digits), "interval": [round(end, digits) for end in interval(values)]}


def rows_of(workload: str, part: dict[str, Any]) -> list[dict[str, Any]]:
    """One row an engine; one with the reason for an engine that did not run."""
    rows = []
    for name in ENGINES:
        if name in part["errors"]:
            rows.append({"workload": workload, "engine": name, "error": part["errors"][name]})
        seconds = seconds_of(part, name)
        if not seconds:
            continue
        row: dict[str, Any] = {"workload": workload, "engine": name, "commit": part["commit"], "rounds": len(seconds)}
        row["precision"] = part["facts"][name].get("precision")
        row["seconds"] = rounded(list(seconds.values()), 4)
        row["pairs_per_second"] = round(part["pairs"] / row["seconds"]["median"], 1)
        answers = [found[name] for found in part["rounds"] if name in found]
        kept = [answer["seconds_kept"] for answer in answers if answer.get("seconds_kept")]
        if kept:
            row["seconds_tokens_kept"] = rounded(kept, 4)
        row["peak_mb"] = max(answer["peak_mb"] for answer in answers)
        if ratios(part, BASE, name):
            row["times_sentence_transformers"] = rounded(ratios(part, BASE, name), 3)
        if shares(part, name):
            row["share_of_limit"] = rounded(shares(part, name), 3)
        for key, reference in (("exact", "secondpass-exact"), ("torch", BASE)):
            largest, overlap = deviation(part, name, reference)
            if largest is not None and name != reference:
                row[f"largest_difference_from_{key}"] = float(f"{largest:.3g}")
                if workload != "W3":
                    row[f"overlap@10_with_{key}"] = round(overlap or 0.0, 4)
        row["facts"] = part["facts"][name]
        rows.append(row)
    return rows


# --- where the time goes, and agreement


def where(bench: Bench, pool: Pool) -> dict[str, Any]:
    """peers/where.py for each profile on one draw of W1 and W2."""
    found: dict[str, Any] = {}
    for workload in ("W1", "W2"):
        draws = draws_of(workload, 1, bench.passages, bench.data, pool)
        path, _ = workload_file(f"{workload}-where", draws, bench.tokenizer, bench.work)
        for profile in PROFILES:
            command = [bench.python["secondpass"], HERE / "where.py", profile, bench.folder, path, str(bench.threads)]
            ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=surroundings())
            said = ended.stderr.strip().splitlines()
            answer = {"profile": profile, "error": said[-1] if said else f"code {ended.returncode}"}
            found.setdefault(workload, []).append(json.loads(ended.stdout) if ended.returncode == 0 else answer)
    return {"workloads": found}


def agreement(bench: Bench) -> dict[str, Any]:
    """nDCG@10 of each profile on test queries over BM25's first 100, the model as shipped (its own length)."""
    shipped = bench.folder / "shipped"
    shutil.copytree(locate(MODEL), shipped / "checkpoint", dirs_exist_ok=True)
    rows: list[dict[str, Any]] = []
    errors: dict[str, str] = {}
    for name, split in COLLECTIONS.items():
        whole = read_beir(bench.data / "collections" / name, split)
        collection = drawn(whole, bench.queries)
        found = candidates(collection, DEPTH)
        draws = [[(collection.queries[query_id], texts)] for query_id, texts, _ in found]
        path, _ = workload_file(f"agreement-{name}", draws, bench.tokenizer, bench.work)
        qrels = {query_id: dict(grades) for query_id, grades in collection.qrels.items()}
        scores: dict[str, list[list[float]]] = {}
        for profile in PROFILES:
            engine = f"secondpass-{profile}"
            worker = bench.engine(engine, path, shipped)
            task = bench.progress.add_task(f"{name}, {profile}", total=len(draws))
            answers = []
            for number in range(len(draws)):
                answers.append(worker.ask(draw=number, forget=True))
                bench.progress.advance(task)
            worker.close()
            if worker.error is not None:
                errors[profile] = worker.error
            else:
                scores[profile] = [answer["scores"] for answer in answers]
        ndcg: dict[str, list[float]] = {}
        for profile, lists in scores.items():
            run = {}
            for (query_id, _, ids), values in zip(found, lists, strict=True):
                order = by_score(values)
                run[query_id] = [(ids[i], -float(place)) for place, i in enumerate(order)]
            measured = evaluate(run, qrels, "ndcg@10")
            ndcg[profile] = [measured[query_id] for query_id in sorted(measured)]
        for profile in scores:
            row = {"collection": name, "profile": profile, "queries": len(ndcg[profile])}
            row["ndcg@10"] = round(fmean(ndcg[profile]), 4)
            if profile != "exact" and "exact" in scores:
                differences = [mine - theirs for mine, theirs in zip(ndcg[profile], ndcg["exact"], strict=True)]
                row["difference"] = round(fmean(differences), 5)
                row["standard_error"] = round(stdev(differences) / math.sqrt(len(differences)), 5)
                row["queries_changed"] = sum(abs(one) > 1e-9 for one in differences)
                both = list(zip(scores[profile], scores["exact"], strict=True))
                row["overlap@10"] = round(fmean(overlap(mine, theirs) for mine, theirs in both), 4)
                row["largest_difference"] = round(
                    max(abs(a - b) for mine, theirs in both for a, b in zip(mine, theirs, strict=True)), 4
                )
            rows.append(row)
    return {"rows": rows, "errors": errors}


def by_score(scores: Sequence[float]) -> list[int]:
    """Positions, the highest score first, ties in their order."""
    return np.argsort(-np.asarray(scores), kind="stable").tolist()  # type: ignore[no-any-return]


def overlap(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Share of the first 10 that two lists of scores have in common."""
    return len({*by_score(mine)[:10]} & {*by_score(theirs)[:10]}) / min(10, len(mine))


# --- the result


def promises(parts: dict[str, dict[str, Any]], agreed: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Every floor with what was reached."""
    targets = []
    for workload, part in parts.items():
        for profile, floors in FLOORS[workload].items():
            for over, floor in floors.items():
                name = f"secondpass-{profile}"
                measured = name in part["facts"] and name not in part["errors"]
                values = [] if not measured else shares(part, name) if over == "limit" else ratios(part, over, name)
                value = round(median(values), 3) if values else None
                what = f"{workload}, {profile}: " + ("share of the measured limit" if over == "limit" else f"× {over}")
                targets.append(target(what, value, f"≥ {floor}", value is not None and value >= floor))
    largest = [deviation(part, "secondpass-exact", BASE)[0] for part in parts.values()]
    worst = max((value for value in largest if value is not None), default=None)
    if parts:
        goal = f"≤ {EXACT:g}, largest difference of a logit"
        shown = None if worst is None else float(f"{worst:.3g}")
        targets.append(target("exact: scores as torch's in fp32", shown, goal, worst is not None and worst <= EXACT))
    for profile, limit in AGREEMENT.items() if agreed else ():
        differences = [row["difference"] for row in (agreed or {})["rows"] if row["profile"] == profile]
        value = max(differences, key=abs, default=None)
        targets.append(
            target(
                f"{profile}: nDCG@10 against exact, the collection farthest off",
                value,
                f"within {limit}",
                value is not None and abs(value) <= limit,
            )
        )
    return targets


def main() -> None:
    """Run the parts asked for and write bench/results/peers.json from all that are there."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each workload; fewer are a trial")
    parser.add_argument("--passages", type=int, default=DEPTH, help="fewer are a trial")
    parser.add_argument("--workloads", default="W1,W2,W3")
    parser.add_argument("--only", default="", help="engines, separated by commas; empty: all")
    parser.add_argument("--part", default="times,where,agreement", help="parts, separated by commas; report: none")
    parser.add_argument("--queries", type=int, default=150, help="of each collection, for agreement")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "peers")
    options = parser.parse_args()
    unknown = {*filter(None, options.only.split(","))} - ENGINES.keys()
    if unknown:
        sys.exit(f"--only: {', '.join(sorted(unknown))} is not known; engines are {', '.join(ENGINES)}")
    options.only = [*filter(None, options.only.split(","))]
    wanted = options.part.split(",")
    # ended from outside, it must not leave stopped processes behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with Progress() as progress:
        bench = Bench(options, progress)
        pool = Pool(bench.data, bench.tokenizer) if {"times", "where"} & set(wanted) else None
        if "times" in wanted and pool is not None:
            for workload in options.workloads.split(","):
                bench.keep(workload, times(bench, workload, pool))
        if "where" in wanted and pool is not None:
            bench.keep("where", where(bench, pool))
        if "agreement" in wanted:
            bench.keep("agreement", agreement(bench))
    parts = {name: part for name in FLOORS if (part := bench.kept(name)) is not None}
    agreed, spent = bench.kept("agreement"), bench.kept("where")
    rows = [row for name, part in parts.items() for row in rows_of(name, part)]
    targets = promises(parts, agreed)
    trial = any(part.get("passages") != DEPTH or len(part["rounds"]) < ROUNDS for part in parts.values())
    for one in targets:
        one["holds"] &= not trial  # nothing is shown by a trial
    for row in rows:
        print(json.dumps({key: value for key, value in row.items() if key != "facts"}, ensure_ascii=False))
    print("\n".join(json.dumps(one, ensure_ascii=False) for one in targets))
    limits = parts.get("W1", {}).get("gemm")
    more = {
        "trial": trial,
        "threads": bench.threads,
        "max_length": f"{LENGTH} for all engines: the shipped model's 256 would cut W2",
        "environments": {name: versions(python) for name, python in bench.python.items()},
        "workloads": {
            name: {"pairs": part["pairs"], "pair_tokens": part["pair_tokens"]} for name, part in parts.items()
        },
        "limit": limits and {**limits, "rates_in_rounds": rates_of(parts["W1"])},
        "where": spent and {"commit": spent["commit"], **spent["workloads"]},
        "agreement": agreed and {key: agreed[key] for key in ("commit", "rows", "errors")},
        "floors": FLOORS,
    }
    print(write("peers", rows, targets, model="weights/plain", digest=bench.folder.name, **more))


def rates_of(part: dict[str, Any]) -> dict[str, Any]:
    """The limit by precision as its turns gave it, in operations a second."""
    found: dict[str, list[float]] = {}
    for one in part["rounds"]:
        for name, value in one.get("limit", {}).get("rates", {}).items():
            found.setdefault(name, []).append(value)
    return {name: rounded(values, 0) for name, values in found.items()}


if __name__ == "__main__":
    main()
