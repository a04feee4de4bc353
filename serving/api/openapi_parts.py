"""Parts of the OpenAPI document that FastAPI cannot derive: request bodies, errors, and ways to send a key."""

from collections.abc import Mapping
from typing import Any, Final

from hardrank.serving.api.bodies import BYTES, FORM
from hardrank.serving.api.problems import MEDIA_TYPE
from hardrank.serving.store.items import MAX_TEXT

IMAGE_TYPES: Final = (
    "image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff", "image/avif", "image/heic",
    "image/jp2",
)  # fmt: skip
_BINARY: Final = {"type": "string", "format": "binary"}


def error_response(description: str) -> dict[str, Any]:
    """Describe an error response."""
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
    }


ERRORS: Final[Mapping[int, dict[str, Any]]] = {
    403: error_response("the API key or the server does not allow this"),
    404: error_response("the item does not exist"),
    408: error_response("the request body did not arrive in time"),
    409: error_response("the id is taken by another image"),
    413: error_response("the request body or the image is too large"),
    415: error_response("the media type of the request body is not supported"),
}
SECURED: Final[dict[str, Any]] = {"security": [{"bearer": []}, {"key": []}]}
SCHEMES: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
COMMON_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    401: error_response("the API key is missing or unknown"),
    421: error_response("the server does not accept the host name in the Host header"),
    422: error_response("the request or the image is invalid"),
    429: error_response("too many requests; Retry-After is the number of seconds to wait"),
    500: error_response("internal error; the cause is in the server log"),
    503: error_response("the server is warming up or shutting down, or the index is busy"),
}


def image_body() -> dict[str, Any]:
    """Describe a body that is an image file, or a form with one."""
    form = {
        "type": "object",
        "properties": {"image": {**_BINARY, "description": "an image file"}},
        "required": ["image"],
        "additionalProperties": False,
    }
    content = {kind: {"schema": _BINARY} for kind in (*IMAGE_TYPES, BYTES)}
    return {"requestBody": {"required": True, "content": {**content, FORM: {"schema": form}}}}


def batch_body() -> dict[str, Any]:
    """Describe a form with images and ids."""
    form = {
        "type": "object",
        "properties": {
            "images": {"type": "array", "items": _BINARY, "description": "image files"},
            "ids": {"type": "array", "items": {"type": "string"}, "description": "ids of items to search with"},
        },
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {FORM: {"schema": form}}}}


def item_body() -> dict[str, Any]:
    """Describe a form with a new item."""
    form = {
        "type": "object",
        "properties": {
            "image": {**_BINARY, "description": "an image file"},
            "label": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
            "metadata": {
                "type": "string",
                "description": "a JSON object whose values are strings, numbers, booleans or null",
            },
        },
        "required": ["image"],
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {FORM: {"schema": form}}}}


def image_response(*kinds: str) -> dict[str, Any]:
    """Describe a response that is a file of one of the types `kinds`."""
    return {"description": "an image file", "content": {kind: {"schema": _BINARY} for kind in kinds}}
