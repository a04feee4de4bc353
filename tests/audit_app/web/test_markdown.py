"""Labels, ids and messages appear on the pages as the text that they are."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.web.markdown import escape_markdown
from tests.audit_app.app_server import AppServer, open_page, visit
from tests.audit_app.apptest import plain
from tests.audit_app.web.markdown_app import HOSTILE
from tests.chromium import needs_chromium
from tests.waiting import until

_STRUCTURE = {"P", "UL", "LI", "STRONG", "DIV"}
"""Elements that Streamlit, or the bullets of the app, put around text."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """Every hostile text in every kind of element that renders Markdown."""
    running = AppServer([], tmp_path_factory.mktemp("app") / "log", script="tests/audit_app/web/markdown_app.py")
    running.wait()
    yield running
    running.close()


@pytest.mark.parametrize("text", ["tiny-robust", "class 1_000", "résumé 猫", "a\tb\n c", *HOSTILE])
def test_escaping_keeps_the_visible_text_on_one_line(text: str) -> None:
    assert plain(escape_markdown(text)) == " ".join(text.split()).replace("\\", "")


@needs_chromium
def test_hostile_text_is_shown_literally(browser: Any, server: AppServer) -> None:
    with open_page(browser, server) as page:
        page.wait_for_selector(f".st-key-text-{len(HOSTILE) - 1} [data-testid=stProgress]")
        for i, text in enumerate(HOSTILE):
            wanted = " ".join(text.split())
            elements = page.locator(f".st-key-text-{i} [data-testid=stMarkdownContainer]").evaluate_all(
                "all => all.map(e => [e.textContent, [...e.querySelectorAll('*')].map(inner => inner.tagName)])"
            )
            assert len(elements) == 6, text
            for shown, tags in elements:
                assert shown.replace("\N{WORD JOINER}", "").strip() in {wanted, f"{wanted}, {wanted}"}
                assert set(tags) <= _STRUCTURE, text


@needs_chromium
def test_hostile_text_is_shown_literally_in_tooltips(browser: Any, server: AppServer) -> None:
    with open_page(browser, server) as page:
        page.hover(".st-key-button-0 button")
        tooltip = page.locator("[data-testid=stTooltipContent]")
        tooltip.wait_for()
        assert tooltip.inner_text().replace("\N{WORD JOINER}", "").strip() == HOSTILE[0]
        assert not tooltip.locator("img, a").count()


# The quick guard is test_hostile_text_is_shown_literally, with the same texts in every kind of element.
@pytest.mark.slow
@needs_chromium
def test_hostile_labels_of_a_gallery_fetch_nothing(
    browser: Any, tiny_zoo: list[Path], few_gratings: Path, tmp_path: Path
) -> None:
    listing = tmp_path / "hostile.csv"
    with listing.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        for i, image in enumerate(sorted(few_gratings.rglob("*.png"))):
            rows.writerow([str(image), HOSTILE[i // 3]])
    images = len(from_images(listing))
    arguments = ["--zoo", str(tiny_zoo[0].parent), "--gallery", str(listing), "--audits", str(tmp_path / "audits")]
    running = AppServer(arguments, tmp_path / "log")
    try:
        running.wait()
        with visit(browser, running) as page:  # which checks that nothing is requested from elsewhere
            page.click(".st-key-choose-image button")
            page.wait_for_selector(".st-key-image-grid button")
            grid = page.locator(".st-key-image-grid")
            until(lambda: len(set(grid.locator("button").all_text_contents())) == images)  # ids differ
            assert not grid.locator("img, a").count()
            names = [name.replace("\N{WORD JOINER}", "") for name in grid.locator("button").all_text_contents()]
            for label in ("![x](http://host.invalid/x.png)", "$x^2$", "**bold**", "<b>bold</b>", ":red[red]"):
                assert any(label in name for name in names), label
    finally:
        running.close()
