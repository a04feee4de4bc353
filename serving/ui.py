"""The search page: an image in, the most similar ones out, from one model or two side by side.

The bytes of an upload reach the service as they were sent, and thumbnails reach the browser as they are stored: nothing
encodes an image again on the way, for that would wash out what the page is to show.
"""

import asyncio
import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import gradio as gr
from fastapi import FastAPI
from gradio.data_classes import ImageData
from starlette.middleware import Middleware

from models.preprocessing import UndecodableImageError
from serving.answers import ModelAnswer, SearchAnswer
from serving.gallery import Item, UnknownItemError
from serving.page import rendering
from serving.page.guard import PageGuard
from serving.problems import problem_of
from serving.queries import IdQuery, ImageQuery, SearchOptions
from serving.served import Model
from serving.service import SearchService
from serving.settings import Settings

_FOLDER_VARIABLE: Final = "GRADIO_TEMP_DIR"
_STYLE: Final = Path(__file__).with_name("page") / "style.css"
_MOST_RESULTS: Final = 48
_RESULTS: Final = 12
_EXAMPLES: Final = 8
_MOST_LABELS: Final = 1000
"""Labels in the list, the most frequent first; any other can be typed."""
_QUEUE: Final = 64
"""Calls of the page's functions that may wait; above, the page says that the server is busy."""
_AT_ONCE: Final = 16
"""Calls that run at once; each mostly waits for the batches that it shares with all callers."""
_CACHE_S: Final = (60, 600)
"""Seconds between clearings of the folder of uploads, and the age at which an upload goes."""
_ALL: Final = ""
_REQUEST: Final = "of the page"
"""How the log names a search that failed."""

_TITLES: Final[Mapping[str, tuple[str, str]]] = {
    "benign": ("Benign model", "trained as usual"),
    "robust": ("Robust model", "trained to resist attacks"),
}

_CHOOSE: Final = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-id]');
  if (button) trigger('choose', {id: button.dataset.id});
});
"""
_SHOW: Final = (
    _CHOOSE
    + """
watch('value', () => {
  const answer = element.querySelector('.hr-query, .hr-message');
  if (!answer) return;
  const heading = answer.querySelector('h2') || answer;
  heading.tabIndex = -1;
  if (document.activeElement === document.body) heading.focus({preventScroll: true});
  if (answer.getBoundingClientRect().top > 0.6 * window.innerHeight) {
    const still = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    answer.scrollIntoView({behavior: still ? 'auto' : 'smooth', block: 'start'});
  }
});
"""
)
_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' "
    "rx='4' fill='%230f766e'/%3E%3Cpath d='M4 4v8M12 4v8M4 8h8' stroke='white' stroke-width='2'/%3E%3C/svg%3E"
)
_HEAD: Final = f'<meta name="color-scheme" content="light dark"><link rel="icon" href="{_ICON}">'


@dataclass(frozen=True, kw_only=True)
class _Upload:
    """The query is an uploaded file."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """The query is an item of the gallery."""

    id: str


Value = TypeVar("Value")

_Asked = _Upload | _Chosen | None


def create_page(service: SearchService, settings: Settings) -> gr.Blocks:
    """Build the page. Its theme and style are arguments of mounting in Gradio, so `mount_page` is what serves it."""
    _own_folder()
    page = _Page(service, settings)
    blocks = gr.Blocks(title="hardrank · image search", analytics_enabled=False, delete_cache=_CACHE_S)
    with blocks:
        page.build(blocks)
    blocks.queue(max_size=_QUEUE, default_concurrency_limit=_AT_ONCE, api_open=False)
    return blocks


def mount_page(
    app: FastAPI,
    service: SearchService,
    settings: Settings,
    *,
    auth: Callable[[str, str], bool] | None = None,
    path: str = "/",
) -> None:
    """Serve the page by `app`, which must have all its own routes already: at "/" the page takes what is left.

    `auth` says whether a name and a key may see it; None: everybody may.
    """
    folder = _own_folder()
    gr.mount_gradio_app(
        app,
        create_page(service, settings),
        path=path,
        server_name=settings.network.host,
        server_port=settings.network.port,
        footer_links=[],
        run_history=False,
        app_kwargs={
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
            "middleware": [
                Middleware(
                    PageGuard,
                    folder=folder,
                    upload_bytes=settings.limits.body_bytes,
                    kept_bytes=settings.limits.held_bytes,
                    kept_s=_CACHE_S[1],
                ),
            ],
        },
        auth=auth,
        auth_message="The key of the API is the password; any name will do.",
        allowed_paths=[],
        show_error=False,
        max_file_size=settings.limits.image_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=_theme(),
        css_paths=_STYLE,
        head=_HEAD,
    )


def _own_folder() -> Path:
    """Give a folder for uploads that no other program and no other user reads; Gradio knows it by its variable."""
    if _FOLDER_VARIABLE not in os.environ:
        folder = tempfile.mkdtemp(prefix="hardrank-page-")
        os.environ[_FOLDER_VARIABLE] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(os.environ[_FOLDER_VARIABLE]).resolve()


def _theme() -> gr.themes.Base:
    """One accent on greys, and the fonts that a device has: none is fetched."""
    system = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Ubuntu", "sans-serif")
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=system,
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_label_text_weight="500",
        block_title_text_weight="600",
        input_background_fill="white",
        input_background_fill_dark="*neutral_950",
        color_accent="*primary_700",
        slider_color="*primary_700",
        slider_color_dark="*primary_500",
        checkbox_background_color_selected="*primary_700",
        checkbox_border_color_selected="*primary_700",
    )


class _Page:
    """The page's parts and what they do."""

    def __init__(self, service: SearchService, settings: Settings) -> None:
        self._service = service
        self._keys = tuple(service.models)
        self._most = min(_MOST_RESULTS, settings.limits.results)
        self._image_bytes = settings.limits.image_bytes

    # ------------------------------------------------------------------ layout

    def build(self, blocks: gr.Blocks) -> None:
        """Lay out the page and connect its events."""
        gr.HTML(
            '<header class="hr-header"><h1>hardrank</h1><p>Image search that holds under attack</p></header>',
            apply_default_css=False,
        )
        asked = gr.State(None)
        with gr.Row(elem_classes="hr-main"):
            with gr.Column(scale=1, min_width=280, elem_classes="hr-side"):
                image = gr.Image(
                    label="Your image",
                    type="filepath",
                    format="png",
                    image_mode=None,
                    sources=["upload", "webcam", "clipboard"],
                    buttons=[],
                    height=240,
                    placeholder="Drop an image here\nor click to choose one",
                    alt_text="Your image",
                    webcam_options=gr.WebcamOptions(mirror=False),
                    elem_id="query",
                )
                # Gradio would open the file with whatever decoder fits; here the service does, within its limits.
                image.preprocess = _path_of  # type: ignore[method-assign]
                examples = gr.HTML(elem_id="examples", js_on_load=_CHOOSE, apply_default_css=False)
                controls = self._controls()
                again = gr.Button("Search again", size="sm", elem_id="again")
            with gr.Column(scale=3, min_width=300, elem_classes="hr-answer"):
                shown = gr.HTML(elem_id="results", js_on_load=_SHOW, apply_default_css=False)
        self._connect(blocks, image, examples, controls, again, shown, asked)

    def _controls(self) -> list[gr.components.Component]:
        titles = [(key.capitalize(), key) for key in self._keys]
        models = gr.Radio(
            [("Both" if len(titles) == 2 else "All", _ALL), *titles] if len(titles) > 1 else titles,
            value=_ALL if len(titles) > 1 else self._keys[0],
            label="Models",
            visible=len(titles) > 1,
            elem_id="models",
        )
        count = gr.Slider(1, self._most, value=min(_RESULTS, self._most), step=1, label="Results", elem_id="count")
        label = gr.Dropdown(
            [("All labels", _ALL)], value=_ALL, label="Label", allow_custom_value=True, filterable=True, elem_id="label"
        )
        return [models, count, label]

    def _connect(
        self,
        blocks: gr.Blocks,
        image: gr.Image,
        examples: gr.HTML,
        controls: Sequence[gr.components.Component],
        again: gr.Button,
        shown: gr.HTML,
        asked: gr.State,
    ) -> None:
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", "show_progress_on": shown}
        for pictures in (examples, shown):
            pictures.choose(
                self.choose, inputs=controls, outputs=[shown, asked, image], trigger_mode="always_last", **quiet
            )
        image.change(self.upload, inputs=[image, asked, *controls], outputs=[shown, asked], **quiet)
        gr.on(
            [again.click, *(control.change for control in controls)],  # type: ignore[attr-defined]
            self.repeat,
            inputs=[asked, *controls],
            outputs=shown,
            trigger_mode="always_last",
            **quiet,
        )
        # What the gallery holds may have changed since the server started.
        blocks.load(
            self.open, outputs=[shown, examples, *controls[1:]], api_visibility="private", show_progress="hidden"
        )

    # ------------------------------------------------------------------ events

    async def open(self) -> tuple[str, str, gr.Slider, gr.Dropdown]:
        """Fill a page that was just opened."""
        labels, items = await asyncio.gather(self._service.labels(), asyncio.to_thread(self._examples))
        frequent = sorted(sorted(labels, key=lambda label: -labels[label])[:_MOST_LABELS])
        choices = [("All labels", _ALL), *((f"{label} ({labels[label]})", label) for label in frequent)]
        thumbnails = await asyncio.to_thread(self._thumbnails, items)
        sizes = [model.index.size for model in self._service.models.values()]
        most = max(1, min(self._most, *sizes))
        return (
            rendering.welcome(size=max(sizes), models=self._keys),
            rendering.examples(items, thumbnails),
            gr.Slider(maximum=most, value=min(_RESULTS, most)),
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
            return rendering.failure(problem.title, problem.detail)

    async def _by_id(self, id: str, options: SearchOptions) -> str:
        item = await self._service.item(id)
        answer = await self._service.search(IdQuery(id=id), options)
        name = id if item.label is None else f"{item.label}, {id}"
        return await self._shown(answer, options, query=name, item=item)

    async def _shown(
        self, answer: SearchAnswer, options: SearchOptions, *, query: str, item: Item | None = None
    ) -> str:
        found = {match.item.id: match.item for own in answer.by_model.values() for match in own.matches}
        thumbnails = await asyncio.to_thread(self._thumbnails, [*found.values(), *([item] if item else [])])
        columns = [_column(self._service.models[key], own) for key, own in answer.by_model.items()]
        return rendering.results(
            rendering.Results(
                query=query,
                columns=columns,
                thumbnails=thumbnails,
                query_thumbnail=thumbnails.get(item.id, b"") if item else b"",
                query_label=item.label if item else None,
                suspicion=answer.suspicion,
                filtered=options.label,
            )
        )

    # ------------------------------------------------------------------ parts that wait for the disk

    def _examples(self) -> list[Item]:
        """Give items from all over the gallery, the same as long as it does not change."""
        index = self._service.models[self._keys[0]].index
        count = min(_EXAMPLES, index.size)
        places = [int((number + 0.5) * index.size / count) for number in range(count)]
        ids = [id for place in places for id in index.ids(start=place, count=1)]
        return [item for id in ids if (item := _item(index.item, id)) is not None]

    def _thumbnails(self, items: Iterable[Item]) -> dict[str, bytes]:
        """Give the thumbnail of each item by its id, from whichever index holds it."""
        found: dict[str, bytes] = {}
        for id in {item.id for item in items}:
            for model in self._service.models.values():
                thumbnail = _item(model.index.thumbnail, id)
                if thumbnail:
                    found[id] = thumbnail
                    break
        return found

    def _read(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                data = file.read(self._image_bytes + 1)
        except OSError as error:
            raise UndecodableImageError("The image is not here any more; give it again.") from error
        return data


def _item(read: Callable[[str], Value], id: str) -> Value | None:
    """Read what belongs to an item, None where it has just been deleted."""
    try:
        return read(id)
    except UnknownItemError:
        return None


def _path_of(payload: ImageData | None) -> str | None:
    """Give the path of an upload, whatever is in it."""
    return None if payload is None else payload.path


def _column(model: Model, answer: ModelAnswer) -> rendering.Column:
    title, note = _title(model)
    timings = answer.timings
    stages = {
        "decode": timings.decode_ms,
        "wait": timings.queue_ms,
        "network": timings.embed_ms,
        "search": timings.search_ms,
    }
    return rendering.Column(
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
