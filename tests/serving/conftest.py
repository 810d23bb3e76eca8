"""A server with a tiny model behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from secondpass.rerankers.cross_encoder import CrossEncoder

pytest.importorskip("starlette", reason="needs the extra serve")

from secondpass.serving.server import Limits
from serving.running import running, served


@pytest.fixture
def model(tiny: Path, cache: Path) -> CrossEncoder:
    return CrossEncoder(tiny, profile="exact", threads=2, cache_dir=cache)


@pytest.fixture
def url(model: CrossEncoder) -> Iterator[str]:
    with running(served(model, limits=Limits(body=200_000, documents=200, characters=20_000))) as base:
        yield base
