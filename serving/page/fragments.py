"""HTML fragments of the page: pure functions that escape every text of the gallery or the visitor."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final
from urllib.parse import quote, urlencode

from hardrank.serving.agreement.calibration import Disagreement, DisagreementLevel
from hardrank.serving.api.problems import ProblemDetails
from hardrank.serving.inspection.scan import ScanResult
from hardrank.serving.page.downloads import csv_url, json_url
from hardrank.serving.page.plot import legend, score_plot
from hardrank.serving.store.items import Item, Match, Scalar

_MAX_FIELDS: Final = 4
"""Metadata fields on a card."""
MAX_SUSPECTS: Final = 24
"""Items in each list of a scan."""
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
    copies: Mapping[str, Sequence[Match]] = field(default_factory=dict)
    """Near-duplicates of a match that are folded into it, by its item id."""


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


def header(*, sign_out: bool) -> str:
    """Return the name of the page, and a button to sign out where visitors sign in."""
    # The address is relative, so that it works below any path.
    form = '<form method="post" action="logout"><button type="submit" class="hr-button">Sign out</button></form>'
    return (
        '<header class="hr-header"><h1>hardrank</h1><p>Adversarially robust image search</p>'
        f"{form if sign_out else ''}</header>"
    )


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
    parts.append(_downloads(found))
    address = escape(found.address)
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
        f'<button type="button" class="hr-example" data-id="{escape(item.id)}" '
        f'aria-label="Search with {escape(item_name(item))}" title="{escape(item_name(item))}">'
        f"{_image(thumbnails.get(item.id, b''), '')}</button>"
        for item in items
    )
    return f'<h2 class="hr-small">Or choose an example</h2><div class="hr-examples">{"".join(buttons)}</div>'


def scan_section(found: ScanResult | None, thumbnails: Mapping[str, bytes], *, problem: str = "") -> str:
    """Return the section that lists suspicious items; before the scan, with a button that starts it."""
    button = '<button type="button" class="hr-button" data-scan>Scan the gallery</button>'
    body = f'<p class="hr-note" role="alert">{escape(problem)}</p>' if problem else ""
    if found is not None:
        body = _hubs(found, thumbnails) + _disagreements(found, thumbnails)
        button = '<button type="button" class="hr-button" data-scan>Scan again</button>'
    return (
        '<section class="hr-scan" aria-labelledby="hr-scan-title"><h2 id="hr-scan-title" class="hr-small">'
        'Suspicious items</h2><p class="hr-note">Images may be planted that are near to many '
        "queries (hubs), or altered so that the models see different neighbors.</p>"
        f"{button}{body}</section>"
    )


def _hubs(found: ScanResult, thumbnails: Mapping[str, bytes]) -> str:
    count = len(found.hubs)
    heading = {0: "No hubs", 1: "1 hub"}.get(count, f"{count} hubs")
    cards = "".join(
        _suspect(hub.id, hub.label, f"near to {hub.occurrences} items, score {hub.score:.1f}", thumbnails)
        for hub in found.hubs[:MAX_SUSPECTS]
    )
    return (
        f'<div role="status"><h3>{heading}</h3></div><p class="hr-note">An item is usually among the {found.k} nearest '
        f"of {found.expected_occurrences:.1f} others; above a score of {found.threshold:g} it is a hub.</p>"
        f'<ol class="hr-cards">{cards}</ol>'
    )


def _disagreements(found: ScanResult, thumbnails: Mapping[str, bytes]) -> str:
    if not found.disagreements:
        return ""
    cards = "".join(
        _suspect(one.id, one.label, f"{one.overlap:.0%} of the neighbors in common", thumbnails)
        for one in found.disagreements[:MAX_SUSPECTS]
    )
    return f'<h3>Items on whose neighbors the models agree least</h3><ol class="hr-cards">{cards}</ol>'


def _suspect(id: str, label: str | None, text: str, thumbnails: Mapping[str, bytes]) -> str:
    address = escape(f"?{urlencode({'id': id})}")
    return (
        f'<li><a class="hr-card" href="{address}"><span class="hr-picture">{_image(thumbnails.get(id, b""), "")}</span>'
        f'<span class="hr-caption"><span class="hr-label">{escape(label or "no label")}</span>'
        f'<span class="hr-id" title="{escape(id)}">{escape(id)}</span>'
        f'<span class="hr-meta">{escape(text)}</span></span></a></li>'
    )


def _query(found: SearchResults) -> str:
    thumbnail = _image(found.query_thumbnail, "Query image") if found.query_thumbnail else ""
    label = found.label_filter
    restricted = f' with label <span class="hr-label">{escape(label)}</span>' if label is not None else ""
    count = max((len(column.matches) for column in found.columns), default=0)
    heading = {0: "No results", 1: "Most similar image"}.get(count, f"{count} most similar images")
    return (
        f'<header class="hr-query">{thumbnail}<div><div role="status"><h2>{heading}{restricted}</h2></div>'
        f'<p class="hr-clamp" title="{escape(found.query)}">Query: {escape(found.query)}</p></div></header>'
    )


def _agreement(agreement: Disagreement) -> str:
    level, heading = agreement.level.value, _HEADINGS[agreement.level]
    if not agreement.telling:
        level, heading = "unusual", "Tells little"  # in that color
    percentile = min(max(agreement.percentile, 0.0), 100.0)
    return (
        f'<section class="hr-agreement hr-{level}" aria-label="Model agreement">'
        f'<div class="hr-agreement-head"><h3>Model agreement</h3><span class="hr-pill">{heading}</span></div>'
        f"<p>{escape(agreement.text)}</p>"
        f'<div class="hr-meter" role="img" aria-label="Percentile {percentile:.1f} of the gallery’s own images">'
        f'<i style="left:{percentile:.2f}%"></i></div>'
        '<div class="hr-meter-ends" aria-hidden="true"><span>less than usual</span>'
        "<span>more than usual</span></div>"
        "<details><summary>How this is measured</summary>"
        f"<p>The rank-biased overlap of the two rankings is {agreement.rbo:.3f} (1: same order, 0: nothing in common). "
        f"That is percentile {percentile:.1f} of the values for the gallery’s own images. It is an indication, not a "
        "detector: the models also disagree on an image unlike the gallery, and may agree on an image that was altered "
        "against both of them.</p></details></section>"
    )


def _column(
    number: int, column: ModelColumn, found: SearchResults, others: Sequence[tuple[str, Mapping[str, int]]]
) -> str:
    cards = "".join(_card(column, match, found, others) for match in column.matches)
    body = f'<ol class="hr-cards">{cards}</ol>' if cards else '<p class="hr-note">No results.</p>'
    return (
        f'<section class="hr-column" aria-label="{escape(column.title)}"><div class="hr-column-head">'
        f'<h3><i class="hr-dot hr-dot-{number}" aria-hidden="true"></i>{escape(column.title)}</h3>'
        f'<p class="hr-note">{escape(column.note)}</p>{_timings(column.timings)}</div>{body}</section>'
    )


def _card(
    column: ModelColumn, match: Match, found: SearchResults, others: Sequence[tuple[str, Mapping[str, int]]]
) -> str:
    item = match.item
    same = found.query_label is not None and item.label == found.query_label
    label = escape(item.label) if item.label is not None else '<span class="hr-none">no label</span>'
    title = escape(item.label or "")
    return (
        f'<li data-item="{escape(item.id)}">'
        f'<button type="button" class="hr-card{" hr-same" if same else ""}" data-id="{escape(item.id)}">'
        f'<span class="hr-picture">{_image(found.thumbnails.get(item.id, b""), "")}'
        f'<span class="hr-badge hr-rank">{match.rank}</span>'
        f'<span class="hr-badge hr-score">{match.score:.3f}</span></span>'
        f'<span class="hr-caption"><span class="hr-label" title="{title}">{label}</span>'
        f'<span class="hr-id" title="{escape(item.id)}">{escape(item.id)}</span>{_metadata(item.metadata)}'
        f"{_elsewhere(column.key, item.id, others)}"
        '<span class="hr-go">Search with this</span></span></button>'
        f"{_actions(item.id)}{_copies(column.copies.get(item.id, ()))}</li>"
    )


def _elsewhere(key: str, id: str, others: Sequence[tuple[str, Mapping[str, int]]]) -> str:
    """Return the ranks of an item with the other models; an item that none of them has is marked."""
    ranks = [(other, by_id[id]) for other, by_id in others if id in by_id]
    if others and not ranks:
        return f'<span class="hr-elsewhere hr-only">only {escape(key)}</span>'
    return "".join(f'<span class="hr-elsewhere">#{rank} {escape(other)}</span>' for other, rank in ranks)


def _actions(id: str) -> str:
    """Return what can be done with the original. Its address is relative, so that it works below any path."""
    address, name = escape(item_path(id)), escape(id)
    return (
        f'<div class="hr-actions" role="group" aria-label="Original of {name}">'
        f'<a href="{address}" target="_blank" rel="noopener">Open</a>'
        f'<a href="{address}?download" download>Download</a>'
        f'<button type="button" data-copy="{address}">Copy</button></div>'
    )


def item_path(id: str) -> str:
    """Return the address of an item's original, relative to the page."""
    return f"item/{quote(id, safe='')}"


def _copies(copies: Sequence[Match]) -> str:
    if not copies:
        return ""
    title = "1 similar copy" if len(copies) == 1 else f"{len(copies)} similar copies"
    buttons = "".join(
        f'<button type="button" data-id="{escape(copy.item.id)}" title="{escape(copy.item.id)}">'
        f"#{copy.rank} {escape(copy.item.id)}</button>"
        for copy in copies
    )
    return f'<details class="hr-copies"><summary>{title}</summary>{buttons}</details>'


def _downloads(found: SearchResults) -> str:
    by_model = {
        column.key: sorted(
            [*column.matches, *(copy for copies in column.copies.values() for copy in copies)],
            key=lambda match: match.rank,
        )
        for column in found.columns
    }
    return (
        '<p class="hr-downloads">Download the results: '
        f'<a download="results.json" href="{json_url(found.query, by_model)}">JSON</a> '
        f'<a download="results.csv" href="{csv_url(by_model)}">CSV</a></p>'
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
        return f'<span class="hr-blank" role="img" aria-label="{escape(alternative or "no image")}"></span>'
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alternative)}">'


def item_name(item: Item) -> str:
    """Return what an item is called on the page: its label and id."""
    return item.id if item.label is None else f"{item.label}, {item.id}"


def _milliseconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _short(text: str) -> str:
    return text if len(text) <= _MAX_FIELD_LENGTH else text[: _MAX_FIELD_LENGTH - 1] + "…"
