"""Only the parts of Gradio that the page needs are reachable: no fetching, no arbitrary calls, no file reading."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from hardrank.serving.api.auth import Keyring, KeyRole, key_entry, write_keys
from hardrank.serving.api.bodies import HeldBytes
from hardrank.serving.engine import Engine
from hardrank.serving.page.allow_list import AllowListMiddleware
from hardrank.serving.page.logins import Logins
from hardrank.serving.page.mount import create_page
from hardrank.serving.page.uploads import UploadStore
from hardrank.serving.search.models import Model
from hardrank.serving.settings import Access, Limits, Network, Settings
from tests.serving.page_server import PageServer, page_server
from tests.serving.served import encoded, make_model, paint, picture
from tests.waiting import patient_client

KEY = "a key of many characters"


@pytest.fixture(scope="module")
def model(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("index"), engine, paint(5))


@pytest.fixture(scope="module")
def server(model: Model) -> Iterator[PageServer]:
    with page_server([model], Settings(limits=Limits(image_bytes=50_000, body_bytes=60_000))) as running:
        yield running


def upload(server: PageServer, *files: bytes) -> httpx.Response:
    parts = [("files", ("picture.png", data, "image/png")) for data in files]
    return server.client.post(f"{server.url}/gradio_api/upload", files=parts)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A key file with `KEY`."""
    path = tmp_path / "keys.json"
    write_keys(path, [key_entry("anna", KeyRole.READ, KEY)])
    return path


def call(server: PageServer, data: Any, *, function: int = 0) -> httpx.Response:
    body = {"data": data, "fn_index": function, "session_hash": "abc", "trigger_id": None}
    return server.client.post(f"{server.url}/gradio_api/queue/join", json=body)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=http://example.com/a.png",
        "/gradio_api/file=HTTPS://example.com/a.png",
        "/gradio_api/file=%20http://example.com/a.png",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=pyproject.toml",
        "/gradio_api/proxy=http://example.com",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/runs",
        "/gradio_api/custom_component/1/client/component/index.js",
        "/monitoring",
        "/monitoring/summary",
        "/nothing/at/all",
        "/assets/" + "a" * 300,
        "/static/" + "%C3%A4" * 200,
    ],
)
def test_other_routes_of_gradio_are_not_found(server: PageServer, path: str) -> None:
    answer = server.client.get(server.url + path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path", ["/gradio_api/run/load", "/gradio_api/call/load", "/gradio_api/api/load", "/gradio_api/component_server"]
)
def test_functions_are_only_called_through_the_queue(server: PageServer, path: str) -> None:
    assert server.client.post(server.url + path, json={"data": []}).status_code == 404


def test_path_traversal_out_of_the_uploads_is_not_found(server: PageServer) -> None:
    [name] = upload(server, b"x").raise_for_status().json()
    for path in (f"{name}/../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "../allow_list.py", "."):
        assert server.client.get(f"{server.url}/gradio_api/file={path}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "http://example.com/a.png",
        "https://example.com/a.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "",
        5,
        ["/etc/passwd"],
    ],
)
def test_calls_that_name_other_files_are_refused(server: PageServer, path: Any) -> None:
    file = {"path": path, "meta": {"_type": "gradio.FileData"}, "url": "http://example.com/a.png"}
    for data in ([file], [{"deep": [{"er": file}]}], [None, None, None, file]):
        answer = call(server, data)
        assert answer.status_code == 400
        assert "not uploaded here" in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 50_000, b"\xff\xfe"])
def test_calls_that_are_not_json_are_refused(server: PageServer, body: bytes) -> None:
    answer = server.client.post(f"{server.url}/gradio_api/queue/join", content=body)
    assert answer.status_code == 400


def test_uploads_are_private_and_returned_unchanged(server: PageServer) -> None:
    data = encoded(picture(1))
    [name] = upload(server, data).raise_for_status().json()
    [file] = Path(tempfile.gettempdir()).glob(f"hardrank-page-*/{name}")
    assert file.parent.stat().st_mode & 0o077 == 0
    answer = server.client.get(f"{server.url}/gradio_api/file={name}")
    assert answer.content == data
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_large_requests_are_refused(server: PageServer) -> None:
    assert upload(server, bytes(50_001)).status_code == 413
    assert upload(server, bytes(40_000), bytes(40_000)).status_code == 413
    # A valid form: an invalid one might be answered 400 before the limit is reached.
    begin = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    chunks = (begin if number == 0 else bytes(10_000) for number in range(20))
    head = {"Content-Type": "multipart/form-data; boundary=x"}
    # Without a Content-Length.
    assert server.client.post(f"{server.url}/gradio_api/upload", content=chunks, headers=head).status_code == 413
    assert server.client.post(f"{server.url}/gradio_api/queue/join", content=b" " * (2**16 + 1)).status_code == 413


def test_uploads_beyond_the_total_limit_are_refused(model: Model) -> None:
    limits = Limits(image_bytes=50_000, body_bytes=60_000, held_bytes=1)
    with page_server([model], Settings(limits=limits)) as server:
        answer = upload(server, bytes(100))
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0


def test_the_queue_is_bounded(server: PageServer, tmp_path: Path) -> None:
    uploads = UploadStore(tmp_path, limit=1, largest=1, keep_s=1, held=HeldBytes(Limits(), "previews"))
    queue = create_page(server.service, server.service.settings, uploads)._queue
    assert queue.max_size is not None
    assert 0 < queue.max_size <= 100
    assert isinstance(queue.default_concurrency_limit, int)
    assert 0 < queue.default_concurrency_limit <= queue.max_size


def test_the_content_security_policy_allows_only_this_server(server: PageServer) -> None:
    answer = server.client.get(f"{server.url}/")
    assert answer.status_code == 200
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    for sources in policy.values():
        assert not any(source.startswith(("http", "*", "//")) for source in sources.split())
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "fonts.googleapis" not in answer.text + server.client.get(f"{server.url}/theme.css").text


@pytest.mark.anyio
async def test_the_page_is_rendered_for_one_visitor_at_a_time_and_none_can_hold_it_up() -> None:
    rendering: list[int] = []

    async def gradio(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            rendering.append(1)
            await asyncio.sleep(0)
            assert len(rendering) == 1
            rendering.pop()
        await Response(b"page")(scope, receive, send)

    unused = cast(Any, None)
    page = AllowListMiddleware(
        gradio,
        blocks=unused,
        bodies=unused,
        uploads=unused,
        calls=unused,
        images=unused,
        logins=Logins(None),
        image_bytes=1,
    )
    stuck, taken = asyncio.Event(), []

    async def never(_: Message) -> None:
        await stuck.wait()

    async def take(message: Message) -> None:
        taken.append(message.get("body"))

    async def get(send: Send) -> None:
        await page({"type": "http", "method": "GET", "path": "/", "headers": []}, unused, send)

    slow = [asyncio.create_task(get(never)) for _ in range(3)]
    await asyncio.gather(*(get(take) for _ in range(3)))
    assert taken.count(b"page") == 3
    stuck.set()
    await asyncio.gather(*slow)


def test_other_sites_can_neither_read_nor_use_the_page(model: Model, key_file: Path) -> None:
    """With the login of a visitor, on a server with a name: Gradio allows any origin there."""
    keyring = Keyring(file=key_file, anonymous=KeyRole.NOTHING)
    settings = Settings(access=Access(allowed_hosts=("search.example", "127.0.0.1")))
    with page_server([model], settings, keyring) as server, patient_client(server.url) as client:
        assert client.post("/login", data={"username": "anna", "password": KEY}).status_code == 200
        head = {"Host": "search.example", "Origin": "https://evil.example"}
        answers = [
            client.get("/config", headers=head),
            client.post("/gradio_api/queue/join", headers=head, json={}),
            client.options("/gradio_api/upload", headers={**head, "Access-Control-Request-Method": "POST"}),
        ]
        assert not any("access-control-allow-origin" in answer.headers for answer in answers)
        sent = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
        assert client.post("/gradio_api/upload", headers=sent, files={"files": b"x"}).status_code == 403
        assert client.get("/item/item-1", headers=sent).status_code == 403
        assert client.get("/item/item-1", headers={**sent, "Sec-Fetch-Mode": "navigate"}).status_code == 200
        own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
        assert client.post("/gradio_api/upload", headers=own, files={"files": b"x"}).status_code == 200


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("?page=zzz", {}),
        ("?deep_link=abc", {}),
        ("", {"Host": "a:x"}),
        ("", {"X-Forwarded-Host": "a:x"}),
        ("", {"X-Gradio-Server": "http://a:x"}),
    ],
)
def test_what_gradio_fails_for_does_not_reach_it(
    server: PageServer, query: str, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    if "Host" in headers:
        with page_server([server.service.models["benign"]], Settings(network=Network(host="0.0.0.0"))) as open_server:
            assert open_server.client.get(f"{open_server.url}/", headers=headers).status_code == 200
    else:
        for path in ("/", "/config"):
            assert server.client.get(f"{server.url}{path}{query}", headers=headers).status_code == 200
    assert not caplog.text


def test_logging_out_ends_only_the_own_login(model: Model, key_file: Path) -> None:
    keyring = Keyring(file=key_file, anonymous=KeyRole.NOTHING)
    with (
        page_server([model], keyring=keyring) as server,
        patient_client(server.url) as one,
        patient_client(server.url) as other,
    ):
        for client in (one, other):
            assert client.post("/login", data={"username": "key", "password": KEY}).status_code == 200
            assert "samesite=lax" in client.post("/login", data={"password": KEY}).headers["set-cookie"].lower()
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert one.post("/logout", headers=link).status_code == 403
        assert 'method="post"' in one.get("/logout", headers=link).text
        assert one.get("/config").status_code == 200
        assert one.post("/logout").status_code == 303
        assert [client.get("/config").status_code for client in (one, other)] == [401, 200]


@pytest.mark.parametrize("body", [b"password=" + b"k" * 5000, b"&".join(b"a=b" for _ in range(9)), b"", b"\xff=%ff"])
def test_strange_logins_are_refused(model: Model, body: bytes) -> None:
    with page_server([model], keyring=Keyring([key_entry("a", KeyRole.READ, KEY)], anonymous=KeyRole.NOTHING)) as own:
        head = {"Content-Type": "application/x-www-form-urlencoded"}
        assert own.client.post(f"{own.url}/login", content=body, headers=head).status_code in {400, 413, 422}


def test_the_configuration_reveals_no_path_of_the_server(server: PageServer) -> None:
    text = server.client.get(f"{server.url}/config").text + server.client.get(f"{server.url}/").text
    config = json.loads(server.client.get(f"{server.url}/config").text)
    assert config["analytics_enabled"] is False
    for secret in (str(Path(__file__).parents[3]), tempfile.gettempdir()):
        assert secret not in text


def test_the_server_opens_no_connection(model: Model) -> None:
    called: list[str] = []

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event == "socket.connect":
            called.append(str(arguments[1]))
        elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
            called.append(str(arguments[0]))

    sys.addaudithook(note)
    with page_server([model]) as server:
        upload(server, encoded(picture(2))).raise_for_status()
        server.client.get(f"{server.url}/").raise_for_status()
    assert called, "the test's own requests are recorded"
    assert not [host for host in called if "127.0.0.1" not in host and host not in {"localhost", "None"}]


def test_the_page_requires_a_key_if_there_are_keys(model: Model, key_file: Path) -> None:
    keyring = Keyring(file=key_file, anonymous=KeyRole.NOTHING)
    with page_server([model], keyring=keyring) as server, patient_client(server.url) as client:
        assert client.get("/config").status_code == 401
        assert client.post("/login", data={"username": "anna", "password": "wrong"}).status_code == 400
        assert client.post("/gradio_api/upload", files={"files": b"x"}).status_code == 401
        assert client.post("/login", data={"username": "anna", "password": KEY}).status_code == 200
        assert client.get("/config").status_code == 200
        write_keys(key_file, [])
        assert client.get("/config").status_code == 401
        assert client.post("/gradio_api/upload", files={"files": b"x"}).status_code == 401
        assert client.post("/login", data={"username": "anna", "password": KEY}).status_code == 400
