"""README.md of a bundle: the model card that the Hugging Face Hub shows."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from jinja2 import Environment, PackageLoader

from hardrank.models.card import Card

MODEL_CARD: Final = "README.md"
_TEMPLATE: Final = "model_card.md.jinja"
_LICENSE: Final = "other"
"""Whoever trained the weights decides on their license."""
_RETRIEVAL: Final = {
    "recall_at_1": "Recall@1",
    "recall_at_2": "Recall@2",
    "mean_ap": "mAP",
    "map_at_r": "mAP@R",
    "nmi": "NMI",
    "mean_cosine": "mean cosine of all pairs",
}
_ARGUMENTS: Final = ("norm", "epsilon", "steps")
_LONGEST: Final = 96
"""Characters that the Hub allows in a name."""


def model_card(card: Card, *, license: str = _LICENSE, base_model: str | None = None) -> str:
    """Render the model card of a bundle.

    Args:
        card: The bundle's card.
        license: License of the weights, as the Hub names it.
        base_model: `USER/NAME` on the Hub of the model that training started from; by default the repository that the
            card names, if it does.

    Returns:
        Markdown that starts with the Hub's metadata: among them `model-index` with the measured figures, `datasets`
        and `base_model`.
    """
    start = card.initial_weights
    environment = Environment(loader=PackageLoader("hardrank.models"), keep_trailing_newline=True, autoescape=False)
    environment.filters["fixed"] = _fixed
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.get_template(_TEMPLATE).render(
        card=card,
        license=license,
        base_model=base_model or (start.repository if start else None),
        dataset=_dataset_id(card),
        results=hub_metrics(card),
    )


def hub_metrics(card: Card) -> list[dict[str, Any]]:
    """Return what was measured, as the Hub's `model-index` has it: type, name, value and arguments of each metric."""
    found = [
        {"type": key, "name": name, "value": card.metrics[key]}
        for key, name in _RETRIEVAL.items()
        if math.isfinite(card.metrics.get(key, math.nan))
    ]
    robustness: Mapping[str, Any] = card.robustness or {}
    strong: Mapping[str, Any] = robustness.get("strong") or {}
    arguments = {key: robustness["options"][key] for key in _ARGUMENTS} if robustness else {}
    for values, key, type_, name in (
        (robustness, "ers", "ers", "ERS"),
        (strong, "ers", "strong_ers", "strong ERS"),
        (robustness, "worst_case_recall", "worst_case_recall", "Recall@1 in the worst case, %"),
    ):
        if values.get(key) is not None:
            images = {"images": values.get("n", robustness.get("n"))}
            found.append({"type": type_, "name": name, "value": values[key], "args": {**arguments, **images}})
    return found


def _dataset_id(card: Card) -> str | None:
    """Return the data set's name as the Hub allows it: letters, digits, dots, hyphens, underscores."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(card.data.get("name") or "")).strip("-.")
    return name[:_LONGEST] or None


def _fixed(value: object, digits: int) -> str:
    """A number with `digits` decimals; a dash if it was not measured."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"
