"""HTML fragments of the page: pure functions that escape every text of the gallery or the visitor."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from hardrank.serving.agreement.calibration import Disagreement, DisagreementLevel
from hardrank.serving.api.problems import ProblemDetails
from hardrank.serving.page.plot import legend, score_plot
from hardrank.serving.store.items import Item, Match, Scalar

_MAX_FIELDS: Final = 4
"""Metadata fields on a card."""
_MAX_FIELD_LENGTH: Final = 60
"""Characters of a metadata name or value."""

_HEADINGS: Final[Mapping[DisagreementLevel, str]] = {
    DisagreementLevel.USUAL: "Usual",
    DisagreementLevel.UNUSUAL: "Unusual",
    DisagreementLevel.SUSPICIOUS: "Suspicious",
}


@dataclass(frozen=True, kw_only=True)
class ModelColumn:
    """The results of one model."""

    key: str
    """The model's key in the API."""
    title: str
    """The heading."""
    note: str
    """How the model was trained."""
    matches: Sequence[Match]
    """Best first."""
    timings: Mapping[str, float]
    """Milliseconds by step."""


@dataclass(frozen=True, kw_only=True)
class SearchResults:
    """Everything shown for one search."""

    query: str
    """Description of the query."""
    columns: Sequence[ModelColumn]
    """One or two models."""
    thumbnails: Mapping[str, bytes] = field(repr=False)
    """PNG by item id; items without one get a placeholder."""
    query_thumbnail: bytes = field(default=b"", repr=False)
    """PNG of the query, if it is an item of the gallery."""
    query_label: str | None = None
    """Label of the query; results that share it are marked."""
    agreement: Disagreement | None = None
    """Agreement of the two models, if both were searched and calibrated."""
    label_filter: str | None = None
    """The label that the search was restricted to."""
    address: str = ""
    """Query string that leads to this search again; empty for an upload, which the server does not keep."""


def results(found: SearchResults) -> str:
    """Return the query, the agreement of the models, a column for each model, and the plot of the scores."""
    columns = found.columns
    ranks = [{match.item.id: match.rank for match in column.matches} for column in columns]
    parts = [_query(found)]
    if found.agreement is not None:
        parts.append(_agreement(found.agreement))
    sections = []
    for number, column in enumerate(columns):
        others = [(other.key, ranks[position]) for position, other in enumerate(columns) if position != number]
        sections.append(_column(number, column, found, others))
    parts.append(f'<div class="hr-columns hr-of-{len(columns)}">{"".join(sections)}</div>')
    parts.append(_scores(columns))
    address = _attribute(found.address)
    return f'<div class="hr-results" data-address="{address}">{"".join(parts)}</div>'


def failure(problem: ProblemDetails) -> str:
    """Return an error message, with the request id if the cause is only in the server's log."""
    request_id = f'<p class="hr-note">Request id: {escape(problem.request_id)}</p>' if problem.status == 500 else ""
    return (
        f'<div class="hr-message" role="alert"><strong>{escape(problem.title)}</strong>'
        f"<p>{escape(problem.detail)}</p>{request_id}</div>"
    )


def welcome(*, size: int, models: Sequence[str]) -> str:
    """Return the instructions shown before the first search."""
    if not size:
        return (
            '<div class="hr-welcome"><h2>The gallery is empty</h2>'
            "<p>Add images through the HTTP API or with the index command, then reload this page.</p></div>"
        )
    both = len(models) == 2
    compare = (
        "<b>Compare the models.</b> Each model ranks the images for the same query."
        if both
        else "<b>View the results.</b> The most similar images come first, with their scores."
    )
    last = (
        "<b>Check the agreement.</b> If the two rankings disagree more than usual, the image may have been altered "
        "to mislead one of the models."
        if both
        else "<b>Refine the search.</b> Click a result to search with it."
    )
    return (
        f'<div class="hr-welcome"><h2>Search {size:,} {"image" if size == 1 else "images"} by example</h2><ol>'
        "<li><b>Choose an image.</b> Upload, paste or photograph one, or click an example.</li>"
        f"<li>{compare}</li><li>{last}</li></ol></div>"
    )


def examples(items: Sequence[Item], thumbnails: Mapping[str, bytes]) -> str:
    """Return buttons that search with items of the gallery."""
    if not items:
        return '<p class="hr-note">The gallery is empty.</p>'
    buttons = (
        f'<button type="button" class="hr-example" data-id="{_attribute(item.id)}" '
        f'aria-label="Search with {_attribute(_name(item))}" title="{_attribute(_name(item))}">'
        f"{_image(thumbnails.get(item.id, b''), '')}</button>"
        for item in items
    )
    return f'<h2 class="hr-small">Or choose an example</h2><div class="hr-examples">{"".join(buttons)}</div>'


def _query(found: SearchResults) -> str:
    thumbnail = _image(found.query_thumbnail, "Query image") if found.query_thumbnail else ""
    label = found.label_filter
    restricted = f' with label <span class="hr-label">{escape(label)}</span>' if label is not None else ""
    count = max((len(column.matches) for column in found.columns), default=0)
    heading = {0: "No results", 1: "Most similar image"}.get(count, f"{count} most similar images")
    return (
        f'<header class="hr-query">{thumbnail}<div><h2 role="status">{heading}{restricted}</h2>'
        f"<p>Query: {escape(found.query)}</p></div></header>"
    )


def _agreement(agreement: Disagreement) -> str:
    level = agreement.level
    percentile = min(max(agreement.percentile, 0.0), 100.0)
    return (
        f'<section class="hr-agreement hr-{level.value}" aria-label="Model agreement">'
        f'<div class="hr-agreement-head"><h3>Model agreement</h3><span class="hr-pill">{_HEADINGS[level]}</span></div>'
        f"<p>{escape(agreement.text)}</p>"
        f'<div class="hr-meter" role="img" aria-label="Percentile {percentile:.1f} of the gallery’s own images">'
        f'<i style="left:{percentile:.2f}%"></i></div>'
        '<div class="hr-meter-ends" aria-hidden="true"><span>models disagree</span>'
        "<span>models agree</span></div>"
        "<details><summary>How this is measured</summary>"
        f"<p>The rank-biased overlap of the two rankings is {agreement.rbo:.3f} (1: same order, 0: nothing in common). "
        f"That is percentile {percentile:.1f} of the values for the gallery’s own images. It is an indication, not a "
        "detector: the models also disagree on an image unlike the gallery, and may agree on an image that was altered "
        "against both of them.</p></details></section>"
    )


def _column(
    number: int, column: ModelColumn, found: SearchResults, others: Sequence[tuple[str, Mapping[str, int]]]
) -> str:
    cards = "".join(_card(match, found, others) for match in column.matches)
    body = f'<ol class="hr-cards">{cards}</ol>' if cards else '<p class="hr-note">No results.</p>'
    return (
        f'<section class="hr-column" aria-label="{_attribute(column.title)}"><div class="hr-column-head">'
        f'<h3><i class="hr-dot hr-dot-{number}" aria-hidden="true"></i>{escape(column.title)}</h3>'
        f'<p class="hr-note">{escape(column.note)}</p>{_timings(column.timings)}</div>{body}</section>'
    )


def _card(match: Match, found: SearchResults, others: Sequence[tuple[str, Mapping[str, int]]]) -> str:
    item = match.item
    same = found.query_label is not None and item.label == found.query_label
    label = escape(item.label) if item.label is not None else '<span class="hr-none">no label</span>'
    spoken = f"Rank {match.rank}, score {match.score:.3f}: {_name(item)}. Search with this image"
    elsewhere = "".join(
        f'<span class="hr-elsewhere">#{ranks[item.id]} {escape(key)}</span>'
        for key, ranks in others
        if item.id in ranks
    )
    return (
        f'<li><button type="button" class="hr-card{" hr-same" if same else ""}" data-id="{_attribute(item.id)}" '
        f'aria-label="{_attribute(spoken)}">'
        f'<span class="hr-picture">{_image(found.thumbnails.get(item.id, b""), _name(item))}'
        f'<span class="hr-badge hr-rank">{match.rank}</span>'
        f'<span class="hr-badge hr-score">{match.score:.3f}</span></span>'
        f'<span class="hr-caption"><span class="hr-label">{label}</span>'
        f'<span class="hr-id">{escape(item.id)}</span>{_metadata(item.metadata)}{elsewhere}</span></button></li>'
    )


def _scores(columns: Sequence[ModelColumn]) -> str:
    plot = score_plot([(column.title, [match.score for match in column.matches]) for column in columns])
    if not plot:
        return ""
    return (
        '<figure class="hr-figure"><figcaption><h3>Scores by rank</h3>'
        '<p class="hr-note">The cosine similarity of the embeddings, from −1 to 1. Compare the order of the results '
        "across models, not their scores.</p></figcaption>"
        f"{legend([column.title for column in columns])}{plot}</figure>"
    )


def _timings(timings: Mapping[str, float]) -> str:
    parts = " · ".join(f"{escape(step)} {_milliseconds(value)}" for step, value in timings.items())
    return f'<p class="hr-timings" aria-label="Timings">{parts} ms</p>' if parts else ""


def _metadata(metadata: Mapping[str, Scalar]) -> str:
    shown = list(metadata.items())[:_MAX_FIELDS]
    return "".join(
        f'<span class="hr-meta">{escape(_short(str(name)))}: {escape(_short(_text(value)))}</span>'
        for name, value in shown
    )


def _text(value: Scalar) -> str:
    """Return a value as people write it."""
    return "–" if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _image(png: bytes, alternative: str) -> str:
    """Embed a PNG unchanged in the page: it is not re-encoded, and no URL serves it to others."""
    if not png:
        return f'<span class="hr-blank" role="img" aria-label="{_attribute(alternative or "no image")}"></span>'
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{_attribute(alternative)}">'


def _name(item: Item) -> str:
    return item.id if item.label is None else f"{item.label}, {item.id}"


def _milliseconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _short(text: str) -> str:
    return text if len(text) <= _MAX_FIELD_LENGTH else text[: _MAX_FIELD_LENGTH - 1] + "…"


def _attribute(text: str) -> str:
    return escape(text, quote=True)
