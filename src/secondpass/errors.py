"""Every exception the package raises on purpose.

    SecondpassError
    ├── InputError            what the caller handed over cannot be used
    │   ├── CollectionError   a collection, qrels or run file; names file and line
    │   └── ConfigError       secondpass.toml or a recipe; names the key
    ├── ModelError            a checkpoint cannot be opened, or scores wrongly
    │   ├── GoldenError       the golden pairs did not come out as they should
    │   ├── ParityError       an exported graph does not score as its model does
    │   └── StoreError        a store of models is foreign, damaged or just being written
    ├── IndexFolderError      an index folder is foreign, damaged or too new
    ├── IndexBusyError        someone else is writing the index just now
    ├── CacheUnreachableError a score cache does not answer; requests go on without it
    ├── LogUnreachableError   the database of a request log does not do what it is asked
    ├── RemoteError           a service over HTTP gives no usable answer
    ├── RetrieverError        the database or search engine of a first stage gives no answer
    └── MissingExtraError     an optional dependency is not installed

Knows: the tree. Refuses to know: who raises what. A message says what is wrong,
where, and what to do about it.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "CacheUnreachableError",
    "CollectionError",
    "ConfigError",
    "GoldenError",
    "IndexBusyError",
    "IndexFolderError",
    "InputError",
    "LogUnreachableError",
    "MissingExtraError",
    "ModelError",
    "ParityError",
    "RemoteError",
    "RetrieverError",
    "SecondpassError",
    "StoreError",
]


class SecondpassError(Exception):
    """Base of every exception raised on purpose by secondpass."""


class InputError(SecondpassError, ValueError):
    """What the caller handed over cannot be used."""


class CollectionError(InputError):
    """A collection, qrels or run file cannot be read as it is."""


class ConfigError(InputError):
    """A configuration or recipe file says something that cannot be meant."""


class ModelError(SecondpassError):
    """A checkpoint cannot be opened."""


class GoldenError(ModelError):
    """A loaded model does not give the scores its golden pairs promise."""


class ParityError(ModelError):
    """An exported graph does not score as its model does, so it was not written; `parity` says by how much."""

    def __init__(self, message: str, parity: object) -> None:
        super().__init__(message)
        self.parity = parity


class StoreError(ModelError):
    """A store of models is foreign or damaged, lacks a model, or is being written by someone else."""


class IndexFolderError(SecondpassError):
    """An index folder is foreign, damaged, or written by a newer version."""


class IndexBusyError(SecondpassError):
    """Someone else is writing the index folder just now; wait and try again."""


class CacheUnreachableError(SecondpassError):
    """A store of scores does not answer in time; whoever asks it computes instead, and says so."""


class LogUnreachableError(SecondpassError):
    """The database of a request log cannot be reached, or does not do what it is asked; it may, later."""


class RemoteError(SecondpassError):
    """A service over HTTP gave no usable answer. The message says what it said, and never the key.

    `kind` is "deadline" (the caller's time was up), "timeout" (the service's was), "limit" (a rate limit leaves no
    time), "status" (an error status, in `status`), "connection" (none, or it was cut) or "answer" (not what was
    expected). `attempts`, and the `seconds` from the call on, of which `waited_s` were spent waiting.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "connection",
        status: int | None = None,
        attempts: int = 0,
        seconds: float = 0.0,
        waited_s: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.attempts = attempts
        self.seconds = seconds
        self.waited_s = waited_s


class RetrieverError(SecondpassError):
    """The database or search engine of a first stage gave no answer. The message holds no password and no query.

    `kind` is "timeout", "connection" (none, or it was lost) or "refused" (it answers, but not what was asked).
    """

    def __init__(self, message: str, *, kind: Literal["timeout", "connection", "refused"]) -> None:
        super().__init__(message)
        self.kind = kind


class MissingExtraError(SecondpassError, ImportError):
    """An optional dependency is not installed; the message has the install line."""
