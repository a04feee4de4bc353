"""Behind a real nginx that serves everything below /search: the page, its uploads, the API and its documentation."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hardrank.serving.engine import Engine
from tests.chromium import needs_chromium, new_page
from tests.serving.process import running
from tests.serving.served import encoded, make_source, paint, picture
from tests.waiting import patient_client, until

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_max_body_size 40m;
  server {{
    listen 127.0.0.1:{port};
    location /search/ {{
      proxy_pass {url}/;
      proxy_buffering off;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
    }}
  }}
}}
"""


@pytest.fixture(scope="module")
def source(benign_bundle: Path, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """BUNDLE=INDEX of a small gallery."""
    return make_source(tmp_path_factory.mktemp("index"), benign_bundle, engine, paint(20))


@pytest.fixture(scope="module")
def url(source: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page without logins, without a slash at the end."""
    with _behind_nginx(source, tmp_path_factory.mktemp("nginx")) as url:
        yield url


@contextmanager
def _behind_nginx(source: str, folder: Path, **environment: str) -> Iterator[str]:
    """Serve an index behind nginx, whose files are in `folder`; yields the address of the page."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running([source], "--root-path", "/search", "--proxies", "127.0.0.1", environment=environment) as server:
        configuration = folder / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(folder=folder, port=port, url=server.url))
        assert NGINX is not None
        nginx = subprocess.Popen([NGINX, "-c", str(configuration), "-p", str(folder)], stderr=subprocess.DEVNULL)
        try:
            until(lambda: _answers(f"http://127.0.0.1:{port}/search/healthz"))
            yield f"http://127.0.0.1:{port}/search"
        finally:
            nginx.terminate()
            nginx.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_the_api_and_its_documentation(url: str) -> None:
    with patient_client(url) as client:
        data = paint(3)[2].data
        found = client.post(f"{url}/v1/search?k=1", content=data, headers={"Content-Type": "image/png"})
        assert found.json()["models"]["benign"]["matches"][0]["id"] == "item-2"
        assert "Cache-Control" in found.headers  # the headers of the API, not those of the page
        location = client.get(f"{url}/v1/items/item-2/image").headers["Content-Location"]
        assert location.startswith("/search/v1/items/item-2/")
        docs = client.get(f"{url}/docs").text
        for path in re.findall(r"/[\w./-]*(?:swagger-ui[\w.-]*|openapi\.json)", docs):
            assert client.get(f"{url.removesuffix('/search')}{path}").status_code == 200, path
        assert client.get(f"{url}/openapi.json").json()["servers"] == [{"url": "/search"}]
        assert client.get(f"{url}/v1/nothing").headers["content-type"] == "application/problem+json"


@needs_chromium
def test_the_page_and_its_uploads(url: str, browser: Any) -> None:
    with new_page(browser) as (page, log):
        failed: list[str] = []
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        page.goto(f"{url}/")
        page.click(".hr-example")
        page.wait_for_selector("#results .hr-card")
        page.evaluate("document.querySelector('#results .hr-results').setAttribute('data-old', '')")
        picture_file = {"name": "x.png", "mimeType": "image/png", "buffer": encoded(picture(7))}
        page.set_input_files("#query input[type=file]", picture_file)
        page.wait_for_selector("#results .hr-results:not([data-old]) .hr-card")
        assert page.get_attribute("#results .hr-card", "data-id") == "item-7"
    assert not failed
    assert not log.requested_elsewhere(f"{url}/")


@needs_chromium
def test_a_visitor_signs_out(source: str, browser: Any, tmp_path: Path) -> None:
    key = "a key of many characters"
    with (
        _behind_nginx(source, tmp_path, HARDRANK_READ_KEYS=key) as url,
        new_page(browser) as (page, log),
    ):
        page.goto(f"{url}/")
        page.fill("#key", key)
        page.click("button")
        page.click("text='Sign out'")
        page.wait_for_selector("#key")
        assert page.url == f"{url}/"
    assert not log.requested_elsewhere(f"{url}/")
