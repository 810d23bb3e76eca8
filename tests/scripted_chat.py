"""A chat endpoint on loopback whose model is a function: what it is asked is read off the prompt as a model would."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))  # benches are scripts, not a package

from broken_service import Action, Asked, Service, hang, reply

__all__ = [
    "Action",
    "Asked",
    "Service",
    "answers",
    "chat",
    "cut",
    "hang",
    "names",
    "passages",
    "prompt",
    "query",
    "reply",
    "sorts",
]

PASSAGE = re.compile(r"^([0-9a-f]{16}) passage \[(\d+)\]\n(.*)\n\1 end of passage \[\2\]$", re.M)
QUERY = re.compile(r"^([0-9a-f]{16}) query\n(.*?)\n\1 end of query$", re.M | re.S)


def prompt(asked: Asked) -> str:
    """What the user said."""
    return str(asked.body["messages"][-1]["content"])


def passages(asked: Asked) -> list[str]:
    """The passages, in the order of their numbers."""
    found = PASSAGE.findall(prompt(asked))
    assert [int(number) for _, number, _ in found] == list(range(1, len(found) + 1))
    assert len({mark for mark, _, _ in found}) == 1
    return [line for _, _, line in found]


def query(asked: Asked) -> str:
    first, second = QUERY.findall(prompt(asked))
    assert first == second
    return str(first[1])


def chat(text: object, **usage: int) -> dict[str, Any]:
    """The body of an answer, as OpenAI writes it."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}], "usage": usage}


def answers(says: Callable[[Asked], object], usage: Mapping[str, int] | None = None) -> Action:
    """A model that says what the function says."""
    told = {"prompt_tokens": 1000, "completion_tokens": 50} if usage is None else usage
    return lambda connection, asked: reply(200, chat(says(asked), **told))(connection, asked)


def cut(connection: socket.socket, asked: Asked) -> bool:
    """The beginning of an answer, then nothing more."""
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"choices": [')
    return False


def names(places: Sequence[int]) -> str:
    """An order of places from 0 as a model writes it."""
    return " > ".join(f"[{place + 1}]" for place in places)


def sorts(relevance: Callable[[str, str], float]) -> Action:
    """A model that knows the relevance of every passage to the query."""

    def says(asked: Asked) -> str:
        lines, about = passages(asked), query(asked)
        return names(sorted(range(len(lines)), key=lambda place: -relevance(about, lines[place])))

    return answers(says)
