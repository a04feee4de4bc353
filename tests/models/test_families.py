"""Networks of timm and torchvision of every family: they build, fold, and learn; slow: they pass the export."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.families import FAST, SLOW, build, check_export, check_folding, check_step
from hardrank.models.backbones import BackboneError
from hardrank.models.embedder import Architecture, Embedder, build_embedder
from hardrank.models.folded import FoldedEmbedder, find_foldable


@pytest.mark.parametrize("spec", [*FAST, *(pytest.param(spec, marks=pytest.mark.slow) for spec in SLOW)])
def test_a_network_folds_and_learns(spec: str) -> None:
    embedder, images = build(spec)
    check_folding(embedder, images)
    check_step(embedder, images)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [*FAST, *SLOW])
def test_a_network_passes_the_export(spec: str, tmp_path: Path) -> None:
    check_export(build(spec)[0], tmp_path)


@pytest.mark.parametrize(("name", "norms"), [("timm/efficientnet_lite0", 49), ("resnet18", 20), ("small-resnet", 12)])
def test_every_batch_norm_behind_a_convolution_is_folded(name: str, norms: int) -> None:
    embedder = build_embedder(Architecture(backbone=name, dimension=8, image_size=64))
    found = sum(isinstance(module, nn.BatchNorm2d) for module in embedder.modules())
    assert found == norms
    folded = FoldedEmbedder(embedder)
    assert folded.folded == norms
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]


def test_a_convolution_that_is_used_twice_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            features: Tensor = (self.norm(y) + y).mean(dim=(2, 3))
            return features

    embedder = Embedder(Twice(), 4, Architecture(backbone="own", dimension=4, image_size=16)).eval()
    assert FoldedEmbedder(embedder).folded == 0
    check_folding(embedder, torch.rand(4, 3, 16, 16))


class FirstLayers(nn.Module):
    """A network that begins with `first` and, with `skip`, uses its pixels again."""

    def __init__(self, first: nn.Module, *, skip: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.skip = first, nn.Conv2d(3, 4, 3), skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        features: Tensor = self.last(y + x if self.skip else y).mean(dim=(2, 3))
        return features


@pytest.mark.parametrize(
    ("backbone", "divided"),
    [
        (FirstLayers(nn.Conv2d(3, 3, 3, padding=1)), True),
        (FirstLayers(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))), True),
        (FirstLayers(nn.Conv2d(3, 3, 3, padding=1, groups=3)), False),
        (FirstLayers(nn.Conv2d(3, 3, 3, padding=1), skip=True), False),
        (FirstLayers(nn.ReLU()), False),
        (FirstLayers(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")), False),
    ],
)
def test_the_first_convolution_contains_the_division_of_the_pixels(backbone: nn.Module, divided: bool) -> None:
    embedder = Embedder(backbone, 4, Architecture(backbone="own", dimension=4, image_size=16)).eval()
    pixels = torch.rand(4, 3, 16, 16)
    found = find_foldable(embedder.backbone, pixels)
    assert (found.first is not None) is divided
    check_folding(embedder, pixels)


def test_an_image_size_that_cannot_be_taken_is_named() -> None:
    with pytest.raises(BackboneError, match="64 px"):
        build_embedder(Architecture(backbone="maxvit_t", dimension=8, image_size=64))
