"""Errors as `application/problem+json` (RFC 9457): one table maps exceptions to problem types.

An exception that is not in the table is a fault of the server: it is logged, and the caller gets only the request id.
Some exceptions name files of this machine; for those the table has a detail that replaces the exception's own text.
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

from hardrank.models.decode_limits import ImageTooLargeError, UndecodableImageError
from hardrank.models.errors import HardrankError
from hardrank.serving.api.auth import ForbiddenError, UnauthenticatedError
from hardrank.serving.api.bodies import (
    BodyTimeoutError,
    BodyTooLargeError,
    ClientGoneError,
    FormError,
    UnsupportedMediaError,
)
from hardrank.serving.api.rate_limit import RateLimitedError
from hardrank.serving.metrics import Rejection
from hardrank.serving.search.admission import NotReadyError, OverloadedError, ShuttingDownError
from hardrank.serving.search.item_images import NoImageError
from hardrank.serving.search.models import UnknownModelError
from hardrank.serving.store.errors import (
    IndexBusyError,
    IndexWriteError,
    InvalidSearchError,
    ReadOnlyIndexError,
    UnfinishedChangeError,
)
from hardrank.serving.store.items import DuplicateItemError, InvalidItemError, UnknownItemError, UnknownLabelError

MEDIA_TYPE: Final = "application/problem+json"
_LOG: Final = logging.getLogger(__name__)
_MOST_ERRORS: Final = 20
_LONGEST_INPUT: Final = 64


class MisdirectedError(HardrankError):
    """The request is for a host name that this server does not accept."""


class HeaderTooLargeError(HardrankError):
    """A header of the request is over the limit."""


class InvalidCallError(HardrankError):
    """A call of a function of the page that the page does not make."""


@dataclass(frozen=True, kw_only=True)
class ProblemType:
    """How an error is reported to callers."""

    status: int
    name: str
    """Of the problem type: urn:hardrank:problem:NAME."""
    title: str
    detail: str | None = None
    """Replaces the exception's own text, if that is not meant for callers."""
    retry_after_s: int | None = None
    """Seconds, unless the exception has its own."""
    rejection: Rejection | None = None
    """How it is counted in the metrics."""
    logged: bool = False
    """Whether the operator has to know of it."""


class InvalidField(BaseModel):
    """An invalid part of the request."""

    where: str = Field(description="location of the invalid value, such as `query.k`")
    why: str = Field(description="what is wrong with it")


class ProblemDetails(BaseModel):
    """An error in the format of RFC 9457."""

    type: str = Field(
        description="urn:hardrank:problem:NAME, or about:blank", examples=["urn:hardrank:problem:unknown-item"]
    )
    title: str = Field(description="short name of the problem type, always the same for a type")
    status: int = Field(description="the HTTP status", ge=400, le=599)
    detail: str = Field(description="what is wrong with this request, and how to fix it")
    request_id: str = Field(description="the same as in the X-Request-ID header and in the server log")
    errors: list[InvalidField] | None = Field(default=None, description="the invalid parts of the request")


PROBLEM_TYPES: Final[Mapping[type[HardrankError], ProblemType]] = {
    ImageTooLargeError: ProblemType(
        status=413, name="image-too-large", title="Image too large", rejection=Rejection.TOO_LARGE
    ),
    UndecodableImageError: ProblemType(status=422, name="undecodable-image", title="Image cannot be decoded"),
    BodyTooLargeError: ProblemType(
        status=413, name="body-too-large", title="Request body too large", rejection=Rejection.TOO_LARGE
    ),
    HeaderTooLargeError: ProblemType(status=431, name="header-too-large", title="Request header too large"),
    BodyTimeoutError: ProblemType(status=408, name="body-timeout", title="Request body timeout"),
    ClientGoneError: ProblemType(status=499, name="client-gone", title="Client closed the connection"),
    UnsupportedMediaError: ProblemType(status=415, name="unsupported-media-type", title="Unsupported media type"),
    InvalidCallError: ProblemType(status=400, name="invalid-call", title="Invalid call"),
    FormError: ProblemType(status=422, name="invalid-form", title="Invalid form"),
    InvalidSearchError: ProblemType(status=422, name="invalid-search", title="Invalid search"),
    UnknownLabelError: ProblemType(status=422, name="unknown-label", title="Unknown label"),
    UnknownModelError: ProblemType(status=422, name="unknown-model", title="Unknown model"),
    InvalidItemError: ProblemType(status=422, name="invalid-item", title="Invalid item"),
    UnknownItemError: ProblemType(status=404, name="unknown-item", title="Item not found"),
    NoImageError: ProblemType(status=404, name="no-image", title="Item has no image"),
    DuplicateItemError: ProblemType(status=409, name="duplicate-item", title="Item id already taken"),
    ReadOnlyIndexError: ProblemType(
        status=403, name="read-only", title="Index is read-only",
        detail="This server was started read-only; ask its operator to add or delete items.",
    ),
    IndexBusyError: ProblemType(
        status=503, name="index-busy", title="Index is busy", retry_after_s=30,
        detail="Another process is writing to the index; send the request again in 30 s.",
    ),
    IndexWriteError: ProblemType(
        status=503, name="index-write", title="Index cannot be written", retry_after_s=60, logged=True,
        detail="The server cannot write to its index now, for example because its disk is full. Try again later, or "
        "ask its operator: the server log has the cause under this request id.",
    ),
    UnfinishedChangeError: ProblemType(
        status=503, name="unfinished-change", title="Item's last change is unfinished", retry_after_s=60, logged=True,
        detail="The last change of this item was interrupted, and also concerns an index that this server does not "
        "serve. Ask its operator: the server log has the cause under this request id.",
    ),
    OverloadedError: ProblemType(
        status=429, name="overloaded", title="Server overloaded", retry_after_s=1, rejection=Rejection.OVERLOAD
    ),
    RateLimitedError: ProblemType(
        status=429, name="rate-limited", title="Too many requests", retry_after_s=1, rejection=Rejection.RATE
    ),
    NotReadyError: ProblemType(status=503, name="warming-up", title="Server is warming up", retry_after_s=1),
    ShuttingDownError: ProblemType(status=503, name="shutting-down", title="Server is shutting down", retry_after_s=5),
    UnauthenticatedError: ProblemType(
        status=401, name="unauthenticated", title="API key required", rejection=Rejection.ACCESS
    ),
    ForbiddenError: ProblemType(status=403, name="forbidden", title="Forbidden", rejection=Rejection.ACCESS),
    MisdirectedError: ProblemType(status=421, name="misdirected", title="Unknown host name"),
}  # fmt: skip
_INTERNAL: Final = ProblemType(
    status=500,
    name="internal",
    title="Internal error",
    detail="Internal error; the server log has the cause under this request id. Try again, or ask the operator.",
    logged=True,
)


def problem_type_of(error: BaseException) -> ProblemType:
    """Return the problem type of the most specific class of `error` in the table; else that of an internal error."""
    return next((PROBLEM_TYPES[base] for base in type(error).__mro__ if base in PROBLEM_TYPES), _INTERNAL)


def problem_of(error: BaseException, request_id: str) -> ProblemDetails:
    """Describe `error` for a caller. What the operator has to know is logged."""
    problem_type = problem_type_of(error)
    if problem_type.logged:
        trace = None if isinstance(error, HardrankError) else error
        _LOG.error("request %s failed: %s", request_id, error, exc_info=trace)
    detail = str(error) if problem_type.detail is None else problem_type.detail
    return ProblemDetails(
        type=f"urn:hardrank:problem:{problem_type.name}",
        title=problem_type.title,
        status=problem_type.status,
        detail=_sentence(detail),
        request_id=request_id,
    )


def _sentence(text: str) -> str:
    """Capitalize the first word, unless it is the name of a parameter such as k."""
    return text if len(text.partition(" ")[0]) == 1 else text[:1].upper() + text[1:]


def response_to(error: BaseException, request_id: str) -> Response:
    """Return the response to a request that failed with `error`."""
    headers: dict[str, str] = {}
    retry = getattr(error, "retry_after_s", problem_type_of(error).retry_after_s)
    if retry is not None:
        headers["Retry-After"] = str(retry)
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = 'Bearer realm="hardrank"'
    return _response(problem_of(error, request_id), headers)


def install_handlers(app: FastAPI) -> None:
    """Report every error of `app` as a problem, including those that the framework raises itself."""

    async def on_error(request: Request, error: Exception) -> Response:
        # Not the error: its traceback would keep the body of the request until the garbage collector runs.
        request.state.problem_type = problem_type_of(error)
        return response_to(error, request.state.id)

    async def on_invalid_request(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _response(_invalid_request(error.errors(), request.state.id), {})

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return http_error_response(error.status_code, request.state.id, error.headers)

    app.add_exception_handler(HardrankError, on_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(HTTPException, on_http_exception)


def _invalid_request(errors: Sequence[Any], request_id: str) -> ProblemDetails:
    invalid = [
        InvalidField(where=".".join(str(part)[:_LONGEST_INPUT] for part in error["loc"]), why=str(error["msg"]))
        for error in errors[:_MOST_ERRORS]
    ]
    return ProblemDetails(
        type="urn:hardrank:problem:invalid-request",
        title="Invalid request",
        status=422,
        detail="; ".join(f"{one.where}: {one.why}" for one in invalid) + ". See /docs for the parameters.",
        request_id=request_id,
        errors=invalid,
    )


def http_error_response(status: int, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response to a request that the framework, or the page, refuses with `status`."""
    title, detail = _FRAMEWORK.get(status, ("Request failed", "The request cannot be handled; see /docs for the API."))
    problem = ProblemDetails(type="about:blank", title=title, status=status, detail=detail, request_id=request_id)
    return _response(problem, headers or {})


_FRAMEWORK: Final[Mapping[int, tuple[str, str]]] = {
    401: ("Login required", "The page requires a login; reload it and enter your API key."),
    403: ("Forbidden", "Other sites may not use the page; open it in a tab of its own."),
    404: ("Not found", "There is no such address; see /docs for the API."),
    405: (
        "Method not allowed",
        "This address does not support this method; use one of those in the Allow header.",
    ),
}


def _response(problem: ProblemDetails, headers: Mapping[str, str]) -> Response:
    return Response(
        orjson.dumps(problem.model_dump(exclude_none=True)),
        status_code=problem.status,
        headers=dict(headers),
        media_type=MEDIA_TYPE,
    )
