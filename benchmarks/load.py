"""Many clients at once from one light process: raw sockets, requests made beforehand, answers checked.

    python benchmarks/load.py --port 7860 --images FOLDER --clients 64 --seconds 20

Each client sends a JPEG, waits for the answer, checks it, and sends the next one. The file's name without `.jpg` is the
id that must come first. Prints a JSON object with rates, latencies, statuses and wrong answers.
"""

import json
import selectors
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

_BURST_S = 0.05
"""Answers of one batch come within this time."""


@dataclass
class Client:
    """A connection, and the request it waits for."""

    connection: socket.socket
    number: int
    sent: int = 0
    began: float = 0.0
    expected: bytes = b""
    request_id: bytes = b""
    status: int = 0
    received: bytearray = field(default_factory=bytearray)


@dataclass(kw_only=True)
class Load:
    """What is sent, and what came back."""

    port: int
    clients: int
    seconds: float
    warm_up: float
    files: list[tuple[bytes, bytes]]
    """What the best match must be called, and the file."""
    query: str = "k=10"
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    """Answers that were somebody else's, or said something else."""
    refused_without_retry: int = 0
    latencies: list[float] = field(default_factory=list)
    """Seconds of the answers 200 that came after the warm-up."""
    arrivals: list[float] = field(default_factory=list)
    """When they came."""

    def run(self) -> dict[str, Any]:
        """Run for the seconds that were asked, then wait for the last answers."""
        selector = selectors.DefaultSelector()
        sent = 0
        clients = [Client(socket.create_connection(("127.0.0.1", self.port)), number) for number in range(self.clients)]
        began = time.perf_counter()
        for client in clients:
            client.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(client.connection, selectors.EVENT_READ, client)
            sent += self._send(client)
        waiting, end = len(clients), began + self.warm_up + self.seconds
        while waiting:
            events = selector.select(timeout=30)
            if not events:
                break
            for key, _ in events:
                client = key.data
                if not self._receive(client):
                    continue
                now = time.perf_counter()
                if client.status == 200 and began + self.warm_up <= now <= end:
                    self.latencies.append(now - client.began)
                    self.arrivals.append(now)
                if now < end:
                    sent += self._send(client)
                else:
                    waiting -= 1
                    selector.unregister(client.connection)
        return self._told(sent)

    def _send(self, client: Client) -> int:
        name, data = self.files[(client.number + 7 * client.sent) % len(self.files)]
        client.sent += 1
        client.request_id = b"c%d-%d" % (client.number, client.sent)
        client.expected = name
        client.received.clear()
        client.began = time.perf_counter()
        client.connection.sendall(
            b"POST /v1/search?%b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nX-Request-ID: %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (self.query.encode(), client.request_id, len(data), data)
        )
        return 1

    def _receive(self, client: Client) -> bool:
        """Take what has come; says whether the answer is whole."""
        chunk = client.connection.recv(262_144)
        if not chunk:
            raise ConnectionError("the server closed a connection")
        client.received += chunk
        head, found, body = bytes(client.received).partition(b"\r\n\r\n")
        if not found:
            return False
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return False
        client.status = status = int(head[9:12])
        self.statuses[status] += 1
        own = b"x-request-id: " + client.request_id + b"\r\n" in head.lower() + b"\r\n"
        best = body.partition(b'"id":"')[2].partition(b'"')[0]
        if not own or len(body) != length or (status == 200 and best != client.expected):
            self.wrong += 1
        if status == 429 and b"\r\nretry-after: " not in head.lower():
            self.refused_without_retry += 1
        return True

    def _told(self, sent: int) -> dict[str, Any]:
        answered = sum(self.statuses.values())
        ordered = sorted(self.latencies)
        return {
            "sent": sent,
            "answered": answered,
            "lost": sent - answered,
            "wrong": self.wrong,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "refused_without_retry_after": self.refused_without_retry,
            "per_second": self._rate(),
            "p50_ms": 1000 * ordered[len(ordered) // 2] if ordered else None,
            "p99_ms": 1000 * ordered[int(0.99 * len(ordered))] if ordered else None,
            "cpu_seconds": time.process_time(),
        }

    def _rate(self) -> float:
        """Answers a second, from the end of the first burst to the end of the last: answers come a batch at a time."""
        if not self.arrivals:
            return 0.0
        first = self.arrivals[0] + _BURST_S
        later = sum(at > first for at in self.arrivals)
        return later / (self.arrivals[-1] - self.arrivals[0]) if later else 0.0


def main(*, port: int, images: Path, clients: int = 64, seconds: float = 20, warm_up: float = 3) -> None:
    """Put a server under load.

    Args:
        port: of the server on 127.0.0.1.
        images: a folder of JPEG files.
        clients: how many at once.
        seconds: how long, after the warm-up.
        warm_up: seconds that are not counted.
    """
    files = [(path.stem.encode(), path.read_bytes()) for path in sorted(images.glob("*.jpg"))]
    load = Load(port=port, clients=clients, seconds=seconds, warm_up=warm_up, files=files)
    print(json.dumps(load.run()))


if __name__ == "__main__":
    tyro.cli(main, prog="python benchmarks/load.py", description=__doc__)
