"""Every command explains itself, in the terminal and in docs/cli.md, and errors are told without a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

import secondpass
from cli.conftest import Run
from secondpass.cli import app

COMMANDS = (
    *("demo", "index", "search", "rerank", "explain"),
    *("audit", "compare", "tune", "judge", "calibrate", "bench", "serve", "ui"),
    *("watch", "online"),
    *("queries", "clicks", "train", "promote", "rollback", "export", "models"),
)


def group() -> click.Group:
    found = typer.main.get_command(app)
    assert hasattr(found, "commands")
    return found  # type: ignore[return-value]


def sections() -> dict[str, str]:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    parts = re.split(r"^## secondpass (\w+)$", page, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def options(command: str) -> set[str]:
    return options_of(group().commands[command])


def options_of(command: click.Command) -> set[str]:
    return {opt for one in command.params for opt in one.opts if opt.startswith("--")} - {"--help"}


def all_options(command: str) -> set[str]:
    """Its own and those of its commands, if it has any."""
    found = group().commands[command]
    return options(command).union(*map(options_of, getattr(found, "commands", {}).values()))


def test_the_commands_are_these() -> None:
    assert tuple(group().list_commands(click.Context(group()))) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_fits_80_columns(run: Run, command: str) -> None:
    done = run(command, "--help")
    assert done.code == 0
    assert f"$ secondpass {command}" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    for option in options(command):
        assert option in done.out


def test_help_tells_the_exit_codes(run: Run) -> None:
    for arguments in (["--help"], ["audit", "--help"]):
        assert "0 done, 1 error" in run(*arguments).out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_docs_name_every_option_and_no_other(command: str) -> None:
    text = sections()[command]
    assert f"    secondpass {command}" in text
    assert set(re.findall(r"--[a-z][a-z-]*", text)) == all_options(command)


def test_the_docs_have_no_command_that_is_not_there() -> None:
    assert sections().keys() == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_help_and_docs_are_the_same(run: Run, command: str) -> None:
    shown = re.findall(r"^ \$ (secondpass .*?) *$", run(command, "--help").out, flags=re.M)
    assert shown == re.findall(r"^    (secondpass .*)$", sections()[command], flags=re.M)


def test_the_version(run: Run) -> None:
    assert run("--version").out.strip() == secondpass.__version__


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["search", "nowhere", "bees"], 1, "nowhere does not exist; give a folder that `secondpass index`"),
        (["index", "nowhere", "--out", "x"], 1, "error: nowhere: cannot be opened (No such file or directory)"),
        (["index", "x", "--config", "none.toml"], 1, "error: none.toml: cannot be read"),
        (["rerank", "--model", "nowhere"], 1, "error: model 'nowhere': no such folder, and not a shipped model"),
        (["models", "nowhere"], 1, "error: model 'nowhere': no such folder"),
        (["audit", "--collection", "nowhere"], 1, "error: nowhere: no such folder; give a BEIR folder"),
        (["index"], 2, "COLLECTION"),
        (["search", "x"], 2, "QUERY"),
        (["audit"], 2, "--collection"),
        (["audit", "--baseline", "a"], 2, "--qrels"),
        (["rerank", "--resume"], 2, "--out"),
        (["rerank", "--run", "a.trec"], 2, "--collection"),
        (["train", "--out", "x"], 2, "SOURCE"),
        (["train", "x"], 2, "--out"),
        (["search", "--depth", "0", "x", "y"], 2, "--depth"),
        (["nothing"], 2, "nothing"),
    ],
)
def test_errors_are_told_in_a_line_or_two(run: Run, arguments: list[str], code: int, says: str) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert "Traceback" not in done.err
    if code == 1:
        assert len(done.err.strip().splitlines()) <= 2


def test_a_traceback_is_there_for_those_who_ask(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "secondpass", "search", "nowhere", "bees", "--no-rerank"]
    plain = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert plain.returncode == 1
    assert "Traceback" not in plain.stderr
    asked = subprocess.run(
        ["env", "SECONDPASS_DEBUG=1", *command], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "Traceback" in asked.stderr
    assert "IndexFolderError" in asked.stderr
