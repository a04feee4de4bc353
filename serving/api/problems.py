"""Every error's way to a caller: `application/problem+json` (RFC 9457), in one table.

An error that the table does not know is a fault of the server: it is logged, and the caller learns its number alone.
The text of an error is told only where the table says so, for some texts name files of this machine.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import ImageTooLargeError, UndecodableImageError
from hardrank.serving.api.auth import ForbiddenError, RateLimitedError, UnauthenticatedError
from hardrank.serving.api.bodies import (
    BodyTimeoutError,
    BodyTooLargeError,
    ClientGoneError,
    FormError,
    UnsupportedMediaError,
)
from hardrank.serving.metrics import Rejection
from hardrank.serving.search.admission import NotReadyError, OverloadedError, ShuttingDownError
from hardrank.serving.search.item_images import NoImageError
from hardrank.serving.search.models import UnknownModelError
from hardrank.serving.store.errors import IndexBusyError, InvalidSearchError, ReadOnlyIndexError
from hardrank.serving.store.items import DuplicateItemError, InvalidItemError, UnknownItemError, UnknownLabelError

MEDIA_TYPE: Final = "application/problem+json"
_LOG: Final = logging.getLogger(__name__)
_MOST_ERRORS: Final = 20
_LONGEST_INPUT: Final = 64


class MisdirectedError(HardrankError):
    """A request for a host that this server is not."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What callers learn of an error."""

    status: int
    name: str
    """Of the problem's type: urn:hardrank:problem:NAME."""
    title: str
    detail: str | None = None
    """Told instead of the error's own text, where that is not for callers."""
    retry_after_s: int | None = None
    """Seconds; where the error itself has none."""
    rejection: Rejection | None = None
    """How it is counted."""


class Wrong(BaseModel):
    """A part of the request that is not as it must be."""

    where: str = Field(description="as `query.k`")
    why: str


class Problem(BaseModel):
    """An error, as RFC 9457 describes it."""

    type: str = Field(
        description="urn:hardrank:problem:NAME, or about:blank", examples=["urn:hardrank:problem:unknown-item"]
    )
    title: str = Field(description="the kind of problem, always the same words")
    status: int = Field(description="the HTTP status", ge=400, le=599)
    detail: str = Field(description="what is wrong with this request, and what to do about it")
    request_id: str = Field(description="also in the header X-Request-ID and in the server's log")
    errors: list[Wrong] | None = Field(default=None, description="each part of the request that is wrong")


_KINDS: Final[Mapping[type[HardrankError], Kind]] = {
    ImageTooLargeError: Kind(
        status=413, name="image-too-large", title="The image is too large", rejection=Rejection.TOO_LARGE
    ),
    UndecodableImageError: Kind(status=422, name="undecodable-image", title="The image cannot be decoded"),
    BodyTooLargeError: Kind(
        status=413, name="body-too-large", title="The body is too large", rejection=Rejection.TOO_LARGE
    ),
    BodyTimeoutError: Kind(status=408, name="body-timeout", title="The body did not come in time"),
    ClientGoneError: Kind(status=499, name="client-gone", title="The connection was closed"),
    UnsupportedMediaError: Kind(status=415, name="unsupported-media-type", title="The body has an unsupported type"),
    FormError: Kind(status=422, name="invalid-form", title="The form is not as it must be"),
    InvalidSearchError: Kind(status=422, name="invalid-search", title="The search cannot be answered"),
    UnknownLabelError: Kind(status=422, name="unknown-label", title="The label does not exist"),
    UnknownModelError: Kind(status=422, name="unknown-model", title="The model is not served"),
    InvalidItemError: Kind(status=422, name="invalid-item", title="This cannot be an item"),
    UnknownItemError: Kind(status=404, name="unknown-item", title="The item does not exist"),
    NoImageError: Kind(status=404, name="no-image", title="The item has no image"),
    DuplicateItemError: Kind(status=409, name="duplicate-item", title="The id is taken"),
    ReadOnlyIndexError: Kind(
        status=403, name="read-only", title="The index is read-only",
        detail="This server was started without leave to change its index; ask whoever runs it.",
    ),
    IndexBusyError: Kind(
        status=503, name="index-busy", title="The index is busy", retry_after_s=30,
        detail="Another process is writing to the index; send the request again in half a minute.",
    ),
    OverloadedError: Kind(
        status=429, name="overloaded", title="The server is busy", retry_after_s=1, rejection=Rejection.OVERLOAD
    ),
    RateLimitedError: Kind(
        status=429, name="rate-limited", title="Too many requests", retry_after_s=1, rejection=Rejection.RATE
    ),
    NotReadyError: Kind(status=503, name="warming-up", title="The server is warming up", retry_after_s=1),
    ShuttingDownError: Kind(status=503, name="shutting-down", title="The server is shutting down", retry_after_s=5),
    UnauthenticatedError: Kind(
        status=401, name="unauthenticated", title="An API key is needed", rejection=Rejection.ACCESS
    ),
    ForbiddenError: Kind(status=403, name="forbidden", title="The key does not allow this", rejection=Rejection.ACCESS),
    MisdirectedError: Kind(status=421, name="misdirected", title="This is another host"),
}  # fmt: skip
_FAULT: Final = Kind(
    status=500,
    name="internal",
    title="The server failed",
    detail="Something went wrong in the server; it is logged under the request's id. Trying again may help.",
)


def kind_of(error: BaseException) -> Kind:
    """Find what callers learn of `error`, by the nearest of its classes that the table knows."""
    return next((_KINDS[base] for base in type(error).__mro__ if base in _KINDS), _FAULT)


def problem_of(error: BaseException, request_id: str) -> Problem:
    """Describe `error` to a caller. What the table does not know is logged."""
    kind = kind_of(error)
    if kind is _FAULT:
        _LOG.error("request %s failed", request_id, exc_info=error)
    detail = str(error) if kind.detail is None else kind.detail
    return Problem(
        type=f"urn:hardrank:problem:{kind.name}",
        title=kind.title,
        status=kind.status,
        detail=_sentence(detail),
        request_id=request_id,
    )


def _sentence(text: str) -> str:
    """Begin with a capital, unless the first word is the name of an option, as k."""
    return text if len(text.partition(" ")[0]) == 1 else text[:1].upper() + text[1:]


def answer_of(error: BaseException, request_id: str) -> Response:
    """Answer a request that ended in `error`."""
    headers: dict[str, str] = {}
    retry = getattr(error, "retry_after_s", kind_of(error).retry_after_s)
    if retry is not None:
        headers["Retry-After"] = str(retry)
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = 'Bearer realm="hardrank"'
    return _response(problem_of(error, request_id), headers)


def install(app: FastAPI) -> None:
    """Answer every error of `app` by this table, the framework's own too."""

    async def known(request: Request, error: Exception) -> Response:
        request.state.error = error
        return answer_of(error, request.state.id)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _response(_invalid(error.errors(), request.state.id), {})

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _response(_plain(error.status_code, request.state.id), dict(error.headers or {}))

    app.add_exception_handler(HardrankError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _invalid(errors: Sequence[Any], request_id: str) -> Problem:
    wrong = [
        Wrong(where=".".join(str(part)[:_LONGEST_INPUT] for part in error["loc"]), why=str(error["msg"]))
        for error in errors[:_MOST_ERRORS]
    ]
    return Problem(
        type="urn:hardrank:problem:invalid-request",
        title="The request is not as it must be",
        status=422,
        detail="; ".join(f"{one.where}: {one.why}" for one in wrong) + ". The API page at /docs tells what is taken.",
        request_id=request_id,
        errors=wrong,
    )


def _plain(status: int, request_id: str) -> Problem:
    """Describe what the framework answers by itself."""
    title, detail = _FRAMEWORK.get(status, ("The request failed", "The API page at /docs tells what is taken."))
    return Problem(type="about:blank", title=title, status=status, detail=detail, request_id=request_id)


_FRAMEWORK: Final[Mapping[int, tuple[str, str]]] = {
    404: ("Not found", "Nothing is served at this address; the API page at /docs tells what there is."),
    405: ("Method not allowed", "This address does not take this method; the header Allow tells which."),
}


def _response(problem: Problem, headers: Mapping[str, str]) -> Response:
    return Response(
        orjson.dumps(problem.model_dump(exclude_none=True)),
        status_code=problem.status,
        headers=dict(headers),
        media_type=MEDIA_TYPE,
    )
