"""A cluster of two nodes on this machine: what is lost on the way is done again, and nothing twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from distributed.paced import begun, installed
from secondpass.cascade import Cascade
from secondpass.cli.options import prepare_ray
from secondpass.cli.requests import read_requests
from secondpass.config import build_stages, read_config

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Ray's modules, while they are imported
    for module in ("ray", "ray.data", "ray.serve"):
        pytest.importorskip(module, reason="needs the extra ray")
pytest.importorskip("starlette", reason="needs the extra serve")

from secondpass.distributed import service
from secondpass.distributed.cluster import joined

pytestmark = [
    pytest.mark.slow,
    # Ray's own: its settings warn of themselves, and what its clients leave open is closed with them
    pytest.mark.filterwarnings("ignore:`use_push_based_shuffle` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in.*:pytest.PytestUnraisableExceptionWarning"),
]
WORDS = ("bees", "find", "the", "way", "back", "hive", "by", "sun", "river", "bank", "flood", "python", "list", "sort")
MEMORY = 80_000_000  # bytes of each node's object store
LONG = 240.0  # seconds that anything may take on a busy machine


@pytest.fixture(autouse=True)
def _no_network() -> None:
    """In place of the guard of that name: nodes know each other by this machine's own address, not as localhost."""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the reranker of these tests lies; all processes find it."""
    folder = installed(tmp_path_factory.mktemp("paced"))
    with pytest.MonkeyPatch.context() as patch:
        prepare_ray()
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])))
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def cluster(package: Path) -> Iterator[Any]:
    """A head that does no work, and one node with a CPU; a test adds the second."""
    from ray.cluster_utils import Cluster

    seen_soon = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000}
    head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False, "_system_config": seen_soon}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        made.add_node(num_cpus=1, object_store_memory=MEMORY)
        yield made
    finally:
        made.shutdown()


@pytest.fixture
def second(cluster: Any) -> Iterator[Any]:
    """The second node."""
    node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    yield node
    if node in cluster.list_all_nodes():
        cluster.remove_node(node, allow_graceful=False)


@pytest.fixture
def settings(tmp_path: Path, tiny: Path, cache: Path, cluster: Any) -> Path:
    """Settings of the reranker of these tests, on the cluster, with shards of a query or two."""
    options = f'{{ folder = "{tmp_path}", cache_dir = "{cache}" }}'
    stage = f'[[stages]]\nreranker = "paced"\nmodel = "{tiny}"\noptions = {options}\n'
    path = tmp_path / "secondpass.toml"
    path.write_text(f'{stage}[ray]\naddress = "{cluster.address}"\nworkers = 2\ndocuments = 8\n')
    return path


def until(what: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for it."""
    end = time.monotonic() + LONG
    while not what():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def requests(folder: Path, held: range) -> Path:
    """Twenty requests of one to six documents; queries in `held` wait for the file `go`."""
    file = folder / "requests.jsonl"
    lines = []
    for n in range(20):
        query = f"{WORDS[n % len(WORDS)]} {WORDS[(3 * n) % len(WORDS)]}{' held' if n in held else ''}"
        texts = [" ".join(WORDS[(n + k * step) % len(WORDS)] for k in range(5)) for step in range(1, 2 + n % 6)]
        lines.append(json.dumps({"query": query, "documents": ["", *texts] if n == 7 else texts, "query_id": f"q{n}"}))
    file.write_text("\n".join(lines) + "\n")
    return file


def started(folder: Path, *more: str) -> subprocess.Popen[str]:
    """The command, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "secondpass", "rerank", "requests.jsonl", "--out", "out.jsonl"]
    command += ["--ray", "--config", "secondpass.toml", *more]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def shards_done(folder: Path) -> set[str]:
    """Names of the shards that are done."""
    return {path.name for path in (folder / "out.jsonl.parts").glob("0??????")}


def alive(process: int) -> bool:
    """Whether it runs."""
    try:
        return "zombie" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def check_answers(folder: Path) -> None:
    """The output is what one process answers: the same queries, documents and order, scores within 1e-4."""
    (folder / "go").touch()
    cascade = Cascade(None, *build_stages(read_config(folder / "secondpass.toml")))
    answers = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    with (folder / "requests.jsonl").open("rb") as lines:
        expected = [cascade.rerank(request) for request in read_requests(lines, "requests")]
    assert [answer["query_id"] for answer in answers] == [ranking.query_id for ranking in expected]
    for answer, ranking in zip(answers, expected, strict=True):
        assert [hit["id"] for hit in answer["hits"]] == list(ranking.ids)
        assert [hit["status"] for hit in answer["hits"]] == [hit.status.value for hit in ranking.hits]
        scores = [hit.score for hit in ranking.hits]
        assert [hit["score"] for hit in answer["hits"]] == pytest.approx(scores, abs=1e-4)


def test_a_driver_that_was_killed_goes_on_and_does_nothing_again(second: Any, settings: Path, tmp_path: Path) -> None:
    requests(tmp_path, held=range(10, 20))
    driver = started(tmp_path)
    until(lambda: len({process for process, _ in begun(tmp_path)}) == 2, driver)
    until(lambda: len([query for _, query in begun(tmp_path) if int(query[1:]) >= 10]) == 2, driver)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    done, first = shards_done(tmp_path), [query for _, query in begun(tmp_path)]
    assert 2 <= len(done) < 12
    other = started(tmp_path)
    assert "holds an unfinished job; add --resume" in other.communicate()[1]
    assert other.returncode == 1
    (tmp_path / "go").touch()
    resumed = started(tmp_path, "--resume")
    _, said = resumed.communicate(timeout=LONG)
    assert resumed.returncode == 0, said
    assert not (tmp_path / "out.jsonl.parts").exists()
    twice = [query for query, times in Counter(query for _, query in begun(tmp_path)).items() if times > 1]
    assert set(twice) <= set(first[-4:])  # what the two workers were at when their driver was killed
    pairs = sum(1 + n % 6 for n in range(20))
    assert f"{pairs + 1} documents, as in the input, each once: {pairs} scored, 1 empty" in said
    check_answers(tmp_path)


def test_a_node_that_is_killed_is_done_without(cluster: Any, second: Any, settings: Path, tmp_path: Path) -> None:
    requests(tmp_path, held=range(8, 20))
    driver = started(tmp_path)
    until(lambda: len([query for _, query in begun(tmp_path) if int(query[1:]) >= 8]) == 2, driver)
    done, first = shards_done(tmp_path), begun(tmp_path)
    assert len({process for process, _ in first}) == 2
    assert done
    cluster.remove_node(second, allow_graceful=False)  # SIGKILL, with a query at work on each node
    until(lambda: not all(alive(int(process)) for process, _ in first))
    (tmp_path / "go").touch()
    _, said = driver.communicate(timeout=LONG)
    assert driver.returncode == 0, said
    check_answers(tmp_path)
    times = Counter(query for _, query in begun(tmp_path)[: -20 or None])  # the last 20 are the check's own
    assert set(times) == {f"q{n}" for n in range(20)}
    again = {query for query, count in times.items() if count > 1}
    assert 1 <= len(again) <= 2  # what the lost node was at, a shard
    assert again <= {query for _, query in first[-4:]}


def test_a_worker_that_fits_on_no_machine_is_told(second: Any, settings: Path, tmp_path: Path) -> None:
    requests(tmp_path, held=range(0))
    settings.write_text(settings.read_text() + "cpus = 2\n")
    driver = started(tmp_path)
    assert "error: no machine of the Ray cluster has 2 CPUs for a worker; lower ray.cpus" in driver.communicate()[1]
    assert driver.returncode == 1
    assert not (tmp_path / "out.jsonl.parts").exists()


def asked(port: int, path: str, body: Any = None, key: str = "one") -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of an answer."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=LONG) as answer:
            return answer.status, dict(answer.headers), json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), json.loads(error.read())


def test_replicas_answer_as_one_server_and_drain(
    cluster: Any, second: Any, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import serve

    from secondpass.serving.built import build_server
    from serving.running import running

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings.write_text(settings.read_text() + f"replicas = [2, 2]\n[serve]\nport = {port}\ndrain = {int(LONG)}\n")
    monkeypatch.setenv("SECONDPASS_API_KEYS", "one,two")
    monkeypatch.delenv("RAY_BACKEND_LOG_LEVEL", raising=False)  # a job of another test has set it, and Ray tells so
    command = [sys.executable, "-W", "ignore", "-m", "secondpass", "serve", "--ray", "--config", "secondpass.toml"]
    server = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        said = server.stderr.readline()  # type: ignore[union-attr]
        assert said == f"2 replicas of 1 CPUs on http://127.0.0.1:{port}, 2 keys\n", said
        texts = ["the river bank", "bees find their hive", ""]
        plain = {"query": "bees find", "documents": texts}
        config = read_config(settings)
        with running(build_server(config, keys=["one", "two"])) as url:
            alone = int(url.rpartition(":")[2])
            for path, body, key in [
                ("/v2/rerank", plain, "one"),
                ("/rerank", {"query": "bees find", "texts": texts}, "two"),
                ("/v1/rerank", plain, "three"),
                ("/v1/rerank", {"query": 3}, "one"),
                ("/v1/nothing", None, "one"),
                ("/openapi.json", None, "one"),
                ("/ready", None, "one"),
                ("/info", None, "one"),
            ]:
                here, there = asked(alone, path, body, key), asked(port, path, body, key)
                assert there[0] == here[0], path
                assert _alike(there[2]) == _alike(here[2]), path
                assert there[1]["content-type"] == here[1]["content-type"]
                if here[0] != 404 and body is not None:
                    assert len(there[1]["x-request-id"]) == len(here[1]["x-request-id"])
        long = {"query": "bees find held", "documents": texts}
        before = len(begun(tmp_path))
        with ExitStack() as stack:
            threads = stack.enter_context(ThreadPoolExecutor(12))
            stack.callback((tmp_path / "go").touch)  # whatever happens: no request is held for ever
            answers = [threads.submit(asked, port, "/v2/rerank", long) for _ in range(12)]
            until(lambda: len(begun(tmp_path)) == before + 12, None)
            assert len({process for process, _ in begun(tmp_path)[before:]}) == 2  # in flight in both
            stack.enter_context(joined(cluster.address))

            def states() -> dict[str, int]:
                found = serve.status().applications[service.NAME].deployments[service.NAME].replica_states
                return {str(getattr(state, "value", state)): count for state, count in found.items()}

            settings.write_text(settings.read_text().replace("[2, 2]", "[1, 1]"))
            server.send_signal(signal.SIGHUP)
            until(lambda: states().get("STOPPING"))
            assert not any(answer.done() for answer in answers)
            (tmp_path / "go").touch()
            got = [answer.result(LONG) for answer in answers]
            until(lambda: states() == {"RUNNING": 1})
        assert {status for status, _, _ in got} == {200}
        orders = {tuple(result["index"] for result in body["results"]) for _, _, body in got}
        assert len(orders) == 1
        server.send_signal(signal.SIGTERM)
        _, rest = server.communicate(timeout=LONG)
        assert server.returncode == 0, rest
        assert "stopping: requests in flight are answered" in rest
    finally:
        (tmp_path / "go").touch()
        server.kill()
        server.communicate()
        with joined(cluster.address):
            serve.shutdown()


def _alike(body: Any) -> Any:
    """What has to be the same in two answers: all but ids and times; numbers to six places."""
    if isinstance(body, dict):
        left_out = ("id", "seconds", "parts")
        return {name: _alike(value) for name, value in body.items() if name not in left_out}
    if isinstance(body, list):
        return [_alike(value) for value in body]
    return round(body, 6) if isinstance(body, float) else body
