"""Errors as callers see them: the cause where it is theirs, a number where it is the server's, and never a path."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import ImageTooLargeError, UndecodableImageError
from hardrank.serving.api import problems
from hardrank.serving.api.auth import RateLimitedError, UnauthenticatedError
from hardrank.serving.api.bodies import FormError
from hardrank.serving.api.problems import answer_of, kind_of, problem_of
from hardrank.serving.engine import Engine, EngineError
from hardrank.serving.search.admission import OverloadedError
from hardrank.serving.store.errors import IndexBusyError, IndexDamagedError, ReadOnlyIndexError
from tests.serving.served import Served, serve

SECRET = "/srv/private/index/items.sqlite"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("served"), (engine,), count=12) as one:
        yield one


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError(SECRET), 500),
        (OSError(28, "No space left on device", SECRET), 500),
        (IndexDamagedError(f"{SECRET} is damaged"), 500),
        (EngineError(f"{SECRET} cannot be loaded"), 500),
        (HardrankError(SECRET), 500),
        (ReadOnlyIndexError(f"the index {SECRET} was opened for reading"), 403),
        (IndexBusyError(f"another process writes to {SECRET}"), 503),
    ],
)
def test_what_is_the_servers_fault_is_logged_and_not_told(
    served: Served,
    error: Exception,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(id: str) -> None:
        raise error

    monkeypatch.setattr(served.service.models["benign"].index, "item", fail)
    with caplog.at_level(logging.ERROR, logger="serving"):
        answer = served.client.get("/v1/items/item-1", headers={"X-Request-ID": "mine-7"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert "srv" not in answer.text
    assert answer.json()["request_id"] == "mine-7"
    assert ("mine-7" in caplog.text and SECRET in caplog.text) is (status == 500)


def test_a_failure_in_a_batch_is_hidden_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise IndexDamagedError(f"{SECRET} is damaged")

    monkeypatch.setattr(served.service.models["benign"].index, "search", fail)
    answer = served.client.post("/v1/search/batch?k=1", files=[("ids", (None, "item-1"))])
    assert answer.status_code == 200
    assert answer.json()["answers"][0]["problem"]["status"] == 500
    assert "srv" not in answer.text


def test_the_nearest_class_decides() -> None:
    class OwnFormError(FormError):
        pass

    assert kind_of(ImageTooLargeError("x")).status == 413
    assert kind_of(UndecodableImageError("x")).status == 422
    assert kind_of(OwnFormError("x")).name == "invalid-form"
    assert kind_of(HardrankError("x")).status == kind_of(KeyError("x")).status == 500


def test_headers_tell_what_to_do() -> None:
    assert answer_of(OverloadedError("x", retry_after_s=7), "1").headers["retry-after"] == "7"
    assert answer_of(RateLimitedError("x", retry_after_s=9), "1").headers["retry-after"] == "9"
    assert answer_of(IndexBusyError("x"), "1").headers["retry-after"] == "30"
    assert answer_of(UnauthenticatedError("x"), "1").headers["www-authenticate"].startswith("Bearer")
    assert "retry-after" not in answer_of(FormError("x"), "1").headers


def test_names_are_one_to_a_kind_and_statuses_are_errors() -> None:
    kinds = list(problems._KINDS.values())
    assert len({kind.name for kind in kinds}) == len(kinds)
    assert all(400 <= kind.status <= 599 for kind in kinds)


def test_details_begin_as_sentences_do_but_options_keep_their_names() -> None:
    assert problem_of(FormError("the form is empty"), "1").detail == "The form is empty"
    assert problem_of(FormError("k is 0"), "1").detail == "k is 0"


def test_a_fault_in_the_address_is_told_by_its_place(served: Served, tmp_path: Path) -> None:
    problem = served.client.get("/v1/items?start=-1&count=x").json()
    assert {(wrong["where"]) for wrong in problem["errors"]} == {"query.start", "query.count"}
    assert str(tmp_path.parent) not in str(problem)
