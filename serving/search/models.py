"""The models that are served: networks, and the indexes that they made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hardrank.models.errors import HardrankError
from hardrank.serving.engine import Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.index.stats import IndexStats
from hardrank.serving.store.items import UnknownItemError


class ServiceError(HardrankError):
    """Models that cannot be served together."""


class UnknownModelError(HardrankError):
    """A model was asked that is not served."""


@dataclass(frozen=True, kw_only=True)
class ModelStats:
    """What is served of one model."""

    name: str
    """The bundle's name."""
    defense: str
    """In the paper's notation."""
    sha256: str
    """Of model.onnx."""
    recall_at_1: float | None
    """As the card measured it."""
    ers: float | None
    """Empirical Robustness Score, 0 to 100, as the card measured it."""
    device: str
    """Where the network runs."""
    index: IndexStats


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network, and the index that it made."""

    key: str
    """What callers know it by: `benign`, `robust`, or the bundle's name."""
    engine: Engine
    index: SearchIndex

    def stats(self) -> ModelStats:
        """Say what is served."""
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


def by_key(models: Sequence[Model]) -> Mapping[str, Model]:
    """Give models by their keys, in their order; raises `ServiceError` where there are none, or two share a key."""
    if not models or len({model.key for model in models}) < len(models):
        raise ServiceError(
            f"the models to serve are called {[model.key for model in models]}; give at least one, and names that "
            "differ (KEY:BUNDLE=INDEX)"
        )
    return {model.key: model for model in models}


def chosen(models: Mapping[str, Model], asked: Sequence[str] | None) -> tuple[str, ...]:
    """Give the keys of the models that are meant, each once, of all where none is named; raises `UnknownModelError`."""
    for key in asked or ():
        if key not in models:
            raise UnknownModelError(f"no model is called {key!r}; there are {', '.join(models)}")
    return tuple(key for key in models if not asked or key in asked)


def holding(models: Mapping[str, Model], id: str) -> Model:
    """Give the first model whose index has the item; raises `UnknownItemError`."""
    for model in models.values():
        if model.index.rows([id]):
            return model
    raise UnknownItemError(f"no item has the id {id!r}")
