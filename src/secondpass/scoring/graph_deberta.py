"""The DeBERTa classifier (versions 2 and 3) as an ONNX graph, built straight from the weights.

Knows: what differs from BERT: a token attends by content and by how far apart the two are, so beside query and key
there are those of distances (He et al., "DeBERTa", ICLR 2021). Refuses to know: files, engines, tokens. What an
exporter would not do: the distances' queries and keys are computed when the graph is built; a token is multiplied with
those alone that its row can need, and the row moved into its place, where the reference picks each entry by an index
of its own; and the last layer computes for the [CLS] row only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import ModelError
from secondpass.scoring.graph_parts import Parts, Tensors, classifier

__all__ = ["deberta_classifier", "distance_rows"]

_END = 2**31 - 1  # beyond every length; 2⁶³ − 1 was seen to come back from OpenVINO's cache as −1


def deberta_classifier(config: Mapping[str, Any], weights: Tensors) -> Any:
    """An onnx.ModelProto with inputs ids, mask (int64 [batch, tokens]) and output logits (float32 [batch]).

    Where config.json has a type_vocab_size above 0 there is a third input, types. `weights` holds fp32 tensors under
    Hugging Face's names without the `deberta.` prefix. Raises ModelError for an option that is not supported.
    """
    _check(config)
    model = _Deberta(config, weights)
    g, x = model.g, model.embedded()
    for i in range(model.count - 1):
        x = model.layer(x, i)
    x = model.layer(x, model.count - 1, only_first=True)
    g.name(model.classified(x, str(config.get("pooler_hidden_act", "gelu"))), "logits")
    return classifier(g, ["ids", "mask", *(["types"] if model.typed else [])], "deberta")


def _check(config: Mapping[str, Any]) -> None:
    """Raise ModelError for an option that the graph would ignore."""
    hidden = config["hidden_size"]
    wanted: dict[str, tuple[Any, tuple[Any, ...]]] = {  # key: its default, and what is supported
        "relative_attention": (False, (True,)),
        "position_biased_input": (True, (False,)),
        "conv_kernel_size": (0, (None, 0)),
        "embedding_size": (hidden, (hidden,)),
        "attention_head_size": (None, (None, hidden // config["num_attention_heads"])),
        "norm_rel_ebd": ("none", ("none", "layer_norm")),
    }
    for key, (default, supported) in wanted.items():
        if (stated := config.get(key, default)) not in supported:
            raise ModelError(f"a DeBERTa with {key} = {stated!r} is not supported, only {supported[-1]!r}")


def distance_rows(buckets: int, reach: int, farthest: int) -> NDArray[np.int64]:
    """The row that each distance from −farthest to farthest has in the embeddings of distances.

    `buckets`, where above 0, is how many rows there are to a side: near distances have one each, farther ones up to
    `reach` share them by their logarithm. Else each up to `reach` has its own. In fp32, as the model was trained.
    """
    distance = np.arange(-farthest, farthest + 1)
    row, span = distance, buckets if buckets > 0 else reach
    if buckets > 0:
        middle = buckets // 2
        far = np.maximum(np.abs(distance), middle).astype(np.float32)
        whole = np.log(np.float32((reach - 1) / middle))
        share = np.log(far / np.float32(middle)) / whole * np.float32(middle - 1)
        logarithmic = (np.ceil(share) + np.float32(middle)).astype(np.int64) * np.sign(distance)
        row = np.where(np.abs(distance) <= middle, distance, logarithmic)
    return np.clip(row + span, 0, 2 * span - 1).astype(np.int64)


class _Deberta(Parts):
    """The parts of a DeBERTa. Every method gives the name of what it added."""

    def __init__(self, config: Mapping[str, Any], weights: Tensors) -> None:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        super().__init__(weights, hidden=hidden, heads=heads, epsilon=float(config.get("layer_norm_eps", 1e-7)))
        self.count, self.typed = int(config["num_hidden_layers"]), int(config.get("type_vocab_size", 0)) > 0
        self._activation = str(config.get("hidden_act", "gelu"))
        stated = config.get("pos_att_type") or []
        ways = [one.strip() for one in stated.lower().split("|")] if isinstance(stated, str) else list(stated)
        self._by_key, self._by_query = "c2p" in ways, "p2c" in ways
        self._shared = bool(config.get("share_att_key", False))
        self._scale = 1 / float(np.sqrt(self.width * (1 + self._by_key + self._by_query)))

        g, positions = self.g, int(config.get("max_position_embeddings", 512))
        reach, buckets = (int(config.get(key, -1)) for key in ("max_relative_positions", "position_buckets"))
        reach = positions if reach < 1 else reach
        self._distances = weights["encoder.rel_embeddings.weight"][: 2 * (buckets if buckets > 0 else reach)]
        if config.get("norm_rel_ebd", "none") == "layer_norm":
            self._distances = self._normalised_distances()
        self._bias = self.masked("mask")

        # of the token i to those at j: i − j falls with j, from `tokens` on; i − j rises with i, from −`tokens` on
        self._tokens = g.add("Slice", g.add("Shape", "ids"), g.ints(1), g.ints(2), g.ints(0))
        rows, none = distance_rows(buckets, reach, positions), g.ints(positions)  # where the distance 0 is
        since, until = g.add("Sub", none, self._tokens), g.add("Add", none, self._tokens)
        falling, rising = g.constant(rows[::-1], "falling"), g.constant(rows, "rising")
        self._falling = g.add("Slice", falling, since, until, g.ints(0))
        self._rising = g.add("Slice", rising, since, until, g.ints(0))
        self._from_first = g.add("Slice", falling, none, until, g.ints(0))

    def _normalised_distances(self) -> NDArray[np.float32]:
        x = self._distances.astype(np.float64)
        weight, bias = (self.weights[f"encoder.LayerNorm.{part}"] for part in ("weight", "bias"))
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + self.epsilon)
        normalised: NDArray[np.float32] = (x * weight + bias).astype(np.float32)
        return normalised

    def embedded(self) -> str:
        g = self.g
        x = g.add("Gather", self.weight("embeddings.word_embeddings.weight"), "ids")
        if self.typed:
            x = g.add("Add", x, g.add("Gather", self.weight("embeddings.token_type_embeddings.weight"), "types"))
        return self.normalised(x, "embeddings.LayerNorm")

    def layer(self, x: str, i: int, *, only_first: bool = False) -> str:
        """Layer i; with `only_first` what comes out of it for the first row alone, [batch, 1, hidden]."""
        g, linear, at = self.g, self.linear, f"encoder.layer.{i}"
        attended = self._attended_by_first if only_first else self._attended
        mixed = attended(x, f"{at}.attention.self")
        out = linear(mixed, f"{at}.attention.output.dense")
        x = self.normalised(g.add("Add", out, self.first(x) if only_first else x), f"{at}.attention.output.LayerNorm")
        inner = g.activated(linear(x, f"{at}.intermediate.dense"), self._activation)
        return self.normalised(g.add("Add", linear(inner, f"{at}.output.dense"), x), f"{at}.output.LayerNorm")

    def _of_distances(self, at: str, what: str, rows: str, scale: float = 1.0) -> str:
        """The queries or keys (`what`) of the distances that `rows` asks for, [1, heads, rows, width]."""
        g, name = self.g, f"{at}.{what}_proj" if self._shared else f"{at}.pos_{what}_proj"
        matrix, bias = self.linear.weights(name)
        table = (self._distances @ matrix + bias) * np.float32(scale)
        by_head = table.reshape(1, -1, self.heads, self.width).transpose(0, 2, 1, 3)
        return g.add("Gather", g.constant(by_head, f"{at}.{what}.distances"), rows, axis=2)

    def _placed(self, x: str) -> str:
        """Row i of x [batch, heads, tokens, 2 tokens], from its entry tokens − i on, -> [batch, heads, tokens, tokens].

        Flattened, that entry is tokens + i (2 tokens − 1): without the first `tokens` entries and in rows that are one
        shorter, the rows begin where they should (as in Dai et al., "Transformer-XL", ACL 2019, appendix B).
        """
        g = self.g
        flat = g.add("Reshape", x, g.ints(0, self.heads, -1))
        rest = g.add("Slice", flat, self._tokens, g.ints(_END), g.ints(2))
        shorter = g.add("Sub", g.add("Mul", self._tokens, g.ints(2)), g.ints(1))
        shape = g.add("Concat", g.ints(0, self.heads, -1), shorter, axis=0)
        return g.add("Slice", g.add("Reshape", rest, shape), g.ints(0), self._tokens, g.ints(3))

    def _product(self, x: str, y: str) -> str:
        """x times y transposed."""
        return self.g.add("MatMul", x, self._turned(y))

    def _turned(self, x: str) -> str:
        return self.g.add("Transpose", x, perm=[0, 1, 3, 2])

    def _attended(self, x: str, at: str) -> str:
        g, linear = self.g, self.linear
        query = self.split(linear(x, f"{at}.query_proj", scale=self._scale))
        key, value = (self.split(linear(x, f"{at}.{part}_proj")) for part in ("key", "value"))
        scores = g.add("Add", self._product(query, key), self._bias)
        if self._by_key:
            near = self._placed(self._product(query, self._of_distances(at, "key", self._falling)))
            scores = g.add("Add", scores, near)
        if self._by_query:
            near = self._placed(self._product(key, self._of_distances(at, "query", self._rising, self._scale)))
            scores = g.add("Add", scores, self._turned(near))
        return self.merged(g.add("MatMul", g.add("Softmax", scores, axis=-1), value))

    def _attended_by_first(self, x: str, at: str) -> str:
        """What the first token alone sees; its distances are in order as they are."""
        g, linear = self.g, self.linear
        query = self.split(linear(self.first(x), f"{at}.query_proj", scale=self._scale))
        key = self.split(linear(x, f"{at}.key_proj"))
        scores = g.add("Add", self._product(query, key), self._bias)
        if self._by_key:
            scores = g.add("Add", scores, self._product(query, self._of_distances(at, "key", self._from_first)))
        if self._by_query:
            near = g.add("Mul", key, self._of_distances(at, "query", self._from_first, self._scale))
            near = g.add("ReduceSum", near, g.ints(3), keepdims=0)
            scores = g.add("Add", scores, g.add("Unsqueeze", near, g.ints(2)))
        return self.read_by_first(scores, x, f"{at}.value_proj", *linear.weights(f"{at}.value_proj"))
