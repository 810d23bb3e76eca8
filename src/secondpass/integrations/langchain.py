"""LangChain: a document compressor that reranks, and a retriever over any first stage or cascade.

Knows: langchain-core's documents and base classes. Refuses to know: how anything is scored. Importing this module needs
the extra `langchain`.

    SecondPassCompressor(top_n=5, deadline_ms=200).compress_documents(documents, query)
    SecondPassRetriever(retriever=Cascade(BM25.open("index"), Stage(CrossEncoder())), k=5).invoke(query)

A document that comes back is a new one: the same id, text and metadata, and in the metadata `relevance_score` (None
where it has none) beside `secondpass_status` and what else `items.told` tells. None of those given is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from secondpass.api import DEFAULT_MODEL
from secondpass.extras import require
from secondpass.integrations.items import Item, as_cascade, in_thread, opened, reranked, searched, told
from secondpass.types import Deadline, Hit, Ranking

if TYPE_CHECKING:
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import ConfigDict, Field
else:
    require("langchain_core", extra="langchain", purpose="the integration with LangChain")
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import ConfigDict, Field

__all__ = ["SecondPassCompressor", "SecondPassRetriever"]


class SecondPassCompressor(BaseDocumentCompressor):  # type: ignore[misc]
    """Reranks what a retriever found; all of it comes back unless `top_n` says otherwise.

    Args:
        model: a model's name or folder, or any reranker, a Cascade among them.
        top_n: how many documents come back; None: all.
        depth: how many of them the model sees, from the first on; None: all.
        deadline_ms: milliseconds from the call on; what is not scored by then follows in the order given.
        on_ranking: called with each ranking, for its trace.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: Any = DEFAULT_MODEL
    top_n: int | None = Field(default=None, ge=1)
    depth: int | None = Field(default=None, ge=1)
    deadline_ms: float | None = Field(default=None, ge=0)
    on_ranking: Callable[[Ranking], None] | None = None

    def model_post_init(self, context: Any, /) -> None:
        """Open the model, so that a mistake is told at once."""
        opened(self.model)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The documents, best first."""
        return self._reranked(documents, query, Deadline.after_ms(self.deadline_ms))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The documents, best first, computed in a thread while the event loop goes on."""
        return await in_thread(partial(self._reranked, documents, query), self.deadline_ms)

    def _reranked(self, documents: Sequence[Document], query: str, deadline: Deadline) -> list[Document]:
        items = [Item(document.page_content, document.id, document.metadata) for document in documents]
        placed = reranked(query, items, model=self.model, depth=self.depth, deadline=deadline)
        if self.on_ranking is not None:
            self.on_ranking(placed.ranking)
        return [
            documents[position].model_copy(update={"metadata": {**documents[position].metadata, **_told(hit)}})
            for position, hit in placed.top(self.top_n)
        ]


class SecondPassRetriever(BaseRetriever):  # type: ignore[misc]
    """Searches by a Cascade or by a first stage alone.

    Args:
        retriever: a Cascade, or any object with `retrieve(query, k)`.
        k: how many documents come back at most.
        deadline_ms: milliseconds from the call on, as for `Cascade.search`.
        on_ranking: called with each ranking, for its trace.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    retriever: Any
    k: int = Field(default=10, ge=1)
    deadline_ms: float | None = Field(default=None, ge=0)
    on_ranking: Callable[[Ranking], None] | None = None

    def model_post_init(self, context: Any, /) -> None:
        """Look at the retriever, so that a mistake is told at once."""
        as_cascade(self.retriever)

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return self._found(query, Deadline.after_ms(self.deadline_ms))

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return await in_thread(partial(self._found, query), self.deadline_ms)

    def _found(self, query: str, deadline: Deadline) -> list[Document]:
        ranking = searched(self.retriever, query, self.k, deadline=deadline)
        if self.on_ranking is not None:
            self.on_ranking(ranking)
        return [_document(hit) for hit in ranking.hits]


def _document(hit: Hit) -> Document:
    """A hit as LangChain's document, whose text is always a string: "" for one that is none."""
    found = hit.document
    title = {"title": found.title} if found.title else {}
    text = found.text if isinstance(found.text, str) else ""
    return Document(id=found.id, page_content=text, metadata={**found.metadata, **title, **_told(hit)})


def _told(hit: Hit) -> dict[str, Any]:
    return {"relevance_score": hit.score, **told(hit)}
