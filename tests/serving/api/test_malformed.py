"""A thousand damaged images sent to the real application: each gets a 200 or a 4xx problem, never a 500."""

import asyncio
import io
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from hardrank.serving.engine import Engine
from tests.models.malformed_files import malformed_files
from tests.serving.process import ROOT, running
from tests.serving.served import Served, encoded, make_source, paint, picture, serve
from tests.waiting import PATIENCE_S

OVER_A_SOCKET = 150
BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("served"), (engine,), count=12) as one:
        yield one


def mutants(count: int, seed: int) -> Iterator[bytes]:
    return (data for _, data in malformed_files(count, seed=seed))


def _check(status: int, kind: str, text: str) -> None:
    assert status in {200, 413, 422}, text
    if status != 200:
        assert kind == "application/problem+json"
        assert str(ROOT) not in text
        assert "/tmp/" not in text
        assert "0x" not in text


@pytest.mark.parametrize("count", [500, pytest.param(2400, marks=pytest.mark.slow)])
def test_no_mutant_gets_a_500(served: Served, count: int) -> None:
    statuses: Counter[int] = Counter()
    for number, data in enumerate(mutants(count, seed=0)):
        if number % 3:
            answer = served.client.post("/v1/search?k=2", content=data, headers=BYTES)
        else:
            answer = served.client.post("/v1/search?k=2", files={"image": ("x.png", data)})
        _check(answer.status_code, answer.headers["content-type"], answer.text)
        statuses[answer.status_code] += 1
    assert statuses[200] > count / 10
    assert statuses[422] > count / 4
    assert served.client.get("/v1/stats").json()["pending"] == 0


def test_no_mutant_is_added_and_none_breaks_the_index(served: Served) -> None:
    for number, data in enumerate(mutants(120, seed=1)):
        answer = served.client.put(f"/v1/items/mutant-{number}", files={"image": ("x", data)})
        if answer.status_code == 201:
            assert served.client.get(f"/v1/items/mutant-{number}/image").status_code == 200
            assert served.client.delete(f"/v1/items/mutant-{number}").status_code == 204
        else:
            _check(answer.status_code, answer.headers["content-type"], answer.text)
            assert served.client.get(f"/v1/items/mutant-{number}").status_code == 404


def test_mutants_in_batches(served: Served) -> None:
    data = list(mutants(128, seed=2))
    for start in range(0, len(data), 32):
        files = [("images", ("x", one)) for one in data[start : start + 32]]
        answer = served.client.post("/v1/search/batch?k=1", files=files)
        assert answer.status_code == 200
        for one in answer.json()["answers"]:
            assert (one["answer"] is None) != (one["problem"] is None)
            assert one["problem"] is None or one["problem"]["status"] in {413, 422}


def test_hundreds_of_mutants_over_real_sockets(tmp_path: Path, engine: Engine, benign_bundle: Path) -> None:
    source = make_source(tmp_path / "index", benign_bundle, engine, paint(12))

    async def scenario(url: str) -> list[httpx.Response]:
        # No keep-alive: the server may close an idle connection just when it is reused.
        limits = httpx.Limits(max_connections=16, max_keepalive_connections=0)
        # The last requests wait for a connection until all others are done.
        patience = httpx.Timeout(PATIENCE_S, pool=None)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=patience) as client:
            requests = (
                client.post("/v1/search?k=2", content=data, headers=BYTES) for data in mutants(OVER_A_SOCKET, seed=3)
            )
            return await asyncio.gather(*requests)

    with running([source], "--no-page", "--rate", "0", "--pending", "1000") as server:
        for answer in asyncio.run(scenario(server.url)):
            _check(answer.status_code, answer.headers["content-type"], answer.text)
        assert server.stop() == 0


def _png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG with any size in its header."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _zip(levels: int) -> bytes:
    data = encoded(picture(1))
    for level in range(levels):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{level}.png", data)
        data = stream.getvalue()
    return data


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(encoded(Image.new("RGB", (1, 1), "red")), 200, id="1×1"),
        pytest.param(encoded(Image.new("L", (30_000, 1))), 413, id="30 000×1"),
        pytest.param(encoded(Image.new("L", (1, 30_000))), 413, id="1×30 000"),
        pytest.param(encoded(Image.new("L", (16_000, 1))), 200, id="16 000×1"),
        pytest.param(_png(2**31 - 1, 2**31 - 1), 413, id="a header that claims 4 billion gigapixels"),
        pytest.param(_png(16_000, 16_000, b"\0" * 20_000_000), 413, id="a decompression bomb"),
        pytest.param(_png(5000, 5000, b"\0" * 100), 422, id="fewer rows than claimed"),
        pytest.param(_png(0, 5), 422, id="no width"),
        pytest.param(b"", 422, id="0 bytes"),
        pytest.param(b"\0", 422, id="one byte"),
        pytest.param(b"\xff\xd8\xff", 422, id="three bytes of a JPEG"),
        pytest.param(b"GIF89a", 422, id="the header of a GIF"),
        pytest.param(b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", 422, id="SVG"),
        pytest.param(b"<!DOCTYPE html><img src='http://127.0.0.1/'>", 422, id="HTML"),
        pytest.param(b"file:///etc/passwd", 422, id="a file URL"),
        pytest.param(b"http://127.0.0.1:1/x.png", 422, id="a web URL"),
        pytest.param("späte Blüte".encode() * 100, 422, id="text"),
        pytest.param(b"%PDF-1.7\n" + b"\0" * 100, 422, id="PDF"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", 422, id="PostScript"),
        pytest.param(_zip(1), 422, id="an archive"),
        pytest.param(_zip(4), 422, id="nested archives"),
        pytest.param(encoded(picture(1), "ICO"), 422, id="an unsupported format"),
        pytest.param(encoded(picture(1), "PPM"), 422, id="another unsupported format"),
    ],
)
def test_hostile_files(served: Served, data: bytes, status: int) -> None:
    answer = served.client.post("/v1/search?k=1", content=data, headers={"Content-Type": "image/png"})
    assert answer.status_code == status
    _check(answer.status_code, answer.headers["content-type"], answer.text)
