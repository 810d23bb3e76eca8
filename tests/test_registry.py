"""Names lead to classes: built in, or registered by another (here: really installed) package."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondpass import registry
from secondpass.errors import InputError, MissingExtraError
from secondpass.registry import names, resolve

METHOD = {"retriever": "retrieve", "reranker": "rerank", "selector": "select"}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package on the path, with the metadata an installer would write."""
    info = tmp_path / "acme_search-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-search\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[secondpass.rerankers]\n"
        "acme = acme_search:Acme\n"
        "nested = acme_search:Acme.Inner\n"
        "no-class = acme_search:Missing\n"
        "no-module = acme_search_gone:Acme\n"
        "no-extra = acme_search_extra:Acme\n"
        "[secondpass.retrievers]\n"
        "bm25 = acme_search:Acme\n"
    )
    (tmp_path / "acme_search.py").write_text("class Acme:\n    class Inner:\n        pass\n")
    (tmp_path / "acme_search_extra.py").write_text(
        "from secondpass.extras import require\nrequire('acme_engine_not_there', extra='acme')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("kind", METHOD)
def test_every_built_in_name_leads_to_what_it_says(kind: registry.Kind) -> None:
    assert names(kind)
    for name in registry._BUILT_IN[kind]:
        assert callable(getattr(resolve(kind, name), METHOD[kind]))


def test_an_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no reranker called 'crossencoder'; did you mean 'cross-encoder'\?"):
        resolve("reranker", "crossencoder")
    with pytest.raises(InputError, match=r"no retriever called 'zzz'; known are: .*bm25"):
        resolve("retriever", "zzz")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="no kind 'scorer'"):
        names("scorer")  # type: ignore[arg-type]


@pytest.mark.usefixtures("plugin")
def test_another_package_adds_names() -> None:
    assert {"acme", "cross-encoder"} <= set(names("reranker"))
    assert resolve("reranker", "acme").__name__ == "Acme"
    assert resolve("reranker", "nested").__qualname__ == "Acme.Inner"


@pytest.mark.usefixtures("plugin")
def test_a_name_claimed_twice_is_nobodys() -> None:
    with pytest.raises(InputError, match=r"claimed by acme_search:Acme and secondpass\.retrievers\.bm25:BM25"):
        resolve("retriever", "bm25")


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(("name", "missing"), [("no-class", "Missing"), ("no-module", "acme_search_gone")])
def test_a_name_that_leads_nowhere_says_where_it_led(name: str, missing: str) -> None:
    with pytest.raises(InputError, match=f"cannot be imported from 'acme_search.*{missing}"):
        resolve("reranker", name)


@pytest.mark.usefixtures("plugin")
def test_a_missing_extra_keeps_its_install_line() -> None:
    with pytest.raises(MissingExtraError, match=r"secondpass\[acme\]"):
        resolve("reranker", "no-extra")
