"""Request bodies: read within the limits, parsed if they are forms; and clients that disconnect.

The limit is checked against Content-Length before reading, and against the bytes that arrive, chunk by chunk. Forms are
parsed in memory from a complete body, without temporary files.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from hardrank.models.errors import HardrankError
from hardrank.serving.api.auth import network_of
from hardrank.serving.search.admission import OverloadedError
from hardrank.serving.settings import Limits

FORM: Final = "multipart/form-data"
BYTES: Final = "application/octet-stream"
_SHARES: Final = 4
"""One address may hold this fraction, 1/4, of all bytes in memory."""
_INLINE_BYTES: Final = 2**18
"""Larger bodies are joined and parsed in a thread, so that they do not block the event loop."""
_LARGEST_HEAD: Final = 2**10
"""Bytes of the headers of a form part."""
_MOST_PARAMETERS: Final = 64
"""In the headers of a form part. Parsing takes time proportional to their number times their length."""
_LONGEST_BOUNDARY: Final = 256
_FIND_BYTES: Final = 2**20
_MAX_LONGER_DELIMITERS: Final = 1000
"""Occurrences of the boundary in the content of a part that are no delimiters, since they are followed by other bytes.
Clients choose a boundary that does not occur in the content."""

Result = TypeVar("Result")


class BodyTooLargeError(HardrankError):
    """The request body is over the limit."""


class BodyTimeoutError(HardrankError):
    """The request body did not arrive in time."""


class ClientGoneError(HardrankError):
    """The client closed the connection."""


class UnsupportedMediaError(HardrankError):
    """The endpoint does not support the media type of the body."""


class FormError(HardrankError):
    """The form cannot be parsed, or its fields are wrong."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FormField:
    """A field of a form."""

    name: str
    content: bytes

    def text(self) -> str:
        """Return the content as text; raises `FormError` if it is not UTF-8."""
        try:
            return self.content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormError(f"The form field {self.name!r} is not UTF-8 text; send it as UTF-8.") from error


class HeldBytes:
    """Counts the bytes of bodies in memory, in all and by address, and limits both."""

    def __init__(self, limits: Limits, what: str) -> None:
        """Apply the limits. `what` names the bodies in error messages, in the plural, such as `uploads`."""
        self._limit = limits.held_bytes
        self._share = max(limits.held_bytes // _SHARES, limits.body_bytes)
        self._what = what
        self._by_address: Counter[str] = Counter()
        self.total = 0

    def add(self, size: int, address: str) -> None:
        """Add bytes to the count; a negative `size` removes them."""
        self.total += size
        self._by_address[address] += size
        if not self._by_address[address]:
            del self._by_address[address]

    @contextmanager
    def holding(self, size: int, address: str) -> Iterator[None]:
        """Count bytes during a block; raises as `check`."""
        self.add(size, address)
        try:
            self.check(address)
            yield
        finally:
            self.add(-size, address)

    def check(self, address: str) -> None:
        """Raise `OverloadedError` beyond a limit."""
        if self.total > self._limit or (address and self._by_address[address] > self._share):
            raise OverloadedError(f"Too many large {self._what} are in progress; try again in a second.")


class BodyReader:
    """Reads request bodies and limits how much of them is in memory at once."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.held = HeldBytes(limits, "uploads")
        """Bytes of request bodies in memory, and of the images that the page reads for its visitors."""

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read the body of `request` and count it as held during the block.

        Raises `BodyTooLargeError`, `BodyTimeoutError`, `OverloadedError` if all bodies together are too large,
        `ClientGoneError`, `UnsupportedMediaError` for a compressed body.
        """
        self._check_headers(request)
        caller = network_of(request.client.host) if request.client else ""
        body = await self._receive(request, caller)
        try:
            yield body
        finally:
            self.held.add(-len(body), caller)

    async def _receive(self, request: Request, caller: str) -> bytes:
        chunks: list[bytes] = []
        received = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    chunks.append(chunk)
                    received += len(chunk)
                    self.held.add(len(chunk), caller)
                    self._check_size(received, caller)
            return await _joined(chunks, received)
        except BaseException as error:
            self.held.add(-received, caller)
            if isinstance(error, ClientDisconnect):
                raise ClientGoneError("The client closed the connection before the whole body arrived.") from error
            if isinstance(error, TimeoutError):
                raise BodyTimeoutError(
                    f"The request body did not arrive within {self._limits.body_seconds:g} s; send a smaller one, or "
                    "use a faster connection."
                ) from error
            raise

    def _check_headers(self, request: Request) -> None:
        if request.headers.get("content-encoding", "identity") != "identity":
            raise UnsupportedMediaError("The request body is compressed; send it without Content-Encoding.")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._limits.body_bytes:
            raise self._too_large()

    def _check_size(self, received: int, caller: str) -> None:
        if received > self._limits.body_bytes:
            raise self._too_large()
        self.held.check(caller)

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"The request body exceeds {self._limits.body_bytes} bytes; send a smaller one.")


async def _joined(chunks: list[bytes], size: int) -> bytes:
    """Return one body; a large one is joined in a thread, where that does not block others."""
    return b"".join(chunks) if size <= _INLINE_BYTES else await asyncio.to_thread(b"".join, chunks)


def media_type(request: Request) -> str:
    """Return the media type of the body in lower case, without parameters; empty if there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_form(body: bytes, content_type: str, *, most: int) -> list[FormField]:
    """Parse a multipart form of at most `most` fields, in their order; raises `FormError`."""
    if len(body) <= _INLINE_BYTES:
        return _parse(body, content_type, most)
    return await asyncio.to_thread(_parse, body, content_type, most)


async def read_image(body: bytes, request: Request) -> bytes:
    """Return the image file in a body: the body itself, or the form field `image`.

    Raises `UnsupportedMediaError` for other media types, `FormError` for a form without exactly one image.
    """
    kind = media_type(request)
    if kind == FORM:
        fields = await read_form(body, request.headers["content-type"], most=8)
        if len(fields) != 1 or fields[0].name != "image":
            raise FormError("The form must have exactly one field, `image`; send options in the query string.")
        return fields[0].content
    if kind == BYTES or kind.startswith("image/"):
        return body
    raise UnsupportedMediaError(
        f"The media type {kind!r} is not supported; send the image file as image/… or {BYTES}, or as the field `image` "
        f"of a {FORM} form."
    )


async def read_fields(body: bytes, request: Request, *, allowed: Mapping[str, int], most: int) -> list[FormField]:
    """Return the fields of a form; `allowed` gives how often each may occur, at most. Raises as `read_image`."""
    kind = media_type(request)
    if kind != FORM:
        raise UnsupportedMediaError(
            f"The media type {kind!r} is not supported; send a {FORM} form with the fields {', '.join(allowed)}."
        )
    fields = await read_form(body, request.headers["content-type"], most=most)
    for field in fields:
        if field.name not in allowed:
            raise FormError(f"Unknown form field {field.name[:64]!r}; use {', '.join(allowed)}.")
    for name, times in allowed.items():
        if sum(field.name == name for field in fields) > times:
            raise FormError(f"The form has more than {times} fields {name!r}; send fewer.")
    return fields


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`. If the client disconnects, cancel it, so that it leaves the queue, and raise `ClientGoneError`."""
    task = asyncio.create_task(work)
    disconnected = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError("The client closed the connection before the response.")
        return task.result()
    finally:
        task.cancel()
        disconnected.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _parse(body: bytes, content_type: str, most: int) -> list[FormField]:
    """Split a form at its boundaries. Parsing byte by byte would occupy the interpreter for seconds."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY:
        raise FormError("The form has no boundary; send Content-Type: multipart/form-data; boundary=…")
    delimiter = b"\r\n--" + boundary
    position = len(delimiter) if body.startswith(delimiter) else len(delimiter) - 2
    if not body.startswith((delimiter, delimiter[2:])):
        raise _malformed()
    fields: list[FormField] = []
    while body[position : position + 2] != b"--":
        if len(fields) == most:
            raise FormError(f"The form has more than {most} fields; send fewer.")
        end = body.find(b"\r\n\r\n", position, position + _LARGEST_HEAD)
        if end < 0 or body[position : position + 2] != b"\r\n":
            raise _malformed()
        if body.count(b";", position, end) > _MOST_PARAMETERS:
            raise _malformed()
        name = _field_name(body[position + 2 : end])
        position = _find_delimiter(body, delimiter, end + 4)
        fields.append(FormField(name=name, content=body[end + 4 : position - len(delimiter)]))
    return fields


def _find_delimiter(body: bytes, delimiter: bytes, start: int) -> int:
    """Return where the next delimiter ends; raises `FormError` if there is none."""
    others = 0
    while start < len(body) and others <= _MAX_LONGER_DELIMITERS:
        # In steps, because other threads wait during each.
        found = body.find(delimiter, start, start + _FIND_BYTES + len(delimiter))
        if found < 0:
            start += _FIND_BYTES
        elif body[found + len(delimiter) : found + len(delimiter) + 2] in {b"\r\n", b"--"}:
            return found + len(delimiter)
        else:
            start, others = found + 2, others + 1
    raise FormError("The form is incomplete: the closing boundary is missing.")


@lru_cache(maxsize=32)  # the heads of a batch are equal
def _field_name(head: bytes) -> str:
    """Return the name in the head of a part."""
    for line in head.split(b"\r\n"):
        name, found, value = line.partition(b":")
        if line and not found:
            raise _malformed()
        if name.lower() == b"content-disposition":
            field = parse_options_header(value.strip())[1].get(b"name")
            if field is not None:
                return field.decode("utf-8", "replace")
    raise FormError("A form field has no name; name every field.")


def _malformed() -> FormError:
    return FormError("The form is not valid multipart/form-data; check how it is encoded.")
