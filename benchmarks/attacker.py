"""A caller that sends the same request over and over, and how long the queries of another caller take meanwhile."""

import multiprocessing
import os
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event

import numpy as np

from benchmarks.serving_processes import Server, memory_of


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request."""

    method: str = "POST"
    path: str = "/v1/search?k=5"
    body: bytes | None = None
    content_type: str = "application/octet-stream"


def send(connection: HTTPConnection, sent: Sent, key: str) -> int:
    """Send a request and read the response; returns the status."""
    headers = {"Content-Type": sent.content_type, "Authorization": f"Bearer {key}"}
    connection.request(sent.method, sent.path, body=sent.body, headers=headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


class Attacker:
    """Sends one request over several connections until the block ends, and samples the memory of the server.

    It is a process of the lowest priority, because a real attacker does not use the processor of the server.
    """

    def __init__(self, server: Server, sent: Sent, key: str, connections: int) -> None:
        self.statuses: Counter[str] = Counter()
        self.peak_bytes = 0
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._found: Queue[tuple[Counter[str], int]] = context.Queue()
        self._process = context.Process(
            target=send_until, args=(server.process.pid, server.port, sent, key, connections, self._stop, self._found)
        )

    def __enter__(self) -> "Attacker":
        """Start the attack, and return when the first request was answered."""
        self._process.start()
        self._found.get()
        return self

    def __exit__(self, *_: object) -> None:
        """End the attack."""
        self._stop.set()
        self.statuses, self.peak_bytes = self._found.get()
        self._process.join()


def send_until(
    pid: int, port: int, sent: Sent, key: str, connections: int, stop: Event, found: "Queue[tuple[Counter[str], int]]"
) -> None:
    """Send a request until `stop` is set; puts statuses and the peak memory after the first answer and at the end."""
    os.nice(19)
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    statuses: Counter[str] = Counter()
    started = threading.Event()
    peak = 0

    def repeat(connection: HTTPConnection) -> None:
        while not stop.is_set():
            try:
                status = str(send(connection, sent, key))
            except (OSError, HTTPException):  # refused before the body was read, or the attack is over
                status = "closed"
                connection.close()
            if not stop.is_set():
                statuses[status] += 1
                started.set()

    opened = [HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(connections)]
    threads = [threading.Thread(target=repeat, args=(connection,)) for connection in opened]
    for thread in threads:
        thread.start()
    started.wait()
    found.put((Counter(), 0))
    while not stop.wait(0.1):
        peak = max(peak, memory_of(pid))
    for connection in opened:
        with suppress(OSError, AttributeError):  # which is not open
            connection.sock.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    found.put((statuses, peak))


def query_ms(server: Server, image: bytes, key: str, count: int, seconds: float) -> list[float]:
    """Return the milliseconds of single queries: `count`, or as many as end in time."""
    connection = server.connect("127.0.0.2")  # each address has its share of the memory for bodies
    taken: list[float] = []
    end = time.monotonic() + seconds
    while len(taken) < count and (time.monotonic() < end or not taken):
        began = time.perf_counter()
        status = send(connection, Sent(body=image), key)
        taken.append(1000 * (time.perf_counter() - began))
        if status != 200:
            raise SystemExit(f"a query of the first caller got the status {status}")
    return taken


def percentiles(taken: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile."""
    return {"p50_ms": round(float(np.median(taken)), 1), "p99_ms": round(float(np.percentile(taken, 99)), 1)}
