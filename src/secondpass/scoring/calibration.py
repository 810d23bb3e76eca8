"""Scales for computing on 8-bit integers: found once on sample pairs, kept with the model, the same for every batch.

Knows: what goes into the linear layers, and how far 8 bits may be from fp32. Refuses to know: engines but the one it
looks through, rankings, files.

Three measures keep the error small, each exact in real numbers:
- Smoothing (Xiao et al., "SmoothQuant", ICML 2023): channel j of an input is divided by
  s_j = max|x_j|^α / max|w_j|^(1-α) and the weights' row multiplied by it. α is chosen for each place by the error of
  the product on the sample.
- Units of a feed-forward layer that reach far beyond all others (Sun et al., "Massive Activations in Large
  Language Models", COLM 2024, find them in most transformers) compute in fp32 beside the rest, so that the
  range of the rest is narrow.
- A range is that of everything seen; of what goes into a feed-forward layer's second half, where most is near zero, a
  share of it: clipping what is rare costs less there than coarse steps. The share is chosen as α is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.scoring.batching import Batch, plan, stacked
from secondpass.scoring.checkpoint import Checkpoint
from secondpass.scoring.graph import bert_classifier
from secondpass.scoring.prepare import prepare
from secondpass.scoring.scales import places_of
from secondpass.scoring.split import apart_block, both_sides, joint_block
from secondpass.scoring.tokens import Tokens

__all__ = ["calibrate"]

_LINEARS = {"attention.self": ("query", "key", "value"), "attention.output": ("dense",), "intermediate": ("dense",)}
_ALPHAS = (0.35, 0.5, 0.65, 0.8, 0.9)
_SHARES = (1.0, 0.85, 0.7, 0.6)
_ROWS = 3000  # sampled inputs of a place, on which α and share are chosen
_UNITS, _FAR = 8, 1.25  # at most so many units in fp32: those beyond the next by this factor

Float = NDArray[np.float32]


@dataclass(slots=True)
class _Seen:
    """What went into one place: the least and the largest of each channel, and a sample of rows."""

    low: Float
    high: Float
    rows: list[Float]


def calibrate(
    checkpoint: Checkpoint, pairs: Sequence[tuple[str, Sequence[str]]], *, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Scales from (query, texts) like those that will be scored; some hundred queries with several texts each.

    Gives tensors by name: for each of `scales.places_of` `….range` float32 [2] and, where smoothing helps,
    `….smooth` float32 [channels]; for each layer `….units` int64, the feed-forward units left in fp32.
    Raises InputError where no pair can be scored.
    """
    seen = _observed(checkpoint, pairs, np.random.default_rng(seed))
    if not seen:
        raise InputError("int8 scales need pairs that can be scored; none was given")
    weights = checkpoint.weights()
    out: dict[str, NDArray[Any]] = {}
    for place in places_of(checkpoint.encoder):
        at = ".".join(place.split(".")[:3])
        name = place.removeprefix(f"{at}.")
        if name == "output":
            out |= _fed_forward(at, seen[place], weights[f"{place}.dense.weight"].T)
        else:
            linears = [f"{place}.{one}" for one in _LINEARS[name]]
            matrix = np.concatenate([weights[f"{one}.weight"].T for one in linears], axis=1)
            out |= _best(place, seen[place], matrix, _smoothings(seen[place], matrix))
    return out


def _fed_forward(at: str, seen: _Seen, matrix: Float) -> dict[str, NDArray[Any]]:
    """A feed-forward layer's second half: the units that stay in fp32, and the range of the others.

    Not smoothed: dividing the widest tensor of all would cost time.
    """
    units = _far(np.maximum(np.abs(seen.low), np.abs(seen.high)))
    rest = _Seen(
        np.delete(seen.low, units),
        np.delete(seen.high, units),
        [np.delete(rows, units, axis=1) for rows in seen.rows],
    )
    return _best(f"{at}.output", rest, np.delete(matrix, units, axis=0), [None], _SHARES) | {f"{at}.units": units}


def _observed(
    checkpoint: Checkpoint, pairs: Sequence[tuple[str, Sequence[str]]], rng: np.random.Generator
) -> dict[str, _Seen]:
    probe = _probe_classifier(checkpoint) if checkpoint.encoder.apart is None else _probe_split(checkpoint)
    tokens = Tokens(checkpoint.tokenizer, checkpoint.max_length, keep_bytes=0)
    each = max(2, _ROWS // max(len(pairs), 1))
    seen: dict[str, _Seen] = {}
    for query, texts in pairs:
        rows = [row for row in prepare(checkpoint, query, texts, tokens).rows if row is not None]
        for positions in plan([len(row.ids) for row in rows], 2048):
            some = [rows[i] for i in positions]
            batch = stacked(checkpoint, positions, some, checkpoint.max_length)
            for place, values in probe(batch):
                _note(seen, place, values, each, rng)
    return seen


_Probe = Callable[[Batch], Iterator[tuple[str, Float]]]
"""A batch -> places and the rows that go into them, [tokens, channels], padding left out."""


def _session(graph: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        graph.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["SkipLayerNormFusion"],
    )


def _probe_classifier(checkpoint: Checkpoint) -> _Probe:
    places: list[str] = []
    session = _session(bert_classifier(checkpoint.encoder, checkpoint.weights(), probes=places))

    def probe(batch: Batch) -> Iterator[tuple[str, Float]]:
        outputs = session.run(places, {"ids": batch.ids, "mask": batch.mask, "types": batch.types})
        real = batch.mask.astype(bool)
        for place, values in zip(places, outputs, strict=True):
            # the last layer has the [CLS] rows only
            yield place, values[real] if values.shape[1] == real.shape[1] else values.reshape(-1, values.shape[-1])

    return probe


def _probe_split(checkpoint: Checkpoint) -> _Probe:
    encoder, weights = checkpoint.encoder, checkpoint.weights()
    apart, joint = list[str](), list[str]()
    first = encoder.apart or 0
    reading = _session(apart_block(encoder, weights, first, probes=apart))
    comparing = _session(joint_block(encoder, weights, first, encoder.layers, probes=joint))

    def probe(batch: Batch) -> Iterator[tuple[str, Float]]:
        sides = []
        for ids, mask in ((batch.query, batch.query_mask), (batch.ids, batch.mask)):
            hidden, *outputs = reading.run(["hidden", *apart], {"ids": ids, "mask": mask})
            sides.append((hidden, np.asarray(mask)))
            for place, values in zip(apart, outputs, strict=True):
                yield place, values[np.asarray(mask).astype(bool)]
        inputs = both_sides(*sides[0], *sides[1])
        asked = np.broadcast_to(sides[0][1], (len(batch.mask), sides[0][1].shape[1]))
        real = np.concatenate((asked, batch.mask), axis=1).astype(bool)
        for place, values in zip(joint, comparing.run(joint, inputs), strict=True):
            yield place, values[real]

    return probe


def _note(seen: dict[str, _Seen], place: str, rows: Float, each: int, rng: np.random.Generator) -> None:
    low, high = rows.min(axis=0), rows.max(axis=0)
    sample = rows[rng.permutation(len(rows))[:each]]
    if place in seen:
        one = seen[place]
        one.low, one.high = np.minimum(one.low, low), np.maximum(one.high, high)
        one.rows.append(sample)
    else:
        seen[place] = _Seen(low, high, [sample])


def _best(
    at: str, seen: _Seen, matrix: Float, smoothings: Iterable[Float | None], shares: Sequence[float] = (1.0,)
) -> dict[str, NDArray[Any]]:
    """Range and smoothing of one place with the least relative error of the product, on the sample."""
    rows = np.concatenate(seen.rows)
    rows = rows[:: max(len(rows) // _ROWS, 1)]  # evenly: the pairs come set by set
    exact = rows @ matrix
    norms = (exact**2).sum(axis=1) + 1e-12
    least, best = np.inf, dict[str, NDArray[Any]]()
    for smooth in smoothings:
        s = np.ones(len(matrix), np.float32) if smooth is None else smooth
        whole, divided, integers = _range(seen.low / s, seen.high / s), rows / s, _columns(matrix * s[:, None])
        for share in shares:
            bounds = whole * np.array([1.0, share], np.float32)  # where shares are tried, little is below zero
            product = _rounded(divided, *bounds.tolist()) @ integers
            error = float((((product - exact) ** 2).sum(axis=1) / norms).mean())
            if error < least:
                least, best = error, {f"{at}.range": bounds}
                if smooth is not None:
                    best[f"{at}.smooth"] = smooth
    return best


def _smoothings(seen: _Seen, matrix: Float) -> Iterator[Float | None]:
    yield None
    inputs = np.maximum(np.maximum(np.abs(seen.low), np.abs(seen.high)), 1e-3)
    outputs = np.maximum(np.abs(matrix).max(axis=1), 1e-4)
    for alpha in _ALPHAS:
        smooth = inputs**alpha / outputs ** (1 - alpha)
        yield (smooth / np.exp(np.log(smooth).mean())).astype(np.float32)


def _far(reach: Float) -> NDArray[np.int64]:
    """The few units whose reach is beyond that of all others."""
    order = np.argsort(-reach, kind="stable")
    few = min(_UNITS, len(order) - 1)
    return np.sort(order[:few][reach[order[:few]] > _FAR * reach[order[few]]]).astype(np.int64)


def _range(low: Float, high: Float) -> Float:
    """The range of all channels together; zero is in it."""
    return np.array([min(float(low.min()), 0.0), max(float(high.max()), 1e-6)], dtype=np.float32)


def _rounded(x: Float, low: float, high: float) -> Float:
    step = (high - low) / 255
    zero = min(max(round(-low / step), 0), 255)
    rounded: Float = (np.clip(np.round(x / step) + zero, 0, 255) - zero) * np.float32(step)
    return rounded


def _columns(matrix: Float) -> Float:
    steps = np.maximum(np.abs(matrix).max(axis=0) / 127, np.float32(1e-8))
    rounded: Float = np.clip(np.round(matrix / steps), -127, 127) * steps
    return rounded
