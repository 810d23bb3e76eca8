"""Single key presses of a terminal, and the terminal as it was afterwards.

Knows: termios and msvcrt. Refuses to know: what a key means.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

if sys.platform == "win32":
    import msvcrt
else:
    import termios
    import tty

__all__ = ["Keyboard", "single_keys"]

_NAMES = {  # what a terminal sends for a key that is no character
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1bOA": "up",
    "\x1bOB": "down",
}
_WINDOWS_NAMES = {"H": "up", "P": "down", "I": "page up", "Q": "page down"}


class Keyboard:
    """Gives keys one by one, while `single_keys` is open. A key typed before `forget` is not given."""

    def __init__(self, terminal: int, usual: list[object]) -> None:
        self._terminal = terminal
        self._usual = usual

    def key(self) -> str:
        """Wait for a key: its character, "up", "down", "page up", "page down", or "" for any other.

        Raises EOFError where the terminal is gone, KeyboardInterrupt for Ctrl-C.
        """
        if sys.platform == "win32":
            key = msvcrt.getwch()
            if key == "\x03":
                raise KeyboardInterrupt
            return _WINDOWS_NAMES.get(msvcrt.getwch(), "") if key in "\x00\xe0" else key
        # a key that is no character comes as several at once: its digits must not be taken for keys
        typed = os.read(self._terminal, 64).decode("utf-8", "replace")
        if typed in ("", "\x04"):
            raise EOFError
        return _NAMES.get(typed, "") if typed[0] == "\x1b" else typed[0]

    def forget(self) -> None:
        """Drop what was typed so far: it was meant for what is no longer on the screen."""
        if sys.platform == "win32":
            while msvcrt.kbhit():
                msvcrt.getwch()
        else:
            termios.tcflush(self._terminal, termios.TCIFLUSH)

    def line(self, read: Callable[[], str]) -> str:
        """What `read` (such as `input`) reads, with the terminal as it usually is: keys are shown."""
        if sys.platform == "win32":
            return read()
        termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._usual)  # type: ignore[arg-type]
        try:
            return read()
        finally:
            _one_by_one(self._terminal)


@contextmanager
def single_keys() -> Iterator[Keyboard]:
    """Keys without Enter and without being shown, until the block ends: by itself, an error, Ctrl-C or a kill."""
    terminal = sys.stdin.fileno()
    if sys.platform == "win32":
        yield Keyboard(terminal, [])
        return
    usual = termios.tcgetattr(terminal)
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        _one_by_one(terminal)
        yield Keyboard(terminal, usual)
    finally:
        with suppress(termios.error):  # the terminal is gone: nothing to put back
            termios.tcsetattr(terminal, termios.TCSADRAIN, usual)
        for number, handler in before.items():
            signal.signal(number, handler)


def _one_by_one(terminal: int) -> None:
    if sys.platform != "win32":
        tty.setcbreak(terminal)
        mode = termios.tcgetattr(terminal)
        mode[6][termios.VSUSP] = b"\x00"  # no Ctrl-Z: whoever comes back would find another mode than this one
        termios.tcsetattr(terminal, termios.TCSADRAIN, mode)


def _leave(number: int, frame: FrameType | None) -> None:
    """A signal to end is an exit like any other, so that what must be put back is put back."""
    sys.exit(128 + number)
