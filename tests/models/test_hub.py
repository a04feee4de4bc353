"""Bundles on the Hub, through huggingface_hub and a server that stores repositories in a folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hardrank.models.bundle import WEIGHTS, BundleError, load_card, load_embedder
from hardrank.models.hub import HubError, load_from_hub, pull_bundle, push_bundle
from hardrank.models.model_card import model_card
from tests.models.hub_server import hub
from tests.serving.bundles import write_bundle

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("zoo") / "demo-robust", seed=0)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the Hub keeps its repositories in."""
    (tmp_path / "hub").mkdir()
    with hub(tmp_path / "hub") as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield tmp_path / "hub"


def test_push_and_pull(bundle: Path, remote: Path) -> None:
    stray = bundle / "keys.json"
    stray.write_text("{}")
    push_bundle(bundle, "somebody/demo-robust", private=True, token="hf_none")
    stray.unlink()
    assert sorted(file.name for file in (remote / "somebody" / "demo-robust").iterdir()) == [
        "README.md",
        "card.json",
        "model.onnx",
        "weights.safetensors",
    ]
    assert (remote / "somebody/demo-robust/README.md").read_text() == model_card(load_card(bundle))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = load_embedder(bundle)(images)
        assert torch.equal(load_from_hub("somebody/demo-robust", token="hf_none")(images), expected)
        assert torch.equal(load_from_hub(bundle)(images), expected)


def test_an_edited_model_card_is_pushed_unchanged(bundle: Path, remote: Path, tmp_path: Path) -> None:
    page = bundle / "README.md"
    written = page.read_text(encoding="utf-8")
    mine = model_card(load_card(bundle), license="apache-2.0") + "\nMine.\n"
    page.write_text(mine, encoding="utf-8")
    push_bundle(bundle, "somebody/demo", token="hf_none")
    page.write_text(written, encoding="utf-8")
    pulled = pull_bundle("somebody/demo", into=tmp_path / "here")
    assert pulled == tmp_path / "here"
    assert (pulled / "README.md").read_text(encoding="utf-8") == mine


def test_damaged_bundles_are_refused_both_ways(bundle: Path, remote: Path, tmp_path: Path) -> None:
    push_bundle(bundle, "somebody/demo", token="hf_none")
    weights = remote / "somebody" / "demo" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(BundleError, match=r"demo does not hold a complete bundle.*SHA-256"):
        pull_bundle("somebody/demo")
    with pytest.raises(BundleError, match="not a bundle"):
        push_bundle(tmp_path, "somebody/demo", token="hf_none")


def test_a_missing_repository_is_named(remote: Path) -> None:
    with pytest.raises(HubError, match="cannot download somebody/nothing"):
        pull_bundle("somebody/nothing")
