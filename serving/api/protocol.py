"""Connections of callers: the fast HTTP protocol of uvicorn, with bounds on the head of a request.

uvicorn bounds how long an idle connection is kept, and the routes bound bodies. Between the two lies the head: its
parser takes as much as comes, for as long as it takes.
"""

from asyncio import TimerHandle
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES: Final = 2**16
"""Bytes of a request's head: its line and its header fields."""
HEAD_SECONDS: Final = 15.0
"""Seconds that a head may take to come in, from the connection or its first byte."""
_TOO_LARGE: Final = "431 Request Header Fields Too Large"


class BoundedHeads(HttpToolsProtocol):
    """Closes connections whose requests do not get beyond their heads."""

    _open: bool = True
    """Whether a head is coming in, or its first byte is waited for."""
    _taken: int = 0
    """Bytes since that began."""
    _timer: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come; a head that is still open afterwards must be small."""
        super().data_received(data)
        if not self._open:
            return
        self._taken += len(data)
        if self._taken > HEAD_BYTES and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        """Note that a head begins."""
        super().on_message_begin()
        if not self._open:
            self._begin()

    def on_headers_complete(self) -> None:
        """Note that the head is there."""
        self._end()
        super().on_headers_complete()

    def _begin(self) -> None:
        self._open, self._taken = True, 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _end(self) -> None:
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse(self) -> None:
        detail = f"The head of the request has more than {HEAD_BYTES} bytes; send fewer and shorter header fields."
        body = (
            f'{{"type":"about:blank","title":"The head is too large","status":431,"detail":"{detail}","request_id":""}}'
        )
        self.transport.write(
            f"HTTP/1.1 {_TOO_LARGE}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n{body}".encode("ascii")
        )
        self.transport.close()
