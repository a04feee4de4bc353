"""The API conforms to its OpenAPI document, and docs/openapi.json is that document."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from hardrank.serving.api.auth import new_key
from hardrank.serving.api.openapi import document
from hardrank.serving.engine import Engine
from tests.serving.process import ROOT, running
from tests.serving.served import make_source, paint
from tests.waiting import PATIENCE_S

EXAMPLES = int(os.environ.get("HARDRANK_API_EXAMPLES", "15"))

schema = schemathesis.openapi.from_dict(document())


@pytest.fixture(scope="module")
def key() -> str:
    return new_key()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, engine: Engine, benign_bundle: Path, key: str) -> Iterator[str]:
    """A server that requires a key."""
    source = make_source(tmp_path_factory.mktemp("index"), benign_bundle, engine, paint(12))
    environment = {"HARDRANK_WRITE_KEYS": key}
    with running([source], "--no-page", "--rate", "0", environment=environment) as server:
        yield server.url


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_generated_requests(case: schemathesis.Case[Any], url: str, key: str) -> None:
    """Responses to generated requests conform to the document.

    Requests that fit the schema need not succeed: any bytes fit the schema of an image, and ids may be unknown.
    Forms that do not fit it need not fail: every value is text in a form, and `false` is an id.
    """
    excluded: list[Any] = [positive_data_acceptance]
    if case.media_type == "multipart/form-data":
        excluded.append(negative_data_rejection)
    case.call_and_validate(
        base_url=url,
        headers={"Authorization": f"Bearer {key}"},
        timeout=PATIENCE_S,
        excluded_checks=excluded,
    )


def test_docs_openapi_json_is_up_to_date() -> None:
    recorded = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    assert document() == recorded, "run `python serving/api/openapi.py docs/openapi.json`"


def test_every_operation_documents_its_errors_as_problems() -> None:
    for path, operations in document()["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for method, operation in operations.items():
            assert {"401", "422", "429", "500", "503"} <= set(operation["responses"]), (path, method)
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"], (path, method, status)
            assert operation["security"]
