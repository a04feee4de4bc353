"""The page for a model of one's own, driven without a browser."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from streamlit.testing.v1 import AppTest

from hardrank.audit_app.blackbox.choice import SearchMethod
from tests.audit_app.apptest import attacked, errors, markup, open_app, words
from tests.audit_app.onnx_graphs import linear, save, with_external, write_linear

pytestmark = pytest.mark.usefixtures("app")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of 16 px."""
    return write_linear(tmp_path_factory.mktemp("plain") / "plain.onnx")


def opened(name: str | Path) -> AppTest:
    """Open the page and type what model is meant."""
    at = open_app("own_model")
    at.text_input(key="own.name").set_value(str(name)).run()
    return at


def given(name: str, data: bytes) -> AppTest:
    """Open the page and upload a file."""
    at = open_app("own_model")
    at.file_uploader(key="own.file").set_value((name, data, "application/octet-stream")).run()
    return at


def test_it_says_what_may_be_brought() -> None:
    at = open_app("own_model")
    assert not errors(at)
    assert "Type a name or upload a file" in words(at)


def test_a_bundle_is_attacked_by_its_gradients(tiny_zoo: list[Path]) -> None:
    at = opened(tiny_zoo[1])
    assert "tiny-robust**: a bundle" in words(at)
    attacked(at)
    assert not errors(at)
    assert "3 of 3" not in words(at)
    assert "passes" in words(at)
    assert "queries" not in words(at)


@pytest.mark.parametrize("method", ["square", "nes", "spsa"])
def test_an_uploaded_file_is_asked_and_the_questions_are_counted(method: str, plain: Path) -> None:
    at = given("my model.onnx", plain.read_bytes())
    assert "gives no" not in " ".join(errors(at))
    assert "a plain ONNX file without gradients" in words(at)
    assert "normalised to length 1" in words(at)
    at.selectbox(key="live.method").set_value(SearchMethod(method)).run()
    at.number_input(key=f"live.search.{method}.queries").set_value(40)
    attacked(at)
    assert not errors(at)
    asked = re.search(r"my-model: (\d+) queries", words(at))
    assert asked
    assert 20 <= int(asked[1]) <= 40
    assert "of 40" in markup(at) or "query" in markup(at)


def test_images_made_for_a_bundle_are_tried_on_it(plain: Path) -> None:
    at = opened(plain)
    at.selectbox(key="live.method").set_value(SearchMethod.TRANSFER).run()
    attacked(at)
    assert not errors(at)
    assert "0 queries" in words(at) or "passes" in words(at)


def test_a_network_of_a_library_is_attacked_without_weights() -> None:
    at = open_app("own_model")
    at.number_input(key="own.size").set_value(32)
    at.selectbox(key="own.weights").select("random")
    at.text_input(key="own.name").set_value("timm/test_resnet").run()
    assert not errors(at)
    assert "a network of timm or torchvision" in words(at)
    assert not at.button(key="attack").disabled


def constant(path: Path) -> Path:
    """All images at the same place."""
    nodes, weights = linear()
    return save(path, nodes, weights={"weight": np.zeros_like(weights["weight"])})


def single(path: Path) -> Path:
    """One number for an image."""
    return write_linear(path, dimension=1)


def upright(path: Path) -> Path:
    """Takes images that are no squares."""
    nodes, weights = linear()
    return save(path, nodes, weights=weights, shape=["batch", 3, 8, 32])


def grey(path: Path) -> Path:
    """Takes images without colours."""
    nodes, weights = linear()
    return save(path, nodes, weights=weights, shape=["batch", 1, 48, 16])


def map_like(path: Path) -> Path:
    """Gives a map, no vector."""
    return save(
        path, [helper.make_node("Relu", ["images"], ["embeddings"])], outputs={"embeddings": ["batch", 3, 16, 16]}
    )


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (constant, ("same place", "length 0")),
        (single, ("1 coordinates",)),
        (upright, ("square",)),
        (grey, ("colour", "(N,3,")),
        (map_like, ("one row for each image", "(N,D)")),
        (with_external, ("keeps weights",)),
    ],
)
def test_files_of_a_wrong_shape_are_told(make: Callable[[Path], Path], told: tuple[str, ...], tmp_path: Path) -> None:
    (message,) = errors(given("wrong.onnx", make(tmp_path / "wrong.onnx").read_bytes()))
    assert any(one in message for one in told)


@pytest.mark.parametrize(
    ("data", "told"), [(b"no model at all", "is no ONNX file"), (b"", "is empty")], ids=["other", "empty"]
)
def test_files_that_are_no_models_are_told(data: bytes, told: str) -> None:
    (message,) = errors(given("odd.onnx", data))
    assert told in message


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("./nowhere", "does not exist"),
        ("timm/resnet10x", "has no model"),
        ("resnet81", "resnet81"),
        ("resnet18", "cache"),
    ],
)
def test_names_that_lead_nowhere_are_told(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (message,) = errors(opened(name))
    assert told in message
