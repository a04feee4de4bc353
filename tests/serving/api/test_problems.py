"""Errors as callers see them: the cause of their own errors, only the request id of internal ones, and no path."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardrank.models.decode_limits import ImageTooLargeError, UndecodableImageError
from hardrank.models.errors import HardrankError
from hardrank.serving.api.auth import UnauthenticatedError
from hardrank.serving.api.bodies import FormError
from hardrank.serving.api.problems import PROBLEM_TYPES, problem_of, problem_type_of, response_to
from hardrank.serving.api.rate_limit import RateLimitedError
from hardrank.serving.engine import Engine, EngineError
from hardrank.serving.search.admission import OverloadedError
from hardrank.serving.store.errors import (
    IndexBusyError,
    IndexDamagedError,
    IndexWriteError,
    ReadOnlyIndexError,
    UnfinishedChangeError,
)
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
        (IndexWriteError(f"{SECRET} cannot be written"), 503),
        (UnfinishedChangeError(f"{SECRET} is a change that was interrupted"), 503),
    ],
)
def test_internal_errors_are_logged_and_their_text_is_hidden(
    served: Served,
    error: Exception,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(id: str) -> None:
        raise error

    monkeypatch.setattr(served.service.models["benign"].index, "item", fail)
    with caplog.at_level(logging.ERROR, logger="hardrank.serving"):
        answer = served.client.get("/v1/items/item-1", headers={"X-Request-ID": "mine-7"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert "srv" not in answer.text
    assert answer.json()["request_id"] == "mine-7"
    logged = status == 500 or isinstance(error, IndexWriteError | UnfinishedChangeError)
    assert ("mine-7" in caplog.text and SECRET in caplog.text) is logged


def test_internal_errors_in_a_batch_are_hidden_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise IndexDamagedError(f"{SECRET} is damaged")

    monkeypatch.setattr(served.service.models["benign"].index, "search", fail)
    answer = served.client.post("/v1/search/batch?k=1", files=[("ids", (None, "item-1"))])
    assert answer.status_code == 200
    assert answer.json()["answers"][0]["problem"]["status"] == 500
    assert "srv" not in answer.text


def test_the_most_specific_class_in_the_table_applies() -> None:
    class OwnFormError(FormError):
        pass

    assert problem_type_of(ImageTooLargeError("x")).status == 413
    assert problem_type_of(UndecodableImageError("x")).status == 422
    assert problem_type_of(OwnFormError("x")).name == "invalid-form"
    assert problem_type_of(HardrankError("x")).status == problem_type_of(KeyError("x")).status == 500


def test_headers_of_errors() -> None:
    assert response_to(OverloadedError("x", retry_after_s=7), "1").headers["retry-after"] == "7"
    assert response_to(RateLimitedError("x", retry_after_s=9), "1").headers["retry-after"] == "9"
    assert response_to(IndexBusyError("x"), "1").headers["retry-after"] == "30"
    assert response_to(UnauthenticatedError("x"), "1").headers["www-authenticate"].startswith("Bearer")
    assert "retry-after" not in response_to(FormError("x"), "1").headers


def test_problem_types_have_different_names_and_error_statuses() -> None:
    types = list(PROBLEM_TYPES.values())
    assert len({one.name for one in types}) == len(types)
    assert all(400 <= one.status <= 599 for one in types)


def test_details_begin_with_a_capital_except_for_parameter_names() -> None:
    assert problem_of(FormError("the form is empty"), "1").detail == "The form is empty"
    assert problem_of(FormError("k is 0"), "1").detail == "k is 0"


def test_invalid_parameters_are_named(served: Served, tmp_path: Path) -> None:
    problem = served.client.get("/v1/items?start=-1&count=x").json()
    assert {one["where"] for one in problem["errors"]} == {"query.start", "query.count"}
    assert str(tmp_path.parent) not in str(problem)
