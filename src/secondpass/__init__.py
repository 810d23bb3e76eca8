"""Second-pass ranking: rerank inside a latency budget, and measure whether it is worth its cost.

    from secondpass import rerank

    for hit in rerank("who wrote Faust", ["Goethe wrote Faust.", "A faucet drips."]).hits:
        print(hit.score, hit.document.text)

Knows: the public names and where they live. Importing this imports nothing else: a name is
loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secondpass.api import rerank, rerank_many
    from secondpass.cascade import Cascade, Stage
    from secondpass.errors import SecondpassError
    from secondpass.evaluation.audit import audit
    from secondpass.evaluation.verdict import Verdict
    from secondpass.fusion import convex, reciprocal_rank
    from secondpass.rerankers.cross_encoder import CrossEncoder
    from secondpass.retrievers.bm25 import BM25
    from secondpass.retrievers.dense import Dense
    from secondpass.retrievers.hybrid import Hybrid
    from secondpass.retrievers.index import Index
    from secondpass.types import Deadline, Document, Hit, Ranking, StageTrace, Status

__version__ = "0.1.0"

__all__ = [
    "BM25",
    "Cascade",
    "CrossEncoder",
    "Deadline",
    "Dense",
    "Document",
    "Hit",
    "Hybrid",
    "Index",
    "Ranking",
    "SecondpassError",
    "Stage",
    "StageTrace",
    "Status",
    "Verdict",
    "__version__",
    "audit",
    "convex",
    "reciprocal_rank",
    "rerank",
    "rerank_many",
]

_HOME = {
    "BM25": "secondpass.retrievers.bm25",
    "Cascade": "secondpass.cascade",
    "CrossEncoder": "secondpass.rerankers.cross_encoder",
    "Deadline": "secondpass.types",
    "Dense": "secondpass.retrievers.dense",
    "Document": "secondpass.types",
    "Hit": "secondpass.types",
    "Hybrid": "secondpass.retrievers.hybrid",
    "Index": "secondpass.retrievers.index",
    "Ranking": "secondpass.types",
    "SecondpassError": "secondpass.errors",
    "Stage": "secondpass.cascade",
    "StageTrace": "secondpass.types",
    "Status": "secondpass.types",
    "Verdict": "secondpass.evaluation.verdict",
    "audit": "secondpass.evaluation.audit",
    "convex": "secondpass.fusion",
    "reciprocal_rank": "secondpass.fusion",
    "rerank": "secondpass.api",
    "rerank_many": "secondpass.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'secondpass' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # so that it is asked for here only once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
