"""What the page shows, as HTML; pure. Every text that comes from a gallery or a caller is escaped here."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from hardrank.serving.agreement.calibration import Level, Suspicion
from hardrank.serving.page.plot import legend, score_plot
from hardrank.serving.store.items import Item, Match, Scalar

_MOST_FIELDS: Final = 4
"""Fields of metadata shown on a card."""
_LONGEST_FIELD: Final = 60
"""Characters of one of them."""

_HEADINGS: Final[Mapping[Level, str]] = {
    Level.USUAL: "Usual",
    Level.UNUSUAL: "Unusual",
    Level.SUSPICIOUS: "Suspicious",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One model's answer."""

    name: str
    """What callers know the model by."""
    title: str
    """What it is called above its answer."""
    note: str
    """A few words on what it is."""
    matches: Sequence[Match]
    """The best first."""
    timings: Mapping[str, float]
    """Milliseconds by stage."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """An answer as the page shows it."""

    query: str
    """What was asked, in a few words."""
    columns: Sequence[Column]
    """One or two models, in the order of the page."""
    thumbnails: Mapping[str, bytes] = field(repr=False)
    """PNG by id; ids without one are shown as a blank."""
    query_thumbnail: bytes = field(default=b"", repr=False)
    """PNG of the query, where it is an item of the gallery."""
    query_label: str | None = None
    """Its label; results that share it are marked."""
    suspicion: Suspicion | None = None
    """The hint, where two models were asked and their usual agreement is known."""
    filtered: str | None = None
    """The label that the answer is confined to."""


def results(answer: Results) -> str:
    """Show an answer: the query, the hint, a column for each model, the plot of the scores."""
    columns = answer.columns
    ranks = [{match.item.id: match.rank for match in column.matches} for column in columns]
    parts = [_query(answer)]
    if answer.suspicion is not None:
        parts.append(_suspicion(answer.suspicion))
    shown = []
    for number, column in enumerate(columns):
        others = [(other.name, ranks[place]) for place, other in enumerate(columns) if place != number]
        shown.append(_column(number, column, answer, others))
    parts.append(f'<div class="hr-columns hr-of-{len(columns)}">{"".join(shown)}</div>')
    parts.append(_scores(columns))
    return f'<div class="hr-results">{"".join(parts)}</div>'


def failure(title: str, detail: str) -> str:
    """Show what went wrong."""
    return f'<div class="hr-message" role="alert"><strong>{escape(title)}</strong><p>{escape(detail)}</p></div>'


def welcome(*, size: int, models: Sequence[str]) -> str:
    """Show what to do, before there is an answer."""
    if not size:
        return (
            '<div class="hr-welcome"><h2>The gallery is empty.</h2>'
            "<p>Add images through the API, or with the build command; then open this page again.</p></div>"
        )
    both = len(models) == 2
    answer = (
        "Both models answer side by side: the same query, two rankings."
        if both
        else "The most similar images come first, with their scores."
    )
    last = (
        "<li><b>Read the hint.</b> Where the two rankings disagree more than usual, the image may have been "
        "altered to mislead one of the models.</li>"
        if both
        else "<li><b>Go on from there.</b> Click any result to search with it.</li>"
    )
    return (
        '<div class="hr-welcome"><h2>Which of the '
        f"{size:,} images here look like yours?</h2><ol>"
        "<li><b>Give an image.</b> Drop, paste or photograph one, or click an example.</li>"
        f"<li><b>Compare.</b> {answer}</li>{last}</ol></div>"
    )


def examples(items: Sequence[Item], thumbnails: Mapping[str, bytes]) -> str:
    """Show items of the gallery to search with."""
    if not items:
        return '<p class="hr-note">The gallery is empty.</p>'
    buttons = (
        f'<button type="button" class="hr-example" data-id="{_attribute(item.id)}" '
        f'aria-label="Search with {_attribute(_name(item))}" title="{_attribute(_name(item))}">'
        f"{_image(thumbnails.get(item.id, b''), '')}</button>"
        for item in items
    )
    return f'<h2 class="hr-small">Or try one of these</h2><div class="hr-examples">{"".join(buttons)}</div>'


def _query(answer: Results) -> str:
    thumbnail = _image(answer.query_thumbnail, "The query") if answer.query_thumbnail else ""
    confined = f' among <span class="hr-label">{escape(answer.filtered)}</span>' if answer.filtered is not None else ""
    count = max((len(column.matches) for column in answer.columns), default=0)
    found = f"{count} most similar images" if count != 1 else "The most similar image"
    return (
        f'<header class="hr-query">{thumbnail}<div><h2 role="status">{found}{confined}</h2>'
        f"<p>for {escape(answer.query)}</p></div></header>"
    )


def _suspicion(suspicion: Suspicion) -> str:
    level = suspicion.level
    place = min(max(suspicion.percentile, 0.0), 100.0)
    return (
        f'<section class="hr-hint hr-{level.value}" aria-label="Hint on tampering">'
        f'<div class="hr-hint-head"><h3>Do the models agree?</h3><span class="hr-pill">{_HEADINGS[level]}</span></div>'
        f"<p>{escape(suspicion.text)}</p>"
        f'<div class="hr-meter" role="img" aria-label="Percentile {place:.1f} of the gallery’s own images">'
        f'<i style="left:{place:.2f}%"></i></div>'
        '<div class="hr-meter-ends" aria-hidden="true"><span>they disagree</span>'
        "<span>they agree</span></div>"
        "<details><summary>What this means</summary>"
        f"<p>Rank-biased overlap compares the two rankings, the first places most; here it is {suspicion.rbo:.3f} "
        f"(1: the same order, 0: nothing in common), the {place:.1f} percentile of what the gallery’s own images give. "
        "It is a hint, not a detector: a picture unlike anything in the gallery makes the models disagree as well, "
        "and a picture altered against both at once need not.</p></details></section>"
    )


def _column(number: int, column: Column, answer: Results, others: Sequence[tuple[str, Mapping[str, int]]]) -> str:
    cards = "".join(_card(match, answer, others) for match in column.matches)
    body = f'<ol class="hr-cards">{cards}</ol>' if cards else '<p class="hr-note">Nothing found.</p>'
    return (
        f'<section class="hr-column" aria-label="{_attribute(column.title)}"><div class="hr-column-head">'
        f'<h3><i class="hr-dot hr-dot-{number}" aria-hidden="true"></i>{escape(column.title)}</h3>'
        f'<p class="hr-note">{escape(column.note)}</p>{_timings(column.timings)}</div>{body}</section>'
    )


def _card(match: Match, answer: Results, others: Sequence[tuple[str, Mapping[str, int]]]) -> str:
    item = match.item
    same = answer.query_label is not None and item.label == answer.query_label
    label = escape(item.label) if item.label is not None else '<span class="hr-none">no label</span>'
    spoken = f"Rank {match.rank}, score {match.score:.3f}: {_name(item)}. Search with it"
    elsewhere = "".join(
        f'<span class="hr-elsewhere">#{ranks[item.id]} {escape(name)}</span>'
        for name, ranks in others
        if item.id in ranks
    )
    return (
        f'<li><button type="button" class="hr-card{" hr-same" if same else ""}" data-id="{_attribute(item.id)}" '
        f'aria-label="{_attribute(spoken)}">'
        f'<span class="hr-picture">{_image(answer.thumbnails.get(item.id, b""), _name(item))}'
        f'<span class="hr-badge hr-rank">{match.rank}</span>'
        f'<span class="hr-badge hr-score">{match.score:.3f}</span></span>'
        f'<span class="hr-caption"><span class="hr-label">{label}</span>'
        f'<span class="hr-id">{escape(item.id)}</span>{_metadata(item.metadata)}{elsewhere}</span></button></li>'
    )


def _scores(columns: Sequence[Column]) -> str:
    plot = score_plot([(column.title, [match.score for match in column.matches]) for column in columns])
    if not plot:
        return ""
    return (
        '<figure class="hr-figure"><figcaption><h3>Scores by rank</h3>'
        '<p class="hr-note">A score is the cosine similarity of two images as a model sees them: 1 is the same, '
        "0 unrelated. Scores of different models are not comparable; the order is.</p></figcaption>"
        f"{legend([column.title for column in columns])}{plot}</figure>"
    )


def _timings(timings: Mapping[str, float]) -> str:
    parts = " · ".join(f"{escape(stage)} {_milliseconds(value)}" for stage, value in timings.items())
    return f'<p class="hr-timings" aria-label="Time taken">{parts} ms</p>' if parts else ""


def _metadata(metadata: Mapping[str, Scalar]) -> str:
    shown = list(metadata.items())[:_MOST_FIELDS]
    return "".join(
        f'<span class="hr-meta">{escape(_short(str(name)))}: {escape(_short(str(value)))}</span>'
        for name, value in shown
    )


def _image(png: bytes, alternative: str) -> str:
    """Embed a PNG byte for byte: nothing encodes it again on its way, and no address serves it to others."""
    if not png:
        return f'<span class="hr-blank" role="img" aria-label="{_attribute(alternative or "no picture")}"></span>'
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{_attribute(alternative)}">'


def _name(item: Item) -> str:
    return item.id if item.label is None else f"{item.label}, {item.id}"


def _milliseconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_FIELD else text[: _LONGEST_FIELD - 1] + "…"


def _attribute(text: str) -> str:
    return escape(text, quote=True)
