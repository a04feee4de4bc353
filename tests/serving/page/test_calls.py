"""Calls that do not fit the page's functions are refused, before Gradio would log a traceback."""

import json
from typing import Any

import gradio as gr
import pytest

from hardrank.serving.api.problems import InvalidCallError
from hardrank.serving.page.calls import check_call

NAME = "n" * 22


def _page() -> gr.Blocks:
    blocks = gr.Blocks()
    with blocks:
        inputs: list[Any] = [
            gr.Image(),
            gr.Textbox(),
            gr.Radio(["benign", "robust"], value="benign"),
            gr.Slider(1, 48),
            gr.Dropdown(["red"]),
        ]
        gr.on(inputs[0].change, lambda *values: values[1], inputs=inputs, outputs=inputs[1])
    return blocks


PAGE = _page()
VALUES: list[Any] = [{"path": NAME, "url": "http://example.com"}, "item-1", "robust", 12, None]


def call(**changes: Any) -> bytes:
    return json.dumps({"fn_index": 0, "session_hash": "abc1", "trigger_id": 3, "data": VALUES, **changes}).encode()


def test_only_what_was_checked_is_passed_on() -> None:
    checked = check_call(call(batched=True, oauth_token="x", event_data={"id": "item-1", "other": 1}), PAGE)
    assert checked.session == "abc1"
    assert json.loads(checked.body) == {
        "fn_index": 0,
        "session_hash": "abc1",
        "trigger_id": 3,
        "event_data": {"id": "item-1"},
        "data": [{"path": NAME}, "item-1", "robust", 12, None],
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"fn_index": 99_999},
        {"fn_index": -1},
        {"fn_index": "0"},
        {"fn_index": None},
        {"fn_index": True},
        {"session_hash": None},
        {"session_hash": ""},
        {"session_hash": "a/b"},
        {"session_hash": "a" * 65},
        {"data": None},
        {"data": VALUES[:4]},
        {"data": [*VALUES, None]},
        *({"data": [*VALUES[:3], number, None]} for number in ("12", None, True, float("nan"), float("inf"), [1])),
        {"data": [*VALUES[:2], "other", 12, None]},
        {"data": [*VALUES[:4], ["red"]]},
        {"data": [*VALUES[:4], "r" * 1001]},
        *({"data": [*VALUES[:3], number, None]} for number in (10**400, -(10**400), 1e300)),
        {"data": [VALUES[0], "\ud800", *VALUES[2:]]},
        {"data": [*VALUES[:4], "red \udfff"]},
        {"data": [{}, *VALUES[1:]]},
        {"data": [NAME, *VALUES[1:]]},
        {"data": [{"path": f"/tmp/{NAME}"}, *VALUES[1:]]},
        {"extra": {"path": "http://example.com/a.png"}},
    ],
)
def test_other_calls_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidCallError):
        check_call(call(**changes), PAGE)


@pytest.mark.parametrize("body", [b"", b"[]", b"3", b"{}", b"[" * 100_000, b"\xff"])
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidCallError):
        check_call(body, PAGE)


def test_what_cannot_be_sent_on_is_left_out() -> None:
    checked = json.loads(check_call(call(event_data={"id": "\ud800"}, trigger_id=10**400), PAGE).body)
    assert (checked["event_data"], checked["trigger_id"]) == (None, None)
