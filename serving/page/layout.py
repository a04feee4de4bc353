"""The components of the page, and the events that connect them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import gradio as gr
from gradio.data_classes import ImageData

from hardrank.serving.page import fragments
from hardrank.serving.page.events import ALL, DEFAULT_RESULTS, PageEvents

_CLICK_ITEM: Final = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-id]');
  if (button) trigger('choose', {id: button.dataset.id});
});
"""
_RESULTS: Final = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
_SCAN: Final = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-scan]');
  if (!button) return;
  [button.disabled, button.textContent] = [true, 'Scanning …'];
  trigger('scan', {id: ''});
});
"""
_TOGGLE: Final = (
    '<button type="button" class="hr-toggle hr-button" aria-expanded="false" aria-controls="options">Options</button>'
)
_ADDRESS: Final = "() => [window.location.search.slice(0, 900)]"


def build_layout(blocks: gr.Blocks, events: PageEvents, *, sign_out: bool) -> None:
    """Add the components to `blocks`, which must be the current context, and connect their events.

    `sign_out` adds a button to sign out.
    """
    gr.HTML(fragments.header(sign_out=sign_out), apply_default_css=False)
    with gr.Row(elem_classes="hr-main"):
        with gr.Column(scale=1, min_width=280, elem_classes="hr-side"):
            image = _image()
            gr.HTML(_TOGGLE, apply_default_css=False, elem_classes="hr-phone")
            with gr.Column(elem_classes="hr-options", elem_id="options"):
                controls = _controls(events)
                again = gr.Button("Search again", size="sm", elem_id="again")
            examples = gr.HTML(
                elem_id="examples", elem_classes="hr-examples-block", js_on_load=_CLICK_ITEM, apply_default_css=False
            )
        with gr.Column(scale=3, min_width=300, elem_classes="hr-answer"):
            # The id of the item of the last search; empty after a search with an image. Only the browser keeps it.
            item = gr.Textbox("", visible="hidden", label="Item")
            # The query string of the page's address when it was opened.
            address = gr.Textbox("", visible="hidden", label="Address")
            results = gr.HTML(elem_id="results", js_on_load=_RESULTS, apply_default_css=False)
    if events.may_scan:
        suspects = gr.HTML(
            fragments.scan_section(None, {}), elem_id="suspects", js_on_load=_SCAN, apply_default_css=False
        )
        suspects.scan(
            events.scan, outputs=suspects, api_visibility="private", show_progress="hidden", trigger_mode="once"
        )
    _connect_searches(events, image, examples, controls, again, results, item)
    # The gallery may have changed since the server started.
    blocks.load(
        events.load,
        inputs=address,
        outputs=[results, examples, *controls, item],
        js=_ADDRESS,
        api_visibility="private",
        show_progress="hidden",
    )


def _image() -> gr.Image:
    image = gr.Image(
        label="Query image",
        type="filepath",
        format="png",
        image_mode=None,
        sources=["upload", "webcam", "clipboard"],
        buttons=[],
        height=240,
        # As Gradio names the button for screen readers.
        placeholder="Drop an image file here to upload",
        alt_text="Query image",
        webcam_options=gr.WebcamOptions(mirror=False),
        elem_id="query",
    )
    # Gradio would decode the file with any decoder; the service does it within its limits.
    image.preprocess = _name_of  # type: ignore[method-assign]
    return image


def _controls(events: PageEvents) -> list[gr.components.Component]:
    """Add the options: models, number of results, label, and whether near-duplicates are folded."""
    titles = [(key.capitalize(), key) for key in events.model_keys]
    models = gr.Radio(
        [("Both" if len(titles) == 2 else "All", ALL), *titles] if len(titles) > 1 else titles,
        value=ALL if len(titles) > 1 else events.model_keys[0],
        label="Models",
        visible=len(titles) > 1,
        elem_id="models",
    )
    count = gr.Slider(
        1,
        events.max_results,
        value=min(DEFAULT_RESULTS, events.max_results),
        step=1,
        label="Number of results",
        elem_id="count",
    )
    # The number may exceed the maximum until the page corrects it; the search limits it.
    count.preprocess = float  # type: ignore[method-assign, assignment]
    label = gr.Dropdown(
        [("All labels", ALL)], value=ALL, label="Label", allow_custom_value=True, filterable=True, elem_id="label"
    )
    fold = gr.Checkbox(value=False, label="Fold near-duplicates", elem_id="fold")
    return [models, count, label, fold]


def _connect_searches(
    events: PageEvents,
    image: gr.Image,
    examples: gr.HTML,
    controls: Sequence[gr.components.Component],
    again: gr.Button,
    results: gr.HTML,
    item: gr.Textbox,
) -> None:
    options: dict[str, Any] = {
        "api_visibility": "private",
        "show_progress": "minimal",
        "show_progress_on": results,
    }
    for clickable in (examples, results):
        clickable.choose(
            events.search_item,
            inputs=controls,
            outputs=[results, item, image],
            trigger_mode="always_last",
            **options,
        )
    query = [image, item, *controls]
    image.change(events.search_upload, inputs=query, outputs=[results, item], **options)
    gr.on(
        [again.click, *(control.change for control in controls)],  # type: ignore[attr-defined]
        events.search_again,
        inputs=query,
        outputs=results,
        trigger_mode="always_last",
        **options,
    )


def _name_of(payload: ImageData | None) -> str | None:
    """Return the name of an upload; the service decodes it."""
    return None if payload is None else payload.path
