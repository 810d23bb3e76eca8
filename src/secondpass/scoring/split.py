"""A split encoder as ONNX graphs: layers that read query and document apart, layers that read both, and heads.

Knows: what differs from the BERT of `graph`. Refuses to know: files, engines, tokens. The lower layers read either
side as the bi-encoder reads it that the model is made from, each with a [CLS] and positions of its own, so that a
query is read once for all its documents (MacAvaney et al., "PreTTR", SIGIR 2020). In the upper ones each side attends
to itself as there and to the other beside, by as much as the gates were opened in training. A head pools the two sides
after some layer and compares them; with the gates closed, the last one's score is the bi-encoder's cosine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.scoring.checkpoint import Encoder
from secondpass.scoring.graph import Bert, finished
from secondpass.scoring.graph_parts import MASKED, Tensors

__all__ = ["apart_block", "both_sides", "joint_block", "pair_head"]

Float = NDArray[np.float32]
Mask = NDArray[np.int64]


def both_sides(query: Float, query_mask: Mask, documents: Float, mask: Mask) -> dict[str, NDArray[Any]]:
    """The inputs of `joint_block` from what `apart_block` gave of a query and of documents."""
    asked = np.broadcast_to(query, (len(documents), *query.shape[1:]))
    return {"hidden_in": np.concatenate((asked, documents), axis=1), "query_mask": query_mask, "mask": mask}


def apart_block(
    encoder: Encoder, weights: Tensors, apart: int, scales: Tensors | None = None, *, probes: list[str] | None = None
) -> Any:
    """The first `apart` layers, for a query alone or documents alone: ids and mask (int64 [batch, tokens]) in, hidden
    (float32 [batch, tokens, hidden]) out."""
    bert = Bert(encoder, weights, scales, probes)
    bias = bert.masked("mask")
    x = bert.embedded(types=False)
    for i in range(apart):
        x = bert.layer(x, i, lambda x, at: bert.attended(x, bias, at))
    bert.g.name(x, "hidden")
    return finished(bert, ["ids", "mask"], {"hidden": ["batch", "tokens", encoder.hidden]})


def joint_block(
    encoder: Encoder,
    weights: Tensors,
    first: int,
    last: int,
    scales: Tensors | None = None,
    *,
    probes: list[str] | None = None,
) -> Any:
    """Layers in which query and document see each other, from `first` up to, not including, `last`.

    Takes hidden_in (float32 [batch, tokens, hidden], the query's tokens first), query_mask (int64 [1, query tokens])
    and mask (int64 [batch, document tokens]); gives hidden, shaped as hidden_in.

    Each token attends to its own side and, apart from that, to the other, whose mixture is weighed by the layer's
    `gate` of that head: attention(own) + gate · attention(other). With a gate of 0 the sides stay apart.
    """
    bert = Bert(encoder, weights, scales, probes)
    g = bert.g
    sides = (bert.masked("query_mask"), bert.masked("mask"))
    count = g.add("Slice", g.add("Shape", "query_mask"), g.ints(1), g.ints(2), g.ints(0))
    # not the largest integer: OpenVINO lost it among the constants of a graph that it had kept compiled (2026.4)
    end = g.add("Slice", g.add("Shape", "hidden_in"), g.ints(1), g.ints(2), g.ints(0))
    ranges = ((g.ints(0), count), (count, end))  # the query's tokens, the document's

    def attended(x: str, at: str) -> str:
        parts = bert.projected(x, at)
        query, document = ([g.add("Slice", one, *places, g.ints(2)) for one in parts] for places in ranges)
        gates = weights[f"{at.removesuffix('.attention')}.gate"].reshape(2, 1, -1, 1, 1)
        mixed = []
        for own, other, gate, side in ((query, document, gates[0], 0), (document, query, gates[1], 1)):
            near = bert.mixed(own[0], own[1], own[2], sides[side])
            far = bert.mixed(own[0], other[1], other[2], sides[1 - side])
            opened = g.add("Mul", far, g.constant(gate, f"{at}.gate.{side}"))
            mixed.append(g.add("Add", near, opened))
        return bert.merged(g.add("Concat", *mixed, axis=2))

    x = "hidden_in"
    for i in range(first, last):
        x = bert.layer(x, i, attended)
    g.name(x, "hidden")
    return finished(bert, ["hidden_in", "query_mask", "mask"], {"hidden": ["batch", "tokens", encoder.hidden]})


def pair_head(encoder: Encoder, weights: Tensors, layer: int) -> Any:
    """What a split encoder makes of the two sides after `layer` layers: logits (float32 [batch]).

    Takes query (float32 [batch or 1, query tokens, hidden]), query_mask, hidden (float32 [batch, document tokens,
    hidden]) and mask. The logit is the sum of the cosine of the two mean vectors, of the mean, over the
    query's tokens, of each one's best cosine among the document's (MaxSim: Khattab and Zaharia, "ColBERT", SIGIR 2020),
    each with its factor, and of a small network's output on the two mean vectors' product and distance.
    """
    bert = Bert(encoder, weights, None, None)
    g, at = bert.g, f"heads.{layer}"

    def unit(x: str) -> str:
        squares = g.add("ReduceSum", g.add("Mul", x, x), g.ints(-1), keepdims=1)
        return g.add("Div", x, g.add("Sqrt", g.add("Add", squares, g.number(1e-12))))

    def pooled(x: str, mask: str) -> str:  # [batch, tokens, hidden] -> [batch, hidden], of unit length
        return unit(g.add("Squeeze", g.add("MatMul", g.add("Unsqueeze", mask, g.ints(1)), x), g.ints(1)))

    asked, real = (g.add("Cast", mask, to=1) for mask in ("query_mask", "mask"))
    u, v = pooled("query", asked), pooled("hidden", real)
    product = g.add("Mul", u, v)
    cosine = g.add("ReduceSum", product, g.ints(-1), keepdims=0)
    sides = ["query", "hidden"]
    if f"{at}.project.weight" in weights:
        sides = [g.add("MatMul", x, g.constant(weights[f"{at}.project.weight"].T, f"{at}.project")) for x in sides]
    q, d = map(unit, sides)
    like = g.add("MatMul", q, g.add("Transpose", d, perm=[0, 2, 1]))  # [batch, query tokens, document tokens]
    padded = g.add("Mul", g.add("Sub", g.number(1.0), g.add("Unsqueeze", real, g.ints(1))), g.number(MASKED))
    best = g.add("ReduceMax", g.add("Add", like, padded), axes=[2], keepdims=0)
    share = g.add("Reshape", g.add("Softplus", bert.linear("query", f"{at}.token")), g.ints(0, -1))
    share = g.add("Mul", share, asked)
    total = g.add("ReduceSum", share, g.ints(-1), keepdims=0)
    found = g.add("Div", g.add("ReduceSum", g.add("Mul", best, share), g.ints(-1), keepdims=0), total)
    features = g.add("Concat", product, g.add("Abs", g.add("Sub", u, v)), axis=-1)
    inner = bert.activated(bert.linear(features, f"{at}.inner"))
    rest = g.add("Reshape", bert.linear(inner, f"{at}.outer"), g.ints(-1))
    factors = weights[f"{at}.factors"]
    logits = g.add("Add", rest, g.add("Mul", cosine, g.constant(factors[:1], f"{at}.cosine")))
    g.name(g.add("Add", logits, g.add("Mul", found, g.constant(factors[1:], f"{at}.found"))), "logits")
    return finished(bert, ["query", "query_mask", "hidden", "mask"], {"logits": ["batch"]})
