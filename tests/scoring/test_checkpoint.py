from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from secondpass.errors import ModelError
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.weights import locate
from tiny import tiny_checkpoint


def test_a_folder_opens_with_its_sizes_and_without_its_prefix(tiny: Path) -> None:
    checkpoint = open_checkpoint(tiny)
    assert (checkpoint.encoder.layers, checkpoint.encoder.hidden, checkpoint.max_length) == (2, 32, 128)
    assert checkpoint.activation == "sigmoid"  # sentence-transformers' default for one label
    weights = checkpoint.weights()
    assert "embeddings.word_embeddings.weight" in weights
    assert all(tensor.dtype == np.float32 for tensor in weights.values())


def test_the_digest_follows_the_weights(tmp_path: Path) -> None:
    first = open_checkpoint(tiny_checkpoint(tmp_path / "a", seed=1)).digest
    assert first == open_checkpoint(tiny_checkpoint(tmp_path / "b", seed=1)).digest
    assert first != open_checkpoint(tiny_checkpoint(tmp_path / "c", seed=2)).digest


def test_a_vocabulary_alone_gives_the_same_tokens(tmp_path: Path, tiny: Path) -> None:
    text = "Sorting THE snake-file, “quoted”"
    alone = open_checkpoint(tiny_checkpoint(tmp_path / "v", vocab_only=True)).tokenizer
    assert alone.encode(text).ids == open_checkpoint(tiny).tokenizer.encode(text).ids


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("config.json", "identity"),
        ("config_sentence_transformers.json", "identity"),
        (None, "sigmoid"),
    ],
)
def test_the_activation_is_read_where_sentence_transformers_writes_it(
    tmp_path: Path, where: str | None, expected: str
) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    path = "torch.nn.modules.linear.Identity"
    if where == "config.json":
        tiny_checkpoint(folder, sentence_transformers={"activation_fn": path})
    elif where:
        (folder / where).write_text(json.dumps({"activation_fn": path}))
    assert open_checkpoint(folder).activation == expected


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ({"architectures": ["BertModel"]}, "no trained ranking head"),
        ({"model_type": "xlm-roberta"}, "missing"),
        ({"auto_map": {"AutoModelForSequenceClassification": "mine.Own"}}, "remote-code"),
        ({"id2label": {"0": "a", "1": "b"}}, "2 labels"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_act": "swish"}, "hidden_act"),
        ({"sentence_transformers": {"activation_fn": "mine.Strange"}}, "activation"),
    ],
)
def test_what_would_score_wrongly_is_refused_with_the_reason(
    tmp_path: Path, override: dict[str, Any], reason: str
) -> None:
    folder = tiny_checkpoint(tmp_path / "m", **override)
    with pytest.raises(ModelError, match=reason):
        open_checkpoint(folder)


def test_an_untrained_head_is_refused(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors["classifier.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"classifier\.weight"):
        open_checkpoint(folder)


def test_pickled_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="damaged"):
        open_checkpoint(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*pickled"):
        open_checkpoint(folder)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        open_checkpoint(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(ModelError, match=r"config\.json"):
        open_checkpoint(folder)


def test_a_name_that_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        locate(str(tmp_path / "nowhere" / "at" / "all"))


def test_a_hub_name_opens_from_the_hubs_own_cache(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    revision = "0123456789012345678901234567890123456789"
    snapshot = tmp_path / "models--owner--name" / "snapshots" / revision
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(tiny, snapshot)
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text(revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert locate("owner/name").resolve() == snapshot.resolve()
    with pytest.raises(ModelError, match="hub did not deliver"):
        locate("owner/other")
