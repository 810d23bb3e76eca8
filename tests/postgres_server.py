"""A PostgreSQL server of the tests' own: Debian's, or the one that the package pgserver carries with pgvector."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Postgres", "programs", "programs_with_vectors", "running"]

PATIENCE = 60.0  # seconds; a busy machine is no failure of what is tested


def programs() -> Path | None:
    """The folder of initdb and postgres."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += [Path(place) for place in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def programs_with_vectors() -> Path | None:
    """The folder of initdb and postgres of a server that has pgvector."""
    found = find_spec("pgserver")
    if found is None or found.origin is None:
        return None
    bin = Path(found.origin).parent / "pginstall" / "bin"
    return bin if (bin / "initdb").exists() else None


class Postgres:
    """A server on a socket in a folder, that a test can stop and start; as nobody, where we are root."""

    def __init__(self, bin: Path) -> None:
        self.bin = bin
        self.folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: the path of a socket has 107 bytes
        self.who: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.who = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self.folder, "nobody", "nogroup")
            try:
                self.run("initdb", "--version")
            except PermissionError:  # it lies in a folder of ours alone, with its libraries beside it
                package = bin.parents[1]
                for one in (package, package.with_name(f"{package.name}.libs")):
                    shutil.copytree(one, self.folder / one.name, symlinks=True)
                self.bin = self.folder / bin.relative_to(package.parent)
        make = ["initdb", "-D", "data", "-U", "log", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        self.run(*make)
        self.start()

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.bin / program, *arguments], cwd=self.folder, capture_output=True, text=True, **self.who
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = ["listen_addresses=", "shared_buffers=8MB", "max_connections=40", "autovacuum=off"]
        quiet = ["-F", *(part for option in options for part in ("-c", option))]
        self.process = subprocess.Popen(
            [self.bin / "postgres", "-D", "data", "-k", str(self.folder), *quiet],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self.who,
        )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                return self.execute("postgres", "SELECT 1")
            except Exception:
                time.sleep(0.05)
        raise AssertionError("postgres did not start")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)  # at once
        self.process.wait()

    def execute(self, database: str, *statements: str) -> None:
        import psycopg

        with psycopg.connect(f"host={self.folder} user=log dbname={database}", autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[arg-type, unused-ignore]

    def database(self) -> str:
        """The URL of one with nothing in it."""
        self.execute("postgres", "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        return f"postgresql://log@/postgres?host={self.folder}"


def running(bin: Path | None, what: str) -> Iterator[Postgres]:
    """For a fixture: a server as long as it is wanted. Without its programs the test skips and says what it needs."""
    if bin is None:
        pytest.skip(f"needs {what}")
    server = Postgres(bin)
    yield server
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)
