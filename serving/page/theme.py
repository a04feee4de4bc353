"""Theme, style sheet and icon of the page."""

from pathlib import Path
from typing import Final

import gradio as gr

STYLE: Final = Path(__file__).with_name("style.css")
_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' "
    "rx='4' fill='%230f766e'/%3E%3Cpath d='M4 4v8M12 4v8M4 8h8' stroke='white' stroke-width='2'/%3E%3C/svg%3E"
)
HEAD: Final = f'<meta name="color-scheme" content="light dark"><link rel="icon" href="{_ICON}">'


def theme() -> gr.themes.Base:
    """Return a theme of grays with one accent color and system fonts; no font is downloaded."""
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
