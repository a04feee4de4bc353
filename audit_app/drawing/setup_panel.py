"""Before an attack: the image, its targets, and what the models answer now."""

from collections.abc import Sequence
from dataclasses import dataclass

from hardrank.audit_app.drawing.markup import Markup, captioned, element, series_key


@dataclass(frozen=True)
class CaptionedImage:
    """An image with a title and a caption."""

    uri: str
    """`data:` URI."""
    title: str
    caption: str


@dataclass(frozen=True)
class TargetGroup:
    """Targets of an attack."""

    title: str
    """Who draws them or whose they are; may be empty."""
    images: Sequence[CaptionedImage]


def setup_panel(image: CaptionedImage, targets: Sequence[TargetGroup], *, goal: str, limit: str) -> Markup:
    """Draw the image under attack, an arrow and the targets; `goal` and `limit` are sentences about the attack."""
    groups = [
        element(
            "div",
            *([element("p", group.title, class_="note")] if group.title else []),
            element("div", *(captioned(one.uri, one.title, one.caption) for one in group.images), class_="targets"),
        )
        for group in targets
    ]
    arrow = [element("div", "→", class_="arrow", aria_hidden="true")] if targets else []
    text = element("div", element("p", element("b", goal)), element("p", limit, class_="quiet"), class_="goal")
    return element("div", captioned(image.uri, image.title, image.caption), *arrow, *groups, text, class_="setup")


def answers_panel(models: Sequence[tuple[str, Sequence[CaptionedImage]]]) -> Markup:
    """Draw each model's first answers, the best first."""
    cards = [
        element(
            "article",
            element("h3", series_key(i), name),
            element("div", *map(_small, answers), class_="strip"),
            class_="card",
        )
        for i, (name, answers) in enumerate(models)
    ]
    return element("div", *cards, class_="cards")


def _small(image: CaptionedImage) -> Markup:
    drawn = element("img", src=image.uri, alt=image.caption, title=image.caption, class_="pixels")
    return element("figure", drawn, element("figcaption", image.title))
