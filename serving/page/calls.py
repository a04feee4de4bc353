"""Checks the calls of the page's functions before Gradio sees them.

Gradio logs a traceback for a call that does not fit its function, and fetches a URL in the place of a file.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr

from hardrank.serving.api.problems import InvalidCallError
from hardrank.serving.page.uploads import is_upload_name

_SESSION: Final = re.compile(r"[A-Za-z0-9]{1,64}")
_LONGEST: Final = 1000
"""Characters of a text."""
_LARGEST: Final = 10**9
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""Half a character, which JSON can have and UTF-8 cannot."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call that fits its function."""

    session: str
    body: bytes
    """The call as JSON, with nothing but what was checked."""


def check_call(body: bytes, blocks: gr.Blocks) -> Call:
    """Check the body of a call; raises `InvalidCallError`."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidCallError("The request body is not valid JSON.") from error
    if not all(is_upload_name(path) for path in _paths(content)):
        raise InvalidCallError("The request names a file that was not uploaded here.")
    if not isinstance(content, dict):
        raise InvalidCallError("The request body is not a JSON object.")
    number, session, data = (content.get(key) for key in ("fn_index", "session_hash", "data"))
    if type(number) is not int or number not in blocks.fns:
        raise InvalidCallError("Unknown function; reload the page.")
    if not isinstance(session, str) or _SESSION.fullmatch(session) is None:
        raise InvalidCallError("The name of the session is not 1 to 64 letters and digits.")
    inputs = blocks.fns[number].inputs
    if not isinstance(data, list) or len(data) != len(inputs):
        raise InvalidCallError("The number of values does not fit the function; reload the page.")
    checked = {
        "fn_index": number,
        "session_hash": session,
        "trigger_id": trigger if type(trigger := content.get("trigger_id")) is int and _is_number(trigger) else None,
        "event_data": _event_data(content.get("event_data")),
        "data": [_checked(block, value) for block, value in zip(inputs, data, strict=True)],
    }
    return Call(session=session, body=json.dumps(checked).encode())


def _paths(content: Any) -> Iterator[Any]:
    """Every value of a key `path` in nested JSON."""
    rest = [content]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            if value.get("path") is not None:
                yield value["path"]
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)


def _event_data(value: Any) -> dict[str, str] | None:
    """Return the id of the item that was clicked, the only data of an event that the page has."""
    if isinstance(value, dict) and _is_text(value.get("id")):
        return {"id": value["id"]}
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST and _SURROGATE.search(value) is None


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and abs(value) <= _LARGEST


_CHECKS: Final[Mapping[type[Any], Callable[[Any, Any], bool]]] = {
    gr.Image: lambda _, value: value is None or (isinstance(value, dict) and is_upload_name(value.get("path"))),
    gr.Checkbox: lambda _, value: isinstance(value, bool),
    gr.Slider: lambda _, value: _is_number(value),
    gr.Radio: lambda block, value: _is_text(value) and value in [choice for _, choice in block.choices],
    gr.Dropdown: lambda _, value: value is None or _is_text(value),
    gr.Textbox: lambda _, value: value is None or _is_text(value),
}


def _checked(block: Any, value: Any) -> Any:
    """Return the value of a component if it may have it."""
    if not _CHECKS[type(block)](block, value):
        raise InvalidCallError(f"The value of {block.label or 'a field'} is invalid; reload the page.")
    # Without the other keys, Gradio leaves the name of an upload alone.
    return {"path": value["path"]} if isinstance(value, dict) else value
