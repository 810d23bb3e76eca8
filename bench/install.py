"""What an installation weighs, and how long an import takes, beside two libraries that do the same work.

    python bench/install.py [--work FOLDER] [--torch torch==2.13.0] [--runs 21] [--pythons 3.11,3.12,3.13,3.14] [--dry]

- Three environments of their own: secondpass from a wheel that is built here, sentence-transformers, FlashRank. Size:
  bytes of all files below site-packages, less those of an empty environment. secondpass brings its models along; what
  the other two download at first use is not counted. torch is the build that --torch names, installed first, since
  without a name a package index gives a larger one.
- Import: seconds of a process that imports the name by which the library is used, less those of one that imports
  nothing; in turns, medians. A second number for secondpass and sentence-transformers: from the start of the process to
  the first score of one pair by the same checkpoint (weights/plain).
- Extras: all of them in one more environment. What an extra adds is every package that it needs, directly or through
  others, and secondpass alone does not. Packages that two extras share count for both.
- Pythons: whether everything that the plain package, or an extra, needs has a wheel for that version, by pip's own
  resolver. It says that it can be installed, not that the tests passed there.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from common import PLAIN, ROOT, arguments, target, write

LIBRARIES = {
    "secondpass": ("secondpass", "import secondpass"),
    "sentence-transformers": ("sentence-transformers", "from sentence_transformers import CrossEncoder"),
    "FlashRank": ("flashrank", "from flashrank import Ranker"),
}
FIRST_SCORE = {
    "secondpass": "from secondpass import rerank; rerank('a bee', ['a hive'], model={folder!r})",
    "sentence-transformers": (
        "from sentence_transformers import CrossEncoder; CrossEncoder({folder!r}).predict([('a bee', 'a hive')])"
    ),
}
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")

CLOSURE = """
import json, sys
from importlib.metadata import distribution
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

def needed(name, extras, seen):
    for line in distribution(name).requires or ():
        one = Requirement(line)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            key = (canonicalize_name(one.name), frozenset(one.extras))
            if key not in seen:
                seen.add(key)
                needed(one.name, one.extras, seen)
    return {name for name, _ in seen}

def size(name):
    found = distribution(name)
    return sum(path.stat().st_size for path in map(found.locate_file, found.files or ()) if path.is_file())

plain = needed("secondpass", (), set())
out = {}
for extra in json.loads(sys.argv[1]):
    more = needed("secondpass", (extra,), set()) - plain - {"secondpass"}
    out[extra] = {"packages": len(more), "bytes": sum(map(size, more))}
print(json.dumps(out))
"""


def run(command: Sequence[str]) -> str:
    """What a command prints; its own words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def environment(folder: Path, installs: Iterable[Sequence[str]]) -> Path:
    """The Python of a new environment with these packages, one `pip install` after another."""
    run([sys.executable, "-m", "venv", "--clear", str(folder)])
    python = folder / "bin" / "python"
    for packages in installs:
        run([str(python), *PIP, *packages])
    return python


def weight(python: Path) -> tuple[int, int]:
    """Packages, and bytes below site-packages."""
    (site,) = (python.parent.parent / "lib").glob("python*/site-packages")
    files = (path for path in site.rglob("*") if path.is_file() and not path.is_symlink())
    return len(list(site.glob("*.dist-info"))), sum(path.stat().st_size for path in files)


def seconds(python: Path, code: str) -> float:
    """Of a process that runs this, in an empty folder."""
    with tempfile.TemporaryDirectory() as empty:
        begun = time.perf_counter()
        subprocess.run([str(python), "-c", code], cwd=empty, check=True, capture_output=True)
        return time.perf_counter() - begun


def in_turns(pythons: Mapping[str, Path], codes: Mapping[str, str], runs: int, told: str) -> dict[str, float]:
    """Median seconds by name: each once a round, the round before the first not counted."""
    took: dict[str, list[float]] = {name: [] for name in codes}
    for _ in track(range(runs + 1), told):
        for name, code in codes.items():
            took[name].append(seconds(pythons[name], code))
    return {name: statistics.median(times[1:]) for name, times in took.items()}


def resolves(requirements: Sequence[str], version: str) -> bool:
    """Whether pip finds a wheel of everything for that Python."""
    with tempfile.TemporaryDirectory() as nothing:
        command = [sys.executable, *PIP, "--dry-run", "--ignore-installed", "--python-version", version]
        command += ["--only-binary=:all:", "--target", nothing, *requirements]
        return subprocess.run(command, capture_output=True).returncode == 0


def main() -> None:
    """Install, weigh, time, print, and write bench/results/install.json."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".bench" / "install", help="where the environments are made"
    )
    parser.add_argument("--torch", default="torch", help="what to install as torch")
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--pythons", default="3.11,3.12,3.13,3.14")
    parser.add_argument("--dry", action="store_true", help="write no result")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name != "dev"}

    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(options.work), str(ROOT)])
    wheel = max(options.work.glob("secondpass-*.whl"), key=lambda path: path.stat().st_mtime)
    empty = weight(environment(options.work / "empty", ()))
    pythons: dict[str, Path] = {}
    rows: list[dict[str, Any]] = []
    for name, (package, _) in track(LIBRARIES.items(), "installing"):
        torch = [[options.torch]] if name == "sentence-transformers" else []
        what = str(wheel) if name == "secondpass" else package
        pythons[name] = environment(options.work / name, [*torch, [what]])
        packages, size = weight(pythons[name])
        rows.append({"library": name, "packages": packages - empty[0], "bytes": size - empty[1]})
    pythons["nothing"] = pythons["secondpass"]
    codes = {"nothing": "", **{name: code for name, (_, code) in LIBRARIES.items()}}
    imports = in_turns(pythons, codes, options.runs, "importing")
    codes = {name: code.format(folder=str(PLAIN)) for name, code in FIRST_SCORE.items()}
    scores = in_turns(pythons, codes, max(options.runs // 3, 3), "scoring")
    for row in rows:
        row["version"] = version(pythons[row["library"]], LIBRARIES[row["library"]][0])
        row["import_s"] = imports[row["library"]] - imports["nothing"]
        row["first_score_s"] = scores.get(row["library"])

    installs = [[options.torch], [f"{wheel}[{','.join(extras)}]", "packaging"]]
    everything = environment(options.work / "extras", installs)
    added = json.loads(run([str(everything), "-c", CLOSURE, json.dumps(list(extras))]))
    versions = options.pythons.split(",")
    table = []
    for name, needs in track({"": [], **extras}.items(), "resolving"):
        found = [one for one in versions if resolves([*project["dependencies"], *needs], one)]
        table.append({"extra": name, **added.get(name, {"packages": 0, "bytes": 0}), "needs": needs, "pythons": found})

    ours, theirs, small = (next(row for row in rows if row["library"] == name) for name in LIBRARIES)
    ratios = {
        "installed size against sentence-transformers', models included": ours["bytes"] / theirs["bytes"],
        "import time against sentence-transformers'": ours["import_s"] / theirs["import_s"],
        "import time against FlashRank's": ours["import_s"] / small["import_s"],
        "time to the first score against sentence-transformers'": ours["first_score_s"] / theirs["first_score_s"],
    }
    targets = [target(name, ratio, "< 1", ratio < 1) for name, ratio in ratios.items()]
    reach = len(table[0]["pythons"])
    targets.append(target("Pythons with a wheel of everything", reach, str(len(versions)), reach == len(versions)))
    for row in [*rows, *table, *targets]:
        print(json.dumps(row, ensure_ascii=False))
    if not options.dry:
        kept = (ROOT / "src" / "secondpass" / "models").rglob("*")
        sizes = {
            "models_bytes": sum(path.stat().st_size for path in kept if path.is_file()),
            "wheel_bytes": wheel.stat().st_size,
        }
        print(write("install", rows, targets, extras=table, runs=options.runs, **sizes))


def version(python: Path, package: str) -> str:
    """The installed version of a package."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return re.sub(r"\s", "", run([str(python), "-c", code]))


if __name__ == "__main__":
    main()
