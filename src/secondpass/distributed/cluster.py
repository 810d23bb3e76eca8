"""A Ray cluster: joined for as long as something runs there, and what each who works there may take.

Knows: how Ray is started and left. Refuses to know: what runs on it. Whether Ray may send usage statistics is said by
the environment, which is the command line's.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from secondpass.config import Config, RerankerTable
from secondpass.errors import InputError
from secondpass.extras import require

__all__ = ["joined", "share_of"]

_R = TypeVar("_R", bound=RerankerTable)


@contextmanager
def joined(address: str = "") -> Iterator[None]:
    """The cluster at `address`; without one the cluster that Ray itself finds, else a new one on this machine, which
    ends with the block. A cluster that this process has joined already is left as it is.

    Raises MissingExtraError without the extra `ray`, InputError where nothing answers at `address`.
    """
    ray = require("ray", extra="ray", purpose="--ray")
    if ray.is_initialized():
        yield
        return
    _reached(address)
    ray.init(address or None, logging_level=logging.ERROR, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def _reached(address: str) -> None:
    """Raise InputError where HOST:PORT does not answer: Ray would try for minutes, and end the process."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdigit():
        return  # "auto", "local" or ray://…, which Ray looks at itself
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(f"no Ray cluster answers at {address} ({error}); check ray.address") from error


def share_of(config: Config, cpus: float) -> Config:
    """The settings for one of many on a machine: a cross-encoder that names no `threads` takes as many as it has CPUs,
    one at least, and not all cores."""

    def placed(table: _R) -> _R:
        inside = tuple(map(placed, table.rerankers))
        own = table.threads or (max(int(cpus), 1) if table.reranker == "cross-encoder" else None)
        return msgspec.structs.replace(table, rerankers=inside, threads=own)

    serve = msgspec.structs.replace(config.serve, models=tuple(map(placed, config.serve.models)))
    return msgspec.structs.replace(config, stages=tuple(map(placed, config.stages)), serve=serve)
