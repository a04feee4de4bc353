"""What many clients at once get of the bare network's rate."""

import json
import re
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any, Final

from benchmarks.command import ROOT
from benchmarks.serving_options import ServingOptions
from benchmarks.serving_processes import BATCH, Plain, Server, plain, send, served
from benchmarks.serving_scene import Scene

_LOADS: Final = 5


def clients(scene: Scene, options: ServingOptions) -> dict[str, Any]:
    """64 clients at once, against the bare network on batches of its best size, before, between and after.

    The ratio of a load is to the mean of the bare rates before and after it, as the speed of a machine changes within
    minutes; the result is the median of these ratios.
    """
    rates: dict[int, list[float]] = {size: [] for size in (8, 16, BATCH, 64)}
    loads = []
    with plain(scene, "onnxruntime") as bare, served(scene, "--no-page") as server:
        network = bare["onnxruntime"]
        for size in rates:
            network.do(do="batch", size=size)  # which allocates
        for turn in range(_LOADS + 1):
            for size, found in rates.items():
                found.append(_bare_rate(network, size, seconds=options.seconds / 16))
            if turn < _LOADS:
                loads.append(_load(scene, server, clients=64, seconds=options.seconds / 2))
        sizes = [_metric(server, f"hardrank_batch_images_{part}") for part in ("sum", "count")]
    medians = {size: statistics.median(found) for size, found in rates.items()}
    best = max(medians, key=medians.__getitem__)
    full_batch_s = BATCH / medians[BATCH]
    rate = statistics.median(load["per_second"] for load in loads)
    ratios = [
        load["per_second"] / statistics.mean(around) for load, around in zip(loads, pairwise(rates[best]), strict=True)
    ]
    p99_ms = max(load["p99_ms"] for load in loads)
    with served(scene, "--no-page", "--pending=64") as server:
        overload = _load(scene, server, clients=64, seconds=max(3, options.seconds / 4))
    return {
        "clients": 64,
        "loads": loads,
        "mean_batch": round(sizes[0] / sizes[1], 1),
        "bare_images_per_second": {str(size): round(value, 1) for size, value in medians.items()},
        "bare_best": {"batch": best, "images_per_second": round(medians[best], 1)},
        "images_per_second": round(rate, 1),
        "throughput_over_bare_of_loads": [round(ratio, 3) for ratio in ratios],
        "throughput_over_bare": round(statistics.median(ratios), 3),
        "throughput_limit": 0.85,
        "full_batch_ms": round(1000 * full_batch_s, 3),
        "p99_ms": round(p99_ms, 1),
        "p99_over_full_batch": round(p99_ms / 1000 / full_batch_s, 2),
        "p99_limit": 4,
        "lost": sum(load["lost"] for load in loads),
        "wrong": sum(load["wrong"] for load in loads),
        "overload_of_32_places": overload,
    }


def _bare_rate(network: Plain, size: int, *, seconds: float) -> float:
    """Images per second in batches of one size."""
    images, until, took = 0, time.monotonic() + seconds, 0.0
    while not images or time.monotonic() < until:
        took += network.do(do="batch", size=size)["embed"]
        images += size
    return images / took


def _load(scene: Scene, server: Server, *, clients: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks/load.py"), "--port", str(server.port), "--clients", str(clients)]
    command += ["--seconds", str(seconds), "--warm-up", "3", "--images", str(scene.images)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(told.stdout)
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in found.items()}


def _metric(server: Server, name: str) -> float:
    match = re.search(rf"^{name} (\S+)", send(server.connect(), "GET", "/metrics")[1].decode(), re.MULTILINE)
    assert match is not None
    return float(match[1])
