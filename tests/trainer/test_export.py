"""The exported graph computes what the network computes, and the gate notices when it does not."""

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardrank.models.embedder import Architecture, Embedder, build_embedder
from hardrank.trainer.export import ExportError, Parity, export, export_onnx, measure_parity, top1_hits

GOOD = Parity(largest_difference=1e-6, recall_at_1_torch=0.5, recall_at_1_onnx=0.5, same_top10=1.0)


def _embedder(backbone: str = "small-resnet", size: int = 32) -> Embedder:
    torch.manual_seed(0)
    return build_embedder(Architecture(backbone=backbone, dimension=16, image_size=size)).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Embedder, Path]:
    """A network with its own mean and deviation, and its ONNX file."""
    torch.manual_seed(0)
    architecture = Architecture(dimension=16, image_size=32, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 1.0))
    embedder, path = build_embedder(architecture).eval(), tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(embedder, path)
    return embedder, path


def test_mean_and_deviation_are_in_the_graph(exported: tuple[Embedder, Path]) -> None:
    embedder, path = exported
    images = torch.rand(20, 3, 32, 32)
    parity = measure_parity(embedder, path, lambda rows: images[rows], torch.arange(20) % 5)
    assert parity.largest_difference < 1e-5
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    usual = Embedder(embedder.backbone, embedder.head.in_features, Architecture(dimension=16, image_size=32)).eval()
    usual.load_state_dict(embedder.state_dict())
    assert np.abs(found - usual(images).detach().numpy()).max() > 1e-3


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("small-resnet", 32),
        ("c2f2", 28),
        # The quick guards are small-resnet, which has the layers of the first, and the next test for the second.
        pytest.param("resnet18", 64, marks=pytest.mark.slow),
        pytest.param("timm/efficientnet_lite0", 32, marks=pytest.mark.slow),
    ],
)
def test_export_agrees_at_any_batch_size(tmp_path: Path, backbone: str, size: int) -> None:
    embedder, images = _embedder(backbone, size), torch.rand(30, 3, size, size)
    labels = torch.arange(30) % 5
    parity = export(embedder, tmp_path, lambda rows: images[rows], labels)
    assert parity.failures() == []
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (declared,) = session.get_inputs()
    assert declared.name == "images"
    assert declared.shape[1:] == [3, size, size]
    assert isinstance(declared.shape[0], str)
    for batch in (1, 2, 7, 30):
        (found,) = session.run(None, {"images": images[:batch].numpy()})
        np.testing.assert_allclose(found, embedder(images[:batch]).detach().numpy(), atol=1e-5)


def test_the_layers_of_efficientnet_are_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    backbone = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        *(depthwise, nn.BatchNorm2d(8), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    embedder = Embedder(backbone, 8, Architecture(backbone="depthwise", dimension=4, image_size=32)).eval()
    images = torch.rand(20, 3, 32, 32)
    parity = export(embedder, tmp_path, lambda rows: images[rows], torch.arange(20) % 5)
    assert parity.largest_difference < 1e-5


def test_the_gate_notices_a_different_network(exported: tuple[Embedder, Path]) -> None:
    embedder, images = copy.deepcopy(exported[0]), torch.rand(40, 3, 32, 32)
    with torch.no_grad():
        embedder.head.weight.add_(0.05 * torch.randn_like(embedder.head.weight))
    parity = measure_parity(embedder, exported[1], lambda rows: images[rows], torch.arange(40) % 4)
    failures = " ".join(parity.failures())
    assert "embeddings differ" in failures
    assert "top-10" in failures


@pytest.mark.parametrize(
    ("parity", "message"),
    [
        (GOOD.__class__(**{**vars(GOOD), "largest_difference": 2e-4}), "embeddings differ by up to 2.0e-04"),
        (GOOD.__class__(**{**vars(GOOD), "largest_difference": float("nan")}), "embeddings differ"),
        (GOOD.__class__(**{**vars(GOOD), "recall_at_1_onnx": 0.51}), "Recall@1 is 0.5 in PyTorch"),
        (GOOD.__class__(**{**vars(GOOD), "same_top10": 0.99}), "top-10 lists"),
    ],
)
def test_each_limit_of_the_gate(parity: Parity, message: str) -> None:
    assert GOOD.failures() == []
    assert message in "; ".join(parity.failures())


def test_a_network_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.mean(dim=(2, 3))
            return mean if mean.sum() > 0 else -mean  # a branch that depends on the data has no one graph

    embedder = Embedder(Stubborn(), 3, Architecture(backbone="stubborn", dimension=4, image_size=32))
    with pytest.raises(ExportError, match="stubborn cannot be exported"):
        export_onnx(embedder, tmp_path / "model.onnx")


def test_a_tie_for_the_first_place_is_no_difference_in_recall() -> None:
    one = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [0.0, 1.0]]), dim=1)
    labels = torch.tensor([0, 0, 1, 2])
    rounded = one + torch.tensor([[0.0, 0.0], [0.0, 1e-6], [0.0, 1e-6], [0.0, 0.0]])  # now item 2 is first, not 1
    by_one, by_other = top1_hits(one, rounded, labels)
    assert by_one.tolist() == by_other.tolist()
    apart, moved = one.clone(), one.clone()
    apart[2], moved[2] = F.normalize(torch.tensor([[1.0, -0.2], [1.0, -0.01]]), dim=1)
    by_one, by_other = top1_hits(apart, moved, labels)
    assert by_one.tolist() != by_other.tolist()
