"""A split encoder on every engine against the same arithmetic written out for one pair in numpy, without padding."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import tiny
from secondpass.errors import InputError, ModelError
from secondpass.scoring.calibration import calibrate
from secondpass.scoring.checkpoint import Checkpoint, open_checkpoint
from secondpass.scoring.engines import open_engine
from secondpass.scoring.pair_scorer import PairScorer, open_scorer
from secondpass.scoring.scales import places_of, write_scales
from secondpass.types import Deadline, Status

Float = NDArray[np.float64]
TEXTS = ["the river bank", "sort a list in python", "date of the file", "a", "snake " * 30, "query document query"]


class Reference:
    """One pair at a time, in float64, straight from the tensors."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.encoder = checkpoint, checkpoint.encoder
        self.w = {name: tensor.astype(np.float64) for name, tensor in checkpoint.weights().items()}

    def ids(self, text: str) -> list[int]:
        (start,), (end,) = self.checkpoint.frame.before, self.checkpoint.frame.between
        return [start, *self.checkpoint.tokenizer.encode(text, add_special_tokens=False).ids, end]

    def dense(self, x: Float, name: str) -> Float:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x: Float, name: str) -> Float:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.encoder.epsilon)
        out: Float = scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]
        return out

    def embedded(self, ids: list[int]) -> Float:
        tables = (self.w[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type"))
        words, positions, kinds = tables
        return self.norm(words[ids] + positions[: len(ids)] + kinds[0], "embeddings.LayerNorm")

    def attention(self, x: Float, y: Float, at: str) -> Float:
        """What the tokens of x take of those of y, [heads, tokens, width]."""
        heads = self.encoder.heads

        def cut(z: Float) -> Float:
            return z.reshape(len(z), heads, -1).transpose(1, 0, 2)

        query, key = cut(self.dense(x, f"{at}.self.query")), cut(self.dense(y, f"{at}.self.key"))
        scores = np.exp(query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1]))
        mixed: Float = scores / scores.sum(-1, keepdims=True) @ cut(self.dense(y, f"{at}.self.value"))
        return mixed

    def layer(self, x: Float, i: int, other: Float | None = None, gate: Float | None = None) -> Float:
        at = f"encoder.layer.{i}"
        mixed = self.attention(x, x, f"{at}.attention")
        if other is not None and gate is not None:
            mixed = mixed + gate[:, None, None] * self.attention(x, other, f"{at}.attention")
        joined = mixed.transpose(1, 0, 2).reshape(len(x), -1)
        x = self.norm(x + self.dense(joined, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = self.dense(x, f"{at}.intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        return self.norm(x + self.dense(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")

    def head(self, q: Float, d: Float, i: int) -> float:
        at = f"heads.{i}"

        def unit(x: Float) -> Float:
            divided: Float = x / np.linalg.norm(x, axis=-1, keepdims=True)
            return divided

        u, v = unit(q.mean(0)), unit(d.mean(0))
        project = self.w.get(f"{at}.project.weight")
        a, b = (unit(x if project is None else x @ project.T) for x in (q, d))
        share = np.log1p(np.exp(self.dense(q, f"{at}.token")))[:, 0]
        found = ((a @ b.T).max(1) * share).sum() / share.sum()
        inner = self.dense(np.concatenate((u * v, np.abs(u - v))), f"{at}.inner")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        factors = self.w[f"{at}.factors"]
        return float(factors[0] * (u @ v) + factors[1] * found + self.dense(inner, f"{at}.outer")[0])

    def sides(self, query: str, text: str, layers: int) -> tuple[Float, Float]:
        q, d = self.embedded(self.ids(query)), self.embedded(self.ids(text))
        for i in range(layers):
            if i < (self.encoder.apart or 0):
                q, d = self.layer(q, i), self.layer(d, i)
            else:
                gate = self.w[f"encoder.layer.{i}.gate"]
                q, d = self.layer(q, i, d, gate[0]), self.layer(d, i, q, gate[1])
        return q, d

    def __call__(self, query: str, text: str) -> float:
        logit = self.head(*self.sides(query, text, self.encoder.layers), self.encoder.layers)
        if self.encoder.summed:
            logit += self.head(*self.sides(query, text, self.encoder.apart or 0), self.encoder.apart or 0)
        return logit


@pytest.fixture(scope="module", params=[False, True], ids=["last head", "summed"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_split(tmp_path_factory.mktemp("split"), summed=request.param)


needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra torch")


@pytest.fixture(scope="module", params=["onnxruntime", "openvino", pytest.param("torch", marks=needs_torch)])
def scorer(request: pytest.FixtureRequest, folder: Path) -> PairScorer:
    threads = None if request.param == "torch" else 2
    return open_scorer(open_checkpoint(folder), engine=request.param, profile="exact", threads=threads)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(open_checkpoint(folder))


def test_the_scores_are_those_of_the_formula(scorer: PairScorer, reference: Reference) -> None:
    scores = scorer.score("river in the list", TEXTS)
    assert scores.values == pytest.approx([reference("river in the list", text) for text in TEXTS], abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    query=st.text("abc xyz", min_size=1, max_size=40).filter(str.strip),
    texts=st.lists(st.text("abc xyz.", min_size=1, max_size=120).filter(str.strip), min_size=1, max_size=9),
)
def test_batch_mates_and_padding_change_nothing(
    scorer: PairScorer, reference: Reference, query: str, texts: list[str]
) -> None:
    together = scorer.score(query, texts).values
    assert together == pytest.approx([reference(query, text) for text in texts], abs=1e-4)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_is_kept_between_processes_gives_the_same_scores(folder: Path, tmp_path: Path, engine: str) -> None:
    checkpoint = open_checkpoint(folder)
    opened = [
        open_scorer(checkpoint, engine=engine, profile="exact", threads=1, cache=tmp_path / "kept") for _ in range(3)
    ]
    one, *others = [scorer.score("river", TEXTS, go_on=0.5).values for scorer in opened]
    assert all(other == pytest.approx(one, abs=1e-5) for other in others)
    assert "from the cache" in opened[-1].engine.why


@pytest.mark.parametrize("engine", ["auto", pytest.param("torch", marks=needs_torch)])
@pytest.mark.parametrize("apart", [0, 2])
def test_any_number_of_layers_can_read_apart(tmp_path: Path, apart: int, engine: str) -> None:
    checkpoint = open_checkpoint(tiny.tiny_split(tmp_path, seed=3, apart=apart))
    scorer, reference = open_scorer(checkpoint, engine=engine, profile="exact"), Reference(checkpoint)
    expected = [reference("python list", text) for text in TEXTS]
    assert scorer.score("python list", TEXTS).values == pytest.approx(expected, abs=1e-4)


def test_closed_gates_and_the_cosine_alone_give_the_bi_encoder(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tiny.tiny_split(tmp_path, seed=5)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith(".gate") or name == "heads.3.outer.weight" or name == "heads.3.outer.bias":
            tensor *= 0
    tensors["heads.3.factors"] = np.array([20.0, 0.0], np.float32)
    save_file(tensors, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    reference = Reference(checkpoint)

    def vector(text: str) -> Float:
        x = reference.embedded(reference.ids(text))
        for i in range(3):
            x = reference.layer(x, i)
        mean = x.mean(0)
        return mean / np.linalg.norm(mean)  # type: ignore[no-any-return]

    expected = [20 * float(vector("python list") @ vector(text)) for text in TEXTS]
    values = open_scorer(checkpoint, profile="exact", threads=1).score("python list", TEXTS).values
    assert values == pytest.approx(expected, abs=1e-4)


def test_a_long_document_is_cut_and_the_query_is_not(scorer: PairScorer, reference: Reference) -> None:
    scores = scorer.score("the query", ["snake river " * 200])
    room = scorer.max_length - len(reference.ids("the query")) - 2
    assert scores.trace.cut_tokens == 400 - room
    kept = " ".join(("snake river " * 200).split()[:room])
    assert scores.values[0] == pytest.approx(reference("the query", kept), abs=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("apart", 3, "0 to 2"),
        ("apart", "1", "apart = '1'"),
        ("exits", [1, 2], "3 the last"),
        ("exits", [3, 2], "in order"),
        ("exits", [0, 3], "from 1 up"),
        ("exits", None, "exits = None"),
        ("summed", "yes", "summed = 'yes'"),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused(tmp_path: Path, key: str, value: Any, reason: str) -> None:
    folder = tiny.tiny_split(tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, key: value}))
    with pytest.raises(ModelError, match=reason):
        open_checkpoint(folder)


def test_a_sum_needs_the_lower_head(tmp_path: Path) -> None:
    folder = tiny.tiny_split(tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "exits": [2, 3], "summed": True}))
    with pytest.raises(ModelError, match="needs a head after layer 1"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["heads.2.factors", "heads.3.inner.weight", "bert.encoder.layer.1.gate"])
def test_a_missing_gate_or_head_is_refused(tmp_path: Path, name: str) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tiny.tiny_split(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=name.removeprefix("bert.")):
        open_checkpoint(folder)


def test_gates_and_heads_are_part_of_the_digest(tmp_path: Path) -> None:
    one = open_checkpoint(tiny.tiny_split(tmp_path / "one", seed=1)).digest
    assert one != open_checkpoint(tiny.tiny_split(tmp_path / "two", seed=2)).digest


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_int8_by_calibrated_scales_is_near_fp32_whoever_shares_the_batch(tmp_path: Path, engine: str) -> None:
    checkpoint = open_checkpoint(tiny.tiny_split(tmp_path / "model", seed=7))
    draw = np.random.default_rng(0)
    words = ["list", "sort", "file", "date", "string", "river", "bank", "python", "snake", "the", "of"]

    def text(longest: int) -> str:
        return " ".join(draw.choice(words, int(draw.integers(2, longest))))

    scales = calibrate(checkpoint, [(text(6), [text(50) for _ in range(4)]) for _ in range(40)])
    write_scales(checkpoint, scales)
    assert {name.removesuffix(".range") for name in scales if name.endswith(".range")} == set(
        places_of(checkpoint.encoder)
    )
    query, texts = text(6), [text(50) for _ in range(30)]
    # random weights are no trained model's; the fast one is held to what this test says, not to a golden score
    opened = [
        PairScorer(
            checkpoint,
            open_engine(checkpoint, engine=engine, profile=profile, threads=1, cache=None),
            max_length=128,
            batch_tokens=400,
            tolerance=math.inf,
        )
        for profile in ("exact", "fast")
    ]
    exact, fast = (np.array(one.score(query, texts).values, dtype=float) for one in opened)
    assert 0 < np.sqrt(np.mean((fast - exact) ** 2)) < 0.1 * exact.std()
    alone = [opened[1].score(query, [one]).values[0] for one in texts]
    assert alone == pytest.approx(fast, abs=1e-3 if engine == "onnxruntime" else 0.05 * exact.std())


MANY = [f"{a} {b} {c}" for a in ("river", "list") for b in ("the", "of", "file") for c in "abcdefgh"]


def first_head(reference: Reference, query: str, text: str) -> float:
    apart = reference.encoder.apart or 0
    return reference.head(*reference.sides(query, text, apart), apart)


def test_the_best_by_lower_head_and_place_go_on_and_the_others_come_behind_in_its_order(
    scorer: PairScorer, reference: Reference
) -> None:
    query = "river in the list"
    scores = scorer.score(query, MANY, go_on=0.5)
    lower = np.array([first_head(reference, query, text) for text in MANY])
    chosen = np.argsort(0.5 * np.log2(2 + np.arange(len(MANY))) - lower, kind="stable")[: len(MANY) // 2].tolist()
    values = np.array(scores.values, dtype=float)
    expected = [reference(query, MANY[i]) for i in chosen]
    assert values[chosen].tolist() == pytest.approx(expected, abs=3e-3)  # states wait in half precision
    left = [i for i in range(len(MANY)) if i not in chosen]
    assert values[left].max() < values[chosen].min()
    moved = lower[left] - values[left]
    assert moved.min() == pytest.approx(moved.max(), abs=1e-3)
    assert moved.min() > -1e-3
    assert scores.trace.detail["exits"] == {"layer 1": 24, "layer 3": 24}
    assert scores.trace.pairs_scored == len(MANY)
    whole = scorer.score(query, MANY)
    assert scores.spans == whole.spans
    assert (scores.trace.tokens, scores.trace.truncated) == (whole.trace.tokens, whole.trace.truncated)
    assert "exits" not in whole.trace.detail


def test_what_the_lower_head_says_of_every_text_can_be_asked_for(scorer: PairScorer, reference: Reference) -> None:
    query, texts = "river in the list", [MANY[0], "", MANY[30], None, MANY[7]]
    lower = scorer.lower_logits(query, texts)
    assert [i for i, logit in enumerate(lower) if logit is None] == [1, 3]
    expected = [first_head(reference, query, MANY[i]) for i in (0, 30, 7)]
    assert [logit for logit in lower if logit is not None] == pytest.approx(expected, abs=1e-3)
    tokens = scorer.pair_tokens(query, texts)
    assert (tokens[1], tokens[3]) == (0, 0)
    assert sum(tokens) == scorer.score(query, texts).trace.tokens
    assert scorer.lower_logits("river " * 200, MANY[:3]) == [None] * 3


def test_at_least_twenty_go_on(scorer: PairScorer) -> None:
    assert scorer.score("river", MANY, go_on=0.01).trace.detail["exits"] == {"layer 1": 28, "layer 3": 20}
    few = scorer.score("river", MANY[:12], go_on=0.01)
    assert few.trace.detail["exits"] == {"layer 1": 0, "layer 3": 12}
    assert few.values == pytest.approx(scorer.score("river", MANY[:12]).values, abs=3e-3)


def test_texts_that_cannot_be_scored_keep_their_reason_when_stopping_early(scorer: PairScorer) -> None:
    texts: list[Any] = ["", *MANY, None]
    scores = scorer.score("river", texts, go_on=0.5)
    assert [scores.statuses[i] for i in (0, 1, -1)] == [Status.EMPTY, Status.SCORED, Status.NOT_TEXT]
    assert scores.values[0] is scores.values[-1] is None
    assert scorer.score("river " * 200, MANY, go_on=0.5).statuses == (Status.QUERY_TOO_LONG,) * len(MANY)


@pytest.mark.parametrize("milliseconds", [0, 2, 5, 20, 60, 10_000])
def test_under_a_deadline_the_first_texts_are_scored_and_none_is_lost(scorer: PairScorer, milliseconds: int) -> None:
    scores = scorer.score("river", MANY, go_on=0.5, deadline=Deadline.after_ms(milliseconds))
    done = [status is Status.SCORED for status in scores.statuses]
    assert all(status in (Status.SCORED, Status.DEADLINE) for status in scores.statuses)
    assert [value is not None for value in scores.values] == done
    left, went_on = scores.trace.detail["exits"].values()
    assert left + went_on == sum(done)
    if milliseconds == 10_000:
        assert (sum(done), went_on) == (len(MANY), 24)


@pytest.mark.parametrize("share", [0, -0.5, 1.5, math.nan])
def test_a_share_that_is_none_is_refused(scorer: PairScorer, share: float) -> None:
    with pytest.raises(InputError, match="go_on"):
        scorer.score("river", MANY, go_on=share)


def test_a_model_without_a_lower_head_says_that_it_cannot_stop(tmp_path: Path) -> None:
    plain = open_scorer(open_checkpoint(tiny.tiny_checkpoint(tmp_path)), profile="exact", threads=1)
    with pytest.raises(ModelError, match="cannot stop early"):
        plain.score("river", MANY, go_on=0.5)
    with pytest.raises(ModelError, match="no head after its lower layers"):
        plain.lower_logits("river", MANY)
