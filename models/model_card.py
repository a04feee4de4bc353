"""README.md of a bundle: the model card that the Hugging Face Hub shows."""

from typing import Final

from jinja2 import Environment, PackageLoader

from hardrank.models.card import Card

MODEL_CARD: Final = "README.md"
_TEMPLATE: Final = "model_card.md.jinja"
_LICENSE: Final = "other"
"""Whoever trained the weights decides on their licence."""


def model_card(card: Card, *, license: str = _LICENSE) -> str:
    """Render the model card of a bundle.

    Args:
        card: The bundle's card.
        license: Licence of the weights, as the Hub names it.

    Returns:
        Markdown that starts with the Hub's metadata.
    """
    environment = Environment(loader=PackageLoader("hardrank.models"), keep_trailing_newline=True, autoescape=False)
    environment.filters["fixed"] = _fixed
    return environment.get_template(_TEMPLATE).render(card=card, license=license)


def _fixed(value: object, digits: int) -> str:
    """A number with `digits` decimals; a dash if it was not measured."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"
