"""Every candidate of every query scored once, and requests of several depths timed: what the tuner replays.

Knows: how a stage is run so that nothing but the model speaks. Refuses to know: judgments, settings, what is chosen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from secondpass.cli.terminal import Update
from secondpass.config import Config, StageTable, build_stages
from secondpass.errors import ConfigError
from secondpass.rerankers.fields import DEFAULT_TEMPLATE, renderer
from secondpass.types import Retriever

if TYPE_CHECKING:
    from secondpass.evaluation.tuner import Cost, Recordings
    from secondpass.rerankers.cross_encoder import CrossEncoder

__all__ = ["KNOBS", "Measurement", "record"]

KNOBS = ("fuse", "go_on", "patience", "sure")
"""Keys of a stage that are chosen, beside its depth."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was recorded, what it costs, and what deserves a word."""

    recordings: Recordings
    cost: Cost
    notes: tuple[str, ...]


def record(
    settings: Config, retriever: Retriever, queries: Mapping[str, str], depth: int, update: Update
) -> Measurement:
    """Retrieve `depth` candidates for every query, and score them all.

    Of every query but the first one request is timed, in turn over all candidates, a half, a quarter and an eighth
    of them, before anything else of that query is scored, so that no document of it has been tokenized for its sake.

    Raises ConfigError where the stage is no cross-encoder.
    """
    from secondpass.evaluation.tuner import Recorded, Recordings, fit_cost
    from secondpass.scoring.probability import read_calibration

    stage = settings.stages[0]
    encoder = _encoder(settings)
    scorer = encoder.scorer
    render = renderer(stage.template or stage.options.get("template", DEFAULT_TEMPLATE))
    windows = stage.windows is not None or "windows" in stage.options
    split = scorer.engine.begin is not None and not windows
    depths = sorted({max(depth // part, 1) for part in (1, 2, 4, 8)}, reverse=True)
    made, sizes, seconds = [], [], []
    for done, (query_id, query) in enumerate(queries.items()):
        found = retriever.retrieve(query, depth)
        part = found.top(depths[done % len(depths)])
        began = time.perf_counter()
        after = encoder.rerank(part)
        took = time.perf_counter() - began
        whole = after if len(part) == len(found) else encoder.rerank(found)
        logits = {hit.document.id: hit.score for hit in whole.hits}
        texts = [render(hit.document) for hit in found.hits]
        one = Recorded(
            query_id=query_id,
            ids=found.ids,
            first=tuple(hit.first_score for hit in found.hits),
            logits=tuple(logits[doc_id] for doc_id in found.ids),
            exits=tuple(scorer.lower_logits(query, texts)) if split else None,
            tokens=None if windows else tuple(scorer.pair_tokens(query, texts)),
        )
        made.append(one)
        size = sum(one.sizes[: len(part)])
        if done and size:  # the first also pays for what an engine sets up once
            sizes.append(float(size))
            seconds.append(took)
        update(done + 1)
    calibration, apart = read_calibration(scorer.checkpoint), scorer.checkpoint.encoder.apart
    recordings = Recordings(
        queries=tuple(made),
        depth=depth,
        weight=None if calibration is None else calibration.weight,
        lower_share=(apart or 0) / scorer.checkpoint.encoder.layers if split else 0.0,
    )
    return Measurement(recordings, fit_cost(sizes, seconds), tuple(_notes(recordings, encoder, stage)))


def _encoder(settings: Config) -> CrossEncoder:
    """The stage's model as it is, all that is to be chosen switched off."""
    from secondpass.rerankers.cross_encoder import CrossEncoder

    plain: dict[str, Any] = dict.fromkeys(KNOBS)
    stage = msgspec.structs.replace(settings.stages[0], **{**plain, "fuse": False})
    stage = msgspec.structs.replace(
        stage, options={name: value for name, value in stage.options.items() if name not in KNOBS}
    )
    (built,) = build_stages(msgspec.structs.replace(settings, stages=(stage,)))
    if not isinstance(built.reranker, CrossEncoder):
        raise ConfigError(f"{settings.file}: stages[0].reranker is {stage.reranker!r}; only a cross-encoder is tuned")
    return built.reranker


def _notes(recordings: Recordings, encoder: CrossEncoder, stage: StageTable) -> list[str]:
    notes = []
    if not recordings.exits:
        notes.append(f"go_on was not tried: {encoder.name} cannot stop early here")
    if not recordings.first_scores:
        notes.append("fusing was not tried: the first stage gives no scores to go by")
    return notes
