"""How often English text is taken for another language, and how often another language is seen.

    python bench/language.py [--data FOLDER] [--most 20000]

Of each training set the first --most rows, their different queries and passages as a request would bring them; rows
of talk about a site itself are left out, as the recipes do, since some are in French. Of doc-sections the pages of
tldr-pages say by their path which language they are in, so these are a row of their own: what of it is seen (short
passages, half of them commands; the least share of another script was chosen on them). All else counts as English:
the foreign text in it (titles, names in tables, an abstract in French) counts as false alarms too, so `share` is an
upper bound there. `per_text_us` is processor time.
"""

from __future__ import annotations

import gzip
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from common import arguments, target, write
from secondpass.scoring.language import foreign

GOAL = 0.005  # of the queries, and of the passages, of each set
_TRANSLATED = re.compile(r":pages\.(?!en/)[a-z]{2}|\.(?!en\.)[a-z]{2}(_[A-Za-z]{2})?\.md$")
SEEN = "doc-sections, translated"


def texts_of(path: Path, most: int) -> Iterator[tuple[str, str, str]]:
    """(set, "queries" or "passages", text) of a training set's first rows."""
    name = path.parent.name
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in islice(map(json.loads, lines), most):
            if row.get("meta"):
                continue
            translated = name == "doc-sections" and _TRANSLATED.search(row["doc_id"])
            if not translated:
                yield name, "queries", row["query"]
            passage = " ".join(filter(None, [row.get("title"), row["positive"]]))
            yield SEEN if translated else name, "passages", passage


def measured(texts: Iterable[str]) -> dict[str, Any]:
    """How many different texts look like which language, and the processor's time for each."""
    different = dict.fromkeys(texts)
    began = time.process_time()
    found = Counter(filter(None, (foreign(text, ("en",)) for text in different)))
    seconds = time.process_time() - began
    counts = {"texts": len(different), "foreign": found.total(), "share": round(found.total() / len(different), 5)}
    return {**counts, "languages": dict(found.most_common()), "per_text_us": round(1e6 * seconds / len(different), 1)}


def main() -> None:
    """Measure, print, and write bench/results/language.json."""
    parser = arguments(__doc__)
    parser.add_argument("--most", type=int, default=20_000, help="rows of a set")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for path in sorted((options.data / "train").glob("*/train.jsonl.gz")):
        texts: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for name, what, text in texts_of(path, options.most):
            texts[name, what].append(text)
        for (name, what), some in texts.items():
            rows.append({"set": name, "what": what, **measured(some)})
            print(rows[-1], flush=True)
    if not rows:
        raise SystemExit(f"{options.data}: no train/*/train.jsonl.gz there; give --data")
    targets = []
    for what in ("queries", "passages"):
        worst = max((row for row in rows if row["what"] == what and row["set"] != SEEN), key=lambda row: row["share"])
        name = f"English {what} taken for another language, worst set ({worst['set']})"
        targets.append(target(name, worst["share"], f"< {GOAL:g}", worst["share"] < GOAL))
    print(write("language", rows, targets, most=options.most))


if __name__ == "__main__":
    main()
