"""Peers that do not say what they want: hung up on in time, and nobody else notices."""

from __future__ import annotations

import socket
import time

import httpx
import pytest

from secondpass.serving import asking, connections
from serving.test_server import ASK

HEAD = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\n"


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def read_all(peer: socket.socket) -> bytes:
    parts = []
    while part := peer.recv(65_536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("begins", [b"", b"POST /v1/re", HEAD])
def test_a_head_that_does_not_come(url: str, monkeypatch: pytest.MonkeyPatch, begins: bytes) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    with connected(url) as peer:
        peer.sendall(begins)
        began = time.monotonic()
        assert read_all(peer) == b""
        assert 0.1 < time.monotonic() - began < 5
    assert httpx.post(f"{url}/v1/rerank", json=ASK).status_code == 200


def test_a_head_without_end(url: str) -> None:
    with connected(url) as peer:
        peer.sendall(HEAD)
        sent = 0
        try:
            while sent < 20_000_000:
                sent += peer.send(b"X-A: " + b"a" * 10_000 + b"\r\n")
        except OSError:  # it has hung up
            pass
        assert sent < 5_000_000
    assert httpx.post(f"{url}/v1/rerank", json=ASK).status_code == 200


def test_a_body_that_does_not_come(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "BODY_SECONDS", 0.3)
    with connected(url) as peer:
        peer.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        assert read_all(peer).startswith(b"HTTP/1.1 408 ")
    assert httpx.post(f"{url}/v1/rerank", json=ASK).status_code == 200


def test_who_keeps_a_connection_and_asks_again_is_answered(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 2.0)
    with httpx.Client() as client:
        for _ in range(3):
            assert client.post(f"{url}/v1/rerank", json=ASK).status_code == 200
            time.sleep(0.2)
        large = {"query": "list", "documents": ["a list " * 2000] * 10}
        assert client.post(f"{url}/v1/rerank", json=large).status_code == 200
