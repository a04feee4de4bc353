"""Metrics of the server, in the format of Prometheus."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class QueryStage(StrEnum):
    """The stages of a query, in order."""

    DECODE = "decode"
    """From the bytes of the file to the network's input."""
    QUEUE = "queue"
    """Wait for a batch."""
    EMBED = "embed"
    """The network, on the whole batch."""
    SEARCH = "search"
    """The index: wait and search."""


class Rejection(StrEnum):
    """Why a request was rejected."""

    OVERLOAD = "overload"
    """Too many queries were pending, or too many bytes of request bodies in memory."""
    RATE = "rate"
    """The caller exceeded the rate limit."""
    TOO_LARGE = "too_large"
    """The body or the image was too large."""
    ACCESS = "access"
    """The API key was missing, unknown, or without the required role."""


class Metrics:
    """Counters, gauges and histograms of one server, in their own registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "hardrank_requests", "Requests by route and status.", ("method", "route", "status"), registry=self._registry
        )
        self._duration = Histogram(
            "hardrank_request_seconds",
            "From the head of a request to the end of its response.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        stage = Histogram(
            "hardrank_stage_seconds",
            "Seconds of each stage of a query.",
            ("stage",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stages = {name: stage.labels(name.value) for name in QueryStage}
        self._batch = Histogram(
            "hardrank_batch_images", "Images per batch of the network.", buckets=_SIZES, registry=self._registry
        )
        rejections = Counter(
            "hardrank_rejections", "Rejected requests by reason.", ("reason",), registry=self._registry
        )
        self._rejections = {name: rejections.labels(name.value) for name in Rejection}
        self._items = Gauge("hardrank_index_items", "Items in the index.", ("model",), registry=self._registry)

    def request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(method, route, str(status)).inc()
        self._duration.labels(route).observe(seconds)

    def stage(self, stage: QueryStage, seconds: float) -> None:
        """Record how long a stage took for one query."""
        self._stages[stage].observe(seconds)

    def batch(self, size: int) -> None:
        """Record the size of a batch."""
        self._batch.observe(size)

    def rejected(self, reason: Rejection) -> None:
        """Count a rejected request."""
        self._rejections[reason].inc()

    def add_gauges(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        """Add gauges that are read on demand: name → (description, function that returns the value)."""
        for name, (description, read) in gauges.items():
            Gauge(name, description, registry=self._registry).set_function(read)

    def add_item_gauge(self, model: str, read: Callable[[], float]) -> None:
        """Add the gauge of the number of items in the index of `model`."""
        self._items.labels(model).set_function(read)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)
