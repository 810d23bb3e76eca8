"""secondpass serve, as a process: it exchanges its models on SIGHUP, speaks TLS, and stops when it is told to."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of Unix")

ASK = {"query": "sort the list", "documents": ["a river", "sort a list"]}


@contextmanager
def serving(folder: Path, *options: str, scheme: str = "http", **environment: str) -> Iterator[tuple[str, Any]]:
    """A server's base URL and its process, once it is ready."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "secondpass", "serve", "--port", str(port), *options],
            cwd=folder,
            env={**os.environ, **environment},
            stderr=stderr,
        )
    url = f"{scheme}://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            assert process.poll() is None, (folder / "stderr").read_text()
            try:
                if httpx.get(f"{url}/ready", verify=False).status_code == 200:
                    break
            except httpx.TransportError:
                assert time.monotonic() < until, "the server did not start"
            time.sleep(0.05)
        yield url, process
    finally:
        process.kill()
        process.wait(30)


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "stderr").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def write_settings(folder: Path, model: Path, *more: str) -> None:
    text = f'[[serve.models]]\nname = "m"\nmodel = "{model}"\nprofile = "exact"\nthreads = 1\n'
    (folder / "secondpass.toml").write_text(text + "".join(more), encoding="utf-8")


def test_models_are_exchanged_while_it_runs(tiny: Path, tmp_path: Path) -> None:
    write_settings(tmp_path, tiny)
    with serving(tmp_path, SECONDPASS_API_KEYS="one") as (url, process):

        def said(event: str) -> list[dict[str, Any]]:
            return [line for line in lines(tmp_path) if line["event"] == event]

        def wait_for(event: str) -> dict[str, Any]:
            until = time.monotonic() + 30
            while not said(event):
                status = httpx.post(f"{url}/v1/rerank", json=ASK, headers={"X-Api-Key": "one"}).status_code
                assert status == 200  # whatever goes on
                assert time.monotonic() < until, lines(tmp_path)
            return said(event)[-1]

        write_settings(tmp_path, tiny, "max_length = 24\n")
        process.send_signal(signal.SIGHUP)
        assert wait_for("model exchanged")["model"] == "m"
        assert httpx.get(f"{url}/info").json()["max_input_length"] == 24
        write_settings(tmp_path, tiny, 'digest = "00000000"\n')
        process.send_signal(signal.SIGHUP)
        assert "ask for 00000000" in wait_for("model not exchanged")["why"]
        (tmp_path / "secondpass.toml").write_text("nonsense", encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        wait_for("settings not read; nothing is changed")
        assert httpx.get(f"{url}/info").json()["max_input_length"] == 24
        assert httpx.post(f"{url}/v1/rerank", json=ASK).status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
    requests = [line for line in lines(tmp_path) if line["event"] == "request"]
    assert {line["status"] for line in requests} == {200, 401}
    assert "sort" not in (tmp_path / "stderr").read_text(encoding="utf-8")  # no text


def test_it_speaks_tls(tiny: Path, tmp_path: Path) -> None:
    made = subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "key.pem",
            "-out",
            "chain.pem",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        cwd=tmp_path,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("needs openssl to make a certificate")
    write_settings(tmp_path, tiny, '[serve]\ncertificate = "chain.pem"\nprivate_key = "key.pem"\n')
    with serving(tmp_path, scheme="https") as (url, _):
        trusted = ssl.create_default_context(cafile=str(tmp_path / "chain.pem"))
        assert httpx.post(f"{url}/v1/rerank", json=ASK, verify=trusted).status_code == 200
