"""Spans for OpenTelemetry: one for each request, and below it one for each stage that it passed.

Knows: names of attributes (the semantic conventions for HTTP, stable since 1.23, and `secondpass.…`), what of a trace
goes into them. Refuses to know: HTTP itself, texts, where spans go. No query, document, header, URL query or message of
an exception is in a span.

Without a tracer nothing is done, and OpenTelemetry need not be there; it is the extra `otel`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from secondpass.errors import InputError
from secondpass.extras import require
from secondpass.types import StageTrace

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

__all__ = ["RequestSpan", "Spans", "exporting"]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_DETAIL = ("digest", "engine", "precision")  # of a trace's detail
_COST = ("waited_s", "tokenize_s", "measured_s")
_CACHES = ("cache", "tokens_kept")


class Spans:
    """Opens spans with a tracer; with None it does nothing."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    @contextmanager
    def request(
        self, method: str, path: str, headers: Mapping[str, str], *, route: str | None = None, scheme: str = "http"
    ) -> Iterator[RequestSpan]:
        """A server span, open for as long as the block; below the caller's where `traceparent` (W3C) names one.

        `path` has no query; `route` is None where none fits; `headers` find names in lower case. An exception that
        leaves the block makes the span an error, of its type.
        """
        if self._tracer is None:
            yield RequestSpan()
            return
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        known = method if method in METHODS else "_OTHER"
        attributes = {"http.request.method": known, "url.path": path, "url.scheme": scheme}
        if route is not None:
            attributes["http.route"] = route
        span = self._tracer.start_span(
            f"{known if known in METHODS else 'HTTP'} {route or ''}".rstrip(),
            # an empty context, so that what else is open in this process is not taken for the parent
            TraceContextTextMapPropagator().extract(headers, Context()),
            SpanKind.SERVER,
            attributes,
        )
        opened = RequestSpan(self._tracer, span)
        try:
            yield opened
        except Exception as error:
            opened.failed(type(error).__qualname__)
            raise
        finally:
            span.end()


@dataclass(frozen=True, slots=True)
class RequestSpan:
    """The span of one request; without one, each of these does nothing."""

    _tracer: Tracer | None = None
    _span: Span | None = None

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hex digits, for the line in the log; "" where there is none."""
        return "" if self._span is None else f"{self._span.get_span_context().trace_id:032x}"

    def answered(self, status: int, *, model: str = "", documents: int | None = None) -> None:
        """The answer's status; from 500 up it is an error."""
        if self._span is None:
            return
        self._span.set_attribute("http.response.status_code", status)
        if model:
            self._span.set_attribute("secondpass.model", model)
        if documents is not None:
            self._span.set_attribute("secondpass.documents", documents)
        if status >= 500:
            self.failed(str(status))

    def failed(self, kind: str) -> None:
        """It is an error of this kind: a status, or an exception's type."""
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)

    def stages(self, trace: Sequence[StageTrace]) -> None:
        """A span for each stage. A trace has no times but durations: they are laid end to end, the last ends now."""
        if self._tracer is None or self._span is None:
            return
        from opentelemetry.trace import set_span_in_context

        below = set_span_in_context(self._span)
        at = time.time_ns() - sum(map(_nanoseconds, trace))
        for stage in trace:
            span = self._tracer.start_span(stage.name, below, attributes=_attributes(stage), start_time=at)
            at += _nanoseconds(stage)
            span.end(at)


def exporting(endpoint: str | None = None, *, service: str = "secondpass") -> tuple[Spans, Callable[[], None]]:
    """Spans that go to a collector by OTLP over HTTP, from a thread of their own, and how to end it.

    `endpoint` is a URL, http://localhost:4318; None leaves it, as all else, to the variables that OpenTelemetry reads
    itself (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, …). Ending sends what is still there.

    Raises MissingExtraError without the extra `otel`, InputError for an endpoint that is no URL of http.
    """

    def needed(module: str) -> Any:
        return require(f"opentelemetry.{module}", extra="otel", purpose="sending spans")

    url = None if endpoint is None else _traces(endpoint)
    sdk, processors, resources = needed("sdk.trace"), needed("sdk.trace.export"), needed("sdk.resources")
    exporter = needed("exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter(endpoint=url)
    provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": service}))
    provider.add_span_processor(processors.BatchSpanProcessor(exporter))
    return Spans(provider.get_tracer("secondpass")), provider.shutdown


def _traces(endpoint: str) -> str:
    """Where a collector takes traces; a path of its own is left as it is."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InputError(f"the endpoint for spans is {endpoint!r}; give a URL such as http://localhost:4318")
    return endpoint if parts.path.strip("/") else parts._replace(path="/v1/traces").geturl()


def _nanoseconds(stage: StageTrace) -> int:
    return int(stage.seconds * 1e9)


def _attributes(stage: StageTrace) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {
        "secondpass.seconds": stage.seconds,
        "secondpass.pairs_scored": stage.pairs_scored,
        "secondpass.tokens": stage.tokens,
        "secondpass.padded_tokens": stage.padded_tokens,
        "secondpass.truncated": stage.truncated,
        "secondpass.cut_tokens": stage.cut_tokens,
    }
    if stage.skipped_because:
        found["secondpass.skipped_because"] = stage.skipped_because
    found |= {f"secondpass.skipped.{status}": count for status, count in stage.skipped.items()}
    found |= {f"secondpass.{key}": stage.detail[key] for key in _DETAIL if key in stage.detail}
    cost = stage.detail.get("cost", {})
    found |= {f"secondpass.{key}": cost[key] for key in _COST if key in cost}
    for cache in _CACHES:
        counts = stage.detail.get(cache, {})
        found |= {f"secondpass.{cache}.{key}": counts[key] for key in ("hits", "misses") if key in counts}
    return found
