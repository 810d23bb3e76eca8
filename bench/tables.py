"""Write the tables of README.md and of the model card from bench/results: python bench/tables.py [--check].

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`; what is between is replaced. With --check nothing is
written, and the exit code says whether all tables are as they should be.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "src" / "secondpass" / "models" / "mini" / "README.md"]


def _where(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['cores']} cores {machine['cpu']}, {result['date']}, commit {result['commit']}"


def quality(result: dict[str, Any]) -> str:
    """One row a collection: both orders, the gain with its interval, the verdict."""
    head = "collection | queries | BM25 nDCG@10 | reranked | Δ, 95 % interval | MRR@10 | recall@100 | helped / hurt"
    head += " | verdict at δ = .01"
    rows = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for row in result["rows"]:
        parts = [(row["collection"], row)]
        if "without_training_positives" in row:
            parts.append((f"{row['collection']}, without training positives", row["without_training_positives"]))
        for name, part in parts:
            low, high = part["interval"]
            rows.append(
                f"| {name} | {part['queries']:,} | {part['bm25']['ndcg@10']:.3f} | {part['reranked']['ndcg@10']:.3f} "
                f"| {part['difference']:+.3f} [{low:+.3f}, {high:+.3f}] "
                f"| {part['bm25']['mrr@10']:.3f} → {part['reranked']['mrr@10']:.3f} | {part['bm25']['recall@100']:.3f} "
                f"| {part['helped']} / {part['hurt']} | {part['decision']} |"
            )
    model = result["model"]
    name = f"{model['model']} (digest {model['digest'][:8]}, {model['precision']} on {model['engine']})"
    rows += [
        "",
        f"BM25's first {result['depth']} reranked by {name}; test queries, used for nothing else. "
        f"{_where(result)}; `bench/quality.py`.",
    ]
    return "\n".join(rows)


def speed(result: dict[str, Any]) -> str:
    """What reranking 100 candidates took while quality was measured, one row a collection."""
    rows = ["| collection | mean tokens a pair | pairs/s | p50 ms | p95 ms |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        cells = (f"{row['mean_tokens']:.0f}", f"{row['pairs_per_second']:.0f}", row["p50_ms"], row["p95_ms"])
        rows.append(f"| {row['collection']} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def dev(result: dict[str, Any]) -> str:
    """nDCG@10 on dev queries, from the lineage of the shipped model."""
    rows = ["| dev set | queries | BM25's order | cosine of the base | this model |", "|---|---|---|---|---|"]
    rows += [
        f"| {row['set']} | {row['queries']} | {row['bm25']:.3f} | {row['cosine']:.3f} | {row['model']:.3f} |"
        for row in result["dev"]
    ]
    return "\n".join(rows)


TABLES: dict[str, tuple[Callable[[dict[str, Any]], str], Path]] = {
    "quality": (quality, ROOT / "bench" / "results" / "quality.json"),
    "speed": (speed, ROOT / "bench" / "results" / "quality.json"),
    "dev": (dev, ROOT / "src" / "secondpass" / "models" / "mini" / "lineage.json"),
}


def rewritten(text: str) -> str:
    """The page with every marked table as its result file has it."""

    def fill(match: re.Match[str]) -> str:
        render, path = TABLES[match[1]]
        table = render(json.loads(path.read_text(encoding="utf-8")))
        return f"<!-- {match[1]} -->\n{table}\n<!-- /{match[1]} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", fill, text, flags=re.S)


def main() -> None:
    """Rewrite the pages, or with --check say which are stale."""
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if rewritten(text) != text:
            stale.append(str(page.relative_to(ROOT)))
            if "--check" not in sys.argv[1:]:
                page.write_text(rewritten(text), encoding="utf-8")
    print(f"{'stale' if '--check' in sys.argv[1:] else 'rewritten'}: {', '.join(stale) or 'none'}")
    sys.exit(bool(stale) and "--check" in sys.argv[1:])


if __name__ == "__main__":
    main()
