"""An audit without judgments: what reranking changes at what cost, and a pool of documents for people to judge.

Knows: how a pipeline is run over a sample of queries. Refuses to know: arguments, grades, how a report looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secondpass.cli.audited import names_of, run_pipeline
from secondpass.config import Config
from secondpass.errors import ConfigError
from secondpass.evaluation.collections import Collection, read_corpus, read_queries
from secondpass.evaluation.pool import draw_pool, draw_queries, write_pool
from secondpass.evaluation.systems import Price
from secondpass.evaluation.unjudged import Unjudged, without_judgments

__all__ = ["sample"]


def sample(
    settings: Config, count: int, folder: Path, controls: tuple[str, ...], judging: Mapping[str, Any]
) -> Unjudged:
    """Draw `count` queries, run the pipeline and the controls over them, and write the pool of both to `folder`.

    The first 10 documents of each are pooled, so that none is favoured by the judgments. `judging` are the
    arguments of an audit, of which delta counts.
    """
    place = settings.collection.path
    if not place:
        raise ConfigError(f"{settings.file}: collection.path is not set; set it, or give --collection")
    texts = read_queries(place)
    drawn = {query_id: texts[query_id] for query_id in draw_queries(texts, count)}
    documents = {document.id: document for document in read_corpus(place)}
    measured, others = run_pipeline(settings, Collection(Path(place).name, documents, drawn, {}), controls)
    names, price = names_of(settings), settings.price
    report = without_judgments(
        measured.baseline,
        measured.reranked,
        depth=settings.retriever.candidates or settings.depth,
        seconds_baseline=measured.seconds_baseline,
        seconds_reranked=measured.seconds_reranked,
        price=Price(price.machine_hour, price.call, price.currency),
        delta=judging["delta"],
        names=names,
    )
    runs = {names[0]: measured.baseline, names[1]: measured.reranked}
    runs |= {name: one.baseline for name, one in others.items()}
    write_pool(draw_pool(texts, runs, documents, sample=count), folder)
    return report
