"""The server in replicas: Ray Serve in front, in each replica the whole of `secondpass.serving`.

Knows: Ray Serve's deployments, and which of the settings are its own. Refuses to know: routes, keys, formats, who is
let in, whose turn it is: a replica is the same application as `secondpass serve`, and answers the same bytes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Any, Literal

from secondpass.config import Config, RayTable
from secondpass.distributed.cluster import share_of
from secondpass.errors import ConfigError, SecondpassError
from secondpass.extras import require

if TYPE_CHECKING:
    from secondpass.serving.server import Server

__all__ = ["NAME", "application", "deployment_options", "start", "stop"]

NAME = "secondpass"
"""Of the application, and of its deployment, in Ray Serve."""

_PROXIES = 300.0  # seconds that they may take to start


def application(
    config: Config, *, form: Literal["json", "text"] = "json", texts: bool = False, spans: bool = False
) -> Any:
    """The settings' server as an application of Ray Serve, for `serve.run`.

    `form` and `texts` are those of each replica's log, `spans` whether it sends them. Raises MissingExtraError without
    the extra `ray`, ConfigError for a port that Ray Serve cannot have.
    """
    serve = require("ray.serve", extra="ray", purpose="serve --ray")
    if not config.serve.port:
        raise ConfigError(f"{config.file}: serve.port is 0; with --ray name one, which is free on every machine")
    share, home = share_of(config, config.ray.cpus), os.getcwd()
    here: list[Server] = []  # in each replica the one server

    def asgi() -> Any:
        import sys

        from secondpass.serving import logs
        from secondpass.serving.app import application as routes
        from secondpass.serving.built import build_server

        if os.path.isdir(home):
            os.chdir(home)  # relative paths in the settings mean what they mean to who asked
        logs.set_up(sys.stderr, form=form, texts=texts)
        server = build_server(share, spans=spans)
        for served in server.models.values():
            if served.preload:
                served.load()  # requests come once it is there
        here.append(server)
        return routes(server)

    class Replica:
        def check_health(self) -> None:
            if here and here[0].dead:
                raise SecondpassError(here[0].dead)  # which Ray Serve takes for a reason to start it anew

    deployment = serve.deployment(serve.ingress(asgi)(Replica))
    return deployment.options(name=NAME, **deployment_options(config)).bind()


def deployment_options(config: Config) -> dict[str, Any]:
    """What Ray Serve is told of a deployment."""
    table = config.ray
    return {
        "ray_actor_options": {"num_cpus": table.cpus},
        "max_ongoing_requests": config.serve.requests,
        "max_queued_requests": table.queued,
        "backpressure_config": {"status_code": 429, "retry_after_s": 1},
        "graceful_shutdown_timeout_s": config.serve.drain,
        "graceful_shutdown_wait_loop_s": 0.5,
        **_replicas(table),
    }


def _replicas(table: RayTable) -> dict[str, Any]:
    least, most = table.replicas
    if least == most:
        return {"num_replicas": least}
    return {
        "autoscaling_config": {
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": table.ongoing,
            "upscale_delay_s": table.scale_up_after,
            "downscale_delay_s": table.scale_down_after,
        }
    }


def start(config: Config, application: Any) -> None:
    """Run it on the cluster that this process has joined, in place of one that runs there already, which is drained.

    Raises SecondpassError where no replica starts.
    """
    serve = require("ray.serve", extra="ray", purpose="serve --ray")
    table = config.serve
    options: dict[str, Any] = {"host": table.host, "port": table.port}
    if table.certificate:
        options |= {"ssl_certfile": table.certificate, "ssl_keyfile": table.private_key}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # of this process: who calls this says what happens
    # Ray waits a minute for its proxies, here and there, and a busy machine takes longer; they are waited for below
    with contextlib.suppress(TimeoutError):
        serve.start(http_options=options)
    try:
        with contextlib.suppress(TimeoutError):
            serve.run(application, name=NAME)
    except RuntimeError as error:
        told = serve.status().applications
        why = [told[NAME].message, *(one.message for one in told[NAME].deployments.values())] if NAME in told else []
        raise SecondpassError(f"no replica started: {' '.join(filter(None, why)) or error}") from error
    until = time.monotonic() + _PROXIES
    while "HEALTHY" not in serve.status().proxies.values():
        if time.monotonic() > until:
            raise SecondpassError(f"Ray Serve's proxies did not start within {_PROXIES:.0f} seconds; is the port free?")
        time.sleep(0.2)


def stop() -> None:
    """Take nothing new, let requests in flight be answered, and end the replicas."""
    serve = require("ray.serve", extra="ray", purpose="serve --ray")
    serve.delete(NAME)
