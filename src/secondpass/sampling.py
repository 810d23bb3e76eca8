"""Which of many requests belong to a sample: drawn by their ids, the same in every process and on every machine.

Knows: the hash. Refuses to know: what a sample is for.
"""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["drawn", "encoded"]


def drawn(request: str, share: float) -> bool:
    """Whether a request of this id is in a sample of that share; the same in every process, and on every machine."""
    digest = blake2b(encoded(request), digest_size=8).digest()
    return int.from_bytes(digest, "big") < int(share * 2**64)


def encoded(text: str) -> bytes:
    """The bytes that are hashed: different strings stay different, lone surrogates too."""
    return text.encode("utf-8", "surrogatepass")
