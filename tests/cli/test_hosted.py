"""Hosted rerankers by secondpass.toml: keys come from the environment, and every command can use them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("httpx", reason="needs the extra hosted")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))  # benches are scripts, not a package

from broken_service import Service, reply
from cli.conftest import Run
from secondpass.config import build_stages, read_config
from secondpass.errors import ConfigError, InputError
from secondpass.rerankers.hosted import Hosted

REQUEST = json.dumps({"query": "river bank", "documents": ["zzz", "the river bank"]}) + "\n"


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as one:
        yield one


def stage(folder: Path, options: str, more: str = "") -> Path:
    path = folder / "secondpass.toml"
    path.write_text(f'{more}\n[[stages]]\nreranker = "hosted"\noptions = {{ {options} }}\n', encoding="utf-8")
    return path


def test_requests_are_reranked_with_a_key_of_the_environment(
    run: Run, tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(tmp_path, f'service = "compatible", url = "{service.url}", key = "$MY_KEY"')
    (tmp_path / "in.jsonl").write_text(REQUEST)
    monkeypatch.setenv("MY_KEY", "a-very-secret-key")
    done = run("rerank", "in.jsonl", "--trace")
    assert done.code == 0
    answer = json.loads(done.out)
    assert [hit["id"] for hit in answer["hits"]] == ["1", "0"]
    assert answer["trace"][0]["detail"]["service"] == "compatible"
    assert service.asked[0].headers["authorization"] == "Bearer a-very-secret-key"
    assert "a-very-secret-key" not in done.out + done.err
    monkeypatch.delenv("MY_KEY")
    done = run("rerank", "in.jsonl")
    assert done.code == 1
    assert "secondpass.toml: stages[0].options.key: the environment has no MY_KEY" in " ".join(done.err.split())


def test_without_a_key_it_is_the_service_s_own_variable(tmp_path: Path) -> None:
    variables = {"CO_API_KEY": "a-key"}

    def built(options: str, known: dict[str, str]) -> Hosted:
        import msgspec

        config = read_config(stage(tmp_path, options))
        (one,) = build_stages(msgspec.structs.replace(config, variable=known.get))
        assert isinstance(one.reranker, Hosted)
        return one.reranker

    for known in (variables, {"CO_API_KEY": "a-key", "VOYAGE_API_KEY": "another"}):
        assert "a-key" not in repr(built('service = "cohere"', known))
    with pytest.raises(InputError, match="CO_API_KEY"):
        built('service = "cohere"', {"VOYAGE_API_KEY": "another"})
    assert Hosted.key_variable({"service": "cohere"}) == "CO_API_KEY"
    assert Hosted.key_variable({"service": "cohere", "url": "https://elsewhere.example"}) == ""
    assert Hosted.key_variable({"service": "tei"}) == ""
    assert Hosted.key_variable({}) == ""


def test_a_key_of_a_service_does_not_go_to_another_address(tmp_path: Path, service: Service, run: Run) -> None:
    stage(tmp_path, f'service = "cohere", url = "{service.url}"')
    (tmp_path / "in.jsonl").write_text(REQUEST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CO_API_KEY", "a-very-secret-key")
        assert run("rerank", "in.jsonl").code == 0
    assert "authorization" not in service.asked[0].headers


def test_settings_that_cannot_be_meant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages\[0\]: Hosted .*it takes: service, model, key"):
        build_stages(read_config(stage(tmp_path, 'service = "cohere", ky = "a"')))
    with pytest.raises(ConfigError, match=r"stages\[0\].options.key: the environment has no A_KEY"):
        build_stages(read_config(stage(tmp_path, 'service = "cohere", key = "$A_KEY"')))


def test_an_audit_of_a_service(run: Run, tmp_path: Path, beir: Path, service: Service) -> None:
    options = f'service = "compatible", url = "{service.url}"'
    stage(tmp_path, options, f'[collection]\npath = "{beir}"\n[price]\ncall = 0.002')
    done = run("audit", "--depth", 5, "--json")
    assert done.code == 0, done.err
    data = json.loads(done.out)
    assert data["cost"]["currency"] == "USD"
    assert len(service.asked) >= 4


def test_what_fails_is_said(run: Run, tmp_path: Path, beir: Path, index: Path) -> None:
    said = "a step failed (127.0.0.1:"
    (tmp_path / "in.jsonl").write_text(REQUEST * 3)
    with Service(reply(400, {"message": "no such model"})) as service:
        options = f'service = "compatible", url = "{service.url}"'
        stage(tmp_path, options, f'[collection]\npath = "{beir}"\n[retriever]\nindex = "{index}"')
        audited = json.loads(run("audit", "--depth", 5, "--json").out)
        compared = json.loads(run("compare", "--depth", 5, "--json").out)
        reranked = run("rerank", "in.jsonl")
        searched = run("search", "--queries", beir, "--run", "out.trec")
        one = run("search", "bees")
    for notes in (audited["notes"], compared["notes"]):
        assert any(f"for 4 of 4 queries {said}" in note and "no such model" in note for note in notes)
    assert f"for 3 of 3 queries {said}" in " ".join(reranked.err.split())
    assert f"for 5 of 5 queries {said}" in " ".join(searched.err.split())
    assert "no such model" in " ".join(one.err.split())
    assert [hit["status"] for line in reranked.out.splitlines() for hit in json.loads(line)["hits"]] == ["failed"] * 6


def test_a_service_behind_a_server(tmp_path: Path, index: Path, tiny: Path, service: Service) -> None:
    """As a stage of a search behind a cross-encoder, as a model by its name, and as the only one there is."""
    pytest.importorskip("starlette", reason="needs the extra serve")
    import httpx

    from secondpass.serving.built import build_server
    from serving.running import running
    from serving.test_server import eventually

    options = f'service = "compatible", url = "{service.url}"'
    query, texts = "bees in the hive", ["zzz", "the hive", ""]
    asked = {"query": query, "documents": texts}
    with closing(Hosted("compatible", url=service.url)) as hosted:
        expected = hosted.score(query, texts).values
    more = f'[retriever]\nindex = "{index}"\n[[stages]]\nmodel = "{tiny}"\ndepth = 10'
    with running(build_server(read_config(stage(tmp_path, options, more)))) as url:
        found = httpx.post(f"{url}/v1/search", json={"query": query}).json()
        names = [one["id"] for one in httpx.get(f"{url}/v1/models").json()["data"]]
    assert [step["name"] for step in found["trace"]][-1] == "compatible"
    assert [one["relevance_score"] for one in found["results"]] == [one["score"] for one in found["results"]]
    assert names == ["model"]
    named = f'[[serve.models]]\nname = "theirs"\nreranker = "hosted"\noptions = {{ {options} }}'
    for name, text in (("hosted", ""), ("theirs", named)):
        with running(build_server(read_config(stage(tmp_path, options, text)))) as url:
            eventually(lambda url=url: httpx.get(f"{url}/ready").status_code == 200)
            assert httpx.get(f"{url}/ready").json() == {"status": "ready", "model": name, "digest": ""}
            assert httpx.get(f"{url}/info").json()["model_id"] == name
            assert [one["id"] for one in httpx.get(f"{url}/v1/models").json()["data"]] == [name]
            metrics = httpx.get(f"{url}/metrics").text
            answer = httpx.post(f"{url}/v1/rerank", json=asked).json()
        assert f'secondpass_documents_total{{model="{name}"' not in metrics
        by_index = {one["index"]: one for one in answer["results"]}
        assert [by_index[i]["relevance_score"] for i in (0, 1)] == pytest.approx(expected[:2])
        assert by_index[2]["status"] == "empty"
    pinned = f'[[serve.models]]\nname = "theirs"\ndigest = "00000000"\nreranker = "hosted"\noptions = {{ {options} }}'
    with running(build_server(read_config(stage(tmp_path, options, pinned)))) as url:
        refused = httpx.post(f"{url}/v1/rerank", json=asked)
    assert refused.status_code == 503
    assert "it has no weights here" in refused.json()["message"]
