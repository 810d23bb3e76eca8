"""Is the vendor's reranker worth it? The audit of two runs, read as JSON, as a script in a pipeline would.

    python examples/vendor_audit/audit_vendor.py FOLDER [--budget-ms 400]

FOLDER holds first.trec, vendor.trec, vendor-ms.tsv and test.tsv. Exit code 0 where the word is WORTH IT, else 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def verdict(folder: Path, budget_ms: float) -> dict[str, Any]:
    """What `secondpass audit --json` says; its keys are described in docs/audit-json.md and stay."""
    runs = ["--baseline", "first.trec", "--reranked", "vendor.trec", "--qrels", "test.tsv"]
    limits = ["--timings", "reranked=vendor-ms.tsv", "--budget-ms", str(budget_ms)]
    command = [sys.executable, "-m", "secondpass", "audit", *runs, *limits, "--json"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget-ms", type=float, default=400.0)
    options = parser.parse_args()
    found = verdict(options.folder, options.budget_ms)
    low, high = found["interval"]
    print(f"{found['decision']}: {found['reason']}")
    print(f"{found['metric']} {found['first']:.3f} before, {found['reranked']:.3f} after, {found['best']:.3f} at best")
    print(
        f"change {found['difference']:+.3f}, by 95 % between {low:+.3f} and {high:+.3f}, on {found['queries']} queries"
    )
    print(f"{found['recall_loss']:.3f} is lost before the vendor sees anything: the pool lacks documents")
    print(f"p99 of the vendor's answers {found['added_latency']['p99_ms']:.0f} ms, allowed {found['budget_ms']:.0f}")
    return 0 if found["decision"] == "WORTH IT" else 1


if __name__ == "__main__":
    sys.exit(main())
