"""Logins end after half a day, or when the same key has too many others; nothing that a visitor sends is kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Scope

from hardrank.serving.api.auth import Caller, Keyring, KeyRole, key_entry
from hardrank.serving.engine import Engine
from hardrank.serving.page.logins import Logins
from tests.chromium import needs_chromium, new_page
from tests.serving.page.contrast import LOW_CONTRAST
from tests.serving.page_server import page_server
from tests.serving.served import make_model, paint

HOUR = 3600.0


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def _find(key: str) -> Caller | None:
    return Caller(name=key, role=KeyRole.READ) if key in {"anna", "bob"} else None


def _log_in(logins: Logins, key: str, extra: str = "") -> Scope:
    """Log in, and return a request with the login."""
    response = logins.log_in(f"password={key}{extra}".encode(), secure=True)
    assert response.status_code == 200
    cookie = response.headers["set-cookie"]
    assert all(option in cookie.lower() for option in ("httponly", "secure", "samesite=lax"))
    return _request({"cookie": cookie.partition(";")[0]})


def _request(headers: Mapping[str, str]) -> Scope:
    return {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}


def test_a_login_ends_after_half_a_day() -> None:
    clock = Clock()
    logins = Logins(_find, clock=clock)
    visitor = _log_in(logins, "anna")
    clock.now = 11 * HOUR
    assert logins.admits(visitor)
    assert not logins.admits(_request({}))
    clock.now = 12 * HOUR
    assert not logins.admits(visitor)
    _log_in(logins, "anna")
    assert len(logins) == 1


def test_the_logins_of_a_key_are_limited_and_do_not_end_those_of_others() -> None:
    logins = Logins(_find, most_of_key=3)
    bob = _log_in(logins, "bob")
    visitors = [_log_in(logins, "anna", "&username=" + "u" * 1000 + str(number)) for number in range(5)]
    assert [logins.admits(visitor) for visitor in visitors] == [False, False, True, True, True]
    assert logins.admits(bob)
    assert len(logins) == 4


def test_other_keys_get_no_login() -> None:
    logins = Logins(_find)
    for form in (b"", b"password=eve", b"username=anna"):
        response = logins.log_in(form, secure=False)
        assert response.status_code == 400
        assert "set-cookie" not in response.headers
    assert len(logins) == 0


def test_logging_out_ends_one_login() -> None:
    logins = Logins(_find)
    one, other = _log_in(logins, "anna"), _log_in(logins, "anna")
    assert "set-cookie" in logins.log_out(one).headers
    assert [logins.admits(one), logins.admits(other)] == [False, True]
    assert Request(other).cookies
    logins.clear()
    assert not logins.admits(other)


def test_without_keys_everybody_is_admitted() -> None:
    logins = Logins(None)
    assert not logins.needed
    assert logins.admits(_request({}))


@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), pytest.param(360, "dark", marks=pytest.mark.slow)])
def test_a_visitor_logs_in_and_out(browser: Any, engine: Engine, tmp_path: Path, width: int, scheme: str) -> None:
    model = make_model(tmp_path, engine, paint(5))
    key = "a key of many characters"
    keyring = Keyring([key_entry("anna", KeyRole.READ, key)], anonymous=KeyRole.NOTHING)
    with (
        page_server([model], keyring=keyring) as server,
        new_page(browser, width=width, color_scheme=scheme) as (page, log),
    ):
        page.goto(f"{server.url}/?id=item-2&k=3")
        page.fill("#key", key)
        page.click("button")
        page.wait_for_selector(".hr-results")
        assert not log.errors
        assert "id=item-2" in page.url
        heading, button, main = (page.locator(one).bounding_box() for one in ("h1", ".hr-header button", ".hr-main"))
        assert abs(heading["y"] + heading["height"] / 2 - button["y"] - button["height"] / 2) < 8, "on the same line"
        assert abs(main["x"] + main["width"] - button["x"] - button["width"]) < 1, "at the end of it"
        assert button["height"] >= 24
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not page.evaluate(LOW_CONTRAST)
        page.click("text='Sign out'")
        page.wait_for_selector("#key")
        page.fill("#key", key)
        page.click("button")
        page.wait_for_selector(".hr-example")
        page.goto(f"{server.url}/logout")
        page.click("button")
        page.wait_for_selector("#key")
