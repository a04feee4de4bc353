"""Request bodies and forms: limits apply while receiving, and form fields keep their bytes."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from hardrank.serving.api.bodies import (
    BodyReader,
    BodyTimeoutError,
    BodyTooLargeError,
    ClientGoneError,
    FormError,
    UnsupportedMediaError,
    read_form,
    read_image,
)
from hardrank.serving.search.admission import OverloadedError
from hardrank.serving.settings import Limits

pytestmark = pytest.mark.anyio


TYPE = "multipart/form-data; boundary=frontier"


def _request(
    chunks: Iterable[bytes], headers: dict[str, str] | None = None, *, pause: float = 0.0, address: str | None = None
) -> Request:
    """A request whose body arrives in chunks, `pause` seconds apart."""
    messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]

    async def receive() -> Message:
        await asyncio.sleep(pause)
        return messages.pop(0) if messages else {"type": "http.request", "body": b"", "more_body": False}

    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    client = None if address is None else (address, 1)
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw, "client": client}, receive)


async def _read(bodies: BodyReader, request: Request) -> bytes:
    async with bodies.read(request) as body:
        assert bodies.held.total >= len(body)
        return body


async def test_a_body_is_the_concatenation_of_its_chunks() -> None:
    bodies = BodyReader(Limits())
    assert await _read(bodies, _request([b"ab", b"", b"c"])) == b"abc"
    assert bodies.held.total == 0


async def test_the_limit_applies_to_content_length_and_to_received_bytes() -> None:
    bodies = BodyReader(Limits(body_bytes=10))
    with pytest.raises(BodyTooLargeError, match="10 bytes"):
        await _read(bodies, _request([], {"Content-Length": "11"}))
    with pytest.raises(BodyTooLargeError):
        await _read(bodies, _request([], {"Content-Length": "9" * 5000}))
    with pytest.raises(BodyTooLargeError):
        await _read(bodies, _request([b"1234"] * 100))
    assert bodies.held.total == 0


async def test_one_address_cannot_hold_all_the_memory_for_bodies() -> None:
    bodies = BodyReader(Limits(body_bytes=10, held_bytes=40))
    async with bodies.read(_request([b"x" * 9], address="192.0.2.1")):
        with pytest.raises(OverloadedError):
            await _read(bodies, _request([b"x" * 9], address="192.0.2.1"))
        async with bodies.read(_request([b"x" * 9], address="192.0.2.2")):
            assert bodies.held.total == 18
    await _read(bodies, _request([b"x" * 9], address="192.0.2.1"))
    assert bodies.held.total == 0


async def test_the_total_of_all_bodies_is_limited() -> None:
    bodies = BodyReader(Limits(body_bytes=10, held_bytes=15))
    async with bodies.read(_request([b"x" * 9])):
        with pytest.raises(OverloadedError):
            await _read(bodies, _request([b"x" * 9]))
        async with bodies.read(_request([b"x" * 6])):
            assert bodies.held.total == 15
    await _read(bodies, _request([b"x" * 9]))
    assert bodies.held.total == 0


async def test_a_slow_body_times_out() -> None:
    bodies = BodyReader(Limits(body_seconds=1))
    with pytest.raises(BodyTimeoutError, match="1 s"):
        await _read(bodies, _request([b"x"] * 100, pause=0.3))
    assert bodies.held.total == 0


async def test_a_timeout_inside_the_block_is_not_a_body_timeout() -> None:
    bodies = BodyReader(Limits(body_seconds=1))
    with pytest.raises(TimeoutError, match="mine"):
        async with bodies.read(_request([b"x"])):
            raise TimeoutError("mine")


async def test_a_client_that_disconnects() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
    with pytest.raises(ClientGoneError):
        await _read(BodyReader(Limits()), request)


async def test_compressed_bodies_are_rejected() -> None:
    with pytest.raises(UnsupportedMediaError, match="Content-Encoding"):
        await _read(BodyReader(Limits()), _request([b"x"], {"Content-Encoding": "gzip"}))


def _form(parts: Iterable[tuple[str, bytes]], boundary: bytes = b"frontier") -> bytes:
    out = b""
    for name, content in parts:
        out += b"--" + boundary + b'\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n'
        out += content + b"\r\n"
    return out + b"--" + boundary + b"--\r\n"


@given(
    st.lists(
        st.tuples(st.sampled_from(["image", "ids", "äöü", "a b"]), st.binary(max_size=200)), min_size=1, max_size=6
    )
)
def test_form_fields_keep_names_bytes_and_order(parts: list[tuple[str, bytes]]) -> None:
    parts = [(name, content) for name, content in parts if b"--frontier" not in content]
    if parts:
        found = asyncio.run(read_form(_form(parts), TYPE, most=6))
        assert [(field.name, field.content) for field in found] == parts


def test_large_forms_are_parsed_too() -> None:
    content = bytes(range(256)) * 4096
    found = asyncio.run(read_form(_form([("image", content)]), TYPE, most=1))
    assert found[0].content == content


def test_what_looks_like_a_boundary_is_content() -> None:
    content = b"\r\n--frontie\r\n--frontierX\r\n--frontier-\r\n\r\r\n" + b"\r\n--fron" * 300_000
    found = asyncio.run(read_form(_form([("image", content), ("ids", b"")]), TYPE, most=2))
    assert [field.content == expected for field, expected in zip(found, (content, b""), strict=True)] == [True, True]


def test_content_of_boundaries_is_refused() -> None:
    content = b"\r\n--frontier of" * 2000
    with pytest.raises(FormError, match="closing boundary"):
        asyncio.run(read_form(_form([("a", content)]), TYPE, most=3))


def test_bytes_like_the_beginning_of_a_boundary_occupy_no_thread() -> None:
    """Eight million of them took a parser in Python seconds, during which other threads waited."""
    body = _form([("image", b"\r" * 2**23)])
    began = process_time()
    asyncio.run(read_form(body, TYPE, most=1))
    assert process_time() - began < 1


@pytest.mark.parametrize("head", [b"A" * 1100, b";" * 200])
def test_heads_of_parts_that_take_long_to_parse_are_refused(head: bytes) -> None:
    """Forty of them took the event loop a quarter of a second."""
    part = b'--frontier\r\nContent-Disposition: form-data; name="a"; x="' + head + b'"\r\n\r\nx\r\n'
    with pytest.raises(FormError):
        asyncio.run(read_form(part + b"--frontier--\r\n", TYPE, most=1))


def test_long_file_names_are_accepted() -> None:
    head = 'Content-Disposition: form-data; name="image"; filename="' + "ä;" * 30 + "語" * 240 + '"'
    body = b"--frontier\r\n" + head.encode() + b"\r\nContent-Type: image/png\r\n\r\nx\r\n--frontier--\r\n"
    assert [field.name for field in asyncio.run(read_form(body, TYPE, most=1))] == ["image"]


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_rejected(body: bytes) -> None:
    for full in (body, b"--frontier\r\n" + body, _form([("image", b"x")])[:-5] + body):
        with suppress(FormError):
            asyncio.run(read_form(full, TYPE, most=3))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (_form([("a", b"")] * 4), TYPE),
        (_form([("a", b"x")]), "multipart/form-data"),
        (_form([("a", b"x")]), "multipart/form-data; boundary="),
        (_form([("a", b"x")])[:-8], TYPE),
        (b"", TYPE),
        (b"--frontier\r\n" + b"X" * 100_000, TYPE),
        (b"--frontier\r\nContent-Disposition: form-data\r\n\r\nx\r\n--frontier--\r\n", TYPE),
    ],
)
def test_invalid_forms_are_rejected(body: bytes, kind: str) -> None:
    with pytest.raises(FormError):
        asyncio.run(read_form(body, kind, most=3))


def test_text_fields_must_be_utf8() -> None:
    (field,) = asyncio.run(read_form(_form([("label", b"\xff")]), TYPE, most=1))
    with pytest.raises(FormError, match="label"):
        field.text()


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG; charset=x", "application/octet-stream", "image/unheard-of"])
def test_raw_image_bodies_are_returned_unchanged(kind: str) -> None:
    assert asyncio.run(read_image(b"bytes", _request([], {"Content-Type": kind}))) == b"bytes"


@pytest.mark.parametrize("kind", ["", "text/html", "application/json", "multipart/mixed; boundary=x", "image"])
def test_other_media_types_are_rejected(kind: str) -> None:
    with pytest.raises(UnsupportedMediaError):
        asyncio.run(read_image(b"bytes", _request([], {"Content-Type": kind})))
