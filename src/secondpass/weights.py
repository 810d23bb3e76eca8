"""Where a model's files lie, and the digest of what is in them.

Knows: shipped names, local folders, names on the Hugging Face hub. Refuses to know: what kind of
model a folder holds and how it is computed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from secondpass.errors import ModelError

__all__ = ["SHIPPED", "file_digest", "folder_digest", "locate", "shipped_name"]

_MODELS = Path(__file__).resolve().parent / "models"
SHIPPED = {"secondpass-mini": _MODELS / "mini", "secondpass-static": _MODELS / "static"}


def locate(model: str | Path) -> Path:
    """The folder of a shipped name, a local folder, or a name on the Hugging Face hub.

    A hub name is fetched by huggingface_hub into its own cache (safetensors, tokenizer and
    configuration only; never code). Raises ModelError where none of the three fits.
    """
    name = str(model)
    if name in SHIPPED:
        return SHIPPED[name]
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or name.startswith((".", "~")):
        raise ModelError(
            f"model {name!r}: no such folder, and not a shipped model ({', '.join(SHIPPED)}); "
            "give a folder, a shipped name or a hub name of the form owner/model"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "vocab.txt"]))
    except Exception as error:  # the hub client has many ways to fail; all mean the same here
        raise ModelError(
            f"model {name!r}: not a local folder, and the hub did not deliver it ({type(error).__name__}: {error}); "
            "download it where there is a network and give the folder"
        ) from error


def shipped_name(folder: Path, otherwise: str | Path) -> str:
    """The name a folder ships under, or what it was asked for as."""
    return next((name for name, place in SHIPPED.items() if place == folder), str(otherwise))


def folder_digest(folder: Path) -> str:
    """blake2b-128, in hex, over what decides a model's output: configuration, tokenizer, weights."""
    total = hashlib.blake2b(digest_size=16)
    for name in ("config.json", "tokenizer.json", "vocab.txt", "model.safetensors"):
        path = folder / name
        if path.is_file():
            total.update(name.encode())
            total.update(bytes.fromhex(file_digest(path)))
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """blake2b-128 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
