"""Backbones by name: images (N,3,H,W) → features (N,F)."""

import difflib
import itertools
import warnings
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardrank.models.errors import HardrankError


class BackboneError(HardrankError):
    """A backbone that is unknown, cannot take the image size, or whose weights are not available."""


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
    """A residual network for images of 32 to 96 px: a stride-2 stem and four basic blocks.

    The widths keep most of the work in convolutions of ≥ 64 channels, where CPUs and GPUs run at their peak.
    """

    WIDTHS: Final = (32, 64, 128, 256)

    def __init__(self) -> None:
        super().__init__()
        width = self.WIDTHS[0]
        self.conv1 = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        pairs = itertools.pairwise((width, *self.WIDTHS))
        self.blocks = nn.Sequential(*(ResidualBlock(*pair, stride=2 if i else 1) for i, pair in enumerate(pairs)))
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


TIMM: Final = "timm/"
"""The beginning of the names of timm's networks."""


def build_backbone(name: str, *, image_size: int) -> tuple[nn.Module, int]:
    """Build a backbone without its classifier, with random weights.

    Args:
        name: One of `OWN`, `timm/NAME`, or a torchvision name.
        image_size: H = W of the input, pixels.

    Returns:
        The backbone, (N,3,H,W) → (N,F), and F.

    Raises:
        BackboneError: The backbone is unknown or cannot take the image size.
    """
    if name in OWN:
        backbone = OWN[name](image_size)
    elif name.startswith(TIMM):
        backbone = _timm(name.removeprefix(TIMM), image_size, num_classes=0)
    else:
        backbone = _without_classifier(_torchvision(name, image_size), name)
    return backbone, _feature_width(backbone, name, image_size)


def build_classifier(name: str, *, image_size: int) -> nn.Module:
    """Build a network of timm or torchvision as its library does, with the classifier; see `build_backbone`."""
    if name.startswith(TIMM):
        return _timm(name.removeprefix(TIMM), image_size)
    return _torchvision(name, image_size)


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
        shape = tuple(features.shape)
        raise BackboneError(f"{name} returns features of shape {shape}, not (N,F); use another backbone")
    return int(features.shape[1])


def _built(name: str, image_size: int, make: Callable[[], nn.Module]) -> nn.Module:
    try:
        return make()
    except Exception as error:  # libraries raise errors of every kind for a size that they cannot take
        raise BackboneError(f"{name} cannot take images of {image_size} px: {error}") from error


def _timm(name: str, image_size: int, **options: Any) -> nn.Module:
    import timm

    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=4))
        raise BackboneError(f"timm has no model {name!r}" + (f"; similar: {near}" if near else ""))
    sized = size_options(name, image_size)
    return _built(f"timm/{name}", image_size, lambda: timm.create_model(name, **options, **sized))


def size_options(name: str, image_size: int) -> dict[str, Any]:
    """Return the options that build timm's network `name` for a size, if it is built for one, as those of tokens are.

    timm resamples their position embeddings.
    """
    import timm

    config = timm.get_pretrained_cfg(name)
    return {"img_size": image_size} if config is not None and config.fixed_input_size else {}


def _torchvision(name: str, image_size: int) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = difflib.get_close_matches(name, [*known, *OWN], n=1)
        raise BackboneError(
            f"unknown backbone {name!r}; {f'did you mean {near[0]}? Otherwise ' if near else ''}choose one of "
            f"{', '.join(OWN)}, timm/NAME, or a torchvision name ({', '.join(known[:3])}, …)"
        )

    sized = next((size(image_size) for prefix, size in _SIZED.items() if name.startswith(prefix)), {})

    def make() -> nn.Module:
        # Without weights, Inception and GoogLeNet warn that their initialization will change.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model: nn.Module = torchvision.models.get_model(name, weights=None, **sized)
        return model

    return _built(name, image_size, make)


_SIZED: Final[dict[str, Callable[[int], dict[str, Any]]]] = {
    "vit_": lambda size: {"image_size": size},
    "maxvit_": lambda size: {"input_size": (size, size)},
}
"""Networks of torchvision that are built for one image size, by the beginning of their names."""


def _without_classifier(model: nn.Module, name: str) -> nn.Module:
    """Replace the classifier: the last linear layer, or in a network without one the last convolution (SqueezeNet)."""
    if getattr(model, "aux_logits", False):  # classifiers for training of GoogLeNet and Inception v3
        for child in ("aux1", "aux2", "AuxLogits"):
            setattr(model, child, None)
        model.aux_logits = False  # type: ignore[assignment]
    for kind in (nn.Linear, nn.Conv2d):
        paths = [path for path, module in model.named_modules() if isinstance(module, kind)]
        if paths:
            parent, _, child = paths[-1].rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())
            return model
    raise BackboneError(f"{name} has no classifier to replace, so it exposes no features")
