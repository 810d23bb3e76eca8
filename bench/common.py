"""What every bench shares: where data lies, what the machine is, how a result is written.

Each bench writes bench/results/<name>.json with machine, date, commit, rows, and targets: a list of
{name, value, goal, holds}. `make targets` prints those that do not hold.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
ROOT = RESULTS.parent.parent
PLAIN = ROOT / "weights" / "plain"
"""A classifier of the size of what ships, which every engine opens."""


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with --data, the folder that holds collections/ and train/."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared", help="folder with collections/ and train/")
    return parser


def machine() -> dict[str, Any]:
    """Processor, cores, memory, versions: what a number depends on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    flags = ""
    if info.is_file():
        lines = info.read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
        flags = next((line for line in lines if line.startswith("flags")), "")
    names = ("numpy", "onnxruntime", "openvino", "tokenizers", "bm25s")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "bf16": "avx512_bf16" in flags,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version for name in names if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None  # a bench that does not use it may run without it


def commit() -> str:
    """The commit measured, with + where the tree had changes (results themselves do not count)."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--", "src", "bench/*.py"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def training_texts(data: Path, sets: Sequence[str]) -> tuple[list[str], list[str]]:
    """The distinct passages that answer something in these training sets, in their order, and nq-qed's queries."""
    texts: dict[str, None] = {}
    queries: list[str] = []
    for name in sets:
        with gzip.open(data / "train" / name / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                texts[row["positive"]] = None
                if name == "nq-qed":
                    queries.append(row["query"])
    return list(texts), queries


def target(name: str, value: float | None, goal: str, holds: bool) -> dict[str, Any]:
    """One promise: its value as measured, what was promised, whether it holds."""
    return {"name": name, "value": value, "goal": goal, "holds": holds}


def write(name: str, rows: list[dict[str, Any]], targets: list[dict[str, Any]], **more: Any) -> Path:
    """Write bench/results/<name>.json and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    result = {
        "name": name,
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        **more,
        "rows": rows,
        "targets": targets,
    }
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(path)
    return path
