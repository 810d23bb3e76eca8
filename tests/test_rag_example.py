"""examples/rag, on a real server with pgvector: the right note is read, the budget is kept, pages may change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from postgres_server import Postgres, programs_with_vectors, running
from scripted_chat import Service, answers, prompt
from secondpass.selection.token_budget import counter

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "rag"

pytest.importorskip("psycopg", reason="needs the extra 'postgres' (psycopg)")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    yield from running(programs_with_vectors(), "a PostgreSQL server with pgvector (pip install pgserver)")


@pytest.fixture
def dsn(server: Postgres) -> str:
    return server.database()


def ask(question: str, dsn: str, *more: str) -> tuple[str, str]:
    """What it prints, and what it says of it."""
    command = [sys.executable, str(EXAMPLE / "rag.py"), question, *more]
    environment = {**os.environ, "DATABASE_URL": dsn}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def notes(text: str) -> list[str]:
    return re.findall(r"^\[\d+\] (.*)$", text, flags=re.M)


def test_the_first_note_answers_and_all_fit_the_budget(dsn: str) -> None:
    asked = {
        "may I bring my dog": "Dogs sleep in the wood store",
        "who does not pay for a bed": "Children below six sleep for nothing",
        "why is the water brown": "After heavy rain it turns brown",
    }
    count = counter("secondpass-mini")
    for question, answer in asked.items():
        text, said = ask(question, dsn, "--tokens", "120")
        read = notes(text)
        assert any(answer in note for note in read[:2])  # pieces of the best page stand as they stand there
        assert sum(count(one) for one in read) <= 120
        assert text.endswith(f"Question: {question}\n")
        assert "removed" in said  # what did not fit is told


def test_pages_that_did_not_change_are_not_encoded_again(dsn: str, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    shutil.copytree(EXAMPLE / "handbook", pages)
    _, first = ask("may I bring my dog", dsn, "--pages", str(pages))
    _, again = ask("may I bring my dog", dsn, "--pages", str(pages))
    page = pages / "arriving.md"
    page.write_text(page.read_text().replace("wood store", "cellar"))
    text, changed = ask("may I bring my dog", dsn, "--pages", str(pages))
    filled = [re.findall(r"(\w+)=(\d+)", said.splitlines()[0])[:3] for said in (first, again, changed)]
    assert [tuple(int(number) for _, number in one) for one in filled] == [(12, 0, 0), (0, 0, 12), (0, 1, 11)]
    assert any("Dogs sleep in the cellar" in note for note in notes(text)[:2])
    assert "wood store" not in text


def test_the_prompt_goes_to_a_language_model(dsn: str) -> None:
    with Service(answers(lambda asked: f"read {len(prompt(asked))} characters")) as service:
        text, _ = ask("may I bring my dog", dsn, "--chat", f"{service.url}/v1")
    assert re.fullmatch(r"read \d+ characters\n", text)
