"""The loop that teaches a reranker from groups, whatever it is made of: batches, targets, the loss, and how it resumes.

Knows: torch (the extra `train`). Refuses to know: what a learner computes, how its folder is laid out, rankings, every
test split. A run that was killed goes on from the last state that it left, to the weights it would have had.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from secondpass.errors import ConfigError
from secondpass.extras import require
from secondpass.training.attacks import ATTACKS, NOISES, ODD
from secondpass.training.data import Group
from secondpass.training.recipe import Recipe, Training
from secondpass.training.teacher import targets

if TYPE_CHECKING:
    import torch
else:
    torch = require("torch", extra="train", purpose="training")

__all__ = ["CHUNK", "Learner", "Tensors", "device", "learn"]

F = torch.nn.functional

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
Tensors = dict[str, torch.Tensor]

CHUNK = 16  # pairs of like length computed together
_AVERAGE = 0.98  # of every tenth step's weights in the running average that is kept
_STUFFED = tuple(name for name in ATTACKS if name not in ODD)  # an odd character is a matter of cleaning


class Learner(Protocol):
    """A model that can be taught. `learnt` are the tensors that change; they require gradients."""

    learnt: Tensors

    def rate(self, name: str) -> float:
        """The learning rate of one of them."""

    def logits(self, queries: Sequence[str], texts: Sequence[Sequence[str]], limit: int) -> dict[int, torch.Tensor]:
        """Logits of each query's texts, one after the other, by the layer that they were read off: the last one ranks.
        What goes beyond `limit` tokens is cut."""

    def write(self, learnt: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write the fp32 model with these tensors in place of its own into a new folder."""


def device() -> torch.device:
    """Where training computes."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learn(
    learner: Learner, recipe: Recipe, groups: Sequence[Group], work: Path, *, say: Say, progress: Progress, steps: int
) -> tuple[Tensors, int]:
    """Teach the learner; return what it has learnt, a running average of the last hundreds of steps, and their number.

    `steps` ends the run after that many (0: the whole recipe); the learning rate is planned for what will be taken.
    """
    settings = recipe.training
    batches = _batches(groups, settings)
    planned = len(batches) * settings.epochs
    steps = min(steps, planned) if steps else planned
    learnt, where = learner.learnt, device()
    average = {name: tensor.detach().clone() for name, tensor in learnt.items()}
    optimiser = torch.optim.AdamW(
        [
            {
                "params": [tensor],
                "rate": learner.rate(name),
                "weight_decay": 0.0 if name.endswith(".gate") else settings.weight_decay,
            }
            for name, tensor in learnt.items()
        ],
        lr=0.0,
    )
    kept = work / "state.pt"
    step = 0
    if kept.exists():
        state = torch.load(kept, map_location=where, weights_only=True)
        step = int(state["step"])
        for name, tensor in learnt.items():
            tensor.data.copy_(state["model"][name])
        average = state["average"]
        optimiser.load_state_dict(state["optimiser"])
        say(f"going on from step {step}")
    losses: list[float] = []
    while step < steps:
        draw = random.Random(f"{settings.seed}/{step}")
        torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout, wherever the run was resumed
        some = [groups[i] for i in batches[step % len(batches)]]
        done_share = step / steps
        share = min(1.0, done_share / max(settings.warmup, 1e-9) + 1 / steps) * (1 - done_share)
        for one in optimiser.param_groups:
            one["lr"] = one["rate"] * share
        limit = draw.choice(settings.lengths or (settings.max_length,))
        queries, texts = _noisy(some, settings, draw)
        with torch.autocast(where.type, dtype=torch.bfloat16, enabled=settings.bf16):
            answers = learner.logits(queries, texts, limit)
        loss, label = _loss(answers, some, recipe)
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
    return average, steps


def _batches(groups: Sequence[Group], settings: Training) -> list[list[int]]:
    """Batches of like lengths in random order: sorted within chunks of 64 batches, so padding stays small."""
    if any(group.positive for group in groups):
        raise ConfigError("training groups must hold their positive first")
    size, draw = settings.groups_per_batch, random.Random(settings.seed)
    order = list(range(len(groups)))
    draw.shuffle(order)
    batches = []
    for start in range(0, len(order), size * 64):
        part = sorted(
            order[start : start + size * 64], key=lambda i: len(groups[i].query) + max(map(len, groups[i].passages))
        )
        batches += [part[i : i + size] for i in range(0, len(part), size)]
    draw.shuffle(batches)
    return batches


def _noisy(groups: Sequence[Group], settings: Training, draw: random.Random) -> tuple[list[str], list[list[str]]]:
    """Queries, some of them misspelt, and passages, some negatives among them stuffed; the targets stay as they are."""
    queries = [group.query for group in groups]
    queries = [NOISES["one-typo"](query, draw) if draw.random() < settings.misspelt else query for query in queries]
    texts = [list(group.passages) for group in groups]
    for query, one in zip(queries, texts, strict=True):
        if draw.random() < settings.attacked and len(one) > 1:
            k = draw.randrange(1, len(one))
            one[k] = ATTACKS[draw.choice(_STUFFED)](query, one[k], draw)
    return queries, texts


def _loss(answers: Mapping[int, torch.Tensor], groups: Sequence[Group], recipe: Recipe) -> tuple[torch.Tensor, float]:
    """What is minimised, and the last head's cross-entropy on the labels alone.

    Each head: cross-entropy of the list's softmax against its target, and `bce_weight` × pointwise BCE. The target of
    a lower head is more than half the last head's own softmax. Groups may differ in length.
    """
    settings, last = recipe.training, max(answers)
    sizes = [len(group.passages) for group in groups]
    rows, columns = len(groups), max(sizes)
    of = torch.tensor([k * columns + i for k, size in enumerate(sizes) for i in range(size)], device=device())
    there = torch.zeros(rows * columns, device=of.device).index_fill_(0, of, 1.0).view(rows, columns)
    aim, label = torch.zeros_like(there), torch.zeros_like(there)
    label[:, 0] = 1.0
    for k, group in enumerate(groups):
        soft = targets(group, settings.teacher_weight, settings.teacher_temperature)
        aim[k, : sizes[k]] = torch.tensor(soft, device=of.device)
    exit_weight = recipe.split.exit_weight if recipe.split else 0.3

    def lists(logits: torch.Tensor) -> torch.Tensor:
        return (
            torch.full((rows * columns,), -1e4, device=of.device).index_put((of,), logits.float()).view(rows, columns)
        )

    own = torch.softmax(lists(answers[last]).detach(), -1)
    total = torch.zeros((), device=of.device)
    for layer, logits in answers.items():
        scores = lists(logits)
        target, weight = (aim, 1.0) if layer == last else (0.4 * aim + 0.6 * own, exit_weight)
        pointwise = F.binary_cross_entropy_with_logits(scores, label, weight=there, reduction="sum") / there.sum()
        total = total + weight * (F.cross_entropy(scores, target) + settings.bce_weight * pointwise)
    return total, float(F.cross_entropy(lists(answers[last]).detach(), label))
