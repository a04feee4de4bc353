"""The documentation site builds without warnings and dead links, and loads nothing from other hosts."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from hardrank.trainer.runtime.launch import ROOT

builds_the_site = pytest.mark.slow
"""The quick guards are test_links_work_in_the_repository and test_the_site_has_all_pages."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/site/mkdocs.yml", "-d", str(folder)]
    environment = {**os.environ, "DISABLE_MKDOCS_2_WARNING": "true", "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


class Page(HTMLParser):
    """The links, loaded resources and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in {"script", "img", "iframe", "source"} and "src" in found:
            self.loads.append(found["src"])
        if tag == "link" and {"stylesheet", "icon", "preload"} & set(found.get("rel", "").split()):
            self.loads.append(found["href"])


@builds_the_site
def test_all_links_work(site: Path) -> None:
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            works = target.exists() and (not parts.fragment or target not in pages or _has_anchor(pages[target], link))
            dead += [] if works else [f"{path.relative_to(site)}: {link}"]
    assert not dead


def _has_anchor(page: Page, link: str) -> bool:
    return unquote(urlsplit(link).fragment) in page.anchors


@builds_the_site
def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    for path in site.rglob("*.html"):
        loads = Page(path.read_text(encoding="utf-8")).loads
        assert not [load for load in loads if urlsplit(load).netloc], path
    for path in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path


def test_links_work_in_the_repository() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    texts = {page: re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL) for page in pages}
    headings = {page: set(map(_slug, re.findall(r"^#+ (.*)$", text, re.MULTILINE))) for page, text in texts.items()}
    dead, followed = [], 0
    for page, text in texts.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
            parts = urlsplit(link)
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if parts.scheme:
                continue
            works = target.exists() and (not parts.fragment or parts.fragment in headings.get(target, ()))
            dead += [] if works else [f"{page.relative_to(ROOT)}: {link}"]
            followed += bool(parts.fragment)
    assert not dead
    assert followed > 10


def _slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_site_has_all_pages() -> None:
    navigation = (
        (ROOT / "docs" / "site" / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2].partition("\ntheme:")[0]
    )
    assert set(re.findall(r"(?<![\w/])[\w-]+\.md", navigation)) == {
        "index.md",
        *(page.name for page in (ROOT / "docs").glob("*.md")),
    }
