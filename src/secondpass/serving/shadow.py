"""A shadow: a second model reranks some of the requests, after their answers are gone, and is compared with the first.

Knows: which model, and that the log hears of what it fails. Refuses to know: HTTP, what is done with the comparison,
how requests are drawn and wait. `rerankers.shadow.Shadow`, which is itself a reranker, is no use here: what is compared
is the whole answer of a request, by its id, once it is on its way.
"""

from __future__ import annotations

from collections.abc import Callable

from secondpass.rerankers.shadow import Candidate
from secondpass.serving import logs
from secondpass.serving.models import Served
from secondpass.types import Ranking

__all__ = ["Shadow"]


class Shadow:
    """`served` reranks a `sample` of the requests, drawn by their ids."""

    def __init__(self, served: Served, sample: float) -> None:
        self.served = served
        self._trial = Candidate(served, sample)

    def offer(self, request_id: str, asked: Ranking, done: Callable[[Ranking | None], None]) -> bool:
        """Rerank `asked` some time and call `done` with the ranking, None where that failed; whether it will be.

        Not where the request was not drawn, or so many wait already.
        """

        def compared(found: Ranking | Exception) -> None:
            try:
                if isinstance(found, Exception):
                    raise found
                done(found)
            except Exception as error:
                logs.happened("shadow failed", level="warning", error=error, model=self.served.name)
                done(None)

        return self._trial.offer(request_id, asked, compared) is True

    def close(self) -> None:
        """What waits is left."""
        self._trial.close()
