"""The BERT classifier and its kin (ELECTRA, RoBERTa, XLM-R) as ONNX graphs, built straight from the weights.

Knows: the operators and their order. Refuses to know: files, engines, tokens. Every engine
reads the same graph, so they can be compared. What an exporter would not do: the last layer computes for the [CLS]
row only, keys and values included (exact, and it saves that layer nearly whole); LayerNormalization stays apart from
its Add (the fused form is slow on CPUs); the layers can be cut into blocks, run one after the other; and with
scales (see `calibration`) the linear layers compute on 8-bit integers, with the same result whatever else is in the
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from secondpass.scoring.checkpoint import Encoder
from secondpass.scoring.graph_parts import Parts, Tensors, checked

__all__ = ["VERSION", "Bert", "bert_block", "bert_classifier", "finished"]

VERSION = 3  # part of the cache key: raise it with every change of the graph


def bert_classifier(
    encoder: Encoder, weights: Tensors, scales: Tensors | None = None, *, probes: list[str] | None = None
) -> Any:
    """An onnx.ModelProto with inputs ids, mask, types (int64 [batch, tokens]) and output logits (float32 [batch]).

    Where tokens have no types there is no such input. `weights` holds fp32 tensors under Hugging Face's names without
    the `bert.` prefix and with the head's two layers as `pooler.dense` and `classifier`, whatever the family calls
    them; `scales` what `calibration.calibrate` gives. With a list of `probes`, what goes into the linear layers becomes
    outputs whose names are appended to it.
    """
    return bert_block(encoder, weights, 0, encoder.layers, scales, probes=probes)


def bert_block(
    encoder: Encoder,
    weights: Tensors,
    first: int,
    last: int,
    scales: Tensors | None = None,
    *,
    probes: list[str] | None = None,
) -> Any:
    """The layers from `first` up to, not including, `last`; blocks that follow one another are the classifier.

    The first block takes ids, mask and types, later ones hidden (float32 [batch, tokens, hidden]) and mask;
    the last gives logits, those before it hidden.
    """
    bert = Bert(encoder, weights, scales, probes)
    g, inputs = bert.g, ["ids", "mask"] if first == 0 else ["hidden_in", "mask"]
    inputs += ["types"] if first == 0 and bert.typed else []
    bias = bert.masked("mask")
    x = bert.embedded() if first == 0 else "hidden_in"
    for i in range(first, min(last, encoder.layers - 1)):
        x = bert.layer(x, i, lambda x, at: bert.attended(x, bias, at))
    if last < encoder.layers:
        g.name(x, "hidden")
        return finished(bert, inputs, {"hidden": ["batch", "tokens", encoder.hidden]})
    if last > first:  # what comes out of the last layer is needed for [CLS] alone
        whole, x = x, bert.first(x)
        x = bert.layer(x, encoder.layers - 1, lambda x, at: bert.attended_by_first(whole, x, bias, at))
    g.name(bert.classified(x, encoder.head_activation), "logits")
    return finished(bert, inputs, {"logits": ["batch"]})


class Bert(Parts):
    """The parts of a BERT encoder. Every method gives the name of what it added."""

    def __init__(self, encoder: Encoder, weights: Tensors, scales: Tensors | None, probes: list[str] | None) -> None:
        hidden, heads, epsilon = encoder.hidden, encoder.heads, encoder.epsilon
        super().__init__(weights, hidden=hidden, heads=heads, epsilon=epsilon, scales=scales, probes=probes)
        self.encoder = encoder

    @property
    def typed(self) -> bool:
        """Whether tokens have types: where there is one, as RoBERTa has, all are of it."""
        return len(self.weights.get("embeddings.token_type_embeddings.weight", ())) > 1

    def embedded(self, *, types: bool = True) -> str:
        g, weights = self.g, self.weights
        length = g.add("Slice", g.add("Shape", "ids"), g.ints(1), g.ints(2), g.ints(0))
        name = "embeddings.position_embeddings.weight"
        table = g.constant(weights[name][self.encoder.first_position :], name)
        positions = g.add("Slice", table, g.ints(0), length, g.ints(0))
        x = g.add("Gather", self.weight("embeddings.word_embeddings.weight"), "ids")
        if (name := "embeddings.token_type_embeddings.weight") in weights:
            if types and self.typed:
                kinds = g.add("Gather", self.weight(name), "types")
            else:  # all of the first kind
                kinds = g.constant(weights[name][:1], "embeddings.kind")
            x = g.add("Add", x, kinds)
        x = self.normalised(g.add("Add", x, positions), "embeddings.LayerNorm")
        return self.linear(x, "embeddings_project") if "embeddings_project.weight" in weights else x

    def projected(self, x: str, at: str) -> tuple[str, str, str]:
        """Query (divided by the root of its width), key and value of every token."""
        linear = self.linear
        query = self.split(linear(x, f"{at}.self.query", f"{at}.self", scale=1.0 / float(np.sqrt(self.width))))
        key = self.split(linear(x, f"{at}.self.key", f"{at}.self"))
        return query, key, self.split(linear(x, f"{at}.self.value", f"{at}.self", after=f"{at}.output"))

    def attended(self, x: str, bias: str, at: str) -> str:
        return self.merged(self.mixed(*self.projected(x, at), bias))

    def attended_by_first(self, x: str, first: str, bias: str, at: str) -> str:
        """What the first token alone sees: its query and its mixture go through the matrices, not all keys and values.

        q·(x W + b) = (q Wᵀ)·x + q·b, where q·b is the same for all tokens and falls out of the softmax.
        """
        g, linear, width = self.g, self.linear, self.width
        key, _ = linear.weights(f"{at}.self.key")
        value, after = linear.weights(f"{at}.self.value", f"{at}.output")
        backwards = g.constant(key.reshape(-1, self.heads, width).transpose(1, 2, 0), f"{at}.self.key.backwards")
        forwards = self.forwards(value, f"{at}.self.value")
        query = self.split(linear(first, f"{at}.self.query", scale=1.0 / float(np.sqrt(width))))
        # [batch, heads, hidden] by [batch, hidden, tokens], then [batch, heads, tokens] by [batch, tokens, hidden]
        asked = g.add("Reshape", g.add("MatMul", query, backwards), g.ints(0, self.heads, self.hidden))
        seen = g.add("MatMul", asked, g.add("Transpose", x, perm=[0, 2, 1]))
        shares = g.add("Softmax", g.add("Add", seen, g.add("Squeeze", bias, g.ints(1))), axis=-1)
        mixed = self.mixed_by_first(shares, x, forwards)
        return g.add("Add", mixed, g.constant(after, f"{at}.self.value.bias"))

    def fed_forward(self, rows: str, at: str) -> str:
        g, linear = self.g, self.linear
        inward, outward = (f"{at}.{name}.dense" for name in ("intermediate", "output"))
        up, down = self.weights[f"{inward}.weight"].T, self.weights[f"{outward}.weight"].T
        rest, residual = self.weights[f"{inward}.bias"], rows
        if len(units := self.scales.get(f"{at}.units", ())):
            # units far outside the others' range compute in fp32 beside the integers, and are zero among them
            few = linear.of(rows, f"{inward}.units", "", up[:, units], rest[units])
            residual = g.add("Add", rows, linear.of(self.activated(few), f"{outward}.units", "", down[units], None))
            up, down, rest = up.copy(), down.copy(), rest.copy()
            up[:, units], down[units], rest[units] = 0, 0, 0
        inner = self.activated(linear.of(rows, inward, f"{at}.intermediate", up, rest))
        out = linear.of(inner, outward, f"{at}.output", down, self.weights[f"{outward}.bias"])
        return self.normalised(g.add("Add", out, residual), f"{at}.output.LayerNorm")

    def layer(self, x: str, i: int, attention: Callable[[str, str], str]) -> str:
        """One layer; `attention` gives, from its rows and its name, what they attend to."""
        at = f"encoder.layer.{i}"
        mixed = attention(x, f"{at}.attention")
        out = self.linear(mixed, f"{at}.attention.output.dense", f"{at}.attention.output")
        return self.fed_forward(self.normalised(self.g.add("Add", out, x), f"{at}.attention.output.LayerNorm"), at)

    def activated(self, x: str) -> str:
        return self.g.activated(x, self.encoder.activation)


def finished(bert: Bert, inputs: Sequence[str], outputs: Mapping[str, Sequence[str | int]]) -> Any:
    """An onnx.ModelProto with the inputs named, and what was probed as further outputs."""
    from onnx import TensorProto, helper

    hidden = bert.encoder.hidden
    shapes: dict[str, tuple[int, list[str | int]]] = {
        "ids": (TensorProto.INT64, ["batch", "tokens"]),
        "mask": (TensorProto.INT64, ["batch", "document tokens" if "query_mask" in inputs else "tokens"]),
        "types": (TensorProto.INT64, ["batch", "tokens"]),
        "query_mask": (TensorProto.INT64, [1, "query tokens"]),
        "hidden_in": (TensorProto.FLOAT, ["batch", "tokens", hidden]),
        "query": (TensorProto.FLOAT, ["queries", "query tokens", hidden]),
        "hidden": (TensorProto.FLOAT, ["batch", "document tokens", hidden]),
    }
    given = [helper.make_tensor_value_info(name, *shapes[name]) for name in inputs]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs.items()]
    made += [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", None, None]) for n in bert.probes or ()]
    return checked(bert.g, given, made, "bert")
