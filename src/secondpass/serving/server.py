"""What runs behind the routes: the models, who is let in, whether all is well, and what is kept of a request.

Knows: the parts, and how they live and end together. Refuses to know: HTTP, wire formats, how anything is scored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondpass.cascade import Cascade
from secondpass.errors import ConfigError, SecondpassError
from secondpass.monitoring.request_log import RequestLog
from secondpass.serving import logs
from secondpass.serving.admission import Admission
from secondpass.serving.keys import Keys
from secondpass.serving.metrics import Gauges, Metrics, Model
from secondpass.serving.models import Served
from secondpass.serving.shadow import Shadow
from secondpass.serving.telemetry import Spans
from secondpass.serving.watching import Watching

__all__ = ["Limits", "Server", "Workbench"]

_HANGS = 6  # probes' worth of time without an answer: the scorer is taken for dead


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may be, and how much is done at once. Times in seconds."""

    body: int = 32_000_000
    documents: int = 1000
    characters: int = 1_000_000  # of one text
    query: int = 100_000
    deadline: float | None = None  # where a request names none
    backlog: float = 30.0
    requests: int = 256


@dataclass(frozen=True, slots=True)
class Workbench:
    """What the page shows beside what the server does: a `pool` to judge in and a folder of `reports`; None: none."""

    pool: Path | None = None
    reports: Path | None = None


class Server:
    """The models, the first of which answers where a request names none that is here, and all that belongs to them.

    `search` is what `/v1/search` runs; `log` what requests and clicks go to; `watching` compares requests with a
    profile; `shadow` reranks some requests beside the model that answers; `workbench` is what the page of that name
    has beside all this (None: there is no page); `public`: whether `/info`, `/v1/models`, `/v1/status`, `/v1/watch` and
    `/metrics` need no key; `renewed` gives the models anew, as the settings say now; `ended` is called last.
    """

    def __init__(
        self,
        models: Sequence[Served],
        *,
        limits: Limits | None = None,
        keys: Keys | None = None,
        search: Cascade | None = None,
        log: RequestLog | None = None,
        watching: Watching | None = None,
        shadow: Shadow | None = None,
        spans: Spans | None = None,
        workbench: Workbench | None = None,
        public: bool = True,
        probe_every: float = 10.0,
        renewed: Callable[[], Sequence[Served]] | None = None,
        ended: Callable[[], object] | None = None,
    ) -> None:
        self.models = _by_name(models)
        self.limits, self.keys, self.search = limits or Limits(), keys or Keys(), search
        self.log, self.shadow, self.spans, self.public = log, shadow, spans or Spans(None), public
        self.watching, self.workbench = watching, workbench
        self.admission = Admission(most=self.limits.backlog, requests=self.limits.requests)
        self.threads = ThreadPoolExecutor(self.limits.requests, thread_name_prefix="secondpass-request")
        self.metrics = Metrics(self._gauges, callers=[key.name for key in self.keys if key.name])
        self.draining, self.dead = False, ""
        self._every, self._renewed, self._ended = probe_every, renewed, ended

    def served(self, name: str | None) -> Served:
        """The model of that name; the first one where there is none."""
        return self.models.get(name or "") or next(iter(self.models.values()))

    @property
    def unwell(self) -> str:
        """Why no request should be sent here; "" where there is no reason."""
        if self.draining:
            return "the server is stopping"
        return "; ".join(served.unwell for served in self.models.values() if served.unwell)

    async def watch(self, stop: asyncio.Event) -> None:
        """Probe the models now and again; one that hangs is not waited for, and is unwell until it answers."""
        loop, stopped = asyncio.get_running_loop(), asyncio.create_task(stop.wait())
        probes: dict[str, tuple[float, asyncio.Future[None]]] = {}
        while not stop.is_set():
            probes = {name: probes[name] for name in self.models if name in probes and not probes[name][1].done()}
            for name, served in self.models.items():
                if name not in probes:
                    probes[name] = loop.time(), loop.run_in_executor(None, served.probe)
            all_done = asyncio.gather(*(probe for _, probe in probes.values()))
            either: list[asyncio.Future[Any]] = [all_done, stopped]
            await asyncio.wait(either, timeout=self._every, return_when=asyncio.FIRST_COMPLETED)
            now = loop.time()
            # one that is still being opened takes the time it takes
            hanging = {
                name: now - since
                for name, (since, probe) in probes.items()
                if not probe.done() and name in self.models and self.models[name].current is not None
            }
            for name, seconds in hanging.items():
                self.models[name].hangs(seconds)
            dead = [name for name, seconds in hanging.items() if seconds >= _HANGS * self._every]
            self.dead = f"{', '.join(dead)}: no answer for {_HANGS * self._every:.0f} seconds" if dead else ""
            await asyncio.wait([stopped], timeout=self._every)

    def renew(self) -> None:
        """Open the models anew as the settings say now, one by one, and put each in its place once it scores right.

        Requests go on meanwhile. What cannot be opened leaves the model that is there; the log says so.
        """
        if self._renewed is None:
            return
        try:
            wanted = _by_name(self._renewed())
        except SecondpassError as error:
            logs.happened("settings not read; nothing is changed", level="error", error=error, why=str(error))
            return
        for name, fresh in wanted.items():
            there = self.models.get(name)
            if there is None:
                self.models = {**self.models, name: fresh}
                continue
            try:
                there.exchange(fresh)
            except Exception as error:  # whatever it is: the model that is there goes on
                why = str(error) if isinstance(error, SecondpassError) else ""
                logs.happened("model not exchanged", level="error", error=error, model=name, why=why)
                self.metrics.swapped(name, ok=False)
            else:
                logs.happened("model exchanged", model=name)
                self.metrics.swapped(name)
        gone = [served for name, served in self.models.items() if name not in wanted]
        self.models = {name: self.models[name] for name in wanted}
        for served in gone:
            served.close()

    def end(self) -> None:
        """What waits to be written is written; no new work is begun."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        if self.shadow is not None:
            self.shadow.close()
        if self.watching is not None:
            self.watching.close()
        if self.log is not None:
            self.log.close()
        if self._ended is not None:
            self._ended()

    def _gauges(self) -> Gauges:
        def now(served: Served) -> Model:
            return Model(served.current is not None and not served.unwell, served.loads, served.digest)

        models = {name: now(served) for name, served in self.models.items()}
        log = None if self.log is None else self.log.counts
        watched = None if self.watching is None else self.watching.now
        return Gauges(self.admission.count, self.admission.ahead, models, log, watched)


def _by_name(models: Sequence[Served]) -> dict[str, Served]:
    found = {served.name: served for served in models}
    if len(found) != len(models) or not models:
        raise ConfigError("the server needs at least one model, and each a name of its own")
    return found
