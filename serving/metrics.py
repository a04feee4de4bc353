"""What the server tells Prometheus."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class Stage(StrEnum):
    """The stages of a search, in their order."""

    DECODE = "decode"
    """From the bytes of the file to the network's input."""
    QUEUE = "queue"
    """Waiting for a batch."""
    EMBED = "embed"
    """The network, on the whole batch."""
    SEARCH = "search"
    """Waiting for the index, and searching it."""


class Rejection(StrEnum):
    """Why a request was turned away."""

    OVERLOAD = "overload"
    """The queue was full, or too many bytes were in memory."""
    RATE = "rate"
    """The caller's rate limit."""
    TOO_LARGE = "too_large"
    """A body or an image over the limits."""
    ACCESS = "access"
    """No key, a wrong one, or one without the right."""


class Metrics:
    """Counters, gauges and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "hardrank_requests", "Requests by route and status.", ("method", "route", "status"), registry=self._registry
        )
        self._duration = Histogram(
            "hardrank_request_seconds",
            "From the head of a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        stage = Histogram(
            "hardrank_stage_seconds",
            "Seconds of each stage of a search.",
            ("stage",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stages = {name: stage.labels(name.value) for name in Stage}
        self._batch = Histogram(
            "hardrank_batch_images", "Images embedded at once.", buckets=_SIZES, registry=self._registry
        )
        rejections = Counter(
            "hardrank_rejections", "Requests turned away, by reason.", ("reason",), registry=self._registry
        )
        self._rejections = {name: rejections.labels(name.value) for name in Rejection}
        self._items = Gauge("hardrank_index_items", "Items that can be found.", ("model",), registry=self._registry)

    def request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(method, route, str(status)).inc()
        self._duration.labels(route).observe(seconds)

    def stage(self, stage: Stage, seconds: float) -> None:
        """Note how long a stage took for one image."""
        self._stages[stage].observe(seconds)

    def batch(self, size: int) -> None:
        """Note the size of a batch."""
        self._batch.observe(size)

    def rejected(self, reason: Rejection) -> None:
        """Count a request that was turned away."""
        self._rejections[reason].inc()

    def watch(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        """Show values that are read when somebody looks: name → (what it is, how to read it)."""
        for name, (meaning, read) in gauges.items():
            Gauge(name, meaning, registry=self._registry).set_function(read)

    def watch_items(self, model: str, read: Callable[[], float]) -> None:
        """Show how many items the index of `model` holds."""
        self._items.labels(model).set_function(read)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)
