"""The clients themselves, unchanged, against a running server: what they send is read, what comes back they understand.

Each runs in a process of its own: what they warn of, log and read from the environment is theirs.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.serving.keys import Key, Keys, key_digest
from secondpass.types import as_ranking
from serving.running import running, served

QUERY, TEXTS = "sort the list", ["the river bank", "sort a list in python", "date of the file", "snake river list"]
KEY = "a-key"
SAME = f"query, texts, key = {QUERY!r}, {TEXTS!r}, {KEY!r}\n"

CLIENTS = {
    "cohere v2": ("cohere", """
        import cohere
        found = cohere.ClientV2(api_key=key, base_url=url).rerank(model="m", query=query, documents=texts)
        order = [one.index for one in found.results]
    """),
    "cohere v1": ("cohere", """
        import cohere
        client = cohere.Client(api_key=key, base_url=url)
        found = client.rerank(model="m", query=query, documents=texts, return_documents=True, top_n=4)
        order = [one.index for one in found.results]
        assert [one.document.text for one in found.results] == [texts[i] for i in order]
    """),
    "cohere, async": ("cohere", """
        import asyncio, cohere
        async def ask():
            return await cohere.AsyncClientV2(api_key=key, base_url=url).rerank(model="m", query=query, documents=texts)
        order = [one.index for one in asyncio.run(ask()).results]
    """),
    "voyage": ("voyageai", """
        import voyageai
        found = voyageai.Client(api_key=key, base_url=url + "/v1").rerank(query, texts, model="rerank-2.5")
        order = [one.index for one in found.results]
        assert found.total_tokens > 0
        assert [one.document for one in found.results] == [texts[i] for i in order]
    """),
    "voyage, async": ("voyageai", """
        import asyncio, voyageai
        async def ask():
            client = voyageai.AsyncClient(api_key=key, base_url=url + "/v1")
            return await client.rerank(query, texts, model="rerank-2.5", top_k=4)
        order = [one.index for one in asyncio.run(ask()).results]
    """),
    "mixedbread": ("mixedbread", """
        from mixedbread import Mixedbread
        client = Mixedbread(api_key=key, base_url=url)
        found = client.rerank(model="m", query=query, input=texts, return_input=True)
        order = [one.index for one in found.data]
        assert [one.input for one in found.data] == [texts[i] for i in order]
    """),
    "mixedbread, async": ("mixedbread", """
        import asyncio
        from mixedbread import AsyncMixedbread
        async def ask():
            return await AsyncMixedbread(api_key=key, base_url=url).rerank(model="m", query=query, input=texts)
        order = [one.index for one in asyncio.run(ask()).data]
    """),
    "zeroentropy": ("zeroentropy", """
        from zeroentropy import ZeroEntropy
        found = ZeroEntropy(api_key=key, base_url=url + "/v1").models.rerank(model="m", query=query, documents=texts)
        order = [one.index for one in found.results]
        assert found.total_bytes > 0
    """),
    "zeroentropy, async": ("zeroentropy", """
        import asyncio
        from zeroentropy import AsyncZeroEntropy
        async def ask():
            client = AsyncZeroEntropy(api_key=key, base_url=url + "/v1")
            return await client.models.rerank(model="m", query=query, documents=texts)
        order = [one.index for one in asyncio.run(ask()).results]
    """),
    "litellm": ("litellm", """
        import litellm
        found = litellm.rerank(model="cohere/m", query=query, documents=texts, api_key=key, api_base=url)
        order = [one["index"] for one in found.results]
    """),
    "haystack's TEI ranker": ("haystack_integrations", """
        from haystack import Document
        from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
        from haystack.utils import Secret
        ranker = HuggingFaceTEIRanker(url=url, token=Secret.from_token(key), top_k=4)
        found = ranker.run(query=query, documents=[Document(content=text) for text in texts])
        order = [texts.index(one.content) for one in found["documents"]]
    """),
    "llama_index's TEI ranker": ("llama_index", """
        from llama_index.core.schema import NodeWithScore, TextNode
        from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
        nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in texts]
        ranker = TextEmbeddingInference(base_url=url, top_n=4, auth_token=key)
        found = ranker.postprocess_nodes(nodes, query_str=query)
        order = [texts.index(one.node.get_content()) for one in found]
    """),
    "langchain's Cohere reranker": ("langchain_cohere", """
        import cohere
        from langchain_core.documents import Document
        from langchain_cohere import CohereRerank
        ranker = CohereRerank(client=cohere.ClientV2(api_key=key, base_url=url), model="m", top_n=4)
        found = ranker.compress_documents([Document(page_content=text) for text in texts], query)
        order = [texts.index(one.page_content) for one in found]
    """),
}  # fmt: skip


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    from tiny import tiny_checkpoint

    folder: Path = tmp_path_factory.mktemp("served")
    return CrossEncoder(tiny_checkpoint(folder / "model"), profile="exact", threads=2, cache_dir=folder / "cache")


@pytest.fixture(scope="module")
def base(opened: CrossEncoder) -> Iterator[str]:
    with running(served(opened, keys=Keys([Key(key_digest(KEY))]))) as url:
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_gets_its_ranking(base: str, opened: CrossEncoder, name: str) -> None:
    module, body = CLIENTS[name]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}")
    lines = "\n".join(line[8:] for line in body.strip("\n").splitlines())
    script = f"{SAME}url = {base!r}\n{lines}\nprint(order)"
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HAYSTACK_TELEMETRY_ENABLED": "False"}
    environment |= {"NO_PROXY": "127.0.0.1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = [int(hit.document.id) for hit in opened.rerank(as_ranking(QUERY, TEXTS)).hits]
    assert done.stdout.splitlines()[-1] == str(expected)
