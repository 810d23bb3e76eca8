"""secondpass serve: reranking over HTTP, in the formats that clients already speak."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from secondpass.cli.options import ConfigOption, ModelOption, RetrieverOption, configured
from secondpass.cli.terminal import say
from secondpass.config import Config, ServeTable
from secondpass.extras import require

if TYPE_CHECKING:
    from secondpass.serving.server import Server

KEYS = "SECONDPASS_API_KEYS"


def command(
    index: Annotated[
        str | None,
        typer.Argument(metavar="INDEX", help="Folder that /v1/search searches. Without it: reranking only."),
    ] = None,
    model: ModelOption = None,
    retriever: RetrieverOption = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="ADDRESS", help="Where to listen. Without it: 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=0, max=65535, help="Without it: 8000. 0 takes any that is free."),
    ] = None,
    deadline_ms: Annotated[
        float | None,
        typer.Option("--deadline-ms", metavar="MS", min=0, help="For requests that name none. Without it: none."),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option("--log", metavar="URL", help="Log of requests and clicks: sqlite:///FILE or postgresql://…"),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Lines for people on stderr, not JSON.")] = False,
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Queries in these lines, too.")] = False,
    spans: Annotated[bool, typer.Option("--spans", help="Send OpenTelemetry spans, as OTEL_… variables say.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="In replicas on a Ray cluster (table \\[ray]).")] = False,
    config: ConfigOption = None,
) -> None:
    """Answer rerank requests over HTTP.

    Clients of Cohere (v1 and v2), Voyage, Mixedbread, ZeroEntropy, Jina, text-embeddings-inference and vLLM speak to it
    as they are, with this server for their base URL.

    It needs the extra: pip install 'secondpass\\[serve]'

    With keys in the environment, SECONDPASS_API_KEYS=one,two, only who sends one of them is answered. More is set in
    the table \\[serve] of the settings; SIGHUP reads them again and exchanges the models without a pause.

    Examples:

    $ secondpass serve --port 8000 --deadline-ms 200
    $ curl localhost:8000/v1/rerank -d '{"query": "a", "documents": ["b", "a"]}'
    """
    require_server()
    from secondpass.serving import logs
    from secondpass.serving.built import build_server

    def settings() -> Config:
        found = configured(config, model=model, index=index, retriever=retriever)
        given = {"host": host, "port": port, "deadline_ms": deadline_ms}
        changed = {name: value for name, value in given.items() if value is not None}
        serve = msgspec.structs.replace(found.serve, **changed)
        table = found.request_log if log is None else msgspec.structs.replace(found.request_log, url=log)
        return msgspec.structs.replace(found, serve=serve, request_log=table)

    if ray:
        from secondpass.cli.serve_on_ray import serve_on_ray

        serve_on_ray(settings, keys_given(), form="text" if text else "json", texts=log_texts, spans=spans)
        return
    chosen = settings()
    server = build_server(chosen, settings, keys=keys_given(), spans=spans)
    table = chosen.serve
    scheme = "https" if table.certificate else "http"
    names = ", ".join(server.models)
    say(f"{names} on {scheme}://{table.host}:{table.port}, {len(server.keys) or 'no'} keys")
    logs.set_up(sys.stderr, form="text" if text else "json", texts=log_texts)
    open_files_raised()
    answer(server, table)


def require_server() -> None:
    """Raises MissingExtraError where the extra is not installed."""
    for module in ("starlette", "uvicorn", "prometheus_client"):
        require(module, extra="serve", purpose="the server")


def keys_given() -> list[str]:
    """The keys in the environment."""
    return [key.strip() for key in os.environ.get(KEYS, "").split(",") if key.strip()]


def answer(server: Server, table: ServeTable, *, listening: socket.socket | None = None) -> None:
    """Answer where the settings say, or on a socket that listens already, until told to stop."""
    import uvicorn

    from secondpass.serving.app import application
    from secondpass.serving.connections import Connection

    runs = uvicorn.Server(
        uvicorn.Config(
            application(server),
            host=table.host,
            port=table.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=table.drain,
            server_header=False,
            http=Connection,
            ssl_certfile=table.certificate or None,
            ssl_keyfile=table.private_key or None,
        )
    )
    with contextlib.suppress(KeyboardInterrupt):
        runs.run(sockets=None if listening is None else [listening])
    if not runs.started:
        sys.exit(1)


def open_files_raised() -> None:
    """As many open files, and so connections, as this process may have: the usual 1,024 are soon used up."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
