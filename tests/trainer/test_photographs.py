"""The README's command on a user's own photographs, from pretrained weights and without a network connection."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hardrank.models.bundle import verify_bundle
from hardrank.trainer.run import main
from tests.trainer.place import without_onnx
from tests.trainer.tiny import write_images

SHORT = (
    *("--benign.updates", "1", "--warmup.updates", "1", "--robust-stages.0.updates", "1", "--robust.updates", "1"),
    *("--robust-stages.0.steps", "1", "--robust.steps", "1"),
)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cache of the libraries, and an error for any attempt to connect."""

    def refuse(*_: object) -> None:
        raise OSError("no network connection in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for variable in ("HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "empty"))


def _train(folder: Path, images: Path, *options: str) -> Path:
    places = ("--zoo", str(folder / "zoo"), "--runs", str(folder / "runs"), "--device", "cpu", "--threads", "1")
    assert main(["folder", "--data.root", str(images), *places, *options]) == 0
    for bundle in (folder / "zoo").iterdir():
        card = verify_bundle(bundle)
        assert card.initial_weights is not None
        assert card.initial_weights.origin == "package"
        assert card.architecture.backbone == "timm/efficientnet_lite0"
        assert card.architecture.mean == (0.5, 0.5, 0.5)
    return folder / "runs" / "folder"


@pytest.mark.usefixtures("offline")
def test_the_recipe_trains_on_small_images(tmp_path: Path) -> None:
    """Without the export of its network to ONNX, which is tested in test_export.py."""
    sizes = ("--architecture.image-size", "32", "--preprocessing.crop", "32", "--preprocessing.resize", "36")
    few = ("--benign.pairs", "2", "--warmup.batch-size", "4", "--warmup.anchor-size", "48")
    pairs = ("--robust-stages.0.pairs", "2", "--robust.pairs", "2")
    attacks = ("--evaluation.attacked", "1", "--evaluation.steps", "1", "--evaluation.strong-images", "0")
    with without_onnx():
        run = _train(
            tmp_path, write_images(tmp_path / "images"), *sizes, *few, *pairs, *SHORT, *attacks, "--no-preflight"
        )
    assert {path.stem for path in (run / "checkpoints").glob("*.ckpt")} == {
        *("benign", "warmup-8", "robust-1", "robust"),
    }
    start = load_file(run / "checkpoints" / "pretrained-start.safetensors")
    torch.testing.assert_close(start["targets"].norm(dim=1), torch.ones(len(start["targets"])))


@pytest.mark.usefixtures("offline")
def test_an_untrained_network_is_measured_and_exported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--size", "48", "--evaluation.attacked", "1", "--evaluation.steps", "1", "--evaluation.strong-images", "0")
    same = ("--name", "folder", "--no-preflight")
    with without_onnx():
        run = _train(tmp_path, write_images(tmp_path / "images"), "--untrained", *sizes, *same)
    (bundle,) = (tmp_path / "zoo").iterdir()
    assert (bundle.name, verify_bundle(bundle).defense) == ("folder-benign", "not trained")
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"pretrained-start.safetensors"}
    assert "not trained" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_the_recipe_trains_on_photographs(tmp_path: Path) -> None:
    """633 photographs of eight classes, checks included."""
    photographs = Path(os.environ.get("SHARED_DIR", Path(__file__).parents[3] / "shared")) / "data" / "caltech101"
    if not photographs.is_dir():
        pytest.skip(f"the photographs are absent: {photographs}")
    classes = sorted(photographs.iterdir(), key=lambda path: (-len(list(path.glob("*.jpg"))), path.name))[:8]
    for number, folder in enumerate(classes):
        (tmp_path / "images" / folder.name).mkdir(parents=True)
        for file in sorted(folder.glob("*.jpg"))[: 80 if number == 0 else 79]:
            shutil.copy(file, tmp_path / "images" / folder.name)
    assert len(list((tmp_path / "images").glob("*/*.jpg"))) == 633
    run = _train(tmp_path, tmp_path / "images", *SHORT, "--evaluation.attacked", "4", "--evaluation.steps", "2")
    assert json.loads((run / "preflight.json").read_text(encoding="utf-8"))["total_seconds"] > 0
