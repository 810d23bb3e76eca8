"""A real server on a free port of this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.serving.app import application
from secondpass.serving.connections import Connection
from secondpass.serving.models import Served
from secondpass.serving.server import Server


def served(model: CrossEncoder, **more: Any) -> Server:
    """A server of one model, by that model's name."""
    return Server([Served(model.name, lambda: model)], **more)


@contextmanager
def running(server: Server) -> Iterator[str]:
    """The server's base URL, while it runs."""
    config = uvicorn.Config(
        application(server), port=0, log_level="error", timeout_graceful_shutdown=5, http=Connection
    )
    runs = uvicorn.Server(config)
    thread = threading.Thread(target=runs.run)
    thread.start()
    try:
        until = time.monotonic() + 30
        while not runs.started:
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{runs.servers[0].sockets[0].getsockname()[1]}"
    finally:
        runs.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"
