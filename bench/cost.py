"""What reranking costs on this machine, as `secondpass bench` measures it: python bench/cost.py [--rounds 21] [--dry].

The shipped model with default settings over generated texts; no data is needed. The targets are of the measurement, not
of speed: the fitted terms describe the times, and the depths found for the budget hold when they are run.
"""

from __future__ import annotations

import json
import subprocess
import sys

from common import arguments, target, write

BUDGET_MS = 100


def main() -> None:
    """Run the command, print, and write bench/results/cost.json."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--dry", action="store_true", help="print only, write nothing")
    options = parser.parse_args()
    command = [sys.executable, "-m", "secondpass", "bench", "--json", "--budget-ms", str(BUDGET_MS)]
    done = subprocess.run([*command, "--rounds", str(options.rounds)], stdout=subprocess.PIPE, check=True)
    data = json.loads(done.stdout)
    rows, budget = data.pop("measurements"), data["budget"]
    targets = []
    for name, fit in data["fits"].items():
        targets.append(target(f"R² of time against {name}", fit["r2"], "≥ 0.99", (fit["r2"] or 0.0) >= 0.99))
    share = {}
    for name in ("median", "held"):
        checked = budget[name].get("checked", {"within": 0, "requests": 1})
        share[name] = round(checked["within"] / checked["requests"], 4)
    depth = budget["median"]["depth"]
    targets += [
        target(f"largest depth for {BUDGET_MS} ms", depth, "≥ 1", depth >= 1),
        target("that depth for half of the requests: share in time", share["median"], "≥ 0.3", share["median"] >= 0.3),
        target("the depth for 95 % of them: share in time", share["held"], "≥ 0.85", share["held"] >= 0.85),
    ]
    print(json.dumps({"fits": data["fits"], "budget": budget, "targets": targets}, indent=1))
    if not options.dry:
        print(write("cost", rows, targets, **data))


if __name__ == "__main__":
    main()
