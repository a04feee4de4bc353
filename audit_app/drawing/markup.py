"""Build HTML and SVG whose text is always escaped."""

import base64
from pathlib import Path

import jinja2
import markupsafe
from markupsafe import escape

Markup = markupsafe.Markup
"""Text that is already markup; any other text is escaped when it is put into an element."""


def element(name: str, *content: str | float, **attributes: str | float | None) -> Markup:
    """Return `<name …>content</name>`, escaped; `class_` is class, `stroke_width` is stroke-width, None is omitted."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(part if isinstance(part, Markup) else escape(_text(part)) for part in content)
    return Markup(f"<{name}{given}>{inside}</{name}>")


def join(*parts: Markup) -> Markup:
    """Concatenate pieces of markup."""
    return Markup("".join(parts))


def captioned(uri: str, title: str, caption: str) -> Markup:
    """Return an image, enlarged without smoothing, with a title and a caption."""
    picture = element("img", src=uri, alt=f"{title}: {caption}", class_="pixels")
    return element("figure", picture, element("figcaption", element("b", title), " ", caption))


def series_key(place: int) -> Markup:
    """Return the color of a model, by its place among the models."""
    return element("span", class_=f"key series-{place}")


def svg(width: float, height: float, *content: Markup, label: str) -> Markup:
    """Return an SVG that scales with the available width; `label` describes it to screen readers."""
    inner = join(element("title", label), *content)
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(label)}" width="100%" style="max-width:{width:g}px;display:block">{inner}</svg>'
    )


def png_uri(data: bytes) -> str:
    """Return the exact bytes of a PNG as a `data:` URI, so that nothing re-encodes them."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def page_templates(folder: Path) -> jinja2.Environment:
    """Return the templates in `folder`: they escape what they insert, and a name that they do not get is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _text(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
