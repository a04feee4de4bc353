"""Before an attack: the image, what is wanted of it, and how the models answer it now."""

from collections.abc import Sequence
from dataclasses import dataclass

from hardrank.audit_app.drawing.markup import Markup, element


@dataclass(frozen=True)
class Captioned:
    """A picture with words."""

    uri: str
    """`data:` address."""
    title: str
    told: str


def plot_panel(image: Captioned, targets: Sequence[Captioned], *, story: str, promise: str) -> Markup:
    """Draw the attacked image, an arrow and what it is aimed at; `promise` is what stays unseen."""
    aims = [element("div", *map(_figure, targets), class_="targets")] if targets else []
    arrow = [element("div", "→", class_="arrow", aria_hidden="true")] if targets else []
    words = element("div", element("p", element("b", story)), element("p", promise, class_="quiet"), class_="story")
    return element("div", _figure(image), *arrow, *aims, words, class_="plot")


def _figure(picture: Captioned) -> Markup:
    return element(
        "figure",
        element("img", src=picture.uri, alt=f"{picture.title}: {picture.told}", class_="pixels"),
        element("figcaption", element("b", picture.title), " ", picture.told),
    )


def answers_panel(models: Sequence[tuple[str, Sequence[Captioned]]]) -> Markup:
    """Draw what each model answers, the best first."""
    cards = [
        element(
            "article",
            element("h3", element("span", class_=f"key series-{i}"), name),
            element("div", *map(_small, answers), class_="strip"),
            class_="card",
        )
        for i, (name, answers) in enumerate(models)
    ]
    return element("div", *cards, class_="cards")


def _small(picture: Captioned) -> Markup:
    image = element("img", src=picture.uri, alt=picture.told, title=picture.told, class_="pixels")
    return element("figure", image, element("figcaption", picture.title))
