"""The handlers of the page's events: loading the page, and searching with an upload or with an item of the gallery."""

import asyncio
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qs, urlencode
from uuid import uuid4

import gradio as gr

from hardrank.models.decode_limits import UndecodableImageError
from hardrank.serving.api.auth import address_caller, network_of
from hardrank.serving.api.problems import problem_of
from hardrank.serving.inspection.scan import ScanError
from hardrank.serving.page import copies as copy_finder
from hardrank.serving.page import fragments, pictures
from hardrank.serving.page.scans import ScanRunner
from hardrank.serving.page.uploads import UploadStore
from hardrank.serving.search.models import Model
from hardrank.serving.search.service import SearchService
from hardrank.serving.search.types import IdQuery, ImageQuery, ModelAnswer, SearchAnswer, SearchOptions
from hardrank.serving.settings import Settings
from hardrank.serving.store.errors import InvalidSearchError
from hardrank.serving.store.items import Item

ALL: Final = ""
"""The value of a control that restricts nothing: all models, all labels."""
DEFAULT_RESULTS: Final = 12
_MAX_RESULTS: Final = 48
_FOLDED: Final = 4
"""How many times as many results are searched for when near-duplicates are folded."""
_MAX_LABELS: Final = 1000
"""Labels in the list, most frequent first. Others can be typed."""

_TITLES: Final[Mapping[str, tuple[str, str]]] = {
    "benign": ("Benign model", "standard training"),
    "robust": ("Robust model", "adversarial training"),
}


@dataclass(frozen=True, kw_only=True)
class _UploadedQuery:
    """Search with an uploaded file."""

    name: str


class PageEvents:
    """The handlers, and what they know of the service."""

    def __init__(
        self, service: SearchService, settings: Settings, uploads: UploadStore, *, may_scan: bool = False
    ) -> None:
        """Take what answers searches, the limits, the uploads, and whether visitors may scan for suspicious items."""
        self.may_scan = may_scan
        self._service = service
        self._indexes = [model.index for model in service.models.values()]
        self._scans = ScanRunner(self._indexes)
        self._uploads = uploads
        self.model_keys = tuple(service.models)
        self.max_results = min(_MAX_RESULTS, settings.limits.results)
        self._choosing = asyncio.Lock()
        self._chosen: tuple[Mapping[str, int], list[tuple[str, str]]] | None = None
        """The choices of the list of labels, after the labels that they are for."""

    async def load(
        self, address: str | None, request: gr.Request
    ) -> tuple[str, str, gr.Radio, gr.Slider, gr.Dropdown, bool, str]:
        """Fill a page that was just opened: examples, number of results, labels; instructions, or a search.

        `address` is the query string of its address, such as `?id=beach~1.jpg&k=20&label=beach&model=robust`.
        """
        choices, items = await asyncio.gather(
            self._label_choices(), asyncio.to_thread(pictures.examples, self._indexes[0])
        )
        thumbnails = await self._thumbnails(item.id for item in items)
        max_results = self._most_results()
        wanted = {name: values[-1] for name, values in parse_qs((address or "").removeprefix("?")).items()}
        id, label = wanted.get("id", ""), wanted.get("label", ALL)
        model = key if (key := wanted.get("model", "")) in self.model_keys else self.model_keys[0]
        if len(self.model_keys) > 1 and "model" not in wanted:
            model = ALL
        fold = wanted.get("fold") == "1"
        count = min(DEFAULT_RESULTS, max_results)
        shown = fragments.welcome(size=max(index.size for index in self._indexes), models=self.model_keys)
        try:
            count = number_of_results(wanted.get("k", str(count)), max_results)
        except InvalidSearchError as error:
            shown = fragments.failure(problem_of(error, request_id=uuid4().hex))
        else:
            if id:
                shown = await self._search(IdQuery(id=id), model, count, label, fold, _caller(request))
        return (
            shown,
            fragments.examples(items, thumbnails),
            gr.Radio(value=model),
            gr.Slider(maximum=max_results, value=count),
            gr.Dropdown(choices=choices, value=label),
            fold,
            id,
        )

    async def search_item(
        self, event: gr.EventData, models: str, count: float, label: str | None, fold: bool, request: gr.Request
    ) -> tuple[Any, ...]:
        """Search with the item of the gallery that was clicked."""
        query = IdQuery(id=str(getattr(event, "id", "")))
        return await self._search(query, models, count, label, fold, _caller(request)), query.id, None

    async def search_upload(
        self,
        upload: str | None,
        item: str,
        models: str,
        count: float,
        label: str | None,
        fold: bool,
        request: gr.Request,
    ) -> tuple[Any, Any]:
        """Search with an uploaded, photographed or pasted image. Removing the image keeps the results."""
        if upload is None:
            return gr.skip(), gr.skip()
        return await self._search(_UploadedQuery(name=upload), models, count, label, fold, _caller(request)), ""

    async def search_again(
        self,
        upload: str | None,
        item: str,
        models: str,
        count: float,
        label: str | None,
        fold: bool,
        request: gr.Request,
    ) -> Any:
        """Repeat the last search, with an item or else an upload, with the current options."""
        query = IdQuery(id=item) if item else _UploadedQuery(name=upload) if upload is not None else None
        return gr.skip() if query is None else await self._search(query, models, count, label, fold, _caller(request))

    async def scan(self, request: gr.Request) -> str:
        """List suspicious items; raises nothing."""
        try:
            found = await self._scans.run()
            most = fragments.MAX_SUSPECTS
            ids = [hub.id for hub in found.hubs[:most]] + [one.id for one in found.disagreements[:most]]
            return fragments.scan_section(found, await self._thumbnails(ids))
        except ScanError as error:  # written for visitors; others may name files
            return fragments.scan_section(None, {}, problem=str(error))
        except Exception as error:
            return fragments.scan_section(None, {}, problem=problem_of(error, request_id=uuid4().hex).detail)

    async def _search(
        self,
        query: _UploadedQuery | IdQuery,
        models: str,
        count: float,
        label: str | None,
        fold: bool,
        caller: str,
    ) -> str:
        try:
            most = self._most_results()
            k = max(1, min(int(count), most))
            folding = k if fold else None
            # Copies are folded into fewer results, which must be enough.
            options = SearchOptions(
                k=min(_FOLDED * k, most) if fold else k, models=(models,) if models else None, label=label or None
            )
            if isinstance(query, IdQuery):
                return await self._search_by_id(query, options, caller, folding)
            async with self._uploads.reading(query.name, reader=caller) as data:
                if data is None:
                    raise UndecodableImageError("The uploaded image has expired. Upload it again.")
                answer = await self._service.search(ImageQuery(data=data), options, caller=address_caller(caller))
            return await self._render(answer, options, query="your image", folding=folding)
        except Exception as error:
            return fragments.failure(problem_of(error, request_id=uuid4().hex))

    async def _search_by_id(self, query: IdQuery, options: SearchOptions, caller: str, folding: int | None) -> str:
        item = await self._service.item(query.id)
        answer = await self._service.search(query, options, caller=address_caller(caller))
        return await self._render(answer, options, query=fragments.item_name(item), item=item, folding=folding)

    async def _render(
        self,
        answer: SearchAnswer,
        options: SearchOptions,
        *,
        query: str,
        item: Item | None = None,
        folding: int | None = None,
    ) -> str:
        """Return the results; `folding` is the number of them that are not folded into others, None to fold none."""
        ids = {match.item.id for own in answer.by_model.values() for match in own.matches}
        thumbnails = await self._thumbnails(ids | {item.id} if item else ids)
        columns = []
        for key, own in answer.by_model.items():
            column = _column(self._service.models[key], own)
            if folding is not None:
                matches, copies = await asyncio.to_thread(copy_finder.fold, own.matches, thumbnails, folding)
                column = replace(column, matches=matches, copies=copies)
            columns.append(column)
        return fragments.results(
            fragments.SearchResults(
                query=query,
                columns=columns,
                thumbnails=thumbnails,
                query_thumbnail=thumbnails.get(item.id, b"") if item else b"",
                query_label=item.label if item else None,
                agreement=answer.disagreement,
                label_filter=options.label,
                address=_address(item.id, options, folding) if item else "",
            )
        )

    async def _thumbnails(self, ids: Iterable[str]) -> dict[str, bytes]:
        return await asyncio.to_thread(pictures.thumbnails, self._indexes, ids)

    async def _label_choices(self) -> list[tuple[str, str]]:
        """Return what the list of labels shows and its values, made once for each state of the gallery."""
        async with self._choosing:
            labels = await self._service.labels()
            if self._chosen is None or self._chosen[0] is not labels:
                self._chosen = labels, await asyncio.to_thread(label_choices, labels)
            return self._chosen[1]

    def _most_results(self) -> int:
        """Return the largest number of results that the gallery has for the page."""
        return max(1, min(self.max_results, *(index.size for index in self._indexes)))


def label_choices(labels: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the choices for label → number of items: all labels, then the most frequent in alphabetical order."""
    # Not a sort of all of them, during which no other thread runs.
    frequent = sorted(heapq.nlargest(_MAX_LABELS, labels, key=labels.__getitem__))
    return [("All labels", ALL), *((f"{label} ({labels[label]})", label) for label in frequent)]


def number_of_results(text: str, most: int) -> int:
    """Return the number of results in an address; raises `InvalidSearchError`."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidSearchError(f"k is {text[:20]!r}; use a whole number from 1 to {most}")
    return int(text)


def _address(id: str, options: SearchOptions, folding: int | None) -> str:
    """Return the query string that leads to a search again."""
    values = {
        "id": id,
        "k": folding or options.k,
        "label": options.label,
        "model": (options.models or (None,))[0],
        "fold": None if folding is None else 1,
    }
    return "?" + urlencode({name: value for name, value in values.items() if value is not None})


def _caller(request: gr.Request) -> str:
    """Return the address by which a visitor is counted, as those of the API are."""
    return network_of(request.client.host if request.client else "unknown")


def _column(model: Model, answer: ModelAnswer) -> fragments.ModelColumn:
    title, note = _title(model)
    timings = answer.timings
    steps = {
        "decode": timings.decode_ms,
        "queue": timings.queue_ms,
        "embed": timings.embed_ms,
        "search": timings.search_ms,
    }
    return fragments.ModelColumn(
        key=model.key,
        title=title,
        note=note,
        matches=answer.matches,
        timings={step: taken for step, taken in steps.items() if taken},
    )


def _title(model: Model) -> tuple[str, str]:
    """Return the heading of a model and a note on its training."""
    title, note = _TITLES.get(model.key, (model.key, ""))
    defense = model.engine.card.defense
    return title, f"{note} · {defense}" if note else defense
