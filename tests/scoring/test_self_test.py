"""The self-test passes on a sound model, and sees each way in which one can be wrong."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondpass.errors import ModelError
from secondpass.scoring import self_test as tested
from secondpass.scoring.batching import Batch
from secondpass.scoring.checkpoint import Checkpoint, Golden, open_checkpoint
from secondpass.scoring.engines import Logits
from secondpass.scoring.pair_scorer import PairScorer, open_scorer
from secondpass.scoring.prepare import Prepared, prepare
from secondpass.scoring.self_test import Check, check_model, check_template, pin, self_test
from secondpass.weights import SHIPPED
from tiny import tiny_checkpoint, tiny_split


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers takes seconds to import, and is looked for by the tests of it alone."""
    if "with_torch" not in request.fixturenames:
        monkeypatch.setattr("secondpass.scoring.self_test.importlib.util.find_spec", lambda name: None)


@pytest.fixture
def with_torch() -> None:
    """Skips where the extra is not installed."""
    pytest.importorskip("torch", reason="needs the extra torch")
    pytest.importorskip("transformers", reason="needs the extra torch")


@pytest.fixture(scope="module")
def scorer(tiny: Path, cache: Path) -> Iterator[PairScorer]:
    opened = open_scorer(open_checkpoint(tiny), cache=cache)
    yield opened
    opened.close()


def states(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def failed(checks: tuple[Check, ...]) -> set[str]:
    return {check.name for check in checks if check.state == "failed"}


def broken(scorer: PairScorer, infer: Callable[[Batch], Logits]) -> PairScorer:
    """The same model on an engine that says something else."""
    return PairScorer(
        scorer.checkpoint,
        replace(scorer.engine, infer=infer),
        max_length=scorer.max_length,
        batch_tokens=scorer.batch_tokens,
        tolerance=scorer.tolerance,
    )


def tried(scorer: PairScorer, infer: Callable[[Batch], Logits], cache: Path) -> set[str]:
    other = broken(scorer, infer)
    try:
        return failed(self_test(other, cache=cache))
    finally:
        other.close()


def test_a_sound_model_passes(scorer: PairScorer, cache: Path, tiny: Path) -> None:
    checks = check_model(tiny, cache=cache)
    assert failed(checks) == set()
    assert states(checks)["opened"] == "ok"
    assert "golden pairs" not in states(checks)  # the folder has none
    assert states(self_test(scorer, cache=cache)) | {"opened": "ok"} == states(checks)
    found = {check.name: check for check in checks}
    assert "[CLS]" in found["special tokens"].said
    assert str(open_checkpoint(tiny).frame.after[0]) in found["special tokens"].said
    for name in ("engine", "batch mates", "order"):
        value, allowed = found[name].value, found[name].allowed
        assert value is not None
        assert allowed is not None
        assert 0 <= value <= allowed


def test_the_portable_engine_is_not_compared_with_itself(tiny: Path, cache: Path) -> None:
    checks = check_model(tiny, engine="onnxruntime", profile="exact", cache=cache)
    assert states(checks)["engine"] == "skipped"
    assert failed(checks) == set()


def test_a_split_encoder_passes(tmp_path: Path, cache: Path) -> None:
    checks = check_model(tiny_split(tmp_path / "split"), cache=cache)
    assert failed(checks) == set()
    assert "layout" not in states(checks)  # it reads a document as a text of its own


def test_a_wrong_golden_pair_is_seen_and_the_rest_is_tried_all_the_same(
    tiny: Path, tmp_path: Path, cache: Path, scorer: PairScorer
) -> None:
    (right,) = scorer.score("how do vaccines work", ["they train"]).values
    assert right is not None
    folder = tiny_checkpoint(tmp_path / "golden")
    pair = {"query": "how do vaccines work", "document": "they train", "logit": right + 7}
    (folder / "golden.json").write_text(json.dumps({"pairs": [pair]}))
    checks = check_model(folder, cache=cache)
    assert failed(checks) == {"golden pairs"}
    (row,) = [check for check in checks if check.name == "golden pairs"]
    assert row.value == pytest.approx(7, abs=0.2)
    assert {"engine", "order", "ranks"} <= states(checks).keys()
    good = Golden("how do vaccines work", "they train", right)
    own = replace(scorer.checkpoint, golden=(good,))
    other = PairScorer(own, scorer.engine, max_length=128, batch_tokens=512, tolerance=scorer.tolerance)
    assert states(self_test(other, cache=cache))["golden pairs"] == "ok"
    other.close()


def test_an_engine_that_is_wrong_is_seen(scorer: PairScorer, cache: Path) -> None:
    infer = scorer.engine.infer
    assert tried(scorer, lambda batch: infer(batch) * np.float32(1.5), cache) == {"engine"}
    assert tried(scorer, lambda batch: infer(batch) * np.float32(np.nan), cache) == {"engine", "batch mates", "order"}


def test_scores_that_depend_on_batch_mates_are_seen(scorer: PairScorer, cache: Path) -> None:
    infer = scorer.engine.infer

    def padded(batch: Batch) -> Logits:
        """As if padding were attended to."""
        return np.asarray(infer(batch) + 0.01 * (batch.mask == 0).sum(axis=1), dtype=np.float32)

    assert "batch mates" in tried(scorer, padded, cache)


def test_scores_that_depend_on_the_order_or_on_chance_are_seen(scorer: PairScorer, cache: Path) -> None:
    infer, draw, calls = scorer.engine.infer, np.random.default_rng(0), itertools.count()

    def noisy(batch: Batch) -> Logits:
        return infer(batch) + draw.normal(0, 3, len(batch.ids)).astype(np.float32)

    assert {"engine", "batch mates", "order"} <= tried(scorer, noisy, cache)

    def drifting(batch: Batch) -> Logits:
        return np.asarray(infer(batch) + next(calls), dtype=np.float32)

    assert "order" in tried(scorer, drifting, cache)

    def by_place(batch: Batch) -> Logits:
        return np.asarray(infer(batch) + np.arange(len(batch.ids)), dtype=np.float32)

    assert "order" in tried(scorer, by_place, cache)


def changed(checkpoint: Checkpoint, **parts: Any) -> Checkpoint:
    return replace(checkpoint, frame=replace(checkpoint.frame, **parts))


def test_a_template_that_lost_a_part_is_seen(tiny: Path) -> None:
    checkpoint = open_checkpoint(tiny)
    assert failed(check_template(checkpoint, 128)) == set()
    assert failed(check_template(changed(checkpoint, after=()), 128)) == {"layout", "cut"}
    assert "layout" in failed(check_template(changed(checkpoint, between=()), 128))
    unknown = checkpoint.tokenizer.token_to_id("[UNK]")
    checks = check_template(changed(checkpoint, before=(unknown,)), 128)
    assert "special tokens" in failed(checks)
    assert any("[UNK]" in check.said for check in checks)


def cut_otherwise(change: Callable[[Any], Any]) -> Callable[..., Prepared]:
    def wrong(*arguments: Any) -> Prepared:
        prepared = prepare(*arguments)
        return replace(prepared, rows=tuple(row and change(row) for row in prepared.rows))

    return wrong


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda row: replace(row, ids=row.ids[:-1]) if row.cut_tokens else row, "cut"),  # the end is cut away
        (lambda row: replace(row, ids=row.ids[2:]) if row.cut_tokens else row, "cut"),  # or the query
        (lambda row: replace(row, ids=np.concatenate((row.ids[:9], row.ids))), "cut"),  # or too little
        (lambda row: replace(row, cut_tokens=0), "what was read"),
        (lambda row: replace(row, span=(0, 10_000)) if row.cut_tokens else row, "what was read"),
        (lambda row: replace(row, span=(0, 5)), "what was read"),
    ],
)
def test_a_cut_that_is_wrong_or_not_told_is_seen(
    tiny: Path, change: Callable[[Any], Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tested, "prepare", cut_otherwise(change))
    assert name in failed(check_template(open_checkpoint(tiny), 128))


def test_a_model_that_ranks_the_wrong_way_round_is_a_warning(cache: Path) -> None:
    good = open_scorer(open_checkpoint("secondpass-mini"), cache=cache)
    infer = good.engine.infer
    turned = broken(good, lambda batch: -infer(batch))
    try:
        assert tested._ranks(good).state == "ok"
        assert tested._ranks(turned).state == "warning"
    finally:
        good.close()
        turned.close()


def test_what_cannot_be_opened_or_run_is_a_failed_check(tmp_path: Path, tiny: Path, cache: Path) -> None:
    (row,) = check_model(tmp_path / "nothing")
    assert (row.name, row.state, "no such folder" in row.said) == ("opened", "failed", True)
    *_, last = check_model(tiny, engine="onnxruntime", device="tpu", cache=cache)
    assert (last.name, last.state) == ("scores", "failed")
    (folder := tmp_path / "wordless").mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    # a letter is a token, and whatever is longer has none
    settings["normalizer"] = {"type": "Replace", "pattern": {"Regex": ".{2,}"}, "content": ""}
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    *_, last = check_model(folder, cache=cache)
    assert (last.state, "there is nothing to score in the pair" in last.said) == ("failed", True)


def test_pinned_logits_are_those_of_today(tmp_path: Path, cache: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "mine")
    place = pin(folder, cache=cache)
    assert [file.name for file in folder.glob("golden*")] == ["golden.json"]
    opened = open_checkpoint(folder)
    assert len(opened.golden) > 5
    checks = check_model(folder, cache=cache)
    assert failed(checks) == set()
    assert states(checks)["golden pairs"] == "ok"
    with pytest.raises(ModelError, match="golden pairs already"):
        pin(folder, cache=cache)
    place.write_text("[]")
    with pytest.raises(ModelError, match="a JSON object is expected"):
        pin(folder, cache=cache)
    with pytest.raises(ModelError, match="a folder of your own"):
        pin(SHIPPED["secondpass-mini"])


QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def causal(folder: Path) -> Path:
    """A tiny Qwen3 with random weights, its tokenizer trained on the spot."""
    import torch
    import transformers
    from tokenizers import AddedToken, Tokenizer, decoders
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    from secondpass.scoring.probes import PROBES

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(vocab_size=500, initial_alphabet=ByteLevel.alphabet(), special_tokens=QWEN)
    tokenizer.train_from_iterator([*itertools.chain(*PROBES), *["yes no"] * 50, *["yes", "no"] * 50], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in QWEN])
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        max_position_embeddings=1024,
        pad_token_id=0,
        initializer_range=0.3,
        architectures=["Qwen3ForCausalLM"],
    )
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_language_model_passes_and_its_breaks_are_seen(with_torch: None, tmp_path: Path, cache: Path) -> None:
    folder = causal(tmp_path / "qwen")
    (row,) = check_model(folder)
    assert "give family= one of" in row.said
    checks = check_model(folder, family="qwen3-reranker", profile="exact", cache=cache)
    assert failed(checks) == set(), checks
    found = {check.name: check for check in checks}
    assert "scored by yes" in found["special tokens"].said
    assert found["engine"].value is not None
    checkpoint = open_checkpoint(folder, family="qwen3-reranker")
    end = checkpoint.frame.after
    assert failed(check_template(changed(checkpoint, after=end[:-1]), 512)) == {"cut"}
    assert failed(check_template(changed(checkpoint, after=()), 512)) == {"cut", "special tokens"}
    checkpoint.tokenizer.encode_special_tokens = False  # a document may close its own turn
    assert failed(check_template(checkpoint, 512)) == {"layout"}
    checkpoint = open_checkpoint(folder, family="qwen3-reranker")
    same = replace(checkpoint.head, negative=checkpoint.head.positive)
    assert failed(check_template(replace(checkpoint, head=same), 512)) == {"special tokens"}
    pin(folder, family="qwen3-reranker", cache=cache)
    assert open_checkpoint(folder).family == "qwen3-reranker"  # from now on it says so itself
    assert states(check_model(folder, profile="exact", cache=cache))["golden pairs"] == "ok"


def test_a_classifier_is_compared_with_transformers(with_torch: None, tiny: Path, cache: Path) -> None:
    (row,) = [check for check in check_model(tiny, profile="exact", cache=cache) if check.name == "engine"]
    assert (row.state, "transformers" in row.said) == ("ok", True)
    assert row.value is not None
    assert row.value < 1e-4
