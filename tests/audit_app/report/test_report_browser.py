"""The report in a real browser, with the network cut."""

from pathlib import Path
from typing import Any

import pytest

from hardrank.audit_app.images.edits import EDITS
from hardrank.audit_app.run import main
from tests.chromium import needs_chromium, new_page

pytestmark = needs_chromium

ADDED = ("Do the attacks survive JPEG and resizing?", "Edits that people make", "Certificates")
"""Sections that must be requested."""


@pytest.fixture(scope="module")
def page_file(tiny_zoo: list[Path], gratings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("browser")
    arguments = ["--models", *map(str, tiny_zoo), "--images", str(gratings), "--out", str(out)]
    arguments += ["--attacked", "4", "--steps", "2", "--seed-check", "0", "--bootstrap", "20", "--worst", "2"]
    arguments += ["--curve", "epsilon", "1/255", "8/255", "--curve-attacked", "2", "--device", "cpu", "--threads", "1"]
    arguments += ["--transforms", "--transform-images", "2", "--certify", "1", "--sigma", "0.1", "--samples", "10"]
    assert main(arguments) == 0
    return out / "report.html"


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (390, "dark"),
        pytest.param(390, "light", marks=pytest.mark.slow),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
    ],
)
def test_it_opens_offline_and_fits_the_screen(page_file: Path, browser: Any, width: int, scheme: str) -> None:
    with new_page(browser, width=width, color_scheme=scheme, offline=True) as (page, log):
        page.goto(page_file.as_uri())
        assert not log.requested_elsewhere(page_file.as_uri())
        assert not log.errors
        assert not log.messages
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0
        assert page.evaluate("document.images.length") > 40
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        level = sum(int(part) for part in background[4:-1].split(",")) / 3
        assert (level < 60) == (scheme == "dark")
        for heading in (
            "Cautions",
            "Results",
            "Threat model",
            "Weakest images and classes",
            "What ERS does not say",
            *ADDED,
        ):
            assert page.get_by_role("heading", name=heading, exact=True).is_visible()
        assert page.locator("svg").count() == 4 + len(EDITS)
        if width < 500:  # on a phone the table is stacked: each figure is readable without scrolling sideways
            boxes = page.locator("table.results td").evaluate_all(
                "cells => cells.map(cell => cell.getBoundingClientRect().right)"
            )
            assert max(boxes) <= width


def test_it_prints(page_file: Path, browser: Any, tmp_path: Path) -> None:
    with new_page(browser, color_scheme="dark", offline=True) as (page, _):
        page.goto(page_file.as_uri())
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        # A table footer would be repeated on every page, and whole sections kept together leave pages half empty.
        assert page.evaluate("getComputedStyle(document.querySelector('tfoot')).display") == "table-row-group"
        breaks = page.locator("section").evaluate_all("all => all.map(e => getComputedStyle(e).breakInside)")
        assert set(breaks) == {"auto"}
        page.set_viewport_size({"width": 690, "height": 1000})  # of A4 without its margins
        headings = page.locator("table.models thead th").evaluate_all(
            """all => all.map(e => {
                const range = document.createRange();
                range.selectNodeContents(e);
                return new Set([...range.getClientRects()].map(r => Math.round(r.top))).size;
            })"""
        )
        assert set(headings) == {1}, "no word is broken"
        printed = page.pdf(path=tmp_path / "report.pdf", format="A4")
        assert printed.startswith(b"%PDF")
        assert len(printed) > 50_000
