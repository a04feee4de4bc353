"""The HTTP protocol of uvicorn (httptools) with limits on the request head, that is request line and headers.

uvicorn limits how long an idle connection is kept, and the endpoints limit bodies. Nothing else limits the size of the
head, nor the time in which it arrives.
"""

from asyncio import TimerHandle
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES: Final = 2**16
"""Largest request head, bytes."""
_TOO_LARGE: Final = "431 Request Header Fields Too Large"


class HeadLimitProtocol(HttpToolsProtocol):
    """Rejects request heads that are too large and closes connections whose head is too slow."""

    head_seconds: float = 15.0
    """Seconds in which a head must arrive, from its first byte, or for the first request from the connection on."""
    _open: bool = True
    """Whether a head is being received or expected."""
    _received: int = 0
    """Bytes of it."""
    _timer: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the timer of the first head."""
        super().connection_made(transport)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data; then check the size of the head if it is still incomplete."""
        super().data_received(data)
        if not self._open:
            return
        self._received += len(data)
        if self._received > HEAD_BYTES and not self.transport.is_closing():
            self._reject()

    def on_message_begin(self) -> None:
        """Start the timer of the next head."""
        super().on_message_begin()
        if not self._open:
            self._begin()

    def on_headers_complete(self) -> None:
        """Stop the timer: the head is complete."""
        self._end()
        super().on_headers_complete()

    def _begin(self) -> None:
        self._open, self._received = True, 0
        self._timer = self.loop.call_later(self.head_seconds, self._close)

    def _end(self) -> None:
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _reject(self) -> None:
        detail = f"The request line and headers exceed {HEAD_BYTES} bytes; send fewer or shorter headers."
        body = (
            '{"type":"about:blank","title":"Request headers too large","status":431,'
            f'"detail":"{detail}","request_id":""}}'
        )
        self.transport.write(
            f"HTTP/1.1 {_TOO_LARGE}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n{body}".encode("ascii")
        )
        self.transport.close()
