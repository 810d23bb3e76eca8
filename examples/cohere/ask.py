"""One call of Cohere's own client, to Cohere or to a server of one's own: the base URL is all that differs.

python examples/cohere/ask.py                          # api.cohere.com, with the key in CO_API_KEY
python examples/cohere/ask.py http://localhost:8000    # secondpass serve
"""

from __future__ import annotations

import os
import sys

import cohere

QUERY = "when do swallows return"
TEXTS = [
    "He swallowed the pill with a glass of water.",
    "Swallows come back to their nests in April.",
    "Swifts return to the same tower every spring.",
    "",
]


def best(client: cohere.ClientV2, model: str, most: int = 3) -> list[tuple[int, float]]:
    """What an application does with its reranker; nothing in here knows who answers."""
    answer = client.rerank(model=model, query=QUERY, documents=TEXTS, top_n=most)
    return [(result.index, result.relevance_score) for result in answer.results]


def main() -> None:
    key = os.environ.get("CO_API_KEY", "none")
    if len(sys.argv) == 1:
        client, model = cohere.ClientV2(api_key=key), "rerank-v4.0-fast"  # before
    else:
        client, model = cohere.ClientV2(api_key=key, base_url=sys.argv[1]), "secondpass-mini"  # after
    for place, (index, relevance) in enumerate(best(client, model), 1):
        print(f"{place}. {relevance:.3f}  {TEXTS[index]}")


if __name__ == "__main__":
    main()
