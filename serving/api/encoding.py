"""Answers as plain values, ready for JSON (the shapes of `hardrank.serving.api.schemas`)."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hardrank.serving.search.answers import ModelAnswer, SearchAnswer
from hardrank.serving.search.models import ModelStats
from hardrank.serving.search.service import SearchService
from hardrank.serving.store.items import Item, Match


def item(value: Item) -> dict[str, Any]:
    """Encode an item."""
    return {
        "id": value.id,
        "label": value.label,
        "metadata": dict(value.metadata),
        "width": value.width,
        "height": value.height,
    }


def search(answer: SearchAnswer) -> dict[str, Any]:
    """Encode the answer to a search."""
    return {
        "models": {key: _model(own) for key, own in answer.by_model.items()},
        "suspicion": answer.suspicion.to_dict() if answer.suspicion else None,
    }


def server_timing(answer: SearchAnswer) -> dict[str, str]:
    """Give the header Server-Timing: each stage's milliseconds, those of the networks added up."""
    timings = [own.timings for own in answer.by_model.values()]
    stages = {
        "decode": timings[0].decode_ms,
        "queue": timings[0].queue_ms,
        "embed": sum(own.embed_ms for own in timings),
        "search": timings[0].search_ms,
    }
    return {"Server-Timing": ", ".join(f"{name};dur={value:.2f}" for name, value in stages.items())}


def stats(models: Mapping[str, ModelStats], service: SearchService, version: str) -> dict[str, Any]:
    """Encode what is served."""
    limits = service.settings.limits
    return {
        "version": version,
        "models": {key: asdict(own) for key, own in models.items()},
        "pending": service.admission.inside,
        "limits": {
            "body_bytes": limits.body_bytes,
            "image_bytes": limits.image_bytes,
            "image_pixels": limits.image_pixels,
            "image_side": limits.image_side,
            "results": limits.results,
            "batch_queries": limits.batch_queries,
            "page_items": limits.page_items,
        },
    }


def _model(answer: ModelAnswer) -> dict[str, Any]:
    return {"matches": [_match(match) for match in answer.matches], "timings": _timings(answer)}


def _match(match: Match) -> dict[str, Any]:
    return {**item(match.item), "rank": match.rank, "score": match.score}


def _timings(answer: ModelAnswer) -> dict[str, float]:
    return {name: round(value, 3) for name, value in asdict(answer.timings).items()}
