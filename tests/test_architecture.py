"""Imports go one way, every module says what it knows, and none does anything when it is imported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "secondpass"

# Each level may import from the levels above it in this list; rooms on one level do not know each other.
LEVELS = [
    {"errors"},
    {"types"},
    {"disk", "extras", "sampling", "waiting", "weights"},
    {"cascade", "embedding", "fusion", "model_store", "registry", "scoring", "shingles", "words"},
    {"testing"},
    {"rerankers", "retrievers", "evaluation"},
    {"training", "monitoring", "demo", "selection", "explanation"},
    {"config", "api"},
    {"integrations", "serving"},
    {"distributed"},
    {"cli"},
]
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__main__.py")


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported(tree: ast.AST) -> set[str]:
    """Rooms of this package that a module imports, anywhere in it."""
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "secondpass":
            parts = (node.module or "").split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("secondpass.")}
    return rooms


def test_every_room_has_a_level() -> None:
    assert {room_of(path) for path in MODULES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return  # the package itself names everything, lazily
    for other in imported(ast.parse(path.read_text(encoding="utf-8"))) - {"__version__"}:
        assert other == room or LEVEL[other] < LEVEL[room], f"{path.relative_to(SOURCE)} must not import {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_open_with_what_they_know(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, "no module docstring"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_environment_is_read_in_the_cli_only(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert room_of(path) == "cli" or not names & {"environ", "getenv"}
