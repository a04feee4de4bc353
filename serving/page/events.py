"""What happens on the page: it is opened, and searched with an upload, an item of the gallery, or other options."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gradio as gr

from hardrank.models.preprocessing import UndecodableImageError
from hardrank.serving.api.problems import problem_of
from hardrank.serving.page import html, pictures
from hardrank.serving.search.answers import ModelAnswer, SearchAnswer
from hardrank.serving.search.models import Model
from hardrank.serving.search.service import SearchService
from hardrank.serving.search.types import IdQuery, ImageQuery, SearchOptions
from hardrank.serving.settings import Settings
from hardrank.serving.store.items import Item

ALL: Final = ""
"""The value of a control that leaves everything open: all models, all labels."""
RESULTS: Final = 12
"""Unless the visitor says otherwise."""
_MOST_RESULTS: Final = 48
_MOST_LABELS: Final = 1000
"""Labels in the list, the most frequent first; any other can be typed."""
_REQUEST: Final = "of the page"
"""How the log names a search that failed."""

_TITLES: Final[Mapping[str, tuple[str, str]]] = {
    "benign": ("Benign model", "trained as usual"),
    "robust": ("Robust model", "trained to resist attacks"),
}


@dataclass(frozen=True, kw_only=True)
class _Upload:
    """The query is an uploaded file."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """The query is an item of the gallery."""

    id: str


_Asked = _Upload | _Chosen | None


class Events:
    """The handlers of the page's events."""

    def __init__(self, service: SearchService, settings: Settings) -> None:
        self._service = service
        self._image_bytes = settings.limits.image_bytes
        self.keys = tuple(service.models)
        """Of the models."""
        self.most = min(_MOST_RESULTS, settings.limits.results)
        """Results that can be asked for."""

    async def open(self) -> tuple[str, str, gr.Slider, gr.Dropdown]:
        """Fill a page that was just opened."""
        first = self._service.models[self.keys[0]].index
        labels, items = await asyncio.gather(self._service.labels(), asyncio.to_thread(pictures.examples, first))
        frequent = sorted(sorted(labels, key=lambda label: -labels[label])[:_MOST_LABELS])
        choices = [("All labels", ALL), *((f"{label} ({labels[label]})", label) for label in frequent)]
        thumbnails = await self._thumbnails(items)
        sizes = [model.index.size for model in self._service.models.values()]
        most = max(1, min(self.most, *sizes))
        return (
            html.welcome(size=max(sizes), models=self.keys),
            html.examples(items, thumbnails),
            gr.Slider(maximum=most, value=min(RESULTS, most)),
            gr.Dropdown(choices=choices),
        )

    async def choose(self, event: gr.EventData, models: str, count: float, label: str | None) -> tuple[Any, ...]:
        """Search with an item of the gallery."""
        asked = _Chosen(id=str(getattr(event, "id", "")))
        return await self._answer(asked, models, count, label), asked, None

    async def upload(
        self, path: str | None, asked: _Asked, models: str, count: float, label: str | None
    ) -> tuple[Any, _Asked]:
        """Search with an upload, a photograph or a paste; an image that was taken away leaves the answer as it is."""
        if path is None:
            return gr.skip(), asked if isinstance(asked, _Chosen) else None
        upload = _Upload(path=Path(path))
        return await self._answer(upload, models, count, label), upload

    async def repeat(self, asked: _Asked, models: str, count: float, label: str | None) -> Any:
        """Search again with other options."""
        return gr.skip() if asked is None else await self._answer(asked, models, count, label)

    async def _answer(self, asked: _Upload | _Chosen, models: str, count: float, label: str | None) -> str:
        try:
            options = SearchOptions(k=int(count), models=(models,) if models else None, label=label or None)
            if isinstance(asked, _Chosen):
                return await self._by_id(asked.id, options)
            data = await asyncio.to_thread(self._read, asked.path)
            answer = await self._service.search(ImageQuery(data=data), options)
            return await self._shown(answer, options, query="your image")
        except Exception as error:
            problem = problem_of(error, _REQUEST)
            return html.failure(problem.title, problem.detail)

    async def _by_id(self, id: str, options: SearchOptions) -> str:
        item = await self._service.item(id)
        answer = await self._service.search(IdQuery(id=id), options)
        name = id if item.label is None else f"{item.label}, {id}"
        return await self._shown(answer, options, query=name, item=item)

    async def _shown(
        self, answer: SearchAnswer, options: SearchOptions, *, query: str, item: Item | None = None
    ) -> str:
        found = {match.item.id: match.item for own in answer.by_model.values() for match in own.matches}
        thumbnails = await self._thumbnails([*found.values(), *([item] if item else [])])
        columns = [_column(self._service.models[key], own) for key, own in answer.by_model.items()]
        return html.results(
            html.Results(
                query=query,
                columns=columns,
                thumbnails=thumbnails,
                query_thumbnail=thumbnails.get(item.id, b"") if item else b"",
                query_label=item.label if item else None,
                suspicion=answer.suspicion,
                filtered=options.label,
            )
        )

    async def _thumbnails(self, items: list[Item]) -> dict[str, bytes]:
        indexes = [model.index for model in self._service.models.values()]
        return await asyncio.to_thread(pictures.thumbnails, indexes, items)

    def _read(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                data = file.read(self._image_bytes + 1)
        except OSError as error:
            raise UndecodableImageError("The image is not here any more; give it again.") from error
        return data


def _column(model: Model, answer: ModelAnswer) -> html.Column:
    title, note = _title(model)
    timings = answer.timings
    stages = {
        "decode": timings.decode_ms,
        "wait": timings.queue_ms,
        "network": timings.embed_ms,
        "search": timings.search_ms,
    }
    return html.Column(
        name=model.key,
        title=title,
        note=note,
        matches=answer.matches,
        timings={stage: taken for stage, taken in stages.items() if taken},
    )


def _title(model: Model) -> tuple[str, str]:
    """What a model is called, and a few words on it."""
    title, note = _TITLES.get(model.key, (model.key, ""))
    defense = model.engine.card.defense
    return title, f"{note} · {defense}" if note else defense
