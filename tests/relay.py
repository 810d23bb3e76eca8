"""A line between a client and a server on loopback that a test can count on, cut or freeze."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

__all__ = ["Relay"]


class Relay:
    """Listens on `port` and passes on to `address` (a path, or host and port). `turns` counts round trips: how often
    the server began to answer after the client had spoken."""

    def __init__(self, address: str | tuple[str, int]) -> None:
        self.address: str | tuple[str, int] | None = address
        self.turns = 0
        self._free = threading.Event()
        self._free.set()
        self._pairs: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def cut(self) -> None:
        """Every line that is open is lost; new ones are taken."""
        while self._pairs:
            one = self._pairs.pop()
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def freeze(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        self._free.clear()

    def hold(self) -> None:
        """New lines are taken and lead nowhere: who speaks waits for ever."""
        self.address = None

    def close(self) -> None:
        """No lines at all."""
        self._free.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _start(self, work: Any, *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.address is None:
                self._pairs.append(client)
                continue
            server = socket.socket(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET)
            try:
                server.connect(self.address)
            except OSError:
                client.close()
                server.close()
                continue
            self._pairs += [client, server]
            spoke = threading.Event()
            self._start(self._pass, client, server, spoke, True)
            self._start(self._pass, server, client, spoke, False)

    def _pass(self, source: socket.socket, target: socket.socket, spoke: threading.Event, to_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._free.wait()
                if to_server:
                    spoke.set()
                elif spoke.is_set():
                    spoke.clear()
                    self.turns += 1
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
