"""secondpass serve: reranking over HTTP, in the formats that clients already speak."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from secondpass.cli.options import ConfigOption, ModelOption, configured
from secondpass.cli.terminal import say
from secondpass.config import build_stages
from secondpass.errors import ConfigError
from secondpass.extras import require

KEYS = "SECONDPASS_API_KEYS"


def command(
    model: ModelOption = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes any that is free.")
    ] = 8000,
    deadline_ms: Annotated[
        float | None,
        typer.Option("--deadline-ms", metavar="MS", min=0, help="For requests that name none. Without it: none."),
    ] = None,
    backlog: Annotated[
        float, typer.Option("--backlog", metavar="SECONDS", min=0.1, help="Work that may wait; beyond it is 429.")
    ] = 30.0,
    drain: Annotated[
        int, typer.Option("--drain", metavar="SECONDS", min=1, help="Time that open requests get when it stops.")
    ] = 30,
    config: ConfigOption = None,
) -> None:
    """Answer rerank requests over HTTP.

    Clients of Cohere (v1 and v2), Voyage, Mixedbread, ZeroEntropy, Jina, text-embeddings-inference and vLLM speak to it
    as they are, with this server for their base URL.

    It needs the extra: pip install 'secondpass\\[serve]'

    With keys in the environment, SECONDPASS_API_KEYS=one,two, only who sends one of them is answered.

    Examples:

    $ secondpass serve --port 8000 --deadline-ms 200
    $ curl localhost:8000/v1/rerank -d '{"query": "a", "documents": ["b", "a"]}'
    """
    for module in ("starlette", "uvicorn"):
        require(module, extra="serve", purpose="the server")
    import uvicorn

    from secondpass.rerankers.cross_encoder import CrossEncoder
    from secondpass.serving.app import Limits, Server, application, key_digest

    stages = build_stages(configured(config, model=model))
    reranker = stages[-1].reranker
    if not isinstance(reranker, CrossEncoder):
        raise ConfigError(f"the last stage is {reranker!r}; serve answers with a cross-encoder")
    given = [key.strip() for key in os.environ.get(KEYS, "").split(",") if key.strip()]
    keys = frozenset(map(key_digest, given))
    limits = Limits(deadline=None if deadline_ms is None else deadline_ms / 1000, backlog=backlog)
    server = Server(reranker, limits, keys)
    say(f"{reranker.name} on http://{host}:{port}, {len(keys) or 'no'} keys")
    uvicorn.run(
        application(server),
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=drain,
        server_header=False,
    )
