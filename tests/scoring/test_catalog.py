"""The catalog is whole, and what it refuses it refuses with the reason and the flag that allows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from secondpass.errors import ModelError
from secondpass.scoring.architecture import read_encoder
from secondpass.scoring.catalog import ALLOWED, catalog, families, family_named, permits_commerce
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.frame import prompt_frame
from secondpass.scoring.pair_scorer import open_scorer
from tiny import tiny_checkpoint

SPECIAL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def language_model(folder: Path, special: list[str] = SPECIAL, **config: Any) -> Path:
    """A folder that looks like a small causal language model up to its weights, which nothing here reads."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["yes", "no", "Yes", "1", "0"] * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    (folder / "config.json").write_text(json.dumps(settings | config))
    shutil.copyfile(tiny_checkpoint(folder.parent / "w") / "model.safetensors", folder / "model.safetensors")
    return folder


def test_every_family_and_model_is_whole() -> None:
    known = families()
    for name, family in known.items():
        assert family.query.count("{query}") == 1, name
        assert family.document.endswith("{document}"), name  # what follows it must survive, so it is a piece behind
        assert ("{instruction}" in family.query) == bool(family.instruction), name
        if family.head != "classifier":
            assert family.positive, name
            assert family.after, name
            assert family.source, name
            assert all(any(token in piece for piece in (*family.before, *family.between, *family.after))
                       for token in family.special), name  # fmt: skip
    for name, model in catalog().items():
        assert model.family in known, name
        assert not known[model.family].kinds or model.kind in known[model.family].kinds, name
        assert 0 < model.max_length <= model.longest, name
        assert {"layers", "hidden", "heads", "intermediate", "vocabulary"} <= model.sizes.keys(), name
        assert not model.verified, name  # no model hub was in reach of those who wrote this


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("zeroentropy/zerank-2", r"CC-BY-NC-4\.0.*allow=\['licence'\]"),
        ("castorini/monot5-base-msmarco", r"states no licence.*allow=\['licence'\]"),
        ("jinaai/jina-reranker-v1-turbo-en", r"code.*allow=\['remote-code'\]"),
    ],
)
def test_what_a_name_may_not_do_is_said_before_anything_is_fetched(name: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        open_checkpoint(name)
    with pytest.raises(ModelError, match="hub did not deliver"):  # the tests have no network: it went on
        open_checkpoint(name, allow=ALLOWED)


def hub_snapshot(place: Path, name: str, folder: Path) -> None:
    """The folder as the hub's own cache would hold it."""
    revision = "0123456789012345678901234567890123456789"
    home = place / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / revision)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(revision)


@pytest.mark.parametrize(
    ("card", "refused"),
    [("---\nlicense: cc-by-nc-4.0\n---\n", "cc-by-nc-4.0"), ("# no front matter", "no licence"), ("", "no licence")],
)
def test_a_name_outside_the_catalog_goes_by_its_card(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, card: str, refused: str
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = shutil.copytree(tiny, tmp_path / "own")
    (folder / "README.md").write_text(card)
    hub_snapshot(tmp_path, "owner/name", folder)
    assert open_checkpoint(folder).licence in ("unstated", "cc-by-nc-4.0")  # one's own folder is not asked
    with pytest.raises(ModelError, match=refused):
        open_checkpoint("owner/name")
    assert open_checkpoint("owner/name", allow=["licence"]).name == "owner/name"
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    hub_snapshot(tmp_path, "owner/free", folder)
    assert open_checkpoint("owner/free").licence == "mit"


@pytest.mark.parametrize("licence", ["Apache-2.0", "MIT", "cc-by-4.0"])
def test_licences_that_allow_commerce(licence: str) -> None:
    assert permits_commerce(licence)


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "unstated", "", "llama3", "other"])
def test_licences_that_do_not_or_that_nobody_knows(licence: str) -> None:
    assert not permits_commerce(licence)


def test_a_language_model_without_a_known_prompt_is_refused_with_those_that_fit(tmp_path: Path) -> None:
    folder = language_model(tmp_path / "m")
    with pytest.raises(ModelError, match=r"prompt it was trained with.*family= one of qwen3-reranker, zerank"):
        open_checkpoint(folder)
    checkpoint = open_checkpoint(folder, family="qwen3-reranker")
    assert checkpoint.head.kind == "causal"
    assert checkpoint.tokenizer.id_to_token(checkpoint.head.positive) == "yes"
    (folder / "golden.json").write_text(json.dumps({"family": "zerank"}))
    assert open_checkpoint(folder).family == "zerank"  # a folder may say it itself


@pytest.mark.parametrize(
    ("family", "config", "reason"),
    [
        ("no-such", {}, "no model family 'no-such'"),
        ("qwen-reranker", {}, "did you mean"),
        ("monot5", {}, "an encoder and decoder"),
        ("mxbai-rerank-v2", {}, "of kind qwen2"),
        ("pair", {}, "untrained or its prompt wrong"),
        # the well-known trap: the same weights as a classifier have a head that nobody trained
        ("qwen3-reranker", {"architectures": ["Qwen3ForSequenceClassification"]}, "untrained or its prompt wrong"),
        (None, {"architectures": ["Qwen3ForSequenceClassification"]}, "prompt it was trained with"),
        (None, {"architectures": ["Qwen3Model"]}, "no trained ranking head"),
        (None, {"auto_map": {"AutoModelForCausalLM": "own.Model"}}, r"allow=\['remote-code'\]"),
    ],
)
def test_a_wrong_family_or_head_is_refused(
    tmp_path: Path, family: str | None, config: dict[str, Any], reason: str
) -> None:
    folder = language_model(tmp_path / "m", **config)
    with pytest.raises(ModelError, match=reason):
        open_checkpoint(folder, family=family)


@pytest.mark.parametrize("lost", SPECIAL)
def test_a_missing_special_token_is_refused(tmp_path: Path, lost: str) -> None:
    folder = language_model(tmp_path / "m", [one for one in SPECIAL if one != lost])
    with pytest.raises(ModelError, match="lacks the special token"):
        open_checkpoint(folder, family="qwen3-reranker")


def test_a_missing_answer_token_is_refused(tmp_path: Path) -> None:
    folder = language_model(tmp_path / "m")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    del tokenizer["model"]["vocab"]["yes"]
    merged = [" ".join(pair) if isinstance(pair, list) else pair for pair in tokenizer["model"]["merges"]]
    tokenizer["model"]["merges"] = [pair for pair in merged if "".join(pair.split(" ")) != "yes"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="no token 'yes'"):
        open_checkpoint(folder, family="qwen3-reranker")


def test_tokens_that_the_folder_itself_scores_by_must_be_the_familys(tmp_path: Path) -> None:
    folder = language_model(tmp_path / "m")
    head = open_checkpoint(folder, family="qwen3-reranker").head
    (folder / "1_LogitScore").mkdir()
    stated = {"true_token_id": head.positive, "false_token_id": head.negative}
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps(stated))
    assert open_checkpoint(folder, family="qwen3-reranker").head == head
    with pytest.raises(ModelError, match="another family's checkpoint"):
        open_checkpoint(folder, family="zerank")


def test_an_instruction_goes_where_the_family_has_a_place_for_it(tmp_path: Path, tiny: Path) -> None:
    folder = language_model(tmp_path / "m")
    frames = [open_checkpoint(folder, family="zerank", instruction=one).frame for one in (None, "find laws")]
    assert frames[0].asked == ("\n", "")
    assert frames[1].asked == ("\n<query>", "</query>\n<instruction>find laws</instruction>")
    assert frames[0].digest != frames[1].digest
    with pytest.raises(ModelError, match="no place for an instruction"):
        open_checkpoint(tiny, instruction="find laws")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain = family_named("monot5")
    with pytest.raises(ModelError, match=r"takes no instruction|lacks the special token"):
        prompt_frame(tokenizer, plain, "find laws", folder)


def test_a_tokenizer_without_special_tokens_around_a_pair_is_refused(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    with pytest.raises(ModelError, match="no special tokens around a pair"):
        open_checkpoint(folder)


@pytest.mark.parametrize("allow", ["licence", ["everything"], ("pickle", "fire")])
def test_what_cannot_be_allowed_is_said(tiny: Path, allow: Any) -> None:
    with pytest.raises(ModelError, match="give a list of licence, pickle, remote-code"):
        open_checkpoint(tiny, allow=allow)


def test_shards_are_read_as_the_index_names_them(tmp_path: Path, cache: Path) -> None:
    whole = tiny_checkpoint(tmp_path / "whole")
    parts = shutil.copytree(whole, tmp_path / "parts")
    tensors = load_file(parts / "model.safetensors")
    (parts / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (k % 2)}-of-00002.safetensors" for k, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, parts / file)
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    scores = [
        open_scorer(open_checkpoint(one), engine="onnxruntime", profile="exact", cache=cache).score("sort", ["list"])
        for one in (whole, parts)
    ]
    assert scores[0].values == scores[1].values
    (parts / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors.*copy it again"):
        open_checkpoint(parts)


def test_bfloat16_weights_are_read_exactly(tmp_path: Path) -> None:
    import numpy as np

    folder = tiny_checkpoint(tmp_path / "m")
    halves = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        halves[name] = (tensor.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    header: dict[str, Any] = {}
    blob = b""
    for name, tensor in halves.items():
        raw = tensor.tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [len(blob), len(blob) + len(raw)]}
        blob += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + blob)
    weights = open_checkpoint(folder).weights()
    for name, tensor in halves.items():
        expected = (tensor.astype(np.uint32) << 16).view(np.float32)
        assert np.array_equal(weights[name.removeprefix("bert.")], expected), name


def test_pickled_weights_are_read_where_they_are_allowed(tmp_path: Path, cache: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    folder = tiny_checkpoint(tmp_path / "m")
    before = open_scorer(open_checkpoint(folder), engine="onnxruntime", profile="exact", cache=cache)
    tensors = {name: torch.from_numpy(one.copy()) for name, one in load_file(folder / "model.safetensors").items()}
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pickled weights can run code.*allow=\['pickle'\]"):
        open_checkpoint(folder)
    after = open_scorer(open_checkpoint(folder, allow=["pickle"]), engine="onnxruntime", profile="exact", cache=cache)
    assert after.score("sort", ["list"]).values == before.score("sort", ["list"]).values


def test_a_tensor_that_only_the_graph_asks_for_is_named_too(tmp_path: Path, cache: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.encoder.layer.1.attention.self.value.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"layer\.1\.attention\.self\.value\.bias' is missing"):
        open_scorer(open_checkpoint(folder), cache=cache)


@pytest.mark.parametrize(("pad", "first"), [(0, 1), (1, 2), (None, 2)])
def test_positions_of_the_robertas_begin_behind_the_pad(tmp_path: Path, pad: int | None, first: int) -> None:
    config = {"model_type": "xlm-roberta", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    encoder = read_encoder(tmp_path, {**config, "max_position_embeddings": 514, "pad_token_id": pad})
    assert (encoder.first_position, encoder.positions) == (first, 514 - first)
