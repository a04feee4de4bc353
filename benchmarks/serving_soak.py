"""Whether a server stays as it is under minutes of mixed load, with additions and deletions."""

import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

from benchmarks.serving_options import ServingOptions
from benchmarks.serving_processes import FORM, Server, form, send, served
from benchmarks.serving_scene import IMAGES, Scene, photograph


def soak(scene: Scene, options: ServingOptions) -> dict[str, Any]:
    """Minutes of mixed load with additions and deletions; memory at the end against memory after the warm-up."""
    seconds = 60 * options.minutes
    warm_up = min(90.0, seconds / 4)
    memory: list[tuple[float, int]] = []
    works = (_search, _search, _search, _batch, _by_id, _change, _change, _damaged)
    with served(scene, "--no-page", "--pending=128") as server, ThreadPoolExecutor(len(works)) as pool:
        end = threading.Event()
        began = time.monotonic()
        callers = [pool.submit(_repeat, work, server, scene, number, end) for number, work in enumerate(works)]
        while (now := time.monotonic() - began) < seconds:
            memory.append((now, server.memory))
            time.sleep(1.0)
        end.set()
        counts: Counter[str] = Counter()
        wrong: list[str] = []
        for caller in callers:
            own_counts, own_wrong = caller.result()
            counts += own_counts
            wrong += own_wrong
        left = json.loads(send(server.connect(), "GET", "/v1/stats")[1])["models"]["resnet"]["index"]["size"]
    tenth = seconds / 10
    before = statistics.median(size for at, size in memory if warm_up <= at < warm_up + tenth)
    after = statistics.median(size for at, size in memory if at >= seconds - tenth)
    return {
        "minutes": options.minutes,
        "requests": counts,
        "wrong": wrong[:20],
        "items_before_and_after": [scene.size + IMAGES, left],
        "memory_mib": {
            "after_warm_up": round(before / 2**20, 1),
            "at_the_end": round(after / 2**20, 1),
            "peak": round(max(size for _, size in memory) / 2**20, 1),
            "by_minute": [
                round(statistics.median(size for at, size in memory if 60 * m <= at < 60 * (m + 1)) / 2**20, 1)
                for m in range(int(seconds // 60))
            ],
        },
        "growth": round(after / before - 1, 4),
        "limit": 0.05,
    }


Work = Callable[[HTTPConnection, Scene, int, int], tuple[str, int, bool]]


def _repeat(
    work: Work, server: Server, scene: Scene, number: int, end: threading.Event
) -> tuple[Counter[str], list[str]]:
    """Do the same work again and again, as one of several callers; return how often, by status, and what was wrong."""
    connection, counts, wrong = server.connect(), Counter[str](), list[str]()
    turn = 0
    while not end.is_set():
        name, status, right = work(connection, scene, number, turn)
        key = f"{name} {status}"
        counts[key] += 1
        if not right:
            wrong.append(f"{key}, caller {number}, turn {turn}")
        turn += 1
        time.sleep(0.02)
    return counts, wrong


def _search(connection: HTTPConnection, scene: Scene, number: int, turn: int) -> tuple[str, int, bool]:
    name = f"sent-{(number + 7 * turn) % IMAGES:02}"
    label = "&label=sent" if turn % 5 == 0 else ""
    status, body = send(connection, "POST", f"/v1/search?k=10{label}", (scene.images / f"{name}.jpg").read_bytes())
    return "search", status, status == 429 or json.loads(body)["models"]["resnet"]["matches"][0]["id"] == name


def _batch(connection: HTTPConnection, scene: Scene, number: int, turn: int) -> tuple[str, int, bool]:
    names = [f"sent-{(turn + step) % IMAGES:02}" for step in range(8)]
    files = [("images", (scene.images / f"{name}.jpg").read_bytes()) for name in names]
    status, body = send(connection, "POST", "/v1/search/batch?k=3", form(files), kind=FORM)
    right = (
        status == 429
        or [one["answer"]["models"]["resnet"]["matches"][0]["id"] for one in json.loads(body)["answers"]] == names
    )
    return "batch", status, right


def _by_id(connection: HTTPConnection, scene: Scene, number: int, turn: int) -> tuple[str, int, bool]:
    name = f"item-{17 * turn % scene.size}"
    status, body = send(connection, "GET", f"/v1/search?id={name}&k=5")
    right = status == 429 or name not in [match["id"] for match in json.loads(body)["models"]["resnet"]["matches"]]
    return "by id", status, right


def _change(connection: HTTPConnection, scene: Scene, number: int, turn: int) -> tuple[str, int, bool]:
    """Add an image, find it, delete it, find it no more."""
    name, data = f"new-{number}-{turn}", photograph(1000 + 1000 * number + turn % 1000)
    item = form([("image", data), ("label", b"new"), ("metadata", b"{}")])
    added, _ = send(connection, "PUT", f"/v1/items/{name}", item, kind=FORM)
    if added != 201:
        return "change", added, added == 429
    status, body = send(connection, "POST", "/v1/search?k=1", data)
    found = status == 429 or json.loads(body)["models"]["resnet"]["matches"][0]["id"] == name
    deleted, _ = send(connection, "DELETE", f"/v1/items/{name}")
    while deleted == 429:
        time.sleep(0.2)
        deleted, _ = send(connection, "DELETE", f"/v1/items/{name}")
    gone, _ = send(connection, "GET", f"/v1/items/{name}")
    return "change", deleted, found and (deleted, gone) == (204, 404)


def _damaged(connection: HTTPConnection, scene: Scene, number: int, turn: int) -> tuple[str, int, bool]:
    data = bytearray(scene.first.read_bytes())
    del data[100 + turn % (len(data) - 200) :]
    status, _ = send(connection, "POST", "/v1/search", bytes(data))
    return "damaged", status, status in {200, 422, 429}
