"""The command `secondpass`: one small file per command, each a thin call into the library.

Knows: arguments, terminals, exit codes, and alone (with serving) the environment. Refuses to know: how
anything is found, scored or judged.

    0    done
    1    an error, told in one or two lines; SECONDPASS_DEBUG=1 adds the traceback
    2    wrong usage
    3    what `audit --check` and `--fail-if` ask for, and what `promote` refuses
    130  interrupted
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from secondpass import __version__
from secondpass.cli import (
    audit,
    bench,
    calibrate,
    clicks,
    compare,
    demo,
    explain,
    export,
    index,
    judge,
    models,
    online,
    promote,
    queries,
    rerank,
    rollback,
    search,
    serve,
    train,
    tune,
    ui,
    watch,
)
from secondpass.cli.terminal import say
from secondpass.errors import SecondpassError

__all__ = ["app", "main"]

_COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "index": index,
    "search": search,
    "rerank": rerank,
    "explain": explain,
    "audit": audit,
    "compare": compare,
    "tune": tune,
    "judge": judge,
    "calibrate": calibrate,
    "bench": bench,
    "serve": serve,
    "ui": ui,
    "watch": watch,
    "online": online,
    "queries": queries,
    "clicks": clicks,
    "train": train,
    "promote": promote,
    "rollback": rollback,
    "export": export,
    "models": models,
}


class _InOrder(TyperGroup):
    """Commands as they are listed above, also those that have commands of their own."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)


app = typer.Typer(
    cls=_InOrder,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, module in _COMMANDS.items():
    if module in (audit, models):  # those that have commands of their own
        app.add_typer(module.app, name=name)
    else:
        app.command(name)(module.command)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)  # noqa: T201 - the one result without a format
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Rerank search results inside a latency budget, and measure whether it is worth its cost.

    Begin with: $ secondpass demo

    Results go to stdout, talk and progress to stderr.
    Exit codes: 0 done, 1 error (SECONDPASS_DEBUG=1 shows its traceback),
    2 wrong usage, 3 what audit --check and --fail-if ask for or promote refuses,
    130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code; `arguments` default to the process's own."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="secondpass")
    except (SecondpassError, OSError) as error:
        if os.environ.get("SECONDPASS_DEBUG"):
            raise
        say(f"error: {error}", style="red")
        sys.exit(1)
