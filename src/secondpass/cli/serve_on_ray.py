"""secondpass serve --ray: the same server in replicas on a Ray cluster, until told to stop.

Knows: signals, and what is said. Refuses to know: replicas (`secondpass.distributed.service`), routes.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Literal

import msgspec

from secondpass.cli.options import prepare_ray
from secondpass.cli.terminal import say
from secondpass.config import Config, KeyTable
from secondpass.distributed import service
from secondpass.distributed.cluster import joined
from secondpass.errors import SecondpassError
from secondpass.extras import require
from secondpass.serving.built import build_server
from secondpass.serving.keys import key_digest

__all__ = ["serve_on_ray"]


def serve_on_ray(
    settings: Callable[[], Config], keys: Sequence[str], *, form: Literal["json", "text"], texts: bool, spans: bool
) -> None:
    """Start the replicas, and drain and end them at SIGINT or SIGTERM. At SIGHUP `settings` are read again, and
    replicas exchanged for such as they say. Of `keys` only digests leave this process."""
    prepare_ray()
    require("ray.serve", extra="ray", purpose="serve --ray")

    def built() -> tuple[Config, Any]:
        config = _checked(settings(), keys)
        return config, service.application(config, form=form, texts=texts, spans=spans)

    def start(config: Config, application: Any) -> None:
        service.start(config, application)
        say(_told(config))

    first = built()
    told: SimpleQueue[int] = SimpleQueue()
    with joined(first[0].ray.address):
        start(*first)
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):  # not all on Windows
                signal.signal(getattr(signal, name), lambda number, _: told.put(number))
        while told.get() == getattr(signal, "SIGHUP", None):
            try:
                start(*built())
            except SecondpassError as error:
                say(f"the replicas stay as they are: {error}", style="red")
        say("stopping: requests in flight are answered")
        service.stop()


def _checked(config: Config, keys: Sequence[str]) -> Config:
    """The settings with these keys, too. Raises what they would raise in a replica."""
    known = (*config.serve.keys, *(KeyTable(sha256=key_digest(key)) for key in keys))
    config = msgspec.structs.replace(config, serve=msgspec.structs.replace(config.serve, keys=known))
    server = build_server(config)
    try:
        for served in server.models.values():
            if served.preload:
                served.load()
                served.close()
    finally:
        server.end()
    return config


def _told(config: Config) -> str:
    table, (least, most) = config.serve, config.ray.replicas
    scheme = "https" if table.certificate else "http"
    replicas = f"{least}" if least == most else f"{least} to {most}"
    return (
        f"{replicas} replicas of {config.ray.cpus:g} CPUs on {scheme}://{table.host}:{table.port}, "
        f"{len(table.keys) or 'no'} keys"
    )
