"""Callers with sockets of their own, who send a search and read the answer later or never; and what became of them."""

import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from PIL import Image

from tests.serving.served import encoded
from tests.waiting import PATIENCE_S


def slow_image() -> bytes:
    """Sixty kilobytes that come in at once and keep a decoder busy for a third of a second."""
    return encoded(Image.new("RGB", (5000, 4000), "teal"), compress_level=6)


def call(url: str, image: bytes) -> socket.socket:
    """Send a whole search, and do not wait for the answer."""
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname, place.port), timeout=PATIENCE_S)
    head = "POST /v1/search?k=1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    connection.sendall(f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image)
    return connection


def status(connection: socket.socket) -> int:
    """Wait for the answer."""
    with connection, connection.makefile("rb") as answer:
        return int(answer.readline().split()[1])


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the server says of its searches at a moment; all from one answer, so that it fits together."""

    ended: int
    """That were answered, or whose callers had gone."""
    answered: int
    """Of these."""
    pending: int
    """Admitted and not ended. It is read after `ended`, so nobody is counted twice."""
    embedded: int
    """Images that the network has seen, those of the warm-up too."""

    @property
    def arrived(self) -> int:
        """Searches that the server has read and admitted, whatever became of them."""
        return self.pending + self.ended


def look(client: httpx.Client) -> Look:
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
    return Look(ended=sum(ended.values()), answered=ended.get(200, 0), pending=pending, embedded=embedded)
