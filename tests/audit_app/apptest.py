"""Driving the pages of the app without a browser."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from streamlit.testing.v1 import AppTest

from tests.waiting import PATIENCE_S

APP = Path(__file__).resolve().parents[2] / "audit_app" / "app.py"


def open_app(page: str | None = None) -> AppTest:
    """Open the app, at a page (as `scorecard`) or the first one."""
    at = AppTest.from_file(str(APP), default_timeout=PATIENCE_S).run()
    return at if page is None else at.switch_page(f"screens/{page}.py").run()


def until(at: AppTest, done: Callable[[AppTest], bool]) -> AppTest:
    """Draw the page again and again, as a fragment does, until `done`."""
    end = time.monotonic() + PATIENCE_S
    while not done(at):
        assert time.monotonic() < end, words(at)
        time.sleep(0.05)
        at.run()
    return at


def words(at: AppTest) -> str:
    """All that a page says."""
    kinds = (at.markdown, at.caption, at.info, at.error, at.warning, at.title)
    return "\n".join(str(one.value) for kind in kinds for one in kind)


def markup(at: AppTest) -> str:
    """The markup of all panels."""
    return "\n".join(json.loads(one.proto.json)["markup"] for one in at.get("bidi_component"))


def errors(at: AppTest) -> list[str]:
    """What a page says is wrong, without the marks that keep it from being read as Markdown."""
    assert not at.exception, at.exception
    return [str(one.value).replace("\\", "") for one in at.error]


def attacked(at: AppTest) -> AppTest:
    """Press the one big button for an attack of a few quick steps, and wait for the result."""
    at.number_input(key="live.steps.linf").set_value(3)
    at.slider(key="live.pace").set_value(60)
    at.button(key="attack").click().run()
    return until(at, lambda page: "Rankings before and after" in words(page) or bool(page.error))
