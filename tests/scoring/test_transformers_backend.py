"""The engine on transformers' models says what each family's own forward says, and computes a prefix once a query."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

torch = pytest.importorskip("torch", reason="needs the extra torch")
transformers = pytest.importorskip("transformers", reason="needs the extra torch")

from secondpass.errors import ModelError  # noqa: E402
from secondpass.scoring import transformers_backend as backend  # noqa: E402
from secondpass.scoring.architecture import Head, read_encoder  # noqa: E402
from secondpass.scoring.batching import Batch  # noqa: E402
from secondpass.scoring.checkpoint import Checkpoint, open_checkpoint  # noqa: E402
from secondpass.scoring.engines import Engine  # noqa: E402
from secondpass.scoring.frame import Frame  # noqa: E402
from secondpass.scoring.pair_scorer import open_scorer  # noqa: E402
from secondpass.scoring.prepare import prepare  # noqa: E402
from secondpass.scoring.probes import PROBES  # noqa: E402
from secondpass.scoring.transformers_backend import open_transformers  # noqa: E402

VOCABULARY, HIDDEN, PAD = 60, 32, 3
YES, NO = 7, 11
BF16_SHARE = 0.05  # of the largest score: what `open_scorer` allows bf16

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Family:
    """A family's class and the sizes of a tiny model of it."""

    make: str
    config: str
    sizes: dict[str, Any]
    head: Head


DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
T5 = {"vocab_size": VOCABULARY, "d_model": HIDDEN, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
T5 |= {"pad_token_id": PAD, "eos_token_id": 2, "decoder_start_token_id": PAD}
ENCODER = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
ENCODER |= {"intermediate_size": 48, "max_position_embeddings": 128, "pad_token_id": PAD, "num_labels": 1}
CAUSAL, SEQ2SEQ = Head("causal", YES, NO), Head("seq2seq", YES, NO)
FAMILIES = {
    "qwen3": Family("Qwen3ForCausalLM", "Qwen3Config", DECODER | {"tie_word_embeddings": True}, CAUSAL),
    "qwen2": Family("Qwen2ForCausalLM", "Qwen2Config", DECODER, Head("causal", YES, None, 5.0)),
    "qwen2-sliding": Family(
        "Qwen2ForCausalLM", "Qwen2Config", DECODER | SLIDING | {"use_sliding_window": True}, CAUSAL
    ),
    "gemma": Family("GemmaForCausalLM", "GemmaConfig", DECODER, Head("causal", YES)),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        "Gemma2Config",
        DECODER | SLIDING | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
        CAUSAL,
    ),
    "gemma2-wide": Family(
        "Gemma2ForCausalLM",
        "Gemma2Config",
        DECODER | {"layer_types": ["full_attention"] * 2, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
        CAUSAL,
    ),
    "llama": Family("LlamaForCausalLM", "LlamaConfig", DECODER, Head("causal", YES, NO, 2.0)),
    "t5": Family("T5ForConditionalGeneration", "T5Config", T5, SEQ2SEQ),
    "mt5": Family("MT5ForConditionalGeneration", "MT5Config", T5, SEQ2SEQ),
    "bert": Family("BertForSequenceClassification", "BertConfig", ENCODER, Head()),
    "roberta": Family("RobertaForSequenceClassification", "RobertaConfig", ENCODER | {"type_vocab_size": 1}, Head()),
    "modernbert": Family(
        "ModernBertForSequenceClassification", "ModernBertConfig", ENCODER | {"local_attention": 8}, Head()
    ),
    "deberta": Family(
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        ENCODER | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
        Head(),
    ),
    "qwen3-classifier": Family("Qwen3ForSequenceClassification", "Qwen3Config", DECODER | {"num_labels": 1}, Head()),
}
SHARING = ["qwen3", "qwen2", "gemma", "gemma2-wide", "llama"]
NOT_SHARING = ["qwen2-sliding", "gemma2"]


def saved(folder: Path, family: Family, **sizes: Any) -> Path:
    """A random model in its family's own layout, with weights so large that logits spread like trained ones."""
    transformers.set_seed(0)
    model = getattr(transformers, family.make)(getattr(transformers, family.config)(**family.sizes, **sizes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.5 if "embed" in name or "shared" in name else 0.25)
    model.save_pretrained(folder)
    return folder


def checkpoint_of(folder: Path, head: Head) -> Checkpoint:
    config = json.loads((folder / "config.json").read_text())
    return Checkpoint(
        name="tiny",
        folder=folder,
        kind=config["model_type"],
        config=config,
        encoder=read_encoder(folder, config),
        family="test",
        frame=Frame((), (), ()),
        head=head,
        pad=PAD,
        max_length=128,
        longest=128,
        activation="identity",
        tokenizer=Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")),
        digest="0",
        golden=(),
        tolerance={},
        licence="mit",
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = saved(tmp_path_factory.mktemp("models") / name, FAMILIES[name])
        return made[name]

    return folder


Opened = Callable[[str], Engine]


@pytest.fixture(scope="module")
def opened(folders: Callable[[str], Path]) -> Opened:
    """The engine of each family in fp32, opened once."""
    made: dict[str, Engine] = {}

    def engine(name: str) -> Engine:
        if name not in made:
            checkpoint = checkpoint_of(folders(name), FAMILIES[name].head)
            made[name] = open_transformers(checkpoint, device="cpu", profile="exact")
        return made[name]

    return engine


def texts(seed: int, count: int, longest: int = 40) -> list[Ids]:
    """Random tokens, none of them the pad's, of many lengths."""
    draw = np.random.default_rng(seed)
    return [draw.integers(PAD + 1, VOCABULARY, draw.integers(1, longest)) for _ in range(count)]


def padded(rows: Sequence[Ids]) -> tuple[Ids, Ids]:
    width = max(map(len, rows)) + 3  # and a little more, as batching has it
    ids, mask = np.full((len(rows), width), PAD), np.zeros((len(rows), width), np.int64)
    for k, row in enumerate(rows):
        ids[k, : len(row)], mask[k, : len(row)] = row, 1
    return ids, mask


def batch_of(query: Ids, documents: Sequence[Ids], *, split: bool) -> Batch:
    places = tuple(range(len(documents)))
    if split:
        ids, mask = padded(documents)
        return Batch(places, ids, mask, np.zeros_like(ids), *padded([query]))
    ids, mask = padded([np.concatenate((query, document)) for document in documents])
    types = mask.copy()
    types[:, : len(query)] = 0
    return Batch(places, ids, mask, types)


def batch_for(name: str, query: Ids, documents: Sequence[Ids]) -> Batch:
    return batch_of(query, documents, split=FAMILIES[name].head.kind == "causal")


def reference(folder: Path, head: Head, query: Ids, documents: Sequence[Ids]) -> NDArray[np.float64]:
    """What transformers says of the whole sequences, with the whole vocabulary, padded on the left where it decodes."""
    kinds = {"causal": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM"}
    loader = getattr(transformers, kinds.get(head.kind, "AutoModelForSequenceClassification"))
    model = loader.from_pretrained(folder, dtype=torch.float32).eval()
    rows = [[*query.tolist(), *document.tolist()] for document in documents]
    longest, left = max(map(len, rows)), head.kind == "causal"

    def wide(values: Sequence[list[int]], fill: int) -> Any:
        padding = [[fill] * (longest - len(one)) for one in values]
        return torch.tensor([p + one if left else one + p for one, p in zip(values, padding, strict=True)])

    inputs = {"input_ids": wide(rows, PAD), "attention_mask": wide([[1] * len(row) for row in rows], 0)}
    with torch.no_grad():
        if head.kind == "classifier":
            if model.config.model_type == "bert":
                types = [[0] * len(query) + [1] * len(document) for document in documents]
                inputs["token_type_ids"] = wide(types, 0)
            return np.asarray(model(**inputs).logits.squeeze(-1).double())
        if head.kind == "causal":
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            logits = model(**inputs).logits[:, -1]
        else:
            logits = model(**inputs, decoder_input_ids=torch.full((len(rows), 1), PAD)).logits[:, 0]
        assert logits.shape[1] == model.config.vocab_size > 2
        if head.negative is None:
            return np.asarray(logits[:, head.positive].double() / head.scale)
        likely = logits.double().log_softmax(-1)
        return np.asarray((likely[:, head.positive] - likely[:, head.negative]) / head.scale)


@pytest.mark.parametrize("name", FAMILIES)
def test_fp32_is_the_familys_own_forward(folders: Callable[[str], Path], opened: Opened, name: str) -> None:
    query, documents = texts(1, 1, 30)[0], texts(2, 16)
    expected = reference(folders(name), FAMILIES[name].head, query, documents)
    assert np.ptp(expected) > 0.5  # or any order of rows would do
    engine = opened(name)
    batch = batch_for(name, query, documents)
    logits = engine.infer(batch)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert engine.alone is not None
    np.testing.assert_allclose(engine.alone(batch), expected, atol=1e-4)
    one_by_one = [engine.infer(batch_for(name, query, [document]))[0] for document in documents]
    np.testing.assert_allclose(one_by_one, expected, atol=1e-4)
    order = np.random.default_rng(0).permutation(len(documents))
    mixed = engine.infer(batch_for(name, query, [documents[k] for k in order]))
    np.testing.assert_allclose(mixed, expected[order], atol=1e-4)
    if FAMILIES[name].head.kind == "causal":  # and whole sequences, whether it can share or not
        np.testing.assert_allclose(engine.infer(batch_of(query, documents, split=False)), expected, atol=1e-4)


@pytest.mark.parametrize("pad", [None, PAD - 1])
def test_a_decoders_classifier_takes_batches_whatever_its_own_pad_is(
    folders: Callable[[str], Path], tmp_path: Path, pad: int | None
) -> None:
    folder = changed(folders("qwen3-classifier"), tmp_path / "m", pad_token_id=pad)
    engine = open_transformers(checkpoint_of(folder, Head()), device="cpu", profile="exact")
    assert engine.alone is not None
    batch = batch_for("qwen3-classifier", texts(1, 1)[0], texts(2, 6))
    np.testing.assert_allclose(engine.infer(batch), engine.alone(batch), atol=1e-4)


@contextmanager
def tokens_computed() -> Iterator[list[int]]:
    """How many tokens, padding included, went into each forward meanwhile."""
    counts: list[int] = []

    def count(module: Any, args: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Embedding):
            counts.append(args[0].numel())

    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        yield counts
    finally:
        hook.remove()


@pytest.mark.parametrize("name", SHARING)
def test_a_prefix_is_computed_once_a_query(opened: Opened, name: str) -> None:
    engine = opened(name)
    assert "prefix computed once a query" in engine.why
    query = texts(3, 1)[0]
    batches = [batch_for(name, query, texts(seed, 4)) for seed in (4, 5, 6)]
    with tokens_computed() as counts:
        for batch in batches:
            engine.infer(batch)
    assert counts == [len(query), *(batch.ids.size for batch in batches)]


@pytest.mark.parametrize("name", NOT_SHARING)
def test_a_model_with_sliding_windows_says_that_it_does_not_share(opened: Opened, name: str) -> None:
    engine = opened(name)
    assert "for each document" in engine.why
    assert "Sliding" in engine.why
    query = texts(3, 1)[0]
    batch = batch_for(name, query, texts(4, 4))
    with tokens_computed() as counts:
        engine.infer(batch)
    assert counts == [batch.ids.size + 4 * len(query)]


@pytest.mark.parametrize(("limit", "kept"), [({"_PREFIXES": 2}, 2), ({"_PREFIX_BYTES": 5000}, 1), ({}, 3)])
def test_the_prefixes_that_are_kept_are_bounded(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, limit: dict[str, int], kept: int
) -> None:
    for name, value in limit.items():
        monkeypatch.setattr(backend, name, value)
    engine = open_transformers(checkpoint_of(folders("qwen3"), CAUSAL), device="cpu", profile="exact")
    draw = np.random.default_rng(5)
    a, b, c = (draw.integers(PAD + 1, VOCABULARY, 15) for _ in range(3))  # 2 layers, 2 heads of 8: 3,840 bytes each
    for query in (a, b, a, c):
        engine.infer(batch_for("qwen3", query, texts(6, 1)))
    for back, query in enumerate((c, a, b)):  # the one used last first
        with tokens_computed() as counts:
            engine.infer(batch_for("qwen3", query, texts(6, 1)))
        if back < kept:
            assert len(counts) == 1
        else:
            assert counts[0] == 15


@pytest.mark.parametrize("name", ["llama", "gemma2", "t5"])
def test_threads_with_queries_of_their_own_get_the_scores_of_one_after_the_other(opened: Opened, name: str) -> None:
    engine = opened(name)
    queries = texts(7, 3)
    batches = [batch_for(name, queries[k % 3], texts(k, 3)) for k in range(12)]
    expected = [engine.infer(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            for logits, one in zip(pool.map(engine.infer, batches), expected, strict=True):
                np.testing.assert_allclose(logits, one, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "t5", "bert", "deberta"])
def test_bf16_stays_near_fp32_and_its_scores_are_not_rounded_to_it(
    folders: Callable[[str], Path], opened: Opened, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    batch = batch_for(name, texts(1, 1)[0], texts(2, 16))
    exact = opened(name).infer(batch)
    monkeypatch.setattr(backend, "precision_of", lambda device, profile: ("bf16", "a test"))
    engine = open_transformers(checkpoint_of(folders(name), FAMILIES[name].head), device="cpu", profile="default")
    assert (engine.name, engine.precision) == ("transformers", "bf16")
    logits = engine.infer(batch)
    worst = np.abs(logits - exact).max()
    assert 1e-4 < worst < BF16_SHARE * max(1.0, float(np.abs(exact).max()))
    assert (logits.view(np.uint32) & 0xFFFF).any()  # bf16 has the upper half alone


def changed(
    folder: Path, target: Path, *, drop: str = "", add: dict[str, NDArray[Any]] | None = None, **config: Any
) -> Path:
    """A copy of a folder without the tensors whose name has `drop` in it, with others, and with other settings or
    (None) without them."""
    target.mkdir()
    tensors = load_file(folder / "model.safetensors")
    kept = {name: one for name, one in tensors.items() if not drop or drop not in name}
    save_file(kept | (add or {}), target / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps({key: one for key, one in settings.items() if one is not None}))
    return target


@pytest.mark.parametrize("alike", [False, True])
def test_a_t5_with_a_head_of_its_own_does_not_scale(
    folders: Callable[[str], Path], tmp_path: Path, alike: bool
) -> None:
    words = load_file(folders("t5") / "model.safetensors")["shared.weight"]
    head = words if alike else np.random.default_rng(9).standard_normal(words.shape).astype(np.float32)
    # as published: newer versions alone say whether the decoder's outputs are scaled
    published: dict[str, Any] = {"tie_word_embeddings": False, "scale_decoder_outputs": None}
    folder = changed(folders("t5"), tmp_path / "m", add={"lm_head.weight": head}, **published)
    query, documents = texts(1, 1)[0], texts(2, 5)
    engine = open_transformers(checkpoint_of(folder, SEQ2SEQ), device="cpu", profile="exact")
    expected = reference(folder, SEQ2SEQ, query, documents)
    scaled = reference(folders("t5"), SEQ2SEQ, query, documents)
    assert np.ptp(expected) > 2 * np.ptp(scaled)
    np.testing.assert_allclose(engine.infer(batch_for("t5", query, documents)), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "head", "change", "lacking"),
    [
        ("bert", Head(), {"drop": "classifier"}, "classifier.bias, classifier.weight"),
        ("deberta", Head(), {"drop": "pooler"}, "pooler.dense"),
        ("bert", Head(), {"drop": "layer.1.output.dense.weight"}, "layer.1.output.dense.weight"),
        ("qwen2", CAUSAL, {"drop": "lm_head"}, "lm_head.weight"),
        ("t5", SEQ2SEQ, {"tie_word_embeddings": False}, "lm_head.weight"),
        ("qwen3", Head(), {"id2label": {"0": "LABEL_0"}}, "score.weight"),  # a causal model taken for a classifier
    ],
)
def test_an_untrained_head_is_refused_by_the_names_of_what_is_missing(
    folders: Callable[[str], Path], tmp_path: Path, name: str, head: Head, change: dict[str, Any], lacking: str
) -> None:
    folder = changed(folders(name), tmp_path / "m", **change)
    with pytest.raises(ModelError, match=f"lack.*{lacking}.*random"):
        open_transformers(checkpoint_of(folder, head), device="cpu", profile="exact")


@pytest.mark.parametrize(
    ("name", "head", "device", "profile", "reason"),
    [
        ("qwen3", Head("causal", VOCABULARY), "cpu", "exact", f"vocabulary has {VOCABULARY} tokens"),
        ("qwen3", CAUSAL, "tpu", "exact", "not available"),
        ("qwen3", CAUSAL, "cpu", "int9", "profile 'int9'"),
        ("bert", SEQ2SEQ, "cpu", "exact", "cannot load it as AutoModelForSeq2SeqLM"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    folders: Callable[[str], Path], name: str, head: Head, device: str, profile: str, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        open_transformers(checkpoint_of(folders(name), head), device=device, profile=profile)


def test_loading_prints_nothing_and_changes_no_setting(
    folders: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    useless = {"of.no.use": np.ones(2, np.float32)}  # which transformers warns of
    folder = changed(folders("bert"), tmp_path / "m", add=useless)
    folders("qwen2")
    capfd.readouterr()
    logger, handler = logging.getLogger("transformers"), logging.StreamHandler()

    def settings() -> tuple[Any, ...]:
        bars = transformers.logging.is_progress_bar_enabled()
        return bars, logger.level, len(logger.handlers), torch.get_default_dtype(), torch.get_num_threads()

    logger.addHandler(handler)
    before, drawn = settings(), torch.random.get_rng_state()
    try:
        for place, head in ((folder, Head()), (folders("qwen2"), CAUSAL)):
            open_transformers(checkpoint_of(place, head), device="cpu", profile="exact")
        assert capfd.readouterr() == ("", "")
        assert settings() == before
        assert torch.equal(torch.random.get_rng_state(), drawn)
        transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        said = capfd.readouterr().err
    finally:
        logger.removeHandler(handler)
    assert "of.no.use" in said  # others who load are told as before
    assert ("Loading weights" in said) == before[0]


@pytest.mark.gpu
@pytest.mark.parametrize(("profile", "share"), [("exact", 1e-4), ("default", BF16_SHARE), ("fast", BF16_SHARE)])
def test_cuda_agrees_with_the_cpu(folders: Callable[[str], Path], opened: Opened, profile: str, share: float) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    for name, family in FAMILIES.items():
        engine = open_transformers(checkpoint_of(folders(name), family.head), device="cuda", profile=profile)
        batch = batch_for(name, texts(1, 1)[0], texts(2, 16))
        expected = opened(name).infer(batch)
        near = share * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(engine.infer(batch), expected, atol=near, err_msg=name)


def prompted(folder: Path) -> Path:
    """A tiny Qwen3 with a tokenizer of its own that knows its family's special tokens."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    trainer = BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=ByteLevel.alphabet())
    tokenizer.train_from_iterator([*(text for pair in PROBES for text in pair), *["yes", "no"] * 50], trainer)
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 1024, "pad_token_id": 0}
    saved(folder, Family("Qwen3ForCausalLM", "Qwen3Config", DECODER | sizes, CAUSAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_folder_opened_by_its_family_scores_as_its_model_does(tmp_path: Path) -> None:
    folder = prompted(tmp_path / "m")
    checkpoint = open_checkpoint(folder, family="qwen3-reranker")
    scorer = open_scorer(checkpoint, profile="exact")
    query, documents = PROBES[0][0], [text for _, text in PROBES]
    with tokens_computed() as counts:
        scores = scorer.score(query, documents)
    scorer.close()
    rows = [row for row in prepare(checkpoint, query, documents, scorer.tokens).rows if row is not None]
    asked = rows[0].query_tokens
    given = [row.ids[asked:].astype(np.int64) for row in rows]
    expected = reference(folder, checkpoint.head, rows[0].ids[:asked].astype(np.int64), given)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(np.array(scores.values, np.float64), expected, atol=1e-4)
    assert len(counts) > 2
    assert counts.count(asked) == 1
    assert sum(counts) < sum(len(row.ids) for row in rows)
