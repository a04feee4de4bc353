"""The served models: each a network and its index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hardrank.models.errors import HardrankError
from hardrank.serving.engine import Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.index.stats import IndexStats
from hardrank.serving.store.items import UnknownItemError


class ServiceError(HardrankError):
    """The models cannot be served together."""


class UnknownModelError(HardrankError):
    """The requested model is not served."""


@dataclass(frozen=True, kw_only=True)
class ModelStats:
    """Name, measured quality and index size of one served model."""

    name: str
    """The bundle's name."""
    defense: str
    """In the paper's notation."""
    sha256: str
    """Of model.onnx."""
    recall_at_1: float | None
    """From the model card."""
    ers: float | None
    """Empirical Robustness Score, 0 to 100, from the model card."""
    device: str
    """Where the network runs."""
    index: IndexStats


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network and the index that it filled."""

    key: str
    """What callers name it: `benign`, `robust`, or the bundle's name."""
    engine: Engine
    index: SearchIndex

    def stats(self) -> ModelStats:
        """Return name, measured quality and index size."""
        card = self.engine.card
        robustness = card.robustness or {}
        return ModelStats(
            name=card.name,
            defense=card.defense,
            sha256=self.engine.model_sha256,
            recall_at_1=card.metrics.get("recall_at_1"),
            ers=robustness.get("ers"),
            device=self.engine.device.value,
            index=self.index.stats(),
        )


def models_by_key(models: Sequence[Model]) -> Mapping[str, Model]:
    """Return the models by key, in order; raises `ServiceError` if there are none or two share a key."""
    keys = [model.key for model in models]
    if not keys:
        raise ServiceError("no model to serve; use --model BUNDLE=INDEX")
    if len(set(keys)) < len(keys):
        raise ServiceError(f"two models share a key: {', '.join(keys)}; set different ones with KEY:BUNDLE=INDEX")
    return {model.key: model for model in models}


def select_keys(models: Mapping[str, Model], requested: Sequence[str] | None) -> tuple[str, ...]:
    """Return the requested keys, each once, or all if None is requested; raises `UnknownModelError`."""
    for key in requested or ():
        if key not in models:
            raise UnknownModelError(f"no model has the key {key!r}; choose from {', '.join(models)}")
    return tuple(key for key in models if not requested or key in requested)


def first_with_item(models: Mapping[str, Model], id: str) -> Model:
    """Return the first model whose index has the item; raises `UnknownItemError`."""
    for model in models.values():
        if model.index.rows([id]):
            return model
    raise UnknownItemError(f"no item has the id {id!r}")
