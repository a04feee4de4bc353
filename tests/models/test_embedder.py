"""Embedders: shapes, the sphere, backbones by name, and the folded embedder against the network itself."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from hardrank.models.backbones import BackboneError
from hardrank.models.embedder import Architecture, Embedder, build_embedder
from hardrank.models.folded import FoldedEmbedder
from hardrank.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from tests.waiting import PATIENCE_S

PLAIN = "plain"
"""In place of VGG, whose hidden layers have a hundred million weights."""


def _plain() -> nn.Module:
    """The layers of VGG in small: convolutions with biases, batch norm, pooling, a hidden layer and dropout."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(True), nn.MaxPool2d(2)]
    head = (nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(True), nn.Dropout())
    return nn.Sequential(*layers, *head)


def _trained_like(architecture: Architecture) -> Embedder:
    """An embedder with batch norm statistics as after training; those of a new one, 0 and 1, fold trivially."""
    torch.manual_seed(0)
    if architecture.backbone == PLAIN:
        embedder = build_embedder(replace(architecture, backbone="small-resnet"))
        embedder.backbone, embedder.head = _plain(), nn.Linear(64, architecture.dimension)
    else:
        embedder = build_embedder(architecture)
    for module in embedder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return embedder.double().eval()


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("small-resnet", 32), ("small-resnet", 64), ("c2f2", 28), ("resnet18", 64), ("mobilenet_v3_small", 64)],
)
def test_embeddings_lie_on_the_sphere(backbone: str, size: int) -> None:
    embedder = build_embedder(Architecture(backbone=backbone, dimension=24, image_size=size)).eval()
    embeddings = embedder(torch.rand(3, 3, size, size))
    assert embeddings.shape == (3, 24)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize(("mean", "std"), [(IMAGENET_MEAN, IMAGENET_STD), ((0.5, 0.4, 0.3), (0.5, 0.25, 1.0))])
def test_the_network_normalizes_its_input(mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
    embedder = build_embedder(Architecture(dimension=8, image_size=32, mean=mean, std=std)).eval()
    images = torch.rand(2, 3, 32, 32)
    by_hand = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    expected = nn.functional.normalize(embedder.head(embedder.backbone(by_hand)), dim=1)
    torch.testing.assert_close(embedder(images), expected)
    torch.testing.assert_close(FoldedEmbedder(embedder)(images), expected, rtol=0, atol=1e-5)


def test_the_default_mean_and_deviation_are_those_of_imagenet() -> None:
    assert (Architecture().mean, Architecture().std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    "backbone",
    ["small-resnet", "resnet18", "timm/resnet10t", "c2f2", PLAIN, pytest.param("vgg11_bn", marks=pytest.mark.slow)],
)
def test_the_folded_embedder_has_the_same_output_and_gradient(backbone: str) -> None:
    size = 28 if backbone == "c2f2" else 64
    embedder = _trained_like(Architecture(backbone=backbone, dimension=16, image_size=size))
    folded_embedder = FoldedEmbedder(embedder)
    images = torch.rand(2, 3, size, size, dtype=torch.float64)
    weights = torch.randn(2, 16, dtype=torch.float64)
    results = []
    for network in (embedder, folded_embedder):
        x = images.clone().requires_grad_(True)
        embeddings = network(x)
        (gradient,) = torch.autograd.grad((embeddings * weights).sum(), x)
        results.append((embeddings.detach(), gradient))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=1e-10)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-7, atol=1e-10)
    assert not any(parameter.requires_grad for parameter in folded_embedder.parameters())


@pytest.mark.parametrize(
    "backbone",
    [
        "small-resnet",
        "timm/resnet10t",
        "mobilenet_v3_small",
        PLAIN,
        pytest.param("vgg11_bn", marks=pytest.mark.slow),
    ],
)
def test_the_folded_update_has_the_output_and_gradients_of_the_network(backbone: str) -> None:
    """Of training mode with batch norm in evaluation mode; dropout draws the same."""
    embedder = _trained_like(Architecture(backbone=backbone, dimension=16, image_size=64))
    folded = FoldedEmbedder(embedder)
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    weights = torch.randn(2, 16, dtype=torch.float64)
    embedder.train()
    for module in embedder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    results = []
    for network in (embedder, folded.embed_for_update):
        embedder.zero_grad()
        torch.manual_seed(0)
        embeddings = network(images)
        torch.autograd.backward((embeddings * weights).sum())
        gradients = {name: p.grad.clone() for name, p in embedder.named_parameters() if p.grad is not None}
        results.append((embeddings.detach(), gradients))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=1e-10)
    assert results[0][1].keys() == results[1][1].keys() == dict(embedder.named_parameters()).keys()
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=1e-7, atol=1e-9)
    assert not any(module.training for module in folded.backbone.modules()), "attacks see evaluation mode"


def test_refresh_copies_an_update() -> None:
    embedder = _trained_like(Architecture(dimension=8, image_size=32))
    folded_embedder = FoldedEmbedder(embedder)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    before = folded_embedder(images)
    with torch.no_grad():
        for value in embedder.state_dict().values():
            if value.is_floating_point():
                value.mul_(1.1)
    assert not torch.allclose(embedder(images), before, atol=1e-4)
    folded_embedder.refresh()
    torch.testing.assert_close(folded_embedder(images), embedder(images), rtol=0, atol=1e-10)


def test_bf16_is_close_and_does_not_change_the_source() -> None:
    embedder = _trained_like(Architecture(dimension=32, image_size=32)).float()
    weights = copy.deepcopy(embedder.state_dict())
    images = torch.rand(4, 3, 32, 32)
    embeddings = FoldedEmbedder(embedder, dtype=torch.bfloat16)(images)
    assert embeddings.dtype is torch.float32
    assert (embeddings * embedder(images)).sum(1).min() > 0.999
    for name, value in embedder.state_dict().items():
        assert torch.equal(value, weights[name])


@pytest.mark.parametrize(
    ("architecture", "imagenet", "message"),
    [
        (Architecture(backbone="resnet81", image_size=64), False, "unknown backbone 'resnet81'"),
        (
            Architecture(backbone="timm/resnet10x", image_size=64),
            False,
            "timm has no model 'resnet10x'; similar: .*resnet10t",
        ),
        (Architecture(backbone="c2f2", image_size=64), False, "28 px, not 64"),
        (Architecture(image_size=224), False, "32 to 96 px, not 224"),
        (Architecture(image_size=64), True, "small-resnet has no ImageNet weights"),
        (Architecture(backbone="inception_v3", image_size=32), False, "cannot take images of 32 px"),
        (Architecture(dimension=0), False, "dimension is 0"),
        (Architecture(std=(0.5, 0.0, 0.5)), False, r"std \(0.5, 0.0, 0.5\)"),
        (Architecture(mean=(0.5, float("nan"), 0.5)), False, "must be finite"),
    ],
)
def test_invalid_architectures(architecture: Architecture, imagenet: bool, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        build_embedder(architecture, imagenet=imagenet)


def test_unavailable_weights_name_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(BackboneError, match=r"no network.*warmup"):
        build_embedder(Architecture(backbone="resnet18", image_size=64), imagenet=True)


def test_folding_is_safe_beside_other_threads() -> None:
    embedder = build_embedder(Architecture(dimension=8, image_size=32)).eval()
    other, images = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.rand(2, 3, 32, 32)
    wanted = FoldedEmbedder(embedder)(images)
    folded, running, begun = threading.Event(), threading.Event(), threading.Barrier(2)

    def run() -> None:
        while not folded.is_set():  # in a trace of another thread this would be no module of the network
            other(torch.zeros(1, 4))
            running.set()

    def fold() -> list[torch.Tensor]:
        assert running.wait(PATIENCE_S)
        begun.wait(PATIENCE_S)
        return [FoldedEmbedder(embedder)(images) for _ in range(3)]

    with ThreadPoolExecutor(3) as pool:
        ran, folding = pool.submit(run), [pool.submit(fold) for _ in range(2)]
        try:
            found = [one for each in folding for one in each.result()]
        finally:
            folded.set()
        ran.result()
    assert all(torch.equal(one, wanted) for one in found)
