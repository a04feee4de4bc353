"""The page that a bundle is introduced with: README.md, as the Hugging Face Hub shows it."""

from typing import TYPE_CHECKING, Final

from jinja2 import Environment, PackageLoader

if TYPE_CHECKING:
    from hardrank.models.bundle import Card

MODEL_CARD: Final = "README.md"
_TEMPLATE: Final = "model_card.md.jinja"
_LICENSE: Final = "other"
"""Of the weights: that is for whoever trained them, on images with licences of their own, to say."""


def model_card(card: "Card", *, license: str = _LICENSE) -> str:
    """Write the model card of `card` in Markdown, with the Hub's metadata at its head.

    `license` is the Hub's name of the licence that the weights are given under.
    """
    environment = Environment(loader=PackageLoader("hardrank.models"), keep_trailing_newline=True, autoescape=False)
    environment.filters["fixed"] = _fixed
    return environment.get_template(_TEMPLATE).render(card=card, license=license)


def _fixed(value: object, digits: int) -> str:
    """A number with `digits` decimals; a dash where none was measured."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"
