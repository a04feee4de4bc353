"""Backbones by name: images (N,3,H,W) → features (N,F)."""

import difflib
import warnings
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardrank.models.errors import HardrankError


class BackboneError(HardrankError):
    """A backbone that does not exist, cannot take the image size, or whose weights cannot be had."""


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016, basic block)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N,inputs,H,W) → (N,outputs,H/stride,W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual network for images of 32 to 96 px: a stride-2 stem and four stages of basic blocks.

    The widths keep most of the work in convolutions of ≥ 64 channels, where CPUs and GPUs run at their peak.
    """

    WIDTHS: Final = (32, 64, 128, 256)

    def __init__(self, blocks: tuple[int, int, int, int] = (1, 1, 1, 1)) -> None:
        super().__init__()
        width = self.WIDTHS[0]
        self.conv1 = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages: list[nn.Module] = []
        for stage, (outputs, count) in enumerate(zip(self.WIDTHS, blocks, strict=True)):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(ResidualBlock(width, outputs, stride))
                width = outputs
        self.blocks = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N,3,H,W) → (N,256)."""
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return x.mean(dim=(2, 3))


class C2F2(nn.Module):
    """Two 5×5 convolutions and a hidden layer, for 28 px images; with the embedder's head, 2-conv-2-FC."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc = nn.Linear(64 * 7 * 7, 1024)

    def forward(self, x: Tensor) -> Tensor:
        """(N,3,28,28) → (N,1024)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return F.relu(self.fc(x.flatten(1)))


def _small_resnet(image_size: int) -> nn.Module:
    if not 32 <= image_size <= 96:
        raise BackboneError(f"small-resnet takes images of 32 to 96 px, not {image_size}; use resnet18 above")
    return SmallResNet()


def _c2f2(image_size: int) -> nn.Module:
    if image_size != 28:
        raise BackboneError(f"c2f2 takes images of 28 px, not {image_size}; set image_size: 28 or use small-resnet")
    return C2F2()


OWN: Final[dict[str, Callable[[int], nn.Module]]] = {"small-resnet": _small_resnet, "c2f2": _c2f2}


def build_backbone(name: str, *, image_size: int, imagenet: bool) -> tuple[nn.Module, int]:
    """Build the backbone `name` without its classifier; returns it and F, the width of its features.

    Own networks come first, then `timm/NAME`, then torchvision's names. Raises `BackboneError`.
    """
    if name in OWN:
        if imagenet:
            raise BackboneError(
                f"there are no ImageNet weights for {name}; use initialisation `warmup`, or a torchvision or "
                "timm backbone"
            )
        backbone = OWN[name](image_size)
    elif name.startswith("timm/"):
        backbone = _timm(name.removeprefix("timm/"), imagenet)
    else:
        backbone = _torchvision(name, imagenet)
    return backbone, _feature_width(backbone, name, image_size)


def _feature_width(backbone: nn.Module, name: str, image_size: int) -> int:
    was_training = backbone.training
    try:
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise BackboneError(f"{name} cannot take images of {image_size} px: {error}") from error
    finally:
        backbone.train(was_training)
    if features.ndim != 2:
        raise BackboneError(f"{name} gives features of shape {tuple(features.shape)}, not (N,F); it is no backbone")
    return int(features.shape[1])


def _fetched(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    try:
        return make()
    except Exception as error:  # every hub client has its own errors for "no network" and "no such weights"
        raise BackboneError(
            f"the ImageNet weights of {name} cannot be had ({type(error).__name__}: {error}). Either fetch them once "
            "where there is a network (they stay in torch's cache), or start from a bundle (`initialisation: "
            "models/zoo/NAME`), or from scratch (`initialisation: warmup`)."
        ) from error


def _timm(name: str, imagenet: bool) -> nn.Module:
    import timm

    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=4))
        raise BackboneError(f"timm has no model {name!r}" + (f"; near: {near}" if near else ""))
    return _fetched(name, lambda: timm.create_model(name, pretrained=imagenet, num_classes=0))


def _torchvision(name: str, imagenet: bool) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise BackboneError(
            f"no backbone is called {name!r}: give one of {', '.join(OWN)}, timm/NAME, or a torchvision name "
            f"({', '.join(known[:3])}, …)"
        )

    def make() -> nn.Module:
        # Without weights, Inception and GoogLeNet warn that they will initialise themselves differently one day.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model: nn.Module = torchvision.models.get_model(name, weights="DEFAULT" if imagenet else None)
        return model

    return _without_classifier(_fetched(name, make) if imagenet else make(), name)


def _without_classifier(model: nn.Module, name: str) -> nn.Module:
    """Replace the last linear layer, which is the classifier in every torchvision model that has one."""
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise BackboneError(f"{name} does not end in a linear classifier, so it gives no features to embed")
    parent, _, child = linear[-1].rpartition(".")
    owner: Any = model.get_submodule(parent)
    if isinstance(owner, nn.Sequential):
        owner[int(child)] = nn.Identity()
    else:
        setattr(owner, child, nn.Identity())
    return model
