"""The page in Chromium against a real server: queries arrive unchanged, results are shown as the API returns them."""

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from hardrank.serving.api.problems import problem_of
from hardrank.serving.engine import Engine
from hardrank.serving.page.events import number_of_results
from hardrank.serving.search.admission import NotReadyError, OverloadedError
from hardrank.serving.search.models import Model
from hardrank.serving.settings import Limits, Settings
from hardrank.serving.store.errors import InvalidSearchError
from hardrank.serving.store.items import NewItem
from tests.chromium import needs_chromium, new_page, new_visitor
from tests.serving.page.contrast import LOW_CONTRAST
from tests.serving.page_server import PageServer, page_server
from tests.serving.served import build_index, encoded, new_item, paint, picture
from tests.waiting import until

pytestmark = needs_chromium

AXE: Final = os.environ.get("HARDRANK_AXE")
"""The file axe.min.js of the npm package axe-core."""
RESULTS: Final = "#results :is(.hr-results, .hr-message)"
HOSTILE: Final = "<script>alert(1)</script> {{value}} ${1+1} \"'>"
HOSTILE_ID: Final = "<img src=x onerror=alert(2)>\"'{{value}}"


@pytest.fixture(scope="module")
def models(engine: Engine, robust_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    """Two models with forty items, and one item all of whose texts are markup."""
    folder = tmp_path_factory.mktemp("indexes")
    (folder / "pictures").mkdir()
    files = paint(40, folder / "pictures")
    made = []
    for key, own in (("benign", engine), ("robust", robust_engine)):
        index = build_index(folder / key, own, files)
        plain = new_item(files[0], own)
        index.add(
            [
                NewItem(
                    id=HOSTILE_ID,
                    label=HOSTILE,
                    vector=plain.vector,
                    thumbnail=plain.thumbnail,
                    metadata={HOSTILE: HOSTILE},
                )
            ]
        )
        made.append(Model(key=key, engine=own, index=index))
    return made


@pytest.fixture(scope="module")
def server(models: list[Model]) -> Iterator[PageServer]:
    settings = Settings(limits=Limits(image_bytes=2**20, body_bytes=2**20 + 4096))
    with page_server(models, settings) as running:
        yield running


@contextmanager
def opened(
    browser: Any,
    server: PageServer,
    *,
    query: str = "",
    width: int = 1280,
    expected_errors: Sequence[str] = (),
    visitor: Any = None,
    **options: Any,
) -> Iterator[Any]:
    """Open the page; it must request nothing from other hosts and log no error.

    `expected_errors` are the ends of console errors that are allowed. `visitor` is a context that others have used:
    loading the page takes less than half the time if the browser has kept its scripts.
    """
    with new_page(browser, visitor=visitor, width=width, **options) as (page, log):
        server.service.searches.clear()
        server.service.failure = None
        page.goto(f"{server.url}/{query}")
        page.wait_for_selector(".hr-example")
        yield page
    assert not log.requested_elsewhere(f"{server.url}/")
    assert not [line for line in log.errors if not line.endswith(tuple(expected_errors))]


@pytest.fixture(scope="module")
def visitor(browser: Any) -> Iterator[Any]:
    context = new_visitor(browser)
    yield context
    context.close()


@pytest.fixture
def page(browser: Any, server: PageServer, visitor: Any) -> Iterator[Any]:
    with opened(browser, server, visitor=visitor) as ready:
        yield ready


def upload(page: Any, name: str, data: bytes) -> None:
    """Upload a file and wait for the results."""
    with new_results(page):
        page.set_input_files("#query input[type=file]", {"name": name, "mimeType": "image/png", "buffer": data})


@contextmanager
def new_results(page: Any) -> Iterator[None]:
    """Wait until the block has led to new results, or to an error message."""
    page.evaluate(f"document.querySelector('{RESULTS}')?.setAttribute('data-old', '')")
    yield
    page.wait_for_selector(f"{RESULTS}:not([data-old])")


def shown_ids(page: Any) -> list[list[str]]:
    """Item ids on the page, by column."""
    found: list[list[str]] = page.eval_on_selector_all(
        "#results .hr-column", "columns => columns.map(c => [...c.querySelectorAll('.hr-card')].map(b => b.dataset.id))"
    )
    return found


def wait_for_ids(page: Any, ids: list[list[str]]) -> None:
    """Wait until these ids are shown: after a change of the options the old results may be rendered once more."""
    until(lambda: shown_ids(page) == ids)


def answer_ids(answer: Mapping[str, Any]) -> list[list[str]]:
    """Item ids of an answer of the API, by model."""
    return [[match["id"] for match in own["matches"]] for own in answer["models"].values()]


def api_ids(server: PageServer, data: bytes, **options: Any) -> list[list[str]]:
    return answer_ids(api_search(server, data, **options))


def api_search(server: PageServer, data: bytes, **options: Any) -> Any:
    answer = server.client.post(
        "/v1/search", params={"k": 12, **options}, content=data, headers={"Content-Type": "image/png"}
    )
    return answer.raise_for_status().json()


def jpeg(**options: Any) -> bytes:
    return encoded(picture(101, width=300, height=200), "JPEG", quality=80, **options)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return jpeg(exif=exif)


UPLOADS: Final[Mapping[str, Callable[[], bytes]]] = {
    "plain.png": lambda: encoded(picture(100)),
    "rotated.jpg": rotated,
    "cmyk.jpg": lambda: encoded(picture(102).convert("CMYK"), "JPEG"),
    "grey16.png": lambda: encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16)),
    "palette.gif": lambda: encoded(picture(103), "GIF"),
    "alpha.webp": lambda: encoded(picture(104).convert("RGBA"), "WEBP", lossless=True),
    "windows.bmp": lambda: encoded(picture(105), "BMP"),
    # The extension is ignored.
    "png-named.jpg": lambda: encoded(picture(106)),
}


def test_uploads_arrive_unchanged_and_results_match_the_api(page: Any, server: PageServer) -> None:
    for name, make in UPLOADS.items():
        data = make()
        upload(page, name, data)
        assert hashlib.sha256(server.service.images()[-1]).digest() == hashlib.sha256(data).digest(), name
        assert server.service.callers == {"address 127.0.0.1"}  # as callers of the API, not as one caller "page"
        assert shown_ids(page) == api_ids(server, data), name
        page.click("#query button[aria-label='Clear'], #query button[aria-label='Remove Image']")


def test_results_show_ranks_scores_labels_thumbnails_timings_agreement_and_plot(page: Any, server: PageServer) -> None:
    data = UPLOADS["plain.png"]()
    upload(page, "plain.png", data)
    answer = api_search(server, data)
    columns = page.query_selector_all("#results .hr-column")
    assert [column.get_attribute("aria-label") for column in columns] == ["Benign model", "Robust model"]
    for column, (key, own) in zip(columns, answer["models"].items(), strict=True):
        index = server.service.models[key].index
        cards = column.query_selector_all(".hr-card")
        assert len(cards) == 12
        for rank, (card, match) in enumerate(zip(cards, own["matches"], strict=True), start=1):
            text = card.inner_text()
            assert card.query_selector(".hr-rank").inner_text() == str(rank)
            assert card.query_selector(".hr-score").inner_text() == f"{match['score']:.3f}"
            assert match["label"] in text
            assert match["id"] in text
            shown = base64.b64decode(
                card.query_selector("img").get_attribute("src").removeprefix("data:image/png;base64,")
            )
            assert shown == index.thumbnail(match["id"])
        assert re.search(r"decode [\d.]+ · .*embed [\d.]+ · search [\d.]+ ms", column.inner_text())
    assert page.inner_text(".hr-agreement .hr-pill").lower() == answer["suspicion"]["level"]
    assert answer["suspicion"]["text"] in page.inner_text(".hr-agreement")
    assert page.locator("svg.hr-plot .hr-line").count() == 2
    assert page.locator("svg.hr-plot circle").count() == 24


def test_clicking_an_example_or_a_result_searches_with_it(page: Any, server: PageServer) -> None:
    for selector in (".hr-example >> nth=3", "#results .hr-column >> nth=1 >> .hr-card >> nth=2"):
        id = page.get_attribute(selector, "data-id")
        with new_results(page):
            page.click(selector)
        expected = answer_ids(server.client.get("/v1/search", params={"id": id, "k": 12}).json())
        assert shown_ids(page) == expected
        assert all(id not in column for column in expected)
        assert id in page.inner_text(".hr-query")


def test_changed_options_take_effect_at_once(page: Any, server: PageServer) -> None:
    data = UPLOADS["rotated.jpg"]()
    upload(page, "rotated.jpg", data)
    with new_results(page):
        page.get_by_label("Robust", exact=True).check()
    wait_for_ids(page, api_ids(server, data, model="robust"))
    with new_results(page):
        page.fill("#count input[type=number]", "5")
        page.press("#count input[type=number]", "Tab")
    wait_for_ids(page, api_ids(server, data, model="robust", k=5))
    with new_results(page):
        page.click("#label input")
        page.click("#label [role=option]:has-text('green')")
    wait_for_ids(page, api_ids(server, data, model="robust", k=5, label="green"))
    assert set(page.eval_on_selector_all("#results .hr-card .hr-label", "all => all.map(e => e.textContent)")) == {
        "green"
    }
    assert page.locator(".hr-agreement").count() == 0, "agreement needs two models"


def test_the_address_leads_to_the_search_again(browser: Any, server: PageServer, visitor: Any) -> None:
    with opened(browser, server, visitor=visitor, query="?id=item-5&k=3&model=robust") as page:
        page.wait_for_selector("#results .hr-card")
        answer = server.client.get("/v1/search?id=item-5&k=3&model=robust").raise_for_status().json()
        wait_for_ids(page, answer_ids(answer))
        assert page.input_value("#count input[type=number]") == "3"
        with new_results(page):
            page.click("#results .hr-card >> nth=0")
        first = answer_ids(answer)[0][0]
        until(lambda: page.evaluate("location.search") == f"?id={first}&k=3&model=robust")
        upload(page, "x.png", encoded(picture(9)))
        until(lambda: page.evaluate("location.search") == "")


def test_an_invalid_number_in_the_address_is_named(browser: Any, server: PageServer, visitor: Any) -> None:
    with opened(browser, server, visitor=visitor, query="?id=item-5&k=99999") as page:
        assert "k is" in page.inner_text("#results .hr-message")
        assert not page.query_selector("#results .hr-card")


@pytest.mark.parametrize("k", ["0", "x", "41", "99999", "-1", "3.5", "<b>", "0" * 5000 + "1", "²"])
def test_an_invalid_number_of_results_is_an_error(k: str) -> None:
    with pytest.raises(InvalidSearchError, match="from 1 to 40"):
        number_of_results(k, 40)


def test_the_chosen_model_stays_marked_under_the_pointer(page: Any) -> None:
    radio = "#models label.selected input"
    color = f"getComputedStyle(document.querySelector('{radio}')).backgroundColor"
    page.mouse.move(0, 0)
    before = page.evaluate(color)
    page.hover(radio)
    page.wait_for_timeout(300)
    assert page.evaluate(f"document.querySelector('{radio}').matches(':hover')")
    assert page.evaluate(color) == before


def test_equal_items_are_marked_in_both_columns_and_others_are_called_unique(page: Any, server: PageServer) -> None:
    upload(page, "plain.png", UPLOADS["plain.png"]())
    benign, robust = shown_ids(page)
    shared = next(id for id in benign if id in robust)
    page.hover(f"#results .hr-column >> nth=0 >> .hr-card[data-id='{shared}']")
    assert page.eval_on_selector_all("li.hr-equal", "all => all.map(e => e.dataset.item)") == [shared, shared]
    page.hover("h1")
    page.wait_for_function("!document.querySelector('li.hr-equal')")
    only = page.eval_on_selector_all("li:has(.hr-only)", "all => all.map(e => e.dataset.item)")
    assert sorted(only) == sorted({*benign} ^ {*robust})


def test_near_duplicates_are_folded_where_asked(page: Any, server: PageServer) -> None:
    with new_results(page):
        page.click(".hr-example >> nth=0")
    with new_results(page):
        page.check("#fold input")
    until(lambda: page.evaluate("location.search").endswith("fold=1"))
    # One item has the picture of the query, which is the first item of the gallery, so it is no copy of a result.
    assert [len(column) for column in shown_ids(page)] == [12, 12]
    assert page.is_checked("#fold input")


def test_an_image_pasted_anywhere_is_the_query(page: Any, server: PageServer) -> None:
    paste = """(data) => {
      const transfer = new DataTransfer();
      const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
      transfer.items.add(new File([bytes], 'pasted.png', {type: 'image/png'}));
      document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true}));
    }"""
    for seed in (108, 109):  # the second one replaces the first
        data = encoded(picture(seed))
        with new_results(page):
            page.evaluate(paste, base64.b64encode(data).decode())
        until(lambda data=data: server.service.images()[-1:] == [data])  # type: ignore[misc]


def test_results_can_be_saved_and_originals_opened(page: Any, server: PageServer) -> None:
    with new_results(page):
        page.click(".hr-example >> nth=0")
    with page.expect_download() as caught:
        page.click(".hr-downloads a >> nth=0")
    found = json.loads(Path(caught.value.path()).read_text(encoding="utf-8"))
    assert [[one["id"] for one in matches] for matches in found["models"].values()] == shown_ids(page)
    links = page.eval_on_selector_all("#results .hr-actions a", "all => all.map(e => e.href)")
    ids = [id for column in shown_ids(page) for id in column]
    assert links == [f"{server.url}/item/{quote(id, safe='')}{end}" for id in ids for end in ("", "?download")]
    assert server.client.get(links[0]).headers["content-type"] == "image/png"


def test_the_original_of_a_result_can_be_copied(browser: Any, server: PageServer) -> None:
    with opened(browser, server, permissions=["clipboard-read", "clipboard-write"]) as page:
        with new_results(page):
            page.click(".hr-example >> nth=0")
        id = shown_ids(page)[0][0]
        page.click("#results [data-copy] >> nth=0")
        page.wait_for_selector("#results button[data-copy]:text-is('Copied')")
        copied = page.evaluate(
            """async () => {
              const [item] = await navigator.clipboard.read();
              return [...new Uint8Array(await (await item.getType('image/png')).arrayBuffer())];
            }"""
        )
    original = next(file.data for file in paint(40) if file.id == id)
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(bytes(copied))).convert("RGB")), np.asarray(Image.open(io.BytesIO(original)))
    )


def test_suspicious_items_are_listed(page: Any) -> None:
    page.click("[data-scan]")
    page.wait_for_selector(".hr-scan h3")
    assert page.locator(".hr-scan a.hr-card").count() > 0
    page.click(".hr-scan a.hr-card >> nth=0")
    page.wait_for_selector("#results .hr-card")


def test_a_longer_page_keeps_its_width(page: Any) -> None:
    width = "document.querySelector('.hr-main').getBoundingClientRect().width"
    before = page.evaluate(width)
    with new_results(page):
        page.click(".hr-example")
    assert page.evaluate(width) == before


def test_an_unknown_label_is_named(page: Any, server: PageServer) -> None:
    upload(page, "plain.png", UPLOADS["plain.png"]())
    width = "document.querySelector('.hr-main').getBoundingClientRect().width"
    before = page.evaluate(width)
    with new_results(page):
        page.fill("#label input", "purple")
        page.press("#label input", "Enter")
    assert "purple" in page.inner_text("[role=alert]")
    assert page.evaluate(width) == before


def test_invalid_images_have_an_error_message(page: Any) -> None:
    # A message is shown anew if it differs from the one before.
    invalid = [
        ("text.png", b"not an image", "format"),
        ("half.png", encoded(picture(1))[:900], "truncated"),
        ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format"),
        ("bomb.png", encoded(Image.new("1", (17_000, 20))), "16384"),
    ]
    for name, data, cause in invalid:
        upload(page, name, data)
        message = page.inner_text("#results [role=alert]")
        assert cause in message
        assert not re.search(r"Traceback|/tmp|gradio|\.py", message)
    upload(page, "good.png", encoded(picture(2)))
    assert shown_ids(page), "the next search works"


def test_a_file_above_the_limit_has_an_error_message(browser: Any, server: PageServer) -> None:
    large = {"name": "large.png", "mimeType": "image/png", "buffer": bytes(2**20 + 1)}
    # Gradio's page may ask for the progress of the refused upload, and logs the error.
    with opened(browser, server, expected_errors=("404 (Not Found)", "Response")) as page:
        page.set_input_files("#query input[type=file]", large)
        page.wait_for_selector("text=/maximum allowed size/i")
        assert not server.service.searches


def test_errors_of_the_service_have_a_message(page: Any, server: PageServer, caplog: pytest.LogCaptureFixture) -> None:
    for failure in (
        OverloadedError("256 requests are waiting; try again in 1 s"),
        NotReadyError("The server is warming up"),
        RuntimeError("secret of /etc/passwd"),
    ):
        server.service.failure = failure
        with new_results(page):
            page.click(".hr-example >> nth=0")
        message = page.inner_text("#results [role=alert]")
        problem = problem_of(failure, "")
        assert problem.title in message
        assert problem.detail in message
        assert "secret" not in message
    request_id = message.split()[-1]
    assert any(request_id in record.getMessage() for record in caplog.records), "the log has the cause under this id"
    server.service.failure = None
    with new_results(page):
        page.click("#again")
    assert len(shown_ids(page)[0]) == 12


def test_more_results_than_items_show_all_items(page: Any, server: PageServer) -> None:
    with new_results(page):
        page.click(".hr-example >> nth=0")
    page.fill("#count input[type=number]", "500")
    page.press("#count input[type=number]", "Tab")
    # All but the query itself.
    until(lambda: [len(column) for column in shown_ids(page)] == [40, 40])


def test_a_shrunken_gallery_has_an_error_message(page: Any, server: PageServer) -> None:
    server.service.failure = InvalidSearchError("k is 12; give a whole number from 1 to 7")
    with new_results(page):
        page.click(".hr-example >> nth=0")
    assert "k is 12; give a whole number from 1 to 7" in page.inner_text("#results [role=alert]")


def test_texts_of_the_gallery_are_escaped(page: Any) -> None:
    with new_results(page):
        page.click(".hr-example >> nth=0")
    with new_results(page):
        page.click("#label input")
        page.click("#label [role=option]:has-text('alert(1)')")
    wait_for_ids(page, [[HOSTILE_ID], [HOSTILE_ID]])
    card = page.locator("#results .hr-card >> nth=0")
    assert card.locator(".hr-label").inner_text() == HOSTILE
    assert card.locator(".hr-id").inner_text() == HOSTILE_ID
    assert card.locator(".hr-meta").inner_text() == f"{HOSTILE}: {HOSTILE}"
    assert page.locator("#results script, #results img[src=x]").count() == 0
    with new_results(page):
        card.click()
    until(lambda: HOSTILE_ID in page.inner_text(".hr-query"))


def test_a_phone_does_not_scroll_sideways(browser: Any, server: PageServer) -> None:
    with opened(browser, server, width=360, is_mobile=True, has_touch=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        with new_results(page):
            page.tap(".hr-example >> nth=1")
        # The page scrolls to the results once they are laid out.
        page.wait_for_function("document.querySelector('.hr-results').getBoundingClientRect().top < innerHeight / 2")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        wide = page.eval_on_selector_all(
            "#results *", "all => all.filter(e => e.getBoundingClientRect().right > 360.5).map(e => e.className)"
        )
        assert not wide
        small = page.eval_on_selector_all(
            ".hr-example, .hr-card, #query button",
            "all => all.filter(e => e.checkVisibility() && e.getBoundingClientRect().width < 24).map(e => e.outerHTML)",
        )
        assert not small, "touch targets need 24 px"


@pytest.mark.parametrize(
    ("query", "scheme", "dark"), [("", "light", False), ("", "dark", True), ("?__theme=dark", "light", True)]
)
def test_both_themes_have_enough_contrast(
    browser: Any, server: PageServer, query: str, scheme: str, dark: bool
) -> None:
    with opened(browser, server, query=query, color_scheme=scheme) as page:
        assert not page.evaluate(LOW_CONTRAST)
        with new_results(page):
            page.click(".hr-example >> nth=0")
        page.mouse.move(1, 1)
        page.click(".hr-agreement summary")
        assert not page.evaluate(LOW_CONTRAST)
        red = int(re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0])
        assert (red < 64) == dark


def test_the_page_works_by_keyboard_with_a_visible_focus(page: Any, server: PageServer) -> None:
    def focus() -> str:
        found: str = page.evaluate(
            """() => { const e = document.activeElement;
            return [e.className, e.getAttribute('aria-label') || e.innerText || e.id || e.type].join('|') }"""
        )
        return found

    stops = []
    for _ in range(40):
        page.keyboard.press("Tab")
        stops.append(focus())
        if "hr-example" in stops[-1]:
            break
    assert "hr-example" in stops[-1], stops
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline not in {"none", ""}
    with new_results(page):
        page.keyboard.press("Enter")
    assert len(shown_ids(page)[0]) == 12
    for _ in range(60):
        page.keyboard.press("Tab")
        if "hr-card" in focus():
            break
    id = page.evaluate("document.activeElement.dataset.id")
    with new_results(page):
        page.keyboard.press("Enter")
    assert id in page.inner_text(".hr-query")
    page.wait_for_function("document.activeElement.closest('#results') !== null")  # focus stays on the results


def violations(page: Any) -> list[str]:
    """What axe-core finds once the page is at rest."""
    page.mouse.move(1, 1)
    page.wait_for_timeout(1000)
    found: list[str] = page.evaluate(
        "async () => (await axe.run()).violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html).join(' ')}`)"
    )
    return found


@pytest.mark.slow
@pytest.mark.skipif(AXE is None, reason="HARDRANK_AXE is not the file axe.min.js of axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser: Any, server: PageServer, scheme: str, width: int) -> None:
    with opened(browser, server, width=width, color_scheme=scheme) as page:
        page.evaluate(Path(str(AXE)).read_text(encoding="utf-8"))
        assert violations(page) == []
        with new_results(page):
            page.click(".hr-example >> nth=0")
        assert violations(page) == []
        page.click("[data-scan]")
        page.wait_for_selector(".hr-scan h3")
        assert violations(page) == []
        server.service.failure = OverloadedError("256 requests are waiting")
        with new_results(page):
            page.click(".hr-example >> nth=1")
        assert violations(page) == []


def test_every_control_has_a_name(page: Any) -> None:
    with new_results(page):
        page.click(".hr-example >> nth=0")
    unnamed = page.eval_on_selector_all(
        "button, input, [role=img], img",
        """all => all.filter(e => e.checkVisibility() && e.type !== 'file' && !(
          e.innerText?.trim() || e.getAttribute('aria-label') || e.alt !== undefined && e.hasAttribute('alt')
          || e.labels?.length || e.title)).map(e => e.outerHTML.slice(0, 200))""",
    )
    assert not unnamed
    assert page.title() == "hardrank · image search"
    assert page.locator("h1").count() == 1
    assert page.get_by_text("Sign out").count() == 0, "nobody signs in here"


def test_a_photograph_arrives_unchanged(browser: Any, server: PageServer) -> None:
    with opened(browser, server, permissions=["camera"]) as page:
        page.click("#query button[aria-label='Capture from camera']")
        page.click("#query button:has-text('Click to Access Webcam')")
        page.wait_for_function("document.querySelector('#query video')?.currentTime > 0")
        with new_results(page):
            page.click("#query button[aria-label='capture photo']")
        data = server.service.images()[-1]
        image = Image.open(io.BytesIO(data))
        assert image.format == "PNG"
        shown = page.eval_on_selector(
            "#query img", "async e => [...new Uint8Array(await (await fetch(e.src)).arrayBuffer())]"
        )
        assert bytes(shown) == data
        assert shown_ids(page) == api_ids(server, data)


def test_a_pasted_image_arrives_unchanged(browser: Any, server: PageServer) -> None:
    original = picture(107)
    with opened(browser, server, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.evaluate(
            """async (data) => {
              const blob = new Blob([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], {type: 'image/png'});
              await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]);
            }""",
            base64.b64encode(encoded(original)).decode(),
        )
        with new_results(page):
            page.click("#query button[aria-label='Paste from clipboard']")
        image = Image.open(io.BytesIO(server.service.images()[-1]))
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(original))


def test_the_page_of_a_single_model_has_no_comparison(browser: Any, models: list[Model]) -> None:
    alone = Model(key="robust", engine=models[1].engine, index=models[1].index)
    with page_server([alone]) as server, opened(browser, server) as page:
        assert not page.is_visible("#models")
        with new_results(page):
            page.click(".hr-example >> nth=2")
        assert len(shown_ids(page)) == 1
        assert len(shown_ids(page)[0]) == 12
