"""Answers from your own pages: PostgreSQL finds, a cross-encoder ranks, a token budget decides what the model reads.

    python examples/rag/rag.py "who is allowed to sleep for free" --dsn postgresql://me@localhost/hut
        [--pages FOLDER] [--tokens 120] [--deadline-ms 200] [--chat URL --chat-model NAME]

The pages are cut at their empty lines and put into a table, where they change when the pages do. A question goes to
words and vectors in one query; of what that finds the cross-encoder sees all, copies and all but two pieces of a page
go, and what is left is read until the tokens are spent. The prompt goes to stdout, or to a language model behind any
OpenAI-compatible endpoint; what was done, and what was left out and why, goes to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from secondpass import Cascade, CrossEncoder, Document, Ranking, Stage
from secondpass.embedding import open_encoder
from secondpass.retrievers.postgres import Postgres
from secondpass.selection.near_duplicates import NearDuplicates
from secondpass.selection.parents import Parents
from secondpass.selection.token_budget import TokenBudget

FOUND = 30  # pieces that the first stage finds
AROUND = 8  # tokens that the prompt puts around each piece
RULES = "Answer from the numbered notes only, and name the numbers. If they do not say, say that they do not."


def pieces(folder: Path) -> Iterator[Document]:
    """The paragraphs of every page, with its heading for a title."""
    for page in sorted(folder.glob("*.md")):
        heading, _, body = page.read_text(encoding="utf-8").partition("\n")
        for number, text in enumerate(filter(None, (part.strip() for part in body.split("\n\n")))):
            where = {"page": page.name, "number": number}
            yield Document(f"{page.name}#{number}", text, heading.removeprefix("# "), where)


def prompt(ranking: Ranking) -> str:
    """What the language model reads."""
    notes = [f"[{place}] {one.title}: {one.text}" for place, one in enumerate(ranking.documents, 1)]
    return "\n".join([RULES, "", *notes, "", f"Question: {ranking.query}"])


def answered(url: str, model: str, text: str) -> str:
    """The answer of a language model; its key is in the environment, as OPENAI_API_KEY."""
    key = os.environ.get("OPENAI_API_KEY", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0}
    found = httpx.post(f"{url.rstrip('/')}/chat/completions", json=body, headers=headers, timeout=60.0)
    found.raise_for_status()
    return str(found.json()["choices"][0]["message"]["content"])


def main() -> None:
    """Fill, find, rank, choose, ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    parser.add_argument("--dsn", default=os.environ.get("DATABASE_URL", ""), help="or DATABASE_URL in the environment")
    parser.add_argument("--pages", type=Path, default=Path(__file__).parent / "handbook", help="folder of Markdown")
    parser.add_argument("--tokens", type=int, default=120, help="that the notes may have together")
    parser.add_argument(
        "--deadline-ms", type=float, help="for the reranking; what is not scored by then keeps its place"
    )
    parser.add_argument("--chat", help="an OpenAI-compatible endpoint, such as http://localhost:8080/v1")
    parser.add_argument("--chat-model", default="default")
    options = parser.parse_args()
    if not options.dsn:
        parser.error("name the database with --dsn or DATABASE_URL")

    notes = Postgres(options.dsn, table="hut_notes", encoder=open_encoder())
    print(f"notes: {notes.fill(pieces(options.pages))}", file=sys.stderr)
    pipeline = Cascade(
        notes,
        Stage(CrossEncoder(), depth=FOUND),
        select=[
            NearDuplicates(),
            Parents("page", most=2, position="number"),
            TokenBudget(options.tokens, overhead=AROUND),
        ],
    )
    ranking = pipeline.search(options.question, top_k=FOUND, deadline_ms=options.deadline_ms)
    for step in ranking.trace:
        removed = f", removed {step.detail['removed']}" if step.detail.get("removed") else ""
        print(f"{step.name}: {step.seconds * 1000:.0f} ms{removed} {step.skipped_because}".rstrip(), file=sys.stderr)
    text = prompt(ranking)
    print(answered(options.chat, options.chat_model, text) if options.chat else text)


if __name__ == "__main__":
    main()
