"""Print the targets that do not hold: python bench/targets.py [--all]."""

from __future__ import annotations

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    """One line a target, from every result file."""
    shown = missed = 0
    for path in sorted(RESULTS.glob("*.json")):
        for one in json.loads(path.read_text(encoding="utf-8")).get("targets", []):
            shown += 1
            missed += not one["holds"]
            if not one["holds"] or "--all" in sys.argv[1:]:
                value = "not measured" if one["value"] is None else f"{one['value']:g}"
                word = "holds " if one["holds"] else "MISSED"
                print(f"{word}  {path.stem}: {one['name']}: {value} (goal {one['goal']})")
    print(f"{missed} of {shown} targets do not hold")


if __name__ == "__main__":
    main()
