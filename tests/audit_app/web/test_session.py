"""The attack of a visitor: one at a time, dropped when the visitor leaves."""

import gc
import threading
import time
import weakref
from pathlib import Path

import pytest

from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.live.options import LiveOptions
from hardrank.audit_app.live.victim import Victim
from hardrank.audit_app.web.session import CHECKS_BEFORE_LEAVING, VisitorRegistry, VisitorSession
from hardrank.trainer.attacks.runner import AttackOptions
from tests.waiting import PATIENCE_S, until

LONG = LiveOptions(attack="ES", engine=AttackOptions(steps=20_000), pace=50.0)


def attack(served: list[ServedGallery], options: LiveOptions = LONG) -> LiveAttack:
    return LiveAttack(served[:1], Victim(id=served[0].gallery.ids[3]), options)


def open_tab() -> tuple[VisitorSession, threading.Event]:
    """Return the session of a tab, and an event that is set while the tab is open."""
    connected = threading.Event()
    connected.set()
    return VisitorSession(connected.is_set, check_every_s=0.02), connected


def is_gone(seen: "weakref.ref[LiveAttack]") -> bool:
    gc.collect()
    return seen() is None


def test_leaving_ends_the_threads_and_frees_the_attack(served: list[ServedGallery]) -> None:
    session, connected = open_tab()
    session.start(attack(served))
    time.sleep(0.02 * CHECKS_BEFORE_LEAVING * 3)
    live = session.live
    assert live is not None, "a connected visitor keeps the attack"
    assert not live.status().phase.over
    seen = weakref.ref(live)
    del live
    connected.clear()
    until(lambda: is_gone(seen))
    assert session.live is None
    # A thread is listed a moment longer than what it worked on.
    workers = {"live attack", "attack on tiny-benign"}
    until(lambda: not workers & {thread.name for thread in threading.enumerate()})


def test_leaving_frees_a_result(served: list[ServedGallery]) -> None:
    session, connected = open_tab()
    live = attack(served, LiveOptions(attack="ES", engine=AttackOptions(steps=1)))
    session.start(live)
    assert live.wait(PATIENCE_S).result
    seen = weakref.ref(live)
    del live
    connected.clear()
    until(lambda: is_gone(seen))


def test_a_short_disconnection_keeps_the_attack(served: list[ServedGallery]) -> None:
    looks = iter([False, False, *[True] * 10, False] + [True] * 10_000)
    session = VisitorSession(lambda: next(looks), check_every_s=0.01)
    live = attack(served)
    session.start(live)
    time.sleep(0.4)
    assert session.live is live
    session.drop()


def test_a_new_attack_replaces_the_previous_one(served: list[ServedGallery]) -> None:
    session = VisitorSession()
    first, second = attack(served), attack(served)
    session.start(first)
    session.start(second)
    assert first.wait(PATIENCE_S).phase.over
    assert session.live is second
    session.close()
    assert second.wait(PATIENCE_S).phase.over
    session.start(attack(served))
    assert session.live is None


def test_a_reloaded_tab_gets_its_attack_back(served: list[ServedGallery]) -> None:
    registry, (before, connected), (after, _) = VisitorRegistry(), open_tab(), open_tab()
    assert not registry.identify("tab", before)
    live = attack(served)
    before.start(live)
    assert not registry.identify("other tab", after)
    connected.clear()
    before.close()  # as Streamlit does for a page that is reloaded
    assert registry.identify("tab", after)
    assert (before.live, after.live) == (None, live)
    time.sleep(0.02 * CHECKS_BEFORE_LEAVING * 3)
    assert not live.status().phase.over, "the former session no longer watches it"
    after.drop()
    assert live.wait(PATIENCE_S).phase.over


def test_a_copied_tab_leaves_the_attack_where_it_is(served: list[ServedGallery]) -> None:
    registry, one, copy = VisitorRegistry(), VisitorSession(), VisitorSession()
    registry.identify("tab", one)
    live = attack(served)
    one.start(live)
    assert not registry.identify("tab", copy)
    assert (one.live, copy.live) == (live, None)
    one.drop()


def test_a_closed_tab_that_does_not_come_back_frees_its_attack(served: list[ServedGallery]) -> None:
    session, connected = open_tab()
    VisitorRegistry().identify("tab", session)
    live = attack(served)
    session.start(live)
    connected.clear()
    session.close()
    assert live.wait(PATIENCE_S).phase.over
    assert session.live is None


def test_a_failed_upload_leaves_no_part_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = open_tab()
    files = {"model.onnx": b"graph", "model.onnx.data": b"weights"}
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if data == b"weights":
            raise OSError("no space left")
        return write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="no space"):
            session.keep_files(files)
    kept = session.keep_files(files)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == files
    assert list(kept.parent.iterdir()) == [kept]
