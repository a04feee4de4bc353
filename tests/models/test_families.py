"""Networks of timm and torchvision of every family: they build, fold, and learn; slow: they pass the export."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hardrank.models.backbones import BackboneError
from hardrank.models.embedder import Architecture, Embedder, build_embedder
from hardrank.models.folded import FoldedEmbedder
from hardrank.trainer.export import export

FAST = (
    "timm/lcnet_050@64",  # depthwise convolutions, batch norm that brings its activation
    "timm/repvgg_a0@32",  # several branches, batch norms without a convolution
    "timm/vit_tiny_patch16_224@64",  # tokens
    "timm/swin_tiny_patch4_window7_224@32",  # tokens in four dimensions
    "squeezenet1_1@64",  # no linear classifier
    "googlenet@64",  # classifiers for training
)
SLOW = (
    *("alexnet@64", "convnext_tiny@64", "densenet121@64", "efficientnet_b0@64", "inception_v3@96", "maxvit_t@224"),
    *("mnasnet0_5@64", "mobilenet_v3_small@64", "regnet_y_400mf@64", "resnet18@64", "resnext50_32x4d@64"),
    *("shufflenet_v2_x1_0@64", "swin_t@64", "vit_b_16@64", "wide_resnet50_2@64"),
    *("timm/beit_base_patch16_224@64", "timm/cait_xxs24_224@64", "timm/coatnet_nano_rw_224@64"),
    *("timm/convnext_atto@64", "timm/convnextv2_atto@64", "timm/cspdarknet53@64", "timm/cspresnet50@64"),
    *("timm/deit_tiny_patch16_224@64", "timm/densenet121@64", "timm/dla34@64", "timm/dpn68@64"),
    *("timm/ecaresnet26t@64", "timm/efficientformer_l1@224", "timm/efficientformerv2_s0@224"),
    *("timm/efficientnet_b0@64", "timm/efficientnet_lite0@64", "timm/eva02_tiny_patch14_224@56"),
    *("timm/fastvit_t8@64", "timm/ghostnet_100@64", "timm/ghostnetv2_100@64", "timm/gmlp_ti16_224@224"),
    *("timm/hardcorenas_a@64", "timm/hrnet_w18_small@64", "timm/inception_resnet_v2@96", "timm/inception_v3@96"),
    *("timm/inception_v4@96", "timm/levit_128s@224", "timm/maxvit_nano_rw_256@64", "timm/mixer_s32_224@224"),
    *("timm/mobilenetv2_100@64", "timm/mobilenetv3_large_100@64", "timm/mobilenetv4_conv_small@64"),
    *("timm/mobileone_s0@64", "timm/mobilevit_xxs@64", "timm/mobilevitv2_050@64", "timm/nasnetalarge@96"),
    *("timm/nfnet_l0@64", "timm/poolformer_s12@64", "timm/pvt_v2_b0@64", "timm/regnety_004@64"),
    *("timm/res2net50_26w_4s@64", "timm/resmlp_12_224@224", "timm/resnest14d@64", "timm/resnetv2_50@64"),
    *("timm/rexnet_100@64", "timm/selecsls42@64", "timm/seresnet18@64", "timm/skresnet18@64", "timm/tinynet_e@64"),
    *("timm/twins_pcpvt_small@64", "timm/vgg11@64", "timm/vit_small_patch14_dinov2@56", "timm/vovnet39a@64"),
    *("timm/xception41@64", "timm/xcit_nano_12_p16_224@64"),
)


def build(spec: str) -> tuple[Embedder, Tensor]:
    """An embedder with random weights and statistics, and three images that it takes."""
    name, _, size = spec.partition("@")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        embedder = build_embedder(Architecture(backbone=name, dimension=16, image_size=int(size))).eval()
        for module in embedder.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        return embedder, torch.rand(3, 3, int(size), int(size))


def check(embedder: Embedder, images: Tensor) -> None:
    """The copy equals the network, before and after an update, and gives gradients of pixels."""
    folded = FoldedEmbedder(embedder)
    with torch.no_grad():
        assert (folded(images) - embedder(images)).abs().max() <= 1e-5
    optimizer = torch.optim.SGD(embedder.parameters(), lr=1e-3)
    embedder.train()
    torch.autograd.backward(embedder(images).square()[:, :4].sum())
    optimizer.step()
    embedder.eval()
    folded.refresh()
    with torch.no_grad():
        assert (folded(images) - embedder(images)).abs().max() <= 1e-5
    pixels = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(folded(pixels)[:, 0].sum(), pixels)
    assert gradient.isfinite().all()
    assert gradient.abs().amax(dim=(1, 2, 3)).min() > 0
    assert not any(parameter.requires_grad for parameter in folded.parameters())


@pytest.mark.parametrize("spec", FAST)
def test_a_network_folds(spec: str) -> None:
    check(*build(spec))


@pytest.mark.slow
@pytest.mark.parametrize("spec", SLOW)
def test_any_network_folds(spec: str) -> None:
    check(*build(spec))


@pytest.mark.slow
@pytest.mark.parametrize("spec", [*FAST, *SLOW])
def test_any_network_passes_the_export(spec: str, tmp_path: Path) -> None:
    embedder, _ = build(spec)
    size = embedder.architecture.image_size
    images = torch.rand(16, 3, size, size, generator=torch.Generator().manual_seed(0))
    export(embedder, tmp_path, lambda rows: images[rows], torch.arange(16) % 4)


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
    check(embedder, torch.rand(3, 3, 16, 16))


def test_an_image_size_that_cannot_be_taken_is_named() -> None:
    with pytest.raises(BackboneError, match="64 px"):
        build_embedder(Architecture(backbone="maxvit_t", dimension=8, image_size=64))
