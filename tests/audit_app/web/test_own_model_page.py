"""The page for your own model, without a browser."""

import hashlib
import re
from pathlib import Path

import pytest
from onnx import helper
from safetensors.torch import save as save_tensors
from streamlit.testing.v1 import AppTest

from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.models.backbones import build_backbone
from tests.audit_app.apptest import attacked, errors, markup, open_app, words
from tests.audit_app.onnx_graphs import save, with_external, write_quantized

pytestmark = pytest.mark.usefixtures("app")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of 16 px without gradients."""
    return write_quantized(tmp_path_factory.mktemp("plain") / "plain.onnx")


def opened(name: str | Path) -> AppTest:
    """Open the page and type the name of a model."""
    at = open_app("own_model")
    at.text_input(key="own.name").set_value(str(name)).run()
    return at


def given(*files: tuple[str, bytes], name: str = "") -> AppTest:
    """Open the page, type the name of a network if there is one, and upload files."""
    at = open_app("own_model")
    if name:
        at.text_input(key="own.name").set_value(name)
    at.file_uploader(key="own.file").set_value([(file, data, "application/octet-stream") for file, data in files]).run()
    return at


def test_it_explains_which_models_it_takes() -> None:
    at = open_app("own_model")
    assert not errors(at)
    assert "Type a name or upload a file" in words(at)


def test_a_bundle_is_attacked_with_its_gradients(tiny_zoo: list[Path]) -> None:
    at = opened(tiny_zoo[1])
    assert "tiny-robust**: a bundle" in words(at)
    assert re.search(r"One gradient step takes about \S+ m?s on this machine: 100 steps take about", words(at))
    attacked(at)
    assert not errors(at)
    assert "3 of 3" not in words(at)
    assert "passes" in words(at)
    assert "queries" not in words(at)


@pytest.mark.parametrize("method", ["square", "nes", "spsa"])
def test_an_uploaded_file_is_attacked_with_counted_queries(method: str, plain: Path) -> None:
    at = given(("my model.onnx", plain.read_bytes()))
    assert "gives no" not in " ".join(errors(at))
    assert "a plain ONNX file without gradients" in words(at)
    assert "quantized" in words(at)
    assert re.search(r"One query takes about \S+ m?s on this machine: 1000 queries take about", words(at))
    assert "normalized to length 1" in words(at)
    at.selectbox(key="live.method").set_value(SearchMethod(method)).run()
    at.number_input(key=f"live.search.{method}.queries").set_value(40)
    attacked(at)
    assert not errors(at)
    asked = re.search(r"my-model: (\d+) queries", words(at))
    assert asked
    assert 20 <= int(asked[1]) <= 40
    assert "of 40" in markup(at) or "query" in markup(at)


def test_an_uploaded_file_with_weights_beside_it_is_attacked_with_its_gradients(tmp_path: Path) -> None:
    path = with_external(tmp_path / "split.onnx")
    at = given((path.name, path.read_bytes()), ("beside.bin", (tmp_path / "beside.bin").read_bytes()))
    assert not errors(at)
    assert "split**: a plain ONNX file. Images of 16" in words(at)
    assert "images of the gallery its embeddings differ by at most" in words(at)
    attacked(at)
    assert not errors(at)
    assert "passes" in words(at)
    assert "queries" not in words(at)


def test_an_uploaded_checkpoint_needs_the_name_of_its_network() -> None:
    network, _ = build_backbone("timm/test_resnet", image_size=32)
    stored = save_tensors(dict(network.state_dict()))
    at = given(("tuned.safetensors", stored))
    assert not errors(at), "it is a next step"
    assert "tuned.safetensors holds weights: type the name of their network" in words(at)
    at = given(("tuned.safetensors", stored), name="timm/test_resnet")
    assert not errors(at)
    assert "timm/test_resnet@tuned.safetensors**: a network" in words(at)
    assert hashlib.sha256(stored).hexdigest() in words(at)
    (message,) = errors(given(("tuned.safetensors", stored), name="timm/test_vit"))
    assert "do not fit" in message


def test_images_made_against_a_bundle_are_transferred(plain: Path) -> None:
    at = opened(plain)
    at.selectbox(key="live.method").set_value(SearchMethod.TRANSFER).run()
    attacked(at)
    assert not errors(at)
    assert "0 queries" in words(at) or "passes" in words(at)


def test_a_library_network_with_random_weights_is_attacked() -> None:
    at = open_app("own_model")
    at.number_input(key="own.size").set_value(32)
    at.selectbox(key="own.weights").select("random")
    at.text_input(key="own.name").set_value("timm/test_resnet").run()
    assert not errors(at)
    assert "a network of timm or torchvision" in words(at)
    assert not at.button(key="attack").disabled


def test_models_that_cannot_be_used_are_reported(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["images"], ["embeddings"])]
    map_like = save(tmp_path / "map.onnx", nodes, outputs={"embeddings": ["batch", 3, 16, 16]})
    incomplete = with_external(tmp_path / "incomplete.onnx")
    for data, expected in (
        (map_like.read_bytes(), "one row for each image"),
        (incomplete.read_bytes(), "keeps weights"),
        (b"no model at all", "is not an ONNX file"),
        (b"", "is empty"),
    ):
        (message,) = errors(given(("wrong.onnx", data)))
        assert expected in message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("./nowhere", "does not exist"),
        ("timm/resnet10x", "has no model"),
        ("resnet81", "resnet81"),
        ("resnet18", "cache"),
    ],
)
def test_unknown_names_are_reported(name: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (message,) = errors(opened(name))
    assert expected in message
