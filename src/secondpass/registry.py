"""Names for retrievers, rerankers and selectors: a table, plus what other packages register.

Knows: name -> "module:Class". Refuses to know: how anything is built or configured.
Nothing is imported before its name is asked for.

Another package adds one in its pyproject.toml:

    [project.entry-points."secondpass.rerankers"]
    my-reranker = "my_package.module:MyReranker"
"""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points
from typing import Any, Literal

from secondpass.errors import InputError, SecondpassError

__all__ = ["Kind", "names", "resolve"]

Kind = Literal["retriever", "reranker", "selector"]

_BUILT_IN: dict[str, dict[str, str]] = {
    "retriever": {
        "bm25": "secondpass.retrievers.bm25:BM25",
        "dense": "secondpass.retrievers.dense:Dense",
        "elasticsearch": "secondpass.retrievers.lucene:Elasticsearch",
        "fallback": "secondpass.retrievers.fallback:Fallback",
        "hybrid": "secondpass.retrievers.hybrid:Hybrid",
        "opensearch": "secondpass.retrievers.lucene:OpenSearch",
        "postgres": "secondpass.retrievers.postgres:Postgres",
        "qdrant": "secondpass.retrievers.qdrant:Qdrant",
        "sqlite": "secondpass.retrievers.sqlite:SQLite",
    },
    "reranker": {
        "arms": "secondpass.rerankers.experiment:Arms",
        "cross-encoder": "secondpass.rerankers.cross_encoder:CrossEncoder",
        "fallback": "secondpass.rerankers.fallback:Fallback",
        "fused": "secondpass.rerankers.fused:Fused",
        "hosted": "secondpass.rerankers.hosted:Hosted",
        "interleaved": "secondpass.rerankers.experiment:Interleaved",
        "listwise": "secondpass.rerankers.listwise:Listwise",
        "ltr": "secondpass.rerankers.ltr:LearnedToRank",
    },
    "selector": {
        "mmr": "secondpass.selection.mmr:MMR",
        "near-duplicates": "secondpass.selection.near_duplicates:NearDuplicates",
        "parents": "secondpass.selection.parents:Parents",
        "risk-control": "secondpass.selection.threshold:RiskControl",
        "threshold": "secondpass.selection.threshold:Threshold",
        "token-budget": "secondpass.selection.token_budget:TokenBudget",
    },
}


def names(kind: Kind) -> tuple[str, ...]:
    """All known names of a kind, sorted.

    Raises InputError for an unknown kind.
    """
    return tuple(sorted(_targets(kind)))


def resolve(kind: Kind, name: str) -> Any:
    """The class or callable behind `name`, imported now.

    Raises InputError for an unknown name, one that two packages claim, or one whose module
    cannot be imported; MissingExtraError comes through as it is.
    """
    known = _targets(kind)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"there is no {kind} called {name!r}; {hint}known are: {', '.join(sorted(known))}")
    targets = known[name]
    if len(targets) > 1:
        raise InputError(f"the {kind} {name!r} is claimed by {' and '.join(sorted(targets))}; uninstall one of them")
    (target,) = targets
    module, _, attribute = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except SecondpassError:
        raise  # a missing extra already says what to install
    except (ImportError, AttributeError) as error:
        raise InputError(f"the {kind} {name!r} cannot be imported from {target!r}: {error}") from error
    return found


def _targets(kind: str) -> dict[str, set[str]]:
    """name -> the "module:Class" strings that claim it; more than one is a clash."""
    if kind not in _BUILT_IN:
        raise InputError(f"there is no kind {kind!r}; known are: {', '.join(sorted(_BUILT_IN))}")
    found = {name: {target} for name, target in _BUILT_IN[kind].items()}
    for entry in entry_points(group=f"secondpass.{kind}s"):
        found.setdefault(entry.name, set()).add(entry.value)
    return found
