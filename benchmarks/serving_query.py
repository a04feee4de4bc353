"""What a single query costs over HTTP, beside the bare network and PyTorch."""

import json
import random
import re
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks.serving_options import ServingOptions
from benchmarks.serving_processes import Server, plain, served
from benchmarks.serving_scene import Scene

_PAUSE_S: Final = 0.1
"""Between turns, so that one's threads have stopped spinning when the next begins."""


def query(scene: Scene, options: ServingOptions) -> dict[str, Any]:
    """One query at a time, end to end, turn by turn with the bare network and with PyTorch."""
    data = scene.first.read_bytes()
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in ("onnxruntime", "blocking", "pytorch")}
    over_http: list[float] = []
    stages: list[dict[str, float]] = []
    with served(scene, "--no-page") as server, plain(scene, *turns) as bare:
        asking = Asking(server, data)
        for turn in range(options.queries + 10):
            timed: dict[str, Callable[[], dict[str, float]]] = {
                name: lambda process=process: process.do(do="query", image=str(scene.first))  # type: ignore[misc]
                for name, process in bare.items()
            }
            for name in random.Random(turn).sample(sorted(timed), len(timed)):
                time.sleep(_PAUSE_S)
                took = timed[name]()
                if turn >= 10:
                    turns[name].append(took)
            time.sleep(_PAUSE_S)
            took_s, told = asking()
            if turn >= 10:
                over_http.append(took_s)
                stages.append(told)
        said = server.said
    # The bare network at its best: with threads that spin between operations, or that sleep.
    best = min(("onnxruntime", "blocking"), key=lambda name: _median(turns[name], "embed"))
    embed, decode, ready = (_median(turns[best], part) for part in ("embed", "decode", "prepare"))
    p50 = statistics.median(over_http)
    return {
        "queries": len(over_http),
        "served": said.splitlines()[0],
        "over_http_ms": _quantiles(over_http),
        "stages_ms": {name: round(statistics.median(one[name] for one in stages), 3) for name in stages[0]},
        "bare_session": best,
        "bare_ms": {
            "inference": _ms(embed),
            "pillow_decode": _ms(decode),
            "resize_and_scale": _ms(ready),
            "inference_and_decode": _ms(embed + decode),
        },
        "bare_other_session_inference_ms": {
            name: _ms(_median(turns[name], "embed")) for name in ("onnxruntime", "blocking")
        },
        "pytorch_eager_ms": {part: _ms(_median(turns["pytorch"], part)) for part in ("decode", "prepare", "embed")},
        "p50_over_inference_and_decode": round(p50 / (embed + decode), 3),
        "p50_over_inference_decode_and_resize": round(p50 / (embed + decode + ready), 3),
        "limit": 1.25,
    }


class Asking:
    """A caller with an open connection and a request made beforehand: what is timed is the server."""

    def __init__(self, server: Server, data: bytes) -> None:
        self._server = server
        self._connection = self._connect()
        self._request = (
            b"POST /v1/search?k=10 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(data), data)
        )

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._server.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _closed(self) -> bool:
        """Whether the server hung up, as it does after idle seconds: the turns before this one can take longer."""
        try:
            return not self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False

    def __call__(self) -> tuple[float, dict[str, float]]:
        """Ask once: seconds from the first byte sent to the JSON parsed, and what the server says of its stages."""
        if self._closed():
            self._connection = self._connect()
        began = time.perf_counter()
        self._connection.sendall(self._request)
        received = body = b""
        length: int | None = None
        while length is None or len(body) < length:
            if not (chunk := self._connection.recv(2**18)):
                raise SystemExit("the server closed the connection before its answer was whole")
            received += chunk
            head, found, body = received.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) if found else None
        answer = json.loads(body)
        took = time.perf_counter() - began
        if "models" not in answer:
            raise SystemExit(f"the server answered {answer}")
        told = re.findall(rb"(\w+);dur=([\d.]+)", head)
        return took, {name.decode(): float(value) for name, value in told}


def _median(turns: list[dict[str, float]], part: str) -> float:
    return statistics.median(turn[part] for turn in turns)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def _quantiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": _ms(cuts[49]), "p90": _ms(cuts[89]), "p99": _ms(cuts[98])}
