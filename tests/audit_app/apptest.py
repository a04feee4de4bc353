"""Drive the pages of the app without a browser."""

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
    """Rerun the page, as a fragment does, until `done`."""
    end, pause = time.monotonic() + PATIENCE_S, 0.05
    while not done(at):
        assert time.monotonic() < end, words(at)
        time.sleep(pause)
        pause = min(0.5, 1.5 * pause)  # a run of the page takes time from what it waits for
        at.run()
    return at


def plain(text: object) -> str:
    """Undo `escape_markdown`."""
    return str(text).replace("\\", "").replace("\N{WORD JOINER}", "")


def words(at: AppTest) -> str:
    """Return the text of a page."""
    kinds = (at.markdown, at.caption, at.info, at.error, at.warning, at.title, at.header)
    return "\n".join(plain(one.value) for kind in kinds for one in kind)


def markup(at: AppTest) -> str:
    """Return the markup of all panels."""
    return "\n".join(panels(at))


def panels(at: AppTest) -> list[str]:
    """Return the markup of each panel."""
    return [
        content["markup"] for one in at.get("bidi_component") if "markup" in (content := json.loads(one.proto.json))
    ]


def errors(at: AppTest) -> list[str]:
    """Return the error messages of a page."""
    assert not at.exception, at.exception
    return [plain(one.value) for one in at.error]


def attacked(at: AppTest) -> AppTest:
    """Start an attack of a few quick steps and wait for the result."""
    at.number_input(key="live.steps").set_value(3)
    at.slider(key="live.pace").set_value(60)
    at.button(key="attack").click().run()
    return until(at, lambda page: "Rankings before and after" in words(page) or bool(page.error))
