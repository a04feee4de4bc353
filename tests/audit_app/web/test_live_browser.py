"""The app in Chromium: attacks, downloads, several visitors, stopping, and leaving."""

import hashlib
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from hardrank.audit_app.live.record import read_record
from hardrank.audit_app.live.replay import replay
from hardrank.models.preprocessing import file_pixels
from hardrank.serving.api.app import create_api
from hardrank.serving.engine import Device, Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.search.models import Model
from hardrank.serving.search.service import SearchService
from hardrank.serving.settings import Settings
from tests.audit_app.app_server import ROOT, AppServer, download, finished, long_attack, rankings, visit
from tests.audit_app.indexed import make_index
from tests.chromium import PATIENCE_MS, needs_chromium
from tests.serving.served import wait_until_ready
from tests.waiting import until

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def indexes(tiny_zoo: list[Path], few_gratings: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An index of the pictures for each model."""
    folder = tmp_path_factory.mktemp("indexes")
    return [make_index(folder / bundle.name, bundle, few_gratings) for bundle in tiny_zoo]


@pytest.fixture(scope="module")
def server(indexes: list[Path], tiny_zoo: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    folder = tmp_path_factory.mktemp("app")
    arguments = ["--zoo", str(tiny_zoo[0].parent), "--gallery", *map(str, indexes), "--audits", str(folder / "audits")]
    running = AppServer(arguments, folder / "log")
    running.wait()
    yield running
    running.close()
    assert "audit_app" not in running.log.read_text(), "no internal error"


@pytest.fixture(scope="module")
def api(indexes: list[Path], tiny_zoo: list[Path]) -> Iterator[TestClient]:
    """The HTTP API over the same indexes."""
    models = [
        Model(
            key=bundle.name,
            engine=Engine(bundle, threads=1, device=Device.CPU),
            index=SearchIndex.open(index),
        )
        for bundle, index in zip(tiny_zoo, indexes, strict=True)
    ]
    service = SearchService(models, Settings())
    with TestClient(create_api(service, service.settings), base_url="http://localhost") as client:
        wait_until_ready(client)
        yield client


def test_an_attack_shows_what_the_api_answers_and_its_record_replays(
    browser: Any, server: AppServer, api: TestClient, tiny_zoo: list[Path], few_gratings: Path
) -> None:
    with visit(browser, server) as page:
        long_attack(page, steps=10)
        page.click(".st-key-attack button")
        finished(page)
        shown, record = rankings(page), read_record(download(page, "record"))
        assert set(shown) == {bundle.name for bundle in tiny_zoo}
        victim = str(record.image.id)
        for bundle in tiny_zoo:
            png = download(page, f"png-{bundle.name}")
            found = record.results[bundle.name]
            assert hashlib.sha256(png).hexdigest() == found.png_sha256, "the exact file"
            answer = api.post(
                "/v1/search", params={"k": 11}, content=png, headers={"Content-Type": "image/png"}
            ).raise_for_status()
            ids = [match["id"] for match in answer.json()["models"][bundle.name]["matches"] if match["id"] != victim]
            assert ids[:10] == [shown[bundle.name][rank] for rank in range(1, 11)], "the ranking that the page showed"
            engine = Engine(bundle, threads=1, device=Device.CPU)
            pixels = file_pixels(png, engine.preprocessing).astype(int)
            untouched = file_pixels((few_gratings / victim.replace("~", "/")).read_bytes(), engine.preprocessing)
            assert 0 < abs(pixels - untouched).max() <= 4
        assert replay(record).differences == ()


@pytest.mark.slow
def test_two_visitors_at_once_get_their_own_results(browser: Any, server: AppServer) -> None:
    with visit(browser, server) as one, visit(browser, server) as other:
        other.click(".st-key-choose-image button")
        other.click(".st-key-image-grid button >> nth=2")
        other.wait_for_selector("[role=dialog]", state="hidden")
        other.wait_for_selector(".st-key-attack button:not([disabled])")
        one.click(".st-key-attack button")
        other.click(".st-key-attack button")
        for page in (one, other):
            finished(page)
        records = [read_record(download(page, "record")) for page in (one, other)]
        shown = [rankings(page) for page in (one, other)]
    assert records[0].image != records[1].image
    assert shown[0] != shown[1]
    for record in records:
        assert replay(record).differences == ()


def test_a_running_attack_is_shown_also_after_a_reload_and_can_be_stopped(browser: Any, server: AppServer) -> None:
    with visit(browser, server) as page:
        long_attack(page, steps=500, restarts=10)
        page.click(".st-key-attack button")
        page.wait_for_selector(".st-key-running img")
        steps: list[int] = []
        pictures: set[str] = set()

        def frames_are_seen() -> bool:
            for fact in page.locator(".st-key-running dd b").all_text_contents()[:1]:
                steps.append(int(fact.split(" of ")[0]))
            pictures.update(page.eval_on_selector_all(".st-key-running img", "all => all.map(e => e.src)"))
            return len(set(steps)) >= 3 and len(pictures) >= 6

        until(frames_are_seen)  # the image and its perturbation, of more frames than one
        assert steps == sorted(steps), "the attack goes on"
        assert all(one.startswith("data:image/png;base64,") for one in pictures)
        page.reload()
        page.wait_for_selector(".st-key-running img", timeout=PATIENCE_MS)
        step = int(page.locator(".st-key-running dd b").first.inner_text().split(" of ")[0])
        assert step >= steps[-1], "the same attack"
        assert "ES ·" in page.locator(".st-key-live-attack input").input_value()
        page.click(".st-key-stop button")
        page.get_by_text("Rankings before and after (stopped early)").wait_for(timeout=PATIENCE_MS)
        page.wait_for_selector(".st-key-png-tiny-benign button")
        assert not page.locator(".st-key-record").count(), "it cannot be replayed"
        page.wait_for_selector(".st-key-attack button:not([disabled])")


@pytest.mark.slow
def test_a_visitor_who_leaves_frees_a_place_in_the_queue(browser: Any, server: AppServer) -> None:
    with visit(browser, server) as waiting:
        with visit(browser, server) as one, visit(browser, server) as other:
            for page in (one, other):
                long_attack(page, steps=500, restarts=10)
                page.click(".st-key-attack button")
                page.wait_for_selector(".st-key-running img")
            waiting.click(".st-key-attack button")
            waiting.get_by_text("Waiting for 1 other attack").wait_for()
        left = time.monotonic()
        finished(waiting)
        assert time.monotonic() - left < 300, "the two attacks would have taken 400 s"


def test_every_page_links_to_the_others(browser: Any, server: AppServer) -> None:
    with visit(browser, server) as page:
        for title, heading in (
            ("Scorecard", "Robustness of the models"),
            ("Weak spots", "Weakest images and classes"),
            ("Bring your own model", "Bring your own model"),
            ("Live attack", "Attack a ranking"),
        ):
            page.get_by_role("link", name=title).click()
            page.get_by_role("heading", name=heading).wait_for()
        assert not page.locator("[data-testid=stSidebar]").count()


def test_no_page_bypasses_the_check_of_the_server() -> None:
    folder = ROOT / "audit_app"
    assert not (folder / "pages").exists(), "Streamlit serves files in it directly"


def test_it_listens_on_the_loopback_only(server: AppServer) -> None:
    assert server.addresses() == {"127.0.0.1"}


def test_nothing_overflows_on_a_dark_phone(browser: Any, server: AppServer) -> None:
    with visit(browser, server, width=390, color_scheme="dark", is_mobile=True, has_touch=True) as page:
        page.tap(".st-key-attack button")
        finished(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert not page.eval_on_selector_all(
            ".st-key-rankings *, .st-key-verdict *, button",
            "all => all.filter(e => e.checkVisibility() && e.getBoundingClientRect().right > 390.5)"
            ".map(e => e.outerHTML)",
        )
        assert page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor") == "rgb(19, 21, 23)"


_UNNAMED = """() => {
  const name = (e) => (e.getAttribute('aria-label') || e.getAttribute('title') || e.textContent || '').trim() ||
    (e.id && document.querySelector(`label[for="${e.id}"]`)?.textContent) || e.closest('label')?.textContent ||
    (e.getAttribute('aria-labelledby') || '').split(' ').map((id) => document.getElementById(id)?.textContent).join('');
  const all = (root) => [...root.querySelectorAll('*')].flatMap((e) => [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])]);
  return all(document).filter((e) => e.checkVisibility() && (
    (e.matches('button, a[href], [role=button]') && !name(e)) || (e.matches('img') && !e.hasAttribute('alt')) ||
    (e.matches('input:not([type=hidden]):not([type=file])') && !name(e)) || (e.matches('svg[role=img]') && !name(e))
  )).map((e) => e.outerHTML.slice(0, 200));
}"""
"""Buttons, links, fields and images without a name for screen readers, of the page and its shadow roots."""


def test_the_result_is_above_the_fold_and_everything_has_a_name(browser: Any, server: AppServer) -> None:
    with visit(browser, server, width=1400) as page:
        page.set_viewport_size({"width": 1400, "height": 1000})
        page.click(".st-key-attack button")
        finished(page)
        page.evaluate("document.querySelector('[data-testid=stMain]').scrollTo(0, 0)")
        bottoms = page.eval_on_selector_all(
            ".st-key-rankings article > svg", "all => all.map(e => e.getBoundingClientRect().bottom)"
        )
        assert len(bottoms) == 2
        assert max(bottoms) <= 1000, "both rankings are in sight"
        verdict = page.locator(".st-key-verdict .verdict-line").inner_text()
        assert all(word in verdict for word in ("tiny-benign: ", "tiny-robust: "))
        assert page.evaluate(_UNNAMED) == []
        assert page.locator("h1").count() == 1


# The contrast (WCAG 2) of each text on the accent color, and the levels of all headings, in order.
CONTRASTS = """
() => [...document.querySelectorAll('[data-testid="stBaseButton-primary"], [data-tag]')].map((e) => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((v) => {
      v /= 255;
      return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const text = e.querySelector('p, span') ?? e;
  const [a, b] = [light(getComputedStyle(text).color), light(getComputedStyle(e).backgroundColor)];
  return Math.max(a, b) / Math.min(a, b);
})
"""
HEADINGS = """
() => {
  const found = [];
  const walk = (node) => {
    for (const e of node.children) {
      if (/^H[1-6]$/.test(e.tagName)) found.push(Number(e.tagName[1]));
      if (e.shadowRoot) walk(e.shadowRoot);
      walk(e);
    }
  };
  walk(document.querySelector('.stMain'));
  return found;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_headings_are_in_order_and_text_on_the_accent_color_is_readable(
    browser: Any, server: AppServer, scheme: str
) -> None:
    with visit(browser, server, color_scheme=scheme) as page:
        page.get_by_text("Models and gallery").click()
        page.wait_for_selector("[data-tag]")
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) >= 3, "the button, and a tag for each model"
        assert min(contrasts) > 4.5
        levels = page.evaluate(HEADINGS)
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels)), levels


def test_a_printed_page_has_no_controls(browser: Any, server: AppServer) -> None:
    with visit(browser, server) as page:
        page.get_by_text("All options").click()
        page.wait_for_selector(".st-key-live-steps input:visible")
        page.emulate_media(media="print")
        for control in (".st-key-attack", ".st-key-live-attack", ".st-key-live-steps", ".stExpander"):
            assert not page.locator(f"{control}:visible").count(), control
        assert page.locator(".st-key-answers:visible").count() == 1
