"""LlamaIndex: a node postprocessor that reranks.

Knows: llama-index-core's nodes and its base class. Refuses to know: how anything is scored. Importing this module needs
the extra `llama-index`.

    SecondPassPostprocessor(top_n=5, deadline_ms=200).postprocess_nodes(nodes, query_str="when do swallows return")

A node that comes back is a copy with the new score (None where it has none), and `secondpass_status` and what else
`items.told` tells in its metadata, where neither an embedding nor a prompt shows it. None of those given is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from secondpass.api import DEFAULT_MODEL
from secondpass.errors import InputError
from secondpass.extras import require
from secondpass.integrations.items import Item, in_thread, opened, reranked, told
from secondpass.types import Deadline, Hit, Ranking

if TYPE_CHECKING:
    from llama_index.core.bridge.pydantic import Field
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
else:
    require("llama_index.core", extra="llama-index", purpose="the integration with LlamaIndex")
    from llama_index.core.bridge.pydantic import Field
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

__all__ = ["SecondPassPostprocessor"]


class SecondPassPostprocessor(BaseNodePostprocessor):  # type: ignore[misc]
    """Reranks the nodes that a retriever found; all of them come back unless `top_n` says otherwise.

    Args:
        model: a model's name or folder, or any reranker, a Cascade among them.
        top_n: how many nodes come back; None: all.
        depth: how many of them the model sees, from the first on; None: all.
        deadline_ms: milliseconds from the call on; what is not scored by then follows in the order given.
        on_ranking: called with each ranking, for its trace.

    What is scored is a node's text without its metadata; a reranker's template can name metadata in braces.
    """

    model: Any = DEFAULT_MODEL
    top_n: int | None = Field(default=None, ge=1)
    depth: int | None = Field(default=None, ge=1)
    deadline_ms: float | None = Field(default=None, ge=0)
    on_ranking: Callable[[Ranking], None] | None = Field(default=None, exclude=True)

    def model_post_init(self, context: Any, /) -> None:
        """Open the model, so that a mistake is told at once."""
        super().model_post_init(context)
        opened(self.model)

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex writes into its own formats."""
        return cls.__name__

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return self._reranked(nodes, query_bundle, Deadline.after_ms(self.deadline_ms))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return await in_thread(partial(self._reranked, nodes, query_bundle), self.deadline_ms)

    def _reranked(
        self, nodes: Sequence[NodeWithScore], query_bundle: QueryBundle | None, deadline: Deadline
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("nodes are reranked for a query; give query_str or query_bundle")
        items = [
            Item(node.node.get_content(metadata_mode=MetadataMode.NONE), node.node_id, node.metadata, node.score)
            for node in nodes
        ]
        placed = reranked(query_bundle.query_str, items, model=self.model, depth=self.depth, deadline=deadline)
        if self.on_ranking is not None:
            self.on_ranking(placed.ranking)
        return [_with(nodes[position], hit) for position, hit in placed.top(self.top_n)]


def _with(scored: NodeWithScore, hit: Hit) -> NodeWithScore:
    """A copy that tells of the hit."""
    node, tells = scored.node, told(hit)
    changed = {
        "metadata": {**node.metadata, **tells},
        "excluded_embed_metadata_keys": list(dict.fromkeys([*node.excluded_embed_metadata_keys, *tells])),
        "excluded_llm_metadata_keys": list(dict.fromkeys([*node.excluded_llm_metadata_keys, *tells])),
    }
    return scored.model_copy(update={"node": node.model_copy(update=changed), "score": hit.score})
