"""What OpenAPI cannot see in the code of the routes: bodies that are read by hand, and problems."""

from collections.abc import Mapping
from typing import Any, Final

from hardrank.serving.api.bodies import BYTES, FORM
from hardrank.serving.api.problems import MEDIA_TYPE
from hardrank.serving.store.items import MAX_TEXT

IMAGE_TYPES: Final = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff")
_BINARY: Final = {"type": "string", "format": "binary"}


def problem(description: str) -> dict[str, Any]:
    """Describe an answer with a problem."""
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


PROBLEMS: Final[Mapping[int, dict[str, Any]]] = {
    403: problem("the key, or the server, does not allow this"),
    404: problem("the item does not exist"),
    408: problem("the body did not come in time"),
    409: problem("the id belongs to another image"),
    413: problem("the body or the image is too large"),
    415: problem("the body has an unsupported type"),
}
SECURED: Final[dict[str, Any]] = {"security": [{"bearer": []}, {"key": []}]}
SCHEMES: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
COMMON: Final[dict[int | str, dict[str, Any]]] = {
    401: problem("an API key is needed, or unknown"),
    421: problem("the Host header names another server"),
    422: problem("the request, or the image, is not as it must be"),
    429: problem("the queue is full, or the rate limit is reached; Retry-After tells when to try again"),
    500: problem("the server failed; the text is in its log alone"),
    503: problem("the server is warming up, or shutting down"),
}


def image_body() -> dict[str, Any]:
    """Describe a body that is an image, or a form with one."""
    form = {
        "type": "object",
        "properties": {"image": {**_BINARY, "description": "the file"}},
        "required": ["image"],
        "additionalProperties": False,
    }
    content = {kind: {"schema": _BINARY} for kind in (*IMAGE_TYPES, BYTES)}
    return {"requestBody": {"required": True, "content": {**content, FORM: {"schema": form}}}}


def batch_body() -> dict[str, Any]:
    """Describe a form with several images and ids."""
    form = {
        "type": "object",
        "properties": {
            "images": {"type": "array", "items": _BINARY, "description": "files"},
            "ids": {"type": "array", "items": {"type": "string"}, "description": "items to search by"},
        },
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {FORM: {"schema": form}}}}


def item_body() -> dict[str, Any]:
    """Describe a form with a new item."""
    form = {
        "type": "object",
        "properties": {
            "image": {**_BINARY, "description": "the file"},
            "label": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
            "metadata": {"type": "string", "description": "a JSON object of text, numbers, true, false and null"},
        },
        "required": ["image"],
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {FORM: {"schema": form}}}}


def image_answer(*kinds: str) -> dict[str, Any]:
    """Describe an answer that is a file of one of these types."""
    return {"description": "the bytes of a file", "content": {kind: {"schema": _BINARY} for kind in kinds}}
