"""The parts of the page, and what is connected with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr
from gradio.data_classes import ImageData

from hardrank.serving.page.events import ALL, RESULTS, Events

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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Parts:
    """What events come from, and what they change."""

    image: gr.Image
    examples: gr.HTML
    controls: Sequence[gr.components.Component]
    """Models, number of results, label."""
    again: gr.Button
    shown: gr.HTML
    asked: gr.State


def lay_out(blocks: gr.Blocks, events: Events) -> None:
    """Lay out the page within `blocks`, which must be the context, and connect its events."""
    gr.HTML(
        '<header class="hr-header"><h1>hardrank</h1><p>Image search that holds under attack</p></header>',
        apply_default_css=False,
    )
    asked = gr.State(None)
    with gr.Row(elem_classes="hr-main"):
        with gr.Column(scale=1, min_width=280, elem_classes="hr-side"):
            image = _image()
            examples = gr.HTML(elem_id="examples", js_on_load=_CHOOSE, apply_default_css=False)
            controls = _controls(events)
            again = gr.Button("Search again", size="sm", elem_id="again")
        with gr.Column(scale=3, min_width=300, elem_classes="hr-answer"):
            shown = gr.HTML(elem_id="results", js_on_load=_SHOW, apply_default_css=False)
    parts = _Parts(image=image, examples=examples, controls=controls, again=again, shown=shown, asked=asked)
    _connect(blocks, parts, events)


def _image() -> gr.Image:
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
    return image


def _controls(events: Events) -> list[gr.components.Component]:
    titles = [(key.capitalize(), key) for key in events.keys]
    models = gr.Radio(
        [("Both" if len(titles) == 2 else "All", ALL), *titles] if len(titles) > 1 else titles,
        value=ALL if len(titles) > 1 else events.keys[0],
        label="Models",
        visible=len(titles) > 1,
        elem_id="models",
    )
    count = gr.Slider(1, events.most, value=min(RESULTS, events.most), step=1, label="Results", elem_id="count")
    label = gr.Dropdown(
        [("All labels", ALL)], value=ALL, label="Label", allow_custom_value=True, filterable=True, elem_id="label"
    )
    return [models, count, label]


def _connect(blocks: gr.Blocks, parts: _Parts, events: Events) -> None:
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", "show_progress_on": parts.shown}
    for pictures in (parts.examples, parts.shown):
        pictures.choose(
            events.choose,
            inputs=parts.controls,
            outputs=[parts.shown, parts.asked, parts.image],
            trigger_mode="always_last",
            **quiet,
        )
    parts.image.change(
        events.upload, inputs=[parts.image, parts.asked, *parts.controls], outputs=[parts.shown, parts.asked], **quiet
    )
    gr.on(
        [parts.again.click, *(control.change for control in parts.controls)],  # type: ignore[attr-defined]
        events.repeat,
        inputs=[parts.asked, *parts.controls],
        outputs=parts.shown,
        trigger_mode="always_last",
        **quiet,
    )
    # What the gallery holds may have changed since the server started.
    blocks.load(
        events.open,
        outputs=[parts.shown, parts.examples, *parts.controls[1:]],
        api_visibility="private",
        show_progress="hidden",
    )


def _path_of(payload: ImageData | None) -> str | None:
    """Give the path of an upload, whatever is in it."""
    return None if payload is None else payload.path
