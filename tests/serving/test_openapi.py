"""The description of the routes is what the server keeps: held against it by schemathesis, and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondpass.cascade import Cascade, Stage
from secondpass.evaluation.pool import draw_pool, write_pool
from secondpass.monitoring.profile import Profile
from secondpass.monitoring.request_log import RequestLog
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.retrievers.bm25 import BM25
from secondpass.serving.models import Served
from secondpass.serving.openapi import document
from secondpass.serving.reranking import PATHS
from secondpass.serving.server import Limits, Server, Workbench
from secondpass.serving.watching import Watching
from secondpass.types import Document
from serving.running import running

EXAMPLES = 25  # of each route
OWN = ("/v1/explain", "/v1/search", "/v1/clicks", "/v1/judging", "/v1/judging/undo")


@pytest.fixture
def whole(model: CrossEncoder, tmp_path: Path) -> Iterator[str]:
    """A server with everything that it can have."""
    pytest.importorskip("sqlalchemy", reason="needs the extra log")
    served = Served(model.name, lambda: model)
    stage = BM25.build([Document(str(i), text) for i, text in enumerate(["the list", "a river", "a date"])])
    log = RequestLog(f"sqlite:///{tmp_path / 'log.db'}")
    search = Cascade(stage, Stage(served, depth=20))
    usual = {"score_top": [float(number) for number in range(100)]}
    profile = Profile(model=model.name, digest="", source="a test", drawn_from=100, signals=usual)  # type: ignore[arg-type]
    watching = Watching(profile, every=10_000)
    run = {"q": [("1", 1.0)]}
    write_pool(draw_pool({"q": "a list"}, {"bm25": run}, {"1": Document("1", "a river")}), tmp_path / "pool")
    workbench = Workbench(tmp_path / "pool", tmp_path)
    parts: dict[str, Any] = {"search": search, "log": log, "watching": watching, "workbench": workbench}
    with running(Server([served], limits=Limits(body=100_000), **parts)) as url:
        yield url


def test_every_route_is_described(whole: str) -> None:
    described = httpx.get(f"{whole}/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    told = {"/health", "/ready", "/info", "/v1/models", "/v1/status", "/v1/watch", "/openapi.json", "/metrics"}
    told |= {"/v1/judging/query", "/v1/reports", "/v1/report"}
    assert set(described["paths"]) == {*PATHS, *OWN, *told}
    for path, methods in described["paths"].items():
        assert set(methods) == ({"get"} if path in told else {"get", "post"} if path == "/v1/judging" else {"post"})
        for method in methods:
            answer = httpx.request(method, whole + path, content=b"{")
            assert answer.status_code != 404 or "no report ''" in answer.json()["message"]


def test_what_is_not_there_is_not_described() -> None:
    without = document(keys=True, search=False, clicks=False, watch=False, judging=False, reports=False)
    assert not {*OWN[1:], "/v1/watch", "/v1/judging/query", "/v1/reports", "/v1/report"} & set(without["paths"])
    assert without["security"] == [{"key": []}]


def test_no_request_that_the_description_allows_or_forbids_breaks_the_server(whole: str) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="what .ci/run installs")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
    schema = schemathesis.openapi.from_url(f"{whole}/openapi.json")
    seen: dict[str, int] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        modes = list(schemathesis.GenerationMode)
        for mode in modes if operation.method == "post" else modes[:1]:  # a GET has nothing to get wrong
            strategy: Any = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=EXAMPLES,
                derandomize=True,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=strategy)
            def holds(case: Any) -> None:
                response = case.call()
                case.validate_response(response, checks=checks)
                seen[case.path] = response.status_code

            holds()
    assert {*PATHS, *OWN} <= set(seen)
