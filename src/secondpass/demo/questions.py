"""The demo collection: questions in plain words over the standard library's documents, with graded judgments.

Knows: questions.jsonl, qrels.tsv, and which judged documents this Python lacks. Refuses to know: retrieval and
evaluation. How questions were written and documents were judged, by whom, with what agreement:
docs/demo-collection.md. Nothing is ever tuned on it.
"""

from __future__ import annotations

import importlib.resources
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from secondpass.demo.stdlib_docs import stdlib_documents
from secondpass.evaluation.collections import Collection
from secondpass.evaluation.trec import Qrels, read_qrels
from secondpass.types import Document

__all__ = ["Question", "demo_collection", "demo_questions"]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its kind, and what the asker needs (empty where the words say it all).

    Kinds: `easy` has one plain answer; `hard` is far from the documentation's words, or needs a fine distinction;
    `ambiguous` has several right answers under different readings; `unanswerable` has none in the library.
    """

    id: str
    text: str
    kind: Literal["easy", "hard", "ambiguous", "unanswerable"]
    intent: str = ""


def demo_questions() -> tuple[Question, ...]:
    """All questions, those that the library cannot answer among them."""
    text = importlib.resources.files("secondpass.demo").joinpath("questions.jsonl").read_text(encoding="utf-8")
    rows = map(json.loads, text.splitlines())
    return tuple(Question(row["_id"], row["text"], row["kind"], row.get("intent", "")) for row in rows)


def demo_collection(on_progress: Callable[[int, int], None] | None = None) -> Collection:
    """The collection `python-stdlib`: documents, the questions that have an answer, graded judgments (0 to 3).

    Judged ids that this interpreter lacks are left out of the judgments; `notes` says which, and how many
    questions have no answer and stand aside (an order of useless documents is neither good nor bad).
    Raises CollectionError as `stdlib_documents` does.
    """
    documents = {document.id: document for document in stdlib_documents(on_progress)}
    with importlib.resources.as_file(importlib.resources.files("secondpass.demo")) as folder:
        judged, notes = _keep_present(read_qrels(folder / "qrels.tsv"), documents)
    questions = demo_questions()
    asked = {one.id: one.text for one in questions if one.kind != "unanswerable"}
    aside = len(questions) - len(asked)
    notes = (*notes, f"{aside} questions that the library does not answer are left out")
    return Collection("python-stdlib", documents, asked, {name: judged[name] for name in asked}, notes)


def _keep_present(qrels: Qrels, documents: Mapping[str, Document]) -> tuple[Qrels, tuple[str, ...]]:
    """The judgments of documents that are there, and a note on those that are not."""
    judged = {document for grades in qrels.values() for document in grades}
    lacking = sorted(judged - documents.keys())
    kept = {
        query: {document: grade for document, grade in grades.items() if document in documents}
        for query, grades in qrels.items()
    }
    if not lacking:
        return kept, ()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return kept, (f"{len(lacking)} of {len(judged)} judged ids are not in this Python {python}: {', '.join(lacking)}",)
