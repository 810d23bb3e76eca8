"""A server with all that the workbench shows, made of a tiny model and invented documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from secondpass.cascade import Cascade, Stage
from secondpass.evaluation.audit import audit
from secondpass.evaluation.leaderboard import leaderboard
from secondpass.evaluation.pool import draw_pool, write_pool
from secondpass.evaluation.report import html
from secondpass.evaluation.systems import System
from secondpass.monitoring.profile import Profile
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.retrievers.bm25 import BM25
from secondpass.serving.models import Served
from secondpass.serving.server import Server, Workbench
from secondpass.serving.watching import Watching
from secondpass.types import Document

HOSTILE = "🐍 list <img src=x onerror='window.hurt=1'><script>window.hurt=1</script> </textarea>'\"&amp;"
WORDS = ["river", "bank", "list", "sort", "file", "date", "string", "snake", "query", "document"]
DOCUMENTS = [
    Document(f"d{i}", f"the list of {WORDS[i % 10]} and {WORDS[(3 * i + 1) % 10]} in python, number {i}", f"List {i}")
    for i in range(30)
]
DOCUMENTS.append(Document("evil", HOSTILE, HOSTILE))


def written(folder: Path) -> Workbench:
    """A pool and a folder of reports."""
    found = {f"q{i}": [(f"d{i}", 2.0), ("evil", 1.0)] for i in (0, 1)}
    documents = {one.id: one for one in DOCUMENTS}
    write_pool(draw_pool({"q0": "a list", "q1": HOSTILE}, {"bm25": found}, documents), folder / "pool")
    reports = folder / "reports"
    reports.mkdir()
    before = {f"q{i}": [("a", 2.0), ("b", 1.0)] for i in range(12)}
    after = {f"q{i}": [("b", 2.0), ("a", 1.0)] if i % 4 else [("a", 2.0), ("b", 1.0)] for i in range(12)}
    qrels = {name: {"b": 1} for name in before}
    verdict = audit(before, after, qrels, names=("first", HOSTILE), queries=dict.fromkeys(before, HOSTILE))
    board = leaderboard([System("first", before, licence="MIT"), System(HOSTILE, after)], qrels)
    (reports / "audit.json").write_text(json.dumps(verdict.to_dict()), encoding="utf-8")
    (reports / "audit.html").write_text(html(verdict), encoding="utf-8")
    (reports / "compare.json").write_text(json.dumps(board.to_dict()), encoding="utf-8")
    return Workbench(folder / "pool", reports)


def server_of(model: CrossEncoder, workbench: Workbench, *, depth: int = 20, **more: Any) -> Server:
    """A search over the documents, a watch, and what the workbench has beside it."""
    served = Served("tiny", lambda: model)
    search = Cascade(BM25.build(DOCUMENTS), Stage(served, depth=depth))
    usual = {"score_top": [float(number) for number in range(100)]}
    digest = model.scorer.checkpoint.digest
    profile = Profile(model=model.name, digest=digest, source="a test", drawn_from=100, signals=usual)  # type: ignore[arg-type]
    return Server([served], search=search, watching=Watching(profile, every=100), workbench=workbench, **more)
