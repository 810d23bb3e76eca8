"""Spans: whose child a request is, what is said of it and of its stages, and what is not."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from secondpass.errors import InputError
from secondpass.serving.telemetry import Spans, exporting
from secondpass.types import StageTrace

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"
STAGES = (
    StageTrace("bm25", 0.01, detail={"unknown_words": ["canary"]}),
    StageTrace(
        "mini",
        0.25,
        pairs_scored=7,
        tokens=700,
        padded_tokens=800,
        truncated=2,
        cut_tokens=90,
        skipped={"deadline": 3},
        skipped_because="3: time was up",
        detail={
            "digest": "ab12",
            "engine": "openvino",
            "precision": "bf16",
            "why": "canary",
            "cost": {"waited_s": 0.1, "tokenize_s": 0.004, "measured_s": 0.3, "unfinished": 0},
            "tokens_kept": {"hits": 2, "misses": 5},
            "cache": {"hits": 1, "misses": 6, "waited": 0, "hit_rate": 0.1},
        },
    ),
)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Spans:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Spans(provider.get_tracer("test"))


def context(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def one(
    spans: Spans, exporter: InMemorySpanExporter, headers: Mapping[str, str] | None = None, status: int = 200
) -> ReadableSpan:
    with spans.request("POST", "/v1/rerank", headers or {}, route="/v1/rerank") as span:
        span.answered(status)
    (ended,) = exporter.get_finished_spans()
    return ended


def test_a_request_is_a_server_span_named_as_the_conventions_say(spans: Spans, exporter: InMemorySpanExporter) -> None:
    with spans.request("POST", "/v1/rerank", {}, route="/v1/rerank", scheme="https") as span:
        assert not exporter.get_finished_spans()  # it is open
        span.answered(200, model="mini", documents=100)
    (ended,) = exporter.get_finished_spans()
    assert (ended.name, ended.kind, ended.status.status_code) == ("POST /v1/rerank", SpanKind.SERVER, StatusCode.UNSET)
    assert dict(ended.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/rerank",
        "url.path": "/v1/rerank",
        "url.scheme": "https",
        "http.response.status_code": 200,
        "secondpass.model": "mini",
        "secondpass.documents": 100,
    }


def test_the_attributes_have_the_names_of_the_conventions() -> None:
    pytest.importorskip("opentelemetry.semconv.attributes", reason="came with the SDK after 1.24")
    from opentelemetry.semconv.attributes import error_attributes, http_attributes, url_attributes

    known = {
        value
        for module in (error_attributes, http_attributes, url_attributes)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    ended = one(Spans(provider.get_tracer("test")), exporter, status=500)
    assert {"error.type", *(ended.attributes or {})} <= known


def test_the_parent_is_the_one_that_traceparent_names(spans: Spans, exporter: InMemorySpanExporter) -> None:
    ended = one(spans, exporter, {"traceparent": PARENT, "tracestate": "vendor=1"})
    assert ended.parent is not None
    assert (f"{ended.parent.trace_id:032x}", f"{ended.parent.span_id:016x}") == (TRACE_ID, PARENT_ID)
    assert ended.parent.is_remote
    assert f"{context(ended).trace_id:032x}" == TRACE_ID
    assert context(ended).trace_state.get("vendor") == "1"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        PARENT[:-1],
        PARENT + "-more",
        PARENT.upper(),
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        "\ud800" * 55,
        PARENT * 1000,
    ],
)
def test_a_header_that_is_none_is_ignored(spans: Spans, exporter: InMemorySpanExporter, header: str) -> None:
    ended = one(spans, exporter, {"traceparent": header})
    assert ended.parent is None
    assert f"{context(ended).trace_id:032x}" != TRACE_ID


def test_what_is_open_elsewhere_in_the_process_is_no_parent(exporter: InMemorySpanExporter) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("somebody else's"):
        ended = one(Spans(tracer), exporter)
    assert ended.parent is None


@pytest.mark.parametrize(("sampled", "count"), [("01", 2), ("00", 0)])
def test_the_caller_says_whether_it_is_sampled(exporter: InMemorySpanExporter, sampled: str, count: int) -> None:
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.0)))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    headers = {"traceparent": PARENT[:-2] + sampled}
    with Spans(provider.get_tracer("test")).request("POST", "/v1/rerank", headers) as span:
        span.stages(STAGES[:1])
    assert len(exporter.get_finished_spans()) == count


@pytest.mark.parametrize(
    ("status", "error"),
    [(200, False), (400, False), (401, False), (404, False), (429, False), (499, False), (500, True), (503, True)],
)
def test_it_is_an_error_from_500_up_only(
    spans: Spans, exporter: InMemorySpanExporter, status: int, error: bool
) -> None:
    ended = one(spans, exporter, status=status)
    assert ended.status.status_code is (StatusCode.ERROR if error else StatusCode.UNSET)
    assert (ended.attributes or {}).get("error.type") == (str(status) if error else None)
    assert (ended.attributes or {})["http.response.status_code"] == status


def test_an_exception_is_an_error_of_its_type_without_its_message(spans: Spans, exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="canary"), spans.request("POST", "/v1/rerank", {}):
        raise ValueError("canary")
    (ended,) = exporter.get_finished_spans()
    assert ended.status.status_code is StatusCode.ERROR
    assert (ended.attributes or {})["error.type"] == "ValueError"
    assert "canary" not in ended.to_json()


def test_methods_and_routes_that_are_not_known_make_no_names(spans: Spans, exporter: InMemorySpanExporter) -> None:
    with spans.request("BREW", "/coffee", {}) as span:
        span.answered(405)
    (ended,) = exporter.get_finished_spans()
    assert ended.name == "HTTP"
    assert dict(ended.attributes or {}) == {
        "http.request.method": "_OTHER",
        "url.path": "/coffee",
        "url.scheme": "http",
        "http.response.status_code": 405,
    }


def test_stages_are_spans_below_the_request_laid_end_to_end(spans: Spans, exporter: InMemorySpanExporter) -> None:
    with spans.request("POST", "/v1/search", {"traceparent": PARENT}, route="/v1/search") as span:
        span.stages(STAGES)
        assert span.trace_id == TRACE_ID
    first, second, request = exporter.get_finished_spans()
    for stage, trace in ((first, STAGES[0]), (second, STAGES[1])):
        assert stage.name == trace.name
        assert stage.kind is SpanKind.INTERNAL
        assert stage.parent is not None
        assert stage.parent.span_id == context(request).span_id
        assert context(stage).trace_id == context(request).trace_id
        assert stage.start_time is not None
        assert stage.end_time is not None
        assert (stage.end_time - stage.start_time) / 1e9 == pytest.approx(trace.seconds)
    assert first.end_time == second.start_time
    assert second.end_time is not None
    assert request.end_time is not None
    assert 0 <= request.end_time - second.end_time < 5e9


def test_a_stage_says_what_its_trace_says_and_no_text(spans: Spans, exporter: InMemorySpanExporter) -> None:
    with spans.request("POST", "/v1/search", {}) as span:
        span.stages(STAGES)
    first, second, _ = exporter.get_finished_spans()
    assert dict(second.attributes or {}) == {
        "secondpass.seconds": 0.25,
        "secondpass.pairs_scored": 7,
        "secondpass.tokens": 700,
        "secondpass.padded_tokens": 800,
        "secondpass.truncated": 2,
        "secondpass.cut_tokens": 90,
        "secondpass.skipped_because": "3: time was up",
        "secondpass.skipped.deadline": 3,
        "secondpass.digest": "ab12",
        "secondpass.engine": "openvino",
        "secondpass.precision": "bf16",
        "secondpass.waited_s": 0.1,
        "secondpass.tokenize_s": 0.004,
        "secondpass.measured_s": 0.3,
        "secondpass.cache.hits": 1,
        "secondpass.cache.misses": 6,
        "secondpass.tokens_kept.hits": 2,
        "secondpass.tokens_kept.misses": 5,
    }
    assert "canary" not in first.to_json() + second.to_json()


def test_headers_and_the_query_of_a_url_are_in_no_span(spans: Spans, exporter: InMemorySpanExporter) -> None:
    ended = one(spans, exporter, {"authorization": "canary", "user-agent": "canary", "baggage": "query=canary"})
    assert "canary" not in ended.to_json()


def test_without_a_tracer_nothing_is_done_and_nothing_imported() -> None:
    """In a process of its own, in which OpenTelemetry cannot be imported."""
    code = """
import sys
sys.modules["opentelemetry"] = None
from secondpass.serving.telemetry import Spans
from secondpass.types import StageTrace
with Spans(None).request("POST", "/v1/rerank", {"traceparent": "00"}, route="/v1/rerank") as span:
    span.stages([StageTrace("mini")])
    span.answered(500)
    span.failed("ValueError")
    assert span.trace_id == ""
assert not [name for name in sys.modules if name.startswith("opentelemetry.")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("endpoint", ["localhost:4318", "grpc://localhost:4317", "http://", ""])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(InputError, match="http://localhost:4318"):
        exporting(endpoint)


@pytest.mark.parametrize("path", ["", "/", "/otlp/traces"])
def test_spans_arrive_at_a_collector(path: str) -> None:
    reason = "needs the extra otel with its exporter"
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter", reason=reason)
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            spans, end = exporting(f"http://127.0.0.1:{collector.server_port}{path}", service="shop-search")
            with spans.request("POST", "/v1/rerank", {}, route="/v1/rerank") as span:
                span.answered(200)
            end()
        finally:
            collector.shutdown()
            thread.join(10)
    (where, body), *more = got
    assert not more
    assert where == (path if len(path) > 1 else "/v1/traces")
    assert b"shop-search" in body
