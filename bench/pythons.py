"""Whether the tests pass on other Pythons: python bench/pythons.py python3.12 python3.13 … [--extras dev] [--dry]

For each interpreter an environment of its own, with this tree and the extras of --extras in it, and in that the whole
test suite; tests whose extra is not there are skipped, and counted. What is kept of each: the version, how many tests
passed, were skipped and failed, and the names of those that failed.
"""

from __future__ import annotations

import platform
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, arguments, target, write

COUNTED = re.compile(r"(\d+) (passed|skipped|failed|errors?)\b")
BROKEN = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


def tried(interpreter: str, extras: str) -> dict[str, Any]:
    """The suite's outcome under an interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin" / "python")
        wanted = f"{ROOT}[{extras}]"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--editable", wanted], check=True)
        version = subprocess.run(
            [python, "-c", "import platform; print(platform.python_version())"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        suite = [
            python,
            "-m",
            "pytest",
            "--numprocesses",
            "auto",
            "--dist",
            "worksteal",
            "-rfE",
            "-p",
            "no:cacheprovider",
        ]
        said = subprocess.run(suite, cwd=ROOT, capture_output=True, text=True).stdout
    counts = {"passed": 0, "skipped": 0, "failed": 0, "error": 0}
    for number, what in COUNTED.findall(said.strip().splitlines()[-1]):
        counts[what.removesuffix("s") if what.startswith("error") else what] += int(number)
    return {"python": version, **counts, "broken": BROKEN.findall(said)}


def main() -> None:
    """Run, print, and write bench/results/pythons.json."""
    parser = arguments(__doc__)
    parser.add_argument("interpreters", nargs="+", help="commands or paths")
    parser.add_argument("--extras", default="dev", help="of this package, with commas")
    parser.add_argument("--dry", action="store_true", help="write no result")
    options = parser.parse_args()
    rows = []
    for interpreter in options.interpreters:
        rows.append(tried(interpreter, options.extras))
        print(rows[-1])
    targets = [
        target(f"{row['python']}: tests that do not pass", row["failed"] + row["error"], "0", not row["broken"])
        for row in rows
    ]
    if not options.dry:
        print(write("pythons", rows, targets, extras=options.extras, driver=platform.python_version()))


if __name__ == "__main__":
    main()
