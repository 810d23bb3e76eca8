"""Connections: who takes too long, or too many bytes, to say what they want is hung up on.

Knows: uvicorn's protocol. Refuses to know: what is asked. uvicorn waits for ever for the head of a request and keeps
all of it; a thousand who send a byte a second would be a thousand connections, and one long head all of the memory.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Connection"]

HEAD_SECONDS = 10.0
HEAD_BYTES = 65_536


class Connection(HttpToolsProtocol):
    """uvicorn's, with a limit of time and size for the head of a request, counted from the end of the one before."""

    _timer: asyncio.TimerHandle | None = None
    _size = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expected()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        inside = self._timer is not None
        super().data_received(data)
        if inside and self._timer is not None:
            self._size += len(data)
            if self._size > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect()

    def on_headers_complete(self) -> None:
        self._expected()
        super().on_headers_complete()

    def _expect(self) -> None:
        self._expected()
        self._size = 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _expected(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
