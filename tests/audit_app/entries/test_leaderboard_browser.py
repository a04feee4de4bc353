"""The leaderboard in a real browser, with the network cut."""

from pathlib import Path
from typing import Any

import pytest

from hardrank.audit_app.leaderboard import main
from tests.audit_app.entries.made_up import make_made_up_entry
from tests.chromium import needs_chromium, new_page

pytestmark = needs_chromium

MODELS = {"alpha": (30.0, 0.9), "beta": (50.0, 0.5), "gamma": (40.0, 0.7)}
"""Name → strong ERS and benign Recall@1."""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("entries")
    for i, (name, (strong, recall)) in enumerate(MODELS.items()):
        entry = make_made_up_entry(about={"name": name}, strong=strong, recall=recall, sha256=str(i) * 64)
        (folder / f"{name}.entry.json").write_text(entry.model_dump_json(), encoding="utf-8")
    assert main([str(folder)]) == 0
    return folder / "leaderboard.html"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_opens_offline_fits_the_screen_and_sorts(page_file: Path, browser: Any, width: int, scheme: str) -> None:
    with new_page(browser, width=width, color_scheme=scheme, offline=True) as (page, log):
        page.goto(page_file.as_uri())
        assert log.requested == [page_file.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width

        def order() -> list[str]:
            found: list[str] = page.locator("tbody th a").all_inner_texts()
            return found

        assert order() == ["beta", "gamma", "alpha"]
        for button, expected in (
            ("benign Recall@1, %", ["alpha", "gamma", "beta"]),
            ("benign Recall@1, %", ["beta", "gamma", "alpha"]),
            ("model", ["alpha", "beta", "gamma"]),
            ("strong ERS", ["beta", "gamma", "alpha"]),
        ):
            page.get_by_role("button", name=button, exact=True).click()
            assert order() == expected, button
        assert page.locator("th[aria-sort=descending]").inner_text().startswith("strong ERS")
        assert not log.errors
        assert not log.messages
