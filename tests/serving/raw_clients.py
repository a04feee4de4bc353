"""Clients with their own sockets, which send a search and may never read the response; and the server's counts."""

import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from PIL import Image

from tests.serving.served import encoded
from tests.waiting import PATIENCE_S


def slow_image() -> bytes:
    """Sixty kilobytes that take a third of a second to decode."""
    return encoded(Image.new("RGB", (5000, 4000), "teal"), compress_level=6)


def send_search(url: str, image: bytes) -> socket.socket:
    """Send a complete search without waiting for the response."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S)
    head = "POST /v1/search?k=1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    connection.sendall(f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    received = bytearray()
    with suppress(ConnectionResetError):  # it closed while bytes were on the way
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)


def read_status(connection: socket.socket) -> int:
    """Wait for the response and return its status."""
    with connection, connection.makefile("rb") as response:
        return int(response.readline().split()[1])


@dataclass(frozen=True, kw_only=True)
class SearchCounts:
    """The server's counts of searches, all from one response of /metrics, so that they are consistent."""

    ended: int
    """Searches that were answered, or whose clients disconnected."""
    answered: int
    """Of these, with status 200."""
    pending: int
    """Admitted and not ended. The server reads it after `ended`, so no search counts twice."""
    embedded: int
    """Images embedded by the network, including the warm-up."""

    @property
    def arrived(self) -> int:
        """Searches that were admitted, whatever their end."""
        return self.pending + self.ended


def search_counts(client: httpx.Client) -> SearchCounts:
    text = client.get("/metrics").raise_for_status().text
    number = r" ([\d.]+)$"
    ended = {
        int(code): int(float(count))
        for code, count in re.findall(
            r'^hardrank_requests_total\{method="POST",route="/v1/search",status="(\d+)"\}' + number, text, re.MULTILINE
        )
    }
    pending, embedded = (
        int(float(re.findall(f"^{name}{number}", text, re.MULTILINE)[0]))
        for name in ("hardrank_pending", "hardrank_batch_images_sum")
    )
    return SearchCounts(ended=sum(ended.values()), answered=ended.get(200, 0), pending=pending, embedded=embedded)
