"""The files of the page are compressed once, in a thread, and nothing else can be read."""

import asyncio
import gzip
from pathlib import Path

import pytest

from hardrank.serving.engine import Engine
from hardrank.serving.page import assets
from hardrank.serving.page.assets import Assets
from tests.serving.page_server import page_server
from tests.serving.served import make_model, paint


def _largest(files: Assets) -> str:
    return max((one for one in files._files if one.endswith(".js")), key=lambda one: files._files[one].stat().st_size)


@pytest.mark.anyio
async def test_a_file_is_compressed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Assets()
    compressed: list[Path] = []
    original = assets._gzipped

    def recorded(path: Path) -> bytes:
        compressed.append(path)
        return original(path)

    monkeypatch.setattr(assets, "_gzipped", recorded)
    address = _largest(files)

    responses = await asyncio.gather(*(files.response(address, "gzip, deflate, br") for _ in range(5)))
    plain = await files.response(address, "br, gzip;q=0")
    assert len(compressed) == 1
    assert {gzip.decompress(response.body) for response in responses} == {bytes(plain.body)}
    assert responses[0].headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert {response.headers["vary"] for response in (*responses, plain)} == {"Accept-Encoding"}
    assert plain.headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "address", ["/assets/", "/assets/../index.html", "/assets/..%2Findex.html", "/index.html", "/static"]
)
def test_other_files_are_not_listed(address: str) -> None:
    assert address not in Assets()


def test_gradio_compresses_nothing(engine: Engine, tmp_path: Path) -> None:
    with page_server([make_model(tmp_path, engine, paint(5))]) as server:
        for path in ("/theme.css", _largest(Assets())):
            answer = server.client.get(server.url + path, headers={"Accept-Encoding": "br"})
            assert answer.status_code == 200
            assert "content-encoding" not in answer.headers
