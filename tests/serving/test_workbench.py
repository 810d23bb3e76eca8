"""What the workbench rests on: its files and their policy, the settings of a search, the judging store, the reports."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondpass.cascade import Cascade, Stage
from secondpass.errors import InputError
from secondpass.evaluation.audit import audit
from secondpass.evaluation.judging import Judgments
from secondpass.evaluation.leaderboard import leaderboard
from secondpass.evaluation.pool import draw_pool, write_pool
from secondpass.evaluation.report import html
from secondpass.evaluation.systems import System
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.retrievers.bm25 import BM25
from secondpass.serving.built import build_server
from secondpass.serving.models import Served
from secondpass.serving.server import Server, Workbench
from secondpass.types import Document, as_ranking
from serving.running import running, served
from serving.test_built import models, settings
from serving.test_server import QUERY, TEXTS
from tiny import tiny_split

DOCUMENTS = [Document(f"d{i}", text, f"title {i}") for i, text in enumerate(TEXTS)]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Two queries, two documents each."""
    found = {f"q{i}": [(f"d{i}", 2.0), (f"d{i + 1}", 1.0)] for i in (0, 1)}
    documents = {one.id: one for one in DOCUMENTS}
    write_pool(draw_pool({"q0": "a list", "q1": "a river"}, {"bm25": found}, documents), tmp_path / "pool")
    return tmp_path / "pool"


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """An audit, its page, a comparison, and files that are neither."""
    folder = tmp_path / "reports"
    folder.mkdir()
    before, after = {"q": [("a", 2.0), ("b", 1.0)]}, {"q": [("b", 2.0), ("a", 1.0)]}
    verdict = audit(before, after, {"q": {"b": 1}})
    board = leaderboard([System("first", before), System("second", after)], {"q": {"b": 1}})
    (folder / "audit.json").write_text(json.dumps(verdict.to_dict()), encoding="utf-8")
    (folder / "audit.html").write_text(html(verdict), encoding="utf-8")
    (folder / "compare.json").write_text(json.dumps(board.to_dict()), encoding="utf-8")
    (folder / "other.json").write_text('{"schema": 1}', encoding="utf-8")
    (folder / "broken.json").write_text('{"schema": ', encoding="utf-8")
    (folder / "notes.txt").write_text("private", encoding="utf-8")
    for age, name in enumerate(("audit.json", "compare.json", "audit.html", "other.json", "broken.json")):
        os.utime(folder / name, (1000 - age, 1000 - age))
    return folder


@pytest.fixture
def url(model: CrossEncoder, pool: Path, reports: Path) -> Iterator[str]:
    with running(served(model, workbench=Workbench(pool, reports))) as base:
        yield base


# the page


def test_the_page_and_all_it_names_are_there_and_nothing_else_is(url: str) -> None:
    page = httpx.get(f"{url}/ui/")
    assert page.headers["content-type"].startswith("text/html")
    seen, waiting = {"index.html"}, re.findall(r'(?:href|src)="([\w.]+)"', page.text)
    while waiting:
        name = waiting.pop()
        found = httpx.get(f"{url}/ui/{name}")
        assert found.status_code == 200, name
        seen.add(name)
        waiting += [one for one in re.findall(r'from "\./([\w.]+)"', found.text) if one not in seen]
    folder = Path(__file__).parents[2] / "src" / "secondpass" / "serving" / "ui"
    assert seen == {one.name for one in folder.iterdir()}
    for name in ("nothing.js", "../app.py", "..%2fapp.py", "%2e%2e/app.py"):
        assert httpx.get(f"{url}/ui/{name}").status_code == 404
    for path in ("/", "/ui"):
        assert httpx.get(f"{url}{path}").headers["location"] == "/ui/"


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_of_a_text(url: str) -> None:
    policy = httpx.get(f"{url}/ui/").headers["content-security-policy"]
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'"
    assert {allowed[f"{kind}-src"] for kind in ("script", "style", "connect", "frame")} == {"'self'"}
    assert allowed["require-trusted-types-for"] == "'script'"
    folder = Path(__file__).parents[2] / "src" / "secondpass" / "serving" / "ui"
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|[\"'(]//|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_what_has_not_changed_is_not_sent_again(url: str) -> None:
    first = httpx.get(f"{url}/ui/app.js")
    again = httpx.get(f"{url}/ui/app.js", headers={"If-None-Match": f'"x", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.get(f"{url}/ui/app.js", headers={"If-None-Match": '"other"'}).status_code == 200
    assert httpx.get(f"{url}/ui/style.css").headers["etag"] != first.headers["etag"]


def test_the_settings_switch_it_off_and_name_its_folders(tiny: Path, tmp_path: Path, pool: Path) -> None:
    text = models(tiny, '[serve]\npool = "pool"\nreports = "reports"\n')
    assert build_server(settings(tmp_path, text)).workbench == Workbench(pool, tmp_path / "reports")
    with running(build_server(settings(tmp_path, models(tiny, "[serve]\nui = false\n")))) as base:
        assert httpx.get(f"{base}/ui/").status_code == 404
        assert httpx.get(f"{base}/").status_code == 404
        assert "serve.pool" in httpx.get(f"{base}/v1/judging").json()["message"]
        assert "serve.reports" in httpx.get(f"{base}/v1/reports").json()["message"]


def test_the_page_needs_no_key_and_all_that_it_shows_does(tiny: Path, tmp_path: Path, pool: Path) -> None:
    text = models(tiny, '[serve]\npool = "pool"\nreports = "."\n')
    with running(build_server(settings(tmp_path, text), keys=["k"])) as base:
        assert httpx.get(f"{base}/ui/").status_code == 200
        assert httpx.get(f"{base}/v1/status").json()["keys"] is True
        for path in ("/v1/judging", "/v1/judging/query", "/v1/reports", "/v1/report?name=x.json"):
            assert httpx.get(base + path).status_code == 401
            assert httpx.get(base + path, headers={"X-Api-Key": "k"}).status_code != 401
        for path in ("/v1/judging", "/v1/judging/undo"):
            assert httpx.post(base + path, json={"judge": "a"}).status_code == 401


def test_the_status_says_what_is_set_up(model: CrossEncoder, pool: Path) -> None:
    one = Served("tiny", lambda: model)
    search = Cascade(BM25.build(DOCUMENTS), Stage(one, depth=7, budget_ms=90.0), retrieve=30)
    with running(Server([one], search=search, workbench=Workbench(pool=pool))) as base:
        found = httpx.get(f"{base}/v1/status").json()
        listed = httpx.get(f"{base}/v1/models").json()["data"][0]
    stages = [{"name": "tiny", "depth": 7, "budget_ms": 90.0}]
    assert found["search"] == {"first_stage": "bm25", "candidates": 30, "stages": stages}
    assert (found["judging"], found["reports"], found["log"], found["watch"], found["keys"]) == (True, *[False] * 4)
    assert (listed["exits"], listed["explains"], listed["licence"]) == (False, True, model.scorer.checkpoint.licence)


# a search, its last stage set by the request


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    folder = tiny_split(tmp_path_factory.mktemp("split") / "model")
    return CrossEncoder(folder, profile="exact", threads=2, cache_dir=tmp_path_factory.mktemp("cache"))


MANY = [Document(f"m{i}", f"{TEXTS[i % 4]} list {'a ' * (i % 7)}{i}") for i in range(40)]


def test_a_search_takes_depth_model_and_exits_of_the_request(model: CrossEncoder, split: CrossEncoder) -> None:
    usual, other = Served("usual", lambda: model), Served("split", lambda: split)
    retriever = BM25.build(MANY)
    with running(Server([usual, other], search=Cascade(retriever, Stage(usual, depth=3), retrieve=5))) as base:

        def found(**body: Any) -> dict[str, Any]:
            answer = httpx.post(f"{base}/v1/search", json={"query": "the list", "top_k": 40, **body})
            assert answer.status_code == 200, answer.text
            read: dict[str, Any] = answer.json()
            return read

        assert found()["trace"][1]["scored"] == 3
        deeper = found(depth=30, model="split", go_on=0.5)
        alone = found(depth=30, model="split")
    expected = Cascade(retriever, Stage(split, depth=30), retrieve=40)
    assert [one["id"] for one in alone["results"]] == list(expected.search("the list", 40).ids)
    head = retriever.retrieve("the list", 40)
    early = split.rerank(head.top(30), go_on=0.5)
    assert [one["id"] for one in deeper["results"][:30]] == list(early.ids)
    assert [step["name"] for step in deeper["trace"]] == ["bm25", "split"]  # as requests name it
    assert deeper["trace"][1]["exits"] == {"layer 1": 10, "layer 3": 20}  # 20 at the least go on
    assert alone["trace"][1]["exits"] == {}
    assert {"wait", "tokenize", "inference"} == deeper["trace"][1]["parts"].keys()


def test_the_exits_of_a_ranking_are_those_of_a_model_set_so(split: CrossEncoder) -> None:
    set_so = CrossEncoder(split.scorer.checkpoint.folder, profile="exact", threads=2, go_on=0.6)
    ranking = as_ranking("the list", [{"id": one.id, "text": one.text} for one in MANY])
    asked, whole = split.rerank(ranking, go_on=0.6), split.rerank(ranking)
    assert asked.ids == set_so.rerank(ranking).ids != whole.ids
    assert set_so.rerank(ranking, go_on=1.0).ids == whole.ids
    with pytest.raises(InputError, match="stop early"):
        CrossEncoder(split.scorer.checkpoint.folder, profile="exact", patience=3).rerank(ranking, go_on=0.5)


def test_pasted_documents_take_exits_too(model: CrossEncoder, split: CrossEncoder) -> None:
    body = {"query": "the list", "documents": [one.text for one in MANY], "go_on": 0.5}
    with running(Server([Served("a", lambda: model), Served("split", lambda: split)])) as base:
        found = httpx.post(f"{base}/v1/rerank", json={**body, "model": "split"}).json()
        refused = httpx.post(f"{base}/v1/rerank", json=body)
    expected = split.rerank(as_ranking("the list", [one.text for one in MANY]), go_on=0.5)
    assert [str(one["index"]) for one in found["results"]] == list(expected.ids)
    assert found["report"]["trace"][0]["exits"] == {"layer 1": 20, "layer 3": 20}
    assert (refused.status_code, "stop early" in refused.json()["message"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"depth": 0}, "depth"),
        ({"depth": 1001}, "depth"),
        ({"go_on": 0.0}, "go_on"),
        ({"go_on": 1.5}, "go_on"),
        ({"go_on": 0.5}, "tiny cannot stop early"),
        ({"model": "none"}, "no 'none' here; served are tiny"),
    ],
)
def test_what_a_search_cannot_be_set_to(model: CrossEncoder, body: dict[str, Any], message: str) -> None:
    one = Served("tiny", lambda: model)
    with running(Server([one], search=Cascade(BM25.build(DOCUMENTS), Stage(one)))) as base:
        found = httpx.post(f"{base}/v1/search", json={"query": QUERY, **body})
    assert (found.status_code, message in found.json()["message"]) == (400, True)


def test_without_a_stage_of_this_server_nothing_can_be_set(model: CrossEncoder) -> None:
    one, body = Served("tiny", lambda: model), {"query": QUERY, "depth": 3}
    with running(Server([one], search=Cascade(BM25.build(DOCUMENTS)))) as base:
        assert "no stage" in httpx.post(f"{base}/v1/search", json=body).json()["message"]
    with running(Server([one], search=Cascade(BM25.build(DOCUMENTS), Stage(model)))) as base:
        assert httpx.post(f"{base}/v1/search", json=body).status_code == 200
        told = httpx.post(f"{base}/v1/search", json={**body, "go_on": 0.5})
        assert (told.status_code, "none of the models served" in told.json()["message"]) == (400, True)


# judging


def test_judgments_go_into_the_store_of_the_audit(url: str, pool: Path) -> None:
    def judged(**body: Any) -> dict[str, Any]:
        answer = httpx.post(f"{url}/v1/judging", json={"judge": "ada", **body})
        assert answer.status_code == 200, answer.text
        read: dict[str, Any] = answer.json()
        return read

    there = httpx.get(f"{url}/v1/judging", params={"judge": "ada"}).json()
    assert [one["grade"] for one in there["scale"]] == [0, 1, 2, 3]
    assert all(one["grade"] is None for query in there["queries"] for one in query["documents"])
    query = there["queries"][0]
    first, second = (one["id"] for one in query["documents"])
    kept = judged(query_id=query["query_id"], document_id=first, grade=2, note="why")
    assert kept["progress"] == {"judged": 1, "documents": 4, "complete": 0, "queries": 2}
    Judgments.open(pool).add(query["query_id"], second, 3, "bob")  # meanwhile, in a terminal
    judged(query_id=query["query_id"], document_id=second, grade=0)
    assert Judgments.open(pool).of_judge("ada") == {(query["query_id"], first): 2, (query["query_id"], second): 0}
    texts = httpx.get(f"{url}/v1/judging/query", params={"judge": "ada", "query_id": query["query_id"]}).json()
    assert [(one["grade"], one["note"]) for one in texts["documents"]] == [(2, "why"), (0, "")]
    assert {one["text"] for one in texts["documents"]} <= set(TEXTS)
    undone = httpx.post(f"{url}/v1/judging/undo", json={"judge": "ada"}).json()
    assert (undone["query_id"], undone["document_id"]) == (query["query_id"], second)
    assert Judgments.open(pool).of_judge("ada") == {(query["query_id"], first): 2}
    assert httpx.get(f"{url}/v1/judging").json()["progress"].keys() == {"ada", "bob"}
    httpx.post(f"{url}/v1/judging/undo", json={"judge": "ada"})
    assert httpx.post(f"{url}/v1/judging/undo", json={"judge": "ada"}).json()["query_id"] is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"grade": 4}, "grade 4 is not on the scale"),
        ({"grade": -1}, "grade -1"),
        ({"grade": 1.5}, "grade"),
        ({"document_id": "x"}, "'x' is not in the pool"),
        ({"judge": ""}, "judge"),
        ({"judge": " "}, "the judge has no name"),
    ],
)
def test_what_is_no_judgment_changes_nothing(url: str, pool: Path, body: dict[str, Any], message: str) -> None:
    one = {"judge": "ada", "query_id": "q0", "document_id": "d0", "grade": 1}
    found = httpx.post(f"{url}/v1/judging", json={**one, **body})
    assert (found.status_code, message in found.json()["message"]) == (400, True)
    assert not list(Judgments.open(pool).all())
    assert httpx.get(f"{url}/v1/judging/query", params={"query_id": "none"}).status_code == 400


def test_a_store_that_cannot_be_written_or_read_is_said(url: str, pool: Path) -> None:
    (pool / "judgments.jsonl").mkdir()
    one = {"judge": "ada", "query_id": "q0", "document_id": "d0", "grade": 1}
    found = httpx.post(f"{url}/v1/judging", json=one)
    assert (found.status_code, found.json()["message"]) == (503, "pool cannot be read or written (Is a directory)")
    (pool / "judgments.jsonl").rmdir()
    (pool / "judgments.jsonl").write_text("nonsense\n", encoding="utf-8")
    found = httpx.get(f"{url}/v1/judging")
    assert (found.status_code, "judgments.jsonl:1: not a judgment" in found.json()["message"]) == (400, True)
    (pool / "pool.jsonl").unlink()
    assert "no pool to judge" in httpx.get(f"{url}/v1/judging").json()["message"]


def test_another_site_s_page_cannot_judge(url: str, pool: Path) -> None:
    body = json.dumps({"judge": "mallory", "query_id": "q0", "document_id": "d0", "grade": 3})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):  # what needs no preflight
        sent = httpx.post(f"{url}/v1/judging", content=body, headers={"Content-Type": kind})
        assert sent.status_code == 415
        assert httpx.post(f"{url}/v1/judging/undo", content=body, headers={"Content-Type": kind}).status_code == 415
    asked = httpx.options(
        f"{url}/v1/judging", headers={"Origin": "http://evil", "Access-Control-Request-Method": "POST"}
    )
    assert "access-control-allow-origin" not in asked.headers
    assert not list(Judgments.open(pool).all())


# reports


def test_reports_are_listed_by_what_they_are(url: str, reports: Path) -> None:
    listed = httpx.get(f"{url}/v1/reports").json()["data"]
    kinds = {one["name"]: one["kind"] for one in listed}
    assert list(kinds) == ["audit.json", "compare.json", "audit.html", "other.json", "broken.json"]  # the newest first
    assert list(kinds.values()) == ["audit", "comparison", "page", "unknown", "unknown"]
    (one,) = [one for one in listed if one["kind"] == "audit"]
    assert one["decision"] == json.loads((reports / "audit.json").read_text())["decision"]
    assert [one["why"].partition(" (")[0] for one in listed[3:]] == ["neither an audit nor a comparison", "not JSON"]
    assert listed[1]["systems"] == ["second", "first"]


def test_a_report_is_given_as_it_is_and_a_page_runs_apart(url: str, reports: Path) -> None:
    for name in ("audit.json", "audit.html", "broken.json"):
        found = httpx.get(f"{url}/v1/report", params={"name": name})
        assert found.content == (reports / name).read_bytes()
    page = httpx.get(f"{url}/v1/report", params={"name": "audit.html"})
    policy = page.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'")
    assert "allow-same-origin" not in policy
    for name in ("", "notes.txt", "../pool/pool.jsonl", "pool.jsonl", str(reports / "audit.json"), "./audit.json"):
        assert httpx.get(f"{url}/v1/report", params={"name": name}).status_code == 404


def test_a_file_too_large_is_named_and_not_read(url: str, reports: Path) -> None:
    with (reports / "large.json").open("wb") as file:
        file.truncate(64_000_001)  # a hole: no disk is used
    (one,) = [one for one in httpx.get(f"{url}/v1/reports").json()["data"] if one["name"] == "large.json"]
    assert (one["kind"], one["why"]) == ("unknown", "more than 64,000,000 bytes")
    assert httpx.get(f"{url}/v1/report", params={"name": "large.json"}).status_code == 404


def test_a_folder_of_reports_that_is_gone_is_said(model: CrossEncoder, tmp_path: Path) -> None:
    with running(served(model, workbench=Workbench(reports=tmp_path / "gone"))) as base:
        found = httpx.get(f"{base}/v1/reports")
    assert (found.status_code, "gone: no such folder" in found.json()["message"]) == (404, True)
