"""Visitors get originals byte for byte, previews of what browsers do not display, and a page to sign in."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from hardrank.models.decoding import decode
from hardrank.serving.api.auth import Keyring, KeyRole, key_entry
from hardrank.serving.engine import Engine
from hardrank.serving.search.models import Model
from hardrank.serving.settings import Access, Limits, Settings
from tests.serving.page_server import PageServer, page_server
from tests.serving.served import Painted, encoded, make_model, paint, picture
from tests.waiting import patient_client, until

KEY = "a key of many characters"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Painted]:
    folder = tmp_path_factory.mktemp("pictures")
    scan = encoded(picture(9, width=1000, height=500), "TIFF")
    (folder / "scan.tif").write_bytes(scan)
    return [*paint(3, folder), Painted(id="scan-9", label="red", data=scan, path=folder / "scan.tif")]


@pytest.fixture(scope="module")
def model(engine: Engine, files: list[Painted], tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("index"), engine, files)


@pytest.fixture(scope="module")
def server(model: Model) -> Iterator[PageServer]:
    with page_server([model]) as running:
        yield running


def test_an_original_is_unchanged(server: PageServer, files: list[Painted]) -> None:
    answer = server.client.get("/item/item-1")
    assert (answer.content, answer.headers["content-type"]) == (files[1].data, "image/png")
    assert "sandbox" in answer.headers["content-security-policy"]
    saved = server.client.get("/item/item-1?download")
    assert saved.content == files[1].data
    assert saved.headers["content-disposition"] == "attachment; filename*=UTF-8''item-1.png"


def test_a_tiff_is_shown_as_png_and_saved_as_it_is(server: PageServer, files: list[Painted]) -> None:
    shown = server.client.get("/item/scan-9")
    assert shown.headers["content-type"] == "image/png"
    assert decode(shown.content).size == (720, 360)
    saved = server.client.get("/item/scan-9?download")
    assert saved.content == files[3].data
    assert saved.headers["content-disposition"] == "attachment; filename*=UTF-8''scan-9.tif"


def upload_tiff(server: PageServer, seed: int) -> str:
    data = encoded(picture(seed, width=80, height=40), "TIFF")
    answer = server.client.post("/gradio_api/upload", files={"files": ("a.tif", data, "image/tiff")})
    return str(answer.raise_for_status().json()[0])


def test_an_uploaded_tiff_has_a_preview(server: PageServer) -> None:
    shown = server.client.get(f"/gradio_api/file={upload_tiff(server, 4)}")
    assert shown.headers["content-type"] == "image/png"
    assert decode(shown.content).size == (80, 40)


def test_many_requests_share_one_preview_which_is_kept_and_ends_if_all_leave(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, ended, proceed = [], [], threading.Event()
    preview = server.service.preview

    async def slow(data: bytes, side: int, *, caller: str = "") -> bytes:
        started.append(caller)
        try:
            while not proceed.is_set():
                await asyncio.sleep(0.005)
            return await preview(data, side, caller=caller)
        finally:
            ended.append(caller)

    monkeypatch.setattr(server.service, "preview", slow)
    path = f"/gradio_api/file={upload_tiff(server, 5)}"
    address = server.client.base_url
    request = f"GET {path} HTTP/1.1\r\nHost: {address.netloc.decode()}\r\n\r\n".encode()
    abandoned = [socket.create_connection((address.host, address.port or 80)) for _ in range(8)]
    for connection in abandoned:
        connection.sendall(request)
    until(lambda: started)
    for connection in abandoned:
        connection.close()
    until(lambda: ended)
    proceed.set()
    started.clear()
    answers = [server.client.get(path) for _ in range(3)]
    assert len({answer.content for answer in answers}) == 1
    assert decode(answers[0].content).size == (80, 40)
    assert len(started) == 1


def test_previews_of_items_are_held_with_the_bodies_and_end_if_their_clients_leave(
    model: Model, files: list[Painted], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(files[3].data)  # of a TIFF: browsers need a preview
    limits = Limits(held_bytes=size + 100_000, body_bytes=size, image_bytes=size)
    started, ended = threading.Event(), threading.Event()

    async def never(*_: object, **__: object) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def send_body(client: httpx.Client) -> int:
        return client.post("/v1/search", content=bytes(200_000), headers={"Content-Type": "image/png"}).status_code

    with page_server([model], Settings(limits=limits)) as server:
        monkeypatch.setattr(server.service, "preview", never)
        address = server.client.base_url
        with socket.create_connection((address.host, address.port or 80)) as connection:
            connection.sendall(f"GET /item/scan-9 HTTP/1.1\r\nHost: {address.netloc.decode()}\r\n\r\n".encode())
            until(started.is_set)
            assert server.client.get("/item/scan-9").status_code == 429
            assert send_body(server.client) == 429, "the page and the API have one budget"
            assert server.client.get("/item/item-1").status_code == 200, "what is displayed as it is does not wait"
        until(ended.is_set)
        until(lambda: send_body(server.client) == 422)  # not an image


def test_previews_of_uploads_count_for_the_rate_limit(model: Model) -> None:
    with page_server([model], settings=Settings(access=Access(rate=0.001, burst=4))) as server:
        path = f"/gradio_api/file={upload_tiff(server, 6)}"  # one request
        statuses = [server.client.get(path).status_code for _ in range(5)]
    assert statuses == [200] * 3 + [429] * 2


def test_an_unknown_item_is_not_found(server: PageServer) -> None:
    answer = server.client.get("/item/nothing")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_a_file_that_is_gone_is_shown_by_its_thumbnail(engine: Engine, tmp_path: Path) -> None:
    gone = Painted(id="gone-7", label="red", data=encoded(picture(5)), path=tmp_path / "gone.png")
    alone = make_model(tmp_path, engine, [gone, *paint(2)])
    with page_server([alone]) as server:
        assert isinstance(decode(server.client.get("/item/gone-7").content), Image.Image)


def test_large_originals_count_for_the_rate_limit(model: Model) -> None:
    with page_server([model], settings=Settings(access=Access(rate=0.01, burst=20))) as server:
        # The TIFF has 1.5 MB: each counts as one request and five more.
        statuses = [server.client.get("/item/scan-9?download").status_code for _ in range(6)]
    assert statuses == [200] * 4 + [429] * 2


def test_originals_and_the_page_need_a_login_if_there_are_keys(model: Model) -> None:
    keyring = Keyring([key_entry("anna", KeyRole.READ, KEY)], anonymous=KeyRole.NOTHING)
    with page_server([model], keyring=keyring) as server, patient_client(server.url) as client:
        assert client.get("/item/item-1").status_code == 401
        page = client.get("/")
        assert (page.status_code, page.headers["cache-control"]) == (200, "no-store")
        assert "API key" in page.text
        assert "gradio" not in page.text.lower()
        assert client.post("/login", data={"username": "key", "password": KEY}).status_code == 200
        assert "gradio" in client.get("/").text.lower()
        assert client.get("/item/item-1").status_code == 200
