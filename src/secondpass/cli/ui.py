"""secondpass ui: the workbench on this machine, over whatever a folder holds."""

from __future__ import annotations

import socket
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from secondpass.cli.options import ModelOption, configured
from secondpass.cli.serve import answer, keys_given, open_files_raised, require_server
from secondpass.cli.terminal import say
from secondpass.config import FILE_NAME, Config
from secondpass.errors import ConfigError, InputError

HOST = "127.0.0.1"


def command(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="Settings, an index, a pool to judge, or reports.", show_default=False),
    ] = None,
    model: ModelOption = None,
    port: Annotated[
        int | None, typer.Option("--port", metavar="N", min=0, max=65535, help="Without it: any that is free.")
    ] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Open the workbench: search with before and after side by side, live
    traffic, judging, audits and comparisons, on a page of this machine.

    FOLDER is a settings file or a folder with one, or what other commands
    left: an index, a pool, reports. Without it ./secondpass.toml, or else
    the shipped model alone. It listens on 127.0.0.1; Ctrl-C quits.

    It needs the extra: pip install 'secondpass\\[serve]'

    Examples:

    $ secondpass ui
    $ secondpass ui .demo --open
    """
    require_server()
    from secondpass.serving import logs
    from secondpass.serving.built import build_server

    def settings() -> Config:
        found = _settings(folder, model)
        serve = msgspec.structs.replace(found.serve, host=HOST, port=port or 0, ui=True)
        return msgspec.structs.replace(found, serve=serve)

    chosen = settings()
    listening = _listening(port or 0)
    server = build_server(chosen, settings, keys=keys_given())
    logs.set_up(sys.stderr, "warning", form="text")
    open_files_raised()
    scheme = "https" if chosen.serve.certificate else "http"
    address = f"{scheme}://{HOST}:{listening.getsockname()[1]}/ui/"
    say(f"workbench: {address}  (Ctrl-C quits)", style="bold")
    if browser:
        webbrowser.open(address)
    answer(server, chosen.serve, listening=listening)


def _settings(place: Path | None, model: str | None) -> Config:
    """The settings that a place holds or stands for."""
    if place is None:
        return configured(None, model=model)
    if place.is_file():
        return configured(place, model=model)
    if not place.is_dir():
        raise InputError(f"{place}: no such file or folder; give settings, an index, a pool to judge or reports")
    if (place / FILE_NAME).is_file():
        return configured(place / FILE_NAME, model=model)
    index = next((one for one in (place, place / "index") if (one / "manifest.json").is_file()), None)
    pool = next((one for one in (place, place / "pool") if (one / "pool.jsonl").is_file()), None)
    reports = place if index != place and any(one.suffix in (".json", ".html") for one in place.iterdir()) else None
    found = {"pool": pool, "reports": reports}
    tables: dict[str, Any] = {name: str(one) for name, one in found.items() if one is not None}
    if index is None and not tables:
        raise ConfigError(
            f"{place}: holds neither {FILE_NAME} nor an index, a pool or reports; `secondpass index`, `audit --sample` "
            "and `audit --json` make them"
        )
    config = configured(None, index=None if index is None else str(index), model=model)
    return msgspec.structs.replace(config, serve=msgspec.structs.replace(config.serve, **tables))


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise InputError(f"port {port} cannot be had ({error.strerror}); give another one, or none") from error
