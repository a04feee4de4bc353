"""Bodies of requests: read within the limits, taken apart where they are forms.

The length is checked against Content-Length before anything is read, and against what really comes in, chunk by chunk.
Forms are parsed in memory, from a body whose size is known: no temporary files, and no part larger than the body.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from hardrank.models.errors import HardrankError
from hardrank.serving.search.admission import OverloadedError
from hardrank.serving.settings import Limits

FORM: Final = "multipart/form-data"
BYTES: Final = "application/octet-stream"
_INLINE_BYTES: Final = 2**18
"""Larger forms are parsed in a thread, so that the event loop goes on."""
_LARGEST_NAME: Final = 4096


class BodyTooLargeError(HardrankError):
    """A body over the limit."""


class BodyTimeoutError(HardrankError):
    """A body that does not come in."""


class ClientGoneError(HardrankError):
    """The caller has closed the connection; nobody reads the answer."""


class UnsupportedMediaError(HardrankError):
    """A body of a type that this route does not take."""


class FormError(HardrankError):
    """A form that cannot be read, or lacks a field."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A field of a form."""

    name: str
    content: bytes

    def text(self) -> str:
        """Give the content as text; raises `FormError` where it is none."""
        try:
            return self.content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormError(f"The field {self.name!r} is no UTF-8 text; send it as text.") from error


class Bodies:
    """Reads bodies of requests, and bounds how much of them is in memory at once."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.held = 0
        """Bytes in memory."""

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read the body of `request`, and hold it in memory during the block.

        Raises `BodyTooLargeError`, `BodyTimeoutError`, `OverloadedError` where too much is held already,
        `ClientGoneError`, `UnsupportedMediaError` for a compressed body.
        """
        self._check_head(request)
        body = await self._gather(request)
        try:
            yield body
        finally:
            self.held -= len(body)

    async def _gather(self, request: Request) -> bytes:
        chunks: list[bytes] = []
        taken = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    chunks.append(chunk)
                    taken += len(chunk)
                    self.held += len(chunk)
                    self._check(taken)
        except BaseException as error:
            self.held -= taken
            if isinstance(error, ClientDisconnect):
                raise ClientGoneError("The connection was closed before the whole body had come.") from error
            if isinstance(error, TimeoutError):
                raise BodyTimeoutError(
                    f"The body did not come within {self._limits.body_seconds:g} s; send it again, faster."
                ) from error
            raise
        return b"".join(chunks)

    def _check_head(self, request: Request) -> None:
        if request.headers.get("content-encoding", "identity") != "identity":
            raise UnsupportedMediaError("The body is compressed; send it as it is, without Content-Encoding.")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._limits.body_bytes:
            raise self._too_large()

    def _check(self, taken: int) -> None:
        if taken > self._limits.body_bytes:
            raise self._too_large()
        if self.held > self._limits.held_bytes:
            raise OverloadedError("Too many large uploads are being read; try again in a moment.")

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"The body has more than {self._limits.body_bytes} bytes; send a smaller one.")


def media_type(request: Request) -> str:
    """Give the type of the body, without parameters, in small letters; empty where none is given."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_form(body: bytes, content_type: str, *, parts: int) -> list[Part]:
    """Take a multipart form apart, into at most `parts` fields in their order; raises `FormError`."""
    if len(body) <= _INLINE_BYTES:
        return _parse(body, content_type, parts)
    return await asyncio.to_thread(_parse, body, content_type, parts)


async def read_image(body: bytes, request: Request) -> bytes:
    """Give the image that a body is, or that its form has as the field `image`.

    Raises `UnsupportedMediaError` for other types, `FormError` for a form without exactly one image.
    """
    kind = media_type(request)
    if kind == FORM:
        parts = await read_form(body, request.headers["content-type"], parts=8)
        images = [part.content for part in parts if part.name == "image"]
        if len(images) != 1 or len(parts) != 1:
            raise FormError("The form needs exactly one field, `image`, with the file; options go into the address.")
        return images[0]
    if kind == BYTES or kind.startswith("image/"):
        return body
    raise UnsupportedMediaError(
        f"A body of the type {kind or 'unknown'!r} is no image; send the file's bytes as {BYTES} or image/…, or a "
        f"{FORM} form with the field `image`."
    )


async def read_fields(body: bytes, request: Request, *, allowed: Mapping[str, int], parts: int) -> list[Part]:
    """Give the fields of a form, of which each of `allowed` may occur so often; raises as `read_image`."""
    kind = media_type(request)
    if kind != FORM:
        raise UnsupportedMediaError(
            f"A body of the type {kind or 'unknown'!r} is not taken here; send a {FORM} form with the fields "
            f"{', '.join(allowed)}."
        )
    found = await read_form(body, request.headers["content-type"], parts=parts)
    for part in found:
        if part.name not in allowed:
            raise FormError(f"The form has a field {part.name[:64]!r}; it may have {', '.join(allowed)}.")
    for name, most in allowed.items():
        if sum(part.name == name for part in found) > most:
            raise FormError(f"The form has the field {name!r} more than {most} times; send fewer.")
    return found


class _Collector:
    """Gathers the parts of a form while they are parsed."""

    def __init__(self, parts: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._most = parts
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._content = bytearray()

    def on_part_begin(self) -> None:
        if len(self.parts) == self._most:
            raise FormError(f"The form has more than {self._most} fields; send fewer.")
        self._disposition = b""
        self._content = bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value[:_LARGEST_NAME])
        self._header.clear()
        self._value.clear()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def on_part_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name")
        if name is None:
            raise FormError("A field of the form has no name; give each one.")
        self.parts.append(Part(name=name.decode("utf-8", "replace"), content=bytes(self._content)))

    def on_end(self) -> None:
        self.ended = True


def _parse(body: bytes, content_type: str, parts: int) -> list[Part]:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise FormError("The form has no boundary; send Content-Type: multipart/form-data; boundary=…")
    collector = _Collector(parts)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.on_part_begin,
                "on_part_data": collector.on_part_data,
                "on_part_end": collector.on_part_end,
                "on_header_field": collector.on_header_field,
                "on_header_value": collector.on_header_value,
                "on_header_end": collector.on_header_end,
                "on_end": collector.on_end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise FormError("The form is damaged; send it again as multipart/form-data.") from error
    if not collector.ended:
        raise FormError("The form is cut short; send it whole.")
    return collector.parts
