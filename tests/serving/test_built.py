"""From settings to a server: models once each, keys, limits, the shadow; and what does not fit together is refused."""

from __future__ import annotations

from pathlib import Path

import httpx
import msgspec
import pytest

from secondpass.cli.settings_text import settings_text
from secondpass.config import Config, read_config
from secondpass.errors import ConfigError
from secondpass.retrievers.index import Index
from secondpass.serving.built import build_server
from secondpass.serving.keys import key_digest
from serving.running import running
from serving.test_server import ASK, eventually

ROOT = Path(__file__).resolve().parents[2]


def settings(folder: Path, text: str) -> Config:
    path = folder / "secondpass.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def models(tiny: Path, *more: str) -> str:
    one = f'model = "{tiny}"\nprofile = "exact"\nthreads = 1\n'
    return "".join(f'[[serve.models]]\nname = "{name}"\n{one}' for name in ("a", "b")) + "\n".join(more)


def test_a_model_by_each_name(tiny: Path, tmp_path: Path) -> None:
    # the stage is the default: another reranker, which is served by its own name
    server = build_server(settings(tmp_path, models(tiny, f'[[stages]]\nmodel = "{tiny}"\ndepth = 5')))
    assert list(server.models) == ["a", "b", tiny.name]
    with running(server) as url:
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 200)
        for asked, answered in (("a", "a"), ("b", "b"), (tiny.name, tiny.name), ("rerank-v3.5", "a"), (None, "a")):
            found = httpx.post(f"{url}/v1/rerank", json={**ASK, **({"model": asked} if asked else {})}).json()
            assert found["model"] == answered
            told = " ".join(found["meta"].get("warnings", []))
            assert ("no model of the name asked for" in told) == (asked == "rerank-v3.5")


def test_stage_and_served_model_are_one(tiny: Path, tmp_path: Path) -> None:
    from secondpass.retrievers.bm25 import Postings
    from secondpass.types import Document

    index = Index.build([Document("1", "a list"), Document("2", "a river")], [Postings()], folder=tmp_path / "index")
    del index
    text = f'[[serve.models]]\nname = "one"\nmodel = "{tiny}"\n[[stages]]\nmodel = "{tiny}"\ndepth = 7\n'
    server = build_server(settings(tmp_path, f'{text}[retriever]\nindex = "index"\n'))
    assert list(server.models) == ["one"]
    assert server.search is not None
    (stage,) = server.search.stages
    assert (stage.reranker, stage.depth) == (server.models["one"], 7)


def test_keys_have_rates_and_come_from_both_sides(tiny: Path, tmp_path: Path) -> None:
    slow = f'[[serve.keys]]\nname = "slow"\nsha256 = "{key_digest("slow")}"\nper_minute = 3\n'
    server = build_server(settings(tmp_path, models(tiny, slow)), keys=["other"])
    with running(server) as url:

        def status(key: str) -> int:
            found = httpx.post(f"{url}/v1/rerank", json=ASK, headers={"Authorization": f"Bearer {key}"})
            if found.status_code == 429:
                assert 1 <= int(found.headers["retry-after"]) <= 20
            return found.status_code

        assert [status("slow"), status("slow"), status("other"), status("other"), status("none")] == [
            200,
            429,
            200,
            200,
            401,
        ]
        page = httpx.get(f"{url}/metrics").text
        assert 'secondpass_caller_requests_total{caller="slow",status="429"} 1.0' in page
        assert 'secondpass_refused_requests_total{reason="rate"} 1.0' in page


def test_what_is_told_of_it_can_be_kept_from_others(tiny: Path, tmp_path: Path) -> None:
    server = build_server(settings(tmp_path, f"[serve]\npublic = false\n{models(tiny)}"), keys=["one"])
    with running(server) as url:
        for path in ("/info", "/v1/models", "/metrics", "/openapi.json"):
            assert httpx.get(url + path).status_code == 401
            assert httpx.get(url + path, headers={"X-Api-Key": "one"}).status_code in (200, 503)
        assert httpx.get(f"{url}/health").status_code == 200


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("stages = []", "no reranker to serve"),
        ('[serve]\ncertificate = "a.pem"', "go together"),
        ('[serve.shadow]\nmodel = "b"', "serve.shadow.model: 'b' is the name of none"),
        ('[[serve.models]]\nname = "a"\nmodel = "x"\n[[serve.models]]\nname = "a"\nmodel = "y"', "a name of its own"),
        ('[[serve.models]]\nname = "a"\ndigest = "xyz"', r"serve.models\[0\].digest"),
        ('[[serve.keys]]\nsha256 = "plain key"', r"serve.keys\[0\].sha256"),
        ('[[serve.models]]\nnome = "a"', r"serve.models\[0\].nome: unknown key; did you mean 'name'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build_server(settings(tmp_path, text))


def test_settings_are_written_as_they_were_read(tiny: Path, tmp_path: Path) -> None:
    key = f'[[serve.keys]]\nname = "x"\nsha256 = "{key_digest("k")}"\n'
    found = settings(tmp_path, f'[serve]\nport = 9\n{models(tiny, key)}[serve.shadow]\nmodel = "b"\n')
    again = tmp_path / "again.toml"
    again.write_text(settings_text(found), encoding="utf-8")
    assert msgspec.structs.replace(read_config(again), file=found.file) == found


def test_the_examples_are_settings(tmp_path: Path) -> None:
    examples = ROOT / "examples" / "serve"
    assert read_config(examples / "secondpass.toml").serve.models
    _, _, inside = (examples / "compose.yaml").read_text(encoding="utf-8").partition("content: |\n")
    text = "\n".join(line.strip() for line in inside.partition("\nvolumes:")[0].splitlines())
    assert settings(tmp_path, text).request_log.url.startswith("postgresql://")


def test_a_model_that_cannot_be_opened_is_503_and_the_others_answer(tiny: Path, tmp_path: Path) -> None:
    gone = '[[serve.models]]\nname = "gone"\nmodel = "secondpass-mini"\ndigest = "00000000"\npreload = false\n'
    with running(build_server(settings(tmp_path, models(tiny, gone)))) as url:
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 200)
        found = httpx.post(f"{url}/v1/rerank", json={**ASK, "model": "gone"}, timeout=60)
        assert found.status_code == 503
        assert "the settings ask for 00000000" in found.json()["message"]
        assert httpx.post(f"{url}/v1/rerank", json={**ASK, "model": "a"}).status_code == 200
