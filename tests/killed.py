"""A change to files that is killed before each of its steps, in turn: what it leaves is the old state or the new.

A test gives `killed` the source of a script, which runs in a process of its own and calls `outcomes`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate"}
CHANGES |= {"shutil.rmtree"}


def killed(script: str, *arguments: object) -> list[str]:
    """What the script prints as JSON: see `outcomes`."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    seen: list[str] = json.loads(done.stdout)
    return seen


def outcomes(
    start: Path | None,
    work: Path,
    act: Callable[[Path], object],
    state: Callable[[Path], Any],
    after: Callable[[Path, Any, Any, int], object],
) -> list[str]:
    """For each step of `act` on a copy of `start` (None: nothing is there before): "old", "new" or "broken".

    `state` tells what a folder holds; `after(folder, left, new, n)` checks what can still be done with what the n-th
    kill left. The last outcome is that of the whole change, which nobody killed.
    """
    os.fsync = lambda fd: None  # a kill, unlike a power cut, loses nothing that was written

    def fresh(name: str) -> Path:
        if start is not None:
            shutil.copytree(start, work / name)
        return work / name

    old = state(fresh("old"))
    act(fresh("new"))
    new = state(work / "new")
    assert old != new
    seen, n, was_killed = [], 0, True
    while was_killed:
        n += 1
        folder = fresh(str(n))
        child = os.fork()
        if not child:
            _kill_before(n)
            try:
                act(folder)
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        status = os.waitpid(child, 0)[1]
        was_killed = os.WIFSIGNALED(status)
        assert was_killed or os.WEXITSTATUS(status) == 0, "the change failed"
        left = state(folder)
        seen.append("new" if left == new else "old" if left == old else "broken")
        after(folder, left, new, n)
        shutil.rmtree(folder)
    return seen


def _kill_before(n: int) -> None:
    """Kill this process when the n-th change to a file is about to happen; between two, the disk stays the same."""
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    events = 0

    def watch(event: str, args: Any) -> None:
        nonlocal events
        if event in CHANGES or (event == "open" and bool(args[2] & writes)):
            events += 1
            if events == n:
                if event == "open" and args[1] == "w":  # killed in the middle of writing it (raw mode: no "b")
                    Path(args[0]).write_bytes(b"half of i")
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
