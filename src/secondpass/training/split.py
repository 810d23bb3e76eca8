"""A split encoder in torch: its layers over padded batches, and the loop that teaches it.

Knows: torch (the extra `train`), what `scoring.split` computes, written out once more, and how a run resumes.
Refuses to know: rankings, collections, every test split.

It starts as the bi-encoder it is made from: with its gates all but closed and a last head that is the cosine, its first
scores are the base's. To keep what the base knows, a copy of the model as it began is the teacher, whose share of the
target the recipe names, and the embeddings stay as they are. The heads after lower layers learn from the last one.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from secondpass.errors import ConfigError
from secondpass.extras import require
from secondpass.scoring.checkpoint import SPLIT
from secondpass.training.attacks import ATTACKS, NOISES, ODD
from secondpass.training.data import Group
from secondpass.training.recipe import Recipe, Split

if TYPE_CHECKING:
    import torch
else:
    torch = require("torch", extra="train", purpose="training")

from secondpass.scoring.torch_split import pair_head  # after what says which extra training needs

__all__ = ["SplitEncoder", "fit_split", "initial_tensors", "open_split"]

F = torch.nn.functional

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
Tensors = dict[str, torch.Tensor]

_CHUNK = 16  # pairs of like length computed together
_QUERY = 64  # tokens of a query that are read while training
_MASKED = -10_000.0
_COSINE = 20.0  # the scale of the cosine in the base's own training
_NEAR = 4.0  # brings the head's features near 1, where a fresh layer learns best
_AVERAGE = 0.98  # of every tenth step's weights in the running average that is kept
_WARMUP = 0.05
_STUFFED = tuple(name for name in ATTACKS if name not in ODD)  # an odd character is a matter of cleaning


class SplitEncoder:
    """The encoder over padded batches. `tensors` have Hugging Face's names without `bert.`, in fp32.

    `query` and `document` tokens come as int64 [rows, tokens] with masks alike; logits are float32 [rows].
    """

    def __init__(self, config: Mapping[str, Any], tensors: Tensors) -> None:
        self.tensors = tensors
        self.layers, self.hidden = int(config["num_hidden_layers"]), int(config["hidden_size"])
        self.heads, self.epsilon = int(config["num_attention_heads"]), float(config.get("layer_norm_eps", 1e-12))
        self.apart, self.exits = int(config["apart"]), tuple(config["exits"])
        self._scale = _scale(self.hidden).to(tensors["embeddings.word_embeddings.weight"].device)
        self._joined: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def begin(self) -> None:
        """Call before each step: matrices that are used together are put together once a step."""
        self._joined = {}
        for i in range(self.layers):
            at = f"encoder.layer.{i}.attention.self"
            parts = [
                [self.tensors[f"{at}.{one}.{kind}"] for one in ("query", "key", "value")] for kind in ("weight", "bias")
            ]
            self._joined[i] = (torch.cat(parts[0]), torch.cat(parts[1]))

    def read(self, ids: torch.Tensor, mask: torch.Tensor, layers: int | None = None) -> torch.Tensor:
        """One side alone through the layers that read apart (or so many): [rows, tokens, hidden]."""
        t, bias = self.tensors, _bias(mask)
        positions, kind = t["embeddings.position_embeddings.weight"], t["embeddings.token_type_embeddings.weight"][0]
        x = F.embedding(ids, t["embeddings.word_embeddings.weight"]) + positions[: ids.shape[1]] + kind
        x = self._norm(x, "embeddings.LayerNorm")
        for i in range(self.apart if layers is None else layers):
            query, key, value = self._projected(x, i)
            x = self._rest(x, _mixed(query, key, value, bias), i)
        return x

    def compare(
        self, query: torch.Tensor, query_mask: torch.Tensor, document: torch.Tensor, mask: torch.Tensor
    ) -> dict[int, torch.Tensor]:
        """Logits after each of the layers `exits`, from what `read` gave of queries and documents, row by row."""
        out = {}
        if self.apart in self.exits:
            out[self.apart] = self._head(query, query_mask, document, mask, self.apart)
        count = query.shape[1]
        x = torch.cat((query, document), 1)
        sides = ((slice(0, count), _bias(query_mask)), (slice(count, None), _bias(mask)))
        of_query = (torch.arange(x.shape[1], device=x.device) < count)[None, None, :, None]
        for i in range(self.apart, self.layers):
            asked, key, value = self._projected(x, i)
            of_queries, of_documents = self.tensors[f"encoder.layer.{i}.gate"][:, None, :, None, None]
            takes = (torch.where(of_query, 1.0, of_documents), torch.where(of_query, of_queries, 1.0))
            mixed = [
                _mixed(asked, key[:, :, side], value[:, :, side], bias) * take.to(value.dtype)
                for (side, bias), take in zip(sides, takes, strict=True)
            ]
            x = self._rest(x, mixed[0] + mixed[1], i)
            if i + 1 in self.exits:
                out[i + 1] = self._head(x[:, :count], query_mask, x[:, count:], mask, i + 1)
        return out

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return F.layer_norm(x, (self.hidden,), weight, bias, self.epsilon)

    def _projected(self, x: torch.Tensor, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query (divided by the root of its width), key and value, [rows, heads, tokens, width]."""
        width = self.hidden // self.heads
        joined = F.linear(x, *self._joined[i]).unflatten(-1, (3, self.heads, width))
        query, key, value = joined.permute(2, 0, 3, 1, 4)
        return query * width**-0.5, key, value

    def _rest(self, x: torch.Tensor, mixed: torch.Tensor, i: int) -> torch.Tensor:
        at = f"encoder.layer.{i}"
        out = self._linear(mixed.transpose(1, 2).flatten(2), f"{at}.attention.output.dense")
        x = self._norm(x + out, f"{at}.attention.output.LayerNorm")
        inner = F.gelu(self._linear(x, f"{at}.intermediate.dense"))
        return self._norm(x + self._linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")

    def _head(
        self, query: torch.Tensor, query_mask: torch.Tensor, document: torch.Tensor, mask: torch.Tensor, layer: int
    ) -> torch.Tensor:
        with torch.autocast(query.device.type, enabled=False):
            sides = (query.float(), query_mask, document.float(), mask)
            return pair_head(self.tensors, layer, *sides, scale=self._scale)


def _bias(mask: torch.Tensor) -> torch.Tensor:
    return ((1 - mask.float()) * _MASKED)[:, None, None, :]


def _mixed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    # written out: torch's fused attention takes longer on a CPU, backwards most of all
    shares = torch.softmax(query @ key.transpose(-1, -2) + bias, -1)
    return shares.to(value.dtype) @ value


def _scale(hidden: int) -> torch.Tensor:
    """The factors of a head's features, [2 · hidden]."""
    return torch.cat((torch.full((hidden,), hidden**0.5), torch.ones(hidden))) * _NEAR


def initial_tensors(base: Tensors, config: Mapping[str, Any], split: Split, seed: int) -> Tensors:
    """The base's tensors with gates all but closed and fresh heads; the last head is the cosine, scaled."""
    hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
    draw = torch.Generator().manual_seed(seed)

    def drawn(out: int, into: int) -> torch.Tensor:
        return (torch.rand(out, into, generator=draw) * 2 - 1) * into**-0.5

    tensors = {name: tensor for name, tensor in base.items() if not name.startswith(("pooler.", "classifier."))}
    for i in range(split.apart, layers):
        tensors[f"encoder.layer.{i}.gate"] = torch.full((2, int(config["num_attention_heads"])), 1e-3)
    for i in split.exits:
        last = i == layers
        # a lower layer's cosine means nothing yet, its best-matching tokens do
        factors, offset = ([_COSINE, 0.0], -0.45 * _COSINE) if last else ([0.0, 10.0], -5.0)
        tensors |= {
            f"heads.{i}.factors": torch.tensor(factors),
            f"heads.{i}.token.weight": torch.zeros(1, hidden),
            f"heads.{i}.token.bias": torch.zeros(1),
            f"heads.{i}.inner.weight": drawn(split.inner, 2 * hidden),
            f"heads.{i}.inner.bias": torch.zeros(split.inner),
            f"heads.{i}.outer.weight": torch.zeros(1, split.inner),
            f"heads.{i}.outer.bias": torch.tensor([offset]),
        }
        if not last:
            tensors[f"heads.{i}.project.weight"] = drawn(split.project, hidden)
    return tensors


def _spread(tensors: Tensors, hidden: int, power: int) -> Tensors:
    """The heads with the factors of their features inside the first matrix (power 1), or taken out again (−1)."""
    factors = _scale(hidden)
    return {
        name: tensor * factors**power if name.startswith("heads.") and name.endswith("inner.weight") else tensor
        for name, tensor in tensors.items()
    }


def open_split(folder: Path) -> SplitEncoder:
    """A split encoder's folder, in fp32."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = {name.removeprefix("bert."): t.float() for name, t in load_file(folder / "model.safetensors").items()}
    return SplitEncoder(config, _spread(tensors, int(config["hidden_size"]), -1))


def _begun(folder: Path, recipe: Recipe) -> tuple[dict[str, Any], Tensors]:
    """Configuration and tensors to start from: of a bi-encoder, or of a split encoder as it is."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") == SPLIT:
        return config, open_split(folder).tensors
    split = recipe.split
    if split is None or config.get("model_type") != "bert" or config.get("hidden_act", "gelu") != "gelu":
        raise ConfigError(f"recipe {recipe.name}: [split] needs a BERT with gelu as its base, or a split encoder")
    layers = int(config["num_hidden_layers"])
    if not split.apart < layers or list(split.exits) != sorted({*split.exits, layers}) or split.exits[0] < split.apart:
        raise ConfigError(
            f"recipe {recipe.name}: [split] apart = {split.apart}, exits = {list(split.exits)}; the base has {layers} "
            "layers: fewer read apart, and exits follow in order, the last layer the last"
        )
    base = {name.removeprefix("bert."): t.float() for name, t in load_file(folder / "model.safetensors").items()}
    config |= {"model_type": SPLIT, "architectures": [], "apart": split.apart, "exits": list(split.exits)}
    return config, initial_tensors(base, config, split, recipe.training.seed)


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    ids: NDArray[np.int64] = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for k, row in enumerate(rows):
        ids[k, : len(row)], mask[k, : len(row)] = row, 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def logits_of(
    model: SplitEncoder, queries: Sequence[Sequence[int]], documents: Sequence[Sequence[int]], of: Sequence[int]
) -> dict[int, torch.Tensor]:
    """Logits after every exit of documents against the queries `of` them, in the order given; all as token ids."""
    device = model.tensors["embeddings.word_embeddings.weight"].device
    model.begin()
    asked, query_mask = _padded(queries, device)
    read = model.read(asked, query_mask)
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
    parts: dict[int, list[torch.Tensor]] = {}
    for start in range(0, len(order), _CHUNK):
        rows = order[start : start + _CHUNK]
        ids, mask = _padded([documents[i] for i in rows], device)
        which = torch.tensor([of[i] for i in rows], device=device)
        answers = model.compare(read[which], query_mask[which], model.read(ids, mask), mask)
        for layer, logits in answers.items():
            parts.setdefault(layer, []).append(logits)
    back = torch.tensor(order, device=device).argsort()
    return {layer: torch.cat(some)[back] for layer, some in parts.items()}


def _loss(
    answers: Mapping[int, torch.Tensor], taught: torch.Tensor, groups: int, recipe: Recipe, split: Split
) -> tuple[torch.Tensor, float]:
    """What is minimised, and the last head's cross-entropy on the labels alone.

    Each head: cross-entropy of the list's softmax against its target, and `bce_weight` × pointwise BCE. The target
    mixes the label with the teacher's softmax; of a lower head it is more than half the last head's own.
    """
    settings, last = recipe.training, max(answers)
    lists = {layer: logits.view(groups, -1) for layer, logits in answers.items()}
    label = torch.zeros_like(lists[last])
    label[:, 0] = 1.0
    target = (1 - settings.teacher_weight) * label + settings.teacher_weight * taught
    own = torch.softmax(lists[last].detach(), -1)
    total = torch.zeros((), device=label.device)
    for layer, logits in lists.items():
        aim, weight = (target, 1.0) if layer == last else (0.4 * target + 0.6 * own, split.exit_weight)
        pointwise = F.binary_cross_entropy_with_logits(logits, label)
        total = total + weight * (F.cross_entropy(logits, aim) + settings.bce_weight * pointwise)
    return total, float(F.cross_entropy(lists[last].detach(), label))


def fit_split(
    recipe: Recipe,
    base: Path,
    groups: Sequence[Group],
    batches: Sequence[Sequence[int]],
    work: Path,
    *,
    say: Say,
    progress: Progress,
    stop_after: int = 0,
) -> Path:
    """Train from the base (or from what a killed run left in `work`) and return the folder of the fp32 model.

    `batches` index `groups`; each is one step. `stop_after` ends the run after that many steps (0: the whole recipe);
    the learning rate is planned for the steps that will be taken. The weights are a running average of the
    last hundreds of steps.
    """
    settings, done = recipe.training, work / "model"
    if (done / "config.json").exists():
        say(f"training was finished before: {done}")
        return done
    work.mkdir(parents=True, exist_ok=True)
    split = recipe.split or Split()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config, start = _begun(base, recipe)
    start = {name: tensor.to(device) for name, tensor in start.items()}
    teacher = SplitEncoder(config, start)
    model = SplitEncoder(config, {name: tensor.clone() for name, tensor in start.items()})
    learnt = {name: t.requires_grad_() for name, t in model.tensors.items() if not name.startswith("embeddings.")}
    average = {name: tensor.detach().clone() for name, tensor in learnt.items()}
    rates = {".gate": split.gate_rate, "heads.": split.head_rate}
    optimiser = torch.optim.AdamW(
        [
            {
                "params": [tensor],
                "rate": next((rate for part, rate in rates.items() if part in name), settings.learning_rate),
                "weight_decay": 0.0 if ".gate" in name else settings.weight_decay,
            }
            for name, tensor in learnt.items()
        ],
        lr=0.0,
    )
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    first, end = (int(tokenizer.token_to_id(token) or 0) for token in ("[CLS]", "[SEP]"))

    def tokens(texts: Sequence[str], limit: int) -> list[list[int]]:
        encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [[first, *one.ids[: limit - 2], end] for one in encoded]

    planned = len(batches) * settings.epochs
    steps = min(stop_after, planned) if stop_after else planned
    kept = work / "split.pt"
    step = 0
    if kept.exists():
        state = torch.load(kept, map_location=device, weights_only=True)
        step = int(state["step"])
        for name, tensor in learnt.items():
            tensor.data.copy_(state["model"][name])
        average = state["average"]
        optimiser.load_state_dict(state["optimiser"])
        say(f"going on from step {step}")
    losses: list[float] = []
    while step < steps:
        draw = random.Random(f"{settings.seed}/{step}")
        some = [groups[i] for i in batches[step % len(batches)]]
        done_share = step / steps
        share = min(1.0, done_share / _WARMUP + 1 / steps) * (1 - done_share)
        for one in optimiser.param_groups:
            one["lr"] = one["rate"] * share
        limit = draw.choice(split.lengths)
        queries = [group.query for group in some]
        texts = [list(group.passages) for group in some]
        asked, clean = tokens(queries, _QUERY), tokens([text for one in texts for text in one], limit)
        of = [k for k, one in enumerate(texts) for _ in one]
        # what is misspelt or stuffed is taught by what the model as it began says of the clean text
        queries = [NOISES["one-typo"](query, draw) if draw.random() < split.misspelt else query for query in queries]
        for query, one in zip(queries, texts, strict=True):
            if draw.random() < split.attacked:
                k = draw.randrange(1, len(one))
                one[k] = ATTACKS[draw.choice(_STUFFED)](query, one[k], draw)
        changed = tokens([text for one in texts for text in one], limit)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.bf16):
            with torch.no_grad():
                taught = torch.softmax(logits_of(teacher, asked, clean, of)[teacher.layers].view(len(some), -1), -1)
            answers = logits_of(model, tokens(queries, _QUERY), changed, of)
        loss, label = _loss(answers, taught, len(some), recipe, split)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(learnt.values()), 1.0)
        optimiser.step()
        losses.append(label)
        step += 1
        progress("train", step, steps)
        if step % 10 == 0:
            for name, tensor in learnt.items():
                average[name].lerp_(tensor.detach(), 1 - min(_AVERAGE, step / (step + 100)))
        if step % 100 == 0:
            say(f"step {step}/{steps}: loss on the labels {np.mean(losses[-100:]):.4f}")
        if step % settings.save_every == 0 or step == steps:
            state = {
                "step": step,
                "model": {name: tensor.detach() for name, tensor in learnt.items()},
                "average": average,
                "optimiser": optimiser.state_dict(),
            }
            torch.save(state, kept.with_suffix(".part"))
            os.replace(kept.with_suffix(".part"), kept)
    _write(config, {**model.tensors, **average}, base, work)
    return done


def _write(config: Mapping[str, Any], tensors: Tensors, base: Path, work: Path) -> None:
    """The folder of the fp32 model, written aside and moved into place."""
    from safetensors.torch import save_file

    aside = work / "model.part"
    aside.mkdir(exist_ok=True)
    folded = _spread({name: tensor.detach().cpu() for name, tensor in tensors.items()}, int(config["hidden_size"]), 1)
    save_file({name: tensor.contiguous() for name, tensor in folded.items()}, aside / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        if (base / name).exists():
            (aside / name).write_bytes((base / name).read_bytes())
    (aside / "config.json").write_text(json.dumps(dict(config), indent=1), encoding="utf-8")
    aside.rename(work / "model")
